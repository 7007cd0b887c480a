"""DISKs and NICs of a template, completed from OpenNebula's images and networks."""

from __future__ import annotations

import pytest
from lxml import etree

from one_provider_mad.domain import Template
from one_provider_mad.front_end.devices import Pools, completed, used_of
from one_provider_mad.template_text.strict_reader import read_template

POOLS = Pools(
    images=etree.fromstring(
        "<IMAGE_POOL><IMAGE><ID>7</ID><NAME>debian</NAME><UNAME>ann</UNAME><TYPE>0</TYPE><SIZE>2048</SIZE>"
        "<DATASTORE_ID>1</DATASTORE_ID><DATASTORE>default</DATASTORE><TEMPLATE><PROVIDER_IMAGE>ami-7</PROVIDER_IMAGE>"
        "<DRIVER>qcow2</DRIVER></TEMPLATE></IMAGE>"
        "<IMAGE><ID>8</ID><NAME>debian</NAME><UNAME>bob</UNAME><TYPE>1</TYPE><SIZE>700</SIZE>"
        "<DATASTORE_ID>2</DATASTORE_ID><DATASTORE>isos</DATASTORE><TEMPLATE/></IMAGE>"
        "<IMAGE><ID>9</ID><NAME>data</NAME><TYPE>2</TYPE><SIZE>10</SIZE><PERSISTENT>1</PERSISTENT>"
        "<DATASTORE_ID>1</DATASTORE_ID><DATASTORE>default</DATASTORE><TEMPLATE/></IMAGE></IMAGE_POOL>"
    ),
    networks=etree.fromstring(
        "<VNET_POOL><VNET><ID>3</ID><NAME>private</NAME><UNAME>ann</UNAME><CLUSTERS><ID>0</ID><ID>5</ID></CLUSTERS>"
        "<TEMPLATE><PROVIDER_SUBNET>subnet-3</PROVIDER_SUBNET></TEMPLATE></VNET></VNET_POOL>"
    ),
    datastores=etree.fromstring(
        "<DATASTORE_POOL><DATASTORE><ID>1</ID><NAME>default</NAME><CLUSTERS><ID>0</ID></CLUSTERS></DATASTORE>"
        "</DATASTORE_POOL>"
    ),
)

SEVEN = {"IMAGE": "debian", "IMAGE_ID": "7", "DATASTORE": "default", "DATASTORE_ID": "1", "PROVIDER_IMAGE": "ami-7"}


def whole(text: str) -> Template:
    return completed(read_template(text), POOLS)


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        pytest.param("IMAGE_ID = 7", {**SEVEN, "SIZE": "2048", "TYPE": "FILE"}, id="by-number"),
        pytest.param("IMAGE = debian, SIZE = 9", {**SEVEN, "SIZE": "9", "TYPE": "FILE"}, id="by-name-with-a-size"),
        pytest.param(
            "IMAGE = debian, IMAGE_UNAME = bob",
            {
                "IMAGE": "debian",
                "IMAGE_UNAME": "bob",
                "IMAGE_ID": "8",
                "DATASTORE": "isos",
                "DATASTORE_ID": "2",
                "SIZE": "700",
                "TYPE": "CDROM",
            },
            id="by-name-and-owner",
        ),
        pytest.param(
            "IMAGE_ID = 9",
            {
                "IMAGE": "data",
                "IMAGE_ID": "9",
                "DATASTORE": "default",
                "DATASTORE_ID": "1",
                "SIZE": "10",
                "TYPE": "FILE",
                "PERSISTENT": "YES",
            },
            id="persistent",
        ),
        pytest.param("IMAGE = other", {"IMAGE": "other"}, id="unknown"),
        pytest.param("SIZE = 5, TYPE = fs", {"SIZE": "5", "TYPE": "fs"}, id="volatile"),
    ],
)
def test_a_disk_has_what_the_core_adds_to_it(disk: str, expected: dict[str, str]) -> None:
    assert whole(f"DISK = [ {disk} ]").vectors("DISK") == (expected,)


def test_a_nic_has_what_its_network_hands_on() -> None:
    assert whole("NIC = [ NETWORK = private ]\nNIC = [ NETWORK_MODE = auto ]").vectors("NIC") == (
        {"NETWORK": "private", "NETWORK_ID": "3", "PROVIDER_SUBNET": "subnet-3"},
        {"NETWORK_MODE": "auto"},
    )


def test_the_clusters_of_what_a_template_uses_are_told() -> None:
    text = "DISK = [ IMAGE_ID = 7 ]\nDISK = [ SIZE = 1, TYPE = swap ]\nNIC = [ NETWORK_ID = 3 ]"
    assert {each.what: each.clusters for each in used_of(whole(text), POOLS)} == {
        "datastore default of disk 0": frozenset({"0"}),
        "network private of NIC 0": frozenset({"0", "5"}),
    }


def test_up_to_4_14_all_hosts_may_use_what_is_in_no_cluster() -> None:
    stores = "".join(
        f"<DATASTORE><ID>{number}</ID><NAME>d{number}</NAME><CLUSTER_ID>{cluster}</CLUSTER_ID></DATASTORE>"
        for number, cluster in ((1, -1), (2, 100))
    )
    pools = Pools(
        images=POOLS.images,
        networks=etree.fromstring("<VNET_POOL><VNET><ID>3</ID><CLUSTER_ID>-1</CLUSTER_ID></VNET></VNET_POOL>"),
        datastores=etree.fromstring(f"<DATASTORE_POOL>{stores}</DATASTORE_POOL>"),
    )
    used = used_of(whole("DISK = [ IMAGE_ID = 7 ]\nDISK = [ IMAGE_ID = 8 ]\nNIC = [ NETWORK_ID = 3 ]"), pools)
    assert [(each.what, each.clusters) for each in used] == [("datastore d2 of disk 1", frozenset({"100"}))]
