"""Debian's cloud-init in a guest, and logins to what it has prepared."""

from __future__ import annotations

import json
from pathlib import Path

from tests.real_guest.guest import Guest
from tests.waiting import until

SETTINGS = """\
datasource_list: [Ec2]
datasource: {Ec2: {timeout: 5, max_wait: 20}}
network: {config: disabled}
locale: C.UTF-8
"""
"""Of the image: it is for EC2, its interfaces are configured, and it has this locale."""


def boot(guest: Guest, *, fails: str = "") -> None:
    """Run cloud-init's stages in their order, without init-local's DHCP; no module but `fails` may fail."""
    guest.write("/etc/cloud/cloud.cfg.d/99-image.cfg", SETTINGS)
    for stage in (("init",), ("modules", "--mode", "config"), ("modules", "--mode", "final")):
        guest.run("cloud-init", *stage, check=False)
    result = json.loads(guest.read("/run/cloud-init/result.json"))
    unexpected = [error for error in result["v1"]["errors"] if not (fails and fails in error)]
    assert not unexpected, unexpected
    assert result["v1"]["datasource"] == "DataSourceEc2"


def shell(guest: Guest, key: Path, user: str, command: str, *, check: bool = True) -> str:
    """Log in with SSH, to a server that has nothing but what cloud-init gave it."""
    if not guest.read("/run/sshd.pid"):
        guest.run("mkdir", "-p", "/run/sshd")
        guest.run("/usr/sbin/sshd")
        until(lambda: guest.read("/run/sshd.pid"))  # it goes to the background first, then listens, then writes this
        guest.write("/root/client/id", key.read_text())
    options = ["-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-i", "/root/client/id"]
    return guest.run("ssh", *options, f"{user}@{guest.address}", command, check=check)
