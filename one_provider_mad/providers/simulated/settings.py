"""What the operator can set about the simulated cloud, and what that cloud has on offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from one_provider_mad.errors import BadParameter

Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]


class InstanceType(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One size of instance."""

    cpu: Annotated[float, Meta(gt=0)]
    """Cores; what a VM's CPU is compared with."""

    memory: Annotated[int, Meta(gt=0)]
    """MiB; what a VM's MEMORY is compared with."""


BUILT_IN_TYPES: Mapping[str, InstanceType] = {
    "small_256mb": InstanceType(cpu=1, memory=256),
    "small_512mb": InstanceType(cpu=1, memory=512),
    "medium_1gb": InstanceType(cpu=1, memory=1024),
    "medium_2gb": InstanceType(cpu=2, memory=2048),
    "large_4gb": InstanceType(cpu=2, memory=4096),
    "large_8gb": InstanceType(cpu=4, memory=8192),
    "xlarge_16gb": InstanceType(cpu=8, memory=16384),
}
"""What the cloud offers without being told; `small_256mb` is the cloud bursting guide's own example."""


class SimulatedSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[simulated]`."""

    database: str = ""
    """Path of the SQLite file that is the cloud; empty: `<NAME>.db` in OpenNebula's var directory, so that both
    programs of one NAME share a cloud without a word of configuration."""

    account: Annotated[str, Meta(min_length=1)] = "simulated"
    """Name of the account; the driver refuses to go on with another one than it has seen first."""

    region: Annotated[str, Meta(min_length=1)] = "embedded"
    """Name of the region; as `account`."""

    api_key: Annotated[str, Meta(extra={"secret": True})] = ""
    """Key of the account; the first one to open the database sets it, another one is refused, so that wrong
    credentials can be tried out."""

    latency: Seconds = 0.0
    """Seconds every call takes before it is carried out; real clouds need 0.1 to 1."""

    jitter: Seconds = 0.0
    """Seconds; up to so much more for each call, evenly spread, so that calls overtake each other."""

    boot_time: Seconds = 0.05
    """Cloud seconds from a create or start until the instance runs; small, so that trying things out is quick."""

    stop_time: Seconds = 0.05
    """Cloud seconds a stop takes; a hard stop takes none."""

    suspend_time: Seconds = 0.05
    """Cloud seconds it takes to suspend."""

    destroy_time: Seconds = 0.05
    """Cloud seconds from a destroy until the instance is terminated."""

    listing_lag: Seconds = 0.0
    """Cloud seconds in which a new instance cannot be seen; real clouds are consistent only after a while."""

    time_scale: Annotated[float, Meta(gt=0)] = 1.0
    """Cloud seconds in one real second; 60 lets a lag of a minute pass in a second."""

    max_instances: Count = 0
    """How many instances the account may have, 0 for any number."""

    capacity: dict[str, Count] = {}
    """How many instances of a type the cloud has room for; a type that is not named has no limit."""

    images: list[str] = []
    """Image ids that exist; empty: every one does, so that a template can be tried as it is."""

    instance_types: dict[str, InstanceType] = {}
    """Further instance types, or other sizes for the built-in ones."""

    visibility_grace: Seconds | None = None
    """Real seconds after a create in which the driver must not believe that an instance is not there; unset: the
    listing lag and a tenth of a second more."""

    watch_interval: Annotated[float, Meta(gt=0)] = 0.05
    """Real seconds between two looks while the driver waits for a state; a look at a local file costs little."""

    def __post_init__(self) -> None:
        """Refuse a limit for a type that is not on offer: it is a typing error that would go unnoticed."""
        for name in self.capacity:
            if name not in self.offer.types:
                raise ValueError(f"capacity names the instance type {name}, which is not known; {self.offer.choice}")

    @property
    def offer(self) -> Offer:
        """What the cloud has to choose from."""
        return Offer(types={**BUILT_IN_TYPES, **self.instance_types}, images=tuple(self.images))

    @property
    def grace(self) -> float:
        """`visibility_grace`, or what follows from the listing lag."""
        if self.visibility_grace is not None:
            return self.visibility_grace
        return self.listing_lag / self.time_scale + 0.1


class Offer(Struct, frozen=True, kw_only=True):
    """Instance types and images to choose from.

    Attributes:
        types: name to size.
        images: ids that exist, empty when every id does.
    """

    types: Mapping[str, InstanceType]
    images: tuple[str, ...] = ()

    @property
    def choice(self) -> str:
        """The types as the end of a sentence."""
        return f"known are {', '.join(self.types)}"

    def size(self, type_name: str) -> InstanceType:
        """Size of a type. Raises BadParameter naming the known ones."""
        try:
            return self.types[type_name]
        except KeyError:
            raise BadParameter(
                f"instance type {type_name} is not known to the simulated cloud, {self.choice}"
            ) from None

    def check_image(self, image: str) -> None:
        """Raise BadParameter naming the known images, unless this is one."""
        if self.images and image not in self.images:
            known = ", ".join(self.images)
            raise BadParameter(f"image {image} is not known to the simulated cloud, known are {known}")

    def smallest(self, *, cpu: float, memory: float) -> str:
        """Name of the smallest type that has so many cores and MiB. Raises BadParameter when none is so large."""
        fitting = [
            (size.memory, size.cpu, name)
            for name, size in self.types.items()
            if size.cpu >= cpu and size.memory >= memory
        ]
        if not fitting:
            raise BadParameter(
                f"no instance type of the simulated cloud has CPU={cpu:g} and MEMORY={memory:g}, {self.choice}"
            )
        return min(fitting)[2]
