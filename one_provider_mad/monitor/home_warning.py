"""Warn while home has room for VMs and takes none: then they all start in the cloud, and nothing else says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from one_provider_mad.errors import MadError
from one_provider_mad.front_end.home import Home

log = structlog.get_logger()

LOOK_SECONDS = 60.0
"""Least seconds between two looks at home, and most until OpenNebula must have answered one."""

OVER = "home takes VMs again, or has no room left: its hosts and datastores are no longer at fault"

Look = Callable[[], Awaitable[Home]]
"""A function that asks OpenNebula for the state of home; raises MadError."""


class HomeWatch:
    """Looks at home beside the sweeps, which it never delays.

    Args:
        time: seconds that never go backwards.

    Attributes:
        look: asks OpenNebula; None where it cannot be asked.
        tell: writes a sentence to OpenNebula's log, when a fault begins and when it is over.
        warning: what is wrong with home, for its cloud's host to show; "" for nothing.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._due_at = 0.0
        self._since: float | None = None
        self._asking: asyncio.Task[None] | None = None
        self._complaint = ""
        self.look: Look | None = None
        self.tell: Callable[[str], None] = _tell_nobody
        self.warning = ""

    def ask(self, *, is_wanted: bool) -> None:
        """Start a look at home if one is due. Does not wait: a later sweep shows what it has found.

        Args:
            is_wanted: `[monitor] watch_home`; after an edit to false the warning is gone.
        """
        if not is_wanted:
            self.forget()
        elif self.look is not None and self._asking is None and self._time() >= self._due_at:
            self._due_at = self._time() + LOOK_SECONDS
            self._asking = asyncio.create_task(self._look(self.look), name="look at home")

    def forget(self) -> None:
        """Drop the warning, and what is asked: another front-end leads, or nobody wants to know."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None  # a task that is cancelled before its first step never runs its `finally`
        self._due_at, self._since, self.warning = 0.0, None, ""

    def calls_under_way(self) -> list[asyncio.Task[None]]:
        """Return the task that asks OpenNebula."""
        return [self._asking] if self._asking is not None else []

    async def _look(self, look: Look) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                home = await look()
            self._complaint = ""
            self._take(home)
        except (MadError, TimeoutError) as error:
            self._complain(str(error) or f"no answer within {LOOK_SECONDS:g} s")
        except Exception:
            log.exception("home not known")
        finally:
            if self._asking is asyncio.current_task():
                self._asking = None

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            log.warning("home not known", reason=reason)
        self._complaint = reason

    def _take(self, home: Home) -> None:
        """Warn of a fault once it has lasted; a warning that is shown already may change its words."""
        if not home.is_at_fault:
            self._since = None
            self._set("")
            return
        self._since = self._time() if self._since is None else self._since
        if self.warning or self._time() - self._since >= home.patience:
            self._set(home.sentence)

    def _set(self, warning: str) -> None:
        was_shown, self.warning = bool(self.warning), warning
        if warning and not was_shown:
            self.tell(warning)
        elif was_shown and not warning:
            self.tell(OVER)


def _tell_nobody(_sentence: str) -> None:
    """Stand in until the driver can write to OpenNebula's log."""
