"""System datastores with which OpenNebula 7.x can terminate the VMs of a cloud."""

from __future__ import annotations

import pytest
from lxml import etree

from one_provider_mad.cli.system_datastores import judge, read_hosts, read_system_datastores
from tests.xmlrpc.partner_vms import datastore_xml

IMAGES = datastore_xml("default", "dummy", 0, 0, 100)
LOCAL = datastore_xml("system", "local", 1, 0)
DUMMY = datastore_xml("cloud-system", "dummy", 1, 100)
EVERYWHERE = datastore_xml("everywhere", "dummy", 1, 0, 100)

LOCAL_TOO = "cluster default also has system with TM_MAD=local: VMs placed there end in EPILOG_FAILURE"


@pytest.mark.parametrize(
    ("datastores", "clusters", "expected"),
    [
        pytest.param(
            IMAGES + LOCAL,
            {},
            [(False, "none has TM_MAD=dummy: every VM that is terminated ends in EPILOG_FAILURE")],
            id="none",
        ),
        pytest.param(LOCAL + DUMMY, {}, [(True, "cloud-system with TM_MAD=dummy")], id="no-host-yet"),
        pytest.param(
            LOCAL + DUMMY,
            {100: "cloud"},
            [(True, "cloud-system with TM_MAD=dummy in cluster cloud")],
            id="as-oned-conf-prints",
        ),
        pytest.param(
            LOCAL + DUMMY,
            {0: "default", 100: "cloud"},
            [
                (
                    False,
                    "none in cluster default has TM_MAD=dummy: every VM that is terminated ends in EPILOG_FAILURE",
                ),
                (True, "cloud-system with TM_MAD=dummy in cluster cloud"),
            ],
            id="second-cluster-without",
        ),
        pytest.param(
            LOCAL + EVERYWHERE,
            {0: "default"},
            [(True, "everywhere with TM_MAD=dummy in cluster default"), (None, LOCAL_TOO)],
            id="beside-a-local-one",
        ),
    ],
)
def test_each_cluster_with_hosts_of_the_cloud_needs_a_dummy_system_datastore(
    datastores: str, clusters: dict[int, str], expected: list[tuple[bool | None, str]]
) -> None:
    hosts = "".join(
        f"<HOST><NAME>cloud{number}</NAME><VM_MAD>cloud</VM_MAD><CLUSTER_ID>{number}</CLUSTER_ID>"
        f"<CLUSTER>{name}</CLUSTER></HOST>"
        for number, name in clusters.items()
    )
    other = "<HOST><NAME>home</NAME><VM_MAD>kvm</VM_MAD><CLUSTER_ID>7</CLUSTER_ID><CLUSTER>home</CLUSTER></HOST>"
    found = judge(
        read_system_datastores(etree.fromstring(f"<DATASTORE_POOL>{datastores}</DATASTORE_POOL>")),
        read_hosts(etree.fromstring(f"<HOST_POOL>{hosts}{other}</HOST_POOL>"), vm_mad="cloud"),
        name="cloud",
    )
    assert [(each.is_well, each.found) for each in found] == expected
