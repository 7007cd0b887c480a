"""Requirements as OpenNebula's schedulers read and evaluate them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.front_end.arithmetic import ExpressionError, names_in, rank_of
from one_provider_mad.front_end.expressions import is_choice, is_met, read_requirements, terms_of

HOST = {
    "HYPERVISOR": ["kvm"],
    "CLUSTER_ID": ["0"],
    "FREE_CPU": ["350"],
    "PIN_POLICY": ["NONE"],
    "CLUSTERS/ID": ["0", "100"],
    "FACTOR": ["1.5"],
    "NAME": ["kvm-17"],
}


def met(text: str) -> bool:
    return is_met(read_requirements(text), lambda name: HOST.get(name, []))


@pytest.mark.parametrize(
    ("text", "is_true"),
    [
        pytest.param("", True, id="empty"),
        pytest.param("HYPERVISOR = kvm", True, id="bareword"),
        pytest.param('NAME = "kvm-*"', True, id="wildcard"),
        pytest.param('NAME != "kvm-*"', False, id="unlike-a-wildcard"),
        pytest.param('HYPERVISOR = ""', False, id="empty-text-equals-nothing"),
        pytest.param("GPU != yes", False, id="a-missing-attribute-is-unlike-nothing"),
        pytest.param("!(GPU = yes)", True, id="the-opposite-of-a-missing-attribute"),
        pytest.param("FREE_CPU > 300 & FREE_CPU < 400", True, id="numbers"),
        pytest.param("FACTOR > 1.4", True, id="fractions"),
        pytest.param("CLUSTER_ID = 0 | CLUSTER_ID = 100", True, id="or"),
        pytest.param('"CLUSTERS/ID" @> 100', True, id="contains-a-number"),
        pytest.param('"CLUSTERS/ID" @> 7', False, id="does-not-contain-a-number"),
        pytest.param("HYPERVISOR = kvm | HYPERVISOR = lxc & CLUSTER_ID = 5", False, id="from-left-to-right"),
        pytest.param("HYPERVISOR = kvm | (HYPERVISOR = lxc & CLUSTER_ID = 5)", True, id="parentheses"),
        pytest.param("!PIN_POLICY = PINNED & HYPERVISOR = lxc", False, id="not-counts-for-one-part"),
    ],
)
def test_a_host_meets_a_requirement_as_the_scheduler_sees_it(text: str, *, is_true: bool) -> None:
    assert met(text) is is_true


@pytest.mark.parametrize(
    "text",
    ["HYPERVISOR =", "= kvm", "A = 1 B = 2", "(A = 1", "A = 1)", "A > word", "1 = 1", "A ! 1", "A = ;", "&", "a @ b"],
)
def test_what_opennebula_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        read_requirements(text)


def test_a_requirement_has_bounds_so_that_no_text_costs_much() -> None:
    with pytest.raises(ExpressionError, match="parentheses"):
        read_requirements("(" * 5000 + "A = 1" + ")" * 5000)
    with pytest.raises(ExpressionError, match="comparisons"):
        read_requirements(" | ".join(["A = 1"] * 5000))


@given(st.text(alphabet='ABkvm=!&|()<>@"01.- \n*', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        expression = read_requirements(text)
    except ExpressionError:
        return
    assert is_met(expression, lambda _: []) in (True, False)


def test_a_choice_may_be_followed_by_a_further_one_without_parentheses() -> None:
    assert all(is_choice(read_requirements(text)) for text in ("A = 1", "A = 1 | B = 2"))
    assert not any(is_choice(read_requirements(text)) for text in ("A = 1 & B = 2", "!A = 1", ""))


def test_names_are_found_in_ranks_and_comparisons() -> None:
    assert names_in('FREE_CPU * 100 - "RUNNING_VMS"') == {"FREE_CPU", "RUNNING_VMS"}
    assert [term.name for term in terms_of(read_requirements("!(A = 1) & (B > 2 | C = x)"))] == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("text", "rank"),
    [
        ("", 0),
        ("FREE_CPU", 350),
        ("- FREE_CPU", -350),
        ("PRIORITY * 100 + FREE_CPU", 350),
        ("2 + 3 * (FACTOR - 0.5)", 5),
        ("10 - 4 - 3", 3),
        ("FREE_CPU / 0", -(2**31)),
        ("0 / 0", -(2**31)),
        ("-3 * 1000000000", -(2**31)),
        ("3 * 1000000000", -(2**31)),
        ("9" * 400 + ".0", -(2**31)),
        ("{0} - {0}".format("9" * 400 + ".0"), -(2**31)),
    ],
)
def test_a_rank_is_computed_as_the_scheduler_does(text: str, rank: int) -> None:
    assert rank_of(text, lambda name: HOST.get(name, [])) == rank


@given(st.text(alphabet="A10.+-*/() ", max_size=40))
def test_any_rank_is_computed_or_refused(text: str) -> None:
    with suppress(ExpressionError):
        assert isinstance(rank_of(text, lambda _: ["2"]), int)
