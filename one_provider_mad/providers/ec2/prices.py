"""Prices EC2's instances: finds what each is charged for, and looks up its prices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import PermissionDenied, ProviderError
from one_provider_mad.pricing.book import PriceBook
from one_provider_mad.pricing.values import ON_DEMAND, SPOT, UNKNOWN, Price
from one_provider_mad.providers.ec2.address_lookup import (
    DEFAULT_SUBNET,
    Addresses,
    Subnet,
    addresses_of,
    subnets_of,
)
from one_provider_mad.providers.ec2.batches import in_batches
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.image_disks import ImageLookup
from one_provider_mad.providers.ec2.instances import PLATFORM, VOLUMES
from one_provider_mad.providers.ec2.launch import Launch, read_launch
from one_provider_mad.providers.ec2.launch_volumes import launched_volumes
from one_provider_mad.providers.ec2.listed_prices import ListedPrices
from one_provider_mad.providers.ec2.losses import say_loss
from one_provider_mad.providers.ec2.price_items import (
    Look,
    address_item,
    compute_item,
    create_items,
    is_running,
    look_items,
    look_of,
    market_of,
    snapshot_item,
    system_of,
    volume_ids,
    volume_items,
    with_type,
)
from one_provider_mad.providers.ec2.types import DAY
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts
from one_provider_mad.providers.ec2.volume_lookup import PERIOD, Volumes
from one_provider_mad.providers.interface import Parameters

_MOST_KEPT = 50_000
"""Most prices of instances that are kept; then all are looked up anew."""


_LONGEST_WAIT = 20.0
"""Most seconds that a create waits for prices: a third of `call_timeout`."""


class Kept(NamedTuple):
    """The price of an instance, and what of the instance may change and so change the price."""

    state: InstanceState
    type_name: str
    volumes: str
    address: str
    price: Price


TYPE, ADDRESS = "AWS_INSTANCE_TYPE", "AWS_PUBLIC_IP_ADDRESS"

FREE = Price()
"""The price of an instance that is gone."""


class Prices:
    """The prices of one account's instances.

    Args:
        client: the connection to EC2.
        listed: the prices of the region.
        book: computes prices by `[prices]` and the listed ones.
        images: looks up the volumes of AMIs.
        warn: sends the operator one sentence.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        client: Client,
        listed: ListedPrices,
        book: PriceBook,
        images: ImageLookup,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._listed = listed
        self._book = book
        self._images = images
        self._warn = warn
        self._clock = clock
        self._volumes = Volumes(client, clock=clock)
        self._addresses = Addresses()
        self._subnets: Mapping[str, Subnet] = {}
        self._looks: dict[Look, Price] = {}
        self._kept: dict[DeployId, Kept] = {}
        self._asked_at: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        self._images_of_creates: dict[str, tuple[str, ...]] = {}
        self._reading = asyncio.Lock()
        self._priced_by = listed.lists

    # Reading

    @property
    def is_used(self) -> bool:
        """Return True once prices have been asked for."""
        return bool(self._asked_at)

    async def read(self, instances: Collection[Instance]) -> None:
        """Read what prices depend on, as far as it is due.

        Raises:
            ProviderError: what instances cost could not be read; what was known before stays.
        """
        async with self._reading:
            listed = list(instances)
            await self._learn_images()
            self._listed.want(set(await in_batches(listed, _systems)))
            try:
                await self._listed.read(has_spot=any(await in_batches(listed, _are_spot)))
            finally:  # also after a reading that was broken off
                self._note_lists()
            if self._is_due("subnets", DAY):
                await self._learn(
                    "new instances are priced with a public address, since subnets are not known", self._learn_subnets
                )
            await self._read_parts(listed)

    async def learn_image(self, image: str, snapshots: tuple[str, ...]) -> None:
        """Look up what the price of a create depends on, where prices are used."""
        self._images_of_creates[image] = snapshots
        if self.is_used:
            # A create does not wait for a price list that does not come; its price is then that of earlier lists.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT):
                    await self.read(())

    async def _learn_images(self) -> None:
        """Look up the images of creates since the last call, and the prices of their operating systems."""
        systems = []
        while self._images_of_creates:
            image, snapshots = self._images_of_creates.popitem()
            await self._images.learn(image, snapshots)
            if (known := self._images.known(image)) is not None:
                systems.append(system_of(known.platform))
        self._listed.want(systems)

    async def _learn_subnets(self) -> None:
        self._subnets = await subnets_of(self._client)

    async def _learn_addresses(self) -> None:
        found = await addresses_of(self._client)
        if found != self._addresses:
            self._addresses, self._kept = found, {}

    async def _learn_volumes(self, wanted: Collection[str]) -> None:
        if await self._volumes.learn(wanted):
            self._kept = {}

    async def _learn(self, loss: str, learn: Callable[[], Awaitable[None]], *, is_needed: bool = False) -> None:
        """Call `learn`; tell once of an error. What is needed in any case raises it, unless its right is missing."""
        try:
            await learn()
        except ProviderError as error:
            if is_needed and not isinstance(error, PermissionDenied):
                raise
            if self._failures.get(loss) != str(error):
                self._failures[loss] = str(error)
                sentence = f"{loss}: {error}"
                if is_needed:
                    self._warn(sentence)
                else:
                    say_loss(sentence, error, warn=self._warn)
        else:
            self._failures.pop(loss, None)

    async def _read_parts(self, instances: Sequence[Instance]) -> None:
        """Read the addresses and volumes of instances."""
        if instances and self._is_due("addresses", PERIOD):
            await self._learn("instances are priced with one public address at most", self._learn_addresses)
        wanted = await in_batches(instances, _volumes)
        await self._learn("the price of volumes is not known", partial(self._learn_volumes, wanted), is_needed=True)

    def _is_due(self, name: str, period: float) -> bool:
        now = self._clock()
        if name in self._asked_at and now - self._asked_at[name] < period:
            return False
        self._asked_at[name] = now
        return True

    def _note_lists(self) -> None:
        """Compute all prices anew when a list has changed."""
        lists = self._listed.lists
        if any(one is not other for one, other in zip(lists, self._priced_by, strict=True)):
            self._priced_by = lists
            self._kept, self._looks = {}, {}
            self._book.changed()

    # Prices

    def of(self, instance: Instance, *, state: InstanceState | None) -> Price:
        """Return what an instance costs in a state, by default in its own."""
        if state is not None and state is not instance.state:
            return FREE if state.is_gone else self._looked_up(instance, state)
        # The ledger's thread may be here while the loop reads lists: what it finds goes where it began.
        kept_prices = self._kept
        attributes = instance.attributes
        kind, volumes = attributes.get(TYPE, ""), attributes.get(VOLUMES, "")
        address = attributes.get(ADDRESS, "")
        # Compared and not hashed: a listing has ten thousand instances, and they cost what they did.
        if (kept := kept_prices.get(instance.deploy_id)) is not None and (
            kept.state is instance.state
            and kept.volumes == volumes
            and kept.address == address
            and kept.type_name == kind
        ):
            return kept.price
        if len(kept_prices) >= _MOST_KEPT:
            kept_prices.clear()
        price = FREE if instance.state.is_gone else self._looked_up(instance, instance.state)
        kept_prices[instance.deploy_id] = Kept(instance.state, kind, volumes, address, price)
        return price

    def _looked_up(self, instance: Instance, state: InstanceState) -> Price:
        looks = self._looks
        look = self._look(instance, state)
        if (known := looks.get(look)) is not None:
            return known
        if len(looks) >= _MOST_KEPT:
            looks.clear()
        price = looks[look] = self._book.price(look_items(look))
        return price

    def _look(self, instance: Instance, state: InstanceState) -> Look:
        addresses = self._address_count(instance, is_running=is_running(state))
        return look_of(instance, state=state, volumes=self._volumes.facts, addresses=addresses)

    def _address_count(self, instance: Instance, *, is_running: bool) -> int:
        """Return the number of public addresses that cost: elastic ones, and that of a running instance."""
        elastic = self._addresses.elastic.get(instance.deploy_id, 0)
        shown = instance.attributes.get(ADDRESS, "")
        if shown in self._addresses.own:
            return elastic
        if shown:  # a stopped instance shows an elastic one only
            return elastic + (is_running or not _runs(instance))
        starts = is_running and not _runs(instance) and not elastic
        return elastic + (starts and self._subnet(instance.attributes.get("AWS_SUBNET_ID", "")).gives_address)

    def _subnet(self, subnet_id: str) -> Subnet:
        return self._subnets.get(subnet_id, DEFAULT_SUBNET)

    def of_create(self, parameters: Parameters) -> Price:
        """Return what a new instance will cost while it runs."""
        launch = read_launch(parameters)
        image = self._images.known(launch.parameters.get("ImageId", ""))
        if image is None:
            return UNKNOWN
        subnet = self._subnet(launch.subnet)
        return self._book.price(
            create_items(
                launch.place.kind,
                market=SPOT if launch.place.market == SPOT else ON_DEMAND,
                zone=launch.parameters.get("Placement.AvailabilityZone") or subnet.zone,
                platform=image.platform,
                tenancy=launch.parameters.get("Placement.Tenancy", ""),
                disks=self._disks(launch),
                has_address=_has_address(launch, subnet),
            )
        )

    def disk_size(self, parameters: Parameters) -> float | None:
        """Return the GiB of all volumes of a new instance; None when one is unknown."""
        disks = self._disks(read_launch(parameters))
        sizes = [disk.size for disk in disks] if disks is not None else [None]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def _disks(self, launch: Launch) -> list[VolumeFacts] | None:
        image = self._images.known(launch.parameters.get("ImageId", ""))
        return None if image is None else launched_volumes(launch, image, self._images.snapshots)

    def of_resized(self, instance: Instance, type_name: str) -> Price:
        """Return what an instance will cost while it runs, with another type."""
        look = self._look(instance, InstanceState.RUNNING)
        return self._book.price(with_type(look_items(look), type_name))

    def of_volume(self, volume: VolumeFacts) -> Price:
        """Return what a volume costs."""
        return self._book.price(tuple(volume_items(volume)))

    def of_address(self) -> Price:
        """Return what a public IPv4 address costs, in use or not."""
        return self._book.price((address_item(),))

    def of_snapshot(self, gib: float | None) -> Price:
        """Return what a snapshot of so many GiB costs; unknown for None."""
        return self._book.price((snapshot_item(gib),))

    def of_type(self, name: str, *, market: str, platform: str = "", zone: str = "") -> Price:
        """Return what a running instance of a type costs, without disks and addresses.

        Args:
            name: the type.
            market: ON_DEMAND or SPOT.
            platform: EC2's platform details, "" for Linux.
            zone: availability zone of a spot instance, "" for the dearest one.
        """
        return self._book.price((compute_item(name, market=market, platform=platform, zone=zone),))

    def on_demand(self, name: str, *, platform: str = "") -> float | None:
        """Return the price of a running instance of a type as EC2 lists it, without `[prices]`; None when unknown."""
        return self._listed.unit(compute_item(name, platform=platform)).amount

    def zone_of(self, subnet_id: str) -> str:
        """Return the availability zone of a subnet, "" when unknown."""
        return self._subnet(subnet_id).zone


def kind_of(instance: Instance) -> tuple[str, str]:
    """Return type and market of a listed instance."""
    return instance.attributes.get(TYPE, ""), market_of(instance)


def _has_address(launch: Launch, subnet: Subnet) -> bool:
    """Return whether a new instance gets a public IPv4 address; EC2 gives none to one with several interfaces."""
    asked = launch.parameters.get("NetworkInterface.1.AssociatePublicIpAddress", "")
    has_several = any(name.startswith("NetworkInterface.2.") for name in launch.parameters)
    return asked == "true" if asked else subnet.gives_address and not has_several


def _runs(instance: Instance) -> bool:
    return is_running(instance.state)


def _volumes(instances: Sequence[Instance]) -> Iterator[str]:
    for each in instances:
        if not each.state.is_gone:
            yield from volume_ids(each.attributes.get(VOLUMES, ""))


def _systems(instances: Sequence[Instance]) -> list[str]:
    return [system_of(each.attributes.get(PLATFORM, "")) for each in instances]


def _are_spot(instances: Sequence[Instance]) -> list[bool]:
    return [market_of(each) == SPOT for each in instances]
