"""Who we are to AWS: botocore's ways of finding credentials, and its signature, without its blocking a moment.

botocore reads files, starts programs and asks metadata services, so all of it happens in a thread; only the signature,
which is arithmetic, is made where it is needed. Nothing here puts a credential into a text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from one_provider_mad.domain import Value
from one_provider_mad.errors import AuthenticationRefused, ProviderUnavailable
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.xmlrpc.host_login import HostLogin

LOGIN = ("EC2_ACCESS", "EC2_SECRET")
"""What upstream's driver wants in the host's template."""

ROLE_SESSION = "one-provider-mad"
"""Name of the session when a role is assumed; shows in CloudTrail."""

MISSING = "provider ec2 needs botocore: run pip install 'one-provider-mad[ec2]'"


class Signed(Value, frozen=True, kw_only=True):
    """A request that carries its signature.

    Attributes:
        headers: to be sent exactly so.
        key_id: the access key that signed; no secret.
    """

    headers: Mapping[str, str]
    key_id: str


class Credentials:
    """The credentials of one account, found lazily and refreshed before they expire.

    Args:
        settings: where to look.
        sts_url: endpoint for assuming a role, "" for Amazon's.
    """

    def __init__(self, settings: Ec2Settings, *, sts_url: str = "") -> None:
        self._settings = settings
        self._sts_url = sts_url
        self._login = HostLogin(settings.login_from_host, LOGIN) if settings.login_from_host else None
        self._source: Any = None
        self._frozen: Any = None
        self._lock = asyncio.Lock()

    async def sign(self, url: str, headers: Mapping[str, str], body: bytes, *, service: str) -> Signed:
        """Sign one POST.

        Args:
            url: where it goes.
            headers: what it says besides; all of them are signed.
            body: what it carries.
            service: `ec2` or `sts`.

        Raises:
            AuthenticationRefused: there are no credentials, or botocore is not installed.
            ProviderUnavailable: whoever gives the credentials out did not answer.
        """
        frozen = await self._current()
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method="POST", url=url, data=body, headers=dict(headers))
        SigV4Auth(frozen, service, self._settings.region).add_auth(request)
        return Signed(headers=dict(request.headers.items()), key_id=frozen.access_key)

    async def reload(self, key_id: str) -> bool:
        """Look for the credentials anew, because this key was refused; True when there is another one by now."""
        async with self._lock:
            if self._frozen is not None and self._frozen.access_key == key_id:
                self._source = self._frozen = None
        return bool((await self._current()).access_key != key_id)

    async def _current(self) -> Any:
        if self._is_fresh():
            return self._frozen
        async with self._lock:  # one search, however many wait for it
            if not self._is_fresh():
                given = await self._login.read() if self._login is not None and self._source is None else ()
                self._frozen = await asyncio.to_thread(self._obtain, given)
            return self._frozen

    def _is_fresh(self) -> bool:
        if self._frozen is None:
            return False
        needs_refresh = getattr(self._source, "refresh_needed", None)
        is_fresh: bool = needs_refresh is None or not needs_refresh()
        return is_fresh

    def _obtain(self, given: Sequence[str]) -> Any:
        """Find them or refresh them. Blocks.

        Args:
            given: key and secret, where the host's template had them.
        """
        try:
            import botocore.auth  # loaded here, so that signing loads nothing
            import botocore.awsrequest  # noqa: F401
            from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
            from botocore.exceptions import ConnectionError as NotReached
        except ImportError as error:
            raise AuthenticationRefused(MISSING) from error
        try:
            if self._source is None:
                self._source = self._find(given)
            return self._source.get_frozen_credentials()
        except (NotReached, HTTPClientError) as error:
            raise ProviderUnavailable(f"the source of the AWS credentials did not answer: {error}") from error
        except ClientError as error:
            said = error.response.get("Error", {}).get("Message", "")
            raise AuthenticationRefused(f"the AWS role cannot be assumed: {said[:200]}") from error
        except (BotoCoreError, OSError, ValueError, RuntimeError) as error:
            raise AuthenticationRefused(f"the AWS credentials cannot be read: {error}") from error

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
        """Credentials of the role, asked for with those found, again before they expire."""
        from functools import partial

        from botocore.config import Config
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

        wanted = self._settings
        arguments = {"RoleSessionName": ROLE_SESSION}
        if wanted.external_id:
            arguments["ExternalId"] = wanted.external_id
        proxies = {"http": wanted.proxy, "https": wanted.proxy} if wanted.proxy else None
        create_client = partial(
            session.create_client,
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
