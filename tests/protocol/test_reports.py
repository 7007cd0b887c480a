from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, Usage, VmId
from one_provider_mad.protocol.im import format_legacy_reply, format_message
from one_provider_mad.protocol.im_messages import Kind, LegacyReply, Message
from one_provider_mad.protocol.reports import (
    VMS_IN_A_LINE,
    HostReport,
    LegacyVm,
    VmFigures,
    VmState,
    VmWord,
    Wild,
    host_monitor,
    host_system,
    legacy_report,
    synced_vm_states,
    vm_figures,
    vm_states,
)
from tests.monitor import decoder
from tests.monitor.decoder import Values, plain, read_template, unpacked, vectors
from tests.protocol.cases import any_text, awkward_text

GIB = 1024 * 1024
USAGE = Usage(cpu=1.5, memory=1048576, net_rx=10, net_tx=20)


def host(**fields: Any) -> HostReport:
    return HostReport(
        **{
            "hypervisor": "sea",
            "total_cpu": 500,
            "total_memory": 5 * GIB,
            "used_cpu": 100.0,
            "used_memory": GIB,
            **fields,
        }
    )


def wild(deploy_id: str = "i-0wild", **fields: Any) -> Wild:
    return Wild(deploy_id=DeployId(deploy_id), **{"name": "stray", "cpu": 150, "memory": 2 * GIB, **fields})


def state(vm_id: int, word: VmWord = VmWord.RUNNING, deploy_id: str | None = None) -> VmState:
    return VmState(vm_id=VmId(vm_id), deploy_id=DeployId(f"i-{vm_id}" if deploy_id is None else deploy_id), state=word)


def figures(vm_id: int, usage: Usage | None = USAGE, deploy_id: str | None = None, **attributes: str) -> VmFigures:
    name = f"i-{vm_id}" if deploy_id is None else deploy_id
    return VmFigures(vm_id=VmId(vm_id), deploy_id=DeployId(name), usage=usage, attributes=attributes)


def legacy(vm_id: int, letter: str = "a", deploy_id: str | None = None, **fields: Any) -> LegacyVm:
    name = f"i-{vm_id}" if deploy_id is None else deploy_id
    return LegacyVm(vm_id=VmId(vm_id), deploy_id=DeployId(name), state_letter=letter, **fields)


def poll_of(vector: dict[str, str]) -> dict[str, str]:
    """A POLL as any release reads it: bare `K=V` words, each name once."""
    words = [word.partition("=") for word in vector["POLL"].split(" ")]
    assert all(name and equal and value for name, equal, value in words), vector["POLL"]
    assert len({name for name, _, _ in words}) == len(words)
    return {name: value for name, _, value in words}


# SYSTEM_HOST


def test_system_host_reports_hypervisor_capacity_and_no_error() -> None:
    assert read_template(host_system(host())) == {
        "HYPERVISOR": ["sea"],
        "PUBLIC_CLOUD": ["YES"],
        "TOTALCPU": ["500"],
        "TOTALMEMORY": ["5242880"],
        "PROVIDER_ERROR": ["-"],
    }


def test_system_host_reports_why_the_cloud_cannot_be_reached() -> None:
    values = read_template(host_system(host(error='the cloud says "no"\nand no more')))
    assert plain(values, "PROVIDER_ERROR") == "the cloud says 'no' and no more"


NAMES_OF_ADMINISTRATORS = [
    *("REGION_NAME", "CAPACITY", "EC2_ACCESS", "EC2_SECRET", "HYPERVISOR", "PUBLIC_CLOUD", "TOTALCPU", "PRIORITY"),
    *(
        "RESERVED_CPU",
        "NAME",
        "ERROR",
        "VM",
        "VM_POLL",
        "IM_MAD",
        "region_name",
        "PROVIDER",
        "XPROVIDER_A",
        "A PROVIDER_B",
    ),
]


@pytest.mark.parametrize("name", NAMES_OF_ADMINISTRATORS)
def test_attributes_that_an_administrator_may_have_set_are_never_reported(name: str) -> None:
    report = host(attributes={name: "intruder"})
    assert "intruder" not in host_system(report) + host_monitor(report) + legacy_report(report, [])


@pytest.mark.parametrize("name", ["PROVIDER_REGION", "provider_region"])
def test_attributes_of_a_host_are_reported_if_their_names_begin_with_provider(name: str) -> None:
    report = host(attributes={name: "east 1"})
    assert plain(read_template(host_system(report)), "PROVIDER_REGION") == "east 1"
    assert plain(read_template(legacy_report(report, [])), "PROVIDER_REGION") == "east 1"


def test_an_attribute_cannot_overwrite_provider_error() -> None:
    report = host(error="no answer", attributes={"PROVIDER_ERROR": "all is well", "provider_error": "so it is"})
    assert read_template(host_system(report))["PROVIDER_ERROR"] == ["no answer"]


# Wild instances


def test_a_wild_instance_is_reported_with_an_import_template() -> None:
    (found,) = vectors(read_template(host_system(host(wilds=(wild(public_cloud={"AMI": "ami-7"}),)))), "VM")
    assert {name: found[name] for name in ("ID", "DEPLOY_ID", "VM_NAME")} == {
        "ID": "-1",
        "DEPLOY_ID": "i-0wild",
        "VM_NAME": "stray",
    }
    assert read_template(unpacked(found["IMPORT_TEMPLATE"])) == {
        "NAME": ["stray"],
        "CPU": ["1.5"],
        "VCPU": ["2"],
        "MEMORY": ["2048"],
        "HYPERVISOR": ["sea"],
        "PUBLIC_CLOUD": [{"TYPE": "sea", "AMI": "ami-7"}],
        "IMPORT_VM_ID": ["i-0wild"],
        "DEPLOY_ID": ["i-0wild"],
        "SCHED_REQUIREMENTS": ['HYPERVISOR="sea"'],
    }


def imported(instance: Wild, hypervisor: str = "sea") -> Values:
    (found,) = vectors(read_template(host_system(host(hypervisor=hypervisor, wilds=(instance,)))), "VM")
    return read_template(unpacked(found["IMPORT_TEMPLATE"]))


@pytest.mark.parametrize(
    ("cpu", "memory", "written"),
    [
        pytest.param(100, GIB, ("1", "1", "1024"), id="one-core"),
        pytest.param(50, 512, ("0.5", "1", "1"), id="small"),
        pytest.param(0, 0, ("1", "1", "1"), id="unknown"),
        pytest.param(-100, -1, ("1", "1", "1"), id="negative"),
        pytest.param(math.nan, 0, ("1", "1", "1"), id="not-a-number"),
        pytest.param(math.inf, 0, ("1", "1", "1"), id="infinite"),
        pytest.param(0.1, 0, ("0.01", "1", "1"), id="tiny"),
        pytest.param(1600, 64 * GIB, ("16", "16", "65536"), id="large"),
    ],
)
def test_an_import_template_has_cpu_in_cores_and_memory_in_mebibytes(
    cpu: float, memory: int, written: tuple[str, str, str]
) -> None:
    values = imported(wild(cpu=cpu, memory=memory))
    assert (plain(values, "CPU"), plain(values, "VCPU"), plain(values, "MEMORY")) == written


@pytest.mark.parametrize(
    ("name", "written"),
    [
        pytest.param("", "i-0wild", id="none"),
        pytest.param("\n\x00", "i-0wild", id="only-control-characters"),
        pytest.param("web & db; $(x)", "web _ db_ __x_", id="characters-that-vm-names-cannot-have"),
        pytest.param("n" * 200, "n" * 128, id="too-long"),
        pytest.param("grüße 東京", "grüße 東京", id="beyond-ascii"),
    ],
)
def test_an_import_template_has_a_name_that_opennebula_accepts(name: str, written: str) -> None:
    assert plain(imported(wild(name=name)), "NAME") == written


def test_the_public_cloud_type_in_an_import_template_is_the_hypervisor() -> None:
    values = imported(wild(public_cloud={"TYPE": "other", "type": "another", "TAGS": 'a="b",c'}))
    assert vectors(values, "PUBLIC_CLOUD") == [{"TYPE": "sea", "TAGS": "a='b',c"}]


@pytest.mark.parametrize(
    ("hypervisor", "is_written"), [("my-cloud.1", True), ("a*", False), ("a b", False), ('a"', False)]
)
def test_an_import_template_requires_its_own_hypervisor_if_the_name_needs_no_quotes(
    hypervisor: str, *, is_written: bool
) -> None:
    values = imported(wild(), hypervisor)
    expected = [f'HYPERVISOR="{hypervisor}"'] if is_written else None
    assert values.get("SCHED_REQUIREMENTS") == expected


UNFIT_IDS = ["", "-", "two words", "a<b", "a&b", "a\nb", "a\x00", "grüße", 'a"b', "a\\", "a]]>b"]


@pytest.mark.parametrize("deploy_id", [*UNFIT_IDS, "one-7"])
def test_a_wild_instance_with_an_id_that_oned_cannot_store_is_left_out(deploy_id: str) -> None:
    report = host(wilds=(wild(deploy_id), wild("i-1")))
    for text in (host_system(report), legacy_report(report, [])):
        assert [found["DEPLOY_ID"] for found in vectors(read_template(text), "VM")] == ["i-1"]


# MONITOR_HOST


def test_monitor_host_reports_whole_numbers() -> None:
    assert read_template(host_monitor(host(used_cpu=99.6))) == {
        "USEDCPU": ["100"],
        "USEDMEMORY": ["1048576"],
        "FREECPU": ["400"],
        "FREEMEMORY": ["4194304"],
    }


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"used_cpu": 900.0, "used_memory": 9 * GIB}, id="usage-beyond-capacity"),
        pytest.param({"used_cpu": 0.0, "used_memory": 0}, id="nothing-in-use"),
        pytest.param({"used_cpu": -5.0, "used_memory": -5}, id="negative"),
        pytest.param({"used_cpu": math.nan}, id="not-a-number"),
        pytest.param({"used_cpu": math.inf}, id="infinite"),
    ],
)
def test_monitor_host_reports_no_negative_figure_and_leaves_none_out(fields: dict[str, float]) -> None:
    values = read_template(host_monitor(host(**fields)))
    assert values.keys() == {"USEDCPU", "USEDMEMORY", "FREECPU", "FREEMEMORY"}
    assert all(int(plain(values, name)) >= 0 for name in values)


def test_the_smallest_capacity_is_reported_as_free() -> None:
    report = host(total_cpu=1, total_memory=1, used_cpu=0.0, used_memory=0)
    assert read_template(host_system(report))["TOTALCPU"] == read_template(host_system(report))["TOTALMEMORY"] == ["1"]
    assert read_template(host_monitor(report)) == {
        "USEDCPU": ["0"],
        "USEDMEMORY": ["0"],
        "FREECPU": ["1"],
        "FREEMEMORY": ["1"],
    }


def test_an_unknown_capacity_is_left_out_and_not_reported_as_zero() -> None:
    report = host(total_cpu=None, total_memory=None)
    for text in (host_system(report), host_monitor(report), legacy_report(report, [])):
        assert not {"TOTALCPU", "TOTALMEMORY", "FREECPU", "FREEMEMORY"} & read_template(text).keys()
    assert read_template(host_monitor(host(total_memory=None))).keys() == {"USEDCPU", "USEDMEMORY", "FREECPU"}
    assert "TOTALMEMORY" in read_template(host_system(host(total_cpu=None)))


def test_a_full_cloud_is_reported_with_zero_capacity() -> None:
    """Else OpenNebula would keep the previous capacity and place VMs there (src/host/Host.cc, update_info, `merge`)."""
    report = host(total_cpu=0, total_memory=0)
    for text in (host_system(report), legacy_report(report, [])):
        values = read_template(text)
        assert (plain(values, "TOTALCPU"), plain(values, "TOTALMEMORY")) == ("0", "0")
    assert read_template(host_monitor(report))["FREECPU"] == ["0"]


# STATE_VM


def test_a_partial_report_of_states_has_no_sync_state() -> None:
    assert read_template(vm_states([state(7), state(9, VmWord.POWEROFF)])) == {
        "VM": [
            {"ID": "7", "DEPLOY_ID": "i-7", "STATE": "RUNNING"},
            {"ID": "9", "DEPLOY_ID": "i-9", "STATE": "POWEROFF"},
        ]
    }


def test_without_reportable_vms_the_reports_of_states_and_figures_are_empty() -> None:
    assert vm_states([]) == ""
    assert vm_states([state(7, deploy_id="")]) == ""
    assert vm_figures([]) == ()


@pytest.mark.parametrize("word", list(VmWord))
def test_every_state_is_reported_by_its_name(word: VmWord) -> None:
    (found,) = vectors(read_template(vm_states([state(7, word)])), "VM")
    assert found["STATE"] == word.value == word.name


def test_a_sync_report_has_the_states_of_three_thousand_vms_in_one_text() -> None:
    values = read_template(synced_vm_states(map(state, range(3000)), missing_state=VmWord.UNKNOWN))
    assert (plain(values, "SYNC_STATE"), plain(values, "MISSING_STATE")) == ("yes", "UNKNOWN")
    assert [found["ID"] for found in vectors(values, "VM")] == [str(number) for number in range(3000)]


def test_a_sync_report_without_vms_is_written() -> None:
    assert read_template(synced_vm_states([], missing_state=VmWord.POWEROFF)) == {
        "SYNC_STATE": ["yes"],
        "MISSING_STATE": ["POWEROFF"],
    }


@pytest.mark.parametrize("word", [word for word in VmWord if word is not VmWord.POWEROFF])
def test_the_missing_state_of_a_sync_is_unknown_if_configured_as_any_state_but_poweroff(word: VmWord) -> None:
    assert plain(read_template(synced_vm_states([], missing_state=word)), "MISSING_STATE") == "UNKNOWN"


@pytest.mark.parametrize("deploy_id", UNFIT_IDS)
def test_a_sync_report_becomes_partial_if_a_vm_has_an_unwritable_deploy_id(deploy_id: str) -> None:
    values = read_template(synced_vm_states([state(7), state(8, deploy_id=deploy_id)], missing_state=VmWord.POWEROFF))
    assert values == {"VM": [{"ID": "7", "DEPLOY_ID": "i-7", "STATE": "RUNNING"}]}


@pytest.mark.parametrize("vm_id", [-1, -2, 2**31])
def test_a_vm_with_an_impossible_id_is_left_out_of_every_report(vm_id: int) -> None:
    states = synced_vm_states([state(vm_id), state(7)], missing_state=VmWord.UNKNOWN)
    assert [found["ID"] for found in vectors(read_template(states), "VM")] == ["7"]
    (text,) = vm_figures([figures(vm_id), figures(7)])
    assert [found["ID"] for found in vectors(read_template(text.text), "VM")] == ["7"]
    report = legacy_report(host(), [legacy(vm_id), legacy(7)])
    assert [found["ID"] for found in vectors(read_template(report), "VM")] == ["7"]


def test_of_two_entries_for_one_vm_the_first_is_reported() -> None:
    states = vm_states([state(7), state(7, VmWord.POWEROFF)])
    assert [found["STATE"] for found in vectors(read_template(states), "VM")] == ["RUNNING"]
    report = legacy_report(host(), [legacy(7, "a"), legacy(7, "d")])
    assert [poll_of(found)["STATE"] for found in vectors(read_template(report), "VM")] == ["a"]


# MONITOR_VM


def test_monitor_vm_has_the_figures_and_attributes_of_a_vm_in_a_template_in_base64() -> None:
    (text,) = vm_figures([figures(42, AWS_PUBLIC_IP_ADDRESS="203.0.113.9", NOTE='say "hi"', CPU="99", STATE="x")])
    (found,) = vectors(read_template(text.text), "VM")
    assert (found["ID"], found["DEPLOY_ID"]) == ("42", "i-42")
    assert read_template(unpacked(found["MONITOR"])) == {
        "CPU": ["1.5"],
        "MEMORY": ["1048576"],
        "NETRX": ["10"],
        "NETTX": ["20"],
        "AWS_PUBLIC_IP_ADDRESS": ["203.0.113.9"],
        "NOTE": ["say 'hi'"],
    }


def test_a_vm_without_figures_and_attributes_is_left_out_of_monitor_vm() -> None:
    texts = vm_figures([figures(1, None), figures(2, None, IP="10.0.0.1"), figures(3, deploy_id="a b")])
    assert [found["ID"] for text in texts for found in vectors(read_template(text.text), "VM")] == ["2"]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (VMS_IN_A_LINE, [200]), (VMS_IN_A_LINE + 1, [200, 1]), (1000, [200] * 5)],
)
def test_figures_of_many_vms_are_split_into_lines_of_two_hundred_vms(count: int, sizes: list[int]) -> None:
    texts = [vectors(read_template(text.text), "VM") for text in vm_figures(map(figures, range(count)))]
    assert [len(found) for found in texts] == sizes
    assert [found["ID"] for several in texts for found in several] == [str(number) for number in range(count)]


# The legacy report


def test_a_legacy_report_has_host_vms_and_wild_instances_in_one_text() -> None:
    vms = [legacy(42, usage=USAGE, name="tide table", attributes={"AWS_PUBLIC_IP_ADDRESS": "203.0.113.9"})]
    values = read_template(legacy_report(host(wilds=(wild(state_letter="a"),)), vms), is_old=True)
    found, stray = vectors({"VM": values.pop("VM")}, "VM")
    assert values == {
        "HYPERVISOR": ["sea"],
        "PUBLIC_CLOUD": ["YES"],
        "TOTALCPU": ["500"],
        "TOTALMEMORY": ["5242880"],
        "USEDCPU": ["100"],
        "USEDMEMORY": ["1048576"],
        "FREECPU": ["400"],
        "FREEMEMORY": ["4194304"],
        "PROVIDER_ERROR": ["-"],
        "VM_POLL": ["YES"],
    }
    assert (found["ID"], found["DEPLOY_ID"], found["VM_NAME"]) == ("42", "i-42", "tide table")
    assert "IMPORT_TEMPLATE" not in found
    assert poll_of(found) == {
        "STATE": "a",
        "CPU": "1.5",
        "MEMORY": "1048576",
        "NETRX": "10",
        "NETTX": "20",
        "AWS_PUBLIC_IP_ADDRESS": "203.0.113.9",
    }
    assert (stray["ID"], stray["DEPLOY_ID"], poll_of(stray)) == ("-1", "i-0wild", {"STATE": "a"})
    assert plain(read_template(unpacked(stray["IMPORT_TEMPLATE"]), is_old=True), "IMPORT_VM_ID") == "i-0wild"


@pytest.mark.parametrize(
    ("is_before_4_14", "figure_names"),
    [(False, {"CPU": "1.5", "MEMORY": "1048576"}), (True, {"USEDCPU": "2", "USEDMEMORY": "1048576"})],
)
def test_a_legacy_report_names_figures_as_the_release_does(
    figure_names: dict[str, str], *, is_before_4_14: bool
) -> None:
    text = legacy_report(host(), [legacy(42, usage=USAGE)], is_before_4_14=is_before_4_14)
    (found,) = vectors(read_template(text, is_old=True), "VM")
    assert poll_of(found) == {"STATE": "a", **figure_names, "NETRX": "10", "NETTX": "20"}


@pytest.mark.parametrize("letter", ["a", "p", "e", "d", "-", "x", "", 'a" ID="9'])
def test_every_vm_in_a_legacy_report_has_a_state_letter_or_a_dash(letter: str) -> None:
    (found,) = vectors(read_template(legacy_report(host(), [legacy(42, letter)]), is_old=True), "VM")
    assert poll_of(found) == {"STATE": letter if letter in {"a", "p", "e", "d", "-"} else "-"}


@pytest.mark.parametrize("value", ["two words", 'a"b', "a=b", "a#b", "[a]", "a\\", "é", ""])
def test_an_attribute_that_needs_quotes_is_left_out_of_a_legacy_report(value: str) -> None:
    vm = legacy(42, attributes={"NOTE": value, "IP": "10.0.0.1"})
    (found,) = vectors(read_template(legacy_report(host(), [vm]), is_old=True), "VM")
    assert poll_of(found) == {"STATE": "a", "IP": "10.0.0.1"}


@pytest.mark.parametrize("deploy_id", UNFIT_IDS)
def test_a_vm_with_an_unwritable_deploy_id_stays_in_a_legacy_report_without_it(deploy_id: str) -> None:
    (found,) = vectors(read_template(legacy_report(host(), [legacy(42, deploy_id=deploy_id)]), is_old=True), "VM")
    assert found["ID"] == "42"
    assert poll_of(found) == {"STATE": "a"}
    assert not found.keys() & {"DEPLOY_ID", "VM_NAME"}


# Arbitrary input

syntax_text = (
    st.lists(st.sampled_from(["\\", '"', "]]", ">", "=", "#", ",", "[", "]", " ", "\n", "'"]) | any_text).map("".join)
    | awkward_text
)
names = any_text | st.sampled_from(["PROVIDER_A", "provider_b", "IP", "CPU", "VM", "TYPE"])
any_attributes = st.dictionaries(names, syntax_text, max_size=4)
deploy_ids = (syntax_text | st.from_regex(r"i-[0-9a-f]{4}|one-[0-9]", fullmatch=True)).map(DeployId)
vm_ids = st.integers(-2, 2**31).map(VmId)
usages = st.none() | st.builds(Usage, cpu=st.floats(), memory=st.integers(), net_rx=st.integers(), net_tx=st.integers())
wilds = st.builds(
    Wild,
    deploy_id=deploy_ids,
    name=syntax_text,
    cpu=st.floats(),
    memory=st.integers(),
    public_cloud=any_attributes,
    state_letter=st.sampled_from("aped-") | syntax_text,
)
hosts = st.builds(
    HostReport,
    hypervisor=st.just("sea") | syntax_text,
    total_cpu=st.none() | st.integers(),
    total_memory=st.none() | st.integers(),
    used_cpu=st.floats(),
    used_memory=st.integers(),
    error=syntax_text,
    attributes=any_attributes,
    wilds=st.lists(wilds, max_size=3).map(tuple),
)
states = st.lists(
    st.builds(VmState, vm_id=vm_ids, deploy_id=deploy_ids, state=st.sampled_from(list(VmWord))), max_size=4
)
all_figures = st.lists(
    st.builds(VmFigures, vm_id=vm_ids, deploy_id=deploy_ids, usage=usages, attributes=any_attributes), max_size=4
)
legacy_vms = st.lists(
    st.builds(
        LegacyVm,
        vm_id=vm_ids,
        deploy_id=deploy_ids,
        state_letter=st.sampled_from("aped-") | syntax_text,
        name=syntax_text,
        usage=usages,
        attributes=any_attributes,
    ),
    max_size=4,
)

SYSTEM_HOST_NAMES = {"HYPERVISOR", "PUBLIC_CLOUD", "TOTALCPU", "TOTALMEMORY", "VM"}
LEGACY_NAMES = SYSTEM_HOST_NAMES | {"USEDCPU", "USEDMEMORY", "FREECPU", "FREEMEMORY", "VM_POLL"}


def assert_names(values: Values, known: set[str]) -> None:
    assert {name for name in values if not name.startswith("PROVIDER_")} <= known
    assert all(len(several) == 1 for name, several in values.items() if name != "VM")


@given(report=hosts)
def test_any_host_is_reported_in_readable_templates(report: HostReport) -> None:
    values = read_template(host_system(report))
    assert_names(values, SYSTEM_HOST_NAMES)
    assert ("TOTALCPU" in values) == (report.total_cpu is not None)
    for found in vectors(values, "VM"):
        assert found.keys() == {"ID", "DEPLOY_ID", "VM_NAME", "IMPORT_TEMPLATE"}
        assert found["ID"] == "-1"
        assert not re.fullmatch("one-[0-9]+", found["DEPLOY_ID"])
        vm = read_template(unpacked(found["IMPORT_TEMPLATE"]), is_old=True)
        assert plain(vm, "IMPORT_VM_ID") == plain(vm, "DEPLOY_ID") == found["DEPLOY_ID"]
        assert 0 < len(plain(vm, "NAME")) <= 128
    figures = read_template(host_monitor(report))
    assert all(int(plain(figures, name)) >= 0 for name in figures)


@given(vms=states, missing_state=st.sampled_from(list(VmWord)))
def test_any_states_are_reported_exactly_and_a_sync_only_if_no_vm_is_left_out(
    vms: list[VmState], missing_state: VmWord
) -> None:
    expected = {vm.vm_id: vm for vm in reversed(vms)}
    partial = vectors(read_template(vm_states(vms)), "VM")
    values = read_template(synced_vm_states(vms, missing_state=missing_state))
    assert vectors(values, "VM") == partial
    for found in partial:
        vm = expected[VmId(int(found["ID"]))]
        assert found == {"ID": str(vm.vm_id), "DEPLOY_ID": vm.deploy_id, "STATE": vm.state.value}
    is_complete = {int(found["ID"]) for found in partial} == {vm_id for vm_id in expected if 0 <= vm_id < 2**31}
    assert ("SYNC_STATE" in values) == ("MISSING_STATE" in values) == is_complete


@given(vms=all_figures)
def test_any_figures_are_reported_in_readable_templates(vms: list[VmFigures]) -> None:
    for text in vm_figures(vms):
        for found in vectors(read_template(text.text), "VM"):
            assert found.keys() == {"ID", "DEPLOY_ID", "MONITOR"}
            monitored = read_template(unpacked(found["MONITOR"]))
            assert monitored
            assert not monitored.keys() & {"STATE", "ID", "DEPLOY_ID", "TIMESTAMP"}
            assert all(len(several) == 1 for several in monitored.values())


@pytest.mark.parametrize("is_before_4_14", [False, True])
@given(report=hosts, vms=legacy_vms)
def test_any_legacy_report_is_readable_by_every_release(
    report: HostReport, vms: list[LegacyVm], *, is_before_4_14: bool
) -> None:
    text = legacy_report(report, vms, is_before_4_14=is_before_4_14)
    values = read_template(text)
    assert values == read_template(text, is_old=True)
    assert_names(values, LEGACY_NAMES)
    assert values["VM_POLL"] == ["YES"]
    found = vectors(values, "VM")
    assert all(poll_of(vector)["STATE"] in "aped-" for vector in found)
    known = {vm.vm_id for vm in vms if 0 <= vm.vm_id < 2**31}
    assert sorted(int(vector["ID"]) for vector in found if vector["ID"] != "-1") == sorted(known)


@given(report=hosts, vms=legacy_vms, vm_words=states)
def test_any_report_is_read_back_unchanged_from_its_line(
    report: HostReport, vms: list[LegacyVm], vm_words: list[VmState]
) -> None:
    text = legacy_report(report, vms)
    line = format_legacy_reply(LegacyReply(word="MONITOR", host_id=5, text=text))
    assert decoder.read_legacy(line) == decoder.Line("MONITOR", "SUCCESS", 5, None, text)
    text = synced_vm_states(vm_words, missing_state=VmWord.UNKNOWN)
    line = format_message(Message(kind=Kind.STATE_VM, host_id=5, timestamp=1, text=text))
    assert decoder.read_modern(line) == decoder.Line("STATE_VM", "SUCCESS", 5, 1, text)
