"""What tells one machine from another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from one_provider_mad.orphans import machine as machines

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A machine of this name, with this machine-id and hardware address."""

    def make(name: str = "front", machine_id: str = "b3d1", address: int = 0x52540012AB34) -> str:
        file = tmp_path / "machine-id"
        file.write_text(f"{machine_id}\n")
        monkeypatch.setattr("socket.gethostname", lambda: name)
        monkeypatch.setattr("uuid.getnode", lambda: address)
        monkeypatch.setattr(machines, "_MACHINE_IDS", (tmp_path / "none", file))
        return machines.machine()

    return make


@pytest.mark.parametrize("other", [{"name": "drill"}, {"machine_id": "77aa"}, {"address": 0x52540012AB35}])
def test_a_copy_that_differs_in_anything_is_another_machine(make: Make, other: dict[str, object]) -> None:
    here = make()
    assert make(**other) != here
    assert make() == here


def test_an_address_that_is_made_up_at_each_start_does_not_count(make: Make) -> None:
    assert make(address=0x0154_0000_0001) == make(address=0x0354_0000_0002)


def test_a_machine_that_tells_nothing_but_its_name_has_a_text_all_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make()
    monkeypatch.setattr(machines, "_MACHINE_IDS", ())
    assert machines.machine() not in ("", here)
