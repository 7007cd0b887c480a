"""Credentials that botocore's chain finds, from endpoints on loopback, are renewed in time."""

from __future__ import annotations

import hashlib
import json
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx
from botocore.credentials import SSOProvider
from botocore.tokens import SSOTokenProvider

from one_provider_mad.errors import AuthenticationRefused, ProviderUnavailable
from one_provider_mad.providers.ec2.credentials import LARGEST_ANSWER, Credentials
from one_provider_mad.providers.ec2.settings import Ec2Settings

REGION = "eu-west-1"
ROLE = "arn:aws:iam::123456789012:role/opennebula"
START = "https://company.awsapps.com/start"
TOO_SOON, LATER = 14 * 60.0, 3600.0
"""Lifetimes of credentials in seconds: botocore renews them from 15 minutes before their end."""


@dataclass
class Givers:
    """STS, IAM Identity Center, a container's agent and an instance's metadata service; each gives a new key.

    Attributes:
        seconds: lifetime of each key.
        asked: requests for keys, in order.
        is_throttling: every request is refused.
        is_endless: answers have no end.
        is_token_known: Identity Center accepts the token.
    """

    seconds: float = LATER
    asked: list[str] = field(default_factory=list)
    is_throttling: bool = False
    is_endless: bool = False
    is_token_known: bool = True
    url: str = ""

    @property
    def ends_at(self) -> float:
        return time.time() + self.seconds

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Givers]:
        application = web.Application()
        application.router.add_post("/", self._sts)
        application.router.add_get("/federation/credentials", self._sso)
        application.router.add_get("/container", self._container)
        application.router.add_put("/latest/api/token", self._instance)
        application.router.add_get("/latest/meta-data/iam/security-credentials/{role:.*}", self._instance)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _flood(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(bytes(65_536))
        return response

    def _key(self, what: str) -> str:
        self.asked.append(what)
        return f"ASIA{len(self.asked)}"

    def _refuse_throttled(self) -> None:
        if self.is_throttling:
            self.asked.append("refused")
            raise web.HTTPTooManyRequests

    async def _instance(self, request: web.Request) -> web.Response:
        self._refuse_throttled()
        if not request.match_info.get("role"):
            return web.Response(text="a session" if request.method == "PUT" else "one")
        key, until = self._key("instance"), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.ends_at))
        return web.json_response({"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": until})

    async def _sts(self, request: web.Request) -> web.StreamResponse:
        if self.is_endless:
            return await self._flood(request)
        if self.is_throttling:
            self.asked.append("refused")
            return web.Response(text="<ErrorResponse><Error><Code>No</Code></Error></ErrorResponse>", status=400)
        form = await request.post()
        action = str(form["Action"])
        said = " ".join([action, str(form["RoleArn"]), str(form.get("WebIdentityToken", ""))]).strip()
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.ends_at))
        key = f"<AccessKeyId>{self._key(said)}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        given = f"<Credentials>{key}<SessionToken>t</SessionToken><Expiration>{until}</Expiration></Credentials>"
        return web.Response(
            text=f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>{given}'
            f"</{action}Result></{action}Response>",
            content_type="text/xml",
        )

    async def _sso(self, request: web.Request) -> web.Response:
        if not self.is_token_known:
            return web.json_response(
                {"message": "Session token not found or invalid"},
                status=401,
                headers={"x-amzn-ErrorType": "UnauthorizedException"},
            )
        token = request.headers["x-amz-sso_bearer_token"]
        key = self._key(f"sso {request.query['account_id']} {request.query['role_name']} {token}")
        given = {
            "accessKeyId": key,
            "secretAccessKey": "s",
            "sessionToken": "t",
            "expiration": int(self.ends_at * 1000),
        }
        return web.json_response({"roleCredentials": given})

    async def _container(self, request: web.Request) -> web.StreamResponse:
        if self.is_endless:
            return await self._flood(request)
        self._refuse_throttled()
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.ends_at))
        key = self._key(f"container {request.headers.get('Authorization', '')}")
        return web.json_response({"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": until})


@pytest.fixture
async def givers() -> AsyncIterator[Givers]:
    async with Givers().served() as served:
        with blockbuster_ctx("one_provider_mad.providers.ec2"):  # any call of ours that blocks the loop fails the test
            yield served


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, givers: Givers) -> Path:
    """A user's `~/.aws`, and the services of Amazon's at our address."""
    cache = str(tmp_path / ".aws" / "sso" / "cache")
    for provider in (SSOProvider, SSOTokenProvider):  # they read the home directory when they were imported
        monkeypatch.setattr(provider, "_SSO_TOKEN_CACHE_DIR", cache)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", givers.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", givers.url)
    return tmp_path


def configure(home: Path, text: str) -> None:
    (home / "aws-config").write_text(text)


async def key_of(credentials: Credentials) -> str:
    """The key that signs now."""
    return (await credentials.sign("http://cloud/", {}, b"", service="ec2")).key_id


def chain(**settings: Any) -> Credentials:
    return Credentials(Ec2Settings(region=REGION, **settings))


async def is_renewed(credentials: Credentials, givers: Givers) -> None:
    """Assert that credentials close to their end are renewed, and that others are not."""
    givers.seconds = TOO_SOON
    first = await key_of(credentials)
    givers.seconds, credentials._renew_at = LATER, 0.0  # a minute later
    second = await key_of(credentials)
    assert first != second
    assert await key_of(credentials) == second


SSO = f"""
[profile one]
sso_session = company
sso_account_id = 123456789012
sso_role_name = opennebula
region = {REGION}
[sso-session company]
sso_start_url = {START}
sso_region = {REGION}
"""

OLD_SSO = f"""
[profile one]
sso_start_url = {START}
sso_region = {REGION}
sso_account_id = 123456789012
sso_role_name = opennebula
"""


def log_in(home: Path, name: str) -> None:
    """Write the token that `aws sso login` writes."""
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    token = {"startUrl": START, "region": REGION, "accessToken": "a-token", "expiresAt": "2099-01-01T00:00:00Z"}
    (cache / f"{hashlib.sha1(name.encode()).hexdigest()}.json").write_text(json.dumps(token))


@pytest.mark.parametrize(
    ("text", "name"), [pytest.param(SSO, "company", id="session"), pytest.param(OLD_SSO, START, id="old-form")]
)
async def test_credentials_of_single_sign_on_are_renewed(givers: Givers, home: Path, text: str, name: str) -> None:
    configure(home, text)
    log_in(home, name)
    await is_renewed(chain(profile="one"), givers)
    assert set(givers.asked) == {"sso 123456789012 opennebula a-token"}


async def test_without_a_single_sign_on_token_the_error_says_so(givers: Givers, home: Path) -> None:
    configure(home, SSO)
    with pytest.raises(AuthenticationRefused, match=r"the AWS credentials cannot be read: .*[Tt]oken"):
        await key_of(chain(profile="one"))


async def test_an_expired_single_sign_on_session_is_refused(givers: Givers, home: Path) -> None:
    configure(home, SSO)
    log_in(home, "company")
    givers.is_token_known = False
    with pytest.raises(AuthenticationRefused, match=r"SSO session .* expired or is otherwise invalid"):
        await key_of(chain(profile="one"))


async def test_credentials_of_a_role_that_the_profile_assumes_are_renewed(givers: Givers, home: Path) -> None:
    configure(
        home,
        f"[profile base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = s\n"
        f"[profile one]\nrole_arn = {ROLE}\nsource_profile = base\nregion = {REGION}\n",
    )
    await is_renewed(chain(profile="one"), givers)
    assert set(givers.asked) == {f"AssumeRole {ROLE}"}


async def test_the_configured_role_is_assumed_with_single_sign_on_credentials(givers: Givers, home: Path) -> None:
    """The configuration's role is assumed with any credentials that the chain finds."""
    configure(home, SSO)
    log_in(home, "company")
    await is_renewed(chain(profile="one", role_arn=ROLE), givers)
    assert givers.asked[:2] == ["sso 123456789012 opennebula a-token", f"AssumeRole {ROLE}"]


async def test_credentials_of_a_web_identity_token_are_renewed(
    givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "token").write_text("a.web.token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    await is_renewed(chain(), givers)
    assert set(givers.asked) == {f"AssumeRoleWithWebIdentity {ROLE} a.web.token"}


async def test_credentials_of_a_container_are_renewed(
    givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{givers.url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let-me-in")
    await is_renewed(chain(), givers)
    assert set(givers.asked) == {"container let-me-in"}


async def test_credentials_of_a_credential_process_are_renewed(givers: Givers, home: Path) -> None:
    program, seconds, runs = home / "give", home / "seconds", home / "runs"
    program.write_text(
        f"#!/bin/sh\necho x >> {runs}\nnumber=$(wc -l < {runs})\n"
        f'until=$(date -u -d "+$(cat {seconds}) seconds" +%Y-%m-%dT%H:%M:%SZ)\n'
        'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"KEY$number\\", \\"SecretAccessKey\\": \\"s\\",'
        ' \\"SessionToken\\": \\"t\\", \\"Expiration\\": \\"$until\\"}"\n'
    )
    program.chmod(stat.S_IRWXU)
    configure(home, f"[default]\ncredential_process = {program}\n")
    credentials = chain()
    seconds.write_text(f"{TOO_SOON:.0f}")
    first = await key_of(credentials)
    seconds.write_text(f"{LATER:.0f}")
    credentials._renew_at = 0.0  # a minute later
    second = await key_of(credentials)
    assert first != second
    assert await key_of(credentials) == second


def advance(credentials: Credentials, *, minutes: float) -> None:
    """Advance the clock by which botocore judges the end of these credentials."""
    credentials._source._time_fetcher = lambda: datetime.now(UTC) + timedelta(minutes=minutes)
    credentials._renew_at = 0.0


@pytest.mark.parametrize("source", ["instance", "container", "assumed role"])
async def test_credentials_are_used_until_their_end_if_they_cannot_be_renewed(
    givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """A throttled or missing metadata service stops no call before that end, and is not called again by each."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    if source == "instance":
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", givers.url)
    elif source == "container":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{givers.url}/container")
    role: dict[str, Any] = {"access_key_id": "A", "secret_access_key": "s", "role_arn": ROLE}
    warnings: list[str] = []
    is_role = source == "assumed role"
    settings = Ec2Settings(region=REGION, **(role if is_role else {}))
    givers.seconds = 5 * 60.0 if is_role else LATER  # roles have a cache that goes by the real time
    credentials = Credentials(settings, sts_url=givers.url, warn=warnings.append)
    first = await key_of(credentials)
    givers.is_throttling = True
    advance(credentials, minutes=0 if is_role else 55)
    assert {await key_of(credentials) for _ in range(5)} == {first}
    assert 1 <= givers.asked.count("refused") <= 3  # botocore's tries of one renewal
    assert len(warnings) == 1
    assert warnings[0].startswith("the AWS credentials cannot be renewed: ")
    givers.is_throttling, givers.seconds, credentials._renew_at = False, 3 * LATER, 0.0
    second = await key_of(credentials)
    assert second != first
    assert await key_of(credentials) == second
    assert len(warnings) == 1


@pytest.mark.parametrize("source", ["container", "assumed role"])
async def test_an_endless_answer_of_a_credentials_service_is_refused(
    givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    givers.is_endless = True
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{givers.url}/container")
    role: dict[str, Any] = {"access_key_id": "A", "secret_access_key": "s", "role_arn": ROLE}
    settings = Ec2Settings(region=REGION, **(role if source == "assumed role" else {}))
    with pytest.raises(ProviderUnavailable, match="the answer has more than 1048576 bytes"):
        await key_of(Credentials(settings, sts_url=givers.url))


async def test_other_users_of_botocore_in_the_process_have_no_limit_on_answers(
    givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.awsrequest import AWSResponse

    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{givers.url}/container")
    await key_of(chain())

    class Raw:
        def stream(self) -> Iterator[bytes]:
            yield b"x" * (LARGEST_ANSWER + 1)

    assert len(AWSResponse("http://127.0.0.1", 200, {}, Raw()).content) == LARGEST_ANSWER + 1


async def test_expired_credentials_are_not_used(givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{givers.url}/container")
    credentials = chain()
    await key_of(credentials)
    givers.is_throttling = True
    advance(credentials, minutes=61)
    with pytest.raises((AuthenticationRefused, ProviderUnavailable), match="the AWS credentials cannot be read: "):
        await key_of(credentials)
