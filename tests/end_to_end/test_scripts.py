"""A directory of action scripts: the arguments and input of scripts, and the places where they are found.

From OpenNebula's src/vmm_mad/exec/one_vmm_sh, one_vmm_exec.rb and src/mad/sh/madcommon.sh.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from lxml import etree

from one_provider_mad.domain import Template
from tests.conftest import assert_spoke_properly
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver
from tests.end_to_end.script_cases import CASES, NIC, request
from tests.end_to_end.script_folder import HOST, NAME, ScriptPlace, Served, altered, edited
from tests.oned_lines import Release

_numbers = itertools.count(3000)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One driver for all tests without arguments of their own; each uses a VM of its own."""
    place = ScriptPlace(tmp_path_factory.mktemp("scripts") / "one")
    place.network("net")
    place.network("other")
    place.transfer("store")
    with Driver(place, f"-t 15 -r 0 -p {NAME}") as driver:
        yield Served(place, driver)
    assert_spoke_properly(driver)


@pytest.fixture
def scripts(tmp_path: Path) -> ScriptPlace:
    """An OpenNebula of the test's own."""
    return ScriptPlace(tmp_path / "one")


@pytest.fixture
def vm_id() -> int:
    """The number of a VM that no other test uses."""
    return next(_numbers)


# The guide to cloud bursting

GUIDE = {
    "deploy": """#!/bin/sh
        deployment_file=$1 host=$2 vm_id=$3
        [ -s "$deployment_file" ] || { echo "$deployment_file is empty" >&2; exit 1; }
        [ "$host" = remote_provider ] || { echo "there is no $host" >&2; exit 1; }
        echo "prov-$vm_id"
    """,
    "shutdown": """#!/bin/sh
        deploy_id=$1 host=$2
        [ "$deploy_id $host" = "prov-$3 remote_provider" ] || exit 1
    """,
}
"""Two scripts as the guide describes them, in a directory named after the provider."""


def test_scripts_of_the_bursting_guide_are_served_without_configuration(tmp_path: Path) -> None:
    place = ScriptPlace(tmp_path / "one")
    for name, text in GUIDE.items():
        place.plain_script(f"vmm/provider_name/{name}", textwrap.dedent(text))
    with Driver(place, "-t 15 -r 0 provider_name") as driver:
        line = altered(oned_requests.deploy(0, host=HOST), LOCAL_DEPLOYMENT_FILE=str(place.deployment_file(0)))
        assert driver.ask(line) == "SUCCESS prov-0"
        assert driver.ask(oned_requests.terminate(0, "prov-0", host=HOST)) == "SUCCESS -"
        line = altered(oned_requests.deploy(1, host="elsewhere"), LOCAL_DEPLOYMENT_FILE=str(place.deployment_file(1)))
        assert driver.ask(line) == "FAILURE there is no elsewhere"
        assert driver.finalize() == 0
    assert not list(place.var.glob("*.configured"))


# The whole life of a VM

LIVES: Mapping[Release, tuple[tuple[str, str, str, str], ...]] = {
    "7.4": (
        ("DEPLOY", "BOOT", "deploy {file} {host} 0 {host}", "SUCCESS i-0"),
        ("SHUTDOWN", "SHUTDOWN_POWEROFF", "shutdown i-0 {host} 0 {host}", "SUCCESS -"),
        ("DEPLOY", "BOOT_POWEROFF", "deploy {file} {host} 0 {host}", "SUCCESS i-0"),
        ("REBOOT", "RUNNING", "reboot i-0 {host} 0 {host}", "SUCCESS -"),
        ("SAVE", "SAVE_SUSPEND", "save i-0 {place}/checkpoint {host} 0 {host}", "SUCCESS -"),
        ("RESTORE", "BOOT_SUSPENDED", "restore {place}/checkpoint {host} i-0 0 {host}", "SUCCESS -"),
        ("SHUTDOWN", "SHUTDOWN", "shutdown i-0 {host} 0 {host}", "SUCCESS -"),
    ),
    "5.10": (
        ("DEPLOY", "BOOT", "deploy {file} {host} 0 {host}", "SUCCESS i-0"),
        ("SHUTDOWN", "SHUTDOWN_POWEROFF", "shutdown i-0 {host} 0 {host}", "SUCCESS -"),
        ("DEPLOY", "BOOT_POWEROFF", "deploy {file} {host} 0 {host}", "SUCCESS i-0"),
        ("REBOOT", "RUNNING", "reboot i-0 {host} 0 {host}", "SUCCESS -"),
    ),
}
"""What a real oned sent for one VM without interfaces: action, LCM_STATE, the one script that ran, the reply."""


@pytest.mark.parametrize("release", LIVES)
def test_each_action_of_a_vm_life_runs_its_script(scripts: ScriptPlace, release: Release) -> None:
    context = {"NETWORK": "YES", "SSH_PUBLIC_KEY": "ssh-rsa AAA", "START_SCRIPT": "echo hi"}
    template = Template(values={**oned_requests.asking_for("small_256mb").values, "CONTEXT": (context,)})
    with Driver(scripts, f"-t 15 -r 0 {NAME}") as driver:
        served = Served(scripts, driver)
        for seq, (action, state, step, reply) in enumerate(LIVES[release]):
            deploy_id = "i-0" if seq else ""
            line = oned_requests.line(
                action, 0, state, release=release, host=HOST, template=template, deploy_id=deploy_id, seq=seq
            )
            if action == "DEPLOY":
                line = altered(line, LOCAL_DEPLOYMENT_FILE=str(scripts.deployment_file(0)))
            outcome = served.perform(line)
            names = {"file": scripts.deployment_file(0), "host": HOST, "place": "/var/lib/one/datastores/0/0"}
            assert outcome.steps() == [f"vmm/{NAME}/{step.format(**names)}"]
            assert outcome.reply == reply
        assert driver.finalize() == 0


# Standard input


def stdin_of(release: Release, content: bytes) -> bytes:
    """The stdin of an action script of this release."""
    encoded = b64encode(content)
    match release:
        case "4.4":
            return b""
        case "5.10":  # Ruby's Base64.encode64
            return re.sub(rb"(.{1,60})", rb"\1\n", encoded)
        case _:
            return encoded


RELEASES: tuple[Release, ...] = ("4.4", "5.10", "7.4")
SINCE_5: tuple[Release, ...] = ("5.10", "7.4")


@pytest.mark.parametrize("release", RELEASES)
def test_action_script_reads_the_payload_on_stdin(served: Served, vm_id: int, release: Release) -> None:
    line = oned_requests.reboot(vm_id, "i-1", release=release, host=HOST)
    (record,) = served.perform(line).seen
    assert record.stdin == stdin_of(release, oned_requests.document(line))


def test_action_script_reads_base64_in_one_line_on_a_5_12_front_end(tmp_path: Path) -> None:
    """Requests of 5.12 look like those of 5.10; the VERSION file that every release installs distinguishes them."""
    place = ScriptPlace(tmp_path / "one")
    (place.remotes / "VERSION").write_text("5.12.13\n")
    line = oned_requests.reboot(7, "i-1", release="5.10", host=HOST)
    with Driver(place, f"-t 15 -r 0 -p {NAME}") as driver:
        (record,) = Served(place, driver).perform(line).seen
    assert record.stdin == b64encode(oned_requests.document(line))


@pytest.mark.parametrize("release", RELEASES)
def test_deploy_script_reads_the_deployment_file_on_stdin(served: Served, vm_id: int, release: Release) -> None:
    text = f"<VM><ID>{vm_id}</ID><NAME>été</NAME></VM>\n"
    line = altered(
        oned_requests.deploy(vm_id, release=release),
        LOCAL_DEPLOYMENT_FILE=str(served.place.deployment_file(vm_id, text)),
    )
    (record,) = served.perform(line).seen
    assert record.stdin == stdin_of(release, text.encode())


@pytest.mark.parametrize("release", SINCE_5)
def test_network_script_reads_the_vm_on_stdin(served: Served, vm_id: int, release: Release) -> None:
    line = request(served.place, "SHUTDOWN", vm_id, release, CASES["SHUTDOWN"])
    vm = etree.fromstring(served.perform(line).seen[-1].content())
    assert vm.tag == "VM"
    found = ("ID", "DEPLOY_ID", ".//HISTORY/HOSTNAME", ".//NIC/MAC", ".//CONTEXT/TARGET", "USER_TEMPLATE")
    assert [path for path in found if vm.find(path) is None] == []
    assert vm.findtext("ID") == str(vm_id)


@pytest.mark.parametrize("release", SINCE_5)
def test_only_transfer_scripts_of_a_migration_read_the_vm_on_stdin(
    served: Served, vm_id: int, release: Release
) -> None:
    outcome = served.perform(request(served.place, "MIGRATE", vm_id, release, CASES["MIGRATE"]))
    before, after = outcome.seen[0], outcome.seen[-1]
    assert etree.fromstring(before.content()).findtext("ID") == str(vm_id)
    assert after.stdin == before.stdin
    outcome = served.perform(request(served.place, "DEPLOY", vm_id, release, CASES["DEPLOY"]))
    assert (outcome.seen[0].script, outcome.seen[0].stdin) == ("tm/store/context", b"")


def test_up_to_4_14_scripts_get_an_empty_stdin(served: Served, vm_id: int) -> None:
    outcome = served.perform(request(served.place, "ATTACHDISK", vm_id, "4.4", CASES["ATTACHDISK"]))
    outcome2 = served.perform(request(served.place, "SHUTDOWN", vm_id, "4.4", CASES["SHUTDOWN"]))
    assert [record.stdin for record in (*outcome.seen, *outcome2.seen)] == [b""] * 4


def test_request_of_4_14_with_an_empty_net_drv_is_recognized(served: Served, vm_id: int) -> None:
    line = altered(oned_requests.line("SHUTDOWN", vm_id, release="4.4", deploy_id="i-1"), NET_DRV="")
    (record,) = served.perform(line).seen
    assert (record.script, record.stdin) == ("vmm/cloud/shutdown", b"")


UNREADABLE = {
    "not-base64": b"!!!",
    "not-xml": b64encode(b"hello"),
    "truncated": b64encode(b"<VMM_DRIVER_ACTION_DATA><HOST>h"),
    "entity": b64encode(
        b'<!DOCTYPE a [<!ENTITY b "c">]><VMM_DRIVER_ACTION_DATA><HOST>&b;</HOST></VMM_DRIVER_ACTION_DATA>'
    ),
    "other-root": b64encode(b"<VM/>"),
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
def test_request_with_an_unreadable_payload_runs_no_script(served: Served, vm_id: int, payload: bytes) -> None:
    outcome = served.perform(oned_requests.with_payload("DEPLOY", vm_id, payload))
    assert outcome.reply.startswith("FAILURE ")
    assert not outcome.seen


# Arguments

NASTY = ("$(touch @)", "`touch @`", "'; touch @; '", "a  b", "*", "&&", "-n", "\\", '"', "été")


@pytest.mark.parametrize("text", NASTY)
def test_arguments_reach_a_script_without_shell_expansion(served: Served, vm_id: int, text: str) -> None:
    made = served.place.root / "made"
    hypervisor_id = text.replace("@", str(made))
    line = oned_requests.line("SNAPSHOTDELETE", vm_id, deploy_id="i-1", operand={"HYPERVISOR_ID": hypervisor_id})
    (record,) = served.perform(line).seen
    assert record.arguments[1] == hypervisor_id
    assert not made.exists()


def test_empty_deploy_id_is_passed_as_an_empty_argument(served: Served, vm_id: int) -> None:
    (record,) = served.perform(oned_requests.line("SHUTDOWN", vm_id, "SHUTDOWN", host=HOST)).seen
    assert record.arguments == ("", HOST, str(vm_id), HOST)


def with_interface_kind(line: bytes, kind: str) -> bytes:
    """The line with its last NIC turned into another kind of interface."""

    def rename(document: str) -> str:
        before, _, rest = document.rpartition("<NIC>")
        inside, _, after = rest.partition("</NIC>")
        return f"{before}<{kind}>{inside}</{kind}>{after}"

    return edited(line, rename)


def test_attachnic_of_a_pci_interface_runs_the_network_and_attach_scripts(served: Served, vm_id: int) -> None:
    line = with_interface_kind(request(served.place, "ATTACHNIC", vm_id, "7.4", CASES["ATTACHNIC"]), "PCI")
    steps = served.perform(line).steps()
    expected = f"vmm/cloud/attach_nic i-{vm_id} {NIC['MAC']} br1 virtio net one-9-1 {vm_id} {HOST}"
    assert steps[:3] == ["vnm/net/pre", expected, f"vnm/net/post i-{vm_id} {HOST}"]


def test_attach_nic_script_gets_a_dash_for_a_missing_model(served: Served, vm_id: int) -> None:
    line = request(served.place, "ATTACHNIC", vm_id, "7.4", CASES["ATTACHNIC"])
    line = edited(line, lambda document: document.replace("<MODEL><![CDATA[virtio]]></MODEL>", ""))
    attach = next(record for record in served.perform(line).seen if record.script.endswith("attach_nic"))
    assert attach.arguments[3] == "-"


# Network drivers


def with_networks(*drivers: str) -> Template:
    """A VM with an interface for each of these network drivers."""
    nics = tuple({"NIC_ID": str(number), "MAC": "02:00", "VN_MAD": name} for number, name in enumerate(drivers))
    return Template(values={"CPU": ("1",), "MEMORY": ("256",), "NIC": nics})


def test_each_network_driver_runs_once_in_the_order_of_the_interfaces(served: Served, vm_id: int) -> None:
    template = with_networks("other", "net", "other", "")
    line = oned_requests.terminate(vm_id, "i-1", host=HOST, template=template)
    assert served.perform(line).steps()[1:] == [f"vnm/other/clean {HOST}", f"vnm/net/clean {HOST}"]


def test_dummy_network_driver_needs_no_scripts_but_runs_existing_ones(scripts: ScriptPlace) -> None:
    line = oned_requests.terminate(7, "i-7", host=HOST, template=with_networks("dummy"))
    with Driver(scripts, f"-t 15 -r 0 {NAME}") as driver:
        served = Served(scripts, driver)
        outcome = served.perform(line)
        assert (outcome.reply, len(outcome.seen)) == ("SUCCESS -", 1)
        scripts.network("dummy")
        assert served.perform(line).steps()[1:] == [f"vnm/dummy/clean {HOST}"]


@pytest.mark.parametrize("name", ["absent", "../net", "/etc", "..", "net/../net"])
def test_missing_or_invalid_network_driver_fails_the_action(served: Served, vm_id: int, name: str) -> None:
    outcome = served.perform(oned_requests.terminate(vm_id, "i-1", template=with_networks(name)))
    assert outcome.reply.startswith("FAILURE ")
    assert name in outcome.reply
    assert [record.script for record in outcome.seen] == ["vmm/cloud/shutdown"]


# Transfer drivers


def updateconf(vm_id: int, command: str) -> bytes:
    """UPDATECONF with a transfer command."""
    line = oned_requests.line("UPDATECONF", vm_id, deploy_id="i-1", operand={"TARGET": "hda"})
    return altered(line, TM_COMMAND=command)


def test_dummy_transfer_driver_runs_no_script(served: Served, vm_id: int) -> None:
    outcome = served.perform(updateconf(vm_id, "CONTEXT dummy /a b\n"))
    assert [record.script for record in outcome.seen] == ["vmm/cloud/prereconfigure", "vmm/cloud/reconfigure"]
    assert outcome.reply.startswith("SUCCESS")


@pytest.mark.parametrize("name", ["absent", "../tm/store", "..", "/etc"])
def test_missing_or_invalid_transfer_driver_fails_the_action(served: Served, vm_id: int, name: str) -> None:
    outcome = served.perform(updateconf(vm_id, f"CONTEXT {name} /a b\n"))
    assert outcome.reply.startswith("FAILURE ")
    assert name in outcome.reply
    assert "vmm/cloud/reconfigure" not in [record.script for record in outcome.seen]


def test_reply_names_the_path_of_a_missing_driver(served: Served, vm_id: int) -> None:
    remotes = served.place.remotes
    outcome = served.perform(updateconf(vm_id, "CONTEXT absent /a b\n"))
    assert f"{remotes}/tm/absent" in outcome.reply
    outcome = served.perform(oned_requests.terminate(vm_id, "i-1", template=with_networks("absent")))
    assert f"{remotes}/vnm/absent" in outcome.reply


def test_transfer_command_with_a_suffix_falls_back_to_the_script_without_it(served: Served, vm_id: int) -> None:
    served.place.script("tm/store/context.ssh")
    ran = served.perform(updateconf(vm_id, "CONTEXT.ssh store /a b\n")).steps()
    assert ran[1] == "tm/store/context.ssh /a b"
    ran = served.perform(updateconf(vm_id, "CONTEXT.ceph store /a b\n")).steps()
    assert ran[1] == "tm/store/context /a b"


@pytest.mark.parametrize("action", ["ATTACHDISK", "DETACHDISK", "RESIZEDISK"])
def test_disk_actions_without_tm_command_fail_and_run_no_script(served: Served, vm_id: int, action: str) -> None:
    outcome = served.perform(request(served.place, action, vm_id, "7.4", CASES[action], TM_COMMAND=""))
    assert re.match("FAILURE .*TM_COMMAND", outcome.reply)
    assert not outcome.seen


# Cleaning up


def test_cleanup_also_cleans_up_on_migr_host(served: Served, vm_id: int) -> None:
    case = CASES["CLEANUP"]._replace(operand={"MIGR_HOST": "old"})
    ran = served.perform(request(served.place, "CLEANUP", vm_id, "5.10", case)).steps()
    assert [step.removesuffix(f" {HOST}") for step in ran if step.startswith("vnm/")] == ["vnm/net/clean"] * 2
    assert [step for step in ran if not step.startswith("vnm/")] == [
        f"vmm/cloud/cancel i-{vm_id} {HOST} {vm_id} {HOST}",
        f"vmm/cloud/cancel i-{vm_id} old {vm_id} old",
        "tm/store/delete a 9 1",
        "tm/store/delete b 9 1",
    ]


@pytest.mark.parametrize("release", SINCE_5)
def test_cleanup_without_a_deploy_id_runs_no_cancel_script(served: Served, vm_id: int, release: Release) -> None:
    line = altered(request(served.place, "CLEANUP", vm_id, release, CASES["CLEANUP"]), DEPLOY_ID="")
    outcome = served.perform(line)
    assert {record.script for record in outcome.seen} == {"vnm/net/clean", "tm/store/delete"}
    assert outcome.reply == "SUCCESS -"
