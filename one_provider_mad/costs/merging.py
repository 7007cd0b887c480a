"""Merges the ledgers of several NAMEs and front-ends, so that each second of each thing is counted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import pairwise

from msgspec.structs import replace

from one_provider_mad.domain import Value
from one_provider_mad.ledger.records import Span

Thing = tuple[str, str, int, int]
"""Kind, id, VM and STIME: ids alone are not unique, since partners number their VMs from 0."""


class Ledger(Value, frozen=True, kw_only=True):
    """The content of one ledger.

    Attributes:
        label: NAME or file, for a person.
        as_of: when it was last written, seconds since the epoch; 0 when it is empty.
        spans: its spans, in any order.
    """

    label: str
    as_of: float
    spans: Sequence[Span]


def thing_of(span: Span) -> Thing:
    """Return what tells the thing of a span from every other."""
    return span.kind, span.thing, span.vm_id, span.stime


def merged(ledgers: Sequence[Ledger]) -> list[Span]:
    """Return the spans of all ledgers without overlaps; of each thing at most the last span is open.

    Where spans overlap, one that was seen wins over one that was not, then one whose price is known, then the one that
    lasts longer. Where two ledgers have a thing in common, they saw the same cloud, and the fresher one tells what is
    still there.
    """
    by_thing: dict[Thing, list[Span]] = {}
    for spans in _with_open_ends(ledgers):
        for span in spans:
            by_thing.setdefault(thing_of(span), []).append(span)
    return [span for spans in by_thing.values() for span in _in_a_row(spans)]


def continued(spans: Iterable[Span], *, until: float, patience: float) -> list[Span]:
    """Return the spans, and for each open one that ends more than `patience` seconds before `until` an assumed rest.

    So a thing whose driver does not run goes on costing: the cloud charges for it all the same.
    """
    found = []
    for span in spans:
        if span.is_open and until - span.end > patience:
            found += [replace(span, is_open=False), replace(span, begin=span.end, end=until, is_seen=False)]
        else:
            found.append(span)
    return found


def _with_open_ends(ledgers: Sequence[Ledger]) -> list[Sequence[Span]]:
    """Return the spans of each ledger, closed where a fresher ledger of the same cloud tells what is there."""
    if len(ledgers) == 1:
        return [ledgers[0].spans]
    things = [{thing_of(span) for span in each.spans} for each in ledgers]
    return [
        _closed(each.spans) if _is_outdated(place, ledgers, things) else each.spans
        for place, each in enumerate(ledgers)
    ]


def _is_outdated(place: int, ledgers: Sequence[Ledger], things: Sequence[set[Thing]]) -> bool:
    own = ledgers[place]
    return any(
        (other.as_of, -position) > (own.as_of, -place) and not things[position].isdisjoint(things[place])
        for position, other in enumerate(ledgers)
    )


def _closed(spans: Iterable[Span]) -> list[Span]:
    return [replace(span, is_open=False) if span.is_open else span for span in spans]


def _in_a_row(spans: list[Span]) -> list[Span]:
    """Return the spans of one thing one after the other."""
    if len(spans) == 1:
        return spans
    spans.sort(key=_begin)
    if any(earlier.end > later.begin for earlier, later in pairwise(spans)):
        spans = _chosen(spans)
    if any(span.is_open for span in spans[:-1]):
        spans = [*_closed(spans[:-1]), spans[-1]]
    return spans


def _begin(span: Span) -> float:
    return span.begin


def _chosen(spans: Sequence[Span]) -> list[Span]:
    """Return the best span of each moment, from spans in order of their begin."""
    moments = sorted({moment for span in spans for moment in (span.begin, span.end)})
    waiting = iter(enumerate(spans))
    following = next(waiting, None)
    best: list[tuple[bool, bool, float, int]] = []
    found: list[tuple[int, float, float]] = []
    for begin, end in pairwise(moments):
        while following is not None and following[1].begin <= begin:
            heappush(best, (*_rank(following[1]), following[0]))
            following = next(waiting, None)
        while best and spans[best[0][-1]].end <= begin:
            heappop(best)
        if best:
            _extend(found, best[0][-1], begin, end)
    return [_cut(spans[place], begin, end) for place, begin, end in found]


def _rank(span: Span) -> tuple[bool, bool, float]:
    return not span.is_seen, span.amount is None, -span.end


def _extend(found: list[tuple[int, float, float]], place: int, begin: float, end: float) -> None:
    if found and found[-1][0] == place and found[-1][2] == begin:
        begin = found.pop()[1]
    found.append((place, begin, end))


def _cut(span: Span, begin: float, end: float) -> Span:
    return replace(span, begin=begin, end=end, is_open=span.is_open and end == span.end)
