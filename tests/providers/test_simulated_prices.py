"""What instances of the simulated cloud cost: type, market, disks, address, and what a stopped one costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, Instance, InstanceState, Template, VmId, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.pricing.values import ON_DEMAND, SPOT
from one_provider_mad.providers.interface import InstanceType, PriceSource, ProviderContext, TypeSource
from one_provider_mad.providers.simulated.provider import SimulatedProvider, factory

ROUND = {"prices": {"stopped": 0.5, "spot": 0.25, "disk": 73.0, "address": 0.5}}
"""Prices with which sums are seen at once: a GiB of disk costs 0.1 an hour."""


def a_cloud(prices: dict[str, Any] | None = None, **settings: Any) -> SimulatedProvider:
    context = ProviderContext(
        name="sim",
        hypervisor="sim",
        owner="tests",
        state_directory=Path("/nowhere"),
        prices=msgspec.convert(prices or {}, PriceSettings),
        warn=print,
    )
    provider = factory(context, msgspec.convert({**ROUND, **settings}, factory.settings_type))
    assert isinstance(provider, SimulatedProvider)
    return provider


def an_instance(state: InstanceState = InstanceState.RUNNING, **facts: str) -> Instance:
    return Instance(
        deploy_id=DeployId("sim-1"),
        state=state,
        raw_state=state.value,
        attributes={"SIM_INSTANCE_TYPE": "large_8gb", **facts},
    )


def a_vm(*disks: int, **section: str) -> VmRequest:
    values = {"CPU": ("1",), "MEMORY": ("256",)}
    vectors = tuple({"DISK_ID": str(number), "SIZE": str(size)} for number, size in enumerate(disks))
    user = Template(values={"PUBLIC_CLOUD": ({"TYPE": "sim", **section},)})
    return VmRequest(vm_id=VmId(1), template=Template(values={**values, "DISK": vectors}), user_template=user)


@pytest.mark.parametrize(
    ("instance", "prices", "expected"),
    [
        pytest.param(an_instance(), {}, "0.6200", id="type-and-address"),
        pytest.param(an_instance(InstanceState.PENDING), {}, "0.6200", id="pending"),
        pytest.param(an_instance(SIM_DISKS="0:1024,3:512"), {}, "0.7700", id="disks"),
        pytest.param(an_instance(SIM_MARKET="spot"), {}, "0.5300", id="spot"),
        pytest.param(an_instance(InstanceState.STOPPED, SIM_DISKS="0:1024"), {}, "0.6600", id="stopped"),
        pytest.param(an_instance(InstanceState.SUSPENDING), {}, "0.5600", id="suspending"),
        pytest.param(an_instance(InstanceState.TERMINATING, SIM_DISKS="0:1024"), {}, "0.0000", id="terminating"),
        pytest.param(an_instance(SIM_INSTANCE_TYPE="huge"), {}, "0.5000+?", id="type-that-the-settings-lost"),
        pytest.param(an_instance(SIM_INSTANCE_TYPE=""), {}, "?", id="without-a-type"),
        pytest.param(an_instance(), {"types": {"large_8gb": 2}}, "2.5000", id="configured"),
        pytest.param(an_instance(), {"discount": 50}, "0.3100", id="discount"),
    ],
)
def test_an_instance_costs_its_type_by_state_and_market_its_disks_and_its_address(
    instance: Instance, prices: dict[str, Any], expected: str
) -> None:
    assert a_cloud(prices).price_of(instance).text == expected


def test_the_price_in_another_state_is_that_of_an_instance_in_that_state() -> None:
    cloud = a_cloud()
    stopped = cloud.price_of(an_instance(InstanceState.STOPPED))
    assert cloud.price_of(an_instance(), state=InstanceState.STOPPED) is stopped
    assert stopped.currency == "USD"


@given(st.lists(st.integers(0, 10**7), max_size=4), st.sampled_from(["YES", "no", "NO"]))
def test_a_create_costs_what_the_instance_that_it_makes_costs(disks: list[int], spot: str) -> None:
    cloud = a_cloud()
    [parameters] = cloud.plan(a_vm(*disks, PROVIDER_INSTANCE_TYPE="large_8gb", SPOT=spot)).alternatives
    market: dict[str, Any] = {"SIM_MARKET": "spot"} if spot == "YES" else {}
    made = an_instance(SIM_DISKS=",".join(f"{number}:{size}" for number, size in enumerate(disks)), **market)
    assert cloud.price_of_create(parameters).amount == pytest.approx(cloud.price_of(made).amount)
    assert cloud.disk_size(parameters) == pytest.approx(sum(disks) / 1024)
    assert cloud.kind_of(made) == ("large_8gb", SPOT if market else ON_DEMAND)


def test_parameters_on_demand_are_those_of_releases_without_a_spot_market() -> None:
    assert "market" not in a_cloud().plan(a_vm()).alternatives[0]


def test_a_wish_for_spot_that_is_neither_yes_nor_no_is_refused() -> None:
    with pytest.raises(BadParameter, match="SPOT=CHEAP of the PUBLIC_CLOUD section is neither YES nor NO"):
        a_cloud().plan(a_vm(SPOT="cheap"))


def test_a_disk_costs_its_size_and_a_resize_the_type_that_it_leads_to() -> None:
    cloud = a_cloud()
    assert cloud.price_of_disk({"SIZE": "2048"}).text == "0.2000"
    larger = Template(values={"CPU": ("2",), "VCPU": ("8",), "MEMORY": ("9000",)})
    request = VmRequest(vm_id=VmId(1), template=larger)
    assert cloud.price_of_resize(an_instance(SIM_DISKS="0:1024"), request).text == "0.8400"


def test_types_have_their_size_family_and_price_and_one_without_a_price_is_unknown() -> None:
    gpu = {"cpu": 8, "memory": 32768, "price": 1.5, "gpus": 1, "gpu": "NVIDIA T4", "architecture": "arm64"}
    cloud = a_cloud(instance_types={"gpu_large": gpu, "odd": {"cpu": 1, "memory": 64}})
    assert isinstance(cloud, TypeSource)
    assert isinstance(cloud, PriceSource)
    assert cloud.instance_types()["gpu_large"] == InstanceType(
        name="gpu_large",
        cpu=8,
        memory=32768,
        gpus=1,
        gpu="NVIDIA T4",
        architectures=("arm64",),
        family="gpu",
    )
    assert cloud.price_of_type("gpu_large", market=ON_DEMAND).text == "1.5000"
    assert cloud.price_of_type("gpu_large", market=SPOT).text == "0.3750"
    assert cloud.price_of_type("odd", market=ON_DEMAND).text == "?"
