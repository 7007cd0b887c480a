"""What the actions run on, as the composition root hands it to them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from one_provider_mad.actions.cloud import Cloud
from one_provider_mad.actions.finding import Finder
from one_provider_mad.domain import Value
from one_provider_mad.journal.writer import Journal
from one_provider_mad.providers.interface import VerbatimDriver
from one_provider_mad.settings import Configuration


class Engine(Value, frozen=True, kw_only=True):
    """One cloud with the settings in force. Exactly one of `cloud` and `verbatim` is there.

    Attributes:
        configuration: the settings.
        journal: what must not be forgotten.
        cloud: a cloud whose instances carry our tags.
        finder: finds instances in it.
        costs_money: true where its instances cost money.
        verbatim: a driver that performs verbs as they were sent.
    """

    configuration: Configuration
    journal: Journal
    cloud: Cloud | None = None
    finder: Finder | None = None
    costs_money: bool = True
    verbatim: VerbatimDriver | None = None


class Sight(Value, frozen=True, kw_only=True):
    """What a POLL is answered from. Exactly one of `cloud` and `verbatim` is there.

    Attributes:
        cloud: a cloud whose instances carry our tags.
        verbatim: a driver that performs verbs as they were sent.
        is_certain: the journal says that it is the cloud of before: what it does not show may be called missing.
    """

    cloud: Cloud | None = None
    verbatim: VerbatimDriver | None = None
    is_certain: bool = True


class EngineSource(Protocol):
    """Where the engine in force comes from; it changes when the configuration file does."""

    journal: Journal | None
    """The journal, None while it cannot be opened."""

    is_journal_open: asyncio.Event
    """Set once the journal was opened."""

    @property
    def is_verbatim(self) -> bool:
        """The configuration names a driver that performs verbs as they were sent."""

    owner: str
    """Whose instances are ours; "" while there never was a usable configuration."""

    async def current(self) -> Engine:
        """The engine in force.

        Raises:
            MadError: there is none, with the sentence that every action is to answer.
        """

    async def sight(self) -> Sight:
        """What POLLs are answered from: the engine in force, and the cloud alone while the journal cannot be used.

        Raises:
            MadError: there is none, with the sentence that every POLL is to answer.
        """
