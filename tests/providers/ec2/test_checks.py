"""What EC2 is asked by `one-provider check`: nothing is changed, and each right that is missing is named."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from one_provider_mad.providers.ec2.checks import NO_INSTANCE
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import SelfCheck, SelfChecking
from tests.providers.ec2.conftest import Open, make
from tests.providers.ec2.face import Face
from tests.providers.ec2.scripted import Form, Scripted
from tests.providers.ec2.vms import launched

DEFAULTS = {"AMI": "ami-1", "INSTANCETYPE": "t3.small,t3a.small"}
CHANGES = "StartInstances, StopInstances, RebootInstances, TerminateInstances, CreateTags: held"
READ_ONLY = {"DescribeInstances", "DescribeImages", "DescribeInstanceTypes"}


async def checked(provider: Ec2Provider) -> dict[str, list[SelfCheck]]:
    assert isinstance(provider, SelfChecking)
    found: dict[str, list[SelfCheck]] = {}
    for each in await provider.check():
        found.setdefault(each.what, []).append(each)
    return found


def wrong(points: dict[str, list[SelfCheck]]) -> list[str]:
    return [each.found for several in points.values() for each in several if each.is_well is not True]


async def test_all_is_well_and_nothing_was_changed(face: Face, connect: Open) -> None:
    provider = await connect(defaults=DEFAULTS)
    deploy_id = await launched(provider)
    before, asked = dict(face.account.instances), len(face.account.calls)
    points = await checked(provider)
    assert wrong(points) == []
    assert [each.found for each in points["rights to change"]] == [CHANGES]
    assert [each.found for each in points["right to create"]] == ["RunInstances: held"]
    assert [each.found for each in points["default image"]] == ["ami-1 is available"]
    assert [each.found for each in points["default type"]] == ["t3.small, t3a.small available"]
    assert points["clock"][0].is_well
    assert face.account.instances.keys() == before.keys()
    assert face.account.instances[deploy_id].word == "running"
    calls = face.account.calls[asked:]
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
async def test_each_right_that_is_not_held_is_named(face: Face, connect: Open, action: str, what: str) -> None:
    provider = await connect(defaults=DEFAULTS)
    if what == "rights to change":
        await launched(provider)
    face.order(action, code="UnauthorizedOperation", message="You are not authorized to perform this", status=403)
    (point,) = [each for each in (await checked(provider))[what] if each.is_well is not True]
    assert (point.is_well, point.found) == (False, f"{action} is not held")
    assert point.remedy.startswith(f"allow ec2:{action}")


async def test_where_there_is_no_instance_a_policy_by_tags_cannot_be_tried(face: Face, connect: Open) -> None:
    provider = await connect(defaults=DEFAULTS)
    face.order("StopInstances", code="UnauthorizedOperation", message="You are not authorized", status=403)
    (point,) = (await checked(provider))["rights to change"]
    assert point.is_well is None
    assert point.found == "not known: StopInstances refused for an instance that does not exist"


async def test_defaults_that_do_not_exist_and_rights_that_cannot_be_tried(connect: Open) -> None:
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


async def test_leftovers_and_types_are_wishes(face: Face, connect: Open) -> None:
    for action in ("DescribeSnapshots", "DescribeAddresses", "DescribeInstanceTypes"):
        face.order(action, code="UnauthorizedOperation", message="No", status=403)
    points = await checked(await connect(defaults=DEFAULTS))
    assert wrong(points) == ["DescribeSnapshots, DescribeAddresses not held", "was not checked"]
    assert not [each for several in points.values() for each in several if each.is_well is False]


async def test_a_clock_that_is_off_is_told(face: Face, connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = await connect()
    face.order("DescribeInstances", after=1, code="DryRunOperation", status=412, headers={"Date": formatdate(0)})
    (point,) = (await checked(provider))["clock"]
    assert (point.is_well, "s ahead of EC2's" in point.found) == (False, True)


def carried_out(_: Form) -> str:
    """Answers as if nobody had said DryRun."""
    return "<reservationSet/>"


LOOKS = (
    "DescribeInstances",
    "DescribeImages",
    "DescribeVolumes",
    "DescribeInstanceStatus",
    "DescribeSpotInstanceRequests",
)
LEFTOVERS = ("DescribeSnapshots", "DescribeAddresses")


async def test_a_look_that_is_carried_out_in_spite_of_dry_run_is_a_right_held(face: Face, connect: Open) -> None:
    """As moto's server does, and others that speak EC2's API."""
    face.order("DescribeVolumes", body="<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>", status=200)
    points = await checked(await connect(defaults=DEFAULTS))
    assert [(each.is_well, each.found) for each in points["rights to list"]] == [(True, f"{', '.join(LOOKS)}: held")]
    assert wrong(points) == []


async def test_a_cloud_that_carries_dry_runs_out_is_asked_to_change_nothing() -> None:
    cloud = Scripted(answers=dict.fromkeys((*LOOKS, *LEFTOVERS), carried_out))
    async with cloud.served():
        provider = make(cloud.url)
        await provider.open()
        points = await checked(provider)
        await provider.close()
    assert [each.found for each in points["rights to list"]] == [f"{', '.join(LOOKS)}: held"]
    assert [each.found for each in points["rights to change"]] == ["were not tried: this cloud carries dry runs out"]
    assert {action for action, _ in cloud.calls} == {*LOOKS, *LEFTOVERS}


async def test_nothing_is_created_where_a_change_was_not_refused_as_dry() -> None:
    answers: dict[str, Any] = dict.fromkeys(("StopInstances", "RebootInstances", "TerminateInstances"), carried_out)

    def dry(form: Form) -> str:
        if "DryRun" in form:
            raise PermissionError("no")
        return "<reservationSet/>"

    listed = (*LOOKS, *LEFTOVERS, "StartInstances")
    cloud = Scripted(answers={**dict.fromkeys((*listed, "CreateTags"), dry), **answers})
    async with cloud.served():
        provider = make(cloud.url, defaults={"AMI": "ami-1", "INSTANCETYPE": "t3.small"})
        await provider.open()
        points = await checked(provider)
        await provider.close()
    assert [each.found for each in points["right to create"]] == ["was not tried"]
    assert cloud.asked("RunInstances") == []
