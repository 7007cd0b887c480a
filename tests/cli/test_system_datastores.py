"""Whether OpenNebula 7.x can end the VMs of a cloud."""

from __future__ import annotations

import pytest
from lxml import etree

from one_provider_mad.cli.system_datastores import judge, read_hosts, read_system_datastores
from tests.xmlrpc.partner_vms import datastore_xml

IMAGES = datastore_xml("default", "dummy", 0, 0, 100)
AT_HOME = datastore_xml("system", "local", 1, 0)
DUMMY = datastore_xml("cloud-system", "dummy", 1, 100)
EVERYWHERE = datastore_xml("nothing", "dummy", 1, 0, 100)

AT_HOME_TOO = "cluster default also has system with TM_MAD=local: VMs placed there end in EPILOG_FAILURE"


@pytest.mark.parametrize(
    ("datastores", "clusters", "expected"),
    [
        pytest.param(
            IMAGES + AT_HOME,
            {},
            [(False, "none has TM_MAD=dummy: every VM that is terminated ends in EPILOG_FAILURE")],
            id="none",
        ),
        pytest.param(AT_HOME + DUMMY, {}, [(True, "cloud-system with TM_MAD=dummy")], id="no-host-yet"),
        pytest.param(
            AT_HOME + DUMMY,
            {100: "cloud"},
            [(True, "cloud-system with TM_MAD=dummy in cluster cloud")],
            id="as-printed",
        ),
        pytest.param(
            AT_HOME + DUMMY,
            {0: "default", 100: "cloud"},
            [
                (
                    False,
                    "none in cluster default has TM_MAD=dummy: every VM that is terminated ends in EPILOG_FAILURE",
                ),
                (True, "cloud-system with TM_MAD=dummy in cluster cloud"),
            ],
            id="a-host-in-another-cluster",
        ),
        pytest.param(
            AT_HOME + EVERYWHERE,
            {0: "default"},
            [(True, "nothing with TM_MAD=dummy in cluster default"), (None, AT_HOME_TOO)],
            id="beside-another",
        ),
    ],
)
def test_what_a_host_of_the_cloud_finds_in_its_cluster(
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
