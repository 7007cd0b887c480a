"""Whether this front-end leads its peers: only then does it pay debts (decision 21)."""

from __future__ import annotations

from collections.abc import Callable

from one_provider_mad.actions.deadlines import DEADLINES
from one_provider_mad.protocol.messages import Action
from one_provider_mad.timestamps import Timestamp


class Lead:
    """The lead among the front-ends of one OpenNebula, as far as this driver has heard.

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
        """Note that another front-end leads, or that this one does, perhaps again."""
        self.is_elsewhere = is_elsewhere
        self._since = Timestamp.now(self._clock)

    def recent_start(self) -> Timestamp | None:
        """Return when this front-end began to lead; None once creates of an earlier leader must have ended.

        While another one is said to lead, a request shows that this one leads now: only a leader's oned sends requests.
        """
        now = Timestamp.now(self._clock)
        if self.is_elsewhere:
            return now
        since = self._since
        return since if since is not None and now.since(since) < DEADLINES[Action.DEPLOY] else None
