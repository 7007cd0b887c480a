"""The table `[simulated]` of the configuration, and the cloud's instance types."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import time
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from one_provider_mad.errors import BadParameter

Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


Amount = Annotated[float, Meta(ge=0)]


class InstanceType(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One size of instance."""

    cpu: Annotated[float, Meta(gt=0)]
    """Cores; compared with a VM's CPU."""

    memory: Annotated[int, Meta(gt=0)]
    """MiB; compared with a VM's MEMORY."""

    price: Amount | None = None
    """Units of currency an hour while an instance of this type runs; unset: unknown."""

    gpus: Count = 0
    """Number of GPUs."""

    gpu: str = ""
    """Maker and model of the GPUs, such as `NVIDIA T4`."""

    architecture: Annotated[str, Meta(min_length=1)] = "x86_64"
    """Architecture of the machine: `x86_64`, `arm64`."""


class CloudPrices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[simulated.prices]`: what this cloud charges besides the prices of its instance types.

    A type's price is charged while the instance is pending or running, `stopped` of it while it is stopping, stopped,
    suspending or suspended. Disks and the address are charged from the create on. Nothing is charged from the call on
    that terminates the instance; one that is taken back is charged until it is terminated. Snapshots are free.
    """

    currency: str = "USD"
    """ISO 4217 code of this cloud's prices."""

    stopped: Share = 0.0
    """Part of its type's price that a stopped instance costs: 0 as in EC2, 1 in a cloud that charges all the same."""

    spot: Share = 0.3
    """Part of its type's price that an instance of the spot market costs (`SPOT=YES`)."""

    disk: Amount = 0.073
    """Price of disks: units of currency for a GiB and month of 730 hours."""

    address: Amount = 0.005
    """Price of the address that every instance has until it is terminated: units of currency an hour."""


BUILT_IN_TYPES: Mapping[str, InstanceType] = {
    "small_256mb": InstanceType(cpu=1, memory=256, price=0.005),
    "small_512mb": InstanceType(cpu=1, memory=512, price=0.01),
    "medium_1gb": InstanceType(cpu=1, memory=1024, price=0.02),
    "medium_2gb": InstanceType(cpu=2, memory=2048, price=0.04),
    "large_4gb": InstanceType(cpu=2, memory=4096, price=0.06),
    "large_8gb": InstanceType(cpu=4, memory=8192, price=0.12),
    "xlarge_16gb": InstanceType(cpu=8, memory=16384, price=0.24),
}
"""The default instance types; `small_256mb` is the cloud bursting guide's own example."""


LISTINGS = ("describe", "find", "list_instances")
"""Calls that list instances: by id, by tags, and all of them."""

ACCOUNT = "account"
"""The first call after every edit of the configuration. A fault hits it only if it is named: settings that fail are
not accepted (decision 3), and an outage ordered while the driver runs would never come into force."""

CALLS = (
    *(ACCOUNT, "create", "start", "stop", "reboot", "destroy", "retag", "write_tags", *LISTINGS, "suspend"),
    *("create_snapshot", "revert_snapshot", "delete_snapshot"),
    *("attach_disk", "detach_disk", "create_disk_snapshot", "revert_disk_snapshot", "resize_disk"),
    *("attach_nic", "detach_nic", "resize", "update_context", "update_security_group", "update_nic"),
)
"""All calls of the driver to this cloud, in the words of providers/interface.py."""


def _check_calls(names: Collection[str], known: Collection[str] = CALLS) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"there is no call {name}, known are {', '.join(known)}")


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls a fault hits; by default all of them, every time."""

    calls: tuple[str, ...] = ()
    """Names of calls; empty: all but `account`."""

    rate: Share = 1.0
    """Part of these calls that the fault hits, chosen at random."""

    times: Count = 0
    """How many calls the fault hits in all, 0 for any number; counted by each process, and anew when a setting
    changes."""

    def __post_init__(self) -> None:
        """Refuse a call that does not exist: the fault would never show."""
        _check_calls(self.calls)


class ListingOrder(Order, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `Order`, for calls that list instances."""

    def __post_init__(self) -> None:
        """Refuse a call that lists nothing."""
        _check_calls(self.calls, LISTINGS)


class RefusalOrder(Order, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `Order`, and with which error the cloud refuses."""

    error: Literal[
        "AuthenticationRefused",
        "PermissionDenied",
        "BadParameter",
        "NoCapacity",
        "QuotaExceeded",
        "InstanceNotFound",
        "WrongState",
    ] = "PermissionDenied"
    """Kind of error (errors.py) that the call raises; each of these kinds means that nothing was changed."""


class DelayOrder(Order, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `Order`, and for how long."""

    seconds: Seconds
    """Seconds between the call's effect and its answer."""


class Unseen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Instances that a listing leaves out without an error. They are the same ones in every listing."""

    share: Share = 1.0
    """Part of all instances that is left out."""

    calls: tuple[str, ...] = ()
    """Listings that leave instances out; empty: all listings."""

    def __post_init__(self) -> None:
        """Refuse a call that lists nothing."""
        _check_calls(self.calls, LISTINGS)


class Window(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time of each day, by the machine's clock: all processes see the same window, whenever they were started."""

    begin: time = field(name="from")
    """Local time, as `14:30:00`."""

    end: time = field(name="to")
    """Local time; where it is not after `from`, the window goes on past midnight."""

    def __contains__(self, moment: time) -> bool:
        if self.begin < self.end:
            return self.begin <= moment < self.end
        return moment >= self.begin or moment < self.end


class Crash(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The point at which the process kills itself, as kill -9 would."""

    at: str
    """`before-` or `after-` and the name of a call: just before it takes effect, or just after, unanswered."""

    times: Count = 1
    """Number of crashes in all, 0 for every time. Counted in the file `<database>.crashes`, a line for each, so that
    the next process continues the count; remove that file to begin anew."""

    def __post_init__(self) -> None:
        """Refuse a point that no process ever reaches."""
        moment, _, call = self.at.partition("-")
        if moment not in ("before", "after"):
            raise ValueError(f"at: expected before- or after- and the name of a call, got {self.at}")
        _check_calls((call,))


class FaultSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[simulated.faults]`: faults on purpose. Every process applies the table to its own calls."""

    seed: int | str | None = None
    """Makes random faults repeatable: in two runs with the same seed, the n-th call of a name has the same result.
    Unset: different each time."""

    calls_a_second: Count = 0
    """Limit of a process's calls in any one second; more are throttled. 0: no limit."""

    transient: Order | None = None
    """Calls that are not answered and had no effect; their sender cannot know that they had none."""

    permanent: RefusalOrder | None = None
    """Calls that are refused with an error that a retry does not cure."""

    hangs: Order | None = None
    """Calls that never return, and have no effect."""

    lost_answers: Order | None = None
    """Calls that are not answered although they took effect."""

    late_answers: DelayOrder | None = None
    """Calls that take effect at once and are answered later: a listing is then old when it arrives."""

    broken_listings: ListingOrder | None = None
    """Listings that fail after their first page."""

    unseen: Unseen | None = None
    """Instances that listings leave out without an error."""

    full: Literal["", "NoCapacity", "QuotaExceeded"] = ""
    """The cloud makes no further instance, of any type: as if it lacked capacity, or as if a limit of the account were
    reached, which its capacity then shows. Empty: it has room again."""

    no_capacity: tuple[str, ...] = ()
    """Instance types without capacity, even if there are few instances."""

    outage: bool = False
    """No call but `account` is answered, until this is set to false."""

    outages: tuple[Window, ...] = ()
    """Times of the day at which no call but `account` is answered."""

    crash: Crash | None = None
    """The points at which the process kills itself."""


class SimulatedSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[simulated]`."""

    database: str = ""
    """Path of the cloud's SQLite file; empty: `<NAME>.db` in OpenNebula's var directory, so that both programs of one
    NAME share a cloud without further configuration."""

    account: Annotated[str, Meta(min_length=1)] = "simulated"
    """Name of the account; the driver refuses any name but the first that it has seen."""

    region: Annotated[str, Meta(min_length=1)] = "embedded"
    """Name of the region; the driver refuses any name but the first that it has seen."""

    api_key: Annotated[str, Meta(extra={"secret": True})] = ""
    """Key of the account; the first process to open the database sets it, another key is refused, so that wrong
    credentials can be tried out."""

    latency: Seconds = 0.0
    """Seconds every call but `account` takes before it is carried out; real clouds need 0.1 to 1."""

    jitter: Seconds = 0.0
    """Seconds; up to so much more for each call, at random, so that calls overtake each other."""

    boot_time: Seconds = 0.05
    """Cloud seconds from a create or start until the instance runs; small, so that trying things out is quick."""

    stop_time: Seconds = 0.05
    """Cloud seconds a stop takes; a hard stop takes none."""

    suspend_time: Seconds = 0.05
    """Cloud seconds a suspend takes."""

    destroy_time: Seconds = 0.05
    """Cloud seconds from a destroy until the instance is terminated."""

    listing_lag: Seconds = 0.0
    """Cloud seconds for which a new instance is not listed; real clouds are only eventually consistent."""

    time_scale: Annotated[float, Meta(gt=0)] = 1.0
    """Cloud seconds in one real second; with 60 a lag of a minute passes in a second."""

    max_instances: Count = 0
    """Limit of instances in the account, 0 for none."""

    capacity: dict[str, Count] = {}
    """Limit of instances of a type; a type that is not named has none."""

    images: list[str] = []
    """Image ids that exist; empty: every id does, so that any template can be tried."""

    instance_types: dict[str, InstanceType] = {}
    """Further instance types, or other sizes and prices for the built-in ones."""

    visibility_grace: Seconds | None = None
    """Real seconds after a create in which the driver must not conclude that there is no instance; unset: the listing
    lag and a tenth of a second more."""

    shortage_memory: Seconds = 600.0
    """Seconds for which a type without capacity counts as such; while all types of `[capacity.instance_types]`, or all
    that there are, count so, the host shows no free capacity."""

    watch_interval: Annotated[float, Meta(gt=0)] = 0.05
    """Real seconds between two lookups while the driver waits for a state; one in a local file costs little."""

    prices: CloudPrices = CloudPrices()
    """What this cloud charges."""

    faults: FaultSettings = FaultSettings()
    """Faults on purpose."""

    def __post_init__(self) -> None:
        """Refuse a limit for an unknown type: a typing error would go unnoticed."""
        for key, names in (("capacity", self.capacity), ("faults.no_capacity", self.faults.no_capacity)):
            for name in names:
                if name not in self.offer.types:
                    raise ValueError(f"{key} names the instance type {name}, which is not known; {self.offer.choice}")

    @property
    def offer(self) -> Offer:
        """Return the cloud's instance types and images."""
        return Offer(types={**BUILT_IN_TYPES, **self.instance_types}, images=tuple(self.images))

    @property
    def grace(self) -> float:
        """Return `visibility_grace`, or its default from the listing lag."""
        if self.visibility_grace is not None:
            return self.visibility_grace
        return self.listing_lag / self.time_scale + 0.1


class Offer(Struct, frozen=True, kw_only=True):
    """The instance types and images of the cloud.

    Attributes:
        types: name to size.
        images: ids that exist, empty when every id does.
    """

    types: Mapping[str, InstanceType]
    images: tuple[str, ...] = ()

    @property
    def choice(self) -> str:
        """Return the types as the end of a sentence."""
        return f"known are {', '.join(self.types)}"

    def size(self, type_name: str) -> InstanceType:
        """Return the size of a type. Raises BadParameter with the known ones."""
        try:
            return self.types[type_name]
        except KeyError:
            raise BadParameter(
                f"instance type {type_name} is not known to the simulated cloud, {self.choice}"
            ) from None

    def check_image(self, image: str) -> None:
        """Raise BadParameter, with the known images, for an unknown image."""
        if self.images and image not in self.images:
            known = ", ".join(self.images)
            raise BadParameter(f"image {image} is not known to the simulated cloud, known are {known}")

    def smallest(self, *, cpu: float, memory: float) -> str:
        """Return the smallest type with so many cores and MiB. Raises BadParameter when none is so large."""
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
