"""A VM as the local OpenNebula shows it, for the command `recreate`."""

from __future__ import annotations

from one_provider_mad.domain import DeployId, Value, VmId
from one_provider_mad.orphans.documents import number_at
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.local import LocalCore

BOOT_FAILURE, UNKNOWN, POWEROFF, UNDEPLOYED = (3, 36), (3, 16), (8, 0), (9, 0)
"""STATE and LCM_STATE of a VM (OpenNebula include/VirtualMachine.h)."""

_STATE_NAMES = (
    *("INIT", "PENDING", "HOLD", "ACTIVE", "STOPPED", "SUSPENDED", "DONE", "FAILED", "POWEROFF", "UNDEPLOYED"),
    *("CLONING", "CLONING_FAILURE"),
)


class ShownVm(Value, frozen=True, kw_only=True):
    """A VM in OpenNebula.

    Attributes:
        vm_id: its number.
        stime: its STIME.
        state: STATE and LCM_STATE.
        seq: HISTORY/SEQ of its last record, -1 for none.
        host_id: HISTORY/HID of that record, -1 for none.
        action: HISTORY/ACTION of that record: the number of the action that ended it, 0 for none.
        driver: HISTORY/VM_MAD of that record, "" for none.
        earlier: VM_MAD of every record.
        deploy_id: the instance, "" for none.
        choices: INTERRUPTED of its PUBLIC_CLOUD sections, by TYPE in upper case; "" for a section without TYPE.
    """

    vm_id: VmId
    stime: int
    state: tuple[int, int]
    seq: int = -1
    host_id: int = -1
    action: int = 0
    driver: str = ""
    earlier: tuple[str, ...] = ()
    deploy_id: DeployId = DeployId("")
    choices: tuple[tuple[str, str], ...] = ()

    @property
    def state_name(self) -> str:
        """Return STATE in OpenNebula's words, the number for an unknown one."""
        number = self.state[0]
        return _STATE_NAMES[number] if 0 <= number < len(_STATE_NAMES) else str(number)

    def is_still(self, before: ShownVm) -> bool:
        """True when the VM has not moved on: it is in the same state, on the same host, in the same life."""
        return (self.stime, self.state, self.seq) == (before.stime, before.state, before.seq)


def read_vm(core: LocalCore, vm_id: VmId) -> ShownVm:
    """Return a VM. Raises SettingsError, or ProviderError when OpenNebula does not answer or has no such VM."""
    return shown_vm(core.document("one.vm.info", vm_id))


def shown_vm(document: Element) -> ShownVm:
    """Return the VM of a `<VM>` element. Raises ProviderUnavailable when a required element is missing."""
    history = list(elements_at(document, "HISTORY_RECORDS/HISTORY"))
    drivers = tuple(text_of(record.find("VM_MAD")).strip() for record in history)
    last = history[-1] if history else None
    sections = (*elements_at(document, "TEMPLATE/PUBLIC_CLOUD"), *elements_at(document, "USER_TEMPLATE/PUBLIC_CLOUD"))
    return ShownVm(
        vm_id=VmId(number_at(document, "ID")),
        stime=number_at(document, "STIME"),
        state=(number_at(document, "STATE"), number_at(document, "LCM_STATE")),
        seq=-1 if last is None else number_at(last, "SEQ"),
        host_id=-1 if last is None else number_at(last, "HID"),
        action=0 if last is None else number_at(last, "ACTION"),
        driver=drivers[-1] if drivers else "",
        earlier=drivers,
        deploy_id=DeployId(text_of(document.find("DEPLOY_ID")).strip()),
        choices=tuple(
            (text_of(each.find("TYPE")).strip().upper(), text_of(each.find("INTERRUPTED")).strip().lower())
            for each in sections
        ),
    )
