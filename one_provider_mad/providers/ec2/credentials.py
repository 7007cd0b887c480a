"""Credentials and signatures for AWS: found and made by botocore, without blocking the event loop.

botocore reads files, starts programs and asks metadata services, so all of that happens in a thread; only the
signature, which is arithmetic, is made in the loop. Nothing here writes a credential into a text.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog

from one_provider_mad.domain import Value
from one_provider_mad.errors import AuthenticationRefused, MadError, NotReached
from one_provider_mad.masking import keep_secret, masked, masked_by_name
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.xmlrpc.host_login import HostLogin

LOGIN = ("EC2_ACCESS", "EC2_SECRET")
"""Attributes with the login in the host's template, as for upstream's driver."""

ROLE_SESSION = "one-provider-mad"
"""Name of the session of an assumed role; CloudTrail shows it."""

RENEW_AGAIN = 60.0
"""Seconds between two tries to renew credentials that are still good: metadata services have new ones only some
minutes before the end ("Retrieve security credentials from instance metadata"), and refuse to answer too often."""

RENEWAL_PATIENCE = 2.0
"""Seconds that a call waits for new credentials while the old ones are still good."""

LARGEST_ANSWER = 1024 * 1024
"""Limit in bytes for an answer of STS, a metadata service or another source of credentials; usual are thousands."""

MISSING = "provider ec2 needs botocore: run pip install 'one-provider-mad[ec2]'"


log = structlog.get_logger()


class Signed(Value, frozen=True, kw_only=True):
    """A request that carries its signature.

    Attributes:
        headers: to be sent exactly as they are.
        key_id: id of the signing access key; not secret.
    """

    headers: Mapping[str, str]
    key_id: str


Sign = Callable[[str, Mapping[str, str], bytes, str], Signed]
"""Signs one POST with certain credentials: URL, headers, body, service."""


async def _take_all(_: Sign) -> None:
    """Accept any credentials."""


class Credentials:
    """The credentials of one account, found when needed and renewed before they expire; until then the old ones count.

    Args:
        settings: the table `[ec2]`.
        sts_url: endpoint for assuming a role, "" for Amazon's.
        confirm: called with new credentials in place of refused ones, before any call is signed with them; raises when
            they are another account's.
        warn: sends the operator one sentence.
    """

    def __init__(
        self,
        settings: Ec2Settings,
        *,
        sts_url: str = "",
        confirm: Callable[[Sign], Awaitable[None]] = _take_all,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._sts_url = sts_url
        self._confirm = confirm
        self._warn = warn
        self._login = HostLogin(settings.login_from_host, LOGIN) if settings.login_from_host else None
        self._source: Any = None
        self._frozen: Any = None
        self._renewing: asyncio.Task[Any] | None = None
        self._renew_at = 0.0
        self._last_warning = ""

    async def sign(
        self, url: str, headers: Mapping[str, str], body: bytes, *, service: str, region: str = ""
    ) -> Signed:
        """Sign one POST.

        Args:
            url: the URL that it is sent to.
            headers: its other headers; all of them are signed.
            body: its body.
            service: `ec2`, `sts`, `pricing`...
            region: of the service, "" for the account's.

        Raises:
            AuthenticationRefused: there are no credentials, or botocore is not installed.
            NotReached: the source of the credentials did not answer.
        """
        return self._sign(await self._current(), url, headers, body, service, region)

    def _sign(
        self, frozen: Any, url: str, headers: Mapping[str, str], body: bytes, service: str, region: str = ""
    ) -> Signed:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method="POST", url=url, data=body, headers=dict(headers))
        SigV4Auth(frozen, service, region or self._settings.region).add_auth(request)
        return Signed(headers=dict(request.headers.items()), key_id=frozen.access_key)

    async def reload(self, key_id: str) -> bool:
        """Search the credentials anew, because this key was refused; return True when there is another key now.

        The old ones stay until others are found: EC2 also answers AuthFailure for an image that is not shared.

        Raises:
            AuthenticationRefused: there are none, or they are another account's.
            NotReached: the source of the credentials did not answer.
        """
        if self._frozen is None or self._frozen.access_key != key_id:
            return bool((await self._current()).access_key != key_id)
        return bool((await asyncio.shield(self._renew_soon(is_anew=True))).access_key != key_id)

    async def _current(self) -> Any:
        if self._frozen is not None and not self._ends_within(None):
            return self._frozen
        is_good = self._frozen is not None and not self._ends_within(0)
        if is_good and (self._renewing is not None or asyncio.get_running_loop().time() < self._renew_at):
            return self._frozen
        renewing = self._renew_soon()
        if is_good:
            await asyncio.wait([renewing], timeout=RENEWAL_PATIENCE)
            return self._frozen
        return await asyncio.shield(renewing)

    def _ends_within(self, seconds: int | None) -> bool:
        """Whether the credentials end within so many seconds; None: within botocore's own limit, 15 minutes."""
        needs_refresh = getattr(self._source, "refresh_needed", None)
        return needs_refresh is not None and bool(needs_refresh(seconds))

    def _renew_soon(self, *, is_anew: bool = False) -> asyncio.Task[Any]:
        """Return the one search that all callers share; it goes on when one of them is cancelled."""
        if self._renewing is None:
            renewing = self._renew(None if is_anew else self._source)
            self._renewing = asyncio.create_task(renewing, name="find the AWS credentials")
            self._renewing.add_done_callback(self._renewed)
        return self._renewing

    async def _renew(self, before: Any) -> Any:
        self._renew_at = asyncio.get_running_loop().time() + RENEW_AGAIN
        given = await self._login.read() if self._login is not None and before is None else ()
        source, frozen = await asyncio.to_thread(self._obtain, before, given)
        if before is None and self._frozen is not None and self._frozen.access_key != frozen.access_key:
            await self._confirm(partial(self._sign, frozen))
        self._source, self._frozen = source, frozen
        return frozen

    def _renewed(self, renewing: asyncio.Task[Any]) -> None:
        self._renewing = None
        error = None if renewing.cancelled() else renewing.exception()
        if error is None:
            self._last_warning = ""
        elif isinstance(error, MadError) and self._frozen is not None and self._last_warning != str(error):
            self._last_warning = str(error)
            self._warn(f"the AWS credentials cannot be renewed: {error}")

    def _obtain(self, source: Any, given: Sequence[str]) -> tuple[Any, Any]:
        """Find or refresh the credentials; return their source and themselves. Blocks.

        Args:
            source: the source of the old ones, None to search for one.
            given: key and secret of the host's template, if it has them.
        """
        try:
            import botocore.auth  # noqa: F401 - loaded here, so that signing loads nothing
            from botocore.awsrequest import AWSResponse
            from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, HTTPClientError
            from botocore.exceptions import ConnectionError as SourceNotReached
        except ImportError as error:
            raise AuthenticationRefused(MISSING) from error
        try:
            with _bounded_answers(AWSResponse):
                if source is None:
                    source = self._find(given)
                frozen = source.get_frozen_credentials()
        except (SourceNotReached, HTTPClientError) as error:
            raise NotReached(f"the source of the AWS credentials did not answer: {error}") from error
        except ClientError as error:
            said = error.response.get("Error", {}).get("Message", "")
            raise AuthenticationRefused(f"the AWS role cannot be assumed: {masked(said)[:200]}") from error
        except CredentialRetrievalError as error:
            raise AuthenticationRefused(_not_given(error)) from error
        except (BotoCoreError, OSError, ValueError, RuntimeError) as error:
            raise AuthenticationRefused(f"the AWS credentials cannot be read: {error}") from error
        keep_secret(frozen.secret_key, frozen.token or "")
        return source, frozen

    def _find(self, given: Sequence[str]) -> Any:
        from botocore.credentials import Credentials as Given
        from botocore.session import Session

        wanted = self._settings
        session: Any = Session(profile=wanted.profile or None)
        for key in ("credentials_file", "config_file"):
            if path := getattr(wanted, key):
                session.set_config_variable(key, path)
        found: Any
        if given:
            found = Given(*given)
        elif wanted.access_key_id:
            found = Given(wanted.access_key_id, wanted.secret_access_key, wanted.session_token or None)
        else:
            found = session.get_credentials()
        if found is None:
            raise AuthenticationRefused(
                "there are no AWS credentials: set access_key_id and secret_access_key, or profile, in [ec2], or give"
                " the machine a role"
            )
        return self._assumed(session, found) if wanted.role_arn else found

    def _assumed(self, session: Any, source: Any) -> Any:
        """Return credentials of the role: AssumeRole is called with the given ones, and again before they expire."""
        from botocore.config import Config
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

        wanted = self._settings
        arguments = {"RoleSessionName": ROLE_SESSION}
        if wanted.external_id:
            arguments["ExternalId"] = wanted.external_id
        proxies = {"http": wanted.proxy, "https": wanted.proxy} if wanted.proxy else None
        create_client = partial(
            _create_client,
            session,
            region_name=wanted.region,
            endpoint_url=self._sts_url or None,
            verify=wanted.ca_bundle or None,
            config=Config(proxies=proxies, connect_timeout=wanted.connect_timeout),
        )
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=create_client,
            source_credentials=source,
            role_arn=wanted.role_arn,
            extra_args=arguments,
        )
        return DeferredRefreshableCredentials(refresh_using=fetcher.fetch_credentials, method="assume-role")


def _create_client(session: Any, *arguments: Any, **keys: Any) -> Any:
    """Create a client with these credentials, and keep them out of texts: AWS may repeat them in a refusal."""
    keep_secret(keys.get("aws_secret_access_key") or "", keys.get("aws_session_token") or "")
    return session.create_client(*arguments, **keys)


_HELPER = "custom-process"
"""botocore's name for the program in `credential_process`; its stderr is in the error."""


def _not_given(error: Any) -> str:
    """Return the error's sentence; the stderr of a credential program goes to the driver's log only."""
    if error.kwargs.get("provider") != _HELPER:
        return f"the AWS credentials cannot be read: {error}"
    log.warning("credential_process failed", stderr=masked_by_name(str(error.kwargs.get("error_msg", ""))))
    return (
        "the AWS credentials cannot be read: credential_process of the profile failed, the driver's log has its stderr"
    )


_in_thread = threading.local()
"""Whether this thread obtains credentials: other users of botocore in the process have no limit."""


@contextmanager
def _bounded_answers(response_class: Any) -> Iterator[None]:
    """Limit the answers that botocore reads in this thread; botocore has no setting for that."""
    if not isinstance(response_class.content, _BoundedContent):
        response_class.content = _BoundedContent(response_class.content.fget)
    _in_thread.is_bounded = True
    try:
        yield
    finally:
        _in_thread.is_bounded = False


class _BoundedContent(property):
    """`AWSResponse.content` with a limit, in threads that obtain credentials.

    Args:
        unbounded: botocore's own getter.
    """

    def __init__(self, unbounded: Callable[[Any], bytes]) -> None:
        super().__init__(
            lambda response: (
                _content_within_bounds(response) if getattr(_in_thread, "is_bounded", False) else unbounded(response)
            )
        )


def _content_within_bounds(response: Any) -> bytes:
    """Return the body of an answer to botocore, up to the limit; botocore itself would read any length."""
    if response._content is None:  # noqa: SLF001 - as botocore's own property has it
        content = bytearray()
        for piece in response.raw.stream():
            content += piece
            if len(content) > LARGEST_ANSWER:
                content.clear()
                raise ValueError(f"the answer has more than {LARGEST_ANSWER} bytes")
        response._content = bytes(content)  # noqa: SLF001
    content_read: bytes = response._content  # noqa: SLF001
    return content_read
