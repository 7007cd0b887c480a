"""What the actions know of a cloud; it outlives a change of its settings."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.protocol.stale_names import StaleNames


class Knowledge:
    """Knowledge that outlives a change of settings, which replaces the `SharedCloud`.

    Attributes:
        tasks: creates under way, by token: each is sent once for all its waiters.
        waiters: number of waiters, by token.
        troubles: why a create does not reach the cloud, by token.
        shown: instances that the cloud has shown, and not shown as gone since.
        stale_names: attributes in answers to POLLs, which the core may still show.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[DeployId]] = {}
        self.waiters: Counter[str] = Counter()
        self.troubles: dict[str, str] = {}
        self.shown: set[DeployId] = set()
        self.stale_names = StaleNames()

    def note(self, found: Mapping[DeployId, Instance]) -> None:
        """Remember the instances of a lookup, and forget those that are gone."""
        self.shown.update(found)
        self.shown.difference_update(id_ for id_, instance in found.items() if instance.state.is_gone)
