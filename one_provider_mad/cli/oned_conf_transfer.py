"""The steps of `one-provider oned-conf` for the transfer driver `one_provider`, which 7.x runs for a cloud's VMs.

7.x runs transfer drivers for every host. one_tm and one_datastore know only the drivers in their ARGUMENTS, and the
scheduler leaves out a system datastore that was never monitored (src/tm_mad/one_tm.rb, src/datastore_mad/
one_datastore.rb, src/schedm/SchedulerManagerDriver.cc).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from one_provider_mad.cli.oned_conf_block import Block, vector
from one_provider_mad.front_end.files import ONED, FrontEnd

TRANSFER = "one_provider"
"""The transfer driver."""

_TM_MAD = {
    "EXECUTABLE": "one_tm",
    "ARGUMENTS": "-t 15 -d dummy,lvm,shared,fs_lvm,fs_lvm_ssh,qcow2,ssh,local,ceph,dev,iscsi_libvirt,netapp,purefa",
}
_DATASTORE_MAD = {
    "EXECUTABLE": "one_datastore",
    "ARGUMENTS": "-t 15 -d dummy,fs,lvm,ceph,dev,iscsi_libvirt,restic,rsync,netapp,purefa,virtiofs,interactive"
    " -s dummy,lvm,shared,ssh,local,ceph,fs_lvm,fs_lvm_ssh,qcow2,netapp,purefa",
}
"""The sections as 7.4 ships them."""


def _list(short: str, long: str) -> re.Pattern[str]:
    """Return the pattern of an option with a list, as Ruby's GetoptLong reads it."""
    return re.compile(rf"((?<!\S)(?:-{short}[ \t]*|--{long}(?:=|[ \t]+)))([^\s-]\S*)")


_OF_TM, _OF_DATASTORE = _list("d", "tm-types"), _list("s", "system-ds-types")

_CONF = {
    "NAME": f'"{TRANSFER}"',
    "LN_TARGET": '"NONE"',
    "CLONE_TARGET": '"SYSTEM"',
    "SHARED": '"YES"',
    "DS_MIGRATE": '"NO"',
    "DS_LIVE_MIGRATE": '"NO"',
    "DS_MIGRATE_SNAP": '"NO"',
}


def transfer_steps(front_end: FrontEnd) -> Iterator[Block]:
    """Yield the steps for oned.conf; those that stand there already are left out."""
    missing = transfer_settings_missing_in(front_end)
    if "TM_MAD" in missing:
        yield Block(
            what="The transfer driver of the cloud's VMs, which copies nothing; the rest of the list is as it was",
            where=ONED,
            text=_with_transfer("TM_MAD", front_end, _TM_MAD, _OF_TM),
            is_once=True,
        )
    if "DATASTORE_MAD" in missing:
        yield Block(
            what="With it in the list after -s, OpenNebula monitors the cloud's system datastore: the scheduler leaves"
            " out one that was never monitored",
            where=ONED,
            text=_with_transfer("DATASTORE_MAD", front_end, _DATASTORE_MAD, _OF_DATASTORE),
            is_once=True,
        )
    if "TM_MAD_CONF" in missing:
        yield Block(
            what="Without this section OpenNebula refuses to create a datastore with that driver",
            where=ONED,
            text=vector("TM_MAD_CONF", _CONF),
            is_once=True,
        )


def transfer_settings_missing_in(front_end: FrontEnd) -> list[str]:
    """Return the sections of oned.conf in which a front-end of 7.x lacks the transfer driver."""
    oned = front_end.of(ONED)
    known = any(each.get("NAME") == TRANSFER for each in oned.vectors("TM_MAD_CONF"))
    lists = {"TM_MAD": (_TM_MAD, _OF_TM), "DATASTORE_MAD": (_DATASTORE_MAD, _OF_DATASTORE)}
    missing = [
        name
        for name, (shipped, pattern) in lists.items()
        if not _is_listed(_section(oned.vectors(name), shipped), pattern)
    ]
    return missing if known else [*missing, "TM_MAD_CONF"]


def _section(found: tuple[Mapping[str, str], ...], shipped: Mapping[str, str]) -> Mapping[str, str]:
    return found[0] if found else shipped


def _is_listed(section: Mapping[str, str], pattern: re.Pattern[str]) -> bool:
    """Return True if the list has the driver, or if there is no list: then each driver in its folder is known."""
    match = pattern.search(section.get("ARGUMENTS", ""))
    return match is None or TRANSFER in match[2].split(",")


def _with_transfer(name: str, front_end: FrontEnd, shipped: Mapping[str, str], pattern: re.Pattern[str]) -> str:
    section = dict(_section(front_end.of(ONED).vectors(name), shipped))
    section["ARGUMENTS"] = pattern.sub(rf"\1\2,{TRANSFER}", section.get("ARGUMENTS", ""), count=1)
    quoted = {key: '"' + value.replace('"', '\\"') + '"' for key, value in section.items()}
    return vector(name, quoted)


def image_steps(name: str) -> Iterator[Block]:
    """Yield the step for 7.x with which VMs with images and networks of home can be placed in the cloud."""
    yield Block(
        what="For templates that run at home and in the cloud alike: each datastore of their images and each of their"
        " networks must be in the cloud's cluster before a VM is created, whose requirements are fixed then. The first"
        " command adds the datastore to it, and makes the datastore's own transfer driver copy nothing for the cloud,"
        f" and all as before at home; one-provider install {name} --datastore DATASTORE --remove undoes it",
        text=f"one-provider install {name} --datastore DATASTORE\nonecluster addvnet {name} NETWORK",
        is_optional=True,
    )
