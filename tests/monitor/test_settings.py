"""`[monitor]` and `[capacity]`: what they say, and that the page about them is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.errors import SettingsError
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings, Rhythm, read_tables
from one_provider_mad.protocol.im_messages import Periods
from one_provider_mad.protocol.reports import VmWord
from one_provider_mad.settings import Configuration, Settings

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
ASKED = Periods(beacon_host=1, system_host=2, state_vm=3, sync_state_vm=4, monitor_vm=5)


def tables(**settings: Any) -> tuple[MonitorSettings, CapacitySettings]:
    path = Path("/etc/one/one_provider_mad/sea.toml")
    return read_tables(
        Configuration(name="sea", path=path, settings=Settings(provider="simulated", **settings), table={})
    )


def test_nothing_needs_to_be_set() -> None:
    assert tables() == (MonitorSettings(), CapacitySettings())


def test_periods_are_what_monitord_asks_for() -> None:
    assert MonitorSettings().rhythm(ASKED) == Rhythm(heartbeat=1, system=2, state=3, sync=4, figures=5)


def test_periods_that_are_set_come_first() -> None:
    settings, _ = tables(
        monitor={"heartbeat": 10, "system_period": 20, "state_period": 0.5, "sync_period": 40, "vm_period": 50}
    )
    assert settings.rhythm(ASKED) == Rhythm(heartbeat=10, system=20, state=0.5, sync=40, figures=50)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param({"monitor": {"hartbeat": 1}}, "sea.toml: monitor.hartbeat is no setting", id="misspelt"),
        pytest.param({"monitor": {"heartbeat": 0}}, "sea.toml: monitor.heartbeat: expected", id="no-period"),
        pytest.param({"monitor": {"missing_state": "GONE"}}, "sea.toml: monitor.missing_state", id="no-such-word"),
        pytest.param({"monitor": {"unusual_share": 2}}, "sea.toml: monitor.unusual_share", id="no-share"),
        pytest.param({"capacity": {"cpu": "8"}}, "sea.toml: capacity.cpu: expected", id="text"),
        pytest.param({"capacity": {"small": 3}}, "sea.toml: capacity.small is no setting", id="a-type-on-its-own"),
    ],
)
def test_a_mistake_is_told_with_file_and_key(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as told:
        tables(**settings)
    assert str(told.value).startswith(sentence)


def test_a_missing_state_is_a_word_of_the_wire() -> None:
    assert MonitorSettings().missing_word is VmWord.UNKNOWN
    assert MonitorSettings(missing_state="POWEROFF").missing_word is VmWord.POWEROFF


def test_the_page_shows_every_key_and_what_it_is_when_it_is_not_set() -> None:
    shown = tomllib.loads(re.findall(r"```toml\n(.+?)```", PAGE.read_text(), re.DOTALL)[0])
    settings, capacity = tables(**shown)
    text = PAGE.read_text()
    assert all(f"`{name}`" in text or f"\n{name} = " in text for name in MonitorSettings.__struct_fields__)
    assert all(name in shown["capacity"] for name in CapacitySettings.__struct_fields__)
    for name, value in shown["monitor"].items():
        if name != "heartbeat":  # it shows what monitord.conf is shipped with
            assert value == getattr(MonitorSettings(), name), name
    assert settings.heartbeat == Periods().beacon_host
    assert capacity.instance_types
