from __future__ import annotations

import base64
import binascii
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.characters import clean
from one_provider_mad.domain import DeployId, Template, VmId, VmOwner, VmRequest
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.framing import LIMIT, LineBuffer
from one_provider_mad.protocol.messages import Action, Malformed, Request
from one_provider_mad.protocol.payload import read_outline, read_payload, read_poll
from one_provider_mad.protocol.vmm import parse_line
from one_provider_mad.safe_xml import ORDINARY_SIZE
from tests import oned_lines
from tests.protocol.cases import (
    HELLO,
    legacy_message,
    middle_message,
    modern_message,
    oned_line,
    request,
    with_document,
)

NEEDS_TEMPLATE = {
    *(Action.DEPLOY, Action.RESTORE, Action.SHUTDOWN, Action.CANCEL, Action.SAVE, Action.RESIZE),
    *(Action.UPDATECONF, Action.UPDATESG, Action.UPDATENIC, Action.ATTACHNIC),
}


POLL_FIELDS = ("vm_id", "deploy_id", "stime", "is_legacy_poll")


def check_poll(asked: Request) -> None:
    """Check that `read_poll` reads the fields of a POLL's answer as `read_payload` does, or refuses it alike."""
    whole, poll = read_payload(asked), read_poll(asked)
    if isinstance(whole, Malformed):
        assert poll == whole
    else:
        assert isinstance(poll, VmRequest)
        assert [getattr(poll, field) for field in POLL_FIELDS] == [getattr(whole[0], field) for field in POLL_FIELDS]


def vm_of(document: bytes, action: Action = Action.POLL, vm_id: int = 42) -> VmRequest:
    """The request read from the document, after checks that it was accepted and is handed on verbatim."""
    asked = with_document(document, action, vm_id=vm_id)
    read = read_payload(asked)
    assert not isinstance(read, Malformed), read.reason
    if action is Action.POLL:
        check_poll(asked)
    vm, message = read
    assert message == document
    return vm


def refusal_of(payload: bytes, action: Action = Action.SAVE) -> str:
    """The reason why a payload is refused, after checks that the refusal names action and VM."""
    read = read_payload(request(action, payload=payload, dialect=Dialect.SINCE_6_0))
    assert isinstance(read, Malformed)
    assert (read.word, read.vm_id, read.dialect) == (action.value, 42, Dialect.SINCE_6_0)
    assert len(read.reason) < 300
    return read.reason


def inside(*, vm: str = "", top: str = "") -> bytes:
    """A message with only these elements."""
    return f"<VMM_DRIVER_ACTION_DATA>{top}<VM>{vm}</VM></VMM_DRIVER_ACTION_DATA>".encode()


# Reading


def test_a_poll_of_4_4_is_read() -> None:
    assert vm_of(legacy_message()) == VmRequest(
        vm_id=VmId(42),
        name="tide-table",
        owner=VmOwner(user_id=2, user="ada", group_id=1, group="users"),
        host="harbour",
        host_id=5,
        deploy_id=DeployId("i-44"),
        state=3,
        lcm_state=3,
        stime=1400000000,
        seq=1,
        is_legacy_poll=True,
    )


def test_a_reboot_of_5_10_is_read() -> None:
    assert vm_of(middle_message(), Action.REBOOT) == VmRequest(
        vm_id=VmId(42),
        name="tide-table",
        owner=VmOwner(user_id=2, user="ada", group_id=1, group="users"),
        host="harbour",
        host_id=6,
        deploy_id=DeployId("i-510"),
        state=3,
        lcm_state=18,
        stime=1580000000,
        seq=2,
    )


def test_a_deploy_of_7_4_is_read_with_its_templates() -> None:
    assert vm_of(modern_message(lcm_state=20, deploy_id="i-74"), Action.DEPLOY) == VmRequest(
        vm_id=VmId(42),
        name="tide-table",
        owner=VmOwner(user_id=2, user="ada", group_id=1, group="users"),
        host="harbour",
        host_id=7,
        deploy_id=DeployId("i-74"),
        state=3,
        lcm_state=20,
        stime=1760000000,
        seq=3,
        template=Template(values={"CPU": ("2",), "NIC": ({"IP": "10.0.0.5", "NIC_ID": "0"},)}),
        user_template=Template(values={"PUBLIC_CLOUD": ({"TYPE": "sea"}, {"TYPE": "lake"})}),
    )


def test_only_actions_that_need_the_templates_get_them() -> None:
    read = {action: vm_of(modern_message(), action) for action in Action}
    assert {action for action, vm in read.items() if vm.template.values} == NEEDS_TEMPLATE
    assert {action for action, vm in read.items() if vm.user_template.values} == NEEDS_TEMPLATE


@pytest.mark.parametrize("document", [b"<VMM_DRIVER_ACTION_DATA/>", inside(), inside(vm="<HISTORY_RECORDS/>")])
def test_elements_that_a_message_lacks_have_defaults(document: bytes) -> None:
    assert {action: vm_of(document, action) for action in Action} == dict.fromkeys(Action, VmRequest(vm_id=VmId(42)))


def test_the_shortest_message_is_read_from_its_line() -> None:
    parsed = parse_line(b"DEPLOY 42 " + HELLO)
    assert isinstance(parsed, Request)
    assert read_payload(parsed) == (
        VmRequest(vm_id=VmId(42), host="h"),
        b"<VMM_DRIVER_ACTION_DATA><HOST>h</HOST></VMM_DRIVER_ACTION_DATA>",
    )


def test_elements_are_read_in_any_order_and_unknown_ones_are_ignored() -> None:
    document = (
        b"<VMM_DRIVER_ACTION_DATA><NEW><VM/></NEW><VM><HISTORY_RECORDS><HISTORY><FUTURE/><HID>7</HID><SEQ>3</SEQ>"
        b"</HISTORY></HISTORY_RECORDS><FUTURE><ID>1</ID></FUTURE><STIME>9</STIME><ID>42</ID></VM><HOST>h</HOST>"
        b"</VMM_DRIVER_ACTION_DATA>"
    )
    assert vm_of(document) == VmRequest(vm_id=VmId(42), host="h", host_id=7, stime=9, seq=3)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param("7", 7, id="digits"),
        pytest.param(" 7\n", 7, id="blanks-around"),
        pytest.param("<![CDATA[7]]>", 7, id="cdata"),
        pytest.param("-1", -1, id="negative"),
        pytest.param("", None, id="empty"),
        pytest.param("seven", None, id="letters"),
        pytest.param("7.0", None, id="dot"),
        pytest.param("1_0", None, id="underscore"),
        pytest.param("٧", None, id="digits-of-another-script"),
        pytest.param("--7", None, id="two-signs"),
        pytest.param("9" * 5000, None, id="more-digits-than-int-takes"),
    ],
)
def test_a_field_that_is_no_number_has_its_default(text: str, number: int | None) -> None:
    names = ("STATE", "LCM_STATE", "STIME")
    fields = "".join(f"<{name}>{text}</{name}>" for name in names)
    history = f"<HISTORY_RECORDS><HISTORY><SEQ>{text}</SEQ><HID>{text}</HID></HISTORY></HISTORY_RECORDS>"
    vm = vm_of(inside(vm=fields + history))
    assert (vm.state, vm.lcm_state) == (number, number)
    assert (vm.stime, vm.seq) == (number or 0, number or 0)
    assert vm.host_id == (-1 if number is None else number)


def test_host_id_zero_is_read() -> None:
    assert vm_of(inside(vm="<HISTORY_RECORDS><HISTORY><HID>0</HID></HISTORY></HISTORY_RECORDS>")).host_id == 0


def test_seq_and_host_are_read_from_the_newest_history_record() -> None:
    records = "".join(f"<HISTORY><SEQ>{seq}</SEQ><HID>{seq + 10}</HID></HISTORY>" for seq in range(3))
    vm = vm_of(inside(vm=f"<HISTORY_RECORDS>{records}</HISTORY_RECORDS>"))
    assert (vm.seq, vm.host_id) == (2, 12)


@pytest.mark.parametrize(
    ("top", "vm", "deploy_id"),
    [
        pytest.param("i-1", "i-2", "i-1", id="top-level-first"),
        pytest.param("", "i-2", "i-2", id="as-in-every-deploy"),
        pytest.param("-", "i-2", "i-2", id="dash"),
        pytest.param("one-42", "i-2", "i-2", id="placeholder"),
        pytest.param(" i-1\n", "", "i-1", id="blanks-around"),
        pytest.param("", "", "", id="none"),
        pytest.param("-", "one-42", "", id="placeholders-only"),
        pytest.param("one-42b", "", "one-42b", id="looks-like-the-placeholder"),
        pytest.param("<![CDATA[i-1]]>", "", "i-1", id="cdata"),
    ],
)
def test_the_deploy_id_is_the_first_that_is_no_placeholder(top: str, vm: str, deploy_id: str) -> None:
    document = inside(top=f"<DEPLOY_ID>{top}</DEPLOY_ID>", vm=f"<DEPLOY_ID>{vm}</DEPLOY_ID>")
    assert vm_of(document).deploy_id == deploy_id


@pytest.mark.parametrize(
    ("vm", "is_legacy"),
    [
        pytest.param("<MEMORY>0</MEMORY><CPU>0</CPU><NET_TX>0</NET_TX>", True, id="4.4-figures"),
        pytest.param("<NET_TX>0</NET_TX>", True, id="one-figure"),
        pytest.param("<HISTORY_RECORDS><HISTORY><VMMMAD>x</VMMMAD></HISTORY></HISTORY_RECORDS>", True, id="vmmmad"),
        pytest.param(
            "<MONITORING/><HISTORY_RECORDS><HISTORY><VMMMAD>x</VMMMAD></HISTORY></HISTORY_RECORDS>", False, id="4.14"
        ),
        pytest.param("<MONITORING/>", False, id="5.10-before-the-first-poll"),
        pytest.param("<TEMPLATE><CPU>1</CPU><MEMORY>1</MEMORY></TEMPLATE>", False, id="figures-of-the-template"),
        pytest.param("", False, id="no-hint"),
    ],
)
def test_the_form_of_a_poll_answer_is_inferred_from_the_document(vm: str, *, is_legacy: bool) -> None:
    assert vm_of(inside(vm=vm)).is_legacy_poll is is_legacy


@pytest.mark.parametrize(
    ("action", "expected"),
    [(Action.SHUTDOWN, True), (Action.CANCEL, True), (Action.SAVE, True), (Action.REBOOT, False)],
)
def test_shutdown_cancel_and_save_infer_the_form_of_a_poll_answer_and_reboot_does_not(
    action: Action, *, expected: bool
) -> None:
    assert vm_of(legacy_message(), action).is_legacy_poll is expected


def test_template_names_are_in_upper_case_and_repeated_ones_keep_all_values() -> None:
    template = "<Tag>a</Tag><TAG><![CDATA[b]]></TAG><tag><Key>c</Key><KEY>second</KEY></tag><EMPTY/>"
    vm = vm_of(inside(vm=f"<TEMPLATE>{template}</TEMPLATE>"), Action.DEPLOY)
    assert vm.template == Template(values={"TAG": ("a", "b", {"KEY": "c"}), "EMPTY": ("",)})


def test_elements_nested_deeper_than_a_vector_are_flattened_into_text() -> None:
    vm = vm_of(inside(vm="<USER_TEMPLATE><A><B>one<C>two<D>three</D></C>four</B></A></USER_TEMPLATE>"), Action.DEPLOY)
    assert vm.user_template == Template(values={"A": ({"B": "onetwothreefour"},)})


def test_a_text_is_joined_across_cdata_comments_and_character_references() -> None:
    text = "a<!-- x -->b<![CDATA[<c>&]]>d&amp;&lt;&#233;<?pi x?>e"
    vm = vm_of(inside(vm=f"<NAME>{text}</NAME><TEMPLATE><T>{text}</T></TEMPLATE>"), Action.DEPLOY)
    assert vm.name == vm.template.text("T") == "ab<c>&d&<ée"


OPERANDS = [
    pytest.param(
        (Action.ATTACHDISK, Action.DETACHDISK),
        "<DISK><DISK_ID>0</DISK_ID></DISK><DISK><ATTACH>YES</ATTACH><DISK_ID>1</DISK_ID></DISK>",
        {"ATTACH": "YES", "DISK_ID": "1"},
        id="disk",
    ),
    pytest.param(
        (Action.ATTACHNIC, Action.DETACHNIC),
        "<DISK><ATTACH>YES</ATTACH></DISK><NIC><ATTACH>NO</ATTACH></NIC>"
        "<NIC><ATTACH><![CDATA[YES]]></ATTACH><NIC_ID>2</NIC_ID></NIC>",
        {"ATTACH": "YES", "NIC_ID": "2"},
        id="nic",
    ),
    pytest.param(
        (Action.ATTACHNIC, Action.DETACHNIC),
        "<NIC><NIC_ID>0</NIC_ID></NIC><NIC_ALIAS><ATTACH>YES</ATTACH><NIC_ID>3</NIC_ID></NIC_ALIAS>",
        {"ATTACH": "YES", "NIC_ID": "3"},
        id="nic-alias",
    ),
    pytest.param(
        (Action.ATTACHNIC, Action.DETACHNIC),
        "<PCI><ATTACH>yes</ATTACH><NIC_ID>4</NIC_ID></PCI>",
        {"ATTACH": "yes", "NIC_ID": "4"},
        id="pci",
    ),
    pytest.param(
        (Action.SNAPSHOTCREATE, Action.SNAPSHOTREVERT, Action.SNAPSHOTDELETE),
        "<SNAPSHOT><SNAPSHOT_ID>0</SNAPSHOT_ID></SNAPSHOT>"
        "<SNAPSHOT><ACTIVE>YES</ACTIVE><HYPERVISOR_ID>s-1</HYPERVISOR_ID></SNAPSHOT>",
        {"ACTIVE": "YES", "HYPERVISOR_ID": "s-1"},
        id="snapshot",
    ),
    pytest.param(
        (Action.DISKSNAPSHOTCREATE, Action.DISKSNAPSHOTREVERT),
        "<DISK><ATTACH>YES</ATTACH></DISK>"
        "<DISK><DISK_SNAPSHOT_ACTIVE>YES</DISK_SNAPSHOT_ACTIVE><DISK_ID>5</DISK_ID></DISK>",
        {"DISK_SNAPSHOT_ACTIVE": "YES", "DISK_ID": "5"},
        id="disk-snapshot",
    ),
    pytest.param(
        (Action.RESIZEDISK,),
        "<DISK><DISK_ID>0</DISK_ID></DISK><DISK><RESIZE>YES</RESIZE><SIZE>9</SIZE></DISK>",
        {"RESIZE": "YES", "SIZE": "9"},
        id="disk-resize",
    ),
    pytest.param(
        (Action.EXEC, Action.EXEC_CANCEL),
        "<QEMU_GA_EXEC><COMMAND>true</COMMAND></QEMU_GA_EXEC>",
        {"COMMAND": "true"},
        id="command",
    ),
]


@pytest.mark.parametrize(("actions", "template", "operand"), OPERANDS)
def test_the_operand_of_an_action_is_the_section_marked_for_it(
    actions: tuple[Action, ...], template: str, operand: dict[str, str]
) -> None:
    document = inside(vm=f"<TEMPLATE>{template}</TEMPLATE>")
    assert [vm_of(document, action).operand for action in actions] == [operand] * len(actions)


def test_without_a_marked_section_an_action_has_no_operand() -> None:
    sections = "".join(f"<{name}><ID>1</ID></{name}>" for name in ("DISK", "NIC", "NIC_ALIAS", "PCI", "SNAPSHOT"))
    document = inside(vm=f"<TEMPLATE>{sections}</TEMPLATE>")
    assert {action: vm_of(document, action).operand for action in Action} == {action: {} for action in Action}


def test_only_updatesg_gets_the_security_group_and_only_updatenic_the_network() -> None:
    document = inside(
        top="<SECURITY_GROUP_ID> 100 </SECURITY_GROUP_ID><VIRTUAL_NETWORK_ID>4</VIRTUAL_NETWORK_ID>",
    )
    read = {action: vm_of(document, action) for action in Action}
    assert {action: vm.security_group_id for action, vm in read.items() if vm.security_group_id != ""} == {
        Action.UPDATESG: "100"
    }
    assert {action: vm.virtual_network_id for action, vm in read.items() if vm.virtual_network_id != ""} == {
        Action.UPDATENIC: "4"
    }


# Refusing


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        pytest.param(b"", "the request has no payload", id="none"),
        pytest.param(b"-", "payload is not base64: ", id="dash"),
        pytest.param(HELLO[:-1], "payload is not base64: Incorrect padding", id="last-letter-missing"),
        pytest.param(b"QUE", "payload is not base64: Incorrect padding", id="padding-missing"),
        pytest.param(b"QQ==QQ==", "payload is not base64: ", id="two-in-a-row"),
        pytest.param(b"QQ==x", "payload is not base64: Excess data after padding", id="rest"),
        pytest.param(b"====", "payload is not base64: ", id="padding-only"),
        pytest.param(HELLO.replace(b"+", b"-"), "payload is not base64: ", id="url-alphabet"),
        pytest.param("Ü".encode(), "payload is not base64: ", id="beyond-ascii"),
        pytest.param(b"%%%%", "payload is not base64: ", id="other-letters"),
    ],
)
def test_a_payload_that_is_not_base64_is_refused(payload: bytes, sentence: str) -> None:
    assert refusal_of(payload).startswith(sentence)


BILLION_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY e0 "ha">'
    + "".join("<!ENTITY e{} '{}'>".format(n, f"&e{n - 1};" * 10) for n in range(1, 20))
    + "]><VMM_DRIVER_ACTION_DATA>&e19;</VMM_DRIVER_ACTION_DATA>"
).encode()


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"STATE=a", id="no-xml"),
        pytest.param(b"<VM><ID>42</ID></VM>", id="another-root"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA2/>", id="root-of-a-longer-name"),
        pytest.param(b"<x:VMM_DRIVER_ACTION_DATA xmlns:x='y'/>", id="root-of-a-namespace"),
        pytest.param(b"text<VMM_DRIVER_ACTION_DATA/>", id="text-before"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA/>text", id="text-after"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA/><VMM_DRIVER_ACTION_DATA/>", id="two-documents"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA><VM></VMM_DRIVER_ACTION_DATA>", id="end-tag-missing"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA", id="cut-off"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA>a & b</VMM_DRIVER_ACTION_DATA>", id="bare-ampersand"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA>\x01</VMM_DRIVER_ACTION_DATA>", id="control-character"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA>&#0;</VMM_DRIVER_ACTION_DATA>", id="reference-to-nul"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA>\x00</VMM_DRIVER_ACTION_DATA>", id="nul"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA/>\x00<!DOCTYPE x>", id="nul-after"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA>&unknown;</VMM_DRIVER_ACTION_DATA>", id="entity-without-dtd"),
        pytest.param(BILLION_LAUGHS, id="entities-that-multiply"),
        pytest.param(
            b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><VMM_DRIVER_ACTION_DATA>&f;</VMM_DRIVER_ACTION_DATA>',
            id="entity-that-is-a-file",
        ),
        pytest.param(b'<!DOCTYPE x SYSTEM "http://192.0.2.1/x.dtd"><VMM_DRIVER_ACTION_DATA/>', id="dtd-elsewhere"),
        pytest.param(b"<!-- a --><!DOCTYPE x><VMM_DRIVER_ACTION_DATA/>", id="dtd-behind-a-comment"),
        pytest.param(b"<!-- a --> <!-- <VMM_DRIVER_ACTION_DATA/> -->", id="nothing-but-comments"),
        pytest.param(b"<VMM_DRIVER_ACTION_DATA><!DOCTYPE x></VMM_DRIVER_ACTION_DATA>", id="dtd-inside"),
        pytest.param(b"<?php x?><VMM_DRIVER_ACTION_DATA/>", id="processing-instruction"),
        pytest.param(b" <?xml version='1.0'?><VMM_DRIVER_ACTION_DATA/>", id="declaration-not-first"),
        pytest.param("<VMM_DRIVER_ACTION_DATA/>".encode("utf-16"), id="utf-16"),
        pytest.param("<VMM_DRIVER_ACTION_DATA/>".encode("utf-16-le"), id="utf-16-without-mark"),
        pytest.param(b"<!-- -->" * 30_000 + b"<x/>", id="a-row-of-comments"),
        pytest.param(b"<!--" * 100_000, id="comments-without-end"),
        pytest.param(b" " * 500_000, id="blanks-without-end"),
    ],
)
def test_a_payload_that_is_no_driver_message_is_refused(document: bytes) -> None:
    reason = refusal_of(base64.b64encode(document) or b"====")
    assert reason.startswith("payload is not ")
    assert clean(reason) == reason


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", "é".encode("latin-1")])
def test_a_message_that_is_not_utf_8_is_refused_even_if_it_declares_another_encoding(text: bytes) -> None:
    document = b"<VMM_DRIVER_ACTION_DATA><HOST>" + text + b"</HOST></VMM_DRIVER_ACTION_DATA>"
    for declaration in (b"", b"<?xml version='1.0' encoding='ISO-8859-1'?>"):
        assert refusal_of(base64.b64encode(declaration + document)).startswith("payload is not UTF-8: ")


@pytest.mark.parametrize("encoding", ["utf-8", "ISO-8859-1", "UTF-16"])
def test_a_message_in_utf_8_is_read_even_if_it_declares_another_encoding(encoding: str) -> None:
    document = f"<?xml version='1.0' encoding='{encoding}'?>\n<!-- x --><VMM_DRIVER_ACTION_DATA><HOST>é</HOST>\n"
    assert vm_of(document.encode() + b"</VMM_DRIVER_ACTION_DATA>").host == "é"


@pytest.mark.parametrize(
    ("vm_id", "in_the_message"), [(42, "7"), (42, "420"), (0, "42"), (42, "-42"), (42, "forty-two"), (42, "+42")]
)
def test_a_message_about_another_vm_than_the_line_is_refused(vm_id: int, in_the_message: str) -> None:
    document = inside(vm=f"<ID>{in_the_message}</ID>")
    read = read_payload(with_document(document, Action.CANCEL, vm_id=vm_id))
    assert read == Malformed(
        reason=f"the message is about VM {in_the_message}, the line about VM {vm_id}",
        word="CANCEL",
        vm_id=VmId(vm_id),
        dialect=Dialect.UP_TO_5_12,
    )


@pytest.mark.parametrize(("vm_id", "in_the_message"), [(42, "42"), (42, " 042 "), (0, "0"), (0, ""), (42, "")])
def test_a_message_about_the_same_vm_or_without_vm_id_is_read(vm_id: int, in_the_message: str) -> None:
    assert vm_of(inside(vm=f"<ID>{in_the_message}</ID>"), vm_id=vm_id).vm_id == vm_id


def nested(depth: int, *, padding: int = 0) -> bytes:
    """A message with a template of so many nested elements."""
    inner = "<A>" * depth + "x" * padding + "</A>" * depth
    return inside(vm=f"<TEMPLATE>{inner}</TEMPLATE>")


@pytest.mark.parametrize("padding", [0, ORDINARY_SIZE], ids=["small", "large"])
def test_a_message_of_ninety_thousand_nested_elements_is_refused(padding: int) -> None:
    reason = refusal_of(base64.b64encode(nested(90_000, padding=padding)), Action.DEPLOY)
    assert reason.startswith("payload is not the XML of a driver message: Excessive depth")


def test_a_large_message_of_a_thousand_nested_elements_is_flattened() -> None:
    vm = vm_of(nested(1000, padding=ORDINARY_SIZE), Action.DEPLOY)
    assert vm.template.vectors("A") == ({"A": "x" * ORDINARY_SIZE},)


def test_a_template_value_of_twelve_megabytes_is_read_from_its_line() -> None:
    text = "x" * 12_000_000
    document = inside(vm=f"<TEMPLATE><CONTEXT><DATA><![CDATA[{text}]]></DATA></CONTEXT></TEMPLATE>")
    line = oned_line(with_document(document, Action.DEPLOY))
    assert len(line) < LIMIT
    (found,) = LineBuffer().feed(line)
    assert isinstance(found, bytes)
    parsed = parse_line(found)
    assert isinstance(parsed, Request)
    read = read_payload(parsed)
    assert not isinstance(read, Malformed)
    assert read[0].template.vectors("CONTEXT") == ({"DATA": text},)


def test_a_name_repeated_ninety_thousand_times_keeps_all_its_values() -> None:
    vm = vm_of(inside(vm=f"<TEMPLATE>{'<A>x</A>' * 90_000}</TEMPLATE>"), Action.DEPLOY)
    assert vm.template.values["A"] == ("x",) * 90_000


@pytest.mark.parametrize("element", ["<A>x</A>", "<A/>"])
def test_a_message_of_more_than_a_hundred_thousand_elements_is_refused_unparsed(element: str) -> None:
    document = inside(vm=f"<TEMPLATE>{element * 100_000}</TEMPLATE>")
    reason = refusal_of(base64.b64encode(document), Action.DEPLOY)
    assert reason == "the message has more than 100000 elements: give the VM a smaller template"


@pytest.mark.parametrize("release", oned_lines.RELEASES)
def test_host_and_lcm_state_are_read_from_the_beginning_of_a_long_message(release: oned_lines.Release) -> None:
    template = Template(values={"CPU": ("1",), "CONTEXT": ({"START_SCRIPT": "x" * 200_000},)})
    line = oned_lines.line("DEPLOY", 7, release=release, lcm_state=20, host="cloud", template=template)
    request = parse_line(line.rstrip())
    assert isinstance(request, Request)
    assert read_outline(request) == ("cloud", 20)


@pytest.mark.parametrize(
    ("document", "outline"),
    [
        pytest.param(b"x", ("", None), id="no-xml"),
        pytest.param(b"<X><HOST>cloud</HOST><VM><LCM_STATE>2", ("cloud", None), id="half"),
        pytest.param(
            b"<X><VM><USER_TEMPLATE><LCM_STATE>2</LCM_STATE></USER_TEMPLATE>", ("", None), id="of-the-user-template"
        ),
        pytest.param(b"<!DOCTYPE X [<!ENTITY h 'cloud'>]><X><HOST>&h;</HOST>", ("&h;", None), id="an-entity"),
    ],
)
def test_host_and_lcm_state_are_missing_if_the_message_has_no_readable_ones(
    document: bytes, outline: tuple[str, int | None]
) -> None:
    payload = base64.b64encode(document)
    assert read_outline(request(payload=payload)) == outline
    assert read_outline(request(payload=b"A")) == ("", None)


def test_a_message_cannot_include_a_file_by_xinclude(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush")
    document = (
        f"<VMM_DRIVER_ACTION_DATA xmlns:xi='http://www.w3.org/2001/XInclude'><HOST>"
        f"<xi:include href='{secret}' parse='text'/></HOST></VMM_DRIVER_ACTION_DATA>"
    )
    assert vm_of(document.encode()).host == ""


# Arbitrary input


@given(payload=st.binary(), action=st.sampled_from(Action))
def test_arbitrary_bytes_as_payload_are_refused(payload: bytes, action: Action) -> None:
    read = read_payload(request(action, payload=payload))
    assert isinstance(read, Malformed)


@given(
    message=st.sampled_from([legacy_message(), middle_message(), modern_message()]),
    start=st.integers(0, 2500),
    length=st.integers(0, 40),
    splinter=st.binary(max_size=8)
    | st.sampled_from(
        [b"<VM>", b"</VM>", b"<ID>", b"<![CDATA[", b"]]>", b"<!--", b"&lt;", b"&x;", b"<a xmlns='b'>", b"x:"]
    ),
    action=st.sampled_from(Action),
)
def test_a_damaged_message_is_read_or_refused_without_an_exception(
    message: bytes, start: int, length: int, splinter: bytes, action: Action
) -> None:
    document = message[:start] + splinter + message[start + length :]
    read = read_payload(with_document(document, action))
    if isinstance(read, Malformed):
        assert (read.word, read.vm_id) == (action.value, 42)
        assert read.reason.startswith(("payload is not ", "the message is about VM "))
    else:
        assert read[0].vm_id == 42
        assert read[1] == document
    check_poll(with_document(document, Action.POLL))


@given(payload=st.binary())
def test_a_payload_that_is_not_strict_base64_is_refused(payload: bytes) -> None:
    try:
        binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        assert "base64" in refusal_of(payload) or not payload
