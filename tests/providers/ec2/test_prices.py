"""What instances, creates and leftovers cost, with the price list and the volumes of the embedded endpoint."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from one_provider_mad.domain import DeployId, Instance, InstanceState, Template, VmRequest
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.pricing.values import MONTH_HOURS, ON_DEMAND, SPOT, Price
from one_provider_mad.providers.ec2 import prices
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import PriceSource, TypeSource, UsualPrice
from one_provider_mad.testing.conformance import reach
from tests.providers.ec2.conftest import Open, make
from tests.providers.ec2.faulty_endpoint import REGION, FaultyEc2
from tests.providers.ec2.vms import a_vm, launched
from tests.waiting import HANG, until

SMALL, GP3, ADDRESS = 0.0208, 0.08 / MONTH_HOURS, 0.005
"""Dollars an hour of a t3.small, of a GiB of gp3, and of a public address."""

ROOT = 8
"""GiB of the root volume of the endpoint's images."""

WINDOWS_IMAGE = "ami-0ff00000000002022"


@pytest.fixture
async def priced(ec2: FaultyEc2, connect: Open) -> Ec2Provider:
    """A provider that has read its prices."""
    provider = await connect(pricing_endpoint_url=ec2.url)
    await provider.read_prices(())
    return provider


async def listed(provider: Ec2Provider, deploy_id: DeployId) -> Instance:
    return (await provider.describe([deploy_id]))[deploy_id]


def disk(number: int, gib: int) -> dict[str, str]:
    return {"DISK_ID": str(number), "SIZE": str(gib * 1024), "TYPE": "FS"}


def a_vm_with_disks(*gib: int, **attributes: Any) -> VmRequest:
    image = {"DISK_ID": "0", "IMAGE": "debian", "IMAGE_ID": "1", "SIZE": "1024"}
    template = Template(values={"DISK": (image, *(disk(at, size) for at, size in enumerate(gib, 1)))})
    return msgspec.structs.replace(a_vm(**attributes), template=template)


def with_attributes(instance: Instance, **attributes: str) -> Instance:
    return msgspec.structs.replace(instance, attributes={**instance.attributes, **attributes})


def known(price: Price) -> float:
    assert price.amount is not None, price.unknown
    assert price.currency == "USD"
    return price.amount


async def test_ec2_knows_prices_and_types(connect: Open) -> None:
    provider = await connect()
    assert isinstance(provider, PriceSource)
    assert isinstance(provider, TypeSource)


async def test_an_instance_costs_its_type_its_volumes_and_its_address(priced: Ec2Provider) -> None:
    deploy_id = await launched(priced, a_vm_with_disks(20, 30))
    instance = await listed(priced, deploy_id)
    assert priced.price_of(instance).text.endswith("+?"), "the sizes of its volumes are not known yet"
    await priced.read_prices([instance])
    assert known(priced.price_of(instance)) == pytest.approx(SMALL + (ROOT + 50) * GP3 + ADDRESS)
    assert priced.kind_of(instance) == ("t3.small", ON_DEMAND)
    assert {part.source for part in priced.price_of(instance).parts} == {"AWS price list"}
    assert priced.price_of(instance) is priced.price_of(await listed(priced, deploy_id))


async def test_a_stopped_instance_costs_its_volumes_and_a_gone_one_nothing(priced: Ec2Provider) -> None:
    deploy_id = await launched(priced, a_vm_with_disks(20))
    running = await listed(priced, deploy_id)
    await priced.read_prices([running])
    disks = (ROOT + 20) * GP3
    assert known(priced.price_of(running, state=InstanceState.STOPPED)) == pytest.approx(disks)
    await priced.stop(deploy_id, hard=False)
    await reach(priced, deploy_id, InstanceState.STOPPED)
    stopped = await listed(priced, deploy_id)
    assert known(priced.price_of(stopped)) == pytest.approx(disks)
    assert known(priced.price_of(stopped, state=InstanceState.RUNNING)) == pytest.approx(SMALL + disks + ADDRESS)
    assert priced.price_of(stopped, state=InstanceState.TERMINATED).amount == 0


async def test_an_elastic_address_costs_while_the_instance_is_stopped(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    deploy_id = await launched(priced)
    ec2.account.act("AssociateAddress", {"InstanceId": deploy_id, "AllocationId": "eipalloc-0"})
    await priced.stop(deploy_id, hard=False)
    await reach(priced, deploy_id, InstanceState.STOPPED)
    stopped = await listed(priced, deploy_id)
    assert stopped.attributes["AWS_PUBLIC_IP_ADDRESS"] == "198.51.100.7"
    await priced.read_prices([stopped])
    assert known(priced.price_of(stopped)) == pytest.approx(ROOT * GP3 + ADDRESS)
    assert known(priced.price_of(stopped, state=InstanceState.RUNNING)) == pytest.approx(SMALL + ROOT * GP3 + ADDRESS)


async def test_a_create_is_priced_as_its_instance_will_be(priced: Ec2Provider) -> None:
    request = a_vm_with_disks(20, VOLUMESIZE="30", VOLUMETYPE="gp3", VOLUMEIOPS="4000", VOLUMETHROUGHPUT="200")
    await priced.read_image(request)
    (parameters,) = priced.plan(request).alternatives
    expected = priced.price_of_create(parameters)
    assert priced.disk_size(parameters) == 50
    iops, throughput = 1000 * 0.005 / MONTH_HOURS, 75 * 0.04 / MONTH_HOURS
    assert known(expected) == pytest.approx(SMALL + 50 * GP3 + iops + throughput + ADDRESS)
    deploy_id = await launched(priced, request)
    instance = await listed(priced, deploy_id)
    await priced.read_prices([instance])
    assert known(priced.price_of(instance)) == pytest.approx(known(expected))


@pytest.mark.parametrize("is_first", [True, False], ids=["prices-first", "image-first"])
async def test_image_and_prices_may_be_read_in_any_order(ec2: FaultyEc2, connect: Open, *, is_first: bool) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    request = a_vm()
    (parameters,) = provider.plan(request).alternatives
    assert provider.price_of_create(parameters).text == "?"
    assert provider.disk_size(parameters) is None
    if is_first:
        await provider.read_prices(())
        await provider.read_image(request)
    else:
        await provider.read_image(request)
        await provider.read_prices(())
    assert known(provider.price_of_create(parameters)) == pytest.approx(SMALL + ROOT * GP3 + ADDRESS)
    assert provider.disk_size(parameters) == ROOT


async def test_images_are_not_looked_up_where_nobody_asks_for_prices(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    await provider.read_image(a_vm())
    assert ec2.account.count("DescribeImages") == 0


async def test_a_windows_instance_costs_what_windows_costs(priced: Ec2Provider) -> None:
    request = a_vm(AMI=WINDOWS_IMAGE, INSTANCETYPE="m5.large")
    await priced.read_image(request)
    (parameters,) = priced.plan(request).alternatives
    price = priced.price_of_create(parameters)
    assert price.parts[0].amount == pytest.approx(0.096 + 2 * 0.046)
    deploy_id = await launched(priced, request)
    instance = await listed(priced, deploy_id)
    assert instance.attributes["AWS_PLATFORM_DETAILS"] == "Windows"
    assert priced.price_of(instance).parts[0].amount == pytest.approx(0.096 + 2 * 0.046)


async def test_a_spot_instance_costs_the_price_of_its_zone(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    ec2.account.prices.spot[("t3.small", f"{REGION}b")] = 0.0099
    request = a_vm(SPOT="YES", AVAILABILITYZONE=f"{REGION}b")
    await priced.read_image(request)
    (parameters,) = priced.plan(request).alternatives
    again = make(ec2.url, pricing_endpoint_url=ec2.url)
    await again.open()
    try:
        await again.read_prices(())
        await again.read_image(request)
        part = again.price_of_create(parameters).parts[0]
        assert (part.amount, part.source) == (0.0099, "EC2 spot price")
        deploy_id = await launched(again, request)
        instance = await listed(again, deploy_id)
        assert again.kind_of(instance) == ("t3.small", SPOT)
        assert again.price_of(instance).parts[0].amount == 0.0099
    finally:
        await again.close()


async def test_a_spot_instance_in_no_certain_zone_costs_no_more_than_it_says(priced: Ec2Provider) -> None:
    assert priced.price_of_type("t3.small", market=SPOT).amount == pytest.approx(0.4 * SMALL)
    assert priced.price_of_type("t3.small", market=ON_DEMAND).amount == SMALL
    assert priced.price_of_type("t9.huge", market=ON_DEMAND).text == "?"


async def test_the_usual_price_is_that_of_the_cheapest_usual_type(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url, defaults={"INSTANCETYPE": "m5.large,t3.large"})
    assert isinstance(provider, UsualPrice)
    assert provider.usual_price(()).text == "?"
    await provider.read_prices(())
    assert provider.usual_price(()).amount == 0.0832
    assert provider.usual_price(("t3.small", "t9.huge")).amount == SMALL
    anything = await connect(pricing_endpoint_url=ec2.url, defaults={"INSTANCETYPE": "auto"})
    await anything.read_prices(())
    assert anything.usual_price(()).amount == 0.0052


async def test_a_trial_may_set_the_prices_of_types(ec2: FaultyEc2, connect: Open) -> None:
    ec2.account.prices.on_demand[("Linux/UNIX", "t3.small")] = 0.5
    provider = await connect(pricing_endpoint_url=ec2.url)
    await provider.read_prices(())
    assert provider.price_of_type("t3.small", market=ON_DEMAND).amount == 0.5


async def test_a_disk_and_a_resize_are_priced_before_they_are_bought(priced: Ec2Provider) -> None:
    assert known(priced.price_of_disk(disk(3, 100))) == pytest.approx(100 * GP3)
    assert priced.price_of_disk({"DISK_ID": "3"}).text == "?"
    deploy_id = await launched(priced)
    instance = await listed(priced, deploy_id)
    await priced.read_prices([instance])
    larger = msgspec.structs.replace(a_vm(), template=Template(values={"CPU": ("2",), "MEMORY": ("4096",)}))
    assert known(priced.price_of_resize(instance, larger)) == pytest.approx(0.0416 + ROOT * GP3 + ADDRESS)
    endless = msgspec.structs.replace(a_vm(), template=Template(values={"CPU": ("2000",), "MEMORY": ("4096",)}))
    assert priced.price_of_resize(instance, endless).text == "?"


async def test_dedicated_hardware_has_no_known_price(priced: Ec2Provider) -> None:
    request = a_vm(TENANCY="dedicated", INSTANCETYPE="m5.large")
    await priced.read_image(request)
    (parameters,) = priced.plan(request).alternatives
    assert priced.price_of_create(parameters).unknown == ("dedicated tenancy",)
    instance = await listed(priced, await launched(priced, request))
    await priced.read_prices([instance])
    assert priced.price_of(instance).unknown == ("dedicated tenancy",)


async def test_leftovers_carry_their_price(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    ec2.account.boot = 0.0
    tags = {"TagSpecification.1.ResourceType": "volume", "TagSpecification.1.Tag.1.Key": "ONE_PROVIDER_OWNER"}
    ec2.account.act(
        "CreateVolume",
        {
            "AvailabilityZone": f"{REGION}a",
            "Size": "100",
            "VolumeType": "io2",
            "Iops": "40000",
            **tags,
            "TagSpecification.1.Tag.1.Value": "tests",
        },
    )
    ec2.account.act(
        "CreateTags", {"ResourceId.1": "eipalloc-0", "Tag.1.Key": "ONE_PROVIDER_OWNER", "Tag.1.Value": "tests"}
    )
    volume, address = await priced.unused_resources(owner="tests")
    assert volume.price is not None
    assert address.price is not None
    monthly = 100 * 0.125 + 32_000 * 0.065 + 8_000 * 0.0455
    assert volume.price.amount == pytest.approx(monthly / MONTH_HOURS)
    assert address.price.amount == ADDRESS


async def test_configured_prices_win_over_the_list(ec2: FaultyEc2) -> None:
    settings = PriceSettings(discount=10, types={"t3.small": 0.01}, address=0.001)
    provider = make(ec2.url, pricing_endpoint_url=ec2.url, prices=settings)
    await provider.open()
    try:
        await provider.read_prices(())
        deploy_id = await launched(provider)
        instance = await listed(provider, deploy_id)
        await provider.read_prices([instance])
        assert provider.price_of(instance).amount == pytest.approx(0.01 + 0.9 * ROOT * GP3 + 0.001)
    finally:
        await provider.close()


async def test_a_local_zone_has_prices_of_its_own_above_those_of_its_region(priced: Ec2Provider) -> None:
    instance = await listed(priced, await launched(priced))
    await priced.read_prices([instance])
    local = with_attributes(instance, AWS_AVAILABILITY_ZONE="us-west-2-lax-1a")
    assert priced.price_of(msgspec.structs.replace(local, deploy_id=DeployId("i-2"))).unknown == (
        "zone us-west-2-lax-1a",
    )
    request = a_vm(AVAILABILITYZONE="us-east-1-wl1-bos-wlz-1")
    await priced.read_image(request)
    (parameters,) = priced.plan(request).alternatives
    assert priced.price_of_create(parameters).unknown == ("zone us-east-1-wl1-bos-wlz-1",)


# Without rights


NO = {"code": "UnauthorizedOperation", "message": "You are not authorized", "status": 403, "times": 9}


@pytest.mark.parametrize(
    ("action", "sentence", "text"),
    [
        ("GetProducts", "on-demand prices of eu-west-1 are not known: EC2: You are not authorized (GetProducts,", "?"),
        ("DescribeSubnets", "new instances are priced with a public address, since subnets are not known: ", None),
        ("DescribeAddresses", "instances are priced with one public address at most: EC2: You are not auth", None),
    ],
    ids=["list", "subnets", "addresses"],
)
async def test_a_missing_new_right_is_logged_once_and_leaves_the_rest_known(
    ec2: FaultyEc2, connect: Open, action: str, sentence: str, text: str | None
) -> None:
    ec2.order(action, **NO)
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    instance = await listed(provider, await launched(provider))
    with capture_logs() as logged:
        for _ in range(2):
            await provider.read_prices([instance])
    assert [each["loss"][: len(sentence)] for each in logged] == [sentence]
    assert provider.warned == []
    assert provider.price_of(instance).text == (text or f"{SMALL + ROOT * GP3 + ADDRESS:.4f}")


async def test_a_missing_right_to_list_volumes_is_told_once(ec2: FaultyEc2, connect: Open) -> None:
    ec2.order("DescribeVolumes", **NO)
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    instance = await listed(provider, await launched(provider))
    for _ in range(2):
        await provider.read_prices([instance])
    (warning,) = provider.warned
    assert warning.startswith("the price of volumes is not known: EC2: You are not authorized (DescribeV")
    assert provider.price_of(instance).text == "0.0258+?"


async def test_a_policy_of_release_0_1_0_is_enough_and_nobody_is_warned(ec2: FaultyEc2, connect: Open) -> None:
    for action in ("DescribeInstanceTypes", "DescribeSpotPriceHistory", "DescribeAddresses", "DescribeSubnets"):
        ec2.order(action, **NO)
    ec2.order("GetProducts", code="AccessDeniedException", message="You are not authorized", status=400, times=9)
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    request = a_vm(INSTANCETYPE="m5.large")
    await provider.read_image(request)
    assert provider.plan(request).warnings == ()
    instances = [await listed(provider, await launched(provider, request))]
    for _ in range(2):
        await provider.read_prices(instances)
    assert provider.warned == []
    assert provider.price_of(instances[0]).text == "?"
    assert all(check.is_well is not False for check in await provider.check())


async def test_spot_prices_are_missed_only_where_there_are_spot_instances(ec2: FaultyEc2, connect: Open) -> None:
    ec2.order("DescribeSpotPriceHistory", code="InternalError", times=9)
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    await provider.read_prices(())
    assert provider.warned == []
    spot: Any = await connect(pricing_endpoint_url=ec2.url)
    instance = await listed(spot, await launched(spot, a_vm(SPOT="YES")))
    await spot.read_prices([instance])
    (warning,) = spot.warned
    assert warning.startswith(
        "spot prices are not known: EC2: An internal error has occurred (DescribeSpotPriceHistory"
    )
    assert spot.price_of(instance).text.endswith("+?")


async def test_only_systems_that_are_sold_as_spot_are_asked_for(ec2: FaultyEc2, connect: Open) -> None:
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    instance = await listed(provider, await launched(provider))
    pro, windows = (with_attributes(instance, AWS_PLATFORM_DETAILS=each) for each in ("Ubuntu Pro", "Windows"))
    await provider.read_prices([pro, windows])
    (asked,) = [form for action, form in ec2.account.calls if action == "DescribeSpotPriceHistory"]
    systems = {text.removesuffix(" (Amazon VPC)") for name, text in asked.items() if name.startswith("ProductDesc")}
    assert systems == {"Linux/UNIX", "Windows"}


# A price list that comes in part


async def test_what_has_come_of_a_price_list_counts_and_only_the_rest_is_asked_for_again(
    ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr("one_provider_mad.providers.ec2.provider.time.time", lambda: now[0])
    whole: Any = await connect(pricing_endpoint_url=ec2.url)
    instance = with_attributes(await listed(whole, await launched(whole)), AWS_PLATFORM_DETAILS="Windows")
    await whole.read_prices([instance])
    calls = ec2.account.count("GetProducts")
    ec2.account.calls.clear()
    ec2.order("GetProducts", after=calls - 1, code="ThrottlingException", status=400)
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    await provider.read_prices([instance])
    assert provider.price_of_type("t3.small", market=ON_DEMAND).amount == SMALL
    now[0] += 301
    await provider.read_prices([instance])
    assert calls < ec2.account.count("GetProducts") < 2 * calls, "all was asked for again, or nothing"
    assert known(provider.price_of(instance)) == known(whole.price_of(instance))


async def test_a_reading_that_is_broken_off_keeps_what_it_has_read(ec2: FaultyEc2, connect: Open) -> None:
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    assert provider.price_of_type("t3.small", market=ON_DEMAND).text == "?"
    hold = ec2.order("DescribeSpotPriceHistory", hold=asyncio.Event())
    reading = asyncio.create_task(provider.read_prices(()))
    await asyncio.to_thread(until, lambda: hold.times == 0)
    reading.cancel()
    await asyncio.wait([reading])
    assert provider.price_of_type("t3.small", market=ON_DEMAND).amount == SMALL


async def test_a_price_computed_while_lists_and_volumes_are_read_does_not_stay(
    ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    instance = await listed(provider, await launched(provider))
    compute, computed, read = provider._prices._book.price, threading.Event(), threading.Event()

    def compute_slowly(items: Any) -> Price:
        price: Price = compute(items)
        computed.set()
        assert read.wait(HANG)
        return price

    monkeypatch.setattr(provider._prices._book, "price", compute_slowly)
    booking = asyncio.create_task(asyncio.to_thread(provider.price_of, instance))
    await asyncio.to_thread(computed.wait, HANG)
    await provider.read_prices([instance])
    read.set()
    assert (await booking).text == "?"
    assert known(provider.price_of(instance)) == pytest.approx(SMALL + ROOT * GP3 + ADDRESS)


async def test_a_create_does_not_wait_for_a_price_list_that_hangs(
    ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "_LONGEST_WAIT", 0.05)
    hold = ec2.order("GetProducts", hold=asyncio.Event(), times=9)
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    reading = asyncio.create_task(provider.read_prices(()))
    await asyncio.to_thread(until, lambda: hold.times == 8)
    await provider.read_image(a_vm())
    assert not reading.done()
    reading.cancel()
    await asyncio.wait([reading])


async def test_a_cloud_without_a_price_list_has_no_prices_of_amazons(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    instance = await listed(provider, await launched(provider))
    await provider.read_prices([instance])
    assert provider.price_of(instance).text == "?"
    assert ec2.account.count("GetProducts") == 0


async def test_what_instances_cost_is_read_again_after_an_error(ec2: FaultyEc2, connect: Open) -> None:
    ec2.order("DescribeVolumes", code="InternalError")
    provider = await connect(pricing_endpoint_url=ec2.url)
    instance = await listed(provider, await launched(provider))
    with pytest.raises(Exception, match="An internal error has occurred"):
        await provider.read_prices([instance])
    assert provider.price_of(instance).text.endswith("+?")


# Lists


@pytest.fixture
async def kept(ec2: FaultyEc2, tmp_path: Path) -> Path:
    provider = make(ec2.url, pricing_endpoint_url=ec2.url, state_directory=tmp_path)
    await provider.open()
    await provider.read_prices(())
    await provider.read_types()
    await provider.close()
    return tmp_path


def modes(folder: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mode & 0o777 for each in folder.glob("one_*")}


async def test_a_second_driver_reads_lists_from_the_state_directory(ec2: FaultyEc2, kept: Path) -> None:
    assert modes(kept) == {"one_provider_mad_ec2.prices": 0o600, "one_provider_mad_ec2.types": 0o600}
    asked = {action: ec2.account.count(action) for action in ("GetProducts", "DescribeInstanceTypes")}
    second = make(ec2.url, pricing_endpoint_url=ec2.url, state_directory=kept)
    await second.open()
    await second.read_prices(())
    await second.read_types()
    assert {action: ec2.account.count(action) for action in asked} == asked
    assert second.price_of_type("t3.small", market=ON_DEMAND).amount == SMALL
    assert set(second.instance_types()) == set(ec2.settings.offer.types)
    await second.close()


LISTS = ("GetProducts", "DescribeSpotPriceHistory", "DescribeInstanceTypes")


class Later:
    """The clocks of a provider's lists, as a test sets them."""

    def __init__(self, provider: Ec2Provider) -> None:
        self._start = time.time()
        self.seconds = 0.0
        for part in (provider._types, provider._prices, provider._prices._listed, provider._prices._volumes):
            part._clock = self

    def __call__(self) -> float:
        return self._start + self.seconds


async def test_lists_are_read_once_a_day_and_spot_prices_once_an_hour(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    clock = Later(priced)
    ec2.account.prices.on_demand[("Linux/UNIX", "t3.small")] = 0.5
    ec2.account.prices.spot[("t3.small", f"{REGION}b")] = 0.4
    seen = []
    for clock.seconds in (1800.0, 3700.0, 86_500.0):
        await priced.read_prices(())
        seen.append([priced.price_of_type("t3.small", market=market).amount for market in (ON_DEMAND, SPOT)])
    assert seen == [[SMALL, pytest.approx(0.4 * SMALL)], [SMALL, 0.4], [0.5, 0.4]]


@pytest.mark.parametrize("step", [-90_000.0, 90_000.0], ids=["back", "ahead"])
async def test_lists_are_read_again_after_somebody_has_set_the_clock(
    priced: Ec2Provider, ec2: FaultyEc2, step: float
) -> None:
    await priced.read_types()
    clock = Later(priced)
    clock.seconds = step
    before = [ec2.account.count(action) for action in LISTS]
    for _ in range(2):
        await priced.read_prices(())
        await priced.read_types()
    assert all(ec2.account.count(action) > count for action, count in zip(LISTS, before, strict=True))
    asked = len(ec2.account.calls)
    await priced.read_prices(())
    await priced.read_types()
    assert len(ec2.account.calls) == asked


async def test_a_list_that_cannot_be_read_is_tried_again_after_an_hour(ec2: FaultyEc2, connect: Open) -> None:
    provider: Any = await connect(pricing_endpoint_url=ec2.url)
    clock = Later(provider)
    ec2.order("GetProducts", **{**NO, "times": 1})
    for clock.seconds in (0.0, 3000.0):
        await provider.read_prices(())
        assert provider.price_of_type("t3.small", market=ON_DEMAND).amount is None
    clock.seconds = 3700.0
    await provider.read_prices(())
    assert provider.price_of_type("t3.small", market=ON_DEMAND).amount == SMALL


async def test_prices_outlive_a_list_that_cannot_be_renewed(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    clock = Later(priced)
    for action in ("GetProducts", "DescribeSpotPriceHistory"):
        ec2.order(action, code="InternalError", times=9)
    clock.seconds = 90_000.0
    await priced.read_prices(())
    assert priced.price_of_type("t3.small", market=ON_DEMAND).amount == SMALL
    assert priced.price_of_type("t3.small", market=SPOT).amount is not None


async def test_one_instance_may_be_priced_without_forgetting_the_others(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    """As before a start, in a driver that has seen a whole listing."""
    clock = Later(priced)
    first, second = [await listed(priced, await launched(priced, a_vm(number))) for number in (1, 2)]
    await priced.read_prices([first])
    await priced.read_prices([second])
    clock.seconds = 400.0
    await priced.read_prices([second])
    assert known(priced.price_of(first)) == known(priced.price_of(second))
    assert ec2.account.count("DescribeVolumes") == 3


async def test_a_new_volume_is_asked_for_alone_and_soon(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    clock = Later(priced)
    deploy_id = await launched(priced)
    await priced.read_prices([await listed(priced, deploy_id)])
    await priced.attach_disk(deploy_id, disk(1, 100))
    instance = await listed(priced, deploy_id)
    assert priced.price_of(instance).text.endswith("+?")
    clock.seconds = 1.0
    await priced.read_prices([instance])
    assert known(priced.price_of(instance)) == pytest.approx(SMALL + (ROOT + 100) * GP3 + ADDRESS)
    asked = [form for action, form in ec2.account.calls if action == "DescribeVolumes"][-1]
    assert [text for name, text in asked.items() if name.startswith("Filter.1.Value")] == [
        instance.attributes["AWS_VOLUMES"].rpartition(":")[2]
    ]
    (volume,) = ec2.account.volumes.values()
    ec2.account.act("ModifyVolume", {"VolumeId": volume.id, "Size": "200"})
    clock.seconds = 400.0
    await priced.read_prices([instance])
    assert known(priced.price_of(instance)) == pytest.approx(SMALL + (ROOT + 200) * GP3 + ADDRESS)


@pytest.mark.parametrize("name", ["one_provider_mad_ec2.prices", "one_provider_mad_ec2.types"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"region": "eu-west-1"', b"\xff" * 100])
async def test_a_damaged_list_is_asked_for_again(ec2: FaultyEc2, kept: Path, name: str, content: bytes) -> None:
    (kept / name).write_bytes(content)
    second = make(ec2.url, pricing_endpoint_url=ec2.url, state_directory=kept)
    await second.open()
    await second.read_prices(())
    await second.read_types()
    assert second.price_of_type("t3.small", market=ON_DEMAND).amount == SMALL
    assert second.instance_types()["t3.small"].memory == 2048
    assert (kept / name).read_bytes() != content
    await second.close()


async def test_a_list_of_another_region_is_not_used(ec2: FaultyEc2, kept: Path) -> None:
    elsewhere = make(ec2.url, region="us-east-1", pricing_endpoint_url=ec2.url, state_directory=kept)
    await elsewhere.open()
    ec2.order("GetProducts", **NO)
    await elsewhere.read_prices(())
    assert elsewhere.price_of_type("t3.small", market=ON_DEMAND).amount is None
    await elsewhere.close()


async def test_amazons_own_endpoint_falls_back_to_the_table_of_the_release() -> None:
    """Nothing listens there: prices come with the day of the table, and another region's are unknown."""
    nowhere: dict[str, Any] = {
        "pricing_endpoint_url": "http://127.0.0.1:1/",
        "proxy": "http://127.0.0.1:1",
        "endpoint_url": None,
    }
    for region, amount in (("us-east-1", SMALL), ("eu-south-2", None)):
        provider: Any = make("", region=region, **nowhere)
        await provider.open()
        await provider.read_prices(())
        price = provider.price_of_type("t3.small", market=ON_DEMAND)
        assert price.amount == amount
        if amount:
            assert (price.parts[0].source, price.parts[0].date) == ("table of this release", "2026-07-20")
        await provider.close()


# States


async def test_the_time_of_the_latest_change_of_state_is_ec2s(priced: Ec2Provider, ec2: FaultyEc2) -> None:
    deploy_id = await launched(priced)
    running = await listed(priced, deploy_id)
    assert running.state_since == running.created_at > 0
    await priced.stop(deploy_id, hard=False)
    await reach(priced, deploy_id, InstanceState.STOPPED)
    stopped = await listed(priced, deploy_id)
    assert 0 <= stopped.state_since - int(running.state_since) < 60
