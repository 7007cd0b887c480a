"""Checks that VMs with images of `[images]` can be placed in the cloud of an OpenNebula 7.x.

7.x refuses the cloud's system datastore, which has the transfer driver `dummy`, to a VM whose image lies in a datastore
of another driver without attributes for it (OpenNebula Datastore::get_tm_mad_targets). It then runs the image's driver,
as `clone.dummy` where it has that (src/tm_mad/one_tm.rb).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from one_provider_mad.domain import Value
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import release_of

_FIRST = (7, 0)
_NOTHING = "dummy"
_TARGETS = ("CLONE_TARGET_DUMMY", "LN_TARGET_DUMMY", "DISK_TYPE_DUMMY")
_WHAT = "image datastore"


class ImageDatastore(Value, frozen=True, kw_only=True):
    """A datastore.

    Attributes:
        names: its name, and its number.
        tm_mad: its transfer driver.
        missing: attributes that it lacks for system datastores with the driver `dummy`.
    """

    names: tuple[str, str]
    tm_mad: str
    missing: tuple[str, ...]


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
    return list(judge(read_datastores(core.document("one.datastorepool.info")), used, name=name, remotes=remotes))


def read_datastores(pool: Element) -> list[ImageDatastore]:
    """Return the datastores in the answer to one.datastorepool.info."""
    return [
        ImageDatastore(
            names=(text_of(each.find("NAME")), text_of(each.find("ID"))),
            tm_mad=text_of(each.find("TM_MAD")),
            missing=tuple(target for target in _TARGETS if not text_of(each.find(f"TEMPLATE/{target}"))),
        )
        for each in elements_at(pool, "DATASTORE")
    ]


def judge(
    datastores: Sequence[ImageDatastore], used: Collection[str], *, name: str, remotes: Path
) -> Iterator[CheckResult]:
    """Yield a result for each datastore that is used. Looks for links of the transfer driver where its folder is."""
    remedy = f"one-provider oned-conf {name} --release 7.4 prints what it needs"
    for wanted in sorted(used):
        found = next((each for each in datastores if wanted in each.names), None)
        if found is None:
            spelling = f"correct datastore in [images] of {name}.toml"
            yield CheckResult(what=_WHAT, is_well=False, found=f"OpenNebula has no {wanted}", remedy=spelling)
            continue
        told = f"{wanted} with TM_MAD={found.tm_mad}"
        driver = remotes / "tm" / found.tm_mad
        if found.tm_mad == _NOTHING:
            yield CheckResult(what=_WHAT, is_well=True, found=told)
        elif found.missing:
            lacks = f"{told} lacks {', '.join(found.missing)}: OpenNebula refuses to deploy VMs with its images here"
            yield CheckResult(what=_WHAT, is_well=False, found=lacks, remedy=remedy)
        elif driver.is_dir() and not (driver / "clone.dummy").exists():
            lacks = f"{driver} has no clone.dummy: VMs with images of {wanted} end in PROLOG_FAILURE here"
            yield CheckResult(what=_WHAT, is_well=False, found=lacks, remedy=remedy)
        else:
            yield CheckResult(what=_WHAT, is_well=True, found=f"{told}, which copies nothing for the cloud")
