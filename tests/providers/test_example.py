"""The example provider in docs/providers.md passes the conformance suite."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, cast

import pytest

from one_provider_mad.domain import DeployId
from one_provider_mad.providers.interface import (
    ContextUpdate,
    DeviceListing,
    DiskHotplug,
    DiskResize,
    DiskSnapshots,
    NetworkRules,
    NicHotplug,
    NicUpdates,
    PriceSource,
    Provider,
    ProviderContext,
    ProviderFactory,
    Resizable,
    Snapshots,
    Suspendable,
    TypeSource,
    UsualPrice,
)
from one_provider_mad.settings import convert
from one_provider_mad.testing.conformance import CloudUnderTest, OwnedCloudConformance

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
EXTRAS = (
    *(ContextUpdate, DeviceListing, DiskHotplug, DiskResize, DiskSnapshots, NetworkRules, NicHotplug, Resizable),
    *(NicUpdates, PriceSource, Snapshots, Suspendable, TypeSource, UsualPrice),
)


class Console:
    """Changes the dictionary that serves as the cloud, as another client of it would."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._numbers = itertools.count(1)

    async def launch(self) -> DeployId:
        made = DeployId(f"foreign-{next(self._numbers)}")
        self._module.SERVERS[made] = self._module.Server(id=made, token="", parameters={}, tags={}, made_at=1.0)
        return made

    async def terminate(self, deploy_id: DeployId) -> None:
        self._module.SERVERS[deploy_id].state = "gone"


@pytest.fixture(scope="module")
def code() -> CodeType:
    """The code of the example."""
    (text,) = re.findall(r"^```python\n(.+?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return compile(text, str(PAGE), "exec")


class TestExampleProviderConforms(OwnedCloudConformance):
    @pytest.fixture
    def cloud(self, code: CodeType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CloudUnderTest:
        module = ModuleType("mycloud_one")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(code, vars(module))
        factory: ProviderFactory = vars(module)["factory"]
        place = ProviderContext(name="my", hypervisor="my", owner="tests", state_directory=tmp_path, warn=pytest.fail)
        return CloudUnderTest(
            connect=lambda: cast("Provider", factory(place, convert({}, factory.settings_type, path=None))),
            console=Console(module),
            section={"TYPE": "my", "IMAGE": "debian"},
            other_section={"SIZE": "large"},
            unknown_deploy_id=DeployId("my-0"),
            lacks=dict.fromkeys(EXTRAS, "it is the smallest one"),
        )
