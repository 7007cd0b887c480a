"""Whether this front-end leads its peers: only then does it pay debts (decision 21)."""

from __future__ import annotations

from collections.abc import Callable

from one_provider_mad.actions.deadlines import DEADLINES
from one_provider_mad.protocol.messages import Action
from one_provider_mad.timestamps import Timestamp


class Lead:
    """Which of OpenNebula's front-ends leads, as far as this driver was informed.

    Args:
        clock: seconds since the epoch.

    Attributes:
        is_elsewhere: another front-end leads.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: Timestamp | None = None
        self.is_elsewhere = False

    def note(self, *, is_elsewhere: bool) -> None:
        """Note that another front-end leads, or that this one has begun to lead."""
        self.is_elsewhere = is_elsewhere
        self._since = Timestamp.now(self._clock)

    def recent_start(self) -> Timestamp | None:
        """Return when this front-end began to lead; None once no create of an earlier leader can be under way any more.

        Called for a request, which only a leader's oned sends: after a note of another leader the lead begins now.
        """
        now = Timestamp.now(self._clock)
        if self.is_elsewhere:
            return now
        since = self._since
        return since if since is not None and now.since(since) < DEADLINES[Action.DEPLOY] else None
