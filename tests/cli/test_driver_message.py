"""The encoder writes oned's lines, release by release: VirtualMachineManager.cc, VirtualMachine.cc, History.cc."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from one_provider_mad.cli.driver_message import build, default_template, wire_line
from one_provider_mad.cli.verbs import LCM_NUMBERS, RELEASES, VERBS, Release, default_lcm_state
from one_provider_mad.domain import Template, VmRequest
from one_provider_mad.protocol.messages import Action, Malformed, Request
from one_provider_mad.protocol.payload import read_payload
from one_provider_mad.protocol.vmm import parse_line
from tests import oned_lines

MESSAGE = """
HOST NET_DRV- MIGR_HOST MIGR_NET_DRV- DEPLOY_ID LOCAL_DEPLOYMENT_FILE REMOTE_DEPLOYMENT_FILE CHECKPOINT_FILE TM_COMMAND
TM_COMMAND_ROLLBACK DISK_TARGET_PATH VM DATASTORE+
"""
VM = """
ID UID GID UNAME GNAME NAME PERMISSIONS LAST_POLL STATE LCM_STATE PREV_STATE* PREV_LCM_STATE* RESCHED STIME ETIME
DEPLOY_ID MEMORY- CPU- NET_TX- NET_RX- MONITORING* SCHED_ACTIONS+ TEMPLATE USER_TEMPLATE HISTORY_RECORDS BACKUPS+
"""
HISTORY = """
OID SEQ HOSTNAME HID CID STIME ETIME VMMMAD- VNMMAD- TMMAD- DS_LOCATION- VM_MAD* TM_MAD* DS_ID PLAN_ID+ ACTION_ID+
PSTIME PETIME RSTIME RETIME ESTIME EETIME REASON- ACTION UID* GID* REQUEST_ID*
"""
"""Elements in order: `-` marks those of 4.4, `*` those of 5.10 and later, `+` those of 7.4."""

MARKS: Mapping[Release, str] = {"4.4": "-", "5.10": "*", "7.4": "*+"}

ACTIONS = sorted(set(VERBS) - {"DRIVER_CANCEL"})
EVERY_RELEASE = pytest.mark.parametrize("release", RELEASES)


def elements(table: str, release: Release) -> list[str]:
    return [word.rstrip("-*+") for word in table.split() if word[-1].isalpha() or word[-1] in MARKS[release]]


def tags(element: etree._Element | None) -> list[str]:
    assert element is not None
    return [child.tag for child in element]


def read(line: bytes) -> VmRequest:
    """The request that the driver parses from the line."""
    request = parse_line(line.rstrip(b"\n"))
    assert isinstance(request, Request)
    content = read_payload(request)
    assert not isinstance(content, Malformed)
    return content[0]


@EVERY_RELEASE
def test_document_has_the_elements_of_its_release_in_order(release: Release) -> None:
    expected = elements(MESSAGE, release)
    at = expected.index("VM")
    for action in ACTIONS:
        document = etree.fromstring(build(action, vm_id=42, release=release))
        extra = {"UPDATESG": ["SECURITY_GROUP_ID"], "UPDATENIC": ["VIRTUAL_NETWORK_ID"]}.get(action, [])
        assert document.tag == "VMM_DRIVER_ACTION_DATA", action
        assert tags(document) == expected[:at] + extra + expected[at:], action
        assert tags(document.find("VM")) == elements(VM, release), action
        assert tags(document.find("VM/HISTORY_RECORDS")) == ["HISTORY"], action
        assert tags(document.find("VM/HISTORY_RECORDS/HISTORY")) == elements(HISTORY, release), action


WEB = Template(
    values={
        "NAME": ("web",),
        "CPU": ("1",),
        "CONTEXT": ({"NETWORK": "YES"},),
        "DISK": ({"IMAGE_ID": "7", "SIZE": "5"}, {"IMAGE_ID": "8", "SIZE": "6"}),
        "NIC": ({"NETWORK": "cloud"},),
        "BACKUP_CONFIG": ({"KEEP_LAST": "2"},),
        "MINE": ("<&>", "again"),
        "PUBLIC_CLOUD": ({"TYPE": "ec2", "AMI": "ami-1"}, {"TYPE": "azure"}),
    }
)
DETAILS: list[oned_lines.Details] = [
    {},
    {"template": WEB},
    {"template": WEB, "lcm_state": 18, "host": "us-east-1", "host_id": 5, "deploy_id": "i-0f3a", "seq": 3, "stime": 9},
    {"lcm_state": 20, "seq": 1, "name": "web 1"},
    {"lcm_state": 29},
    {"lcm_state": 5},
    {"lcm_state": 0},
]
OPERANDS: Mapping[str, Mapping[str, str]] = {
    "MIGRATE": {"MIGR_HOST": "other"},
    "CLEANUP": {"MIGR_HOST": "other"},
    "ATTACHDISK": {"SIZE": "1024"},
    "RESIZEDISK": {"DISK_ID": "1", "SIZE": "9"},
    "ATTACHNIC": {"NIC_ID": "4"},
    "SNAPSHOTCREATE": {},
    "SNAPSHOTDELETE": {"SNAPSHOT_ID": "3", "HYPERVISOR_ID": "snap-3"},
    "RESIZE": {"CPU": "2", "MEMORY": "512"},
    "UPDATECONF": {"SSH_PUBLIC_KEY": "ssh-rsa A"},
    "UPDATESG": {"SECURITY_GROUP_ID": "101"},
    "UPDATENIC": {"VIRTUAL_NETWORK_ID": "7"},
    "BACKUP": {"KEEP_LAST": "3"},
    "EXEC": {"COMMAND": "date"},
}


@EVERY_RELEASE
def test_every_action_is_encoded_byte_for_byte_as_oned_lines_writes_it(release: Release) -> None:
    for action in [*VERBS, "INIT", "FINALIZE", "FROBNICATE"]:
        for details in DETAILS:
            given = details | oned_lines.Details(operand=OPERANDS.get(action, {}))
            expected = oned_lines.line(action, 42, release=release, **given)
            assert wire_line(action, vm_id=42, release=release, **given) == expected, action


def test_encoder_and_oned_lines_have_the_same_actions_and_releases() -> None:
    assert {action: verb.releases for action, verb in VERBS.items()} == {
        word: action.releases for word, action in oned_lines.ACTIONS.items()
    }


@EVERY_RELEASE
def test_driver_reads_the_fields_of_an_encoded_message(release: Release) -> None:
    for action in ACTIONS:
        line = wire_line(
            action,
            vm_id=42,
            release=release,
            host="us-east-1",
            host_id=5,
            deploy_id="i-0f3a",
            name="web 1",
            stime=1_580_000_000,
            seq=3,
        )
        vm = read(line)
        assert (vm.vm_id, vm.host, vm.host_id, vm.deploy_id) == (42, "us-east-1", 5, "i-0f3a"), action
        assert (vm.name, vm.stime, vm.seq, vm.state) == ("web 1", 1_580_000_000, 3, 3), action
        assert vm.lcm_state == default_lcm_state(action, release), action
        has_figures = action in ("POLL", "DEPLOY", "RESTORE", "SHUTDOWN", "CANCEL", "SAVE")
        assert vm.is_legacy_poll == (has_figures and release == "4.4")


@pytest.mark.parametrize(("action", "on_top"), [("DEPLOY", ""), ("RESTORE", "i-0f3a")])
@EVERY_RELEASE
def test_top_level_deploy_id_is_empty_in_deploy_only(action: str, on_top: str, release: Release) -> None:
    document = etree.fromstring(build(action, vm_id=42, release=release, deploy_id="i-0f3a"))
    assert document.findtext("DEPLOY_ID") == on_top
    assert document.findtext("VM/DEPLOY_ID") == "i-0f3a"


@pytest.mark.parametrize(
    ("action", "release", "start"),
    [("DEPLOY", "4.4", b"DEPLOY 42 "), ("POLL", "5.10", b"POLL 42 "), ("SHUTDOWN", "7.4", b"SHUTDOWN  42 ")],
)
def test_encoded_line_has_the_blanks_of_its_release_and_the_document_in_base64(
    action: str, release: Release, start: bytes
) -> None:
    line = wire_line(action, vm_id=42, release=release)
    assert line.startswith(start)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b64decode(line.split()[2], validate=True) == build(action, vm_id=42, release=release)


@pytest.mark.parametrize(
    ("action", "release", "line"),
    [
        ("INIT", "7.4", b"INIT\n"),
        ("FINALIZE", "5.10", b"FINALIZE\n"),
        ("DRIVER_CANCEL", "5.10", b"DRIVER_CANCEL 42\n"),
        ("DRIVER_CANCEL", "4.4", b"DRIVER_CANCEL 42\n"),
        ("DRIVER_CANCEL", "7.4", b"DRIVER_CANCEL  42 \n"),
    ],
)
def test_init_finalize_and_driver_cancel_have_no_document(action: str, release: Release, line: bytes) -> None:
    assert wire_line(action, vm_id=42, release=release) == line


@EVERY_RELEASE
def test_empty_elements_have_oneds_form(release: Release) -> None:
    document = build("DEPLOY", vm_id=42, release=release).decode()
    assert "<MIGR_HOST/>" in document
    assert "<DEPLOY_ID/>" in document
    assert "<CHECKPOINT_FILE/><TM_COMMAND/><TM_COMMAND_ROLLBACK/><DISK_TARGET_PATH/>" in document
    assert "<ETIME>0</ETIME><DEPLOY_ID></DEPLOY_ID>" in document
    assert ("<MONITORING></MONITORING>" in document) == (release != "4.4")
    assert ("<BACKUPS><BACKUP_CONFIG/><BACKUP_IDS></BACKUP_IDS></BACKUPS>" in document) == (release == "7.4")
    assert "> <" not in document
    assert "\n" not in document


def test_attributes_are_split_sorted_and_numbered_as_by_oned() -> None:
    template = Template(
        values={
            "VCPU": ("2",),
            "PUBLIC_CLOUD": ({"TYPE": "ec2", "AMI": "ami-1"}, {"TYPE": "azure"}),
            "CONTEXT": ({"NETWORK": "YES"},),
            "NAME": ("web",),
            "HYPERVISOR": ("ec2",),
            "SCHED_REQUIREMENTS": ('HYPERVISOR="ec2"',),
            "DISK": ({"IMAGE_ID": "7"}, {"IMAGE_ID": "8"}),
            "NIC": ({"NETWORK": "cloud"},),
            "CPU": ("1",),
            "MINE": ("<&>",),
            "MEMORY": ("512",),
        }
    )
    vm = etree.fromstring(build("DEPLOY", vm_id=42, release="5.10", template=template)).find("VM")
    assert vm is not None
    assert vm.findtext("NAME") == "web"
    assert tags(vm.find("TEMPLATE")) == [
        *("AUTOMATIC_REQUIREMENTS", "CONTEXT", "CPU", "DISK", "DISK", "MEMORY", "NIC", "TM_MAD_SYSTEM", "VCPU", "VMID"),
    ]
    assert tags(vm.find("USER_TEMPLATE")) == [
        *("HYPERVISOR", "MINE", "PUBLIC_CLOUD", "PUBLIC_CLOUD", "SCHED_REQUIREMENTS"),
    ]
    assert tags(vm.find("USER_TEMPLATE/PUBLIC_CLOUD")) == ["AMI", "TYPE"]
    assert [disk.findtext("DISK_ID") for disk in vm.findall("TEMPLATE/DISK")] == ["0", "1"]
    assert vm.findtext("TEMPLATE/NIC/NIC_ID") == "0"
    assert vm.findtext("TEMPLATE/CONTEXT/DISK_ID") == "2"
    assert vm.findtext("USER_TEMPLATE/MINE") == "<&>"
    assert vm.findtext("TEMPLATE/AUTOMATIC_REQUIREMENTS") == (
        "!(PUBLIC_CLOUD = YES) & !(PIN_POLICY = PINNED)"
        " | (PUBLIC_CLOUD = YES & (HYPERVISOR = azure | HYPERVISOR = ec2))"
    )


def test_default_template_is_that_of_the_bursting_guide() -> None:
    vm = read(wire_line("DEPLOY", vm_id=42, template=default_template("ec2")))
    assert (vm.template.text("CPU"), vm.template.text("MEMORY")) == ("1", "256")
    section = {"PROVIDER_IMAGE_ID": "id-141234", "PROVIDER_INSTANCE_TYPE": "small_256mb", "TYPE": "ec2"}
    assert vm.user_template.vectors("PUBLIC_CLOUD") == (section,)


def test_only_7_4_has_a_context_transfer_command() -> None:
    template = Template(values={"CPU": ("1",), "CONTEXT": ({"NETWORK": "YES"},)})
    for release in RELEASES:
        for action in ("DEPLOY", "RESTORE", "SHUTDOWN"):
            document = etree.fromstring(build(action, vm_id=42, release=release, template=template))
            has_transfer = release == "7.4" and action != "SHUTDOWN"
            assert (document.findtext("TM_COMMAND") or "").startswith("CONTEXT dummy ") == has_transfer
            disk = "/var/lib/one/datastores/0/42/disk.0" if has_transfer else ""
            assert document.findtext("DISK_TARGET_PATH") == disk


@pytest.mark.parametrize(
    ("action", "operand", "read_as"),
    [
        ("ATTACHDISK", {"SIZE": "1024"}, {"ATTACH": "YES", "DISK_ID": "0", "SIZE": "1024"}),
        ("DETACHDISK", {"DISK_ID": "3"}, {"ATTACH": "YES", "DISK_ID": "3"}),
        ("ATTACHNIC", {"MAC": "02:00"}, {"ATTACH": "YES", "NIC_ID": "0", "MAC": "02:00"}),
        ("RESIZEDISK", {"DISK_ID": "1", "SIZE": "9"}, {"RESIZE": "YES", "DISK_ID": "1", "SIZE": "9"}),
        ("DISKSNAPSHOTCREATE", {"DISK_ID": "1"}, {"DISK_SNAPSHOT_ACTIVE": "YES", "DISK_ID": "1"}),
        (
            "SNAPSHOTREVERT",
            {"SNAPSHOT_ID": "2", "HYPERVISOR_ID": "snap-2", "TIME": "7"},
            {"ACTIVE": "YES", "SNAPSHOT_ID": "2", "HYPERVISOR_ID": "snap-2", "NAME": "snapshot-2", "TIME": "7"},
        ),
        ("EXEC", {"COMMAND": "date"}, {"COMMAND": "date"}),
    ],
)
def test_driver_reads_the_operand_of_each_action(
    action: str, operand: Mapping[str, str], read_as: Mapping[str, str]
) -> None:
    assert read(wire_line(action, vm_id=42, operand=operand)).operand == read_as


def test_operand_is_marked_in_the_disk_or_nic_that_its_number_names() -> None:
    template = Template(values={"DISK": ({"IMAGE_ID": "7", "SIZE": "5"}, {"IMAGE_ID": "8", "SIZE": "6"})})
    line = wire_line("RESIZEDISK", vm_id=42, template=template, operand={"DISK_ID": "1", "SIZE": "9"})
    assert read(line).operand == {"DISK_ID": "1", "IMAGE_ID": "8", "RESIZE": "YES", "SIZE": "9"}
    document = etree.fromstring(b64decode(line.split()[2]))
    assert [disk.findtext("SIZE") for disk in document.findall("VM/TEMPLATE/DISK")] == ["5", "9"]


def test_operands_that_are_no_disk_or_nic_are_encoded_where_oned_puts_them() -> None:
    resized = read(wire_line("RESIZE", vm_id=42, operand={"CPU": "2", "MEMORY": "512"}))
    assert (resized.template.text("CPU"), resized.template.text("MEMORY")) == ("2", "512")
    reconfigured = read(wire_line("UPDATECONF", vm_id=42, operand={"SSH_PUBLIC_KEY": "ssh-rsa A"}))
    assert reconfigured.template.vectors("CONTEXT")[0]["SSH_PUBLIC_KEY"] == "ssh-rsa A"
    assert read(wire_line("UPDATESG", vm_id=42, operand={"SECURITY_GROUP_ID": "101"})).security_group_id == "101"
    assert read(wire_line("UPDATENIC", vm_id=42, operand={"VIRTUAL_NETWORK_ID": "7"})).virtual_network_id == "7"
    migration = etree.fromstring(build("MIGRATE", vm_id=42, release="4.4", operand={"MIGR_HOST": "other"}))
    assert (migration.findtext("MIGR_HOST"), migration.findtext("MIGR_NET_DRV")) == ("other", "dummy")
    backup = etree.fromstring(build("BACKUP", vm_id=42, operand={"KEEP_LAST": "3"}))
    assert backup.findtext("VM/BACKUPS/BACKUP_CONFIG/KEEP_LAST") == "3"


def test_cleanup_with_lcm_state_0_has_state_done() -> None:
    vm = read(wire_line("CLEANUP", vm_id=42, lcm_state=0))
    assert (vm.state, vm.lcm_state) == (6, 0)


def test_cancel_has_lcm_state_cancel_in_4_4_and_shutdown_later() -> None:
    assert read(wire_line("CANCEL", vm_id=42, release="4.4")).lcm_state == LCM_NUMBERS["CANCEL"]
    assert read(wire_line("CANCEL", vm_id=42, release="7.4")).lcm_state == LCM_NUMBERS["SHUTDOWN"]


@pytest.mark.parametrize(
    ("details", "sentence"),
    [
        ({"vm_id": -1}, "the VM's id is a number from 0 to 2147483647, not -1"),
        ({"vm_id": 2**31}, "the VM's id is a number from 0 to 2147483647, not 2147483648"),
        ({"host": ""}, "the host's name has 1 to 128 characters and none of &|:\\;/'#{}$<>, got ''"),
        ({"name": "a<b"}, "the VM's name has 1 to 128 characters and none of &|:\\;/'#{}$<>, got 'a<b'"),
        ({"deploy_id": "a&b"}, "a deploy id holds no <, >, & and no control characters, got 'a&b'"),
        ({"action": "two words"}, "an action is one word in upper case, not 'two words'"),
        ({"operand": {"DISK_ID": "1"}}, "REBOOT takes no operand, not DISK_ID"),
        ({"action": "RESIZE", "operand": {"SIZE": "1"}}, "RESIZE takes only the operands CPU, VCPU, MEMORY, not SIZE"),
        (
            {"template": Template(values={"A": ("\x00",)})},
            "OpenNebula's templates hold no control characters and no ]]>, got '\\x00'",
        ),
        (
            {"template": Template(values={"A": ({"B": "]]>"},)})},
            "OpenNebula's templates hold no control characters and no ]]>, got ']]>'",
        ),
        ({"template": Template(values={"a b": ("",)})}, "a template's names are made of A-Z, 0-9 and _, got 'a b'"),
    ],
)
def test_values_that_oned_cannot_send_are_refused_with_one_sentence(details: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is compared below
        wire_line(**{"action": "REBOOT", "vm_id": 42, **details})  # type: ignore[arg-type]
    assert str(caught.value) == sentence


_texts = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")).filter(
    lambda text: "]]>" not in text
)
_names = st.text("ABMZ0_", max_size=6).map("U_".__add__)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plain=st.dictionaries(_names, _texts, max_size=4),
    section=st.dictionaries(_names, _texts, min_size=1, max_size=4),
    release=st.sampled_from(RELEASES),
)
def test_driver_reads_every_template_value_unchanged(
    plain: dict[str, str], section: dict[str, str], release: Release
) -> None:
    template = Template(values={**{name: (text,) for name, text in plain.items()}, "PUBLIC_CLOUD": (section,)})
    vm = read(wire_line("DEPLOY", vm_id=42, release=release, template=template))
    assert {name: vm.user_template.text(name) for name in plain} == plain
    assert vm.user_template.vectors("PUBLIC_CLOUD") == (section,)


def test_encoder_encodes_every_action_of_the_protocol() -> None:
    assert set(VERBS) == {action.value for action in Action}
