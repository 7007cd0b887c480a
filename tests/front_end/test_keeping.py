"""What keeps a VM where its disk is, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import Template
from one_provider_mad.front_end.keeping import EVERY_HOST, MARK, freed, kept


def template_of(values: Mapping[str, str]) -> Template:
    return Template(values={name: (text,) for name, text in values.items()})


def written(template: Template, changes: Mapping[str, str]) -> Template:
    return Template(values={**template.values, **{name: (text,) for name, text in changes.items()}})


OWN = st.one_of(
    st.just(""),
    st.sampled_from(['HYPERVISOR = "kvm"', '(A = 1) & VM_MAD = "kvm"', 'VM_MAD = "kvm"', "(A = 1) | (B = 2)"]),
)


@given(OWN, st.sampled_from(["kvm", "aws.east"]), st.sampled_from(["kvm", "sim"]))
def test_a_users_requirement_is_the_same_after_a_vm_was_kept_here_and_there(own: str, first: str, second: str) -> None:
    before = template_of({"SCHED_REQUIREMENTS": own} if own else {})
    here = written(before, kept(before, first))
    assert here.text("SCHED_REQUIREMENTS").endswith(f'VM_MAD = "{first}"')
    assert not kept(here, first), "it is there already"
    there = written(here, kept(here, second))
    after = written(there, freed(there))
    assert after.text("SCHED_REQUIREMENTS") == (own or EVERY_HOST)
    assert not after.text(MARK)
    assert not freed(after)


def test_requirements_that_a_person_changed_meanwhile_are_theirs() -> None:
    edited = template_of({"SCHED_REQUIREMENTS": "NAME = h1", MARK: "kvm"})
    assert freed(edited) == {"SCHED_REQUIREMENTS": "NAME = h1", MARK: ""}
    assert kept(edited, "kvm") == {"SCHED_REQUIREMENTS": '(NAME = h1) & VM_MAD = "kvm"', MARK: "kvm"}


@pytest.mark.parametrize("own", ["", EVERY_HOST])
def test_a_vm_without_requirements_of_its_own_gets_the_addition_alone(own: str) -> None:
    assert kept(template_of({"SCHED_REQUIREMENTS": own}), "sim")["SCHED_REQUIREMENTS"] == 'VM_MAD = "sim"'
