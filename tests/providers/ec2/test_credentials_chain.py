"""What AWS users have set up is found by botocore's own chain, against endpoints on loopback, and renewed in time."""

from __future__ import annotations

import hashlib
import json
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx
from botocore.credentials import SSOProvider
from botocore.tokens import SSOTokenProvider

from one_provider_mad.errors import AuthenticationRefused
from one_provider_mad.providers.ec2.credentials import Credentials
from one_provider_mad.providers.ec2.settings import Ec2Settings

REGION = "eu-west-1"
ROLE = "arn:aws:iam::123456789012:role/opennebula"
START = "https://company.awsapps.com/start"
TOO_SOON, LATER = 14 * 60.0, 3600.0
"""Seconds that credentials are good for: botocore renews them from 15 minutes before their end."""


@dataclass
class Givers:
    """STS, IAM Identity Center and a container's agent; each gives a new key, good for so many seconds.

    Attributes:
        seconds: how long.
        asked: what was asked, in order.
        is_token_known: Identity Center takes the token.
    """

    seconds: float = LATER
    asked: list[str] = field(default_factory=list)
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
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _key(self, what: str) -> str:
        self.asked.append(what)
        return f"ASIA{len(self.asked)}"

    async def _sts(self, request: web.Request) -> web.Response:
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

    async def _container(self, request: web.Request) -> web.Response:
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
    """A user's `~/.aws`, and every service of Amazon's at our address."""
    cache = str(tmp_path / ".aws" / "sso" / "cache")
    for provider in (SSOProvider, SSOTokenProvider):  # they looked for the home when they were loaded
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
    """Credentials that end soon are asked for again before they do, and others are not."""
    givers.seconds = TOO_SOON
    first = await key_of(credentials)
    givers.seconds = LATER
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
    """What `aws sso login` leaves behind."""
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    token = {"startUrl": START, "region": REGION, "accessToken": "a-token", "expiresAt": "2099-01-01T00:00:00Z"}
    (cache / f"{hashlib.sha1(name.encode()).hexdigest()}.json").write_text(json.dumps(token))


@pytest.mark.parametrize(
    ("text", "name"), [pytest.param(SSO, "company", id="session"), pytest.param(OLD_SSO, START, id="old-form")]
)
async def test_single_sign_on(givers: Givers, home: Path, text: str, name: str) -> None:
    configure(home, text)
    log_in(home, name)
    await is_renewed(chain(profile="one"), givers)
    assert set(givers.asked) == {"sso 123456789012 opennebula a-token"}


async def test_nobody_has_signed_on(givers: Givers, home: Path) -> None:
    configure(home, SSO)
    with pytest.raises(AuthenticationRefused, match=r"the AWS credentials cannot be read: .*[Tt]oken"):
        await key_of(chain(profile="one"))


async def test_who_signed_on_long_ago_has_to_again(givers: Givers, home: Path) -> None:
    configure(home, SSO)
    log_in(home, "company")
    givers.is_token_known = False
    with pytest.raises(AuthenticationRefused, match=r"SSO session .* expired or is otherwise invalid"):
        await key_of(chain(profile="one"))


async def test_a_role_that_the_profile_assumes(givers: Givers, home: Path) -> None:
    configure(
        home,
        f"[profile base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = s\n"
        f"[profile one]\nrole_arn = {ROLE}\nsource_profile = base\nregion = {REGION}\n",
    )
    await is_renewed(chain(profile="one"), givers)
    assert set(givers.asked) == {f"AssumeRole {ROLE}"}


async def test_a_role_that_is_assumed_with_what_single_sign_on_gave(givers: Givers, home: Path) -> None:
    """The configuration's role comes over whatever the chain finds."""
    configure(home, SSO)
    log_in(home, "company")
    await is_renewed(chain(profile="one", role_arn=ROLE), givers)
    assert givers.asked[:2] == ["sso 123456789012 opennebula a-token", f"AssumeRole {ROLE}"]


async def test_a_token_of_a_workload(givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_text("a.web.token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    await is_renewed(chain(), givers)
    assert set(givers.asked) == {f"AssumeRoleWithWebIdentity {ROLE} a.web.token"}


async def test_a_container(givers: Givers, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{givers.url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let-me-in")
    await is_renewed(chain(), givers)
    assert set(givers.asked) == {"container let-me-in"}


async def test_a_program(givers: Givers, home: Path) -> None:
    program, seconds, told = home / "give", home / "seconds", home / "told"
    program.write_text(
        f"#!/bin/sh\necho x >> {told}\nnumber=$(wc -l < {told})\n"
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
    second = await key_of(credentials)
    assert first != second
    assert await key_of(credentials) == second
