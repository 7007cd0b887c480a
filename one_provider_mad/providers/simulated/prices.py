"""What instances of the simulated cloud cost, by the prices of its settings; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from one_provider_mad.domain import Instance, InstanceState
from one_provider_mad.pricing.book import PriceBook
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.pricing.values import MONTH_HOURS, ON_DEMAND, SPOT, UNKNOWN, Item, Kind, Price, UnitPrice
from one_provider_mad.providers.interface import InstanceType
from one_provider_mad.providers.simulated.cloud import Launch
from one_provider_mad.providers.simulated.hardware import DISKS, MARKET
from one_provider_mad.providers.simulated.settings import SimulatedSettings

SOURCE = "[simulated]"
"""Source of this cloud's prices: the tables of the configuration."""

DISK, ADDRESS = "disk", "address"
"""This cloud's one kind of disk, and its one kind of address."""

MIB_PER_GIB = 1024
"""SIZE of a DISK is in MiB, though OpenNebula writes MB."""

_MOST_KEPT = 20_000
"""Most combinations of type, market, disks and state whose price is kept; there are far fewer than instances."""

_CHARGED_IN_FULL = (InstanceState.PENDING, InstanceState.RUNNING)
"""States in which an instance costs the price of its type; in the others the share `stopped` of it."""


class Prices:
    """Prices of this cloud's instances.

    Args:
        settings: the table `[simulated]`.
        configured: the table `[prices]`, which wins.
    """

    def __init__(self, settings: SimulatedSettings, configured: PriceSettings) -> None:
        self._types = settings.offer.types
        self._prices = settings.prices
        self._book = PriceBook(configured, self._listed)
        self._whole = lru_cache(_MOST_KEPT)(self._computed)

    def of_instance(self, instance: Instance, state: InstanceState) -> Price:
        """Return what an instance costs in a state."""
        if state.is_gone:
            return self._book.price(())
        facts = instance.attributes
        type_name = facts.get("SIM_INSTANCE_TYPE", "")
        if not type_name:
            return UNKNOWN
        return self._whole(type_name, facts.get(MARKET, ""), facts.get(DISKS, ""), state in _CHARGED_IN_FULL)

    def of_launch(self, launch: Launch) -> Price:
        """Return what a new instance costs while it runs."""
        sizes = [disk.size for disk in launch.disks.values()]
        return self._book.price((_compute(launch.type, launch.market), *map(_disk, sizes), _ADDRESS))

    def of_disk(self, size: float) -> Price:
        """Return what a disk of so many MB costs."""
        return self._book.price((_disk(size),))

    def of_type(self, name: str, market: str) -> Price:
        """Return what a running instance of a type costs, without disks and address."""
        return self._book.price((_compute(name, market),))

    def _computed(self, type_name: str, market: str, disks: str, is_running: bool) -> Price:  # noqa: FBT001 a key of a cache
        compute = _compute(type_name, market, is_running=is_running)
        return self._book.price((compute, *map(_disk, sizes_in(disks)), _ADDRESS))

    def _listed(self, item: Item) -> UnitPrice:
        """Return this cloud's price of one unit."""
        amount = self._of_type(item) if item.kind is Kind.COMPUTE else self._of_part(item.kind)
        return UnitPrice(amount=amount, currency=self._prices.currency, source=SOURCE)

    def _of_type(self, item: Item) -> float | None:
        kind = self._types.get(item.name)
        if kind is None or kind.price is None:
            return None
        price = kind.price * (self._prices.spot if item.market == SPOT else 1)
        return price if item.is_running else price * self._prices.stopped

    def _of_part(self, kind: Kind) -> float:
        return self._prices.address if kind is Kind.ADDRESS else self._prices.disk / MONTH_HOURS


_ADDRESS = Item(kind=Kind.ADDRESS, name=ADDRESS)


def kind_of(instance: Instance) -> tuple[str, str]:
    """Return an instance's type and market."""
    facts = instance.attributes
    return facts.get("SIM_INSTANCE_TYPE", ""), facts.get(MARKET, ON_DEMAND)


def instance_types(settings: SimulatedSettings) -> Mapping[str, InstanceType]:
    """Return the cloud's instance types by name."""
    return {
        name: InstanceType(
            name=name,
            cpu=kind.cpu,
            memory=kind.memory,
            gpus=kind.gpus,
            gpu=kind.gpu,
            architectures=(kind.architecture,),
            family=name.partition("_")[0],
        )
        for name, kind in settings.offer.types.items()
    }


def sizes_in(text: str) -> Iterator[float]:
    """Yield the MB of each disk in the attribute SIM_DISKS, `0:8192,1:1024`."""
    for each in filter(None, text.split(",")):
        yield float(each.partition(":")[2])


def _compute(type_name: str, market: str, *, is_running: bool = True) -> Item:
    return Item(kind=Kind.COMPUTE, name=type_name, market=market or ON_DEMAND, is_running=is_running)


def _disk(size: float) -> Item:
    return Item(kind=Kind.DISK, name=DISK, quantity=size / MIB_PER_GIB)
