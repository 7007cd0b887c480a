"""Keeps providers' log entries, meant for a driver's log file, out of a terminal and of --json output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from one_provider_mad.logs import import_structlog


@contextmanager
def no_logs() -> Iterator[None]:
    """Drop log entries, which structlog would print on stdout; the earlier log set-up is restored at the end."""
    structlog = import_structlog()
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        structlog.configure(**before)


def _drop(*_: object) -> None:
    from structlog import DropEvent

    raise DropEvent
