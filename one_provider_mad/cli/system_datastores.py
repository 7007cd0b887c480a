"""Checks that OpenNebula 7.x can end a cloud's VMs: their system datastore has the driver `one_provider`.

Up to 6.10 no transfer driver runs on a host that reports PUBLIC_CLOUD=YES. 7.x runs the transfer driver of the VM's
system datastore on every host (seen on 7.4.0: EPILOG_FAILURE, since ssh cannot reach a cloud). OpenNebula's own driver
`dummy`, which release 0.1.0 asked for, will do as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from one_provider_mad.cli.transfer_files import DRIVER, own_files
from one_provider_mad.domain import Value
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import release_of

_FIRST = (7, 0)
_SYSTEM_DS = "1"
"""DATASTORE/TYPE (OpenNebula include/Datastore.h, DatastoreType)."""

EARLIER = "dummy"
"""OpenNebula's own transfer driver that does nothing, and reports success for what it cannot do."""

_WHAT, _DRIVER = "system datastore", "transfer driver"
_ENDS = "every VM that is terminated ends in EPILOG_FAILURE"


class Datastore(Value, frozen=True, kw_only=True):
    """A system datastore.

    Attributes:
        name: its name.
        tm_mad: its transfer driver.
        clusters: numbers of its clusters.
    """

    name: str
    tm_mad: str
    clusters: frozenset[str]


class Host(Value, frozen=True, kw_only=True):
    """A host of the cloud.

    Attributes:
        name: its name.
        cluster_id: number of its cluster.
        cluster: name of its cluster.
    """

    name: str
    cluster_id: str
    cluster: str


def check_system_datastores(core: LocalCore, name: str, *, remotes: Path) -> list[CheckResult]:
    """Ask OpenNebula for its system datastores, and return results for the VMs of NAME; [] up to 6.10. Blocks.

    Args:
        core: the local OpenNebula.
        name: NAME of the configuration.
        remotes: the folder of OpenNebula's drivers, with `tm` in it.

    Raises:
        MadError: OpenNebula did not answer.
    """
    if release_of(core.call("one.system.version")) < _FIRST:
        return []
    datastores = read_system_datastores(core.document("one.datastorepool.info"))
    hosts = read_hosts(core.document("one.hostpool.info"), vm_mad=name)
    return [*judge(datastores, hosts, name=name), *check_files(datastores, name, remotes)]


def read_system_datastores(pool: Element) -> list[Datastore]:
    """Return the system datastores in the answer to one.datastorepool.info."""
    return [
        Datastore(
            name=text_of(each.find("NAME")),
            tm_mad=text_of(each.find("TM_MAD")),
            clusters=frozenset(text_of(number) for number in elements_at(each, "CLUSTERS/ID")),
        )
        for each in elements_at(pool, "DATASTORE")
        if text_of(each.find("TYPE")) == _SYSTEM_DS
    ]


def read_hosts(pool: Element, *, vm_mad: str) -> list[Host]:
    """Return the hosts in the answer to one.hostpool.info that the virtualization driver `vm_mad` serves."""
    return [
        Host(
            name=text_of(each.find("NAME")),
            cluster_id=text_of(each.find("CLUSTER_ID")),
            cluster=text_of(each.find("CLUSTER")),
        )
        for each in elements_at(pool, "HOST")
        if text_of(each.find("VM_MAD")) == vm_mad
    ]


def transfer_driver(datastores: Sequence[Datastore], hosts: Sequence[Host]) -> str:
    """Return the transfer driver of the cloud's system datastores: one_provider, or dummy where it has only that."""
    clusters = {each.cluster_id for each in hosts}
    drivers = {each.tm_mad for each in datastores if not clusters or clusters & each.clusters}
    return EARLIER if EARLIER in drivers and DRIVER not in drivers else DRIVER


def judge(datastores: Sequence[Datastore], hosts: Sequence[Host], *, name: str) -> Iterator[CheckResult]:
    """Yield results for each cluster with a host of the cloud, or one result if there is no host yet. Calls nothing."""
    usable = [each for each in datastores if each.tm_mad in (DRIVER, EARLIER)]
    remedy = f"create one as one-provider oned-conf {name} --release 7.4 prints; onevm recover --success ends such a VM"
    if not usable:
        yield CheckResult(what=_WHAT, is_well=False, found=f"none has TM_MAD={DRIVER}: {_ENDS}", remedy=remedy)
        return
    if not hosts:
        yield CheckResult(what=_WHAT, is_well=True, found=_told(usable))
    for cluster_id, cluster in dict.fromkeys((each.cluster_id, each.cluster) for each in hosts):
        inside = [each for each in datastores if cluster_id in each.clusters]
        fit = [each for each in inside if each in usable]
        if not fit:
            found = f"none in cluster {cluster} has TM_MAD={DRIVER}: {_ENDS}"
            yield CheckResult(what=_WHAT, is_well=False, found=found, remedy=remedy)
            continue
        note = "" if any(each.tm_mad == DRIVER for each in fit) else _NOTE
        yield CheckResult(what=_WHAT, is_well=True, found=f"{_told(fit)} in cluster {cluster}{note}")
        if others := [each for each in inside if each not in usable]:
            found = f"cluster {cluster} also has {_told(others)}: VMs placed there end in EPILOG_FAILURE"
            driver = DRIVER if any(each.tm_mad == DRIVER for each in fit) else EARLIER
            advice = f'SCHED_DS_REQUIREMENTS = "TM_MAD = \\"{driver}\\"" in each template, or a cluster of its own'
            yield CheckResult(what=_WHAT, is_well=None, found=found, remedy=advice)


_NOTE = f"; {DRIVER} would also refuse what makes empty images and snapshots (docs/upgrading.md)"


def check_files(datastores: Sequence[Datastore], name: str, remotes: Path) -> Iterator[CheckResult]:
    """Yield a result about the driver's own files, where a datastore needs them and OpenNebula's drivers are here."""
    if not (remotes / "tm").is_dir() or not any(each.tm_mad == DRIVER for each in datastores):
        return
    files = own_files(remotes)
    folder = files[0].path.parent
    wrong = [each.path.name for each in files if not each.is_there()]
    if not wrong:
        yield CheckResult(what=_DRIVER, is_well=True, found=f"{folder}, {len(files)} files")
        return
    found = f"{folder} lacks, or has in another release's form, {', '.join(wrong)}"
    yield CheckResult(what=_DRIVER, is_well=False, found=found, remedy=f"one-provider install {name}")


def _told(datastores: Sequence[Datastore]) -> str:
    return ", ".join(f"{each.name} with TM_MAD={each.tm_mad}" for each in datastores)
