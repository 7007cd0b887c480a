"""The link between home and the cloud of docs/bursting.md, in network namespaces: VM, gateway, gateway, instance."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.oned import ROOT
from tests.waiting import until

pytestmark = pytest.mark.guest

PAGE = ROOT / "docs" / "bursting.md"
NEEDED = ("ip", "wg", "wg-quick", "wireguard-go", "iptables", "ping")
HOME_VM, HOME, CLOUD, CLOUD_VM = SPACES = tuple(f"one-{name}-{os.getpid()}" for name in ("vm", "home", "cloud", "i"))

LINKS = (
    (HOME_VM, "192.168.50.10/24", HOME, "192.168.50.1/24"),
    (HOME, "203.0.113.1/24", CLOUD, "198.51.100.7/24"),
    (CLOUD, "10.0.0.10/20", CLOUD_VM, "10.0.0.20/20"),
)
"""Ends of each cable, with the addresses of the page."""

ROUTES = (
    (HOME_VM, "default", "192.168.50.1", "one0"),
    (HOME, "198.51.100.0/24", None, "one1"),
    (CLOUD, "203.0.113.0/24", None, "one1"),
    (CLOUD_VM, "192.168.50.0/24", "10.0.0.10", "one2"),
)
"""The last one stands for the route in the subnet's table."""


def run(*words: str, check: bool = True) -> str:
    """Run a program; returns its output."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def inside(space: str, *words: str, check: bool = True) -> str:
    """Run a program in a network namespace."""
    # A kernel without the module has WireGuard in a process; it warns once that the module would be better.
    environ = [
        "env",
        "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go",
        "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1",
    ]
    return run("ip", "netns", "exec", space, *environ, *words, check=check)


def configurations() -> tuple[str, str]:
    """The two files of the page."""
    home, cloud = re.findall(r"^ *```ini\n(.*?)^ *```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return home, cloud


@pytest.fixture
def spaces() -> Iterator[None]:
    """Four namespaces, cabled."""
    if os.geteuid():
        pytest.skip("only root may make namespaces: run make test-guest as root")
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        pytest.skip(f"{', '.join(missing)} missing: apt-get install wireguard-tools wireguard-go iptables iputils-ping")
    try:
        for space in SPACES:
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        for number, (one, one_address, other, other_address) in enumerate(LINKS):
            name = f"one{number}"
            run("ip", "link", "add", name, "netns", one, "type", "veth", "peer", "name", name, "netns", other)
            for space, address in ((one, one_address), (other, other_address)):
                run("ip", "-n", space, "address", "add", address, "dev", name)
                run("ip", "-n", space, "link", "set", name, "up")
        for space, to, via, device in ROUTES:
            run("ip", "-n", space, "route", "add", to, *(("via", via) if via else ()), "dev", device)
        yield
    finally:
        for space in SPACES:
            for process in run("ip", "netns", "pids", space, check=False).split():
                run("kill", process, check=False)
            run("ip", "netns", "delete", space, check=False)


def key_pair(folder: Path, name: str) -> tuple[str, str]:
    """Keys made by the commands of the page."""
    path = folder / f"{name}.key"
    path.write_text(run("wg", "genkey"))
    path.chmod(0o600)
    return path.read_text().strip(), run("sh", "-c", f"wg pubkey < {path}").strip()


def is_reached(space: str, address: str) -> bool:
    return bool(inside(space, "sh", "-c", f"ping -c 1 -W 1 {address} >/dev/null && echo yes", check=False))


@pytest.mark.usefixtures("spaces")
def test_a_vm_at_home_and_an_instance_reach_each_other_through_the_files_of_the_page(tmp_path: Path) -> None:
    home, cloud = configurations()
    home_private, home_public = key_pair(tmp_path, "home")
    cloud_private, cloud_public = key_pair(tmp_path, "cloud")
    home = home.replace("<private key of home>", home_private)
    home = home.replace("<public key of the cloud's gateway>", cloud_public)
    cloud = cloud.replace("<private key of the cloud's gateway>", cloud_private)
    cloud = cloud.replace("<public key of home>", home_public)
    assert "<" not in home + cloud
    assert not is_reached(HOME_VM, "10.0.0.20")
    for space, name, text in ((CLOUD, "home", cloud), (HOME, "cloud", home)):
        path = tmp_path / f"{name}.conf"
        path.write_text(re.sub(r"^ +", "", text, flags=re.MULTILINE))
        path.chmod(0o600)
        inside(space, "wg-quick", "up", str(path))
    until(lambda: is_reached(HOME_VM, "10.0.0.20"))
    assert is_reached(CLOUD_VM, "192.168.50.10")
    assert "latest handshake" in inside(CLOUD, "wg", "show")
