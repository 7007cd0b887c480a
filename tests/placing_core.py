"""An OpenNebula that places VMs at once, first at home, then in the cloud: for tests of tools/burst."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.xmlrpc.local_core import LocalCore

ROOM, CORE = 2, 100
_CLOUD_CPU = 10_000


@dataclass
class PlacedVm:
    """A VM; hosts are "" before it is placed."""

    name: str
    host: str = ""
    state: tuple[int, int] = (1, 0)


@dataclass
class PlacingCore(LocalCore):
    """The core: two hosts at home with room for two VMs each, and the host of a cloud.

    Attributes:
        placed: its VMs that are not DONE, by number.
        templates: names of its VM templates, by number.
        hosts: the driver of each host, by name.
        is_idle: no VM is placed any more.
    """

    placed: dict[int, PlacedVm] = field(default_factory=dict)
    templates: dict[int, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=lambda: {"home0": "kvm", "home1": "kvm", "simulated": "simulated"})
    is_idle: bool = False

    def answer(self, method: str, arguments: tuple[Any, ...]) -> list[Any]:
        handler = _HANDLERS.get(method)
        if handler is None:
            return super().answer(method, arguments)
        self.calls.append((method, *arguments[1:]))
        return [True, handler(self, *arguments[1:]), 0]

    def version(self) -> str:
        return "7.4.0"

    def show_hosts(self) -> str:
        return f"<HOST_POOL>{''.join(map(self._host, enumerate(self.hosts)))}</HOST_POOL>"

    def _host(self, numbered: tuple[int, str]) -> str:
        number, name = numbered
        most = _CLOUD_CPU if name == "simulated" else ROOM * CORE
        share = f"<TOTAL_CPU>{most}</TOTAL_CPU><MAX_CPU>{most}</MAX_CPU><CPU_USAGE>{self._used(name)}</CPU_USAGE>"
        return (
            f"<HOST><ID>{number}</ID><NAME>{name}</NAME><STATE>2</STATE><VM_MAD>{self.hosts[name]}</VM_MAD>"
            f"<HOST_SHARE>{share}<MAX_MEM>99999999</MAX_MEM><MEM_USAGE>0</MEM_USAGE></HOST_SHARE></HOST>"
        )

    def _used(self, host: str) -> int:
        return CORE * sum(vm.host == host for vm in self.placed.values())

    def show_vms(self, *_: int) -> str:
        """Each look places the VMs that wait, as a scheduler does from time to time."""
        for vm in self.placed.values():
            if not (vm.host or self.is_idle):
                vm.host = next((host for host in ("home0", "home1") if self._used(host) < ROOM * CORE), "simulated")
                vm.state = (3, 3)
        return f"<VM_POOL>{''.join(_shown(number, vm) for number, vm in self.placed.items())}</VM_POOL>"

    def show_templates(self, *_: int) -> str:
        shown = (
            f"<VMTEMPLATE><ID>{number}</ID><NAME>{name}</NAME></VMTEMPLATE>" for number, name in self.templates.items()
        )
        return f"<VMTEMPLATE_POOL>{''.join(shown)}</VMTEMPLATE_POOL>"

    def show_datastores(self) -> str:
        return "<DATASTORE_POOL></DATASTORE_POOL>"

    def make_template(self, text: str) -> int:
        (name,) = re.findall(r'^NAME = "(.+)"', text)
        self.templates[len(self.templates)] = name
        return len(self.templates) - 1

    def make_vm(self, template: int, name: str, *_: object) -> int:
        assert template in self.templates
        number = len([call for call in self.calls if call[0] == "one.template.instantiate"])
        self.placed[number] = PlacedVm(name)
        return number

    def end_vm(self, action: str, number: int) -> int:
        assert action == "terminate-hard"
        del self.placed[number]
        return number

    def delete_template(self, number: int) -> int:
        del self.templates[number]
        return number


def _shown(number: int, vm: PlacedVm) -> str:
    history = f"<HISTORY_RECORDS><HISTORY><HOSTNAME>{vm.host}</HOSTNAME></HISTORY></HISTORY_RECORDS>"
    message = "" if vm.host else "<SCHED_MESSAGE>no host has enough CPU</SCHED_MESSAGE>"
    return (
        f"<VM><ID>{number}</ID><NAME>{vm.name}</NAME><STATE>{vm.state[0]}</STATE><LCM_STATE>{vm.state[1]}"
        f"</LCM_STATE><USER_TEMPLATE>{message}</USER_TEMPLATE>{history if vm.host else ''}</VM>"
    )


_HANDLERS: Mapping[str, Any] = {
    "one.system.version": PlacingCore.version,
    "one.hostpool.info": PlacingCore.show_hosts,
    "one.vmpool.info": PlacingCore.show_vms,
    "one.templatepool.info": PlacingCore.show_templates,
    "one.datastorepool.info": PlacingCore.show_datastores,
    "one.template.allocate": PlacingCore.make_template,
    "one.template.instantiate": PlacingCore.make_vm,
    "one.template.delete": PlacingCore.delete_template,
    "one.vm.action": PlacingCore.end_vm,
}
