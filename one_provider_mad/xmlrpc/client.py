"""Calls to one OpenNebula, behind one or more front-ends, without blocking the event loop.

`open` imports aiohttp in a thread: programs that call no OpenNebula never load it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from one_provider_mad.domain import Value
from one_provider_mad.errors import (
    AuthenticationRefused,
    NotReached,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    SettingsError,
    Throttled,
    WrongEndpoint,
)
from one_provider_mad.http_answers import CODINGS, Answers, seconds_asked, without_frames
from one_provider_mad.safe_xml import Element
from one_provider_mad.unreached import SERVICE_UNAVAILABLE, says_not_carried_out, unreached
from one_provider_mad.xmlrpc.envelope import (
    Argument,
    Failure,
    Result,
    Success,
    decode_answer,
    encode_call,
    read_document,
)
from one_provider_mad.xmlrpc.login_refusals import endpoint_name, login_refused
from one_provider_mad.xmlrpc.raft import RaftStatus, read_raft_status
from one_provider_mad.xmlrpc.refusals import AUTHENTICATION, error_of, is_not_the_leader
from one_provider_mad.xmlrpc.session import read_session

if TYPE_CHECKING:
    import aiohttp

_Read = TypeVar("_Read")

USUAL_ENDPOINT = "http://localhost:2633/RPC2"
"""oned's default address (oned.conf, PORT)."""

_KEPT_SECONDS = 5.0
"""How long an idle connection is kept; oned closes them after 15 s (oned.conf, KEEPALIVE_TIMEOUT), and a call sent at
that instant is lost. A call that must happen once always uses a new connection."""

_HEADERS = {"Content-Type": "text/xml", "Accept-Encoding": CODINGS}

_FORBIDDEN = 403
_TOO_MANY = 429
_SERVER_ERRORS = 500


class Connection(Value, frozen=True, kw_only=True):
    """Address, credentials and limits of one OpenNebula.

    Attributes:
        endpoints: URLs of its front-ends, tried in this order.
        credentials_file: holds `user:password`; "" for OpenNebula's usual places.
        ca_file: certificates to trust instead of the system's; "" for the system's.
        timeout: seconds one call may take.
        connect_timeout: seconds until a front-end that does not accept connections is skipped.
        body_limit: bytes an answer may have.
        connections: most simultaneous calls.
        peer: its name in error messages.
        address_setting: name of the setting that holds `endpoints`, for error messages.
        login_setting: name of the setting that holds user and password, for error messages.
    """

    endpoints: tuple[str, ...] = (USUAL_ENDPOINT,)
    credentials_file: str = ""
    ca_file: str = ""
    timeout: float = 30.0
    connect_timeout: float = 5.0
    body_limit: int = 16_777_216
    connections: int = 32
    peer: str = "OpenNebula"
    address_setting: str = "ONE_XMLRPC"
    login_setting: str = "ONE_AUTH"


class Client:
    """A connection to one OpenNebula.

    Args:
        connection: address and credentials.
        read_session: reads the session string again; not called on the event loop. Default: from the connection's file.
        ask_session: asynchronous replacement for `read_session`.

    Attributes:
        connection: as given.
        answered: header `Date` of the last answer, and its arrival in seconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        read_session: Callable[[], str] | None = None,
        ask_session: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self.connection = connection
        self.answered: tuple[str, float] = ("", 0.0)
        read = read_session or partial(_usual_session, connection.credentials_file)
        self._new_session: Callable[[], Awaitable[str]] = ask_session or partial(asyncio.to_thread, read)
        self._session = ""
        self._answers = Answers(limit=connection.body_limit, setting="body_limit")
        self._http: aiohttp.ClientSession | None = None
        self._http_once: aiohttp.ClientSession | None = None
        self._preferred = 0
        self._reached: set[str] = set()

    async def open(self) -> None:
        """Read the credentials and prepare the connections. Nothing is sent yet.

        Raises:
            SettingsError: the credentials or the certificates cannot be used.
            ProviderError: `ask_session` did not provide the credentials.
        """
        aiohttp = await asyncio.to_thread(import_module, "aiohttp")
        self._session = await self._new_session()
        tls = await asyncio.to_thread(_tls, self.connection)
        limit, patience = self.connection.connections, self.connection.timeout
        timeout = aiohttp.ClientTimeout(total=patience, sock_connect=min(self.connection.connect_timeout, patience))
        kept = aiohttp.TCPConnector(limit=limit, ssl=tls, keepalive_timeout=_KEPT_SECONDS)
        self._http = aiohttp.ClientSession(connector=kept, timeout=timeout, auto_decompress=False)
        fresh = aiohttp.TCPConnector(limit=limit, ssl=tls, force_close=True)
        self._http_once = aiohttp.ClientSession(connector=fresh, timeout=timeout, auto_decompress=False)

    async def close(self) -> None:
        """Close all connections."""
        for http in (self._http, self._http_once):
            if http is not None:
                await http.close()

    async def call(self, method: str, *arguments: Argument, is_repeatable: bool = True) -> Result:
        """Call a method and return its result.

        Args:
            method: its name, `one.vm.action`.
            arguments: the arguments after the session string.
            is_repeatable: another front-end may be called though the first may have carried the call out; False for
                calls that must happen once.

        Raises:
            NotReached: no front-end accepted the call, so it was not carried out.
            ProviderError: the call was refused, by kind; or not answered, so that its effect is unknown.
        """
        return await self._ask(method, arguments, is_repeatable=is_repeatable, read=_same)

    async def read(self, method: str, *arguments: Argument, read: Callable[[Element], _Read]) -> _Read:
        """Call a method that answers with an XML document, and return what `read` makes of it.

        Args:
            method: its name, one of `DOCUMENTS` (envelope.py).
            arguments: the arguments after the session string.
            read: pure; takes the document's root. For a large document it runs in a thread.

        Raises:
            ProviderError: as `call`; or the answer is a document of another kind.
        """
        return await self._ask(method, arguments, is_repeatable=True, read=partial(_read_document, method, read))

    async def raft_status(self) -> RaftStatus:
        """Return the Raft state of the front-end that answers, which need not be the leader."""
        return await self.read("one.zone.raftstatus", read=read_raft_status)

    async def _ask(
        self,
        method: str,
        arguments: tuple[Argument, ...],
        *,
        is_repeatable: bool,
        read: Callable[[Result], _Read],
    ) -> _Read:
        answer = await self._call_front_ends(method, arguments, is_repeatable=is_repeatable, read=read)
        if isinstance(answer, Failure) and answer.code == AUTHENTICATION and await self._has_new_session():
            answer = await self._call_front_ends(method, arguments, is_repeatable=is_repeatable, read=read)
        if isinstance(answer, Failure):
            if answer.code == AUTHENTICATION:
                raise self._login_refused()
            raise error_of(method, answer, peer=self.connection.peer)
        return answer

    def _login_refused(self) -> AuthenticationRefused:
        return login_refused(
            self._place(self.connection.endpoints[self._preferred]),
            self._session,
            setting=self.connection.login_setting,
        )

    def _place(self, endpoint: str) -> str:
        return endpoint_name(endpoint, peer=self.connection.peer)

    async def _has_new_session(self) -> bool:
        """Return True when the credentials have changed since they were read; tokens expire, passwords change."""
        before = self._session
        try:
            self._session = await self._new_session()
        except SettingsError as error:
            raise AuthenticationRefused(f"{self._login_refused()}: {error}") from error
        return self._session != before

    async def _call_front_ends(
        self,
        method: str,
        arguments: tuple[Argument, ...],
        *,
        is_repeatable: bool,
        read: Callable[[Result], _Read],
    ) -> _Read | Failure:
        """Call the front-ends one after the other, and return the first answer."""
        body = encode_call(method, self._session, arguments)
        refusal: Failure | None = None
        silence: ProviderError | None = None
        for number in self._order():
            try:
                http = self._http if is_repeatable else self._http_once
                answer = await self._post(http, self.connection.endpoints[number], method, body, read)
            except NotReached as error:
                silence = _together(silence, without_frames(error))
            except ProviderUnavailable as error:
                if not is_repeatable:
                    raise  # another front-end might carry the call out a second time
                silence = without_frames(error)
            else:
                if not (isinstance(answer, Failure) and is_not_the_leader(answer)):
                    self._preferred = number
                    return answer
                refusal = answer
        if refusal is not None:
            return refusal
        try:
            raise silence or ProviderUnavailable(f"{method} cannot be sent: no front-end is configured")
        finally:
            del silence  # its traceback holds this very frame

    def _order(self) -> list[int]:
        """Return the front-ends' numbers: the one that answered last, then the others in the configured order.

        It is computed once for each call, since concurrent calls may change the preferred front-end meanwhile.
        """
        first = self._preferred
        return [first, *(number for number in range(len(self.connection.endpoints)) if number != first)]

    async def _post(
        self,
        http: aiohttp.ClientSession | None,
        endpoint: str,
        method: str,
        body: bytes,
        read: Callable[[Result], _Read],
    ) -> _Read | Failure:
        import aiohttp

        if http is None:
            raise ProviderUnavailable(f"{method} cannot be sent: the connection is not open")
        place = self._place(endpoint)
        async with self._answers.next() as answer:
            try:
                async with http.post(endpoint, data=body, headers=_HEADERS, allow_redirects=False) as response:
                    self.answered = (response.headers.get("Date", ""), time.time())
                    if response.status == SERVICE_UNAVAILABLE:
                        raise _unavailable(response, place, method, await answer.take_refusal(response))
                    self._check_status(response, endpoint, method)
                    self._reached.add(endpoint)
                    await answer.take(response, what=f"the answer to {method}")
            except (aiohttp.ClientError, ValueError) as error:
                setting, was_reached = self.connection.address_setting, endpoint in self._reached
                if not_sent := unreached(error, who=place, setting=setting, was_reached=was_reached):
                    raise not_sent from error
                raise ProviderUnavailable(f"{place} did not answer {method}: {_reason(error)}") from error
            except TimeoutError as error:
                limit = self.connection.timeout
                raise ProviderUnavailable(f"{place} did not answer {method} within {limit:g} s") from error
            return await answer.read(partial(_interpret, method, read))

    def _check_status(self, response: aiohttp.ClientResponse, endpoint: str, method: str) -> None:
        """Raise the error for an HTTP status of a proxy; OpenNebula answers every call with 200."""
        status = response.status
        if status == 200:
            return
        said = f"{self._place(endpoint)} answers {method} with HTTP {status}"
        if status == _TOO_MANY:
            raise Throttled(said, retry_after=seconds_asked(response.headers))
        if status in (401, 407):
            raise AuthenticationRefused(f"{said}: a proxy answered, not OpenNebula")
        if status == _FORBIDDEN:
            raise PermissionDenied(f"{said}: a proxy answered, not OpenNebula")
        if status >= _SERVER_ERRORS:
            raise ProviderUnavailable(said)
        kind = NotReached if endpoint in self._reached else WrongEndpoint
        raise kind(f"{said}: no OpenNebula is there; see {self.connection.address_setting}")


def _together(before: ProviderError | None, error: NotReached) -> ProviderError:
    """Combine the errors of two front-ends: the result is definite only when neither carried the call out."""
    if before is None:
        return error
    if not before.definite:
        return ProviderUnavailable(str(error))
    return before if before.is_paced and not error.is_paced else error


def _interpret(method: str, read: Callable[[Result], _Read], body: bytes) -> _Read | Failure:
    answer = decode_answer(method, body)
    return read(answer.result) if isinstance(answer, Success) else answer


def _same(result: Result) -> Any:
    return result


def _read_document(method: str, read: Callable[[Element], _Read], result: Result) -> _Read:
    return read(read_document(method, result))


def _unavailable(
    response: aiohttp.ClientResponse, place: str, method: str, body: bytes
) -> NotReached | ProviderUnavailable:
    """Return the error for a proxy's 503, which mostly means that OpenNebula is down at this time."""
    said = f"{place} answers {method} with HTTP {response.status}"
    wait = seconds_asked(response.headers)
    if says_not_carried_out(response.status, body, retry_after=wait):
        return NotReached(f"{said}: the call was not carried out", retry_after=wait)
    return ProviderUnavailable(said)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _usual_session(file: str) -> str:
    return read_session(file=file, environ=os.environ)


def _tls(connection: Connection) -> ssl.SSLContext | bool:
    """Return the context that verifies certificates. Reads files: not for the event loop."""
    if not any(urlsplit(endpoint).scheme == "https" for endpoint in connection.endpoints):
        return True
    try:
        return ssl.create_default_context(cafile=connection.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"ca_file holds no usable certificates: {error} ({connection.ca_file})") from error


def check_endpoints(endpoints: Sequence[str]) -> None:
    """Raise ValueError, with the URL, for an endpoint that cannot be an OpenNebula's."""
    for endpoint in endpoints:
        try:
            parts = urlsplit(endpoint)
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_good = False
        else:
            if is_good and (parts.username or parts.password):
                raise ValueError(f"endpoints: {parts.hostname} has credentials in its URL, put them into a file")
        if not is_good:
            shown = endpoint.rpartition("@")[2]  # the part before may be a password
            raise ValueError(f"endpoints: {shown!r} is no URL such as {USUAL_ENDPOINT}")
    if not endpoints:
        raise ValueError(f"endpoints: name at least one, such as {USUAL_ENDPOINT}")
