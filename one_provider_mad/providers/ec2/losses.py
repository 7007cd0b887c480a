"""What becomes of a list that could not be read: who hears of it, and when it is asked for again."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from one_provider_mad.errors import PermissionDenied

log = structlog.get_logger()

_WITHOUT_RIGHT = 3600.0
_OTHERWISE = 300.0


def pause_after(error: Exception) -> float:
    """Return the seconds until a list is asked for again: an hour without the right to it, else some minutes."""
    return _WITHOUT_RIGHT if isinstance(error, PermissionDenied) else _OTHERWISE


def say_loss(sentence: str, error: Exception, *, warn: Callable[[str], None]) -> None:
    """Tell the operator what is unknown now; a missing right goes to the driver's log alone.

    Nobody need use prices, so a policy of an earlier release stays right without one new action; `check` names those
    that are missing, and what is unknown without them.
    """
    if isinstance(error, PermissionDenied):
        log.info("right not held", loss=sentence)
    else:
        warn(sentence)
