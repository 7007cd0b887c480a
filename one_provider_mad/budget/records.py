"""The values that the store of budgets holds."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.domain import Identity, Value, VmOwner
from one_provider_mad.pricing.values import SPOT, Kind, Price


class Wish(Value, frozen=True, kw_only=True):
    """What a create, start, resize or disk will make of one instance.

    Attributes:
        key: token of the create, "" for an instance that exists.
        deploy_id: the instance, "" for one that is to be created.
        identity: of the instance's create.
        owner: the VM's user and group.
        what: for a person, `an instance m5.large`.
        price: of the whole instance while it runs; of the disk alone where `is_part`.
        gib: GiB of all disks, of the disk alone where `is_part`; None when unknown.
        is_part: price and GiB come on top of the instance's present ones.
        is_new_type: limits on types apply.
        type_name: the instance type; None where it is the name of the price's compute part.
    """

    key: str = ""
    deploy_id: str = ""
    identity: Identity
    owner: VmOwner
    what: str
    price: Price
    gib: float | None
    is_part: bool = False
    is_new_type: bool = False
    type_name: str | None = None

    @property
    def kind(self) -> tuple[str, bool, float | None]:
        """Return the type, whether it is of the spot market, and the price of processor and memory."""
        for part in self.price.parts:
            if part.item.kind is Kind.COMPUTE:
                name = part.item.name if self.type_name is None else self.type_name
                return name, part.item.market == SPOT, part.amount
        return self.type_name or "", False, None


class Observed(Value, frozen=True, kw_only=True, gc=False):
    """An instance of ours as a complete listing shows it.

    Attributes:
        deploy_id: the instance.
        vm_id: its VM.
        stime: STIME of its VM.
        seq: SEQ of its create.
        is_ended: it is terminated.
        is_ending: it is terminating: it counts as before until it is terminated.
        amount: units of currency an hour in its present state; None when a part is unknown.
        known: sum of the known parts.
        currency: ISO 4217 code.
        gib: GiB of its disks; None when unknown.
        created_at: seconds since the epoch, 0 when unknown.
        owner: user and group of its VM, as far as they are known.
    """

    deploy_id: str
    vm_id: int
    stime: int
    seq: int
    is_ended: bool
    is_ending: bool
    amount: float | None
    known: float
    currency: str
    gib: float | None
    created_at: float
    owner: VmOwner = VmOwner()


class Spent(Value, frozen=True, kw_only=True):
    """What a ledger has booked in a month.

    Attributes:
        as_of: time of the latest booked listing, seconds since the epoch; 0 without a ledger.
        costs: units of currency by user and group, what nobody saw included.
        unpriced: hours by user and group whose price is unknown; every key is one of `costs`.
    """

    as_of: float
    costs: Mapping[tuple[str, str], float]
    unpriced: Mapping[tuple[str, str], float] = {}


class Level(Value, frozen=True, kw_only=True):
    """How far one limit is used.

    Attributes:
        table: table of the limit, `budget.users.ada`.
        key: name of the limit, `max_per_hour`.
        used: in the limit's unit.
        limit: in the same unit.
    """

    table: str
    key: str
    used: float
    limit: float


class MonthUse(Value, frozen=True, kw_only=True):
    """How far one limit of costs a month is used until now.

    Attributes:
        table: table of the limit, `budget.users.ada`.
        whom: whose limit it is, for a person: `user ada`.
        limit: units of currency.
        spent: units of currency that are spent so far.
        per_hour: units of currency an hour that are spent now.
        currency: ISO 4217 code, "" where there are several or none.
        deploy_ids: the instances of this NAME that count.
    """

    table: str
    whom: str
    limit: float
    spent: float
    per_hour: float
    currency: str
    deploy_ids: frozenset[str]


def gib_of(price: Price) -> float | None:
    """Return the GiB of all disks in a price; None when the price or the size of one is unknown."""
    sizes = [part.item.quantity for part in price.parts if part.item.kind is Kind.DISK]
    if price.is_unknown or any(size is None for size in sizes):
        return None
    return sum(size for size in sizes if size is not None)
