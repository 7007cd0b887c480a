"""Whether the OpenNebula on this machine leads, asked of it now and then (decision 21).

Several front-ends of one OpenNebula each run their drivers, and nobody tells a driver that its front-end leads no more
(src/monitor has no such message): one that goes on reports states of yesterday beside its successor.

The standard library asks here, in a thread: one small question, and a daemon that needs no aiohttp stays without it.
"""

from __future__ import annotations

import asyncio
import http.client
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from urllib.parse import urlsplit

import structlog

from one_provider_mad.errors import MadError, ProviderUnavailable, SettingsError
from one_provider_mad.xmlrpc.client import USUAL_ENDPOINT, check_endpoints
from one_provider_mad.xmlrpc.envelope import Failure, decode_answer, encode_call, parse_foreign
from one_provider_mad.xmlrpc.raft import RaftState, read_raft_status
from one_provider_mad.xmlrpc.refusals import error_of
from one_provider_mad.xmlrpc.session import read_session

log = structlog.get_logger()

_METHOD = "one.zone.raftstatus"

_BODY_LIMIT = 65_536

_NO_SUCH_METHOD = -506
"""xmlrpc-c's fault (include/xmlrpc-c/base.h, XMLRPC_NO_SUCH_METHOD_ERROR)."""

ASK_SECONDS = 2.0
"""How often a front-end with peers is asked: an election takes about as long (oned.conf, RAFT)."""

_CALL_SECONDS = 5.0
_LONGEST_PAUSE = 60.0
_PATIENCE_SECONDS = 90.0
"""oned starts its drivers before it listens itself; after so long its silence is worth a word."""


class Leadership:
    """Knows what part the local front-end plays.

    Args:
        environ: ONE_XMLRPC and ONE_AUTH, as OpenNebula's own tools take them.
        warn: tells the operator one sentence.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        warn: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._environ = environ
        self._warn = warn
        self._sleep = sleep
        self._endpoint = environ.get("ONE_XMLRPC") or USUAL_ENDPOINT
        self._state = RaftState.UNKNOWN
        self._silent_for = 0.0
        self._is_warned = False

    async def watch(self, on_change: Callable[[bool], None]) -> None:
        """Call back whenever it becomes, or ceases to be, true that another front-end leads; ends where none can.

        While nobody can be asked, what was known last stays; if nothing ever was, then, after a while, that none does.
        """
        pause = 1.0
        while True:
            try:
                state = await asyncio.to_thread(self._ask)
            except MadError as error:  # credentials that cannot be read just now are a silence like any other
                if self._not_answered(str(error), pause) and self._state is RaftState.UNKNOWN:
                    on_change(False)  # noqa: FBT003 - nobody has ever said that another one leads
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._silent_for, pause = 0.0, 1.0
            if state is not self._state:
                log.info("this front-end", state=state.name)
                self._state = state
                on_change(state in (RaftState.FOLLOWER, RaftState.CANDIDATE))
            if state is RaftState.SOLO:
                return  # only a restart of oned, which restarts its drivers, gives it peers
            await self._sleep(ASK_SECONDS)

    def _not_answered(self, reason: str, pause: float) -> bool:
        """True, once, when the silence has lasted long enough to be worth a word."""
        self._silent_for += pause
        log.debug("front-end not asked", reason=reason)
        if self._silent_for < _PATIENCE_SECONDS or self._is_warned:
            return False
        self._is_warned = True
        known = "nothing has changed" if self._state is not RaftState.UNKNOWN else "this one did"
        self._warn(f"whether this front-end leads is not known, and everything goes on as if {known}: {reason}")
        return True

    def _ask(self) -> RaftState:
        """Ask once; blocks. Raises MadError."""
        try:
            check_endpoints([self._endpoint])
        except ValueError as error:
            raise SettingsError(f"ONE_XMLRPC: {error}") from error
        session = read_session(file="", environ=self._environ)
        answer = decode_answer(_METHOD, self._post(encode_call(_METHOD, session, ())))
        if isinstance(answer, Failure) and answer.code == _NO_SUCH_METHOD:
            return RaftState.SOLO  # up to 5.2 there is no such method, and no peers
        if isinstance(answer, Failure):
            raise error_of(_METHOD, answer)
        return read_raft_status(parse_foreign(str(answer.result).encode(), what=f"the answer to {_METHOD}")).state

    def _post(self, body: bytes) -> bytes:
        parts = urlsplit(self._endpoint)
        place = f"OpenNebula at {parts.hostname}" + (f":{parts.port}" if parts.port else "")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            with closing(kind(parts.hostname or "", parts.port, timeout=_CALL_SECONDS)) as connection:
                connection.request("POST", parts.path or "/RPC2", body, {"Content-Type": "text/xml"})
                response = connection.getresponse()
                status, answer = response.status, response.read(_BODY_LIMIT)
        except (OSError, http.client.HTTPException) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
            raise ProviderUnavailable(f"{place} cannot be asked: {reason}") from error
        if status != http.client.OK:
            raise ProviderUnavailable(f"{place} answers with HTTP {status}")
        return answer
