"""Composes the rank by which VMs fill the hosts at home first, and there are packed or spread as before.

OpenNebula evaluates a RANK for each host in single precision (24 bits), and cuts the result to an integer of 32 bits; a
name stands for that attribute of the host or else of its cluster, 0 when both lack it (src/parsers/expr_arith.y). Where
a host has no PRIORITY, `PRIORITY * N + (E)` is therefore exactly E, whatever N is: nothing at home is lost. N has to
exceed what two hosts can differ by in E. A result that does not fit into 32 bits counts -2^31, on x86 and for negative
ones on ARM as well: such a cloud is still the last choice, but equal to others like it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.domain import Value

PRIORITY = "PRIORITY"
"""The host's attribute that POLICY = 4 ranks by; the driver sends -1 for a cloud."""

PACKING, STRIPING, LOAD_AWARE, CUSTOM, FIXED = "0", "1", "2", "3", "4"
"""Values of POLICY (mm_sched's and rank's SchedulerTemplate.cc)."""

SHIPPED: Mapping[str, str] = {"POLICY": STRIPING}
"""DEFAULT_SCHED as shipped by every release, which also counts where a file has none."""

_EXPRESSIONS: Mapping[str, str] = {PACKING: "RUNNING_VMS", STRIPING: "- RUNNING_VMS", LOAD_AWARE: "FREE_CPU"}

_LEAST, _MOST = 10**6, 2 * 10**9
"""Bounds of N. With the least, prices in PRIORITY may differ by 0.01 where one cloud runs 10,000 VMs more than another;
with the most, PRIORITY = -1 still fits into 32 bits, and N is more than the memory of any host."""

_GREATEST: Mapping[str, float] = {"RUNNING_VMS": 1e5, "CPU": 999_999.0, "MEM": 2.0**30}
"""The greatest value of an attribute whose name has this word: CPU in percent, memory in KiB. A cloud without a known
limit reports so much memory (monitor/settings.py)."""

_GREATEST_ELSE = 999_999.0

_TOKEN = re.compile(r'(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<name>[A-Za-z][0-9A-Za-z_]*|"[^"]*")|(?P<sign>[-+*/()])')
"""As OpenNebula's scanner takes them: a minus sign belongs to the digits after it, so that `A -1` has no operator."""


class UnreadableRank(ValueError):
    """OpenNebula cannot evaluate an expression; it then counts 0 for every host."""


class Policy(Value, frozen=True, kw_only=True):
    """How the scheduler ranks hosts.

    Attributes:
        number: POLICY; "3" is a custom RANK.
        expression: the expression that it evaluates for each host; "" counts 0.
    """

    number: str
    expression: str

    @property
    def has_priority(self) -> bool:
        """True if PRIORITY decides already, alone or in an expression that OpenNebula can evaluate."""
        try:
            return PRIORITY in Expression(self.expression).names
        except UnreadableRank:
            return False


class HomeFirst(Value, frozen=True, kw_only=True):
    """A rank with PRIORITY.

    Attributes:
        rank: the expression.
        factor: N.
        is_readable: False if OpenNebula cannot evaluate the former expression, which is left out then.
    """

    rank: str
    factor: int
    is_readable: bool = True

    @property
    def last(self) -> int:
        """The PRIORITY below which clouds count alike."""
        return -(2**31 // self.factor)


class Expression:
    """An expression, with the names in it and the range of its values.

    Args:
        text: the expression; an empty one is 0.

    Raises:
        UnreadableRank: OpenNebula cannot evaluate it.
    """

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self.names = {value for kind, value in self._tokens if kind == "name"}
        self.range = self._sum() if self._tokens else (0.0, 0.0)
        if self._at < len(self._tokens):
            raise UnreadableRank(f"{text!r} has no operator before {self._tokens[self._at][1]!r}")

    def _sum(self) -> tuple[float, float]:
        found = self._product()
        while (sign := self._next_of("+", "-")) is not None:
            low, high = self._product()
            found = (found[0] + low, found[1] + high) if sign == "+" else (found[0] - high, found[1] - low)
        return found

    def _product(self) -> tuple[float, float]:
        found = self._factor()
        while (sign := self._next_of("*", "/")) is not None:
            found = _multiplied(found, self._factor() if sign == "*" else _inverse(self._factor()))
        return found

    def _factor(self) -> tuple[float, float]:
        if self._next_of("-"):
            low, high = self._product()
            return -high, -low
        kind, value = self._take()
        if kind == "number":
            return float(value), float(value)
        if kind == "name":
            return 0.0, _greatest(value)
        if value != "(":
            raise UnreadableRank(f"{value!r} has nothing before it")
        found = self._sum()
        if self._next_of(")") is None:
            raise UnreadableRank("a ( is never closed")
        return found

    def _next_of(self, *signs: str) -> str | None:
        if self._at < len(self._tokens) and self._tokens[self._at] in [("sign", each) for each in signs]:
            return self._take()[1]
        return None

    def _take(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise UnreadableRank("it ends where a value is expected")
        self._at += 1
        return self._tokens[self._at - 1]


def policy_of(section: Mapping[str, str]) -> Policy:
    """Return the policy that a section DEFAULT_SCHED sets."""
    number = section.get("POLICY", "").strip()
    if number == CUSTOM:
        return Policy(number=number, expression=section.get("RANK", "").strip())
    return Policy(number=number, expression=PRIORITY if number == FIXED else _EXPRESSIONS.get(number, ""))


def home_first(policy: Policy) -> HomeFirst:
    """Return the rank by which PRIORITY decides first, and then the policy."""
    try:
        low, high = Expression(policy.expression).range
    except UnreadableRank:
        return HomeFirst(rank=PRIORITY, factor=1, is_readable=False)
    if not policy.expression:
        return HomeFirst(rank=PRIORITY, factor=1)
    factor = _LEAST
    while factor < _MOST and factor <= high - low:
        factor = min(10 * factor, _MOST)
    return HomeFirst(rank=f"{PRIORITY} * {factor} + ({policy.expression})", factor=factor)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise UnreadableRank(f"{text[at]!r} cannot stand in an expression")
        found.append((str(match.lastgroup), match[0].strip('"')))
        at = match.end()
    return found


def _greatest(name: str) -> float:
    return next((value for word, value in _GREATEST.items() if word in name), _GREATEST_ELSE)


def _multiplied(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    products = [a * b for a in one for b in other]
    return min(products), max(products)


def _inverse(divisor: tuple[float, float]) -> tuple[float, float]:
    """Return the range of 1 / divisor; an attribute is taken as at least 1."""
    low, high = divisor
    if low > 0 or high < 0:
        return 1 / high, 1 / low
    return (0.0 if low == 0 else -1.0), 1.0
