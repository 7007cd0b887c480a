"""Checks that VMs with images of `[images]` can be placed in the cloud of an OpenNebula 7.x.

7.x refuses the cloud's system datastore, which has the transfer driver `one_provider`, to a VM whose image lies in a
datastore of another driver without attributes for it (OpenNebula Datastore::get_tm_mad_targets). It then runs the
image's driver, as `clone.one_provider` where it has that (src/tm_mad/one_tm.rb). A front-end that was set up as release
0.1.0 says has the driver `dummy` instead, and attributes and files of that name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from one_provider_mad.cli.system_datastores import read_hosts, read_system_datastores, transfer_driver
from one_provider_mad.cli.transfer_files import DRIVER, files_beside
from one_provider_mad.domain import Value
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import release_of

_FIRST = (7, 0)
_TARGETS = ("CLONE_TARGET", "LN_TARGET", "DISK_TYPE")
_WHAT = "image datastore"


class ImageDatastore(Value, frozen=True, kw_only=True):
    """A datastore.

    Attributes:
        names: its name, and its number.
        tm_mad: its transfer driver.
        missing: attributes that it lacks for system datastores with the cloud's transfer driver.
        clusters: numbers of its clusters.
    """

    names: tuple[str, str]
    tm_mad: str
    missing: tuple[str, ...]
    clusters: frozenset[str] = frozenset()


def check_image_datastores(core: LocalCore, name: str, *, used: Collection[str], remotes: Path) -> list[CheckResult]:
    """Ask OpenNebula for the datastores that `[images]` of NAME names, and judge them; [] up to 6.10. Blocks.

    Args:
        core: the local OpenNebula.
        name: NAME of the configuration.
        used: names or numbers of the datastores.
        remotes: the folder of OpenNebula's drivers, with `tm` in it.

    Raises:
        MadError: OpenNebula did not answer.
    """
    if not used or release_of(core.call("one.system.version")) < _FIRST:
        return []
    pool = core.document("one.datastorepool.info")
    hosts = read_hosts(core.document("one.hostpool.info"), vm_mad=name)
    driver = transfer_driver(read_system_datastores(pool), hosts)
    datastores = read_datastores(pool, driver=driver)
    clusters = {each.cluster_id: each.cluster for each in hosts}
    return list(judge(datastores, used, name=name, remotes=remotes, driver=driver, clusters=clusters))


def read_datastores(pool: Element, *, driver: str) -> list[ImageDatastore]:
    """Return the datastores in the answer to one.datastorepool.info, and what they lack for a transfer driver."""
    targets = [f"{target}_{driver.upper()}" for target in _TARGETS]
    return [
        ImageDatastore(
            names=(text_of(each.find("NAME")), text_of(each.find("ID"))),
            tm_mad=text_of(each.find("TM_MAD")),
            missing=tuple(target for target in targets if not text_of(each.find(f"TEMPLATE/{target}"))),
            clusters=frozenset(text_of(number) for number in elements_at(each, "CLUSTERS/ID")),
        )
        for each in elements_at(pool, "DATASTORE")
    ]


def judge(
    datastores: Sequence[ImageDatastore],
    used: Collection[str],
    *,
    name: str,
    remotes: Path,
    driver: str,
    clusters: Mapping[str, str],
) -> Iterator[CheckResult]:
    """Yield results for each datastore that is used. Looks for files of the transfer driver where its folder is.

    Args:
        datastores: all datastores.
        used: names or numbers of those that are used.
        name: NAME of the configuration.
        remotes: the folder of OpenNebula's drivers.
        driver: the transfer driver of the cloud's system datastore.
        clusters: clusters of the cloud's hosts, name by number.
    """
    for wanted in sorted(used):
        found = next((each for each in datastores if wanted in each.names), None)
        if found is None:
            spelling = f"correct datastore in [images] of {name}.toml"
            yield CheckResult(what=_WHAT, is_well=False, found=f"OpenNebula has no {wanted}", remedy=spelling)
            continue
        yield _judged(found, wanted, name=name, remotes=remotes, driver=driver)
        if away := [cluster for number, cluster in clusters.items() if number not in found.clusters]:
            lacks = f"{wanted} is not in cluster {', '.join(away)}: VMs with its images are never placed there"
            remedy = _remedy(name, wanted)
            yield CheckResult(what=_WHAT, is_well=None, found=lacks, remedy=remedy)


def _judged(found: ImageDatastore, wanted: str, *, name: str, remotes: Path, driver: str) -> CheckResult:
    told = f"{wanted} with TM_MAD={found.tm_mad}"
    folder = remotes / "tm" / found.tm_mad
    if found.tm_mad == driver:
        return CheckResult(what=_WHAT, is_well=True, found=told)
    if found.missing:
        lacks = f"{told} lacks {', '.join(found.missing)}: OpenNebula refuses to deploy VMs with its images here"
        return CheckResult(what=_WHAT, is_well=False, found=lacks, remedy=_remedy(name, wanted))
    if folder.is_dir() and (files := _missing_files(remotes, found.tm_mad, driver)):
        lacks = f"{folder} has no {', '.join(files)}: VMs with images of {wanted} end in PROLOG_FAILURE here"
        return CheckResult(what=_WHAT, is_well=False, found=lacks, remedy=_remedy(name, wanted))
    return CheckResult(what=_WHAT, is_well=True, found=f"{told}, which copies nothing for the cloud")


def _missing_files(remotes: Path, tm_mad: str, driver: str) -> list[str]:
    """Return the names of files that are missing beside a transfer driver, or are not this release's."""
    if driver == DRIVER:
        return [each.path.name for each in files_beside(remotes, tm_mad) if not each.is_there()]
    clone = remotes / "tm" / tm_mad / f"clone.{driver}"
    return [] if clone.exists() else [clone.name]


def _remedy(name: str, datastore: str) -> str:
    return f"one-provider install {name} --datastore {datastore}"
