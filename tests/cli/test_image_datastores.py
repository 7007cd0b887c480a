"""Datastores whose images OpenNebula 7.x lets VMs of a cloud use."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from one_provider_mad.cli.image_datastores import judge, read_datastores

TARGETS = {"CLONE_TARGET_DUMMY": "SYSTEM", "LN_TARGET_DUMMY": "SYSTEM", "DISK_TYPE_DUMMY": "FILE"}


LACKS = (
    "burst with TM_MAD=ssh lacks LN_TARGET_DUMMY, DISK_TYPE_DUMMY:"
    " OpenNebula refuses to deploy VMs with its images here"
)


def datastore(tm_mad: str, **attributes: str) -> str:
    inside = "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in attributes.items())
    return (
        f"<DATASTORE><ID>107</ID><NAME>burst</NAME><TM_MAD><![CDATA[{tm_mad}]]></TM_MAD><TYPE>0</TYPE>"
        f"<TEMPLATE>{inside}</TEMPLATE></DATASTORE>"
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
    datastores = read_datastores(etree.fromstring(f"<DATASTORE_POOL>{pool}</DATASTORE_POOL>"))
    (result,) = judge(datastores, [used], name="aws", remotes=tmp_path)
    assert (result.is_well, result.found.removeprefix(f"{tmp_path}/")) == expected
