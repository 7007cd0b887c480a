"""System datastores with which OpenNebula 7.x can terminate the VMs of a cloud."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from one_provider_mad.cli.system_datastores import check_files, judge, read_hosts, read_system_datastores
from one_provider_mad.cli.transfer_files import own_files
from tests.xmlrpc.partner_vms import datastore_xml

IMAGES = datastore_xml("default", "dummy", 0, 0, 100)
LOCAL = datastore_xml("system", "local", 1, 0)
DUMMY = datastore_xml("cloud-system", "dummy", 1, 100)
EVERYWHERE = datastore_xml("everywhere", "dummy", 1, 0, 100)

OURS = datastore_xml("cloud-ours", "one_provider", 1, 100)

ENDS = "every VM that is terminated ends in EPILOG_FAILURE"
NOTE = "; one_provider would also refuse what makes empty images and snapshots (docs/upgrading.md)"
LOCAL_TOO = "cluster default also has system with TM_MAD=local: VMs placed there end in EPILOG_FAILURE"


@pytest.mark.parametrize(
    ("datastores", "clusters", "expected"),
    [
        pytest.param(
            IMAGES + LOCAL,
            {},
            [(False, "none has TM_MAD=one_provider: every VM that is terminated ends in EPILOG_FAILURE")],
            id="none",
        ),
        pytest.param(LOCAL + DUMMY, {}, [(True, "cloud-system with TM_MAD=dummy")], id="no-host-yet"),
        pytest.param(
            LOCAL + DUMMY,
            {100: "cloud"},
            [(True, f"cloud-system with TM_MAD=dummy in cluster cloud{NOTE}")],
            id="as-0.1.0-printed",
        ),
        pytest.param(
            LOCAL + OURS,
            {100: "cloud"},
            [(True, "cloud-ours with TM_MAD=one_provider in cluster cloud")],
            id="as-oned-conf-prints",
        ),
        pytest.param(
            LOCAL + DUMMY,
            {0: "default", 100: "cloud"},
            [
                (
                    False,
                    f"none in cluster default has TM_MAD=one_provider: {ENDS}",
                ),
                (True, f"cloud-system with TM_MAD=dummy in cluster cloud{NOTE}"),
            ],
            id="second-cluster-without",
        ),
        pytest.param(
            LOCAL + EVERYWHERE,
            {0: "default"},
            [(True, f"everywhere with TM_MAD=dummy in cluster default{NOTE}"), (None, LOCAL_TOO)],
            id="beside-a-local-one",
        ),
    ],
)
def test_each_cluster_with_hosts_of_the_cloud_needs_a_system_datastore_that_copies_nothing(
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


def test_the_files_of_the_driver_are_looked_at_where_a_datastore_needs_them(tmp_path: Path) -> None:
    def found() -> list[tuple[bool | None, str]]:
        pool = etree.fromstring(f"<DATASTORE_POOL>{OURS}</DATASTORE_POOL>")
        results = check_files(read_system_datastores(pool), "cloud", tmp_path)
        return [(each.is_well, each.found.removeprefix(f"{tmp_path}/")) for each in results]

    (tmp_path / "tm").mkdir()
    for file in own_files(tmp_path):
        file.write(tmp_path)
    assert found() == [(True, "tm/one_provider, 24 files")]
    (tmp_path / "tm" / "one_provider" / "mkswap").unlink()
    (tmp_path / "tm" / "one_provider" / "clone").chmod(0o644)
    assert found() == [(False, "tm/one_provider lacks, or has in another release's form, clone, mkswap")]
