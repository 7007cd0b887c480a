"""Instance types as a provider knows them: those of the region, of the release's table, and of the configuration."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from one_provider_mad.providers.interface import Size
from one_provider_mad.providers.simulated.settings import InstanceType
from tests.providers.ec2.conftest import Open, make
from tests.providers.ec2.faulty_endpoint import FaultyEc2

NO = {"code": "UnauthorizedOperation", "message": "You are not authorized", "status": 403, "times": 9}


async def test_the_types_of_the_region_are_those_that_ec2_tells(ec2: FaultyEc2, connect: Open) -> None:
    ec2.account._settings = replace(
        ec2.account._settings,
        instance_types={"t3.small": InstanceType(cpu=2, memory=2048), "x99.huge": InstanceType(cpu=128, memory=4096)},
    )
    provider = await connect()
    assert "x99.huge" not in provider.instance_types()
    assert len(provider.instance_types()) > 1000, "the table of the release, until EC2 is asked"
    for _ in range(2):
        await provider.read_types()
    assert set(ec2.settings.offer.types) - set(provider.instance_types())
    found = provider.instance_types()["x99.huge"]
    assert (found.cpu, found.memory, found.family, found.architectures) == (128, 4096, "x99", ("x86_64",))
    assert provider.instance_sizes()["x99.huge"] == Size(cpu=128, memory=4096)
    assert provider.instance_sizes()["r5.large"] == Size(cpu=2, memory=16384), "instances may have types of old"
    assert ec2.account.count("DescribeInstanceTypes") == 1


async def test_many_types_come_in_pages(ec2: FaultyEc2, connect: Open) -> None:
    many = {f"x9.s{number}": InstanceType(cpu=1, memory=1024) for number in range(250)}
    ec2.account._settings = replace(ec2.account._settings, instance_types=many)
    provider = await connect()
    await provider.read_types()
    assert many.keys() <= provider.instance_types().keys()
    assert ec2.account.count("DescribeInstanceTypes") == 3


async def test_without_the_right_the_table_of_the_release_counts(ec2: FaultyEc2, connect: Open) -> None:
    ec2.order("DescribeInstanceTypes", **NO)
    provider: Any = await connect()
    for _ in range(2):
        await provider.read_types()
    (warning,) = provider.warned
    assert warning == (
        "the instance types of eu-west-1 are those of this release's table: EC2: You are not authorized"
        " (DescribeInstanceTypes, UnauthorizedOperation)"
    )
    assert ec2.account.count("DescribeInstanceTypes") == 1
    found = provider.instance_types()["g4dn.xlarge"]
    assert (found.gpus, found.gpu, found.family) == (1, "NVIDIA T4", "g4dn")


async def test_configured_sizes_win_and_keep_what_else_ec2_says(ec2: FaultyEc2, connect: Open) -> None:
    own = {
        "g4dn.xlarge": {"cpu": 8, "memory": 64},
        "t3.small": {"cpu": 1, "memory": 1},
        "z9.own": {"cpu": 1, "memory": 2},
    }
    provider = await connect(instance_types=own)
    before = provider.instance_types()["g4dn.xlarge"]
    assert (before.cpu, before.memory, before.gpu) == (8, 65536, "NVIDIA T4")
    await provider.read_types()
    assert provider.instance_types()["t3.small"].memory == 1024
    assert provider.instance_types()["z9.own"].cpu == 1


def test_a_command_that_does_not_open_the_provider_knows_the_sizes() -> None:
    sizes = make("http://127.0.0.1:1/").instance_sizes()
    assert sizes["m5.large"] == Size(cpu=2, memory=8192)
    assert "x99.huge" not in sizes
    assert len(sizes) == len(list(sizes)) > 1000
