"""The OpenNebula on this machine, for tests of the hook: one VM, which it recreates, and hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape
from xmlrpc.client import Fault

from one_provider_mad.xmlrpc.release import release_of
from tests.xmlrpc.local_core import LocalCore

BOOT_FAILURE, UNKNOWN, POWEROFF, RUNNING, UNDEPLOYED = (3, 36), (3, 16), (8, 0), (3, 3), (9, 0)
MONITOR, PERSON = 44, 20
"""HISTORY/ACTION of a VM that monitoring, or a person, has powered off (include/VMActions.h)."""


@dataclass
class HookedCore(LocalCore):
    """The core.

    Attributes:
        state: STATE and LCM_STATE of VM 7.
        drivers: VM_MAD of each record of its history; SEQ counts from 0.
        action: ACTION of the last record.
        deploy_id: its instance.
        section: its PUBLIC_CLOUD section, as elements.
        release: OpenNebula's.
        raft: STATE of one.zone.raftstatus.
        hooks: name and command of each hook, whose number is the length of its name; None up to 5.8, without hooks.
        before_info: called before each answer to one.vm.info.
    """

    state: tuple[int, int] = BOOT_FAILURE
    drivers: list[str] = field(default_factory=lambda: ["cloud"])
    action: int = 0
    deploy_id: str = ""
    section: str = ""
    release: str = "7.4.0"
    raft: int = 0
    hooks: dict[str, str] | None = field(default_factory=dict)
    before_info: Callable[[], None] = lambda: None

    def answer(self, method: str, arguments: tuple[Any, ...]) -> list[Any]:
        own = {
            "one.zone.raftstatus": self._raft,
            "one.system.version": lambda: [True, self.release, 0],
            "one.vm.info": self._shown,
            "one.vm.recover": self._recreated,
            "one.vm.action": self._acted,
            "one.hookpool.info": self._hooks,
            "one.hook.allocate": self._allocated,
            "one.hook.delete": self._deleted,
        }
        if method not in own:
            return super().answer(method, arguments)
        self.calls.append((method, *arguments[1:]))
        handler: Any = own[method]
        return list(handler(*arguments[1:]))

    def _raft(self) -> list[Any]:
        return [True, f"<RAFT><SERVER_ID>0</SERVER_ID><STATE>{self.raft}</STATE></RAFT>", 0]

    def _shown(self, number: int, *_: bool) -> list[Any]:
        self.before_info()
        if number != 7:
            return [False, f"[one.vm.info] Error getting virtual machine [{number}].", 0x0400]
        last = len(self.drivers) - 1
        history = "".join(
            f"<HISTORY><SEQ>{seq}</SEQ><HID>3</HID><VM_MAD>{name}</VM_MAD>"
            f"<ACTION>{self.action if seq == last else 0}</ACTION></HISTORY>"
            for seq, name in enumerate(self.drivers)
        )
        section = f"<PUBLIC_CLOUD>{self.section}</PUBLIC_CLOUD>" if self.section else ""
        text = (
            f"<VM><ID>7</ID><STIME>5</STIME><STATE>{self.state[0]}</STATE><LCM_STATE>{self.state[1]}</LCM_STATE>"
            f"<DEPLOY_ID>{self.deploy_id}</DEPLOY_ID><TEMPLATE/><USER_TEMPLATE>{section}</USER_TEMPLATE>"
            f"<HISTORY_RECORDS>{history}</HISTORY_RECORDS></VM>"
        )
        return [True, text, 0]

    def _recreated(self, number: int, operation: int) -> list[Any]:
        if (number, operation) != (7, 4) or (self.state == POWEROFF and release_of(self.release) < (6, 9)):
            return [False, "[one.vm.recover] Cannot delete-recreate a powered off VM. Resume it first", 0x0800]
        self.state = (1, 0)
        return [True, 7, 0]

    def _acted(self, action: str, number: int) -> list[Any]:
        assert (action, number, self.state) == ("undeploy", 7, POWEROFF)
        self.state = UNDEPLOYED
        return [True, 7, 0]

    def _hooks(self, *_: int) -> list[Any]:
        if self.hooks is None:
            raise Fault(-506, "Method 'one.hookpool.info' not defined")
        rows = "".join(
            f"<HOOK><ID>{len(name)}</ID><NAME>{name}</NAME><TEMPLATE><COMMAND>{escape(text)}</COMMAND></TEMPLATE></HOOK>"
            for name, text in self.hooks.items()
        )
        return [True, f"<HOOK_POOL>{rows}</HOOK_POOL>", 0]

    def _allocated(self, template: str) -> list[Any]:
        values = dict(line.split("=", 1) for line in template.splitlines())
        assert self.hooks is not None
        name = values["NAME"].strip('"')
        self.hooks[name] = values["COMMAND"].strip('"')
        return [True, len(name), 0]

    def _deleted(self, number: int) -> list[Any]:
        assert self.hooks is not None
        self.hooks = {name: text for name, text in self.hooks.items() if len(name) != number}
        return [True, number, 0]

    def asked(self, method: str) -> int:
        """How often a method was called."""
        return sum(call[0] == method for call in self.calls)
