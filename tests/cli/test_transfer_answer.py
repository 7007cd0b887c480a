"""What the transfer driver `one_provider` answers, without OpenNebula: its files run as one_tm runs them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from one_provider_mad.cli.transfer_files import files_beside, own_files
from tests.waiting import HANG

CLOUD, HOME = 104, 100
"""System datastores."""

NOTHING = (0, "", "")


@pytest.fixture
def tm(tmp_path: Path) -> Path:
    """The transfer drivers of an OpenNebula: ours, and one whose actions print their name."""
    remotes = tmp_path / "var" / "remotes"
    other = remotes / "tm" / "qcow2"
    other.mkdir(parents=True)
    for name in ("clone", "clone.ssh", "mv", "delete"):
        write(other / name, f'#!/bin/sh\necho "{name} $*"\n')
    for file in (*own_files(remotes), *files_beside(remotes, "qcow2")):
        file.write(tmp_path)
    answers = f"{CLOUD}) tm=one_provider ;;\n{HOME}) tm=ssh ;;\n*) echo no datastore $3; exit 255 ;;"
    document = '"<DATASTORE>\n  <TM_MAD>$tm</TM_MAD>\n<TEMPLATE><TM_MAD><![CDATA[x]]></TM_MAD></TEMPLATE>"'
    (tmp_path / "bin").mkdir()
    asked = f'echo "$3" >>{tmp_path}/asked'
    write(tmp_path / "bin" / "onedatastore", f"#!/bin/sh\n{asked}\ncase $3 in\n{answers}\nesac\necho {document}\n")
    return remotes / "tm"


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def disk(host: str, store: int, name: str = "/disk.0") -> str:
    return f"{host}:/var/lib/one//datastores/{store}/7{name}"


def answer(tm: Path, action: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    environ = {**os.environ, "ONE_LOCATION": str(tm.parent.parent.parent)}
    done = subprocess.run(
        [tm / action, *arguments], env=environ, input="", capture_output=True, text=True, timeout=HANG
    )
    return done.returncode, done.stdout, done.stderr.rstrip()


SOURCE = "fe:/var/lib/one//datastores/1/0123"
SAVED = "the cloud has this disk, disk-saveas cannot copy it: make the image with the cloud's own tools"
SNAPSHOT = "disk snapshots in a cloud are made and deleted only while the VM runs: resume it first"
MOVED = "VM 7 has its disks in system datastore {}, not in {}: resume it on a host of the former"


@pytest.mark.parametrize(
    ("action", "arguments", "expected"),
    [
        ("qcow2/clone.one_provider", (SOURCE, disk("aws", CLOUD), "7", "1"), NOTHING),
        ("qcow2/delete.one_provider", (disk("aws", CLOUD), "7", "1"), NOTHING),
        ("qcow2/mv.one_provider", (disk("aws", CLOUD), disk("fe", CLOUD), "7", "1"), NOTHING),
        ("qcow2/cpds.one_provider", (disk("aws", CLOUD), "/images/5", "-1", "7", "1"), (1, "", SAVED)),
        ("qcow2/snap_create.one_provider", (disk("aws", CLOUD), "0", "7", "1"), (1, "", SNAPSHOT)),
        ("one_provider/mkswap", ("512", disk("aws", CLOUD), "7", str(CLOUD)), NOTHING),
        ("one_provider/context", ("/vms/7/context.sh", disk("aws", CLOUD), "7", str(CLOUD)), NOTHING),
        ("one_provider/mv", (disk("aws", CLOUD, ""), disk("fe", CLOUD, ""), "7", str(CLOUD)), NOTHING),
        (
            "one_provider/mv",
            (disk("fe", HOME), disk("aws", CLOUD), "7", str(CLOUD)),
            (1, "", MOVED.format(HOME, CLOUD)),
        ),
        ("one_provider/mv", (disk("fe", HOME, ""), disk("aws", CLOUD, ""), "7", str(CLOUD)), NOTHING),
        (
            "qcow2/mv.one_provider",
            (disk("fe", CLOUD), disk("kvm1", HOME), "7", "1"),
            (1, "", MOVED.format(CLOUD, HOME)),
        ),
        (
            "qcow2/clone.one_provider",
            (SOURCE, disk("kvm1", HOME), "7", "1"),
            (0, f"clone.ssh {SOURCE} {disk('kvm1', HOME)} 7 1\n", ""),
        ),
        (
            "qcow2/delete.one_provider",
            (disk("kvm1", HOME), "7", "1"),
            (0, f"delete {disk('kvm1', HOME)} 7 1\n", ""),
        ),
        (
            "qcow2/mv.one_provider",
            (disk("fe", HOME), disk("kvm1", HOME), "7", "1"),
            (0, f"mv {disk('fe', HOME)} {disk('kvm1', HOME)} 7 1\n", ""),
        ),
        (
            "qcow2/clone.one_provider",
            (SOURCE, disk("kvm1", 9), "7", "1"),
            (1, "", "OpenNebula does not tell the driver of system datastore 9: no datastore 9"),
        ),
        (
            "qcow2/clone.one_provider",
            (SOURCE, "kvm1:/disk.0", "7", "1"),
            (1, "", "one_provider's clone got no path of a VM's disk: kvm1:/disk.0"),
        ),
    ],
)
def test_it_copies_nothing_for_a_cloud_and_leaves_disks_at_home_to_their_driver(
    tm: Path, action: str, arguments: tuple[str, ...], expected: tuple[int, str, str]
) -> None:
    assert answer(tm, action, *arguments) == expected


def test_opennebula_is_not_asked_for_a_datastore_that_was_monitored_lately(tm: Path) -> None:
    code, told, _ = answer(tm, "one_provider/monitor", str(CLOUD))
    assert (code, [line.partition("=")[0] for line in told.splitlines()]) == (0, ["USED_MB", "FREE_MB", "TOTAL_MB"])
    clone = ("qcow2/clone.one_provider", SOURCE, disk("aws", CLOUD), "7", "1")
    assert answer(tm, *clone) == NOTHING
    asked = tm.parent.parent.parent / "asked"
    assert not asked.exists()
    os.utime(tm / "one_provider" / ".seen" / str(CLOUD), (0, 0))
    assert answer(tm, *clone) == answer(tm, *clone) == NOTHING
    assert asked.read_text() == f"{CLOUD}\n"
