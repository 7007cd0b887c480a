"""Checks of EC2 by `one-provider check`: they change nothing, and name each missing right."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from one_provider_mad.lab.ec2.topology import GROUP, SUBNET
from one_provider_mad.mappings import ImageMapping, Mappings, NetworkMapping, SecurityGroupSettings
from one_provider_mad.providers.ec2.checks import NO_INSTANCE
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import CheckResult, SelfChecking
from tests.providers.ec2.conftest import Open, make
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.scripted_server import Form, Scripted
from tests.providers.ec2.vms import launched

DEFAULTS = {"AMI": "ami-1", "INSTANCETYPE": "t3.small,t3a.small"}
CHANGES = "StartInstances, StopInstances, RebootInstances, TerminateInstances, CreateTags: held"
READ_ONLY = {"DescribeInstances", "DescribeImages", "DescribeInstanceTypes"}


async def checked(provider: Ec2Provider) -> dict[str, list[CheckResult]]:
    assert isinstance(provider, SelfChecking)
    found: dict[str, list[CheckResult]] = {}
    for each in await provider.check():
        found.setdefault(each.what, []).append(each)
    return found


def wrong(points: dict[str, list[CheckResult]]) -> list[str]:
    return [each.found for several in points.values() for each in several if each.is_well is not True]


async def test_all_checks_of_a_healthy_account_pass_and_change_nothing(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(defaults=DEFAULTS)
    deploy_id = await launched(provider)
    before, asked = dict(ec2.account.instances), len(ec2.account.calls)
    points = await checked(provider)
    assert wrong(points) == []
    assert [each.found for each in points["rights to change"]] == [CHANGES]
    assert [each.found for each in points["right to create"]] == ["RunInstances: held"]
    assert [each.found for each in points["default image"]] == ["ami-1 is available"]
    assert [each.found for each in points["default type"]] == ["t3.small, t3a.small available"]
    assert points["clock"][0].is_well
    assert ec2.account.instances.keys() == before.keys()
    assert ec2.account.instances[deploy_id].word == "running"
    calls = ec2.account.calls[asked:]
    assert [name for name, form in calls if form.get("DryRun") != "true" and name not in READ_ONLY] == []
    # Only Amazon is trusted with a real instance in a dry run.
    assert {form["InstanceId.1"] for name, form in calls if name == "TerminateInstances"} == {NO_INSTANCE}


@pytest.mark.parametrize(
    ("action", "what"),
    [
        ("DescribeVolumes", "rights to list"),
        ("TerminateInstances", "rights to change"),
        ("CreateTags", "rights to change"),
        ("RunInstances", "right to create"),
    ],
)
async def test_a_missing_right_is_named_with_its_remedy(ec2: FaultyEc2, connect: Open, action: str, what: str) -> None:
    provider = await connect(defaults=DEFAULTS)
    if what == "rights to change":
        await launched(provider)
    ec2.order(action, code="UnauthorizedOperation", message="You are not authorized to perform this", status=403)
    (point,) = [each for each in (await checked(provider))[what] if each.is_well is not True]
    assert (point.is_well, point.found) == (False, f"{action} is not held")
    assert point.remedy.startswith(f"allow ec2:{action}")


async def test_without_an_instance_a_refused_right_to_change_is_unknown(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(defaults=DEFAULTS)
    ec2.order("StopInstances", code="UnauthorizedOperation", message="You are not authorized", status=403)
    (point,) = (await checked(provider))["rights to change"]
    assert point.is_well is None
    assert point.found == "not known: StopInstances refused for an instance that does not exist"


async def test_invalid_defaults_fail_and_without_defaults_the_right_to_create_is_not_tried(connect: Open) -> None:
    points = await checked(await connect(defaults={"AMI": "img", "INSTANCETYPE": "t9.huge"}))
    (image,), (kind,) = points["default image"], points["default type"]
    assert (image.is_well, kind.is_well) == (False, False)
    assert 'Invalid id: "img"' in image.found
    assert image.remedy == "correct AMI in [ec2.defaults]: img"
    assert "t9.huge" in kind.found
    bare = await checked(await connect())
    assert bare.keys().isdisjoint({"default image", "default type"})
    (point,) = bare["right to create"]
    assert (point.is_well, point.found) == (None, "was not tried")


async def test_auto_in_the_defaults_is_checked_with_the_type_of_a_small_vm(ec2: FaultyEc2, connect: Open) -> None:
    defaults = {"AMI": "ami-1", "INSTANCETYPE": "auto", "ALLOWEDTYPES": "t3.micro,m5"}
    points = await checked(await connect(defaults=defaults))
    (kind,) = points["default type"]
    assert (kind.is_well, kind.found) == (True, "t3.micro available for a VM of 1 core and 1 GiB, by auto")
    tried = [form["InstanceType"] for action, form in ec2.account.calls if action == "RunInstances"]
    assert tried == ["t3.micro"], "the dry run"


@pytest.mark.parametrize(
    ("defaults", "sentence"),
    [({"ALLOWEDTYPES": "x9"}, "are not allowed"), ({"INSTANCETYPE": "auto,m5.large"}, "has auto beside other types")],
)
async def test_auto_in_the_defaults_that_can_choose_no_type_fails(
    connect: Open, defaults: dict[str, str], sentence: str
) -> None:
    points = await checked(await connect(defaults={"AMI": "ami-1", "INSTANCETYPE": "auto", **defaults}))
    (kind,) = points["default type"]
    assert (kind.is_well, kind.remedy) == (False, "correct [ec2.defaults]")
    assert sentence in kind.found


async def test_missing_optional_rights_are_reported_and_fail_no_check(ec2: FaultyEc2, connect: Open) -> None:
    for action in ("DescribeSnapshots", "DescribeAddresses", "DescribeInstanceTypes"):
        ec2.order(action, code="UnauthorizedOperation", message="No", status=403)
    points = await checked(await connect(defaults=DEFAULTS))
    assert wrong(points) == ["DescribeSnapshots, DescribeAddresses not held", "was not checked"]
    assert not [each for several in points.values() for each in several if each.is_well is False]


UNKNOWN = "unknown in eu-west-1"
PRICES = "the price list of eu-west-1 can be read"


@pytest.mark.parametrize(
    ("action", "found", "remedy"),
    [
        (
            "GetProducts",
            "GetProducts is not held",
            f"allow pricing:GetProducts, or set prices in [prices]; until then prices on demand are {UNKNOWN}",
        ),
        (
            "DescribeInstanceTypes",
            "DescribeInstanceTypes is not held",
            "allow ec2:DescribeInstanceTypes, or types are those of this release's table",
        ),
        (
            "DescribeSpotPriceHistory",
            "DescribeSpotPriceHistory is not held",
            "allow ec2:DescribeSpotPriceHistory, or prices of spot instances are unknown",
        ),
        (
            "DescribeSubnets",
            "DescribeSubnets is not held",
            "allow ec2:DescribeSubnets, or each new instance is priced with a public address",
        ),
        ("", PRICES, ""),
    ],
)
async def test_a_missing_right_to_prices_says_what_is_unknown(
    ec2: FaultyEc2, connect: Open, action: str, found: str, remedy: str
) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    if action:
        ec2.order(action, code="UnauthorizedOperation", message="No", status=403, times=9)
    points = (await checked(provider))["prices"]
    assert [(each.found, each.remedy) for each in points if action in each.found] == [(found, remedy)]
    assert len(points) == (1 if action in ("", "GetProducts") else 2)


async def test_a_price_list_that_cannot_be_reached_is_no_failure(ec2: FaultyEc2, connect: Open) -> None:
    (point,) = (await checked(await connect(pricing_endpoint_url="http://127.0.0.1:1/")))["prices"]
    assert point.is_well is None
    assert point.found.startswith("AWS's price list at 127.0.0.1:1 cannot be reached")
    (empty,) = (await checked(await connect(pricing_endpoint_url=ec2.url, region="eu-west-1")))["prices"]
    assert (empty.is_well, empty.found) == (True, PRICES)


async def test_a_compatible_cloud_needs_no_rights_to_prices(connect: Open) -> None:
    assert "prices" not in await checked(await connect())


async def test_a_clock_that_differs_from_ec2s_fails_its_check(
    ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await connect()
    ec2.order("DescribeInstances", after=1, code="DryRunOperation", status=412, headers={"Date": formatdate(0)})
    (point,) = (await checked(provider))["clock"]
    assert (point.is_well, "s ahead of EC2's" in point.found) == (False, True)


def carried_out(_: Form) -> str:
    """Answer as if DryRun were not set."""
    return "<reservationSet/>"


LISTINGS = (
    "DescribeInstances",
    "DescribeImages",
    "DescribeVolumes",
    "DescribeInstanceStatus",
    "DescribeSpotInstanceRequests",
)
LEFTOVERS = ("DescribeSnapshots", "DescribeAddresses")


async def test_a_listing_carried_out_in_spite_of_dry_run_proves_the_right(ec2: FaultyEc2, connect: Open) -> None:
    """Moto's server does so, and other implementations of EC2's API."""
    ec2.order("DescribeVolumes", body="<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>", status=200)
    points = await checked(await connect(defaults=DEFAULTS))
    assert [(each.is_well, each.found) for each in points["rights to list"]] == [(True, f"{', '.join(LISTINGS)}: held")]
    assert wrong(points) == []


async def test_a_cloud_that_ignores_dry_run_gets_no_changing_calls() -> None:
    cloud = Scripted(answers=dict.fromkeys((*LISTINGS, *LEFTOVERS), carried_out))
    async with cloud.served():
        provider = make(cloud.url)
        await provider.open()
        points = await checked(provider)
        await provider.close()
    assert [each.found for each in points["rights to list"]] == [f"{', '.join(LISTINGS)}: held"]
    assert [each.found for each in points["rights to change"]] == ["were not tried: this cloud carries dry runs out"]
    assert {action for action, _ in cloud.calls} == {*LISTINGS, *LEFTOVERS}


async def test_the_right_to_create_is_not_tried_if_a_changing_call_ignored_dry_run() -> None:
    answers: dict[str, Any] = dict.fromkeys(("StopInstances", "RebootInstances", "TerminateInstances"), carried_out)

    def dry(form: Form) -> str:
        if "DryRun" in form:
            raise PermissionError("no")
        return "<reservationSet/>"

    listed = (*LISTINGS, *LEFTOVERS, "StartInstances")
    cloud = Scripted(answers={**dict.fromkeys((*listed, "CreateTags"), dry), **answers})
    async with cloud.served():
        provider = make(cloud.url, defaults={"AMI": "ami-1", "INSTANCETYPE": "t3.small"})
        await provider.open()
        points = await checked(provider)
        await provider.close()
    assert [each.found for each in points["right to create"]] == ["was not tried"]
    assert cloud.asked("RunInstances") == []


MAPPINGS = Mappings(
    images={"debian-12": ImageMapping(image="ami-1"), "data": ImageMapping(image="snap-1")},
    networks={
        "private": NetworkMapping(subnet=SUBNET, security_groups=(GROUP,)),
        "any": NetworkMapping(),
    },
)


async def test_images_and_networks_of_the_tables_that_ec2_has_are_two_findings(connect: Open) -> None:
    points = await checked(await connect(mappings=MAPPINGS))
    assert [each.found for each in points["[images]"]] == ["EC2 has all that 2 entries name"]
    assert [each.found for each in points["[networks]"]] == ["EC2 has all that 2 entries name"]


@pytest.mark.parametrize(
    ("action", "code", "what", "remedy"),
    [
        ("DescribeImages", "InvalidAMIID.NotFound", "[images.debian-12]", "correct [images.debian-12]: ami-1"),
        ("DescribeSnapshots", "InvalidSnapshot.NotFound", "[images.data]", "correct [images.data]: snap-1"),
        (
            "DescribeSubnets",
            "InvalidSubnetID.NotFound",
            "[networks.private]",
            f"correct [networks.private]: {SUBNET}",
        ),
        (
            "DescribeSecurityGroups",
            "InvalidGroup.NotFound",
            "[networks.private]",
            f"correct [networks.private]: {GROUP}",
        ),
    ],
)
async def test_an_entry_of_a_table_that_ec2_does_not_have_is_named(
    ec2: FaultyEc2, connect: Open, action: str, code: str, what: str, remedy: str
) -> None:
    provider = await connect(mappings=MAPPINGS)
    # Dry runs of the same action come first.
    dry_runs = 1 if action in ("DescribeImages", "DescribeSnapshots") else 0
    for _ in range(dry_runs):
        ec2.order(action, code="DryRunOperation", message="Request would have succeeded", status=412)
    ec2.order(action, code=code, message="It does not exist.", status=400)
    (point,) = (await checked(provider))[what]
    assert (point.is_well, point.remedy) == (False, remedy)
    assert point.found == f"EC2: It does not exist. ({action}, {code})"


async def test_a_right_that_the_check_of_a_table_lacks_is_named(ec2: FaultyEc2, connect: Open) -> None:
    ec2.order("DescribeSubnets", code="UnauthorizedOperation", message="No.", status=403)
    (point,) = (await checked(await connect(mappings=MAPPINGS)))["[networks]"]
    assert (point.is_well, point.remedy) == (None, "allow ec2:DescribeSubnets")


# Security groups

MIRROR = Mappings(security_groups=SecurityGroupSettings(mirror=True))


async def test_rights_to_security_groups_are_tried_without_a_change_where_they_are_mirrored(
    ec2: FaultyEc2, connect: Open
) -> None:
    (point,) = (await checked(await connect(mappings=MIRROR)))["rights to security groups"]
    assert point.is_well
    assert point.found == (
        "DescribeSecurityGroups, DescribeSubnets, DescribeNetworkInterfaces, CreateSecurityGroup,"
        " AuthorizeSecurityGroupIngress, AuthorizeSecurityGroupEgress, RevokeSecurityGroupIngress,"
        " RevokeSecurityGroupEgress, DeleteSecurityGroup, ModifyNetworkInterfaceAttribute: held"
    )
    assert {form.get("DryRun") for name, form in ec2.account.calls if "Security" in name} == {"true"}
    assert "rights to security groups" not in await checked(await connect())


async def test_a_missing_right_to_security_groups_is_named(ec2: FaultyEc2, connect: Open) -> None:
    for action in ("CreateSecurityGroup", "DeleteSecurityGroup"):
        ec2.order(action, code="UnauthorizedOperation", message="You are not authorized", status=403)
    _, create, delete = (await checked(await connect(mappings=MIRROR)))["rights to security groups"]
    assert (create.is_well, create.found) == (False, "CreateSecurityGroup is not held")
    assert delete.is_well is None
    assert delete.found == "not known: DeleteSecurityGroup refused for a group or interface that does not exist"
