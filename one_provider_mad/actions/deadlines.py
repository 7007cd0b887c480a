"""The deadline of each action: oned itself waits for an answer for ever (decision 8)."""

from __future__ import annotations

from one_provider_mad import metrics
from one_provider_mad.actions.engine import EngineSource
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.errors import DeadlineExceeded
from one_provider_mad.protocol.messages import Action

DEADLINES = {Action.DEPLOY: 600.0}
OTHER_DEADLINE = 300.0
"""Seconds after which an action that DEADLINES lacks fails, where `-w` is not set."""


class Deadlines:
    """The time limits of actions.

    Args:
        timeout: seconds from the option `-w`, None without it.
        engines: tells whether actions are carried out by scripts.
    """

    def __init__(self, timeout: float | None, engines: EngineSource) -> None:
        self._timeout = timeout
        self._engines = engines

    def seconds(self, action: Action, *, is_settled: bool = False) -> float | None:
        """Return the deadline of an action in seconds; None for no deadline.

        Args:
            action: the action.
            is_settled: it is not carried out, but answered by what the cloud shows: this always has a limit, since the
                cloud may never show an outcome.
        """
        if self._engines.is_verbatim:
            limit = None  # there `-w` bounds each script of an action, as upstream does it
        elif self._timeout is not None:
            limit = self._timeout or None
        else:
            limit = DEADLINES.get(action, OTHER_DEADLINE)
        return DEADLINES.get(action, OTHER_DEADLINE) if is_settled and limit is None else limit


def exceeded(action: Action, seconds: float | None, waiting: Waiting, count: int = 1) -> DeadlineExceeded:
    """Return the error of an action that exceeded its deadline; add `count`, the POLLs of a batch, to the metric."""
    if metrics.recorder is not None:
        metrics.recorder.overdue(action.value, count)
    return DeadlineExceeded(f"gave up after {seconds or 0:g} s waiting for {waiting.reason}")
