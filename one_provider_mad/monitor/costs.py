"""Book each listing in the ledger beside the sweeps, and tell what VMs and hosts cost; no sweep waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from one_provider_mad import metrics
from one_provider_mad.domain import Instance, VmOwner
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.cloud_source import OpenCloud
from one_provider_mad.monitor.inference import Listing
from one_provider_mad.monitor.vm_owners import VmOwners
from one_provider_mad.providers.interface import PriceSource, UnusedResource, UnusedResourceSource

if TYPE_CHECKING:
    from one_provider_mad.ledger.keeper import Costs, LedgerKeeper
    from one_provider_mad.monitor.cost_sightings import Kept

log = structlog.get_logger()

CPU_UNKNOWN = "PROVIDER_CPU_UNKNOWN"
"""Attribute of VMs whose CPU the cloud does not tell: OpenNebula has 0 for it, which must not count as idle (idle/)."""

_LOOSE_SECONDS = 900.0
"""Seconds between two listings of volumes, addresses and snapshots that no instance uses."""


def with_costs(instance: Instance, costs: CostWatch, *, is_legacy: bool = False) -> Mapping[str, str]:
    """Return the attributes to report of an instance, with those of its costs, and CPU_UNKNOWN where that is so.

    Args:
        instance: the instance.
        costs: knows what it costs.
        is_legacy: the report is one up to 5.10, where a value is one plain word: `unknown` stands for `?`.
    """
    known = costs.of_vm(instance)
    if instance.usage is not None and instance.usage.cpu is None:
        known = {**known, CPU_UNKNOWN: "YES"}
    if not known:
        return instance.attributes
    if is_legacy:
        known = {name: value.replace("?", "unknown") for name, value in known.items()}
    return {**instance.attributes, **known}


class CostWatch:
    """Books listings one at a time; a listing that comes while the one before is being booked is left out.

    Args:
        time: seconds that never go backwards.
        clock: seconds since the epoch.

    Attributes:
        may_book: False: this process is a person's trial, and must not write into a ledger in service.
        tell: takes one sentence for the operator.
    """

    def __init__(self, time: Callable[[], float], clock: Callable[[], float]) -> None:
        self._time = time
        self._clock = clock
        self._keeper: LedgerKeeper | None = None
        self._costs: Costs | None = None
        self._kept: Kept = {}
        self._owners = VmOwners(time)
        self._unwritten_owners: dict[tuple[int, int], VmOwner] = {}
        self._booking: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_at: float | None = None
        self._loose: Sequence[UnusedResource] | None = None
        self._loose_error = ""
        self._error = ""
        self.may_book = False
        self.tell: Callable[[str], None] = lambda _: None

    # What is known

    def of_vm(self, instance: Instance) -> Mapping[str, str]:
        """Return the attributes of a VM's costs; none while nothing is booked of its instance."""
        running = self._costs.vms.get(instance.deploy_id) if self._costs is not None else None
        if running is None:
            return {}
        known = {"PROVIDER_PRICE_HOUR": running.price_text, "PROVIDER_COST": running.cost_text(self._clock())}
        return {**known, "PROVIDER_CURRENCY": running.currency} if running.currency else known

    def of_host(self, host_id: int) -> Mapping[str, str]:
        """Return the attributes of a host's costs; none while nothing is booked."""
        costs = self._costs.hosts.get(host_id) if self._costs is not None else None
        if costs is None:
            return {}
        known = {"PROVIDER_PRICE_HOUR": costs.hour_text, "PROVIDER_COST_MONTH": costs.month.text}
        return {**known, "PROVIDER_CURRENCY": costs.currency} if costs.currency else known

    # Booking

    def ask(self, watched: OpenCloud, listing: Listing) -> None:
        """Begin to book a listing. Does not wait."""
        provider = watched.provider
        if not self.may_book or watched.ledger is None or not isinstance(provider, PriceSource):
            self._costs = None
            return
        self._ask_for_loose(watched)
        if self._booking is None:
            self._booking = asyncio.create_task(self._book(watched, provider, listing), name="book costs")

    async def _book(self, watched: OpenCloud, provider: PriceSource, listing: Listing) -> None:
        try:
            sentence = await asyncio.to_thread(self._book_now, watched, provider, listing)
            self._say(sentence)
        except MadError as error:
            self._costs = None
            self._say(str(error))
        except Exception:
            log.exception("booking costs failed unexpectedly")
        finally:
            self._booking = None
        if metrics.recorder is not None and self._costs is not None:
            sums = [(each.currency, each.hour, each.month.cost, each.unpriced) for each in self._costs.hosts.values()]
            metrics.recorder.booked(sums, at=None if self._error else listing.began_at)

    def _book_now(self, watched: OpenCloud, provider: PriceSource, listing: Listing) -> str:
        """Book a listing, in a thread; return why it could not be written, "" if it was."""
        from one_provider_mad.ledger.keeper import LedgerKeeper
        from one_provider_mad.monitor import cost_sightings as sightings

        if watched.ledger is None:
            return ""
        if self._keeper is None or self._keeper.path != watched.ledger:
            self._close_keeper()
            self._keeper = LedgerKeeper(watched.ledger, watched.name, warn=self._tell_soon)
        keeper, now = self._keeper, listing.began_at
        self._unwritten_owners.update(self._owners.read(watched.journal))
        owners = self._owners.known
        seen = sightings.instance_sightings(
            listing.instances, provider, owner=watched.owner, owners=owners, kept=self._kept
        )
        price_as = sightings.prices_as(listing.instances, provider)
        self._costs = keeper.book(
            seen, now=now, price_as=price_as, ended_at=lambda missing: sightings.ends_in(watched.journal, missing)
        )
        loose, self._loose = self._loose, None
        if loose is not None:
            found = sightings.loose_sightings(loose, owners=owners)
            keeper.book(found, now=now, price_as=price_as, kinds=sightings.LOOSE_KINDS)
        try:
            keeper.write()
            keeper.learn_owners(self._unwritten_owners)
            self._unwritten_owners = {}
        except MadError as error:
            return str(error)
        return ""

    def _tell_soon(self, sentence: str) -> None:
        """Warn the operator, from the booking's thread."""
        log.warning("operator warned", reason=sentence)
        self._loop_call(sentence)

    def _loop_call(self, sentence: str) -> None:
        if self._booking is not None:
            self._booking.get_loop().call_soon_threadsafe(lambda: self.tell(sentence))

    def _say(self, sentence: str) -> None:
        """Tell the operator once why nothing is written, and the log when it is again."""
        if sentence == self._error:
            return
        self._error = sentence
        if sentence:
            log.warning("costs are not booked", reason=sentence)
            self.tell(f"costs are not booked: {sentence}")
        else:
            log.info("costs are booked again")

    # Loose resources

    def _ask_for_loose(self, watched: OpenCloud) -> None:
        source, now = watched.provider, self._time()
        if not isinstance(source, UnusedResourceSource) or self._asking is not None:
            return
        if self._asked_at is None or now - self._asked_at >= _LOOSE_SECONDS:
            self._asked_at = now
            self._asking = asyncio.create_task(self._learn_loose(source, watched), name="list loose resources")

    async def _learn_loose(self, source: UnusedResourceSource, watched: OpenCloud) -> None:
        try:
            async with asyncio.timeout(watched.call_timeout):
                self._loose = await source.unused_resources(owner=watched.owner)
            self._loose_error = ""
        except (MadError, TimeoutError) as error:
            sentence = str(error) or f"no answer within {watched.call_timeout:g} s"
            if sentence != self._loose_error:
                self._loose_error = sentence
                log.warning("loose resources not booked", reason=sentence)
        except Exception:
            log.exception("listing loose resources failed unexpectedly")
        finally:
            self._asking = None

    # Ending

    def calls_under_way(self) -> list[asyncio.Task[None]]:
        """Return the tasks under way."""
        return [task for task in (self._booking, self._asking) if task is not None]

    def leave(self) -> None:
        """Leave the ledger to another front-end, which leads now; the next booking reads it anew."""
        self._costs = None
        if self._booking is None:
            self._close_keeper()

    def _close_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
