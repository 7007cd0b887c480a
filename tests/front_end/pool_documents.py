"""Pools of hosts, datastores and clusters as one.*pool.info answers, for tests of home; shortened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.front_end.pools import Cluster, Datastore, FrontEnd, Host
from one_provider_mad.safe_xml import Element

GIB = 1024 * 1024


def host(name: str = "home1", **changed: Any) -> Host:
    """A host at home with 8 cores, 16 GiB and 20 GiB of disk, monitored and empty, in cluster 0."""
    number = int("0" + "".join(each for each in name if each.isdigit()))
    values = {"state": 2, "vm_mad": "kvm", "cpu": 800, "memory": 16 * GIB, "free_disk": 20480, "cluster_id": 0}
    return Host(**{"host_id": number, "name": name, **values, **changed})


def cloud(name: str = "cloud1", **changed: Any) -> Host:
    """A host of a cloud, in cluster 100."""
    values = {"vm_mad": "ec2", "is_public": True, "cluster_id": 100, "cpu": 100000, "free_disk": 0}
    return host(name, **{"priority": -1.0, **values, **changed})


def system(**changed: Any) -> Datastore:
    """System datastore 0, shared, with room."""
    values = {"datastore_id": 0, "name": "system", "kind": 1, "tm_mad": "shared", "clusters": frozenset({0})}
    return Datastore(**{"free": 50_000, **values, **changed})


def local(**changed: Any) -> Datastore:
    """System datastore 0 on the hosts' own disks, which OpenNebula shows without a size."""
    return system(tm_mad="ssh", is_shared=False, is_monitored=False, free=0, **changed)


def images(**changed: Any) -> Datastore:
    """Image datastore 1, with an image."""
    return system(**{"datastore_id": 1, "name": "default", "kind": 0, "images": 1, **changed})


def front_end(*parts: Host | Datastore, priority: float | None = None) -> FrontEnd:
    """These hosts and datastores, and the clusters default and cloud."""
    names = {0: "default", 100: "cloud"}
    return FrontEnd(
        hosts=tuple(each for each in parts if isinstance(each, Host)),
        datastores=tuple(each for each in parts if isinstance(each, Datastore)),
        clusters={
            number: Cluster(cluster_id=number, name=name, priority=None if number else priority)
            for number, name in names.items()
        },
    )


class FakeCore:
    """Pretends to be the local OpenNebula: answers with these elements."""

    def __init__(self, **elements: str) -> None:
        self.elements = elements

    def entries(self, method: str, name: str, /) -> Iterator[Element]:
        if name.lower() not in self.elements:
            raise ProviderUnavailable(f"{method} was not expected")
        yield etree.fromstring(self.elements[name.lower()])
