"""Recognise a machine by its name, machine-id and hardware address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from one_provider_mad.orphans import machine as machines

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A machine with this name, machine-id and hardware address, and with these network devices."""
    monkeypatch.setattr(machines, "_DEVICES", tmp_path / "net")

    def make(name: str = "front", machine_id: str = "b3d1", address: int = 0x52540012AB34, *devices: str) -> str:
        for number, device in enumerate(devices):
            folder = tmp_path / "net" / f"eth{9 - number}"
            (folder / "device").mkdir(parents=True, exist_ok=True)
            (folder / "ifindex").write_text(f"{number + 2}\n")
            (folder / "address").write_text(f"{device}\n")
        file = tmp_path / "machine-id"
        file.write_text(f"{machine_id}\n")
        monkeypatch.setattr("socket.gethostname", lambda: name)
        monkeypatch.setattr("uuid.getnode", lambda: address)
        monkeypatch.setattr(machines, "_MACHINE_IDS", (tmp_path / "none", file))
        return machines.machine()

    return make


@pytest.mark.parametrize("other", [{"name": "drill"}, {"machine_id": "77aa"}, {"address": 0x52540012AB35}])
def test_another_name_machine_id_or_address_is_another_machine(make: Make, other: dict[str, object]) -> None:
    here = make()
    assert make(**other) != here
    assert make() == here


def test_a_random_hardware_address_is_ignored(make: Make) -> None:
    assert make(address=0x0154_0000_0001) == make(address=0x0354_0000_0002)


def test_a_machine_with_network_devices_is_recognised_before_its_network_is_up(make: Make) -> None:
    """Python reads the address only of an interface with an IPv4 address, and the driver may start before that."""
    devices = ("52:54:00:12:ab:34", "52:54:00:00:00:01")
    here = make("front", "b3d1", 0x52540012AB34, *devices)
    assert make("front", "b3d1", 0x0154_0000_0001) == here
    assert make("front", "b3d1", 0x0242_AC11_0002) == here, "a bridge came up first"
    assert make("front", "b3d1", 0x52540012AB34, "52:54:00:12:ab:35") != here


def test_a_machine_without_machine_id_still_has_an_identifier(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = make()
    monkeypatch.setattr(machines, "_MACHINE_IDS", ())
    assert machines.machine() not in ("", here)
