"""The groups that costs are shown by: what they are paid for, VM, user, group, type, NAME."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

from one_provider_mad.domain import InstanceState, Value
from one_provider_mad.ledger.records import INSTANCE, Span
from one_provider_mad.pricing.values import SPOT

Grouping = Literal["what", "vm", "user", "group", "type", "name", "day"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)

NOBODY, UNKNOWN = "-", "?"
"""Cells of a thing that has no VM, and of a VM whose user is unknown."""

RUNNING, STOPPED, ORPHAN = "running instances", "stopped instances", "orphans"

_STOPPED = {
    each.value
    for each in (InstanceState.STOPPING, InstanceState.STOPPED, InstanceState.SUSPENDING, InstanceState.SUSPENDED)
}

COLUMNS: Mapping[Grouping, tuple[str, ...]] = {
    "what": ("what",),
    "vm": ("vm", "user", "group"),
    "user": ("user",),
    "group": ("group",),
    "type": ("type",),
    "name": ("name",),
    "day": ("day",),
}
"""Names of the cells that identify a group."""


class Group(Value, frozen=True, kw_only=True):
    """Spans that are shown in one row.

    Attributes:
        cells: one text for each of COLUMNS.
        currency: ISO 4217 code, "" for none.
        spans: they are all of this currency, or of no known price.
    """

    cells: tuple[str, ...]
    currency: str
    spans: Sequence[Span]


_Key = tuple[object, ...]


def groups_of(spans: Iterable[Span], by: Grouping, *, orphans: Collection[str] = ()) -> list[Group]:
    """Return the groups; one whose spans are of two currencies comes twice.

    Args:
        spans: merged spans.
        by: any of GROUPINGS but `day`.
        orphans: deploy ids of the instances that no VM needs.
    """
    key = _keys(orphans)[by]
    found: dict[_Key, list[Span]] = {}
    for span in spans:
        found.setdefault(key(span), []).append(span)
    return [
        Group(cells=_cells(by, of_key, members), currency=currency, spans=part)
        for of_key, members in found.items()
        for currency, part in by_currency(members).items()
    ]


def by_currency(spans: Sequence[Span]) -> Mapping[str, Sequence[Span]]:
    """Return spans by currency; those without a known price count towards the first currency."""
    currencies = {span.currency for span in spans}
    if len(currencies) == 1:
        return {currencies.pop(): spans}
    found: dict[str, list[Span]] = {}
    unpriced: list[Span] = []
    for span in spans:
        (unpriced if _is_neutral(span) else found.setdefault(span.currency, [])).append(span)
    found.setdefault(min(found, default=""), []).extend(unpriced)
    return found


def _is_neutral(span: Span) -> bool:
    return not span.currency and not span.known


def _keys(orphans: Collection[str]) -> Mapping[Grouping, Callable[[Span], _Key]]:
    gone = frozenset(orphans)
    return {
        "what": lambda span: (_what(span, gone),),
        "vm": lambda span: (span.vm_id, span.stime) if span.vm_id >= 0 else (-1,),
        "user": lambda span: _member(span, span.owner.user_id, span.owner.user),
        "group": lambda span: _member(span, span.owner.group_id, span.owner.group),
        "type": _type,
        "name": lambda span: (span.name,),
    }


def _what(span: Span, orphans: frozenset[str]) -> str:
    if span.kind != INSTANCE:
        return f"{span.kind}{'es' if span.kind.endswith('s') else 's'} in no instance"
    if span.thing in orphans:
        return ORPHAN
    return STOPPED if span.state in _STOPPED else RUNNING


def _member(span: Span, number: int, name: str) -> _Key:
    """Return the key of a user or group: its number, since it may be renamed."""
    if span.vm_id < 0:
        return (NOBODY,)
    return (number,) if number >= 0 else (name,)


def _type(span: Span) -> _Key:
    if span.kind != INSTANCE:
        return (span.kind,)
    return (f"{span.type_name or UNKNOWN}{' (spot)' if span.market == SPOT else ''}",)


def _cells(by: Grouping, key: _Key, spans: Sequence[Span]) -> tuple[str, ...]:
    """Return the texts of a group, as its latest span has them."""
    if by not in ("vm", "user", "group"):
        return tuple(map(str, key))
    last = max(spans, key=lambda span: span.end)
    if last.vm_id < 0:
        return (NOBODY,) * len(COLUMNS[by])
    user, group = last.owner.user or UNKNOWN, last.owner.group or UNKNOWN
    return {"vm": (str(last.vm_id), user, group), "user": (user,), "group": (group,)}[by]
