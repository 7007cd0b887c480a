from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from one_provider_mad.errors import SettingsError
from one_provider_mad.providers import registry
from one_provider_mad.providers.interface import VerbatimDriver
from one_provider_mad.providers.registry import BUILT_IN, MOST_WARNINGS, build, costs_money
from one_provider_mad.providers.simulated.provider import SimulatedProvider
from one_provider_mad.settings import Configuration, Places, Settings
from tests.providers.plugins import install

ROOT = Path(__file__).parents[2]

PLUGIN = """
import msgspec

class Table(msgspec.Struct, forbid_unknown_fields=True):
    region: str = "north"

class Plugin:
    name = "plugin"
    is_busy = False
    def __init__(self, context, settings):
        self.context, self.settings = context, settings
    async def open(self): ...
    async def close(self): ...
    async def perform(self, request, log): ...

class Factory:
    settings_type = Table
    def __call__(self, context, settings):
        return Plugin(context, settings)

factory = Factory()
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(conf=tmp_path / "conf", var=tmp_path / "var", log=tmp_path / "log")


def configuration(kind: str, table: Mapping[str, Any] | None = None) -> Configuration:
    return Configuration(
        name="provider_name",
        path=Path("/etc/provider_name.toml"),
        settings=Settings(provider=kind, owner="harbour", hypervisor="cloud"),
        table=table or {},
    )


def refusal(configuration: Configuration, places: Places) -> str:
    with pytest.raises(SettingsError) as caught:
        build(configuration, places, print)
    return str(caught.value)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_each_built_in_provider_is_imported_and_refuses_unknown_settings(kind: str, places: Places) -> None:
    assert refusal(configuration(kind, {"no_such_key": 1}), places) == (
        f"provider_name.toml: {kind}.no_such_key is no setting of this release; check the spelling"
        " (/etc/provider_name.toml)"
    )


def test_building_a_provider_creates_no_directory(places: Places) -> None:
    assert isinstance(build(configuration("simulated"), places, print), SimulatedProvider)
    assert not places.var.exists()


def test_settings_are_checked_against_the_providers_own_settings_type(places: Places) -> None:
    assert refusal(configuration("simulated", {"latency": "slow"}), places) == (
        "provider_name.toml: simulated.latency: expected `float`, got `str` (/etc/provider_name.toml)"
    )
    assert refusal(configuration("simulated", {"lattency": 1}), places) == (
        "provider_name.toml: simulated.lattency is no setting of this release; check the spelling"
        " (/etc/provider_name.toml)"
    )


def test_an_unknown_provider_is_refused_with_the_list_of_available_ones(places: Places) -> None:
    sentence = refusal(configuration("ec3"), places)
    assert sentence.startswith("provider_name.toml: provider: there is no provider 'ec3' here, only ")
    assert all(kind in sentence for kind in BUILT_IN)


def test_a_third_party_provider_is_found_by_its_entry_point_and_its_warnings_are_limited(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, name="plugin", module="plugin_cloud", code=PLUGIN)
    warnings: list[str] = []
    built = build(configuration("plugin", {"region": "south"}), places, warnings.append)
    assert (built.name, isinstance(built, VerbatimDriver)) == ("plugin", True)
    found = cast("Any", built)
    assert found.settings.region == "south"
    context = found.context
    assert (context.name, context.hypervisor, context.owner) == ("provider_name", "cloud", "harbour")
    assert context.state_directory == places.var
    context.warn("careful")
    assert warnings == ["careful"]
    for number in range(300_000):
        context.warn(f"instance i-{number} is strange")
    assert len(warnings) == MOST_WARNINGS
    later = time.monotonic() + 61
    monkeypatch.setattr(registry, "monotonic", lambda: later)
    context.warn("careful again")
    assert warnings[MOST_WARNINGS:] == ["299901 more warnings of the cloud were left out", "careful again"]
    assert "plugin" in refusal(configuration("unknown"), places)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("import not_installed_anywhere", "No module named 'not_installed_anywhere'", id="missing-part"),
        pytest.param("1 / 0", "division by zero", id="crashes"),
        pytest.param("", "has no attribute 'factory'", id="no-factory"),
    ],
)
def test_a_provider_that_cannot_be_imported_is_refused_with_the_reason(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    install(tmp_path / "site", monkeypatch, name="broken", module="broken_cloud", code=code)
    sentence = refusal(configuration("broken"), places)
    assert sentence.startswith("provider_name.toml: provider: 'broken' cannot be imported: ")
    assert reason in sentence


def test_an_entry_point_does_not_replace_a_built_in_provider(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, name="simulated", module="plugin_cloud", code=PLUGIN)
    assert isinstance(build(configuration("simulated"), places, print), SimulatedProvider)


@pytest.mark.parametrize(
    ("kind", "is_priced"), [("simulated", False), ("ec2", True), ("opennebula", True), ("plugin", True)]
)
def test_only_instances_of_the_simulated_cloud_and_declared_free_ones_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, is_priced: bool
) -> None:
    install(tmp_path / "site", monkeypatch, name="plugin", module="plugin_cloud", code=PLUGIN)
    assert costs_money(configuration(kind)) is is_priced


def test_a_third_party_provider_may_declare_its_instances_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = PLUGIN.replace("settings_type = Table", "settings_type = Table; costs_money = False")
    install(tmp_path / "site", monkeypatch, name="plugin", module="plugin_cloud", code=free)
    assert not costs_money(configuration("plugin"))


def test_a_real_cloud_is_refused_if_its_state_directory_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, name="plugin", module="plugin_cloud", code=PLUGIN)
    places = Places(conf=tmp_path, var=tmp_path, log=tmp_path, is_stand_in=True, is_temporary=True)
    build(configuration("simulated"), places, print)
    assert refusal(configuration("plugin"), places) == (
        "no lasting directory for the state of provider_name: set ONE_LOCATION, or run as OpenNebula's user"
    )


def test_building_the_simulated_cloud_does_not_import_other_providers() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from one_provider_mad.providers.registry import build, BUILT_IN\n"
        "from one_provider_mad.settings import *\n"
        "places = Places(conf=Path('/'), var=Path('/nowhere'), log=Path('/'))\n"
        "build(Configuration(name='x', path=None, settings=Settings(provider='simulated'), table={}), places, print)\n"
        "others = [module for kind, module in BUILT_IN.items() if kind != 'simulated']\n"
        "print([name for name in [*others, 'aiohttp', 'importlib.metadata'] if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
