"""What VMs at a partner's cost: its showback's arithmetic, by state, and for VMs that do not exist yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, Template, VmId, VmRequest
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.pricing.values import ON_DEMAND
from one_provider_mad.providers.interface import PriceSource, ProviderContext, UsualPrice
from one_provider_mad.providers.opennebula.provider import OpenNebulaProvider
from one_provider_mad.providers.opennebula.settings import OpenNebulaSettings
from one_provider_mad.testing.conformance import OWNER, a_call, describe_one, reach
from tests.providers.opennebula.partner_provider import a_vm, connect
from tests.xmlrpc.partner import Partner

COSTS = "CPU_COST=0.5\nMEMORY_COST=0.001\nDISK_COST=0.0001"
PRICED = f'CPU=2\nMEMORY=1000\n{COSTS}\nDISK=[ IMAGE_ID="4" ]\nDISK=[ TYPE="fs", SIZE="500" ]'
"""1 for 2 cores, 1 for 1000 MB, 0.2548 for the image's 2048 and the volatile disk's 500 MB: 2.2548 an hour."""

FACTS = {
    "REMOTE_OPENNEBULA_CPU": "2",
    "REMOTE_OPENNEBULA_MEMORY": "1000",
    "REMOTE_OPENNEBULA_DISK_SIZE": "2548",
    "REMOTE_OPENNEBULA_CPU_COST": "0.5",
    "REMOTE_OPENNEBULA_MEMORY_COST": "0.001",
    "REMOTE_OPENNEBULA_DISK_COST": "0.0001",
}


@pytest.fixture(params=["5.10.5", "7.4.0"])
def partner(request: pytest.FixtureRequest) -> Iterator[Partner]:
    with Partner(request.param, delay=0.002) as partner:
        partner.writes_sizes = True
        partner.templates[9] = ("priced", PRICED)
        yield partner


@pytest.fixture
async def provider(partner: Partner, tmp_path: Path) -> AsyncIterator[OpenNebulaProvider]:
    provider = connect(partner, tmp_path, capacity_from="template")
    await provider.open()
    await provider.read_prices([])
    yield provider
    await provider.close()


def offline(**prices: Any) -> OpenNebulaProvider:
    """A provider that has read nothing."""
    context = ProviderContext(
        name="burst",
        hypervisor="opennebula",
        owner=OWNER,
        state_directory=Path("/nowhere"),
        prices=msgspec.convert(prices, PriceSettings),
        warn=print,
    )
    provider = OpenNebulaProvider(context, OpenNebulaSettings())
    assert isinstance(provider, PriceSource)
    assert isinstance(provider, UsualPrice)
    return provider


def remote(state: InstanceState = InstanceState.RUNNING, word: str = "RUNNING", **facts: str) -> Instance:
    attributes = {**FACTS, **{f"REMOTE_OPENNEBULA_{name}": value for name, value in facts.items()}}
    return Instance(deploy_id=DeployId("opennebula-hybrid-1"), state=state, raw_state=word, attributes=attributes)


# By the listing


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        pytest.param(remote(), "2.2548", id="running"),
        pytest.param(remote(InstanceState.STOPPED, "POWEROFF"), "2.2548", id="powered-off"),
        pytest.param(remote(InstanceState.SUSPENDED, "SUSPENDED"), "2.2548", id="suspended"),
        pytest.param(remote(InstanceState.STOPPED, "UNDEPLOYED"), "0.0000", id="undeployed"),
        pytest.param(remote(InstanceState.SUSPENDED, "STOPPED"), "0.0000", id="stopped"),
        pytest.param(remote(InstanceState.PENDING, "HOLD"), "0.0000", id="on-hold"),
        pytest.param(remote(InstanceState.PENDING, "PROLOG"), "2.2548", id="prolog"),
        pytest.param(remote(InstanceState.TERMINATED, "DONE"), "0.0000", id="done"),
        pytest.param(remote(DISK_COST=""), "2.0000+?", id="cost-of-disks-not-known"),
        pytest.param(remote(DISK_SIZE="?"), "2.0000+?", id="size-not-known"),
        pytest.param(remote(CPU_COST="", MEMORY_COST="", DISK_COST=""), "?", id="no-costs"),
        pytest.param(remote(DISK_SIZE=""), "2.0000", id="no-disks"),
        pytest.param(Instance(deploy_id=DeployId("x"), state=InstanceState.UNKNOWN, raw_state="?"), "?", id="hidden"),
    ],
)
def test_a_remote_vm_costs_while_it_is_on_a_host(instance: Instance, expected: str) -> None:
    assert offline().price_of(instance).text == expected


def test_prices_of_the_configuration_win_and_are_for_a_core_and_a_gib() -> None:
    priced = offline(types={"CPU": 1.0, "MEMORY": 1.024}, disks={"*": 0.0})
    assert priced.price_of(remote()).amount == pytest.approx(2 * 1.0 + 1000 / 1024 * 1.024)


def test_the_price_in_another_state_is_that_of_a_vm_that_is_powered_off() -> None:
    provider = offline()
    pending = remote(InstanceState.PENDING, "PENDING")
    assert provider.price_of(pending).text == "0.0000"
    assert provider.price_of(pending, state=InstanceState.RUNNING).text == "2.2548"
    assert provider.price_of(remote(), state=InstanceState.STOPPED).text == "2.2548"
    assert provider.price_of(remote()) is provider.price_of(remote())


def test_a_resize_costs_the_new_size() -> None:
    larger = Template(values={"CPU": ("4",), "VCPU": ("4",), "MEMORY": ("2000",)})
    request = VmRequest(vm_id=VmId(1), template=larger)
    assert offline().price_of_resize(remote(), request).text == "4.2548"


# By the partner's lists


async def test_a_vm_costs_what_its_create_was_said_to_cost(partner: Partner, provider: OpenNebulaProvider) -> None:
    call = a_call(provider, a_vm(TEMPLATE_ID="9"))
    assert provider.price_of_create(call.parameters).text == "2.2548"
    assert provider.disk_size(call.parameters) == pytest.approx(2548 / 1024)
    deploy_id = await provider.create(call)
    await reach(provider, deploy_id, InstanceState.RUNNING)
    made = await describe_one(provider, deploy_id)
    assert made is not None
    assert provider.price_of(made).text == "2.2548"
    assert provider.kind_of(made) == ("template-9", ON_DEMAND)


async def test_a_vm_without_costs_has_those_of_oned_conf_unless_they_are_the_shipped_zeros(
    partner: Partner, tmp_path: Path
) -> None:
    texts = []
    for cost in ("0", "0.25"):
        partner.default_cost = {"CPU_COST": cost, "MEMORY_COST": "0", "DISK_COST": "0"}
        provider = connect(partner, tmp_path, template="0")
        await provider.open()
        await provider.read_prices([])
        texts.append(provider.price_of_create(provider.plan(a_vm(MEMORY="512", CPU="2")).alternatives[0]).text)
        texts.append(provider.usual_price(()).text)
        await provider.close()
    assert texts == ["?", "?", "0.5000", "0.2500"]


async def test_without_a_default_template_the_cheapest_counts_as_usual(provider: OpenNebulaProvider) -> None:
    assert provider.usual_price(()).text == "2.0000"


async def test_a_disk_to_attach_has_the_default_cost(provider: OpenNebulaProvider) -> None:
    assert provider.price_of_disk({"SIZE": "1024"}).text == "0.0000"
    assert offline().price_of_disk({"SIZE": "1024"}).text == "?"


async def test_a_partner_that_does_not_answer_is_warned_of_once_and_prices_stay_unknown(
    partner: Partner, tmp_path: Path
) -> None:
    warnings: list[str] = []
    provider = connect(partner, tmp_path, warn=warnings.append)
    await provider.open()
    partner.order("http-500", "one.templatepool.info", times=9)
    await provider.read_prices([])
    await provider.read_prices([])
    assert provider.price_of_create(provider.plan(a_vm(TEMPLATE_ID="9")).alternatives[0]).text == "?"
    await provider.close()
    [warning] = warnings
    assert warning.startswith("the partner's costs cannot be read, so prices of its VMs may be unknown: ")


@pytest.mark.parametrize(
    ("vm", "type_name"),
    [
        pytest.param(a_vm(TEMPLATE_ID="9"), "template-9", id="number"),
        pytest.param(a_vm(TEMPLATE_ID="", TEMPLATE_NAME="burst-small"), "burst-small", id="name"),
    ],
)
async def test_the_type_of_a_create_is_the_remote_template(vm: VmRequest, type_name: str) -> None:
    """`allowed_types` of `[budget]` compares with it; the first part of the price is no type, but CPU."""
    provider = offline()
    [parameters] = provider.plan(vm).alternatives
    assert provider.type_of_create(parameters) == type_name
