"""Whether the OpenNebula on this machine leads, asked of it now and then (decision 21).

Several front-ends of one OpenNebula each run their drivers, and nobody tells a driver that its front-end leads no more
(src/monitor has no such message): one that goes on reports states of yesterday beside its successor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from one_provider_mad.errors import MadError, internal_error
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.raft import RaftState

log = structlog.get_logger()

ASK_SECONDS = 2.0
"""How often a front-end with peers is asked: an election takes about as long (oned.conf, RAFT)."""

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
        self._core = LocalCore(environ)
        self._warn = warn
        self._sleep = sleep
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
                state = await asyncio.to_thread(self._core.raft_state)
            except Exception as error:  # also credentials that cannot be read just now are a silence like any other
                if not isinstance(error, MadError):
                    log.exception("front-end not asked")
                reason = str(error) if isinstance(error, MadError) else internal_error(error)
                if self._not_answered(reason, pause) and self._state is RaftState.UNKNOWN:
                    on_change(False)  # noqa: FBT003 - nobody has ever said that another one leads
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._silent_for, pause = 0.0, 1.0
            if state is not self._state:
                log.info("this front-end", state=state.name)
                on_change(state in (RaftState.FOLLOWER, RaftState.CANDIDATE))
                self._state = state
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
