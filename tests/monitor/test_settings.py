"""Settings of `[monitor]` and `[capacity]`, and their documentation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.errors import SettingsError
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings, ReportPeriods, read_tables
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


def test_all_monitoring_settings_have_defaults() -> None:
    assert tables() == (MonitorSettings(), CapacitySettings())


def test_periods_are_those_of_monitord_by_default() -> None:
    assert MonitorSettings().report_periods(ASKED) == ReportPeriods(heartbeat=1, system=2, state=3, sync=4, figures=5)


def test_configured_periods_replace_those_of_monitord() -> None:
    settings, _ = tables(
        monitor={"heartbeat": 10, "system_period": 20, "state_period": 0.5, "sync_period": 40, "vm_period": 50}
    )
    assert settings.report_periods(ASKED) == ReportPeriods(heartbeat=10, system=20, state=0.5, sync=40, figures=50)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param({"monitor": {"hartbeat": 1}}, "sea.toml: monitor.hartbeat is no setting", id="misspelt"),
        pytest.param({"monitor": {"heartbeat": 0}}, "sea.toml: monitor.heartbeat: expected", id="no-period"),
        pytest.param({"monitor": {"missing_state": "GONE"}}, "sea.toml: monitor.missing_state", id="no-such-word"),
        pytest.param({"monitor": {"unusual_share": 2}}, "sea.toml: monitor.unusual_share", id="no-share"),
        pytest.param({"capacity": {"cpu": "8"}}, "sea.toml: capacity.cpu: expected", id="text"),
        pytest.param(
            {"capacity": {"small": 3}}, "sea.toml: capacity.small is no setting", id="type-outside-instance_types"
        ),
    ],
)
def test_an_invalid_setting_is_refused_with_file_and_key(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tables(**settings)
    assert str(caught.value).startswith(sentence)


def test_missing_state_is_unknown_or_poweroff() -> None:
    assert MonitorSettings().missing_word is VmWord.UNKNOWN
    assert MonitorSettings(missing_state="POWEROFF").missing_word is VmWord.POWEROFF


def test_the_page_about_monitoring_names_every_setting_and_its_default() -> None:
    shown = tomllib.loads(re.findall(r"```toml\n(.+?)```", PAGE.read_text(), re.DOTALL)[0])
    settings, capacity = tables(**shown)
    text = PAGE.read_text()
    assert all(f"`{name}`" in text or f"\n{name} = " in text for name in MonitorSettings.__struct_fields__)
    assert all(name in shown["capacity"] for name in CapacitySettings.__struct_fields__)
    for name, value in shown["monitor"].items():
        if name != "heartbeat":  # it shows the value in the shipped monitord.conf
            assert value == getattr(MonitorSettings(), name), name
    assert settings.heartbeat == Periods().beacon_host
    assert capacity.instance_types
