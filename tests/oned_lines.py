"""Lines as oned sends them to a VM driver, release by release; the tests' own, apart from the driver's encoder.

Elements, their order and their empty forms are those of OpenNebula's VirtualMachineManager::format_message,
VirtualMachine::to_xml_extended and History::to_xml. `tests/test_oned_lines.py` compares them with lines of a real oned.
monitord's lines are made by `tests/monitor/decoder.py`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypedDict, Unpack, get_args

from one_provider_mad.domain import Template

Release = Literal["4.4", "5.10", "7.4"]
RELEASES: tuple[Release, ...] = get_args(Release)
"""4.4 stands for 4.x, 5.10 for 5.x, 7.4 for 6.x and 7.x."""

HOST = "remote_provider"
STIME = 1_760_000_000

LCM_STATES = {
    "LCM_INIT": 0,
    "BOOT": 2,
    "RUNNING": 3,
    "MIGRATE": 4,
    "SAVE_STOP": 5,
    "SAVE_SUSPEND": 6,
    "SAVE_MIGRATE": 7,
    "SHUTDOWN": 12,
    "CANCEL": 13,
    "CLEANUP_RESUBMIT": 15,
    "UNKNOWN": 16,
    "HOTPLUG": 17,
    "SHUTDOWN_POWEROFF": 18,
    "BOOT_UNKNOWN": 19,
    "BOOT_POWEROFF": 20,
    "BOOT_SUSPENDED": 21,
    "BOOT_STOPPED": 22,
    "CLEANUP_DELETE": 23,
    "HOTPLUG_SNAPSHOT": 24,
    "HOTPLUG_NIC": 25,
    "SHUTDOWN_UNDEPLOY": 29,
    "BOOT_UNDEPLOY": 32,
    "BOOT_MIGRATE": 35,
    "BOOT_FAILURE": 36,
    "DISK_SNAPSHOT": 57,
    "DISK_SNAPSHOT_REVERT": 58,
    "DISK_RESIZE": 62,
    "HOTPLUG_RESIZE": 66,
    "BACKUP": 69,
}
"""The states in which actions are sent (include/VirtualMachine.h, LcmState)."""


class Action(NamedTuple):
    """An action of oned's.

    Attributes:
        lcm_state: the state in which it is sent most often.
        releases: those that send it.
        vector: the vector of VM/TEMPLATE that has the operand.
        flag: the attribute that oned sets to YES in that vector.
        key: the attribute with the vector's number.
    """

    lcm_state: str
    releases: tuple[Release, ...] = RELEASES
    vector: str = ""
    flag: str = ""
    key: str = ""


_SINCE_5: tuple[Release, ...] = ("5.10", "7.4")
_SINCE_6: tuple[Release, ...] = ("7.4",)

ACTIONS: Mapping[str, Action] = {
    "DEPLOY": Action("BOOT"),
    "SHUTDOWN": Action("SHUTDOWN"),
    "CANCEL": Action("SHUTDOWN"),
    "SAVE": Action("SAVE_SUSPEND"),
    "RESTORE": Action("BOOT_SUSPENDED"),
    "MIGRATE": Action("MIGRATE"),
    "REBOOT": Action("RUNNING"),
    "RESET": Action("RUNNING"),
    "POLL": Action("RUNNING", ("4.4", "5.10")),
    "CLEANUP": Action("CLEANUP_DELETE"),
    "DRIVER_CANCEL": Action("LCM_INIT"),
    "ATTACHDISK": Action("HOTPLUG", RELEASES, "DISK", "ATTACH", "DISK_ID"),
    "DETACHDISK": Action("HOTPLUG", RELEASES, "DISK", "ATTACH", "DISK_ID"),
    "ATTACHNIC": Action("HOTPLUG_NIC", RELEASES, "NIC", "ATTACH", "NIC_ID"),
    "DETACHNIC": Action("HOTPLUG_NIC", RELEASES, "NIC", "ATTACH", "NIC_ID"),
    "SNAPSHOTCREATE": Action("HOTPLUG_SNAPSHOT", RELEASES, "SNAPSHOT", "ACTIVE", "SNAPSHOT_ID"),
    "SNAPSHOTREVERT": Action("HOTPLUG_SNAPSHOT", RELEASES, "SNAPSHOT", "ACTIVE", "SNAPSHOT_ID"),
    "SNAPSHOTDELETE": Action("HOTPLUG_SNAPSHOT", RELEASES, "SNAPSHOT", "ACTIVE", "SNAPSHOT_ID"),
    "DISKSNAPSHOTCREATE": Action("DISK_SNAPSHOT", _SINCE_5, "DISK", "DISK_SNAPSHOT_ACTIVE", "DISK_ID"),
    "DISKSNAPSHOTREVERT": Action("DISK_SNAPSHOT_REVERT", (), "DISK", "DISK_SNAPSHOT_ACTIVE", "DISK_ID"),
    "RESIZE": Action("HOTPLUG_RESIZE", _SINCE_6),
    "RESIZEDISK": Action("DISK_RESIZE", _SINCE_5, "DISK", "RESIZE", "DISK_ID"),
    "UPDATECONF": Action("HOTPLUG", _SINCE_5, "CONTEXT"),
    "UPDATESG": Action("RUNNING", _SINCE_5),
    "UPDATENIC": Action("RUNNING", _SINCE_6),
    "BACKUP": Action("BACKUP", _SINCE_6, "BACKUP_CONFIG"),
    "BACKUPCANCEL": Action("BACKUP", _SINCE_6),
    "EXEC": Action("RUNNING", _SINCE_6, "QEMU_GA_EXEC"),
    "EXEC_CANCEL": Action("RUNNING", _SINCE_6, "QEMU_GA_EXEC"),
}
"""Every action; DISKSNAPSHOTREVERT was sent by 4.14 alone."""


def usual_lcm_state(action: str, release: Release) -> int:
    """The number of the state in which a release sends an action most often; RUNNING for an unknown action."""
    if action == "CANCEL" and release == "4.4":
        return LCM_STATES["CANCEL"]
    return LCM_STATES[ACTIONS[action].lcm_state if action in ACTIONS else "RUNNING"]


def bursting_template(cloud: str = "simulated") -> Template:
    """The template of OpenNebula's Cloud Bursting guide."""
    section = {"TYPE": cloud, "PROVIDER_IMAGE_ID": "id-141234", "PROVIDER_INSTANCE_TYPE": "small_256mb"}
    return Template(values={"CPU": ("1",), "MEMORY": ("256",), "PUBLIC_CLOUD": (section,)})


class Details(TypedDict, total=False):
    """What is particular to a VM: the template as its user wrote it, and the operand of the action."""

    template: Template
    host: str
    host_id: int
    lcm_state: int
    state: int
    deploy_id: str
    name: str
    stime: int
    seq: int
    operand: Mapping[str, str]


def line(action: str, vm_id: int, /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """A whole line, its line feed included (VirtualMachineManagerDriver write_drv)."""
    if action in ("INIT", "FINALIZE"):
        return f"{action}\n".encode()
    if action == "DRIVER_CANCEL":
        return head(action, vm_id, release).rstrip(b" " if release != "7.4" else b"") + b"\n"
    return head(action, vm_id, release) + b64encode(document(action, vm_id, release=release, **details)) + b"\n"


def head(action: str, vm_id: int, release: Release) -> bytes:
    """What comes before the payload. From 6.0 on there is an empty status between two blanks."""
    return f"{action} {' ' if release == '7.4' else ''}{vm_id} ".encode()


def document(action: str, vm_id: int, /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """The XML in the payload of a line."""
    lcm_state = details.get("lcm_state", usual_lcm_state(action, release))
    usual = Details(template=bursting_template(), host=HOST, host_id=0, deploy_id="", stime=STIME, seq=0, operand={})
    return _Document(
        action, vm_id, release, {**usual, "state": 3 if lcm_state else 6, **details, "lcm_state": lcm_state}
    ).text.encode()


# The document

_OWNED = (
    "<ID>{id}</ID><UID>0</UID><GID>0</GID><UNAME>oneadmin</UNAME><GNAME>oneadmin</GNAME><NAME>{name}</NAME>"
    "<PERMISSIONS><OWNER_U>1</OWNER_U><OWNER_M>1</OWNER_M><OWNER_A>0</OWNER_A><GROUP_U>{group_use}</GROUP_U>"
    "<GROUP_M>0</GROUP_M><GROUP_A>0</GROUP_A><OTHER_U>0</OTHER_U><OTHER_M>0</OTHER_M><OTHER_A>0</OTHER_A></PERMISSIONS>"
)

# The system datastore of a fresh installation.
_DATASTORE = (
    f"<DATASTORE>{_OWNED.format(id=0, name='system', group_use=1)}<DS_MAD><![CDATA[-]]></DS_MAD>"
    "<TM_MAD><![CDATA[dummy]]></TM_MAD><BASE_PATH><![CDATA[/var/lib/one/datastores/0]]></BASE_PATH><TYPE>1</TYPE>"
    "<DISK_TYPE>0</DISK_TYPE><STATE>0</STATE><CLUSTERS><ID>0</ID></CLUSTERS><TOTAL_MB>0</TOTAL_MB><FREE_MB>0</FREE_MB>"
    "<USED_MB>0</USED_MB><IMAGES></IMAGES><TEMPLATE><ALLOW_ORPHANS><![CDATA[NO]]></ALLOW_ORPHANS>"
    "<DISK_TYPE><![CDATA[FILE]]></DISK_TYPE><DS_LIVE_MIGRATE><![CDATA[NO]]></DS_LIVE_MIGRATE>"
    "<DS_MIGRATE><![CDATA[YES]]></DS_MIGRATE><DS_MIGRATE_SNAP><![CDATA[NO]]></DS_MIGRATE_SNAP>"
    "<PERSISTENT_SNAPSHOTS><![CDATA[YES]]></PERSISTENT_SNAPSHOTS><RESTRICTED_DIRS><![CDATA[/]]></RESTRICTED_DIRS>"
    "<SAFE_DIRS><![CDATA[/var/tmp]]></SAFE_DIRS><SHARED><![CDATA[YES]]></SHARED><TM_MAD><![CDATA[dummy]]></TM_MAD>"
    "<TYPE><![CDATA[SYSTEM_DS]]></TYPE></TEMPLATE></DATASTORE>"
)

# User operations in the history, by action and LCM_STATE (include/History.h, VMAction); terminate is 3 up to 4.x.
_OPERATIONS = {
    ("SHUTDOWN", 12): 27,
    ("CANCEL", 12): 28,
    ("CANCEL", 13): 28,
    ("SHUTDOWN", 18): 19,
    ("CANCEL", 18): 20,
    ("SHUTDOWN", 29): 5,
    ("CANCEL", 29): 6,
    ("SAVE", 5): 9,
    ("SAVE", 6): 10,
    ("RESTORE", 21): 11,
    ("RESTORE", 22): 11,
    ("DEPLOY", 19): 11,
    ("DEPLOY", 20): 11,
    ("DEPLOY", 32): 11,
}

_SYSTEM_NAMES = """
AUTOMATIC_DS_REQUIREMENTS AUTOMATIC_NIC_REQUIREMENTS AUTOMATIC_REQUIREMENTS CONTEXT CPU CPU_MODEL CREATED_BY DISK
FEATURES GRAPHICS IMPORTED INPUT MEMORY NIC NIC_ALIAS NIC_DEFAULT OS PCI QEMU_GA_EXEC RAW SECURITY_GROUP_RULE SNAPSHOT
SUBMIT_ON_HOLD TEMPLATE_ID TM_MAD_SYSTEM TOPOLOGY VCPU VIDEO VMGROUP VMID VROUTER_ID
"""
_SYSTEM = frozenset(_SYSTEM_NAMES.split())
"""Attributes that oned moves from the user's template to VM/TEMPLATE."""

_Values = dict[str, list[str | Mapping[str, str]]]


class _Document:
    """One document, in the order in which oned writes it."""

    def __init__(self, action: str, vm_id: int, release: Release, details: Details) -> None:
        self._action, self._vm_id, self._release, self._details = action, vm_id, release, details
        self._is_4, self._is_7 = release == "4.4", release == "7.4"
        self._transfer = "dummy" if self._is_7 else ""
        self._datastore = 0 if self._is_7 else -1
        self._place = f"/var/lib/one/{'/' if self._is_4 else ''}datastores"
        self._system: _Values = {}
        self._user: _Values = {}
        self._backup: dict[str, str] = {}
        self._elements: dict[str, str] = {}
        self._split_template()
        self._set_operand()
        self._add_system_attributes()

    # The templates

    def _split_template(self) -> None:
        for name, values in self._details["template"].values.items():
            if name == "BACKUP_CONFIG" and self._is_7:
                self._backup = _vector(values[0])
            elif name != "NAME":
                (self._system if name in _SYSTEM else self._user)[name] = list(values)
        for name in ("DISK", "NIC"):
            numbered = enumerate(self._system.get(name, []))
            self._system |= {name: [{f"{name}_ID": str(number), **_vector(vector)} for number, vector in numbered]}

    def _set_operand(self) -> None:
        action, operand = ACTIONS.get(self._action, Action("RUNNING")), self._details["operand"]
        if action.vector == "BACKUP_CONFIG":
            self._backup |= operand
        elif action.flag:
            self._mark(action, operand)
        elif action.vector:
            vectors = self._system.setdefault(action.vector, [{}])
            vectors[0] = {**_vector(vectors[0]), **operand}
        elif self._action in ("MIGRATE", "CLEANUP"):
            self._elements = {"MIGR_HOST": operand.get("MIGR_HOST", "")}
        elif self._action in ("UPDATESG", "UPDATENIC"):
            name = "SECURITY_GROUP_ID" if self._action == "UPDATESG" else "VIRTUAL_NETWORK_ID"
            self._elements = {name: operand.get(name, "0")}
        else:
            self._system |= {name: [value] for name, value in operand.items()}

    def _mark(self, action: Action, operand: Mapping[str, str]) -> None:
        """Set the flag in the vector with the operand's number, or in a new one."""
        vectors = self._system.setdefault(action.vector, [])
        for index, vector in enumerate(vectors):
            if _vector(vector)[action.key] == operand.get(action.key):
                vectors[index] = {**_vector(vector), action.flag: "YES", **operand}
                return
        number = operand.get(action.key, str(len(vectors)))
        taken = {"NAME": f"snapshot-{number}", "TIME": str(self._details["stime"])}
        vectors.append(
            {**(taken if action.vector == "SNAPSHOT" else {}), action.key: number, action.flag: "YES", **operand}
        )

    def _add_system_attributes(self) -> None:
        self._system |= {"AUTOMATIC_REQUIREMENTS": [self._requirements()], "VMID": [str(self._vm_id)]}
        if not self._is_4:
            self._system["TM_MAD_SYSTEM"] = [self._transfer]
            disk = {"DISK_ID": str(len(self._system["DISK"])), "TARGET": "hda"}
            if "CONTEXT" in self._system:
                self._system["CONTEXT"] = [{**disk, **_vector(vector)} for vector in self._system["CONTEXT"]]

    def _requirements(self) -> str:
        if self._is_7:
            return "!(PIN_POLICY = PINNED)"
        local = "!(PUBLIC_CLOUD = YES)" + ("" if self._is_4 else " & !(PIN_POLICY = PINNED)")
        sections = self._details["template"].vectors("PUBLIC_CLOUD")
        clouds = [f"HYPERVISOR = {cloud}" for cloud in sorted({section.get("TYPE", "") for section in sections} - {""})]
        return f"{local} | (PUBLIC_CLOUD = YES & ({' | '.join(clouds)}))" if clouds else local

    # The text

    @property
    def text(self) -> str:
        """The whole document, without blanks between elements."""
        migration, details = self._elements.get("MIGR_HOST", ""), self._details
        deploy_id = "" if self._action == "DEPLOY" else details["deploy_id"]
        network = "<NET_DRV>dummy</NET_DRV>" if self._is_4 else ""
        next_network = _short("MIGR_NET_DRV", "dummy" if migration else "") if self._is_4 else ""
        others = "".join(_short(name, value) for name, value in self._elements.items() if name != "MIGR_HOST")
        return (
            f"<VMM_DRIVER_ACTION_DATA><HOST>{details['host']}</HOST>{network}{_short('MIGR_HOST', migration)}"
            f"{next_network}{_short('DEPLOY_ID', deploy_id)}{self._files()}{others}{self._vm()}"
            f"{_DATASTORE if self._is_7 else ''}</VMM_DRIVER_ACTION_DATA>"
        )

    def _files(self) -> str:
        directory, file = f"{self._place}/{self._datastore}/{self._vm_id}", f"deployment.{self._details['seq']}"
        is_deploy = self._action == "DEPLOY"
        transfer, disk = self._context_transfer(directory)
        return "".join(
            (
                _short("LOCAL_DEPLOYMENT_FILE", f"/var/lib/one/vms/{self._vm_id}/{file}" if is_deploy else ""),
                _short("REMOTE_DEPLOYMENT_FILE", f"{directory}/{file}" if is_deploy else ""),
                _short(
                    "CHECKPOINT_FILE",
                    f"{directory}/checkpoint" if self._action in ("SAVE", "RESTORE", "MIGRATE") else "",
                ),
                _short("TM_COMMAND", transfer),
                _short("TM_COMMAND_ROLLBACK", ""),
                _short("DISK_TARGET_PATH", disk),
            )
        )

    def _context_transfer(self, directory: str) -> tuple[str, str]:
        """The command that transfers CONTEXT, and its disk; only since 7.0 to a host in a cloud."""
        contexts = self._system.get("CONTEXT", [])
        if not contexts or not self._is_7 or self._action not in ("DEPLOY", "RESTORE"):
            return "", ""
        disk = f"{directory}/disk.{_vector(contexts[0])['DISK_ID']}"
        script = f"/var/lib/one/vms/{self._vm_id}/context.sh"
        return f"<![CDATA[CONTEXT dummy {script} {self._details['host']}:{disk} {self._vm_id} 0\n]]>", disk

    def _vm(self) -> str:
        details = self._details
        name = details.get("name") or details["template"].text("NAME", f"one-{self._vm_id}")
        state, lcm_state = details["state"], details["lcm_state"]
        previous = f"<PREV_STATE>{state}</PREV_STATE><PREV_LCM_STATE>{lcm_state}</PREV_LCM_STATE>"
        figures = "<MEMORY>0</MEMORY><CPU>0</CPU><NET_TX>0</NET_TX><NET_RX>0</NET_RX>"
        backups = f"<BACKUPS>{_short('BACKUP_CONFIG', _pairs(self._backup))}<BACKUP_IDS></BACKUP_IDS></BACKUPS>"
        return (
            f"<VM>{_OWNED.format(id=self._vm_id, name=name, group_use=0)}<LAST_POLL>0</LAST_POLL><STATE>{state}</STATE>"
            f"<LCM_STATE>{lcm_state}</LCM_STATE>{'' if self._is_4 else previous}<RESCHED>0</RESCHED>"
            f"<STIME>{details['stime']}</STIME><ETIME>0</ETIME><DEPLOY_ID>{details['deploy_id']}</DEPLOY_ID>"
            f"{figures if self._is_4 else '<MONITORING></MONITORING>'}"
            f"{'<SCHED_ACTIONS></SCHED_ACTIONS>' if self._is_7 else ''}<TEMPLATE>{_attributes(self._system)}</TEMPLATE>"
            f"<USER_TEMPLATE>{_attributes(self._user)}</USER_TEMPLATE>"
            f"<HISTORY_RECORDS><HISTORY>{self._history()}</HISTORY></HISTORY_RECORDS>"
            f"{backups if self._is_7 else ''}</VM>"
        )

    def _history(self) -> str:
        """The current record; a later one than the first has no prolog of its own."""
        seq = self._details["seq"]
        begun = self._details["stime"] + seq
        prolog = 0 if seq else begun
        return (
            f"<OID>{self._vm_id}</OID><SEQ>{seq}</SEQ><HOSTNAME>{self._details['host']}</HOSTNAME>"
            f"<HID>{self._details['host_id']}</HID><CID>{-1 if self._is_4 else 0}</CID><STIME>{begun}</STIME>"
            f"<ETIME>0</ETIME>{self._drivers()}<PSTIME>{prolog}</PSTIME><PETIME>{prolog}</PETIME>"
            f"<RSTIME>{begun}</RSTIME><RETIME>0</RETIME><ESTIME>0</ESTIME><EETIME>0</EETIME>{self._operation()}"
        )

    def _drivers(self) -> str:
        if self._is_4:
            return (
                f"<VMMMAD>vmm_provider</VMMMAD><VNMMAD>dummy</VNMMAD><TMMAD></TMMAD><DS_LOCATION>{self._place}"
                "</DS_LOCATION><DS_ID>-1</DS_ID>"
            )
        plan = "<PLAN_ID>-2</PLAN_ID><ACTION_ID>-1</ACTION_ID>" if self._is_7 else ""
        return (
            f"<VM_MAD><![CDATA[vmm_provider]]></VM_MAD><TM_MAD><![CDATA[{self._transfer}]]></TM_MAD>"
            f"<DS_ID>{self._datastore}</DS_ID>{plan}"
        )

    def _operation(self) -> str:
        number = _OPERATIONS.get((self._action, self._details["lcm_state"]), 0)
        if self._is_4:
            return f"<REASON>0</REASON><ACTION>{number - 24 if number > 26 else number}</ACTION>"
        user, request = (0, 8192) if number else (-1, -1)
        return f"<ACTION>{number}</ACTION><UID>{user}</UID><GID>{user}</GID><REQUEST_ID>{request}</REQUEST_ID>"


def _vector(value: str | Mapping[str, str]) -> dict[str, str]:
    """A vector's attributes; none of a plain value."""
    return dict(value) if isinstance(value, Mapping) else {}


def _short(name: str, content: str) -> str:
    return f"<{name}>{content}</{name}>" if content else f"<{name}/>"


def _attributes(values: _Values) -> str:
    """A template's attributes, sorted by name; those of one name in the order given."""
    return "".join(_attribute(name, value) for name in sorted(values) for value in values[name])


def _attribute(name: str, value: str | Mapping[str, str]) -> str:
    return f"<{name}>{f'<![CDATA[{value}]]>' if isinstance(value, str) else _pairs(value)}</{name}>"


def _pairs(vector: Mapping[str, str]) -> str:
    return "".join(_attribute(name, vector[name]) for name in sorted(vector))
