"""The scripts that upstream's drivers run for each action: paths and arguments, release by release.

From OpenNebula's src/vmm_mad/exec/one_vmm_exec.rb, src/vnm_mad/one_vnm.rb and src/tm_mad/one_tm.rb.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from one_provider_mad.domain import Template
from tests.end_to_end import oned_requests
from tests.end_to_end.script_folder import HOST, ScriptPlace, altered, edited
from tests.oned_lines import RELEASES, Details, Release


class Case(NamedTuple):
    """An action, and its scripts.

    Attributes:
        steps: by release, path below `remotes` and arguments, with {names} for what depends on the VM; a release that
            is missing equals the one before it.
        operand: attributes of the disk, NIC or other part that the action is about.
        elements: content of elements of the message.
    """

    steps: Mapping[Release, tuple[str, ...]]
    operand: Mapping[str, str] = {}
    elements: Mapping[str, str] = {}


MAC, BRIDGE = "02:00:0a:00:00:06", "br1"
NIC = {
    "NIC_ID": "1",
    "MAC": MAC,
    "BRIDGE": BRIDGE,
    "MODEL": "virtio",
    "TARGET": "one-9-1",
    "VN_MAD": "net",
}
DISK = {"DISK_ID": "0", "TARGET": "vdc", "SIZE": "20480"}
SNAPSHOT = {"SNAPSHOT_ID": "3", "HYPERVISOR_ID": "snap-3"}

CONTEXT = {"TM_COMMAND": "CONTEXT store /vms/context.sh remote_provider:/disks/1 9 0\n", "DISK_TARGET_PATH": "/disks/1"}
CONTEXT_STEP = "tm/store/context /vms/context.sh remote_provider:/disks/1 9 0"

VM = "{vm} {host}"
RECONFIGURE = (
    f"vmm/cloud/prereconfigure {{id}} hda {VM}",
    CONTEXT_STEP,
    f"vmm/cloud/reconfigure {{id}} hda /disks/1 {VM}",
)
ATTACH_NIC = f"vmm/cloud/attach_nic {{id}} {MAC} {BRIDGE} virtio net"
DETACH_NIC = f"vmm/cloud/detach_nic {{id}} {MAC} {VM}"
MIGRATE = f"vmm/cloud/migrate {{id}} next_host {{host}} {VM}"


def on_host(script: str) -> str:
    return f"vmm/cloud/{script} {{id}} {{host}} {VM}"


def ending(script: str) -> Case:
    """A case whose last step cleans the network."""
    return Case(
        {
            "4.4": (on_host(script), "vnm/net/clean {xml}"),
            "5.10": (on_host(script), "vnm/net/clean"),
            "7.4": (on_host(script), "vnm/net/clean {host}"),
        }
    )


CASES = {
    "DEPLOY": Case(
        {
            "4.4": ("vnm/net/pre {xml}", f"vmm/cloud/deploy {{file}} {{host}} {VM}", "vnm/net/post {xml} {id}"),
            "5.10": (CONTEXT_STEP, "vnm/net/pre", f"vmm/cloud/deploy {{file}} {{host}} {VM}", "vnm/net/post {id}"),
            "7.4": (
                CONTEXT_STEP,
                "vnm/net/pre",
                f"vmm/cloud/deploy {{file}} {{host}} {VM}",
                "vnm/net/post {id} {host}",
            ),
        },
        elements=CONTEXT,
    ),
    "SHUTDOWN": ending("shutdown"),
    "CANCEL": ending("cancel"),
    "SAVE": Case(
        {
            "4.4": (f"vmm/cloud/save {{id}} /checkpoint {{host}} {VM}", "vnm/net/clean {xml}"),
            "5.10": (f"vmm/cloud/save {{id}} /checkpoint {{host}} {VM}", "vnm/net/clean"),
            "7.4": (f"vmm/cloud/save {{id}} /checkpoint {{host}} {VM}", "vnm/net/clean {host}"),
        },
        elements={"CHECKPOINT_FILE": "/checkpoint"},
    ),
    "RESTORE": Case(
        {
            "4.4": (
                "vnm/net/pre {xml}",
                f"vmm/cloud/restore /checkpoint {{host}} {{id}} {VM}",
                "vnm/net/post {xml} {id}",
            ),
            "5.10": (
                CONTEXT_STEP,
                "vnm/net/pre",
                f"vmm/cloud/restore /checkpoint {{host}} {{id}} {VM}",
                "vnm/net/post {id}",
            ),
            "7.4": (
                CONTEXT_STEP,
                "vnm/net/pre",
                f"vmm/cloud/restore /checkpoint {{host}} {{id}} {VM}",
                "vnm/net/post {id} {host}",
            ),
        },
        elements={**CONTEXT, "CHECKPOINT_FILE": "/checkpoint"},
    ),
    "MIGRATE": Case(
        {
            "4.4": ("vnm/next_net/pre {xml}", MIGRATE, "vnm/net/clean {xml}", "vnm/next_net/post {xml} {id}"),
            "5.10": (
                "tm/store/premigrate a b",
                "vnm/net/pre",
                MIGRATE,
                "vnm/net/clean",
                "vnm/net/post {id}",
                "tm/store/postmigrate a b",
            ),
            "7.4": (
                "tm/store/premigrate a b",
                "vnm/net/pre",
                MIGRATE,
                "vnm/net/clean {host}",
                "vnm/net/post {id} {host}",
                "tm/store/postmigrate a b",
            ),
        },
        operand={"MIGR_HOST": "next_host"},
        elements={"TM_COMMAND": "MIGRATE store a b\n"},
    ),
    "REBOOT": Case({"4.4": (on_host("reboot"),)}),
    "RESET": Case({"4.4": (on_host("reset"),)}),
    "POLL": Case({"4.4": (on_host("poll"),)}),
    "ATTACHDISK": Case(
        {"4.4": ("tm/store/attach src host:dst 9 1", f"vmm/cloud/attach_disk {{id}} /disks/2 vdc 2 {{message}} {VM}")},
        operand=DISK,
        elements={"TM_COMMAND": "ATTACH store src host:dst 9 1", "DISK_TARGET_PATH": "/disks/2"},
    ),
    "DETACHDISK": Case(
        {"4.4": (f"vmm/cloud/detach_disk {{id}} /disks/2 vdc 2 {VM}", "tm/store/detach host:dst 9 1")},
        operand=DISK,
        elements={"TM_COMMAND": "DETACH store host:dst 9 1", "DISK_TARGET_PATH": "/disks/2"},
    ),
    "ATTACHNIC": Case(
        {
            "4.4": ("vnm/net/pre {xml}", f"{ATTACH_NIC} {VM}", "vnm/net/post {xml} {id}"),
            "5.10": ("vnm/net/pre", f"{ATTACH_NIC} one-9-1 {VM}", "vnm/net/post {id}", *RECONFIGURE),
            "7.4": ("vnm/net/pre", f"{ATTACH_NIC} one-9-1 {VM}", "vnm/net/post {id} {host}", *RECONFIGURE),
        },
        operand=NIC,
        elements=CONTEXT,
    ),
    "DETACHNIC": Case(
        {
            "4.4": (DETACH_NIC, "vnm/net/clean {xml}"),
            "5.10": (DETACH_NIC, "vnm/net/clean", *RECONFIGURE),
            "7.4": (DETACH_NIC, "vnm/net/clean {host}", *RECONFIGURE),
        },
        operand=NIC,
        elements=CONTEXT,
    ),
    "SNAPSHOTCREATE": Case({"4.4": (f"vmm/cloud/snapshot_create {{id}} 3 {VM}",)}, operand=SNAPSHOT),
    "SNAPSHOTREVERT": Case(
        {
            "4.4": (f"vmm/cloud/snapshot_revert {{id}} snap-3 {VM}",),
            "7.4": (f"vmm/cloud/snapshot_revert {{id}} snap-3 {VM}", "vnm/net/post {id} {host}"),
        },
        operand=SNAPSHOT,
    ),
    "SNAPSHOTDELETE": Case({"4.4": (f"vmm/cloud/snapshot_delete {{id}} snap-3 {VM}",)}, operand=SNAPSHOT),
    "RESIZEDISK": Case(
        {"5.10": ("tm/store/resize dst 20480 9 1", f"vmm/cloud/resize_disk {{id}} 0 20480 {{message}} {{host}} {VM}")},
        operand=DISK,
        elements={"TM_COMMAND": "RESIZE store dst 20480 9 1"},
    ),
    "RESIZE": Case({"7.4": (f"vmm/cloud/resize {{id}} {VM}",)}, operand={"CPU": "2", "MEMORY": "2048"}),
    "UPDATECONF": Case({"5.10": RECONFIGURE}, operand={"SSH_PUBLIC_KEY": "ssh-rsa AAAA"}, elements=CONTEXT),
    "UPDATESG": Case({"5.10": ("vnm/net/update_sg {id}",)}, operand={"SECURITY_GROUP_ID": "101"}),
    "UPDATENIC": Case({"7.4": ("vnm/net/update_nic {id} 7",)}, operand={"VIRTUAL_NETWORK_ID": "7"}),
    "DISKSNAPSHOTCREATE": Case(
        {"5.10": ("tm/store/snap_create_live host:disk 1 9 0",)},
        operand={"DISK_ID": "0", "TM_MAD": "store"},
        elements={"TM_COMMAND": "SNAP_CREATE store host:disk 1 9 0"},
    ),
    "CLEANUP": Case(
        {
            "4.4": (on_host("cancel"), "vnm/net/clean {xml}", "tm/store/delete a 9 1", "tm/store/delete b 9 1"),
            "5.10": (on_host("cancel"), "vnm/net/clean", "tm/store/delete a 9 1", "tm/store/delete b 9 1"),
            "7.4": (on_host("cancel"), "vnm/net/clean {host}", "tm/store/delete a 9 1", "tm/store/delete b 9 1"),
        },
        elements={"TM_COMMAND": "DELETE store a 9 1\nDELETE store b 9 1\n"},
    ),
}


def expected(case: Case, release: Release) -> tuple[str, ...]:
    """The steps of the newest release with steps of its own that is not newer than this one."""
    known = [case.steps[each] for each in RELEASES[: RELEASES.index(release) + 1] if each in case.steps]
    return known[-1]


def vm_with_network(release: Release) -> Template:
    """A VM with an interface and a context."""
    nic = {"NIC_ID": "0", "MAC": "02:00:0a:00:00:05", "BRIDGE": "br0", "TARGET": "one-9-0", "NETWORK": "cloud"}
    if release != "4.4":
        nic["VN_MAD"] = "net"
    context = {"TARGET": "hda", "DISK_ID": "1", "NETWORK": "YES"}
    return Template(values={"CPU": ("1",), "MEMORY": ("256",), "NIC": (nic,), "CONTEXT": (context,)})


def request(
    place: ScriptPlace,
    action: str,
    vm_id: int,
    release: Release,
    case: Case,
    /,
    *,
    network: str = "net",
    **elements: str,
) -> bytes:
    """The line of a case, for a VM on a host (4.4) or with an interface whose network driver is this one."""
    details: Details = {"host": HOST, "template": vm_with_network(release), "operand": case.operand}
    if action != "DEPLOY":
        details["deploy_id"] = f"i-{vm_id}"
    given = {**case.elements, **elements}
    if release == "4.4":
        given |= {"NET_DRV": network} | ({"MIGR_NET_DRV": "next_net"} if "MIGR_HOST" in case.operand else {})
        for transfers in ("DEPLOY", "RESTORE", "MIGRATE", "ATTACHNIC", "DETACHNIC"):
            if action == transfers:  # 4.4 transfers nothing for a cloud host
                given.pop("TM_COMMAND", None)
    if action == "DEPLOY":
        given["LOCAL_DEPLOYMENT_FILE"] = str(place.deployment_file(vm_id))
    line = altered(oned_requests.line(action, vm_id, release=release, **details), **given)
    if release == "4.4":
        return line
    driver = "<![CDATA[{}]]></VN_MAD>"
    return edited(line, lambda document: document.replace(driver.format("net"), driver.format(network)))
