"""Completes the DISKs and NICs of a template from OpenNebula's images and networks, as the core does. Pure.

Source: OpenNebula src/image/Image.cc (disk_attribute), src/vnm/VirtualNetwork.cc (nic_attribute).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from one_provider_mad.domain import Template, Value
from one_provider_mad.safe_xml import Element, elements_at, text_of

_CDROM = "1"
"""TYPE of images for CD drives (include/Image.h, ImageType)."""

_NO_CLUSTER = frozenset({"", "-1"})
"""CLUSTER_ID of what is in no cluster (4.14 include/ClusterPool.h, NONE_CLUSTER_ID)."""

_INHERITED = "PROVIDER_"
"""Beginning of the attributes of images and networks that DISK and NIC get (INHERIT_IMAGE_ATTR, INHERIT_VNET_ATTR)."""


class Pools(Value, frozen=True, kw_only=True):
    """What OpenNebula has, as its API shows it.

    Attributes:
        images: the answer to one.imagepool.info.
        networks: the answer to one.vnpool.info.
        datastores: the answer to one.datastorepool.info.
    """

    images: Element
    networks: Element
    datastores: Element


class Used(Value, frozen=True, kw_only=True):
    """A datastore or network that a VM of the template uses.

    Attributes:
        what: the device and what it uses, for messages.
        clusters: numbers of its clusters.
    """

    what: str
    clusters: frozenset[str]


def completed(template: Template, pools: Pools) -> Template:
    """Return the template with the attributes that the core adds to its DISKs and NICs."""
    return _with(_with(template, "DISK", lambda disk: _disk(disk, pools)), "NIC", lambda nic: _nic(nic, pools))


def used_of(template: Template, pools: Pools) -> Iterator[Used]:
    """Yield the datastores and networks that a completed template uses; all must share a cluster with a VM's host."""
    stores = {text_of(each.find("ID")): each for each in elements_at(pools.datastores, "DATASTORE")}
    for number, disk in enumerate(template.vectors("DISK")):
        yield from _used(stores.get(disk.get("DATASTORE_ID", "")), "datastore {name} of disk {number}", number)
    for number, nic in enumerate(template.vectors("NIC")):
        if nic.get("NETWORK_MODE", "").upper() not in ("AUTO", "DUMMY"):
            network = _found(elements_at(pools.networks, "VNET"), nic, "NETWORK")
            yield from _used(network, "network {name} of NIC {number}", number)


def _used(owner: Element | None, what: str, number: int) -> Iterator[Used]:
    clusters = None if owner is None else _clusters(owner)
    if owner is not None and clusters is not None:
        yield Used(what=what.format(name=text_of(owner.find("NAME")), number=number), clusters=clusters)


def _with(template: Template, name: str, complete: Callable[[Mapping[str, str]], Mapping[str, str]]) -> Template:
    if name not in template.values:
        return template
    values = tuple(each if isinstance(each, str) else complete(each) for each in template.values[name])
    return Template(values={**template.values, name: values})


def _disk(disk: Mapping[str, str], pools: Pools) -> Mapping[str, str]:
    image = _found(elements_at(pools.images, "IMAGE"), disk, "IMAGE")
    if image is None:
        return disk
    known = {
        "IMAGE": text_of(image.find("NAME")),
        "IMAGE_ID": text_of(image.find("ID")),
        "DATASTORE": text_of(image.find("DATASTORE")),
        "DATASTORE_ID": text_of(image.find("DATASTORE_ID")),
        "TYPE": "CDROM" if text_of(image.find("TYPE")) == _CDROM else "FILE",
        **_handed_on(image),
    }
    if text_of(image.find("PERSISTENT")) == "1":
        known["PERSISTENT"] = "YES"
    return {"SIZE": text_of(image.find("SIZE")), **disk, **known}


def _nic(nic: Mapping[str, str], pools: Pools) -> Mapping[str, str]:
    network = _found(elements_at(pools.networks, "VNET"), nic, "NETWORK")
    if network is None:
        return nic
    known = {"NETWORK": text_of(network.find("NAME")), "NETWORK_ID": text_of(network.find("ID"))}
    return {**nic, **known, **_handed_on(network)}


def _found(pool: Iterator[Element], device: Mapping[str, str], kind: str) -> Element | None:
    """Return the image or network that a device names by number, or by name and then its owner's where that is said."""
    number, name, owner = device.get(f"{kind}_ID", ""), device.get(kind, ""), device.get(f"{kind}_UNAME", "")
    if number:
        return next((each for each in pool if text_of(each.find("ID")) == number), None)
    named = [each for each in pool if name and text_of(each.find("NAME")) == name]
    return next((each for each in named if not owner or text_of(each.find("UNAME")) == owner), None)


def _handed_on(owner: Element) -> dict[str, str]:
    attributes: Sequence[Element] = list(elements_at(owner, "TEMPLATE"))
    return {each.tag: text_of(each) for template in attributes for each in template if each.tag.startswith(_INHERITED)}


def _clusters(owner: Element) -> frozenset[str] | None:
    """Return the clusters; None if all hosts may use the owner. Up to 4.14 it is in one cluster, or in none."""
    if owner.find("CLUSTERS") is not None:
        return frozenset(text_of(each) for each in elements_at(owner, "CLUSTERS/ID"))
    number = text_of(owner.find("CLUSTER_ID"))
    return None if number in _NO_CLUSTER else frozenset({number})
