"""Users and groups of VMs, read from the journal now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from one_provider_mad.domain import VmOwner
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.reader import owner_changes

_READ_SECONDS = 30.0
"""Seconds between two reads."""


class VmOwners:
    """Keeps the owners of VMs.

    Args:
        time: seconds that never go backwards.

    Attributes:
        known: user and group by VM ID and STIME.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._read_at: float | None = None
        self._latest = 0
        self.known: dict[tuple[int, int], VmOwner] = {}

    def read(self, journal: Path) -> Mapping[tuple[int, int], VmOwner]:
        """Read what has changed if that is due, and return the owners that were not known before. Blocks."""
        now = self._time()
        if self._read_at is not None and now - self._read_at < _READ_SECONDS:
            return {}
        self._read_at = now
        try:
            changes = owner_changes(journal, after=self._latest)
            if changes.latest < self._latest:  # the journal was replaced
                changes = owner_changes(journal, after=0)
        except JournalError:
            return {}  # sweeps fail of it, and say so
        self._latest = changes.latest
        first = {vm: owner for vm, owner in changes.owners.items() if vm not in self.known}
        self.known.update(changes.owners)
        return first
