"""Datastores whose images OpenNebula 7.x lets VMs of a cloud use."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from one_provider_mad.cli.image_datastores import judge, read_datastores
from one_provider_mad.cli.transfer_files import files_beside

TARGETS = {"CLONE_TARGET_DUMMY": "SYSTEM", "LN_TARGET_DUMMY": "SYSTEM", "DISK_TYPE_DUMMY": "FILE"}


LACKS = (
    "burst with TM_MAD=ssh lacks LN_TARGET_DUMMY, DISK_TYPE_DUMMY:"
    " OpenNebula refuses to deploy VMs with its images here"
)


def datastore(tm_mad: str, **attributes: str) -> str:
    inside = "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in attributes.items())
    return (
        f"<DATASTORE><ID>107</ID><NAME>burst</NAME><TM_MAD><![CDATA[{tm_mad}]]></TM_MAD><TYPE>0</TYPE>"
        f"<TEMPLATE>{inside}</TEMPLATE><CLUSTERS><ID>0</ID></CLUSTERS></DATASTORE>"
    )


@pytest.mark.parametrize(
    ("pool", "used", "files", "expected"),
    [
        pytest.param(datastore("dummy"), "burst", (), (True, "burst with TM_MAD=dummy"), id="dummy"),
        pytest.param(datastore("dummy"), "107", (), (True, "107 with TM_MAD=dummy"), id="by-number"),
        pytest.param(datastore("dummy"), "bursts", (), (False, "OpenNebula has no bursts"), id="unknown"),
        pytest.param(
            datastore("ssh", CLONE_TARGET_DUMMY="SYSTEM"),
            "burst",
            ("ssh/clone.dummy",),
            (False, LACKS),
            id="without-attributes",
        ),
        pytest.param(
            datastore("ssh", **TARGETS),
            "burst",
            ("ssh/clone",),
            (False, "tm/ssh has no clone.dummy: VMs with images of burst end in PROLOG_FAILURE here"),
            id="without-links",
        ),
        pytest.param(
            datastore("ssh", **TARGETS),
            "burst",
            ("ssh/clone.dummy",),
            (True, "burst with TM_MAD=ssh, which copies nothing for the cloud"),
            id="as-oned-conf-prints",
        ),
        pytest.param(
            datastore("ssh", **TARGETS),
            "burst",
            (),
            (True, "burst with TM_MAD=ssh, which copies nothing for the cloud"),
            id="drivers-elsewhere",
        ),
    ],
)
def test_a_datastore_of_mapped_images_needs_targets_and_links_for_the_driver_dummy(
    pool: str, used: str, files: tuple[str, ...], expected: tuple[bool, str], tmp_path: Path
) -> None:
    for file in files:
        path = tmp_path / "tm" / file
        path.parent.mkdir(parents=True)
        path.touch()
    datastores = read_datastores(etree.fromstring(f"<DATASTORE_POOL>{pool}</DATASTORE_POOL>"), driver="dummy")
    (result,) = judge(datastores, [used], name="aws", remotes=tmp_path, driver="dummy", clusters={})
    assert (result.is_well, result.found.removeprefix(f"{tmp_path}/")) == expected


OURS = {"CLONE_TARGET_ONE_PROVIDER": "SYSTEM", "LN_TARGET_ONE_PROVIDER": "SYSTEM", "DISK_TYPE_ONE_PROVIDER": "FILE"}


@pytest.mark.parametrize(
    ("attributes", "spoilt", "cluster", "expected"),
    [
        pytest.param(OURS, "", "0", [(True, "burst with TM_MAD=ssh, which copies nothing for the cloud")], id="well"),
        pytest.param(
            {},
            "",
            "0",
            [(False, "burst with TM_MAD=ssh lacks CLONE_TARGET_ONE_PROVIDER, LN_TARGET_ONE_PROVIDER,")],
            id="without-attributes",
        ),
        pytest.param(
            OURS,
            "ssh/mv.one_provider",
            "0",
            [(False, "tm/ssh has no mv.one_provider: VMs with images of burst end in PROLOG_FAILURE here")],
            id="a-file-of-another-release",
        ),
        pytest.param(
            OURS,
            "",
            "100",
            [
                (True, "burst with TM_MAD=ssh, which copies nothing for the cloud"),
                (None, "burst is not in cluster cloud: VMs with its images are never placed there"),
            ],
            id="in-another-cluster",
        ),
    ],
)
def test_a_datastore_needs_what_install_makes_for_the_driver_one_provider(
    attributes: dict[str, str], spoilt: str, cluster: str, expected: list[tuple[bool | None, str]], tmp_path: Path
) -> None:
    for file in files_beside(tmp_path, "ssh"):
        file.write(tmp_path)
    if spoilt:
        (tmp_path / "tm" / spoilt).write_text("#!/bin/sh\n")
    pool = etree.fromstring(f"<DATASTORE_POOL>{datastore('ssh', **attributes)}</DATASTORE_POOL>")
    datastores = read_datastores(pool, driver="one_provider")
    results = list(
        judge(datastores, ["burst"], name="aws", remotes=tmp_path, driver="one_provider", clusters={cluster: "cloud"})
    )
    found = [(each.is_well, each.found.removeprefix(f"{tmp_path}/")) for each in results]
    assert [
        (is_well, told[: len(sentence)]) for (is_well, told), (_, sentence) in zip(found, expected, strict=True)
    ] == expected
    assert {each.remedy for each in results} <= {"", "one-provider install aws --datastore burst"}
