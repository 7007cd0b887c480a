"""The table `[tags]`: its texts, its mistakes, and what each cloud takes of them."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.billing_tags import MOST, problem_of, rendered
from one_provider_mad.domain import OwnedVm, VmId, VmOwner
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2 import billing as ec2
from one_provider_mad.providers.ec2.attributes import MOST_TAGS, check_tags
from one_provider_mad.providers.opennebula import launch as opennebula
from one_provider_mad.template_text.exact_writer import UnwritableError, attribute
from tests.providers.contexts import a_context

ADA = OwnedVm(vm_id=VmId(7), stime=5, owner=VmOwner(user_id=3, user="ada", group_id=101, group="students"), name="web")


def test_placeholders_stand_for_the_vm_and_its_owner() -> None:
    text = "{user}/{user_id} {group}/{group_id} {name} {id} {owner}"
    assert rendered({"who": text}, ADA, owner="harbour") == {"who": "ada/3 students/101 web 7 harbour"}


def test_a_value_with_braces_is_no_placeholder_itself() -> None:
    vm = msgspec.structs.replace(ADA, name="{user}")
    assert rendered({"vm": "{name}"}, vm, owner="harbour") == {"vm": "{user}"}


def test_what_is_unknown_is_left_empty() -> None:
    unknown = OwnedVm(vm_id=VmId(7), stime=5, owner=VmOwner())
    assert rendered({"who": "{user}{user_id}{group_id}"}, unknown, owner="harbour") == {"who": ""}


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        pytest.param({"free": "{ text } {"}, r"free: \{ text \} is unknown, .*", id="braces"),
        pytest.param({"cost": "{usr}"}, r"cost: \{usr\} is unknown, known are \{user\}, .*\{owner\}", id="unknown"),
        pytest.param({" ": "x"}, "a tag has an empty name", id="no-name"),
        pytest.param({"one_provider_x": "8"}, "one_provider_x: names that begin with ONE_PROVIDER_ .*", id="ours"),
        pytest.param({str(n): "" for n in range(MOST + 1)}, f"there are {MOST + 1} tags, .*", id="many"),
        pytest.param({"cost": "{group} of {owner", "b": "}{"}, "", id="good"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tags: dict[str, str], problem: str) -> None:
    assert re.fullmatch(problem, problem_of(tags))


texts = st.text(max_size=300)
names = texts.filter(lambda text: bool(text.strip()))
vms = st.builds(
    OwnedVm,
    vm_id=st.integers(0, 9).map(VmId),
    stime=st.just(5),
    owner=st.builds(VmOwner, user_id=st.integers(-1, 9), user=texts, group_id=st.integers(-1, 9), group=texts),
    name=texts,
)


@given(names, vms)
def test_ec2_takes_the_tags_of_any_user_group_and_name(name: str, vm: OwnedVm) -> None:
    context = msgspec.structs.replace(a_context(), tags={name: "{user} {group} {name}"})
    tags = ec2.wanted_tags(vm, context)
    check_tags(tags)
    for text in (*tags, *tags.values()):
        assert re.fullmatch(r"[\w .:/=+@-]*", text)
        assert "\n" not in text


@given(names, vms)
def test_a_partner_takes_the_tags_of_any_user_group_and_name(name: str, vm: OwnedVm) -> None:
    context = msgspec.structs.replace(a_context(), tags={name: "{user} {group} {name}"})
    try:
        lines = [attribute(key, value) for key, value in opennebula.wanted_tags(vm, context).items()]
    except (UnwritableError, BadParameter) as error:
        pytest.fail(f"{error}")
    assert lines[0].startswith("TAG_")


def test_ec2_keeps_letters_of_every_script() -> None:
    vm = msgspec.structs.replace(ADA, name="Prüfstand <7>")
    context = msgspec.structs.replace(a_context(), tags={"aws:vm": "{name}"})
    assert ec2.wanted_tags(vm, context) == {"aws_vm": "Prüfstand _7_"}


def test_of_too_many_tags_a_users_last_ones_give_way() -> None:
    own = {f"own-{number}": "" for number in range(MOST_TAGS)}
    tags = ec2.with_billing(own, {"cost": "students", "own-0": "ours"})
    assert len(tags) == MOST_TAGS
    assert (tags["cost"], tags["own-0"]) == ("students", "ours")
