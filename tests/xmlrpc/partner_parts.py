"""Disks, interfaces, snapshots, size and configuration of the VMs of the tests' OpenNebula."""

# ruff: noqa: FBT001 - the API's booleans have places, not names

from __future__ import annotations

from collections.abc import Callable

from tests.xmlrpc.partner_api import ACTION, ALLOCATE, AUTHORIZATION, Api, ApiError, User, parsed
from tests.xmlrpc.partner_vms import ACTIVE, POWEROFF, RUNNING, Vm, attributes_of


class Parts(Api):
    """Methods that change a part of a VM, in the states in which OpenNebula does."""

    def _change(
        self,
        vm: Vm,
        what: str,
        lcm_state: int,
        effect: Callable[[], None],
        *,
        resting: tuple[int, ...] = (),
        part: tuple[str, int] | None = None,
    ) -> None:
        """Let the change take its time, in RUNNING or one of the resting states, if the VM has that part."""
        is_ready = vm.state in resting or (vm.state, vm.lcm_state) == (ACTIVE, RUNNING)
        if part and is_ready and all(each[f"{part[0]}_ID"] != str(part[1]) for each in vm.sections(part[0])):
            raise ApiError(ACTION, f"Could not {what} VM {vm.number}, {part[0]} {part[1]} does not exist.")
        if vm.state == ACTIVE and vm.lcm_state == RUNNING and lcm_state:
            vm.go((ACTIVE, lcm_state), (ACTIVE, RUNNING), delay=self.delay, effect=effect)
        elif vm.state in resting:
            effect()
        else:
            raise ApiError(ACTION, f"Could not {what} VM {vm.number}, wrong state {vm.word}.")

    def do_vm_snapshotcreate(self, user: User, number: int, name: str) -> int:
        vm = self.vm(user, number, "MANAGE")
        taken = 1 + max((int(each["SNAPSHOT_ID"]) for each in vm.sections("SNAPSHOT")), default=-1)
        snapshot = {"SNAPSHOT_ID": str(taken), "NAME": name}
        self._change(
            vm, "create a new snapshot for", 24, lambda: vm.template.setdefault("SNAPSHOT", []).append(snapshot)
        )
        return taken

    def do_vm_snapshotrevert(self, user: User, number: int, snapshot: int) -> int:
        self._change(self.vm(user, number, "MANAGE"), "revert", 24, lambda: None)
        return number

    def do_vm_snapshotdelete(self, user: User, number: int, snapshot: int) -> int:
        vm = self.vm(user, number, "MANAGE")
        part = ("SNAPSHOT", snapshot)
        self._change(vm, "delete a snapshot of", 24, lambda: _remove(vm, "SNAPSHOT", str(snapshot)), part=part)
        return number

    def do_vm_attach(self, user: User, number: int, text: str) -> int:
        return self._attach(self.vm(user, number, "MANAGE"), "DISK", 17, text)

    def do_vm_attachnic(self, user: User, number: int, text: str) -> int:
        if user.gid != 0 and any("MAC" in section for section in parsed(text).vectors("NIC")):
            text = "VM Template includes a restricted attribute NIC/MAC."
            raise ApiError(AUTHORIZATION, f"User [{user.number}] : {text}", number)
        return self._attach(self.vm(user, number, "MANAGE"), "NIC", 25, text)

    def _attach(self, vm: Vm, name: str, lcm_state: int, text: str) -> int:
        [section] = parsed(text).vectors(name)
        if section.get("NETWORK") == "nowhere":
            raise ApiError(ALLOCATE, "User 0 does not own a network with name: nowhere . Set NETWORK_UNAME")
        used = [int(each[f"{name}_ID"]) for each in vm.sections(name)]
        part = {**section, f"{name}_ID": str(1 + max(used, default=0))}

        def add() -> None:
            if section.get("TARGET") == "broken":
                vm.user_template["ERROR"] = ["Sun Nov 22 10:00:00 2026: ATTACHDISK: no such target"]
            else:
                vm.template.setdefault(name, []).append(part)

        self._change(vm, "attach a new device to", lcm_state, add, resting=(POWEROFF,))
        return vm.number

    def do_vm_detach(self, user: User, number: int, disk: int) -> int:
        vm = self.vm(user, number, "MANAGE")
        self._change(
            vm, "detach disk from", 17, lambda: _remove(vm, "DISK", str(disk)), resting=(POWEROFF,), part=("DISK", disk)
        )
        return number

    def do_vm_detachnic(self, user: User, number: int, nic: int) -> int:
        vm = self.vm(user, number, "MANAGE")
        self._change(
            vm, "detach NIC from", 25, lambda: _remove(vm, "NIC", str(nic)), resting=(POWEROFF,), part=("NIC", nic)
        )
        return number

    def do_vm_diskresize(self, user: User, number: int, disk: int, size: str) -> int:
        vm = self.vm(user, number, "MANAGE")

        def grow() -> None:
            vm.template["DISK"] = [
                {**each, "SIZE": size} if each["DISK_ID"] == str(disk) else each for each in vm.sections("DISK")
            ]

        self._change(vm, "resize a disk of", 62, grow, resting=(POWEROFF,))
        return number

    def do_vm_disksnapshotcreate(self, user: User, number: int, disk: int, name: str) -> int:
        vm = self.vm(user, number, "MANAGE")
        taken = vm.disk_snapshots.setdefault(str(disk), [])
        snapshot = len(taken)
        self._change(vm, "create a disk snapshot of", 57, lambda: taken.append(snapshot), resting=(POWEROFF,))
        return snapshot

    def do_vm_disksnapshotrevert(self, user: User, number: int, disk: int, snapshot: int) -> int:
        self._change(self.vm(user, number, "MANAGE"), "revert a disk of", 0, lambda: None, resting=(POWEROFF,))
        return number

    def do_vm_resize(self, user: User, number: int, text: str, is_enforced: bool) -> int:
        vm = self.vm(user, number, "MANAGE")
        wanted = attributes_of(parsed(text))
        if any(float(str(value)) > 100_000 for values in wanted.values() for value in values):
            raise ApiError(ACTION, "Host 0 does not have enough capacity.")
        self._change(vm, "resize", 66 * self.is_7, lambda: vm.template.update(wanted), resting=(POWEROFF,))
        return number

    def do_vm_updateconf(self, user: User, number: int, text: str, is_merged: int = 0) -> int:
        vm = self.vm(user, number, "MANAGE")
        new = attributes_of(parsed(text))
        if not is_merged:
            for name in ("OS", "FEATURES", "INPUT", "GRAPHICS", "RAW"):
                vm.template.pop(name, None)
        self._change(
            vm, "update configuration of", 17 * self.is_7, lambda: vm.template.update(new), resting=(POWEROFF,)
        )
        return number


def _remove(vm: Vm, name: str, number: str) -> None:
    vm.template[name] = [each for each in vm.sections(name) if each[f"{name}_ID"] != number]
