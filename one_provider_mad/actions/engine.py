"""The cloud and the journal with which the actions work; engines.py makes them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from one_provider_mad.budget.admission import UNLIMITED, Budget
from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.domain import Value
from one_provider_mad.journal.writer import Journal
from one_provider_mad.providers.interface import VerbatimDriver
from one_provider_mad.settings import Configuration

WAITING_FOR_ENGINE = "the cloud to say which account the credentials belong to"
"""What an action waits for while the driver has no engine yet, for the sentence of a missed deadline."""


class Engine(Value, frozen=True, kw_only=True):
    """The cloud, the journal and the settings in force. Exactly one of `cloud` and `verbatim` is set.

    Attributes:
        configuration: the settings.
        journal: requests, attempts, debts and imports.
        cloud: a cloud whose instances carry our tags.
        costs_money: true where its instances cost money.
        verbatim: a driver that performs verbs as they were sent.
        budget: admits what adds to the costs.
    """

    configuration: Configuration
    journal: Journal
    cloud: SharedCloud | None = None
    costs_money: bool = True
    budget: Budget = UNLIMITED
    verbatim: VerbatimDriver | None = None


class PollSource(Value, frozen=True, kw_only=True):
    """The cloud or verbatim driver that answers POLLs. Exactly one of `cloud` and `verbatim` is set.

    Attributes:
        cloud: a cloud whose instances carry our tags.
        verbatim: a driver that performs verbs as they were sent.
        is_certain: the journal confirms that the account is the one of before; only then may a VM be called missing.
    """

    cloud: SharedCloud | None = None
    verbatim: VerbatimDriver | None = None
    is_certain: bool = True


class EngineSource(Protocol):
    """Gives the engine in force, which is replaced when the configuration file changes."""

    journal: Journal | None
    """The journal, None while it cannot be opened."""

    is_journal_open: asyncio.Event
    """Set once the journal was opened."""

    @property
    def is_verbatim(self) -> bool:
        """True when the configuration names a verbatim driver, which performs each verb as it was sent (`scripts`)."""

    owner: str
    """Owner in the tags of our instances; "" while there never was a usable configuration."""

    async def current(self) -> Engine:
        """Return the engine that belongs to the present configuration file.

        Raises:
            MadError: there is none; every action fails with its sentence.
        """

    async def poll_source(self) -> PollSource:
        """Return the engine's cloud or driver for POLLs, which is there even while the journal cannot be used.

        Raises:
            MadError: there is none; every POLL fails with its sentence.
        """
