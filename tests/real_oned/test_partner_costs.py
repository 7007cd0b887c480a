"""Costs of templates and VMs, as a real OpenNebula answers a partner: to oneadmin, and to an ordinary user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.opennebula.provider import OpenNebulaProvider, factory
from tests.providers.opennebula.partner_provider import a_vm
from tests.real_oned.zone import SESSION, Zone

pytestmark = [pytest.mark.oned, pytest.mark.timeout(600)]

DEFAULT = "DEFAULT_COST = [ CPU_COST = 0.25, MEMORY_COST = 0, DISK_COST = 0 ]\n"
PRICED = """
NAME = "priced"
CPU = 2
MEMORY = 1000
CPU_COST = 0.5
MEMORY_COST = 0.001
DISK_COST = 0.0001
DISK = [ TYPE = "fs", SIZE = 500 ]
"""
PLAIN = 'NAME = "plain"\nCPU = 2\nMEMORY = 1000'


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    zone = Zone(installed, tmp_path_factory.mktemp("zone") / "one", clouds={}, settings=DEFAULT)
    zone.configure()
    try:
        zone.start()
        for text in (PRICED, PLAIN):
            number = zone.call("one.template.allocate", text)
            zone.call("one.template.chmod", number, *(1, 0, 0) * 3)
        zone.call("one.user.allocate", "burst", "secret", "")
        yield zone
    finally:
        zone.stop()


def connected(zone: Zone, folder: Path, session: str) -> OpenNebulaProvider:
    key = folder / "auth"
    key.write_text(f"{session}\n")
    key.chmod(0o600)
    context = ProviderContext(name="burst", hypervisor="opennebula", owner="a", state_directory=folder, warn=print)
    table = {
        "endpoints": [zone.url],
        "credentials_file": str(key),
        "capacity_from": "template",
    }
    provider = factory(context, msgspec.convert(table, factory.settings_type))
    assert isinstance(provider, OpenNebulaProvider)
    return provider


@pytest.mark.parametrize("session", [SESSION, "burst:secret"], ids=["oneadmin", "user"])
async def test_templates_and_vms_cost_what_showback_would_count(zone: Zone, tmp_path: Path, session: str) -> None:
    provider = connected(zone, tmp_path, session)
    await provider.open()
    try:
        await provider.read_prices([])
        plans = {
            name: provider.plan(a_vm(TEMPLATE_ID="", TEMPLATE_NAME=name, HOLD="YES")).alternatives[0]
            for name in ("priced", "plain")
        }
        texts = {name: provider.price_of_create(parameters).text for name, parameters in plans.items()}
        is_told = session == SESSION or zone.release >= (7, 0)  # 5.10 tells DEFAULT_COST to administrators only
        assert texts == {"priced": "2.0500", "plain": "0.5000" if is_told else "?"}
        number = zone.number_of("template", "priced")
        created = zone.call("one.template.instantiate", number, "made", True, "", False)
        if session != SESSION:
            zone.call("one.vm.chown", created, zone.number_of("user", "burst"), -1)
        [made] = [each for each in await provider.list_instances() if each.deploy_id.endswith(f"-{created}")]
        assert provider.price_of(made).text == "0.0000"
        assert made.attributes["REMOTE_OPENNEBULA_DISK_SIZE"] == "500"
        assert provider.price_of(msgspec.structs.replace(made, raw_state="RUNNING")).text == "2.0500"
    finally:
        await provider.close()
