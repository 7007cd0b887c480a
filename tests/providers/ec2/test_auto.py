"""INSTANCETYPE=auto on EC2's API: what is read before the plan, the type of a changed instance, and missing rights."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from one_provider_mad.domain import InstanceState, Template, VmRequest
from one_provider_mad.lab.ec2.price_lists import WINDOWS_A_CORE
from one_provider_mad.ownership.creating import Order as DeployOrder
from one_provider_mad.ownership.creating import planned
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.pricing.values import ON_DEMAND
from one_provider_mad.providers.ec2.launch import read_launch
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import CreatePlan, InstanceType, TypeChooser, TypeSource
from one_provider_mad.providers.public_cloud import read_section
from one_provider_mad.testing.conformance import describe_one, reach
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.test_prices import WINDOWS_IMAGE
from tests.providers.ec2.vms import a_vm, launched


def of_size(request: VmRequest, *, cpu: str = "1", memory: str = "2000") -> VmRequest:
    return msgspec.structs.replace(request, template=Template(values={"CPU": (cpu,), "MEMORY": (memory,)}))


async def as_it_comes(_what: str, send: Callable[[], Awaitable[None]], /) -> None:
    await send()


async def plan_of(provider: Ec2Provider, request: VmRequest) -> CreatePlan:
    """The plan of a deploy, with all that is read before it."""
    return await planned(DeployOrder(request=request), provider, call=as_it_comes)


def kinds(plan: CreatePlan) -> list[str]:
    return [read_launch(each).place.kind for each in plan.alternatives]


async def test_the_cheapest_types_that_hold_the_vm_are_planned(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    assert isinstance(provider, TypeSource)
    assert isinstance(provider, TypeChooser)
    plan = await plan_of(provider, of_size(a_vm(INSTANCETYPE="auto")))
    assert kinds(plan) == ["t3a.small", "t3.small", "t3a.medium", "t3.medium", "t3.large", "m5.large"]
    assert plan.warnings == ()
    called = [action for action, _ in ec2.account.calls]
    assert {"DescribeImages", "DescribeInstanceTypes"} <= set(called)


async def test_prices_of_the_configuration_win(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(
        pricing_endpoint_url=ec2.url, prices=PriceSettings(types={"m5.large": 0.001, "t3a.small": 5})
    )
    plan = await plan_of(provider, of_size(a_vm(INSTANCETYPE="auto")))
    assert kinds(plan) == ["m5.large", "t3.small", "t3a.medium", "t3.medium", "t3.large", "t3a.small"]


async def test_spot_prices_are_read_before_the_plan_of_a_spot_instance(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    plan = await plan_of(provider, of_size(a_vm(INSTANCETYPE="auto", SPOT="PREFERRED", ALLOWEDTYPES="t3.small,m5")))
    tried = [str(read_launch(each).place) for each in plan.alternatives]
    assert tried == ["spot t3.small", "t3.small", "spot m5.large", "m5.large"]
    assert "DescribeSpotPriceHistory" in [action for action, _ in ec2.account.calls]
    assert plan.warnings == ()


CAP = "InstanceMarketOptions.SpotOptions.MaxPrice"


@pytest.mark.parametrize(
    ("image", "asked", "sent"),
    [
        pytest.param("ami-0abc", "999999", "0.0208", id="more-than-on-demand"),
        pytest.param("ami-0abc", "0.01", "0.01", id="less"),
        pytest.param(WINDOWS_IMAGE, "999999", f"{0.0208 + 2 * WINDOWS_A_CORE:g}", id="by-the-images-operating-system"),
    ],
)
async def test_prices_are_read_before_the_plan_of_a_vm_with_a_spot_price_to_limit_it(
    ec2: FaultyEc2, connect: Open, image: str, asked: str, sent: str
) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    plan = await plan_of(provider, of_size(a_vm(SPOTPRICE=asked, AMI=image)))
    assert [read_launch(each).parameters.get(CAP) for each in plan.alternatives] == [sent]
    assert plan.warnings == ()


async def test_a_spot_price_is_left_out_where_prices_cannot_be_read(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    plan = await plan_of(provider, of_size(a_vm(SPOTPRICE="0.01")))
    assert CAP not in read_launch(plan.alternatives[0]).parameters
    assert [each.startswith("SPOTPRICE=0.01 is not sent to EC2 for t3.small") for each in plan.warnings] == [True]


async def test_types_are_compared_by_their_prices_with_the_images_operating_system(
    ec2: FaultyEc2, connect: Open
) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    request = of_size(a_vm(INSTANCETYPE="auto", AMI=WINDOWS_IMAGE))
    await plan_of(provider, request)
    offers = provider._offers(read_section(request, hypervisor="ec2"))
    assert offers.price_of("t3.small", ON_DEMAND).amount == pytest.approx(0.0208 + 2 * WINDOWS_A_CORE)


async def test_a_type_with_a_recent_shortage_is_planned_last(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    request = of_size(a_vm(INSTANCETYPE="auto", ALLOWEDTYPES="t3*"))
    first = await plan_of(provider, request)
    provider._shortages.note(read_launch(first.alternatives[0]).place)
    assert kinds(await plan_of(provider, request)) == [*kinds(first)[1:], kinds(first)[0]]


async def test_a_vm_that_names_its_type_has_nothing_read_before_its_plan(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    assert kinds(await plan_of(provider, of_size(a_vm()))) == ["t3.small"]
    assert ec2.account.calls == []


@pytest.mark.parametrize("refused", ["DescribeImages", "DescribeInstanceTypes", "DescribeSubnets"])
async def test_without_a_right_to_read_an_instance_is_planned_all_the_same(
    ec2: FaultyEc2, connect: Open, refused: str
) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    ec2.order(refused, times=9, code="UnauthorizedOperation", status=403)
    plan = await plan_of(provider, of_size(a_vm(INSTANCETYPE="auto")))
    assert kinds(plan)[0] == "t3a.small"
    said = refused == "DescribeImages"
    assert [each for each in plan.warnings if "architecture of AMI ami-0abc is unknown" in each] == [
        "the architecture of AMI ami-0abc is unknown: x86_64 is assumed, set ARCH otherwise"
    ] * said


@pytest.mark.parametrize(
    ("memory", "kind"),
    [pytest.param("2000", "t3a.small", id="cheapest"), pytest.param("6000", "t3.large", id="larger")],
)
async def test_a_stopped_instance_gets_the_cheapest_type_when_its_section_says_auto(
    ec2: FaultyEc2, connect: Open, memory: str, kind: str
) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    deploy_id = await launched(provider)
    await provider.stop(deploy_id, hard=True)
    await reach(provider, deploy_id, InstanceState.STOPPED)
    edited = of_size(a_vm(INSTANCETYPE="auto", AMI="ami-of-later"), memory=memory)
    await provider.reconfigure(deploy_id, edited, "INSTANCETYPE")
    instance = await describe_one(provider, deploy_id)
    assert instance is not None
    assert instance.attributes["AWS_INSTANCE_TYPE"] == kind


async def test_the_attributes_that_leave_the_type_to_the_driver_are_none_where_the_defaults_name_types(
    connect: Open,
) -> None:
    assert (await connect()).choice_attributes() == {"INSTANCETYPE": "auto"}
    assert (await connect(defaults={"INSTANCETYPE": "t3.small"})).choice_attributes() == {}


async def test_auto_of_the_defaults_chooses_for_a_vm_that_names_no_type(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(defaults={"INSTANCETYPE": "auto"}, pricing_endpoint_url=ec2.url)
    plain = of_size(a_vm(INSTANCETYPE=""))
    assert provider.chooses_type(plain)
    assert not provider.chooses_type(a_vm(INSTANCETYPE="t3.small"))
    assert kinds(await plan_of(provider, plain))[0] == "t3a.small"
    assert provider.usual_rooms([]) == frozenset(), "no type is usual"


@pytest.mark.parametrize(
    ("name", "gpus", "is_current", "expected"),
    [
        ("m5.large", 0, False, True),
        ("t2.micro", 0, True, True),
        ("g5.xlarge", 1, False, True),
        ("c3.large", 0, False, False),
        ("c10g.large", 0, False, True),
        ("m5.metal", 0, True, False),
        ("m1.small", 0, False, False),
        ("inf2.xlarge", 0, True, False),
        ("g4dn.xlarge", 1, True, True),
        ("g4dn.metal", 8, True, False),
        ("u-6tb1.56xlarge", 0, True, False),
        ("x2iedn.xlarge", 0, True, False),
    ],
)
async def test_types_of_the_standard_families_and_those_with_gpus_are_usual(
    connect: Open, name: str, gpus: int, *, is_current: bool, expected: bool
) -> None:
    kind = InstanceType(name=name, cpu=2, memory=4096, gpus=gpus, is_current=is_current)
    assert (await connect()).is_usual_type(kind) is expected
