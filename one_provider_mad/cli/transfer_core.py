"""What OpenNebula knows of the transfer driver `one_provider`: datastores, their attributes, and VMs that need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from one_provider_mad.cli.transfer_files import DRIVER
from one_provider_mad.domain import Template, Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.front_end.template_edits import text_of_template
from one_provider_mad.protocol.payload import read_template
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.template_text.exact_writer import UnwritableError

ATTRIBUTES: Mapping[str, str] = {
    f"CLONE_TARGET_{DRIVER.upper()}": "SYSTEM",
    f"LN_TARGET_{DRIVER.upper()}": "SYSTEM",
    f"DISK_TYPE_{DRIVER.upper()}": "FILE",
}
"""Attributes with which a datastore's images can be used in a system datastore with this driver
(Datastore::get_tm_mad_targets). TM_MAD_SYSTEM is not among them: oned reads it nowhere, and sets it itself."""

IMAGES, SYSTEM = 0, 1
"""DATASTORE/TYPE (include/Datastore.h, DatastoreType)."""


class Store(Value, frozen=True, kw_only=True):
    """A datastore.

    Attributes:
        number: its number.
        name: its name.
        kind: IMAGES, SYSTEM, or another number.
        tm_mad: its transfer driver.
        clusters: numbers of its clusters.
        template: its attributes, as OpenNebula has them.
    """

    number: int
    name: str
    kind: int
    tm_mad: str
    clusters: frozenset[int]
    template: Template

    def missing(self) -> dict[str, str]:
        """Return the attributes that it lacks for this driver."""
        return {name: value for name, value in ATTRIBUTES.items() if self.template.text(name) != value}

    def has_attributes(self) -> bool:
        """True if it has any attribute for this driver."""
        return any(name in self.template.values for name in ATTRIBUTES)

    def text_without(self) -> str:
        """Return its template without this driver's attributes. Raises SettingsError."""
        kept = {name: values for name, values in self.template.values.items() if name not in ATTRIBUTES}
        try:
            return text_of_template(Template(values=kept))
        except UnwritableError as error:
            names = ", ".join(ATTRIBUTES)
            raise SettingsError(f"datastore {self.name}: {error}; remove {names} with onedatastore update") from error


def read_stores(pool: Element) -> list[Store]:
    """Return the datastores in the answer to one.datastorepool.info."""
    return [
        Store(
            number=_number(each, "ID"),
            name=text_of(each.find("NAME")),
            kind=_number(each, "TYPE"),
            tm_mad=text_of(each.find("TM_MAD")),
            clusters=frozenset(int(text_of(number)) for number in elements_at(each, "CLUSTERS/ID")),
            template=read_template(each, "TEMPLATE"),
        )
        for each in elements_at(pool, "DATASTORE")
    ]


def clusters_of(name: str, hosts: Element, clusters: Element) -> dict[int, str]:
    """Return the clusters of NAME's hosts, name by number; where it has no host, the cluster that is named NAME.

    Args:
        name: NAME of the drivers.
        hosts: the answer to one.hostpool.info.
        clusters: the answer to one.clusterpool.info.
    """
    named = {_number(each, "ID"): text_of(each.find("NAME")) for each in elements_at(clusters, "CLUSTER")}
    ours = [each for each in elements_at(hosts, "HOST") if text_of(each.find("VM_MAD")) == name]
    used = {_number(each, "CLUSTER_ID") for each in ours}
    return {number: told for number, told in named.items() if (number in used if used else told == name)}


def vms_in_clouds(vms: Element, stores: Iterable[Store]) -> Iterator[tuple[int, set[int]]]:
    """Yield each VM whose last system datastore has this driver, and the datastores of its disks that need it.

    Args:
        vms: the answer to one.vmpool.infoextended.
        stores: all datastores.
    """
    homes = {each.number for each in stores if each.kind == SYSTEM and each.tm_mad != DRIVER}
    for vm in elements_at(vms, "VM"):
        histories = elements_at(vm, "HISTORY_RECORDS/HISTORY")
        places = [_number(each, "DS_ID") for each in histories]
        if places and places[-1] not in homes:
            disks = elements_at(vm, "TEMPLATE/DISK")
            yield (
                _number(vm, "ID"),
                {_number(disk, "DATASTORE_ID") for disk in disks if text_of(disk.find("TM_MAD_SYSTEM")) == DRIVER},
            )


def _number(element: Element, name: str) -> int:
    text = text_of(element.find(name))
    return int(text) if text.lstrip("-").isdigit() else -1
