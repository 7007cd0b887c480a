"""The OpenNebula whose drivers run in a test; the test sets its VMs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.xmlrpc.partner import Partner
from tests.xmlrpc.partner_api import AUTHORIZATION, NO_EXISTS, ApiError, User

ACTIVE, DONE, POWEROFF = 3, 6, 8
"""include/VirtualMachine.h, VmState."""

FOLLOWER, LEADER = 2, 3
"""src/raft/RaftManager.h, State."""


@dataclass
class OwnVm:
    """A VM of this OpenNebula.

    Attributes:
        number: its id.
        stime: when it was created, seconds since the epoch.
        deploy_id: VM/DEPLOY_ID.
        state: VM/STATE.
        etime: when it ended, 0 until then.
        hosts: HID of each of its history records.
        drivers: VM_MAD of each host with another one than "cloud".
    """

    number: int
    stime: int
    deploy_id: str = ""
    state: int = ACTIVE
    etime: int = 0
    hosts: list[int] = field(default_factory=lambda: [3])
    drivers: dict[int, str] = field(default_factory=dict)

    def end(self, at: int) -> None:
        """Terminate it without a request to a driver, as OpenNebula does with a VM in POWEROFF (one#1243)."""
        self.state, self.etime = DONE, at

    def xml(self) -> str:
        history = "".join(
            f"<HISTORY><OID>{self.number}</OID><SEQ>{seq}</SEQ><HOSTNAME>cloud</HOSTNAME><HID>{host}</HID>"
            f"<VM_MAD>{self.drivers.get(host, 'cloud')}</VM_MAD></HISTORY>"
            for seq, host in enumerate(self.hosts)
        )
        return (
            f"<VM><ID>{self.number}</ID><UID>0</UID><GID>0</GID>"
            f"<UNAME>oneadmin</UNAME><GNAME>oneadmin</GNAME><NAME>vm-{self.number}</NAME><STATE>{self.state}</STATE>"
            f"<LCM_STATE>0</LCM_STATE><STIME>{self.stime}</STIME><ETIME>{self.etime}</ETIME>"
            f"<DEPLOY_ID>{escape(self.deploy_id)}</DEPLOY_ID><TEMPLATE/><USER_TEMPLATE/>"
            f"<HISTORY_RECORDS>{history}</HISTORY_RECORDS></VM>"
        )


class LocalOned(Partner):
    """Serves documents of VMs to the drivers of a test; use it as a context manager.

    Attributes:
        own: VMs by id.
        is_silent_about: VMs that its user may not read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[int, OwnVm] = {}
        self.is_silent_about: set[int] = set()

    def know(self, instance: Any, **details: Any) -> OwnVm:
        """Add the VM of an instance that `one-provider instances --json` lists."""
        vm = OwnVm(instance["vm_id"], instance["stime"], instance["deploy_id"], hosts=[instance["host_id"]])
        for name, value in details.items():
            setattr(vm, name, value)
        self.own[vm.number] = vm
        return vm

    def environ(self, root: Path) -> dict[str, str]:
        """The environment of OpenNebula's own tools: its address, and the credentials."""
        auth = root / "one_auth"
        auth.write_text("oneadmin:secret\n")
        auth.chmod(0o600)
        return {"ONE_XMLRPC": self.front_ends[0].url, "ONE_AUTH": str(auth)}

    def do_vm_info(self, _user: User, number: int, _decrypt: bool = False) -> str:  # noqa: FBT001, FBT002
        if number in self.is_silent_about:
            raise ApiError(AUTHORIZATION, f"Not authorized to perform USE VM [{number}].")
        if number not in self.own:
            raise ApiError(NO_EXISTS, f"Error getting virtual machine [{number}].")
        return self.own[number].xml()

    def do_vmpool_info(self, _user: User, _who: int, offset: int, size: int, state: int, *_more: Any) -> str:
        rows = [vm for _, vm in sorted(self.own.items(), reverse=True) if state == -2 or vm.state != DONE]
        assert size < 0, "a page, not a range of ids"
        return f"<VM_POOL>{''.join(vm.xml() for vm in rows[offset : offset - size])}</VM_POOL>"
