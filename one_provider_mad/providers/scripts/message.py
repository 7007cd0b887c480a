"""The parts of a message that only upstream's drivers read.

OpenNebula's src/vmm/VirtualMachineManager.cc (format_message) writes the document; src/vmm_mad/exec/one_vmm_exec.rb
of each release has its readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy

from lxml import etree

from one_provider_mad.domain import Value, VmRequest
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.providers.scripts.release import Release, release_of
from one_provider_mad.safe_xml import Element, parse_document, text_of

# Names of elements, and the first release that passes them on to network drivers.
_NIC_NAMES: Mapping[str, Release] = {"NIC": (4,), "NIC_ALIAS": (5, 8), "PCI": (6, 6)}
_NETWORK_FIELDS: Mapping[str, Release] = {"ID": (4,), "DEPLOY_ID": (4,), "USER_TEMPLATE": (5, 4)}
_NETWORK_TEMPLATE: Mapping[str, Release] = {"SECURITY_GROUP_RULE": (4,), "CONTEXT": (5, 4)}
_NETWORK_HISTORY: Mapping[str, Release] = {"HOSTNAME": (4,), "VM_MAD": (5,), "DS_ID": (5, 10), "HID": (6,)}


class Nic(Value, frozen=True, kw_only=True):
    """A network interface: its element's name, and its attributes."""

    kind: str
    attributes: Mapping[str, str]

    @property
    def driver(self) -> str:
        """Return the interface's network driver, "" for none."""
        return self.attributes.get("VN_MAD", "")

    @property
    def is_being_changed(self) -> bool:
        """Return True if the action is about this interface."""
        return self.attributes.get("ATTACH", "").upper() == "YES"


class Message(Value, frozen=True, kw_only=True):
    """One action's message, in the terms of upstream's drivers.

    Attributes:
        release: the release of its sender.
        document: the XML as it came.
        request: the values for every kind of provider.
        fields: the text of every plain child of the document.
        nics: the VM's interfaces, aliases and PCI devices with an interface included.
        vm: the VM's element.
    """

    release: Release
    document: bytes
    request: VmRequest
    fields: Mapping[str, str]
    nics: tuple[Nic, ...]
    vm: Element | None

    def since(self, *release: int) -> bool:
        """Return True when the sender is of this release or a later one."""
        return self.release >= release

    def field(self, name: str) -> str:
        """Return the text of a child of the document, "" for none."""
        return self.fields.get(name, "")

    @property
    def deploy_id(self) -> str:
        """Return the id as oned sent it: scripts may give ids in forms of their own."""
        return self.field("DEPLOY_ID")

    @property
    def driver_name(self) -> str:
        """Return the virtualization driver's name in oned.conf."""
        path = "HISTORY_RECORDS/HISTORY/VM_MAD"
        return "" if self.vm is None else text_of(self.vm.find(path)).strip()

    def vm_document(self) -> bytes:
        """Return the VM's own XML."""
        return b"" if self.vm is None else etree.tostring(self.vm, with_tail=False)

    def template(self, path: str) -> str:
        """Return the text of an element below VM/TEMPLATE, "" for none."""
        return "" if self.vm is None else text_of(self.vm.find(f"TEMPLATE/{path}")).strip()

    def transfers(self, name: str = "TM_COMMAND") -> tuple[tuple[str, ...], ...]:
        """Return the transfer commands, one a line, each split into words."""
        return tuple(tuple(line.split()) for line in self.field(name).splitlines() if line.split())

    def network_drivers(self) -> tuple[str, ...]:
        """Return the network drivers of the VM's interfaces, each once, in order; up to 4.14 the host's."""
        if not self.since(5):
            name = self.field("NET_DRV").strip()
            return (name,) if name else ()
        return tuple(dict.fromkeys(name for nic in self.nics if (name := nic.driver)))

    def network_document(self) -> bytes:
        """Return the VM with the elements for network drivers only; up to 4.4 all of it."""
        if not self.since(4, 6):
            return self.vm_document()
        root = etree.Element("VM")
        if self.vm is not None:
            root.extend(_network_parts(self.vm, self.release))
        return etree.tostring(root)


def read_message(request: VmRequest, document: bytes, *, dialect: Dialect, installed: Release | None = None) -> Message:
    """Read a message that is known to be well formed.

    Args:
        request: the values for every kind of provider.
        document: the message.
        dialect: OpenNebula's, as its line shows.
        installed: the release of this front-end, None when that is unknown.
    """
    root = parse_document(document)
    fields = {child.tag: text_of(child).strip() for child in root if not len(child)}
    vm = root.find("VM")
    release = release_of(fields, dialect=dialect, installed=installed)
    return Message(
        release=release,
        document=document,
        request=request,
        fields=fields,
        nics=tuple(_nics(vm, release)),
        vm=vm,
    )


def _known(names: Mapping[str, Release], release: Release) -> tuple[str, ...]:
    return tuple(name for name, since in names.items() if release >= since)


def _nics(vm: Element | None, release: Release) -> Iterator[Nic]:
    template = None if vm is None else vm.find("TEMPLATE")
    if template is None:
        return
    for name in _known(_NIC_NAMES, release):
        for element in template.iterchildren(name):
            attributes = {child.tag: text_of(child).strip() for child in element}
            if name != "PCI" or attributes.get("VN_MAD"):
                yield Nic(kind=name, attributes=attributes)


def _network_parts(vm: Element, release: Release) -> Iterator[Element]:
    yield from map(deepcopy, vm.iterchildren(*_known(_NETWORK_FIELDS, release)))
    template = etree.Element("TEMPLATE")
    fields, nics = _known(_NETWORK_TEMPLATE, release), _known(_NIC_NAMES, release)
    for child in vm.iterfind("TEMPLATE/*"):
        has_driver = release < (5,) or text_of(child.find("VN_MAD")).strip()
        if child.tag in fields or (child.tag in nics and has_driver):
            template.append(deepcopy(child))
    yield template
    history = vm.find("HISTORY_RECORDS/HISTORY")
    if history is not None:
        records = etree.Element("HISTORY_RECORDS")
        record = etree.SubElement(records, "HISTORY")
        record.extend(map(deepcopy, history.iterchildren(*_known(_NETWORK_HISTORY, release))))
        yield records
