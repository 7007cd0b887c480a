"""Composes the rank by which VMs fill the hosts at home first, and there are packed or spread as before.

OpenNebula evaluates a RANK for each host in single precision (24 bits), and cuts the result to an integer of 32 bits; a
name stands for that attribute of the host or else of its cluster, 0 when both lack it (src/parsers/expr_arith.y). Where
a host has no PRIORITY, `PRIORITY * N + (E)` is therefore exactly E, whatever N is: nothing at home is lost. N has to
exceed what two hosts can differ by in E. A result that does not fit into 32 bits counts -2^31, on x86 and for negative
ones on ARM as well: such a cloud is still the last choice, but equal to others like it.
"""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.domain import Value
from one_provider_mad.front_end.arithmetic import ExpressionError, compute, names_in

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
            range_of(self.expression)
        except ExpressionError:
            return False
        return PRIORITY in names_in(self.expression)


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


Range = tuple[float, float]
"""The least and the greatest value."""


def range_of(text: str) -> Range:
    """Return the range of an expression's values on any host. Raises ExpressionError if OpenNebula cannot read it."""
    return compute(text, _Ranges())


class _Ranges:
    """Computes with ranges."""

    def number(self, value: float) -> Range:
        return value, value

    def attribute(self, name: str) -> Range:
        return 0.0, next((value for word, value in _GREATEST.items() if word in name), _GREATEST_ELSE)

    def negated(self, value: Range) -> Range:
        low, high = value
        return -high, -low

    def sum(self, one: Range, other: Range) -> Range:
        return one[0] + other[0], one[1] + other[1]

    def product(self, one: Range, other: Range) -> Range:
        products = [a * b for a in one for b in other]
        return min(products), max(products)

    def quotient(self, one: Range, other: Range) -> Range:
        return self.product(one, _inverse(other))


def policy_of(section: Mapping[str, str]) -> Policy:
    """Return the policy that a section DEFAULT_SCHED sets."""
    number = section.get("POLICY", "").strip()
    if number == CUSTOM:
        return Policy(number=number, expression=section.get("RANK", "").strip())
    return Policy(number=number, expression=PRIORITY if number == FIXED else _EXPRESSIONS.get(number, ""))


def home_first(policy: Policy) -> HomeFirst:
    """Return the rank by which PRIORITY decides first, and then the policy."""
    try:
        low, high = range_of(policy.expression)
    except ExpressionError:
        return HomeFirst(rank=PRIORITY, factor=1, is_readable=False)
    if not policy.expression:
        return HomeFirst(rank=PRIORITY, factor=1)
    factor = _LEAST
    while factor < _MOST and factor <= high - low:
        factor = min(10 * factor, _MOST)
    return HomeFirst(rank=f"{PRIORITY} * {factor} + ({policy.expression})", factor=factor)


def _inverse(divisor: Range) -> Range:
    """Return the range of 1 / divisor; an attribute is taken as at least 1."""
    low, high = divisor
    if low > 0 or high < 0:
        return 1 / high, 1 / low
    return (0.0 if low == 0 else -1.0), 1.0
