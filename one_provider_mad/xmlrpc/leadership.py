"""Polls whether the front-end on this machine leads (decision 21).

Several front-ends of one OpenNebula each run their drivers, and no message tells a driver that its front-end has lost
the leadership (src/monitor has none): such a driver would report outdated states beside its successor.
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
"""Seconds between two calls to a front-end with peers: an election takes about as long (oned.conf, RAFT)."""

_LONGEST_PAUSE = 60.0
_PATIENCE_SECONDS = 90.0
"""Seconds without an answer of oned before a warning: oned starts its drivers before it accepts calls."""


class Leadership:
    """Watches the Raft state of the local front-end.

    Args:
        environ: environment variables; ONE_XMLRPC and ONE_AUTH as for OpenNebula's own tools.
        warn: sends the operator one sentence.
        sleep: waits for a number of seconds.
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
        """Call `on_change` with True when another front-end leads, else with False; return if this one has no peers.

        While OpenNebula does not answer, `on_change` is not called; but if it has answered no call at all for 90
        seconds, `on_change` is called with False.
        """
        pause = 1.0
        while True:
            try:
                state = await asyncio.to_thread(self._core.raft_state)
            except Exception as error:  # credentials that cannot be read at this time also count as no answer
                if not isinstance(error, MadError):
                    log.exception("front-end not asked")
                reason = str(error) if isinstance(error, MadError) else internal_error(error)
                if self._not_answered(reason, pause) and self._state is RaftState.UNKNOWN:
                    on_change(False)  # noqa: FBT003 - OpenNebula has never answered that another front-end leads
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._silent_for, pause = 0.0, 1.0
            if state is not self._state:
                log.info("front-end state", state=state.name)
                on_change(state in (RaftState.FOLLOWER, RaftState.CANDIDATE))
                self._state = state
            if state is RaftState.SOLO:
                return  # peers are added by a restart of oned, which restarts its drivers
            await self._sleep(ASK_SECONDS)

    def _not_answered(self, reason: str, pause: float) -> bool:
        """Return True once, when the silence has lasted long enough for a warning."""
        self._silent_for += pause
        log.debug("front-end not asked", reason=reason)
        if self._silent_for < _PATIENCE_SECONDS or self._is_warned:
            return False
        self._is_warned = True
        known = "nothing has changed" if self._state is not RaftState.UNKNOWN else "this one did"
        self._warn(f"whether this front-end leads is unknown, the driver continues as if {known}: {reason}")
        return True
