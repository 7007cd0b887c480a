"""Facts about a cloud that the actions keep when its settings change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.protocol.stale_names import StaleNames


class Knowledge:
    """Facts about a cloud that are kept when changed settings replace the `SharedCloud`.

    Attributes:
        tasks: creates under way, by create token.
        waiters: number of actions that wait for each create, by create token.
        troubles: why a create under way has not reached the cloud yet, by create token.
        shown: instances that the cloud has shown, and not shown as gone since.
        stale_names: names of attributes in earlier answers to POLLs, which oned may still show for a VM.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[DeployId]] = {}
        self.waiters: Counter[str] = Counter()
        self.troubles: dict[str, str] = {}
        self.shown: set[DeployId] = set()
        self.stale_names = StaleNames()

    def note(self, found: Mapping[DeployId, Instance]) -> None:
        """Add the instances of a lookup to `shown`, and remove those that are terminated."""
        self.shown.update(found)
        self.shown.difference_update(id_ for id_, instance in found.items() if instance.state.is_gone)
