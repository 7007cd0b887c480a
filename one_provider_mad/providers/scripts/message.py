"""What upstream's drivers read from a message besides what every provider is told.

The document is written by OpenNebula's src/vmm/VirtualMachineManager.cc (format_message); who reads what from it is
in src/vmm_mad/exec/one_vmm_exec.rb of each release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from enum import Enum

from lxml import etree

from one_provider_mad.documents import Element, parse_document, text_of
from one_provider_mad.domain import Value, VmRequest

_NIC_NAMES = ("NIC", "NIC_ALIAS", "PCI")

_NETWORK_FIELDS = ("ID", "DEPLOY_ID", "USER_TEMPLATE")
_NETWORK_TEMPLATE = ("CONTEXT", "SECURITY_GROUP_RULE")
_NETWORK_HISTORY = ("HOSTNAME", "HID", "VM_MAD", "DS_ID")


class Era(Enum):
    """The releases that drive scripts alike."""

    FOUR = "4"
    """4.4 to 4.14: the network driver is the host's, and scripts read nothing."""

    FIVE = "5"
    """5.0 to 5.12: network drivers by NIC; scripts read base64 in lines of 60 characters."""

    SIX = "6"
    """6.0 to 7.4: the same, in one unbroken line."""


class Nic(Value, frozen=True, kw_only=True):
    """A network interface: its element's name, and its attributes."""

    kind: str
    attributes: Mapping[str, str]

    @property
    def driver(self) -> str:
        """Its network driver, "" for none."""
        return self.attributes.get("VN_MAD", "")

    @property
    def is_being_changed(self) -> bool:
        """The action is about this one."""
        return self.attributes.get("ATTACH", "").upper() == "YES"


class Message(Value, frozen=True, kw_only=True):
    """One action's message, as upstream's drivers see it.

    Attributes:
        era: which releases may have sent it.
        document: the XML as it came.
        request: what every provider is told.
        fields: the text of every plain child of the document.
        nics: the VM's interfaces, aliases and PCI devices that are interfaces included.
        vm: the VM's element.
    """

    era: Era
    document: bytes
    request: VmRequest
    fields: Mapping[str, str]
    nics: tuple[Nic, ...]
    vm: Element | None

    def field(self, name: str) -> str:
        """The text of a child of the document, "" when it has none."""
        return self.fields.get(name, "")

    @property
    def deploy_id(self) -> str:
        """The id as oned sent it: scripts may have made names that mean nothing to anybody else."""
        return self.field("DEPLOY_ID")

    @property
    def driver_name(self) -> str:
        """The virtualization driver as oned.conf calls it."""
        path = "HISTORY_RECORDS/HISTORY/VM_MAD"
        return "" if self.vm is None else text_of(self.vm.find(path)).strip()

    def vm_document(self) -> bytes:
        """The VM's own XML."""
        return b"" if self.vm is None else etree.tostring(self.vm, with_tail=False)

    def template(self, path: str) -> str:
        """The text of an element below VM/TEMPLATE, "" when there is none."""
        return "" if self.vm is None else text_of(self.vm.find(f"TEMPLATE/{path}")).strip()

    def transfers(self, name: str = "TM_COMMAND") -> tuple[tuple[str, ...], ...]:
        """The transfer commands, one a line, each cut into its words."""
        return tuple(tuple(line.split()) for line in self.field(name).splitlines() if line.split())

    def network_drivers(self) -> tuple[str, ...]:
        """The network drivers of the VM's interfaces, each once, in order of appearance; up to 4.14 the host's."""
        if self.era is Era.FOUR:
            name = self.field("NET_DRV").strip()
            return (name,) if name else ()
        return tuple(dict.fromkeys(name for nic in self.nics if (name := nic.driver)))

    def network_document(self) -> bytes:
        """The VM reduced to what network drivers look at."""
        root = etree.Element("VM")
        if self.vm is not None:
            root.extend(_network_parts(self.vm))
        return etree.tostring(root)


def read_message(request: VmRequest, document: bytes, *, is_two_blank: bool) -> Message:
    """Read a message that was found to be well formed before."""
    root = parse_document(document)
    fields = {child.tag: text_of(child).strip() for child in root if not len(child)}
    vm = root.find("VM")
    return Message(
        era=_era(fields, is_two_blank=is_two_blank),
        document=document,
        request=request,
        fields=fields,
        nics=tuple(_nics(vm)),
        vm=vm,
    )


def _era(fields: Mapping[str, str], *, is_two_blank: bool) -> Era:
    if is_two_blank:
        return Era.SIX
    return Era.FOUR if "NET_DRV" in fields else Era.FIVE


def _nics(vm: Element | None) -> Iterator[Nic]:
    template = None if vm is None else vm.find("TEMPLATE")
    for element in () if template is None else template.iterchildren(*_NIC_NAMES):
        attributes = {child.tag: text_of(child).strip() for child in element}
        if element.tag != "PCI" or attributes.get("VN_MAD"):
            yield Nic(kind=element.tag, attributes=attributes)


def _network_parts(vm: Element) -> Iterator[Element]:
    yield from map(deepcopy, vm.iterchildren(*_NETWORK_FIELDS))
    template = etree.Element("TEMPLATE")
    for child in vm.iterfind("TEMPLATE/*"):
        if child.tag in _NETWORK_TEMPLATE or (child.tag in _NIC_NAMES and text_of(child.find("VN_MAD")).strip()):
            template.append(deepcopy(child))
    yield template
    history = vm.find("HISTORY_RECORDS/HISTORY")
    if history is not None:
        records = etree.Element("HISTORY_RECORDS")
        record = etree.SubElement(records, "HISTORY")
        record.extend(map(deepcopy, history.iterchildren(*_NETWORK_HISTORY)))
        yield records
