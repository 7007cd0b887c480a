"""A template that works at home, and the changes by which its VMs may run in a cloud."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.front_end.arithmetic import ExpressionError
from one_provider_mad.front_end.burst_template import (
    CloudHost,
    Edit,
    datastore_of,
    edits_of,
    host_of,
    lacks_of,
)
from one_provider_mad.front_end.template_edits import edited, same_values, text_of_template
from one_provider_mad.template_text.exact_writer import UnwritableError
from one_provider_mad.template_text.strict_reader import TemplateError, read_template


def cloud(name: str, hypervisor: str = "") -> CloudHost:
    kind = hypervisor or name
    return CloudHost(name=name, hypervisor=kind, hosts=[host_of(name, kind)], datastores=[datastore_of()])


def changed(text: str, *names: str) -> dict[str, str]:
    """The values that changes give to attributes, as text; a second run must change nothing."""
    clouds = [cloud(name) for name in names or ("ec2",)]
    template = read_template(text)
    edits = list(edits_of(template, clouds))
    after = edited(text, edits)
    assert same_values(template, read_template(after), edits)
    assert not list(edits_of(read_template(after), clouds)), "it changes its own output"
    return {each.name: str(each.value) for each in edits}


SECTION = {"PUBLIC_CLOUD": "{'TYPE': 'ec2'}"}


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        pytest.param("CPU = 1", SECTION, id="a-section-is-added"),
        pytest.param("PUBLIC_CLOUD = [ TYPE = ec2 ]", {}, id="nothing-to-do"),
        pytest.param("EC2 = [ AMI = ami-1 ]", {}, id="the-section-of-4.x-says-the-same"),
        pytest.param(
            "PUBLIC_CLOUD = [ AMI = ami-1 ]",
            {"PUBLIC_CLOUD": "{'AMI': 'ami-1', 'TYPE': 'ec2'}"},
            id="a-type-is-added-to-the-only-section",
        ),
        pytest.param(
            "PUBLIC_CLOUD = [ TYPE = EC2, AMI = ami-1 ]",
            {"PUBLIC_CLOUD": "{'TYPE': 'ec2', 'AMI': 'ami-1'}"},
            id="a-type-is-spelt-as-the-host-says",
        ),
        pytest.param(
            'SCHED_REQUIREMENTS = "HYPERVISOR = kvm"',
            {**SECTION, "SCHED_REQUIREMENTS": 'HYPERVISOR = kvm | HYPERVISOR = "ec2"'},
            id="requirements-of-home",
        ),
        pytest.param(
            'REQUIREMENTS = "CLUSTER_ID = 0 & HYPERVISOR = kvm"',
            {**SECTION, "REQUIREMENTS": '(CLUSTER_ID = 0 & HYPERVISOR = kvm) | HYPERVISOR = "ec2"'},
            id="requirements-by-their-old-name",
        ),
        pytest.param('SCHED_REQUIREMENTS = "HYPERVISOR != lxc"', SECTION, id="requirements-that-the-cloud-meets"),
        pytest.param(
            "SCHED_RANK = FREE_CPU",
            {**SECTION, "SCHED_RANK": "PRIORITY * 1000000 + (FREE_CPU)"},
            id="a-rank-of-its-own",
        ),
        pytest.param(
            "SCHED_RANK = FREE_MEMORY",
            {**SECTION, "SCHED_RANK": "PRIORITY * 2000000000 + (FREE_MEMORY)"},
            id="a-rank-of-which-the-cloud-has-more",
        ),
        pytest.param('SCHED_RANK = "PRIORITY * 10 + FREE_CPU"', SECTION, id="a-rank-with-priority"),
        pytest.param(
            'SCHED_DS_REQUIREMENTS = "ID = 100"',
            {**SECTION, "SCHED_DS_REQUIREMENTS": 'ID = 100 | TM_MAD = "one_provider"'},
            id="a-datastore-of-home",
        ),
    ],
)
def test_what_keeps_vms_at_home_is_changed_and_nothing_else(text: str, changes: dict[str, str]) -> None:
    assert changed(text) == changes


def test_a_template_may_go_to_any_of_several_clouds() -> None:
    text = 'SCHED_REQUIREMENTS = "HYPERVISOR = kvm"\n'
    edits = list(edits_of(read_template(text), [cloud("east", "ec2"), cloud("west", "ec2"), cloud("sim")]))
    after = read_template(edited(text, edits))
    assert [each["TYPE"] for each in after.vectors("PUBLIC_CLOUD")] == ["ec2", "sim"]
    assert after.text("SCHED_REQUIREMENTS") == 'HYPERVISOR = kvm | HYPERVISOR = "ec2" | HYPERVISOR = "sim"'


def test_the_text_stays_as_it_is_everywhere_else() -> None:
    text = '# CPU = 2\nSCHED_RANK = "A" # why\nCPU = 1\n\nDISK = [ IMAGE = "x" ]'
    after = edited(text, list(edits_of(read_template(text), [cloud("ec2")])))
    assert after == (
        '# CPU = 2\nSCHED_RANK = "PRIORITY * 1000000 + (A)" # why\nCPU = 1\n\nDISK = [ IMAGE = "x" ]\n'
        'PUBLIC_CLOUD = [\n  TYPE = "ec2" ]\n'
    )


def test_requirements_that_cannot_be_read_are_named() -> None:
    with pytest.raises(ExpressionError, match="SCHED_REQUIREMENTS cannot be read: expected a name or a value"):
        changed('SCHED_REQUIREMENTS = "HYPERVISOR ="')


@pytest.mark.parametrize("rank", ["FREE_CPU -1", "(" * 5000, "PRIORITY +"])
def test_a_rank_that_cannot_be_read_is_named(rank: str) -> None:
    with pytest.raises(ExpressionError, match="SCHED_RANK cannot be read: "):
        changed(f'SCHED_RANK = "{rank}"')


def test_a_value_that_no_text_can_hold_is_named() -> None:
    with pytest.raises(UnwritableError, match=r"RAW: DATA ends in a backslash"):
        edited("CPU = 1", [Edit(name="RAW", number=None, value={"DATA": "x\\"}, why="")])


def test_what_the_cloud_lacks_is_named_and_what_keeps_vms_at_home_is_marked() -> None:
    text = 'PCI = [ CLASS = "0300" ]\nTOPOLOGY = [ PIN_POLICY = NONE ]\nTPM = [ MODEL = "tpm-crb" ]\nRAW = [ DATA = x ]'
    assert {each.what: each.keeps_away for each in lacks_of(read_template(text))} == {
        "PCI": True,
        "TPM": False,
        "RAW": False,
    }
    pinned = read_template("TOPOLOGY = [ PIN_POLICY = CORE ]\nCPU_MODEL = [ FEATURES = avx2 ]")
    assert [each.what for each in lacks_of(pinned) if each.keeps_away] == ["TOPOLOGY/PIN_POLICY", "CPU_MODEL/FEATURES"]


@given(st.text(alphabet='ABSCHED_RANK=[],"#\\ \nx', max_size=40))
def test_any_template_that_can_be_read_keeps_all_its_values(text: str) -> None:
    try:
        template = read_template(text)
        edits = list(edits_of(template, [cloud("ec2")]))
    except (TemplateError, ExpressionError):
        return
    try:
        after = edited(text, edits)
        assert same_values(template, read_template(after), edits)
        assert read_template(text_of_template(template)).values == template.values
    except UnwritableError:
        pass
