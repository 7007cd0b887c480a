"""Checks that VMs start at home as long as home has room: its hosts, its datastores, and who comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping

from one_provider_mad.errors import MadError
from one_provider_mad.front_end.home import SYSTEM, Home, home_hosts, home_of, is_cloud
from one_provider_mad.front_end.pools import FrontEnd, Host, read_front_end
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.settings import Places, known_names
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import Release, release_of

_FIRST_WITH_TRANSFERS = (7, 0)
"""First release that runs transfer drivers for a cloud's host, so that the cloud has a system datastore of its own."""

_NOTHING_COPIED = ("dummy", "one_provider")
"""Transfer drivers of a cloud's system datastore."""

_HOME = "home"
_ORDER = "home first"
_SHARED = "system datastore"


async def home_results(name: str, environ: Mapping[str, str], places: Places) -> list[CheckResult]:
    """Ask the local OpenNebula for hosts, datastores and clusters, and return what is found of home."""
    try:
        release, front_end = await asyncio.to_thread(_read, LocalCore(environ))
    except MadError as error:
        return [CheckResult(what=_HOME, is_well=None, found=str(error), remedy="run this as oneadmin")]
    return list(judge(front_end, vm_mad=name, vm_mads={name, *known_names(places)}, release=release))


def _read(core: LocalCore) -> tuple[Release, FrontEnd]:
    return release_of(core.call("one.system.version")), read_front_end(core)


def judge(front_end: FrontEnd, *, vm_mad: str, vm_mads: Collection[str], release: Release) -> Iterator[CheckResult]:
    """Yield results for home, for the order of hosts, and for system datastores of the cloud. Calls nothing.

    Args:
        front_end: OpenNebula's hosts, datastores and clusters.
        vm_mad: the virtualization driver of the checked cloud.
        vm_mads: those of all clouds here.
        release: OpenNebula's.
    """
    home, hosts = home_of(front_end, vm_mads=vm_mads), home_hosts(front_end, vm_mads=vm_mads)
    yield from _of_home(home)
    clouds = [each for each in front_end.hosts if each.vm_mad == vm_mad]
    if clouds and hosts:
        yield _order(front_end, clouds, hosts)
    if release >= _FIRST_WITH_TRANSFERS:
        both = [each for each in front_end.hosts if is_cloud(each, vm_mads=vm_mads)]
        yield from _strayed(front_end, both, hosts)


def _of_home(home: Home) -> Iterator[CheckResult]:
    if not home.hosts:
        yield CheckResult(what=_HOME, is_well=True, found="no host at home: every VM starts in a cloud")
        return
    lost = home.room - home.usable
    if home.is_at_fault:
        for fault in home.faults:
            yield CheckResult(what=_HOME, is_well=None, found=f"{home.beginning}: {fault.found}", remedy=fault.remedy)
        return
    for fault in home.faults:
        found = f"{fault.found}, so that room for {lost} of {home.room} VMs is not used"
        yield CheckResult(what=_HOME, is_well=None, found=found, remedy=fault.remedy)
    yield CheckResult(what=_HOME, is_well=True, found=_room(home))


def _room(home: Home) -> str:
    hosts = f"{home.hosts} {'host' if home.hosts == 1 else 'hosts'}"
    if not home.usable:
        return f"{hosts}, without room for a further VM of {home.size}"
    return f"{hosts} with room for {home.usable} more VMs of {home.size}"


def _order(front_end: FrontEnd, clouds: Collection[Host], hosts: Collection[Host]) -> CheckResult:
    """Return whether schedulers that rank by PRIORITY prefer home."""
    cloud, host = max(clouds, key=front_end.priority), min(hosts, key=front_end.priority)
    theirs, ours = front_end.priority(cloud), front_end.priority(host)
    if theirs < ours:
        found = f"PRIORITY of {cloud.name} is {theirs:g}, at home {ours:g} or more"
        return CheckResult(what=_ORDER, is_well=True, found=found)
    return CheckResult(
        what=_ORDER,
        is_well=None,
        found=f"PRIORITY of {cloud.name} is {theirs:g}, not less than {ours:g} of {host.name}: VMs start in the cloud"
        " although home has room",
        remedy=f"write PRIORITY = {min(-1.0, ours - 1):g} into the host's template: onehost update {cloud.name}",
    )


def _strayed(front_end: FrontEnd, clouds: Collection[Host], hosts: Collection[Host]) -> Iterator[CheckResult]:
    """Yield a fault for each system datastore of a cloud in a cluster of home."""
    theirs = {each.cluster_id for each in clouds}
    for cluster_id in sorted({each.cluster_id for each in hosts} - theirs):
        cluster = front_end.cluster_name(cluster_id)
        for each in front_end.datastores_in(cluster_id, SYSTEM):
            if each.tm_mad in _NOTHING_COPIED and any(each.is_in(number) for number in theirs):
                found = (
                    f"{each.name}, which the cloud uses, is in cluster {cluster} of home, too: VMs placed in it there"
                    " have no disks, or are never deployed"
                )
                remedy = f"onecluster deldatastore {cluster} {each.datastore_id}"
                yield CheckResult(what=_SHARED, is_well=False, found=found, remedy=remedy)
