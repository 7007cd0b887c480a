"""Decides whether a create, start, resize or disk stays within the limits; values in, a sentence out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from fnmatch import fnmatchcase

from one_provider_mad.budget.months import Month
from one_provider_mad.budget.settings import BudgetSettings, Limits
from one_provider_mad.domain import Value, VmOwner
from one_provider_mad.pricing.values import figure

_ROUNDING = 1e-9
"""Part of a limit by which a sum may exceed it, since sums of decimal prices are not exact in binary."""


class Scope(Value, frozen=True, kw_only=True):
    """Limits, and whose instances they count.

    Attributes:
        table: their table of the configuration, `budget.users.ada`.
        whom: whose limits they are, for a person: `user ada`.
        limits: the limits.
        user: name of the user whose instances count, None for any.
        group: name of the group whose instances count, None for any.
    """

    table: str
    whom: str
    limits: Limits
    user: str | None = None
    group: str | None = None


class Ask(Value, frozen=True, kw_only=True):
    """What a create, start, resize or disk adds to the instances that count.

    Attributes:
        what: for a person: `an instance m5.large`, `starting instance i-1`.
        amount: units of currency an hour that it adds; None when unknown.
        known: the known part of `amount`.
        price: units of currency an hour of the whole instance while it runs afterwards; None when unknown, or when the
            price of the instance is not what is asked for.
        currency: ISO 4217 code, "" where the cloud names none.
        instances: instances that it adds.
        gib: GiB of disks that it adds; None when unknown.
        type_name: type that the instance gets; "" where it keeps the one it has, or when unknown.
        is_new_type: the instance gets a type: limits on types apply.
        spot_price: units of currency an hour of a spot instance's processor and memory; None when unknown.
        is_spot: the instance is of the spot market.
    """

    what: str
    amount: float | None
    known: float = 0.0
    price: float | None = None
    currency: str = ""
    instances: int = 0
    gib: float | None = 0.0
    type_name: str = ""
    is_new_type: bool = False
    spot_price: float | None = None
    is_spot: bool = False


class Use(Value, frozen=True, kw_only=True):
    """What the instances of one scope use, without what is asked.

    Attributes:
        instances: their number.
        per_hour: units of currency an hour, of all known parts.
        month: units of currency until the month's end: booked, and what runs.
        unpriced_hours: hours booked in the month whose price is unknown.
        gib: GiB of their disks.
        unpriced: an instance whose price is unknown, "" for none.
        unsized: an instance whose disks are unknown, "" for none.
        currencies: the currencies of their prices.
    """

    instances: int = 0
    per_hour: float = 0.0
    month: float = 0.0
    unpriced_hours: float = 0.0
    gib: float = 0.0
    unpriced: str = ""
    unsized: str = ""
    currencies: frozenset[str] = frozenset()


class Refusal(Value, frozen=True, kw_only=True):
    """Why something is refused.

    Attributes:
        sentence: limit, use, what was asked, and who may change it.
        is_by_use: other instances' use is part of the reason, so that the same may be admitted later.
    """

    sentence: str
    is_by_use: bool


class Unready(Enum):
    """What the store must learn before it can decide."""

    LOOK = "the instances in the cloud of this NAME"
    BOOK = "what the ledger of this NAME has booked"


class Terms(Value, frozen=True, kw_only=True):
    """What a decision depends on besides limits and use.

    Attributes:
        file: the configuration's file, for a person.
        now: seconds since the epoch.
        month: the present month.
        may_be_unknown: `unknown_price = "allow"`.
    """

    file: str
    now: float
    month: Month
    may_be_unknown: bool = False


def scopes_for(settings: BudgetSettings, *, name: str, owner: VmOwner) -> list[Scope]:
    """Return the limits that apply to a VM of this owner: those of the whole budget, of its user and of its group.

    Args:
        settings: `[budget]`.
        name: NAME of the configuration.
        owner: the VM's user and group.
    """
    scopes = [whole_budget(settings, name=name)]
    if (limits := settings.users.get(owner.user)) is not None:
        table = f"budget.users.{owner.user}"
        scopes.append(Scope(table=table, whom=f"user {owner.user}", limits=limits, user=owner.user))
    if (limits := settings.groups.get(owner.group)) is not None:
        table = f"budget.groups.{owner.group}"
        scopes.append(Scope(table=table, whom=f"group {owner.group}", limits=limits, group=owner.group))
    return scopes


def whole_budget(settings: BudgetSettings, *, name: str) -> Scope:
    """Return the limits of all instances together."""
    whom = f"the shared budget {settings.share}" if settings.share else name
    return Scope(table="budget", whom=whom, limits=settings)


def has_limits(settings: BudgetSettings) -> bool:
    """Return True when `[budget]` sets any limit."""
    every: list[Limits] = [settings, *settings.users.values(), *settings.groups.values()]
    return any(_is_set(limits) for limits in every)


def _is_set(limits: Limits) -> bool:
    return any(getattr(limits, name) is not None for name in Limits.__struct_fields__)


def refusal(scope: Scope, use: Use, ask: Ask, terms: Terms) -> Refusal | None:
    """Return why the limits of one scope do not admit what is asked; None when they do."""
    return next(_refusals(scope, use, ask, terms), None)


def _refusals(scope: Scope, use: Use, ask: Ask, terms: Terms) -> Iterator[Refusal]:
    tell = _Sentences(scope=scope, ask=ask, terms=terms)
    yield from _by_type(scope.limits, ask, tell)
    yield from _by_unknown(scope.limits, use, ask, tell)
    yield from _by_price(scope.limits, ask, tell)
    yield from _by_sum(scope.limits, use, ask, tell)


class _Sentences(Value, frozen=True, kw_only=True):
    """Writes the sentences of one scope."""

    scope: Scope
    ask: Ask
    terms: Terms

    def limit(self, key: str, limit: str, told: str, *, is_by_use: bool) -> Refusal:
        table, whom = self.scope.table, self.scope.whom
        return Refusal(
            sentence=f"{key} of {whom} is {limit}, {told}; an administrator may change {table}.{key} in"
            f" {self.terms.file}",
            is_by_use=is_by_use,
        )

    def money(self, amount: float) -> str:
        return f"{figure(amount)} {self.ask.currency}".rstrip()

    def unknown(self, what: str, key: str, remedy: str, *, is_by_use: bool) -> Refusal:
        table, file = self.scope.table, self.terms.file
        return Refusal(
            sentence=f"{what} is unknown, and {table}.{key} counts it; an administrator may {remedy} in {file}",
            is_by_use=is_by_use,
        )


def _by_type(limits: Limits, ask: Ask, tell: _Sentences) -> Iterator[Refusal]:
    allowed = limits.allowed_types
    if allowed is None or not ask.is_new_type or any(fnmatchcase(ask.type_name, each) for each in allowed):
        return
    told = ", ".join(allowed) or "empty"
    asked = f"type {ask.type_name}" if ask.type_name else "a type that the cloud does not tell"
    yield tell.limit("allowed_types", told, f"and {ask.what} would be of {asked}", is_by_use=False)


_PRICED = ("max_per_hour", "max_per_month", "max_price_per_vm")
_REMEDY = 'set it in [prices], or unknown_price = "allow" in [budget],'


def _by_unknown(limits: Limits, use: Use, ask: Ask, tell: _Sentences) -> Iterator[Refusal]:
    if tell.terms.may_be_unknown:
        return
    priced = [key for key in _PRICED if getattr(limits, key) is not None]
    if priced and ask.amount is None:
        yield tell.unknown(f"the price of {ask.what}", priced[0], _REMEDY, is_by_use=False)
    if ask.is_spot and limits.max_spot_price is not None and ask.spot_price is None:
        yield tell.unknown(f"the spot price of {ask.what}", "max_spot_price", _REMEDY, is_by_use=False)
    sums = [key for key in priced if key != "max_price_per_vm" and ask.known > 0]
    if sums and use.unpriced:
        yield tell.unknown(f"the price of {use.unpriced}, which exists,", sums[0], _REMEDY, is_by_use=True)
    if "max_per_month" in sums and use.unpriced_hours:
        what = f"the price of {use.unpriced_hours:.1f} hours booked in {tell.terms.month.text}"
        yield tell.unknown(what, "max_per_month", 'set unknown_price = "allow" in [budget]', is_by_use=True)
    if sums and len({*use.currencies, ask.currency}) > 1:
        several = " and ".join(sorted({each or "no currency" for each in (*use.currencies, ask.currency)}))
        remedy = "set currency and rate in [prices]"
        yield tell.unknown(f"the sum of prices in {several}", sums[0], remedy, is_by_use=True)
    if limits.max_disk_gb is not None and ask.gib is None:
        yield tell.unknown(f"the size of the disks of {ask.what}", "max_disk_gb", _REMEDY, is_by_use=False)


def _by_price(limits: Limits, ask: Ask, tell: _Sentences) -> Iterator[Refusal]:
    for key, limit, price in (
        ("max_price_per_vm", limits.max_price_per_vm, ask.price),
        ("max_spot_price", limits.max_spot_price, ask.spot_price if ask.is_spot else None),
    ):
        if limit is not None and price is not None and _exceeds(price, limit):
            told = f"and {ask.what} would cost {tell.money(price)} an hour"
            yield tell.limit(key, tell.money(limit), told, is_by_use=False)


def _by_sum(limits: Limits, use: Use, ask: Ask, tell: _Sentences) -> Iterator[Refusal]:
    month, hours = tell.terms.month, tell.terms.month.hours_left(tell.terms.now)
    a_month = f"is booked or will be by {month.last_day}"
    rows: tuple[tuple[str, float | None, float, float, Callable[[float], str], str], ...] = (
        ("max_instances", limits.max_instances, use.instances, ask.instances, _count, "exist"),
        ("max_disk_gb", limits.max_disk_gb, use.gib, ask.gib or 0.0, _gib, "is in use"),
        ("max_per_hour", limits.max_per_hour, use.per_hour, ask.known, tell.money, "is in use"),
        ("max_per_month", limits.max_per_month, use.month, ask.known * hours, tell.money, a_month),
    )
    for key, limit, used, asked, written, how in rows:
        if limit is not None and asked > 0 and _exceeds(used + asked, limit):
            told = f"{written(used)} {how}, and {ask.what} would add {written(asked)}"
            yield tell.limit(key, written(limit), told, is_by_use=used > 0)


def _exceeds(amount: float, limit: float) -> bool:
    return amount > limit * (1 + _ROUNDING) + _ROUNDING


def _count(number: float) -> str:
    return f"{number:.0f}"


def _gib(size: float) -> str:
    return f"{size:g} GiB"
