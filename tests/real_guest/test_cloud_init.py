"""Debian's cloud-init reads what the driver sends for a CONTEXT, from a metadata service that requires tokens."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.real_guest.cloud_init import boot, shell
from tests.real_guest.conftest import Send, Start
from tests.real_guest.guest import disk, started

pytestmark = pytest.mark.guest

READY = "data=READY%3DYES&type=1"
"""As OneGate reads it (OpenNebula src/onegate/onegate-server.rb, update)."""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An SSH key; the public one lies beside it."""
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", path], check=True)
    return path


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


def test_one_logs_in_as_the_user_of_the_context_and_finds_what_it_asked_for(
    send: Send, start: Start, key: Path
) -> None:
    sent = send(
        "auto",
        {
            "SSH_PUBLIC_KEY": public(key),
            "USERNAME": "alice",
            "PASSWORD": "open sesame",
            "SET_HOSTNAME": "web 1.example.org",
            "TIMEZONE": "Europe/Madrid",
            "DNS": "9.9.9.9",
            "START_SCRIPT": 'echo "$APP for $VMID by $(id -un)" > /root/started',
            "APP": 'it\'s "mine"',
            "USER_DATA": "#cloud-config\nusers: [default, {name: bob}]\nruncmd: [[touch, /root/theirs]]\n",
            "REPORT_READY": "YES",
            "ONEGATE_TOKEN": "to ken==",
            "ONEGATE_ENDPOINT": "http://169.254.169.254",
            "VMID": "7",
            "ETH0_IP": "192.168.0.5",
            "ETH0_MAC": "02:00:c0:a8:00:05",
        },
    )
    assert sent.tokens == "required"
    assert any("ETH0_* have no effect" in line for line in sent.log)
    assert b"open sesame" not in sent.user_data

    guest = start(sent)
    boot(guest)
    assert shell(guest, key, "alice", "whoami; sudo -n whoami; hostname; hostname -f").split() == [
        *("alice", "root", "web-1", "web-1.example.org")
    ]
    assert guest.read("/root/started") == 'it\'s "mine" for 7 by root\n'
    assert guest.run("readlink", "-f", "/etc/localtime") == "/usr/share/zoneinfo/Europe/Madrid\n"
    assert "DNS=9.9.9.9" in guest.read("/etc/systemd/resolved.conf.d/one-context.conf")
    assert guest.run("id", "-un", "bob") == "bob\n"
    assert guest.run("ls", "/root/theirs")
    ready = json.loads(guest.read("/srv/told/onegate"))
    assert (ready["body"], ready["x-onegate-token"], ready["x-onegate-vmid"]) == (READY, "to ken==", "7")
    assert "Permission denied" in shell(guest, key, "root", "true", check=False)
    check = "import crypt, spwd; hash = spwd.getspnam('alice').sp_pwdp; assert crypt.crypt('open sesame', hash) == hash"
    guest.run("python3", "-W", "ignore", "-c", check)


@pytest.mark.parametrize(
    ("context", "user"), [({}, "debian"), ({"USERNAME": "root"}, "root"), ({"USERNAME": "debian"}, "debian")]
)
def test_one_logs_in_as_the_images_own_user_or_as_root(
    send: Send, start: Start, key: Path, context: dict[str, str], user: str
) -> None:
    guest = start(send("cloud-init", {"SSH_PUBLIC_KEY": public(key), **context}))
    boot(guest)
    # There is no DNS to answer for the cloud's host name, as there is in EC2, and sudo says so.
    assert shell(guest, key, user, "whoami; sudo -n whoami 2>/dev/null").split() == [user, "root"]


def test_user_data_in_gzip_is_read(send: Send, start: Start) -> None:
    script = "#!/bin/sh\n" + "# a line that repeats itself\n" * 3000 + "touch /root/started\n"
    sent = send("cloud-init", {"START_SCRIPT": script})
    assert sent.user_data.startswith(b"\x1f\x8b")
    guest = start(sent)
    boot(guest)
    assert guest.run("ls", "/root/started")


@pytest.mark.parametrize(("grow", "size"), [("YES", 2046), ("NO", 1280)])
def test_the_root_fills_its_disk_unless_the_context_forbids_it(
    send: Send, root: Path, tmp_path: Path, grow: str, size: int
) -> None:
    sent = send("cloud-init", {"GROW_ROOTFS": grow, "SET_HOSTNAME": "web"})
    small = disk(root, tmp_path / "disk", size=2048, part=1280)
    with started(small, tmp_path / "guest", sent.user_data, tokens=sent.tokens) as guest:
        # The kernel enlarges a mounted file system for a process with CAP_SYS_RESOURCE only, which sandboxes take away.
        can_resize = int(guest.read("/proc/self/status").split("CapEff:")[1].split()[0], 16) >> 24 & 1
        boot(guest, fails="" if can_resize else "resizefs")
        device = guest.run("findmnt", "-no", "SOURCE", "/").strip()
        part = int(guest.run("blockdev", "--getsize64", device))
        blocks, of = map(int, guest.run("stat", "--file-system", "--format=%b %S", "/").split())
        log = guest.read("/var/log/cloud-init.log")
    assert part // 2**20 == size
    assert (f"('resize2fs', '{device}')" in log) is (grow == "YES")
    if can_resize:
        assert 0.85 * size < blocks * of / 2**20 < size
