"""OpenNebula's one-context reads what the driver sends for a CONTEXT; ONE_CONTEXT names its sources, one-apps."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.real_guest.conftest import Send, Start
from tests.real_guest.guest import Guest

pytestmark = pytest.mark.guest

TAGS = {"linux", "deb", "systemd", "ec2"}
"""Of the files that a package for Debian on EC2 has: those of `path##tag.tag` with one of them (generate.sh)."""

INTERFACES = "auto eth0\niface eth0 inet dhcp\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The files of one-context, as they are installed."""
    sources = Path(os.environ.get("ONE_CONTEXT") or "/nonexistent") / "context-linux" / "src"
    if not sources.is_dir():
        pytest.skip(
            "ONE_CONTEXT names no checkout of OpenNebula's one-apps: make test-guest ONE_CONTEXT=/path/to/one-apps"
        )
    for path in sources.rglob("*"):
        name, _, tags = str(path.relative_to(sources)).partition("##")
        if path.is_file() and (not tags or TAGS & set(tags.split("."))):
            (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "package" / name)
    return tmp_path / "package"


def boot(guest: Guest, package: Path) -> None:
    """Install one-context and run it as its service for EC2 does."""
    guest.install(package)
    guest.write("/etc/network/interfaces", INTERFACES)
    guest.run("/usr/sbin/one-contextd", "all")


CONTEXT = {
    "SSH_PUBLIC_KEY": "ssh-ed25519 AAAA me@here",
    "USERNAME": "alice",
    "PASSWORD": 'open "sesame" $HOME `id` \\ \'',
    "SET_HOSTNAME": "web.example.org",
    "TIMEZONE": "Europe/Madrid",
    "START_SCRIPT": '#!/bin/bash\nexec > /root/started\necho "$APP for $VMID"\nB=`id -un`; echo "$B \\ $(hostname)"',
    "APP": 'it\'s "mine" \\ $HOME `id`',
    "REPORT_READY": "YES",
    "ONEGATE_TOKEN": "token",
    "ONEGATE_ENDPOINT": "http://169.254.169.254",
    "VMID": "7",
    "ETH0_IP": "192.168.0.5",
    "ETH0_MAC": "02:00:c0:a8:00:05",
}


def test_one_context_finds_user_key_name_and_script(send: Send, start: Start, package: Path) -> None:
    sent = send("one-context", CONTEXT, imdsv2="one-context")
    assert sent.tokens == "optional"
    guest = start(sent)
    boot(guest, package)
    assert guest.read("/home/alice/.ssh/authorized_keys") == "ssh-ed25519 AAAA me@here\n"
    assert guest.read("/root/started") == f"{CONTEXT['APP']} for 7\nroot \\ web\n"
    assert guest.run("hostname") == "web\n"
    assert guest.read("/etc/hosts").startswith("127.0.0.1 web.example.org web")
    assert guest.run("readlink", "-f", "/etc/localtime") == "/usr/share/zoneinfo/Europe/Madrid\n"
    assert json.loads(guest.read("/srv/told/onegate"))["body"] == "data=READY%3DYES&type=1"
    check = (
        "import crypt, spwd, sys; hash = spwd.getspnam('alice').sp_pwdp; assert crypt.crypt(sys.argv[1], hash) == hash"
    )
    guest.run("python3", "-W", "ignore", "-c", check, CONTEXT["PASSWORD"])
    assert guest.read("/etc/network/interfaces") == INTERFACES


def test_one_context_finds_nothing_where_a_session_token_is_required(send: Send, start: Start, package: Path) -> None:
    sent = send("one-context", CONTEXT)
    assert sent.tokens == "required"
    assert any('set imdsv2 = "one-context"' in line for line in sent.log)
    guest = start(sent)
    guest.install(package)
    assert "No contextualization found" in guest.run("/usr/sbin/one-contextd", "all", check=False)
