"""The rank by which VMs fill hosts at home first, evaluated as OpenNebula does: in single precision."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from one_provider_mad.front_end.arithmetic import ExpressionError, names_in
from one_provider_mad.front_end.rank import home_first, policy_of, range_of
from one_provider_mad.monitor.settings import UNLIMITED_MEMORY

Host = Mapping[str, float]


def single(value: float) -> float:
    """The nearest number of 24 bits, which C calls float."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


class Number:
    """A float of C, for the expressions of the tests, which are valid Python as well."""

    def __init__(self, value: float) -> None:
        self.value = single(value)

    def __add__(self, other: Number) -> Number:
        return Number(self.value + other.value)

    def __sub__(self, other: Number) -> Number:
        return Number(self.value - other.value)

    def __mul__(self, other: Number) -> Number:
        return Number(self.value * other.value)

    def __neg__(self) -> Number:
        return Number(-self.value)


def rank(expression: str, host: Host) -> int:
    """The rank of a host: an attribute that it lacks counts 0, and the result is cut to an integer of 32 bits.

    Outside of these an x86 processor makes -2^31 of it.
    """

    class Attributes(dict[str, object]):
        def __missing__(self, name: str) -> Number:
            return Number(host.get(name, 0))

    numbered = "".join(f"N({part})" if part.isdigit() else part for part in _parts(expression))
    result = eval(numbered.strip(), {}, Attributes(N=Number))
    return int(result.value) if abs(result.value) < 2**31 else -(2**31)


def _parts(expression: str) -> list[str]:
    for sign in "+-*()":
        expression = expression.replace(sign, f" {sign} ")
    return [f"{part} " if not part.isdigit() else part for part in expression.split()]


HOSTS = st.lists(
    st.fixed_dictionaries(
        {
            "RUNNING_VMS": st.integers(0, 2000),
            "FREE_CPU": st.integers(0, 51_200),
            "FREE_MEMORY": st.integers(0, 450_000_000),
        }
    ),
    min_size=2,
    max_size=6,
)
POLICIES: Sequence[Mapping[str, str]] = (
    {"POLICY": "0"},
    {"POLICY": "1"},
    {"POLICY": "2"},
    {"POLICY": "3", "RANK": "- (RUNNING_VMS * 50  + FREE_CPU)"},
    {"POLICY": "3", "RANK": "FREE_MEMORY"},
    {"POLICY": "3", "RANK": "FREE_CPU - FREE_MEMORY"},
)


@given(HOSTS, st.sampled_from(POLICIES), st.integers(-5, -1))
@example([{"RUNNING_VMS": 2000}, {"RUNNING_VMS": 0}], POLICIES[0], -1)
@example([{"FREE_MEMORY": 2**25}, {"FREE_MEMORY": 1024 * UNLIMITED_MEMORY}], POLICIES[4], -1)
def test_home_comes_first_and_keeps_the_order_of_its_policy(
    hosts: list[Host], section: Mapping[str, str], priority: int
) -> None:
    policy = policy_of(section)
    found = home_first(policy).rank
    *home, cloud = hosts
    assert [rank(found, host) for host in home] == [rank(policy.expression, host) for host in home]
    assert rank(found, {**cloud, "PRIORITY": priority}) < min(rank(found, host) for host in home)


@given(HOSTS)
def test_the_cheaper_of_two_clouds_comes_first(hosts: list[Host]) -> None:
    """[monitor] priority = "price" sends -1 less the price."""
    found = home_first(policy_of({"POLICY": "1"})).rank
    cheap, dear = ({**host, "PRIORITY": priority} for host, priority in zip(hosts, (-1.0416, -1.0664), strict=False))
    assert rank(found, cheap) > rank(found, dear)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        ("- (RUNNING_VMS * 50  + FREE_CPU)", {"RUNNING_VMS", "FREE_CPU"}),
        ('"PRIORITY" / 2.5', {"PRIORITY"}),
        ("FREE_CPU + -5", {"FREE_CPU"}),
        ("2 * -FREE_CPU", {"FREE_CPU"}),
    ],
)
def test_an_expression_names_its_attributes(text: str, names: set[str]) -> None:
    assert names_in(text) == names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("FREE_CPU -1", "'FREE_CPU -1' has no operator before '-1'"),
        ("(FREE_CPU", "a ( is never closed"),
        ("FREE_CPU)", "'FREE_CPU)' has no operator before ')'"),
        ("FREE_CPU *", "it ends where a name or a number is expected"),
        ("FREE_CPU % 2", "the characters '% 2' cannot stand in an expression"),
        ("* 2", "'*' has no name or number before it"),
    ],
)
def test_what_opennebula_cannot_evaluate_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(sentence)):
        range_of(text)


@given(st.text(alphabet='AB1 +-*/()."%_', max_size=20))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        low, high = range_of(text)
    except ExpressionError:
        return
    assert low <= high
