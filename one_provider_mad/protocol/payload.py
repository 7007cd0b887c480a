"""The payload of a request: base64 of a `<VMM_DRIVER_ACTION_DATA>` document -> VmRequest.

OpenNebula's src/vmm/VirtualMachineManager.cc (format_message) writes the document, src/vm/VirtualMachine.cc
(to_xml_extended) the VM inside it and src/vm/History.cc its history. Elements are found by name, since their order and
presence differ between releases. End users write parts of the document.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping

from lxml import etree

from one_provider_mad.domain import DeployId, Template, VmId, VmOwner, VmRequest, whole_number
from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol.messages import Action, Malformed, Request
from one_provider_mad.protocol.vmm import NO_INSTANCE
from one_provider_mad.safe_xml import Element, outline_of, parse_document, text_of

TEMPLATE_ACTIONS = frozenset(
    {
        *(Action.DEPLOY, Action.RESTORE, Action.SHUTDOWN, Action.CANCEL, Action.SAVE),
        *(Action.RESIZE, Action.UPDATECONF, Action.UPDATESG, Action.UPDATENIC, Action.ATTACHNIC),
    }
)
"""Actions for which TEMPLATE and USER_TEMPLATE are read whole; other actions need neither."""

_FIGURE_ACTIONS = frozenset({Action.POLL, Action.DEPLOY, Action.RESTORE, Action.SHUTDOWN, Action.CANCEL, Action.SAVE})
"""Actions that are answered with the VM's figures, or with their removal (actions/unrequested_poll.py)."""

_DISK_ATTACH = (("DISK",), "ATTACH")
_NIC_ATTACH = (("NIC", "NIC_ALIAS", "PCI"), "ATTACH")  # aliases from 5.8 on, PCI from 6.10 on
_SNAPSHOT = (("SNAPSHOT",), "ACTIVE")
_DISK_SNAPSHOT = (("DISK",), "DISK_SNAPSHOT_ACTIVE")
_OPERANDS: Mapping[Action, tuple[tuple[str, ...], str]] = {
    Action.ATTACHDISK: _DISK_ATTACH,
    Action.DETACHDISK: _DISK_ATTACH,
    Action.ATTACHNIC: _NIC_ATTACH,
    Action.DETACHNIC: _NIC_ATTACH,
    Action.SNAPSHOTCREATE: _SNAPSHOT,
    Action.SNAPSHOTREVERT: _SNAPSHOT,
    Action.SNAPSHOTDELETE: _SNAPSHOT,
    Action.DISKSNAPSHOTCREATE: _DISK_SNAPSHOT,
    Action.DISKSNAPSHOTREVERT: _DISK_SNAPSHOT,
    Action.RESIZEDISK: (("DISK",), "RESIZE"),
    Action.EXEC: (("QEMU_GA_EXEC",), ""),
    Action.EXEC_CANCEL: (("QEMU_GA_EXEC",), ""),
}
"""For each action on a part of the VM: the elements of VM/TEMPLATE that may be that part, and the key that is YES in
the one meant ("" for none)."""

_TOP_FIELDS = ("HOST", "DEPLOY_ID", "SECURITY_GROUP_ID", "VIRTUAL_NETWORK_ID", "VM")
_VM_FIELDS = (
    "ID",
    "UID",
    "GID",
    "UNAME",
    "GNAME",
    "NAME",
    "STATE",
    "LCM_STATE",
    "STIME",
    "DEPLOY_ID",
    "MONITORING",
    "HISTORY_RECORDS",
)

# Before the root only an XML declaration, blanks and comments are accepted. No DTD, so no entities either. The groups
# are atomic: without that a row of comments would cause exponential backtracking.
_BEGINNING = re.compile(
    rb"(?:<\?xml[ \t\r\n][^>]*\?>)?(?>(?:[ \t\r\n]+|<!--(?>.*?-->))*)<VMM_DRIVER_ACTION_DATA[ \t\r\n/>]", re.DOTALL
)
_EXCERPT = 200  # libxml2 quotes names of any length
MOST_ELEMENTS = 100_000
"""Most XML elements in a request; one with more is refused. Each takes some hundred bytes when parsed, and the longest
line has room for millions."""

_OUTLINE = 64 * 1024
"""Length of base64 that has everything before the templates in every release, in bytes; a multiple of four."""

_NOT_A_MESSAGE = "payload is not the XML of a driver message: "


def read_payload(request: Request) -> tuple[VmRequest, bytes] | Malformed:
    """Return the VM request and its payload's XML document, or Malformed for an unreadable payload. Never raises."""
    try:
        document = _decode(request.payload)
        return _vm_request(request, _parse(document)), document
    except RequestRefused as refusal:
        return _malformed(request, refusal)


def read_poll(request: Request) -> VmRequest | Malformed:
    """Return the VM, deploy id and STIME of a POLL, and the form of its answer, or Malformed. Never raises.

    The other fields keep their defaults: up to 5.12 oned sends a POLL for every VM, over and over, and reading all of
    them would take a quarter of the time that a POLL takes.
    """
    try:
        return _poll_request(request, _parse(_decode(request.payload)))
    except RequestRefused as refusal:
        return _malformed(request, refusal)


def read_outline(request: Request) -> tuple[str, int | None]:
    """Return the host's name and LCM_STATE from the beginning of a long payload; "" and None where they cannot be read.

    Never raises. Both precede the templates, which may have any length (VirtualMachine::to_xml_extended).
    """
    host, lcm_state = "", None
    try:
        for path, element in outline_of(binascii.a2b_base64(request.payload[:_OUTLINE])):
            if path == ("HOST",):
                host = text_of(element).strip()
            elif path == ("VM", "LCM_STATE"):
                lcm_state = _number(element)
                break
    except (ValueError, etree.XMLSyntaxError):
        pass  # an unreadable message is refused when its turn comes
    return host, lcm_state


def _malformed(request: Request, refusal: RequestRefused) -> Malformed:
    return Malformed(reason=str(refusal), word=request.action.value, vm_id=request.vm_id, dialect=request.dialect)


def _decode(payload: bytes) -> bytes:
    if not payload:
        raise RequestRefused("the request has no payload")
    try:
        document = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError as error:
        raise RequestRefused(f"payload is not base64: {error}") from error
    try:
        if not document.isascii():
            document.decode()
    except UnicodeDecodeError as error:
        raise RequestRefused(f"payload is not UTF-8: {error.reason} at byte {error.start}") from error
    return document


def _parse(document: bytes) -> Element:
    if b"\0" in document:
        raise RequestRefused(_NOT_A_MESSAGE + "it holds a NUL")
    if not _BEGINNING.match(document):
        raise RequestRefused(_NOT_A_MESSAGE + "it does not begin with <VMM_DRIVER_ACTION_DATA>")
    is_long = len(document) > MOST_ELEMENTS * len(b"<a/>")  # a shorter document cannot have so many elements
    if is_long and document.count(b"</") + document.count(b"/>") > MOST_ELEMENTS:
        raise RequestRefused(f"the message has more than {MOST_ELEMENTS} elements: give the VM a smaller template")
    try:
        return parse_document(document)  # its length is bounded by that of the line
    except etree.XMLSyntaxError as error:
        raise RequestRefused(_NOT_A_MESSAGE + (error.msg or "it is not well formed")[:_EXCERPT]) from error


def _vm_request(request: Request, root: Element) -> VmRequest:
    action = request.action
    top = _children(root, *_TOP_FIELDS)
    vm_element = top.get("VM")
    vm = _children(vm_element, *_VM_FIELDS)
    history = _children(_last_record(vm.get("HISTORY_RECORDS")), "SEQ", "HID")
    host_id = _number(history.get("HID"))
    needs_template = action in TEMPLATE_ACTIONS
    _check_id(text_of(vm.get("ID")).strip(), request.vm_id)
    return VmRequest(
        vm_id=request.vm_id,
        name=text_of(vm.get("NAME")),
        owner=_owner(vm),
        host=text_of(top.get("HOST")).strip(),
        host_id=-1 if host_id is None else host_id,
        deploy_id=_deploy_id(top.get("DEPLOY_ID")) or _deploy_id(vm.get("DEPLOY_ID")),
        state=_number(vm.get("STATE")),
        lcm_state=_number(vm.get("LCM_STATE")),
        stime=_number(vm.get("STIME")) or 0,
        seq=_number(history.get("SEQ")) or 0,
        is_legacy_poll=action in _FIGURE_ACTIONS and "MONITORING" not in vm and _has_legacy_form(vm_element),
        template=read_template(vm_element, "TEMPLATE") if needs_template else Template(),
        user_template=read_template(vm_element, "USER_TEMPLATE") if needs_template else Template(),
        operand=_operand(vm_element, *_OPERANDS[action]) if action in _OPERANDS else {},
        security_group_id=text_of(top.get("SECURITY_GROUP_ID")).strip() if action is Action.UPDATESG else "",
        virtual_network_id=text_of(top.get("VIRTUAL_NETWORK_ID")).strip() if action is Action.UPDATENIC else "",
    )


def _owner(vm: Mapping[str, Element]) -> VmOwner:
    user_id, group_id = _number(vm.get("UID")), _number(vm.get("GID"))
    return VmOwner(
        user_id=-1 if user_id is None else user_id,
        user=text_of(vm.get("UNAME")),
        group_id=-1 if group_id is None else group_id,
        group=text_of(vm.get("GNAME")),
    )


def _poll_request(request: Request, root: Element) -> VmRequest:
    top = _children(root, "DEPLOY_ID", "VM")
    vm_element = top.get("VM")
    vm = _children(vm_element, "ID", "STIME", "DEPLOY_ID", "MONITORING")
    _check_id(text_of(vm.get("ID")).strip(), request.vm_id)
    return VmRequest(
        vm_id=request.vm_id,
        deploy_id=_deploy_id(top.get("DEPLOY_ID")) or _deploy_id(vm.get("DEPLOY_ID")),
        stime=_number(vm.get("STIME")) or 0,
        is_legacy_poll="MONITORING" not in vm and _has_legacy_form(vm_element),
    )


def _children(parent: Element | None, *tags: str) -> dict[str, Element]:
    """Return the first child of each of these names; in one pass, since thousands of POLLs may be read per second."""
    if parent is None:
        return {}
    return {child.tag: child for child in parent.iterchildren(*tags, reversed=True)}


def _last_record(records: Element | None) -> Element | None:
    """Return the newest history record: the only one in oned's requests, the last one in the XML of `onevm show`."""
    return None if records is None else next(records.iterchildren("HISTORY", reversed=True), None)


def _check_id(text: str, vm_id: VmId) -> None:
    if text and not (text.isascii() and text.isdigit() and text.lstrip("0") == str(vm_id).lstrip("0")):
        raise RequestRefused(f"the message is about VM {text[:20]}, the line about VM {vm_id}")


def _deploy_id(element: Element | None) -> DeployId:
    """Return the deploy id, "" for a placeholder.

    `onevm recover --success` stores `one-<vm id>` for a VM without a reported id (LifeCycleManager::recover).
    """
    text = text_of(element).strip()
    return DeployId("" if NO_INSTANCE.fullmatch(text) else text)


def _has_legacy_form(vm: Element | None) -> bool:
    """Return True if oned reads an answer to POLL as `K=V` words (src/vmm/VirtualMachineManagerDriver.cc, POLL).

    That is up to 4.12. There the figures are children of the VM, and the history names the driver VMMMAD; 4.14 moved
    all figures into MONITORING and began to read answers as templates (src/vm/VirtualMachine.cc to_xml_extended).
    VMMMAD outlived that change, so a VM with MONITORING always counts as one of a later release.
    """
    found = _children(vm, "HISTORY_RECORDS", "MEMORY", "CPU", "NET_TX")
    record = _last_record(found.pop("HISTORY_RECORDS", None))
    return bool(found) or "VMMMAD" in _children(record, "VMMMAD")


def read_template(vm: Element | None, name: str) -> Template:
    """Return a VM's TEMPLATE or USER_TEMPLATE; an empty one without a VM."""
    element = _children(vm, name).get(name)
    values: dict[str, list[str | Mapping[str, str]]] = {}
    for child in () if element is None else element:
        values.setdefault(child.tag.upper(), []).append(_flat(child) if len(child) else text_of(child))
    return Template(values={key: tuple(found) for key, found in values.items()})


def _operand(vm: Element | None, names: tuple[str, ...], flag: str) -> Mapping[str, str]:
    template = _children(vm, "TEMPLATE").get("TEMPLATE")
    if template is None:
        return {}
    candidates = (_flat(element) for element in template.iterchildren(*names))
    return next((found for found in candidates if not flag or found.get(flag, "").strip().upper() == "YES"), {})


def _flat(vector: Element) -> dict[str, str]:
    flat: dict[str, str] = {}
    for child in vector:
        flat.setdefault(child.tag.upper(), text_of(child))
    return flat


def _number(element: Element | None) -> int | None:
    """Return the element's whole number; None when it holds none, or one of more than 18 digits."""
    return whole_number(text_of(element).strip())
