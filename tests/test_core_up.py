"""Detect that oned is up, even if its descriptors cannot be read or a wrapper runs in between."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.core_up import CoreUp

OURS, CORE, FIRST = 700, 600, 1
TICKS = os.sysconf("SC_CLK_TCK")
UPTIME = 10_000.0


class Proc:
    """A /proc in which an oned started this process some seconds ago."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "uptime").write_text(f"{UPTIME} 1.0\n")
        (root / "self" / "net").mkdir(parents=True)
        self.process(FIRST, "systemd", parent=0)
        self.process(CORE, "oned", parent=FIRST)
        self.listening()

    def process(self, pid: int, name: str, *, parent: int, age: float = 5.0, sockets: tuple[int, ...] = ()) -> None:
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        start = int((UPTIME - age) * TICKS)
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} {'0 ' * 17}{start} 0\n")
        for number, inode in enumerate(sockets, start=3):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")

    def listening(self, *inodes: int, state: str = "0A") -> None:
        rows = [f"0: 0100007F:0A49 00000000:0000 {state} 0:0 00:0 0 9869 0 {inode} 1" for inode in inodes]
        (self.root / "self" / "net" / "tcp").write_text("\n".join(["  sl  local_address", *rows, ""]))

    def wrote_down(self, settings: str) -> None:
        (self.root / "config").write_text(settings)

    def hide(self, pid: int) -> None:
        folder = self.root / str(pid) / "fd"
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def is_up(proc: Proc, *, parent: int = CORE) -> bool:
    core = CoreUp(proc=str(proc.root), parent=parent)
    return core.has_sign(str(proc.root / "config"))


async def test_oned_is_up_once_it_listens(proc: Proc) -> None:
    proc.process(CORE, "oned", parent=FIRST, sockets=(41, 42))
    proc.listening(40, 42)
    assert await is_up(proc)


async def test_oned_is_not_up_with_open_connections_alone(proc: Proc) -> None:
    proc.process(CORE, "oned", parent=FIRST, sockets=(41,))
    proc.listening(41, state="01")
    assert not await is_up(proc)


async def test_a_listening_socket_of_another_process_does_not_count(proc: Proc, port: int) -> None:
    proc.wrote_down(f'PORT = "{port}"\n')
    proc.process(CORE, "oned", parent=FIRST, sockets=(41,))
    proc.listening(40)
    assert not await is_up(proc)


async def test_oned_behind_a_wrapper_is_up_once_it_listens(proc: Proc) -> None:
    proc.process(OURS, "sudo (1)", parent=CORE)
    assert not await is_up(proc, parent=OURS)
    proc.process(CORE, "oned", parent=FIRST, sockets=(41,))
    proc.listening(41)
    assert await is_up(proc, parent=OURS)


@pytest.mark.parametrize("address", ["", 'LISTEN_ADDRESS="0.0.0.0"', "LISTEN_ADDRESS=127.0.0.1"])
async def test_if_descriptors_are_hidden_the_port_in_the_core_configuration_is_tried(
    proc: Proc, port: int, address: str
) -> None:
    proc.hide(CORE)
    assert not await is_up(proc)
    proc.wrote_down(f"HOST_PER_INTERVAL=15\nPORT={port}\n{address}\nSCRIPTS_REMOTE_DIR=/var/tmp/one\n")
    assert await is_up(proc)


@pytest.mark.parametrize("line", ["PORT=99999", "PORT=x", "PORT=", 'LISTEN_ADDRESS="no such host"\nPORT=1'])
async def test_an_invalid_port_or_address_does_not_count(proc: Proc, line: str) -> None:
    proc.hide(CORE)
    proc.wrote_down(line)
    assert not await is_up(proc)


async def test_oned_counts_as_up_after_two_minutes(proc: Proc) -> None:
    proc.process(CORE, "oned", parent=FIRST, age=119)
    assert not await is_up(proc)
    proc.process(CORE, "oned", parent=FIRST, age=121)
    assert await is_up(proc)


async def test_replies_are_held_for_two_minutes_at_most(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the uptime may be the container's, and starts count from its host's."""
    (proc.root / "uptime").write_text("60.0 1.0\n")
    core = CoreUp(proc=str(proc.root), parent=CORE)
    assert not core.has_sign("")
    begun = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: begun + 121)
    assert core.has_sign("")


@pytest.mark.parametrize(
    ("name", "parent", "has_core"),
    [
        pytest.param("oned", FIRST, True, id="oned"),
        pytest.param("bash", FIRST, False, id="shell"),
        pytest.param("bash", 599, True, id="unreadable-ancestors"),
    ],
)
async def test_has_core_is_false_if_no_ancestor_is_oned(proc: Proc, name: str, parent: int, *, has_core: bool) -> None:
    proc.process(CORE, name, parent=parent)
    assert CoreUp(proc=str(proc.root), parent=CORE).has_core() is has_core
