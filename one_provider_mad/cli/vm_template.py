"""Splits a user's template as oned does, into TEMPLATE and USER_TEMPLATE, and marks an action's operand in it."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.cli.verbs import ERAS, VERBS, Release, Verb
from one_provider_mad.domain import Template

Attributes = dict[str, list[str | Mapping[str, str]]]

SYSTEM_NAMES = frozenset(
    """
    AUTOMATIC_DS_REQUIREMENTS AUTOMATIC_NIC_REQUIREMENTS AUTOMATIC_REQUIREMENTS CLONING_TEMPLATE_ID CONTEXT CPU CPU_COST
    CPU_MODEL DISK DISK_COST EMULATOR FEATURES GRAPHICS HYPERV_OPTIONS
    IMPORTED INPUT MEMORY MEMORY_COST MEMORY_MAX MEMORY_RESIZE_MODE MEMORY_SLOTS NIC NIC_ALIAS NIC_DEFAULT NUMA_NODE
    OS PCI QEMU_GA_EXEC RAW SECURITY_GROUP_RULE SNAPSHOT SPICE_OPTIONS SUBMIT_ON_HOLD TEMPLATE_ID TM_MAD_SYSTEM
    TOPOLOGY TPM VCPU VCPU_MAX VIDEO VMGROUP VMID VROUTER_ID
    """.split()  # noqa: SIM905 - forty quoted words are harder to read
)
"""Attributes that oned moves to TEMPLATE (VirtualMachine::insert, parse_well_known_attributes).

The others stay in USER_TEMPLATE.
"""

_TOP_LEVEL = {"MIGR_HOST": "", "SECURITY_GROUP_ID": "0", "VIRTUAL_NETWORK_ID": "0"}
"""Operands that have an XML element of their own in the request, with their defaults."""


class PlacedTemplate:
    """A user's template, split as oned splits it, with the action's operand marked in it.

    Args:
        template: as the user wrote it.
        action: the action's word.
        release: the OpenNebula release to follow.
        vm_id: the VM's number.
        stime: creation time of the VM, seconds since the epoch.
        operand: keys of the part that the action is about.

    Attributes:
        system: VM/TEMPLATE.
        user: VM/USER_TEMPLATE.
        backup: VM/BACKUPS/BACKUP_CONFIG.
        top_level: those of MIGR_HOST, SECURITY_GROUP_ID and VIRTUAL_NETWORK_ID that the action has.

    Raises:
        ValueError: the action has no such operand.
    """

    def __init__(
        self,
        template: Template,
        *,
        action: str,
        release: Release,
        vm_id: int,
        stime: int,
        operand: Mapping[str, str],
    ) -> None:
        self.system: Attributes = {}
        self.user: Attributes = {}
        self.backup: dict[str, str] = {}
        self.top_level: dict[str, str] = {}
        self._action = action
        self._release = release
        self._stime = stime
        self._split(template)
        self._number("DISK", "DISK_ID")
        self._number("NIC", "NIC_ID")
        self._apply(operand)
        self._complete(template, vm_id)

    @property
    def context_disk(self) -> str:
        """Number of the disk with CONTEXT, "" without one."""
        contexts = [value for value in self.system.get("CONTEXT", []) if isinstance(value, Mapping)]
        return contexts[0].get("DISK_ID", "") if contexts else ""

    def _split(self, template: Template) -> None:
        for name, values in template.values.items():
            if name == "BACKUP_CONFIG" and self._release == "7.4":
                self.backup = dict(next(iter(template.vectors(name)), {}))
            elif name in SYSTEM_NAMES:
                self.system[name] = list(values)
            elif name != "NAME":
                self.user[name] = list(values)

    def _number(self, name: str, key: str) -> None:
        vectors = self.system.get(name, [])
        for index, vector in enumerate(vectors):
            if isinstance(vector, Mapping):
                vectors[index] = {key: str(index), **vector}

    # The action's operand

    def _apply(self, operand: Mapping[str, str]) -> None:
        verb = VERBS.get(self._action, Verb(lcm_state="RUNNING"))
        if verb.flag:
            self._mark(verb, operand)
        elif verb.operand == "BACKUP_CONFIG":
            self.backup.update(operand)
        elif verb.operand:
            self._extend(verb.operand, operand)
        else:
            self._set_fields(verb.fields, operand)

    def _mark(self, verb: Verb, operand: Mapping[str, str]) -> None:
        """Set the action's flag in the vector with the given number, or in a new vector."""
        vectors = self.system.setdefault(verb.operand, [])
        marked = {verb.flag: "YES", **operand}
        for index, vector in enumerate(vectors):
            if isinstance(vector, Mapping) and vector.get(verb.key) == operand.get(verb.key, ""):
                vectors[index] = {**vector, **marked}
                return
        marked.setdefault(verb.key, str(len(vectors)))
        if verb.operand == "SNAPSHOT":
            marked = {"NAME": f"snapshot-{marked[verb.key]}", "TIME": str(self._stime), **marked}
        vectors.append(marked)

    def _extend(self, name: str, operand: Mapping[str, str]) -> None:
        vectors = self.system.setdefault(name, [])
        first = vectors[0] if vectors else {}
        vectors[:1] = [{**(first if isinstance(first, Mapping) else {}), **operand}]

    def _set_fields(self, fields: tuple[str, ...], operand: Mapping[str, str]) -> None:
        for name in operand:
            if name not in fields:
                known = f"only the operand{'s' * (len(fields) > 1)} {', '.join(fields)}" if fields else "no operand"
                raise ValueError(f"{self._action} takes {known}, not {name}")
        for name in fields:
            if name in _TOP_LEVEL:
                self.top_level[name] = operand.get(name, _TOP_LEVEL[name])
            elif name in operand:
                self.system[name] = [operand[name]]

    # Attributes that oned adds

    def _complete(self, template: Template, vm_id: int) -> None:
        self.system["AUTOMATIC_REQUIREMENTS"] = [self._requirements(template)]
        self.system["VMID"] = [str(vm_id)]
        if self._release != "4.4":
            self.system["TM_MAD_SYSTEM"] = [ERAS[self._release].tm_mad]
            self._complete_context()

    def _complete_context(self) -> None:
        """Give CONTEXT its TARGET and DISK_ID, the number after the VM's own disks."""
        disk_id = str(len(self.system.get("DISK", [])))
        contexts = self.system.get("CONTEXT", [])
        for index, context in enumerate(contexts):
            if isinstance(context, Mapping):
                contexts[index] = {"DISK_ID": disk_id, "TARGET": "hda", **context}

    def _requirements(self, template: Template) -> str:
        """Return AUTOMATIC_REQUIREMENTS as oned sets it (VirtualMachine::automatic_requirements)."""
        if self._release == "7.4":
            return "!(PIN_POLICY = PINNED)"
        pinned = "" if self._release == "4.4" else " & !(PIN_POLICY = PINNED)"
        clouds = sorted({cloud["TYPE"] for cloud in template.vectors("PUBLIC_CLOUD") if cloud.get("TYPE")})
        either = " | ".join(f"HYPERVISOR = {cloud}" for cloud in clouds)
        return f"!(PUBLIC_CLOUD = YES){pinned}" + (f" | (PUBLIC_CLOUD = YES & ({either}))" if clouds else "")
