"""The scripts of each action with their order and arguments, and the scripts that undo a failed one.

From OpenNebula's src/vmm_mad/exec/one_vmm_exec.rb, src/vnm_mad/one_vnm.rb and src/tm_mad/one_tm.rb.
"""

from __future__ import annotations

import itertools
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from lxml import etree

from tests.end_to_end.oned import Driver
from tests.end_to_end.script_cases import CASES, NIC, expected, request
from tests.end_to_end.script_folder import (
    HOST,
    NAME,
    TRANSFER_COMMANDS,
    Outcome,
    ScriptPlace,
    Served,
    message_of,
)
from tests.oned_lines import ACTIONS, Release

BOOM = "echo boom >&2; exit 1"
"""A script that fails."""

_numbers = itertools.count(2000)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One driver for all tests; each uses a VM of its own."""
    place = ScriptPlace(tmp_path_factory.mktemp("scripts") / "one")
    place.etc("vmm_exec/vmm_execrc", 'LIVE_DISK_SNAPSHOTS="kvm-qcow2 vmm_provider-store"\n')
    place.network("net")
    place.network("next_net")
    place.transfer("store")
    for action in ("pre", "post", "clean"):
        place.network(f"fails_{action}", **{action: BOOM})
    place.transfer("broken", **dict.fromkeys(TRANSFER_COMMANDS, BOOM))
    with Driver(place, f"-t 15 -r 0 -p {NAME}") as driver:
        yield Served(place, driver)
        assert "unexpected" not in place.log(NAME)


@pytest.fixture
def vm_id() -> int:
    """The number of a VM that no other test uses."""
    return next(_numbers)


def filled(steps: tuple[str, ...], place: ScriptPlace, vm_id: int, line: bytes) -> list[str]:
    """The steps with the values of this VM."""
    names = {
        "vm": str(vm_id),
        "id": f"i-{vm_id}",
        "host": HOST,
        "file": str(place.deployment_file(vm_id)),
        "message": message_of(line),
        "xml": "{xml}",
    }
    return [step.format(**names) for step in steps]


def shown(outcome: Outcome, vm_id: int) -> list[str]:
    """The steps that ran; a VM in base64 is shown as {xml}."""
    return [
        " ".join((record.script, *(is_vm(argument, vm_id) for argument in record.arguments))) for record in outcome.seen
    ]


def is_vm(argument: str, vm_id: int) -> str:
    """{xml} for this VM's element in base64, anything else as it is."""
    if not argument.startswith(b64encode(b"<VM>").decode()[:5]):
        return argument
    vm = etree.fromstring(b64decode(argument, validate=True))
    assert vm.findtext("ID") == str(vm_id)
    return "{xml}"


RUNS = [
    pytest.param(action, release, id=f"{action}-{release}") for action in CASES for release in ACTIONS[action].releases
]


@pytest.mark.parametrize(("action", "release"), RUNS)
def test_action_runs_the_scripts_of_its_release_in_order(
    served: Served, vm_id: int, action: str, release: Release
) -> None:
    case = CASES[action]
    line = request(served.place, action, vm_id, release, case)
    outcome = served.perform(line)
    assert outcome.reply.startswith("SUCCESS"), outcome
    assert shown(outcome, vm_id) == filled(expected(case, release), served.place, vm_id, line)


# Undoing


class Undone(NamedTuple):
    """An action that a failing step ends.

    Attributes:
        action: its word.
        release: that sends it.
        fails: the action script that fails, or the network or transfer driver one of whose scripts does.
        steps: all that runs, the failing step included.
        result: of the reply.
    """

    action: str
    release: Release
    fails: str
    steps: tuple[str, ...]
    result: str = "FAILURE"


VM = "{vm} {host}"
CANCEL = f"vmm/cloud/cancel {{id}} {{host}} {VM}"
DEPLOY = f"vmm/cloud/deploy {{file}} {{host}} {VM}"
RESTORE = f"vmm/cloud/restore /checkpoint {{host}} {{id}} {VM}"
CONTEXT = "tm/store/context /vms/context.sh remote_provider:/disks/1 9 0"
DETACH_NIC = f"vmm/cloud/detach_nic {{id}} {NIC['MAC']} {VM}"
ATTACH_NIC = f"vmm/cloud/attach_nic {{id}} {NIC['MAC']} br1 virtio"
MIGRATE = f"vmm/cloud/migrate {{id}} next_host {{host}} {VM}"

UNDONE = {
    "context-5.10": Undone("DEPLOY", "5.10", "broken", (CONTEXT.replace("store", "broken"),)),
    "context-7.4": Undone("DEPLOY", "7.4", "broken", (CONTEXT.replace("store", "broken"),)),
    "pre-4.4": Undone("DEPLOY", "4.4", "fails_pre", ("vnm/fails_pre/pre {xml}",)),
    "pre-7.4": Undone("DEPLOY", "7.4", "fails_pre", (CONTEXT, "vnm/fails_pre/pre")),
    "deploy-4.4": Undone("DEPLOY", "4.4", "deploy", ("vnm/net/pre {xml}", DEPLOY)),
    "deploy-5.10": Undone("DEPLOY", "5.10", "deploy", (CONTEXT, "vnm/net/pre", DEPLOY)),
    "deploy-7.4": Undone("DEPLOY", "7.4", "deploy", (CONTEXT, "vnm/net/pre", DEPLOY, "vnm/net/clean {host}")),
    "post-4.4": Undone(
        "DEPLOY", "4.4", "fails_post", ("vnm/fails_post/pre {xml}", DEPLOY, "vnm/fails_post/post {xml} {id}", CANCEL)
    ),
    "post-5.10": Undone(
        "DEPLOY", "5.10", "fails_post", (CONTEXT, "vnm/fails_post/pre", DEPLOY, "vnm/fails_post/post {id}", CANCEL)
    ),
    "post-7.4": Undone(
        "DEPLOY",
        "7.4",
        "fails_post",
        (
            CONTEXT,
            "vnm/fails_post/pre",
            DEPLOY,
            "vnm/fails_post/post {id} {host}",
            CANCEL,
            "vnm/fails_post/clean {host}",
        ),
    ),
    "shutdown": Undone("SHUTDOWN", "7.4", "shutdown", (f"vmm/cloud/shutdown {{id}} {{host}} {VM}",)),
    "shutdown-clean": Undone(
        "SHUTDOWN",
        "7.4",
        "fails_clean",
        (f"vmm/cloud/shutdown {{id}} {{host}} {VM}", "vnm/fails_clean/clean {host}"),
    ),
    "cancel": Undone("CANCEL", "5.10", "cancel", (CANCEL,)),
    "save": Undone("SAVE", "4.4", "save", (f"vmm/cloud/save {{id}} /checkpoint {{host}} {VM}",)),
    "restore": Undone("RESTORE", "7.4", "restore", (CONTEXT, "vnm/net/pre", RESTORE)),
    "restore-post-5.10": Undone(
        "RESTORE", "5.10", "fails_post", (CONTEXT, "vnm/fails_post/pre", RESTORE, "vnm/fails_post/post {id}", CANCEL)
    ),
    "restore-post-7.4": Undone(
        "RESTORE",
        "7.4",
        "fails_post",
        (CONTEXT, "vnm/fails_post/pre", RESTORE, "vnm/fails_post/post {id} {host}", CANCEL),
    ),
    "migrate-transfer": Undone("MIGRATE", "7.4", "broken", ("tm/broken/premigrate a b", "tm/broken/failmigrate a b")),
    "migrate-pre": Undone("MIGRATE", "7.4", "fails_pre", ("tm/store/premigrate a b", "vnm/fails_pre/pre")),
    "migrate": Undone(
        "MIGRATE",
        "7.4",
        "migrate",
        ("tm/store/premigrate a b", "vnm/net/pre", MIGRATE, "tm/store/failmigrate a b"),
    ),
    # The VM is on the other host by then: oned must not believe that it is not.
    "migrate-clean": Undone(
        "MIGRATE",
        "7.4",
        "fails_clean",
        (
            "tm/store/premigrate a b",
            "vnm/fails_clean/pre",
            MIGRATE,
            "vnm/fails_clean/clean {host}",
            "vnm/fails_clean/post {id} {host}",
            "tm/store/postmigrate a b",
        ),
        "SUCCESS",
    ),
    "migrate-post": Undone(
        "MIGRATE",
        "5.10",
        "fails_post",
        (
            "tm/store/premigrate a b",
            "vnm/fails_post/pre",
            MIGRATE,
            "vnm/fails_post/clean",
            "vnm/fails_post/post {id}",
            "tm/store/postmigrate a b",
        ),
        "SUCCESS",
    ),
    "attach-disk-transfer": Undone("ATTACHDISK", "7.4", "broken", ("tm/broken/attach src host:dst 9 1",)),
    "attach-disk": Undone(
        "ATTACHDISK",
        "5.10",
        "attach_disk",
        (
            "tm/store/attach src host:dst 9 1",
            f"vmm/cloud/attach_disk {{id}} /disks/2 vdc 2 {{message}} {VM}",
            "tm/store/detach host:dst 9 1",
        ),
    ),
    "detach-disk": Undone("DETACHDISK", "7.4", "detach_disk", (f"vmm/cloud/detach_disk {{id}} /disks/2 vdc 2 {VM}",)),
    "attach-nic": Undone("ATTACHNIC", "7.4", "attach_nic", ("vnm/net/pre", f"{ATTACH_NIC} net one-9-1 {VM}")),
    "attach-nic-post-4.4": Undone(
        "ATTACHNIC",
        "4.4",
        "fails_post",
        (
            "vnm/fails_post/pre {xml}",
            f"{ATTACH_NIC} fails_post {VM}",
            "vnm/fails_post/post {xml} {id}",
            DETACH_NIC,
        ),
    ),
    "attach-nic-post-7.4": Undone(
        "ATTACHNIC",
        "7.4",
        "fails_post",
        (
            "vnm/fails_post/pre",
            f"{ATTACH_NIC} fails_post one-9-1 {VM}",
            "vnm/fails_post/post {id} {host}",
            DETACH_NIC,
        ),
    ),
    "attach-nic-prereconfigure": Undone(
        "ATTACHNIC",
        "7.4",
        "prereconfigure",
        (
            "vnm/net/pre",
            f"{ATTACH_NIC} net one-9-1 {VM}",
            "vnm/net/post {id} {host}",
            f"vmm/cloud/prereconfigure {{id}} hda {VM}",
            DETACH_NIC,
        ),
    ),
    "detach-nic": Undone("DETACHNIC", "7.4", "detach_nic", (DETACH_NIC,)),
    "update-conf": Undone("UPDATECONF", "5.10", "prereconfigure", (f"vmm/cloud/prereconfigure {{id}} hda {VM}",)),
    "cleanup-cancel": Undone(
        "CLEANUP",
        "5.10",
        "cancel",
        (CANCEL, "vnm/net/clean", "tm/store/delete a 9 1", "tm/store/delete b 9 1"),
        "SUCCESS",
    ),
    "cleanup-clean": Undone(
        "CLEANUP",
        "7.4",
        "fails_clean",
        (CANCEL, "vnm/fails_clean/clean {host}", "tm/store/delete a 9 1", "tm/store/delete b 9 1"),
        "SUCCESS",
    ),
    "cleanup-delete": Undone(
        "CLEANUP",
        "7.4",
        "broken",
        (CANCEL, "vnm/net/clean {host}", "tm/broken/delete a 9 1", "tm/broken/delete b 9 1"),
        "SUCCESS",
    ),
}


def failing(place: ScriptPlace, vm_id: int, undone: Undone) -> bytes:
    """The line of an action one of whose steps is to fail."""
    case = CASES[undone.action]
    elements, network = dict(case.elements), "net"
    if undone.action == "ATTACHDISK":
        elements["TM_COMMAND_ROLLBACK"] = "DETACH store host:dst 9 1"
    if undone.fails == "broken":
        elements["TM_COMMAND"] = elements["TM_COMMAND"].replace("store", "broken")
    elif undone.fails.startswith("fails_"):
        network = undone.fails
    else:
        place.on_action(undone.fails, vm_id, BOOM)
    return request(place, undone.action, vm_id, undone.release, case, network=network, **elements)


@pytest.mark.parametrize("undone", [pytest.param(undone, id=name) for name, undone in UNDONE.items()])
def test_failed_script_is_followed_by_the_undo_scripts_of_upstream(served: Served, vm_id: int, undone: Undone) -> None:
    line = failing(served.place, vm_id, undone)
    outcome = served.perform(line)
    assert shown(outcome, vm_id) == filled(undone.steps, served.place, vm_id, line)
    assert outcome.reply.startswith(undone.result)
    assert ("boom" in outcome.reply) == (undone.result == "FAILURE")
    assert any(text.startswith("I Failed to execute ") for text in outcome.log)


def test_undo_continues_after_a_failed_undo_script_and_replies_the_first_error(served: Served, vm_id: int) -> None:
    served.place.on_action("cancel", vm_id, "echo cannot cancel >&2; exit 1")
    line = request(served.place, "DEPLOY", vm_id, "7.4", CASES["DEPLOY"], network="fails_post")
    outcome = served.perform(line)
    assert outcome.steps()[-2:] == [f"vmm/cloud/cancel i-{vm_id} {HOST} {vm_id} {HOST}", f"vnm/fails_post/clean {HOST}"]
    assert "boom" in outcome.reply
    assert "cannot cancel" not in outcome.reply
    assert "E cannot cancel" in outcome.log
