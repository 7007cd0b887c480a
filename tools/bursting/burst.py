"""One burst: VMs are created at once, watched until they run, counted in the cloud, and removed."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from one_provider_mad.cli.instances import collect
from one_provider_mad.errors import MadError, SettingsError
from tools.bursting.core import Core, patiently
from tools.bursting.hosts import MONITORED, Host
from tools.bursting.result import Seen
from tools.bursting.vms import RUNNING, Vm

PREFIX = "one-provider-burst"
"""Names of all that this tool makes begin so; what a killed run leaves is found by it."""

_PAUSE = 0.5
_REMOVAL = 180.0
"""Seconds after which VMs that do not end are given up."""

Tell = Callable[[str], None]


def cloud_hosts(hosts: Sequence[Host], name: str) -> list[Host]:
    """Return the hosts of NAME's drivers. Raises SettingsError if there is none that is monitored."""
    found = [host for host in hosts if host.vm_mad == name]
    if not found:
        raise SettingsError(
            f"no host has the driver {name}: one-provider oned-conf {name} prints the command that makes one"
        )
    if not any(host.state == MONITORED for host in found):
        raise SettingsError(
            f"host {found[0].name} is not monitored, or is disabled: onehost show {found[0].number} says why"
        )
    return found


def home_hosts(hosts: Sequence[Host], names: Sequence[str], name: str) -> list[Host]:
    """Return the hosts at home: these, or all that are no cloud's. Raises SettingsError for an unknown one."""
    known = {host.name: host for host in hosts}
    unknown = [each for each in names if each not in known]
    if unknown:
        raise SettingsError(f"there is no host {unknown[0]}; onehost list shows all")
    if names:
        return [known[each] for each in names]
    return [host for host in hosts if host.vm_mad != name and not host.is_cloud and host.state == MONITORED]


def watch(core: Core, prefix: str, *, count: int, began: float, seconds: float, tell: Tell) -> list[Seen]:
    """Look at the VMs until all are RUNNING, or until so many seconds have passed since the beginning."""
    running: dict[int, float] = {}
    told = 0
    while True:
        vms = core.vms(prefix)
        now = time.monotonic() - began
        for vm in vms:
            if vm.state == RUNNING:
                running.setdefault(vm.number, now)
        if len(running) == count or now > seconds:
            return [Seen(vm=vm, running_after=running.get(vm.number)) for vm in vms]
        if len(running) - told >= max(count // 10, 1):
            told = len(running)
            tell(f"{told} of {count} VMs are RUNNING after {now:.0f} s")
        time.sleep(_PAUSE)


def instances_of(name: str, vms: Sequence[Vm]) -> Mapping[int, int]:
    """Return how many instances the cloud of NAME has for each VM, by its id. Raises MadError."""
    numbers = {vm.number for vm in vms}
    found = patiently(lambda: collect(name, os.environ, is_all=False))
    return Counter(each["vm_id"] for each in found if each["vm_id"] in numbers)


def free_one(core: Core, seen: Sequence[Seen], home: Sequence[str]) -> bool:
    """Terminate one of the VMs at home, and wait until it has ended. Returns False if there is none."""
    at_home = [each.vm for each in seen if each.vm.host in home and each.running_after is not None]
    if not at_home:
        return False
    end(core, at_home[0].name)
    return True


def end(core: Core, prefix: str) -> list[Vm]:
    """Terminate the VMs whose names begin so, and wait until they have ended; return those that have not."""
    began = time.monotonic()
    while vms := core.vms(prefix):
        passed = time.monotonic() - began
        if passed > _REMOVAL:
            return vms
        for vm in vms:
            core.terminate(vm) if passed < _REMOVAL / 2 else core.delete(vm)
        time.sleep(1)
    return []


def remove_all(core: Core, name: str, prefix: str) -> list[str]:
    """Remove all that was made under a prefix; return a sentence for each thing that is left."""
    numbers = core.vms(prefix)
    left = [f"VM {vm.number} is left, {vm.state_name}: onevm recover --delete {vm.number}" for vm in end(core, prefix)]
    for template in core.templates(prefix):
        core.remove_template(template)
    for host in core.hosts():
        if host.name.startswith(prefix):
            core.remove_host(host.number)
    for store in core.datastores(prefix):
        core.remove_datastore(store)
    left += [f"VM template {each} is left" for each in core.templates(prefix)]
    left += [f"host {host.name} is left" for host in core.hosts() if host.name.startswith(prefix)]
    left += [f"datastore {each} is left" for each in core.datastores(prefix)]
    return left + _left_in_cloud(name, numbers)


def _left_in_cloud(name: str, vms: Sequence[Vm]) -> list[str]:
    deadline = time.monotonic() + _REMOVAL
    try:
        while left := instances_of(name, vms):
            if time.monotonic() > deadline:
                return [f"{sum(left.values())} instances are left in the cloud: one-provider orphans {name} lists them"]
            time.sleep(1)
    except MadError as error:
        return [f"whether instances are left is not known, see one-provider instances {name}: {error}"]
    return []
