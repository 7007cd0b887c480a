"""VMs of the OpenNebula that the tests start: their documents, element for element, and the effects of actions.

The documents are those that 5.10.5 and 7.4.0 write (src/vm/VirtualMachine.cc, src/vm/History.cc). A VM holds the state
it entered last and its further steps with their times; `Vm.catch_up` takes the steps that are due.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from one_provider_mad.domain import Template

Section = Mapping[str, str]
Attributes = dict[str, "list[str | Section]"]

PENDING, HOLD, ACTIVE, STOPPED, SUSPENDED, DONE, POWEROFF, UNDEPLOYED = 1, 2, 3, 4, 5, 6, 8, 9
PROLOG, BOOT, RUNNING, EPILOG, SHUTDOWN, UNKNOWN = 1, 2, 3, 11, 12, 16
WORDS = {0: "INIT", 1: "PENDING", 2: "HOLD", 4: "STOPPED", 5: "SUSPENDED", 6: "DONE", 8: "POWEROFF", 9: "UNDEPLOYED"}
LCM_WORDS = {1: "PROLOG", 2: "BOOT", 3: "RUNNING", 6: "SAVE_SUSPEND", 11: "EPILOG", 12: "SHUTDOWN", 16: "UNKNOWN"}
LCM_WORDS |= {17: "HOTPLUG", 18: "SHUTDOWN_POWEROFF", 20: "BOOT_POWEROFF", 21: "BOOT_SUSPENDED", 24: "HOTPLUG_SNAPSHOT"}
LCM_WORDS |= {25: "HOTPLUG_NIC", 36: "BOOT_FAILURE", 57: "DISK_SNAPSHOT", 62: "DISK_RESIZE", 66: "HOTPLUG_RESIZE"}

OF_THE_VM = frozenset(
    {"CPU", "VCPU", "MEMORY", "DISK", "NIC", "CONTEXT", "OS", "GRAPHICS", "INPUT", "FEATURES", "RAW", "SUBMIT_ON_HOLD"}
    | {"TEMPLATE_ID", "VMID", "AUTOMATIC_REQUIREMENTS", "TM_MAD_SYSTEM", "SNAPSHOT"}
    | {"CPU_COST", "MEMORY_COST", "DISK_COST"}
)
"""Attributes of a VM's TEMPLATE; all others are put into USER_TEMPLATE (src/vm/VirtualMachine.cc)."""


def attributes_of(template: Template) -> Attributes:
    return {name: list(values) for name, values in template.values.items()}


def written(name: str, value: str | Section) -> str:
    if isinstance(value, str):
        return f"<{name}><![CDATA[{value}]]></{name}>"
    return f"<{name}>{''.join(written(key, value[key]) for key in sorted(value))}</{name}>"


def template_xml(tag: str, attributes: Attributes) -> str:
    inner = "".join(written(name, value) for name in sorted(attributes) for value in attributes[name])
    return f"<{tag}>{inner}</{tag}>"


@dataclass
class Step:
    """A further step of a VM.

    Attributes:
        at: its time, by the monotonic clock.
        state: STATE it enters.
        lcm_state: LCM_STATE.
        effect: called when the step is taken.
    """

    at: float
    state: int
    lcm_state: int
    effect: Callable[[], None] | None = None


@dataclass
class Vm:
    """One VM.

    Attributes:
        number: its id.
        uid: its user's.
        name: its name.
        is_7: written as 7.4 does, else as 5.10.
        template: TEMPLATE.
        user_template: USER_TEMPLATE.
        steps: its further steps, in order.
        is_deaf: its guest ignores a soft shutdown.
        gid: its group's.
        is_open: every user may see it.
    """

    number: int
    uid: int
    name: str
    is_7: bool
    template: Attributes
    user_template: Attributes
    steps: list[Step] = field(default_factory=list)
    state: int = PENDING
    lcm_state: int = 0
    stime: int = field(default_factory=lambda: int(time.time()))
    etime: int = 0
    deploy_id: str = ""
    monitoring: dict[str, str] = field(default_factory=dict)
    disk_snapshots: dict[str, list[int]] = field(default_factory=dict)
    action: int = 0
    is_deaf: bool = False
    gid: int = 0
    is_open: bool = False
    has_history: bool = False

    def catch_up(self) -> None:
        """Take the steps that are due."""
        while self.steps and self.steps[0].at <= time.monotonic():
            step = self.steps.pop(0)
            self.state, self.lcm_state = step.state, step.lcm_state
            if self.state in (DONE, POWEROFF) and not self.is_7:
                self.monitoring |= {"CPU": "0.0", "MEMORY": "0"}
            if step.effect is not None:
                step.effect()

    def go(self, *ways: tuple[int, int], delay: float, effect: Callable[[], None] | None = None) -> None:
        """Enter the first state now and each further one after the delay; the effect comes with the last."""
        now = time.monotonic()
        self.steps = [
            Step(now + delay * count, state, lcm_state, effect if count == len(ways) - 1 else None)
            for count, (state, lcm_state) in enumerate(ways)
        ]
        self.catch_up()

    @property
    def word(self) -> str:
        if self.state == ACTIVE:
            return LCM_WORDS.get(self.lcm_state, str(self.lcm_state))
        return WORDS.get(self.state, str(self.state))

    def sections(self, name: str) -> list[dict[str, str]]:
        return [dict(value) for value in self.template.get(name, ()) if not isinstance(value, str)]

    # Documents

    def document(self) -> str:
        """As `one.vm.info` and `one.vmpool.infoextended` have it."""
        previous = f"<PREV_STATE>{self.state}</PREV_STATE><PREV_LCM_STATE>{self.lcm_state}</PREV_LCM_STATE>"
        schedule = "<SCHED_ACTIONS></SCHED_ACTIONS>" if self.is_7 else ""
        backups = "<BACKUPS><BACKUP_CONFIG/><BACKUP_IDS></BACKUP_IDS></BACKUPS>" if self.is_7 else ""
        history = f"<HISTORY_RECORDS>{self._history()}</HISTORY_RECORDS>" if self.has_history else "<HISTORY_RECORDS/>"
        monitoring = "".join(written(name, value) for name, value in self.monitoring.items())
        return (
            f"<VM>{self._head()}{_PERMISSIONS}<LAST_POLL>0</LAST_POLL>{self._states()}{previous}"
            f"{self._times()}<MONITORING>{monitoring}</MONITORING>{schedule}"
            f"{template_xml('TEMPLATE', self.template)}{template_xml('USER_TEMPLATE', self.user_template)}"
            f"{history}{self._snapshots()}{backups}</VM>"
        )

    def brief(self) -> str:
        """As `one.vmpool.info` has it from 5.8 on: without USER_TEMPLATE."""
        capacity = "".join(f"<{name}>{self._text(name)}</{name}>" for name in ("CPU", "MEMORY"))
        vcpu = f"<VCPU>{self._text('VCPU')}</VCPU>" if self.is_7 else ""
        mads = "<VM_MAD><![CDATA[vmm_provider]]></VM_MAD><TM_MAD><![CDATA[dummy]]></TM_MAD>" if self.is_7 else ""
        figures = "".join(written(name, value) for name, value in self.monitoring.items())
        monitoring = f"<MONITORING>{figures}{written('STATE', '')}</MONITORING>" if figures else "<MONITORING/>"
        history = (
            f"<HISTORY_RECORDS><HISTORY><OID>{self.number}</OID><SEQ>0</SEQ>"
            "<HOSTNAME><![CDATA[remote_provider]]></HOSTNAME><HID>0</HID><CID>0</CID><DS_ID>0</DS_ID>"
            f"{mads}<ACTION><![CDATA[{self.action}]]></ACTION></HISTORY></HISTORY_RECORDS>"
        )
        return (
            f"<VM>{self._head()}<LAST_POLL>0</LAST_POLL>{self._states()}{self._times()}<TEMPLATE>{capacity}{vcpu}"
            f"</TEMPLATE>{monitoring}<USER_TEMPLATE></USER_TEMPLATE>{history}</VM>"
        )

    def _text(self, name: str) -> str:
        return next((value for value in self.template.get(name, ()) if isinstance(value, str)), "")

    def _head(self) -> str:
        return (
            f"<ID>{self.number}</ID><UID>{self.uid}</UID><GID>{self.gid}</GID><UNAME>oneadmin</UNAME>"
            f"<GNAME>oneadmin</GNAME><NAME>{escape(self.name)}</NAME>"
        )

    def _states(self) -> str:
        return f"<STATE>{self.state}</STATE><LCM_STATE>{self.lcm_state}</LCM_STATE>"

    def _times(self) -> str:
        return (
            f"<RESCHED>0</RESCHED><STIME>{self.stime}</STIME><ETIME>{self.etime}</ETIME>"
            f"<DEPLOY_ID>{self.deploy_id}</DEPLOY_ID>"
        )

    def _history(self) -> str:
        plan = "<PLAN_ID>-2</PLAN_ID><ACTION_ID>-1</ACTION_ID>" if self.is_7 else ""
        times = "".join(f"<{name}>{self.stime}</{name}>" for name in ("PSTIME", "PETIME", "RSTIME"))
        rest = "".join(f"<{name}>0</{name}>" for name in ("RETIME", "ESTIME", "EETIME"))
        return (
            f"<HISTORY><OID>{self.number}</OID><SEQ>0</SEQ><HOSTNAME>remote_provider</HOSTNAME><HID>0</HID><CID>0</CID>"
            f"<STIME>{self.stime}</STIME><ETIME>{self.etime}</ETIME><VM_MAD><![CDATA[vmm_provider]]></VM_MAD>"
            f"<TM_MAD><![CDATA[dummy]]></TM_MAD><DS_ID>0</DS_ID>{plan}{times}{rest}<ACTION>{self.action}</ACTION>"
            "<UID>0</UID><GID>0</GID><REQUEST_ID>4214</REQUEST_ID></HISTORY>"
        )

    def _snapshots(self) -> str:
        return "".join(
            f"<SNAPSHOTS><DISK_ID>{disk}</DISK_ID>"
            + "".join(f"<SNAPSHOT><ID>{number}</ID></SNAPSHOT>" for number in numbers)
            + "</SNAPSHOTS>"
            for disk, numbers in self.disk_snapshots.items()
        )


_PERMISSIONS = (
    "<PERMISSIONS>"
    + "".join(
        f"<{who}_{what}>{int(who == 'OWNER' and what != 'A')}</{who}_{what}>"
        for who in ("OWNER", "GROUP", "OTHER")
        for what in ("U", "M", "A")
    )
    + "</PERMISSIONS>"
)


class RefusedError(Exception):
    """The action cannot be carried out; the text is OpenNebula's."""


def act(vm: Vm, action: str, *, delay: float) -> None:
    """Carry out `one.vm.action`, as src/dm/DispatchManagerActions.cc does. Raises RefusedError."""
    if action in ("terminate", "terminate-hard", "shutdown", "delete"):
        _terminate(vm, is_hard=action in ("terminate-hard", "delete"), delay=delay)
        return
    known = {
        "poweroff": ((ACTIVE, 18), (POWEROFF, 0)),
        "poweroff-hard": ((ACTIVE, 18), (POWEROFF, 0)),
        "undeploy": ((ACTIVE, 29), (UNDEPLOYED, 0)),
        "undeploy-hard": ((ACTIVE, 29), (UNDEPLOYED, 0)),
        "suspend": ((ACTIVE, 6), (SUSPENDED, 0)),
        "stop": ((ACTIVE, 5), (STOPPED, 0)),
        "reboot": ((ACTIVE, RUNNING),),
        "reboot-hard": ((ACTIVE, RUNNING),),
    }
    numbers = {"poweroff": 19, "poweroff-hard": 20, "suspend": 10, "resume": 11, "reboot": 15, "reboot-hard": 16}
    is_running = vm.state == ACTIVE and vm.lcm_state == RUNNING
    is_lost = vm.state == ACTIVE and vm.lcm_state == UNKNOWN
    if action in known and (is_running or (is_lost and action.startswith(("poweroff", "undeploy")))):
        vm.go(*known[action], delay=delay)
    elif action == "hold" and vm.state == PENDING:
        vm.go((HOLD, 0), delay=delay)
    elif action == "release" and vm.state == HOLD:
        start(vm, delay=delay)
    elif action == "resume" and (vm.state in (POWEROFF, SUSPENDED) or is_lost):
        vm.go((ACTIVE, 21 if vm.state == SUSPENDED else 20), (ACTIVE, RUNNING), delay=delay)
    elif action == "resume" and vm.state in (STOPPED, UNDEPLOYED):
        vm.go((PENDING, 0), (ACTIVE, 9), (ACTIVE, RUNNING), delay=delay)
    elif action in (*known, "hold", "release", "resume"):
        raise RefusedError(f'Error performing action "{action}": This action is not available for state {vm.word}')
    else:
        raise RefusedError(f'Action "{action}" is not supported')
    vm.action = numbers.get(action, vm.action)


def _terminate(vm: Vm, *, is_hard: bool, delay: float) -> None:
    def end() -> None:
        vm.etime = int(time.time())

    if vm.state in (0, PENDING, HOLD, 10, 11):
        vm.go((DONE, 0), delay=delay, effect=end)
    elif vm.state in (STOPPED, SUSPENDED, POWEROFF, UNDEPLOYED) or vm.word.endswith("_FAILURE"):
        vm.go((ACTIVE, EPILOG), (DONE, 0), delay=delay, effect=end)
    elif vm.state == ACTIVE and vm.is_deaf and not is_hard and vm.lcm_state == RUNNING:
        vm.go((ACTIVE, SHUTDOWN), (ACTIVE, RUNNING), delay=delay)
    elif vm.state == ACTIVE and (
        vm.lcm_state in (RUNNING, UNKNOWN) or (is_hard and vm.lcm_state == SHUTDOWN and vm.is_7)
    ):
        vm.go((ACTIVE, SHUTDOWN), (ACTIVE, EPILOG), (DONE, 0), delay=delay, effect=end)
    elif vm.state != DONE:
        name = "terminate-hard" if is_hard else "terminate"
        text = f"Could not terminate VM {vm.number}, wrong state {vm.word}."
        raise RefusedError(f'Error performing action "{name}": {text}')
    vm.action = 28 if is_hard else 27


def start(vm: Vm, *, delay: float) -> None:
    """A scheduler places a VM, and it boots."""
    vm.has_history = True
    vm.deploy_id = f"prov-{vm.number}"
    vm.template.setdefault("TM_MAD_SYSTEM", ["dummy"])
    vm.go((PENDING, 0), (ACTIVE, PROLOG), (ACTIVE, BOOT), (ACTIVE, RUNNING), delay=delay)


def pool(vms: Sequence[Vm], *, is_extended: bool) -> str:
    """A `<VM_POOL>` of these."""
    return f"<VM_POOL>{''.join(vm.document() if is_extended else vm.brief() for vm in vms)}</VM_POOL>"


def datastore_xml(name: str, tm_mad: str, kind: int, *clusters: int) -> str:
    """A `<DATASTORE>` as 7.4.0 has it, shortened; in cluster 0 unless others are named."""
    inside = "".join(f"<ID>{number}</ID>" for number in clusters or (0,))
    return (
        f"<DATASTORE><ID>{kind}</ID><NAME>{name}</NAME>{written('TM_MAD', tm_mad)}<TYPE>{kind}</TYPE><STATE>0</STATE>"
        f"<CLUSTERS>{inside}</CLUSTERS><TEMPLATE>{written('TM_MAD', tm_mad)}</TEMPLATE></DATASTORE>"
    )


def host_xml(
    number: int,
    state: int,
    vms: Sequence[int],
    *,
    is_7: bool,
    is_whole: bool,
    im_mad: str = "im_provider",
    attributes: Mapping[str, str] = {},
) -> str:
    """A `<HOST>` (src/host/Host.cc, HostShare.cc); 7.4 monitors into tables of their own."""
    head = (
        f"<ID>{number}</ID><NAME>remote{number}</NAME><STATE>{state}</STATE><PREV_STATE>{state}</PREV_STATE>"
        f"{written('IM_MAD', im_mad)}{written('VM_MAD', 'vmm_provider')}"
    )
    last = "" if is_7 else "<LAST_MON_TIME>1795349844</LAST_MON_TIME>"
    inner = "".join(f"<ID>{vm}</ID>" for vm in vms)
    template = {"HYPERVISOR": "provider_name", "IM_MAD": im_mad, "PUBLIC_CLOUD": "YES"}
    template |= {"RESERVED_CPU": "", "RESERVED_MEM": ""}
    template |= {"TOTALCPU": "80000", "TOTALMEMORY": "167772160"} if is_7 else {}
    template |= attributes
    template |= {"VM_MAD": "vmm_provider"} | ({"TOTAL_ZOMBIES": "1", "ZOMBIES": "1"} if is_7 and number else {})
    values = "".join(written(name, template[name]) for name in sorted(template))
    return (
        f"<HOST>{head}{last}<CLUSTER_ID>0</CLUSTER_ID><CLUSTER>default</CLUSTER>"
        f"<HOST_SHARE>{_share_7(len(vms)) if is_7 else _share_5(len(vms))}<PCI_DEVICES></PCI_DEVICES>"
        f"<NUMA_NODES></NUMA_NODES></HOST_SHARE><VMS>{inner}</VMS><TEMPLATE>{values}</TEMPLATE>"
        f"{_host_monitoring(number, is_whole=is_whole) if is_7 else ''}</HOST>"
    )


def _share_7(vms: int) -> str:
    figures = {"MEM_USAGE": 262144 * vms, "CPU_USAGE": 100 * vms, "TOTAL_MEM": 167772160, "TOTAL_CPU": 80000}
    figures |= {"MAX_MEM": 167772160, "MAX_CPU": 80000, "RUNNING_VMS": vms, "VMS_THREAD": 1}
    disks = "".join(written(name, "0") for name in ("DISK_USAGE", "FREE_DISK", "MAX_DISK", "USED_DISK"))
    return _plain(figures) + f"<DATASTORES>{disks}</DATASTORES>"


def _share_5(vms: int) -> str:
    figures = {"DISK_USAGE": 0, "MEM_USAGE": 262144 * vms, "CPU_USAGE": 100 * vms, "TOTAL_MEM": 167772160}
    figures |= {"TOTAL_CPU": 80000, "MAX_DISK": 0, "MAX_MEM": 167772160, "MAX_CPU": 80000, "FREE_DISK": 0}
    figures |= {"FREE_MEM": 167772160, "FREE_CPU": 80000, "USED_DISK": 0, "USED_MEM": 0, "USED_CPU": 0}
    return _plain(figures | {"RUNNING_VMS": vms, "VMS_THREAD": 1}) + "<DATASTORES></DATASTORES>"


def _host_monitoring(number: int, *, is_whole: bool) -> str:
    if not is_whole:
        return "<MONITORING/>"
    capacity = {"FREE_CPU": "79900", "FREE_MEMORY": "167771136", "USED_CPU": "100", "USED_MEMORY": "1024"}
    figures = "".join(written(name, value) for name, value in capacity.items())
    head = f"<TIMESTAMP>1795349560</TIMESTAMP><ID>{number}</ID>"
    return f"<MONITORING>{head}<CAPACITY>{figures}</CAPACITY><SYSTEM></SYSTEM></MONITORING>"


def _plain(figures: Mapping[str, int]) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in figures.items())
