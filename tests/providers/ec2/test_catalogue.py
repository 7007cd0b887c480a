"""Families of images, the ranges of subnets, and listings without every right."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from one_provider_mad.errors import PermissionDenied
from one_provider_mad.mappings import Mappings, SecurityGroupSettings
from one_provider_mad.providers.ec2.catalogue import RANGE_SIZE, family, usable_ranges
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("debian-12-amd64-20250428-2096", "debian-12-amd64-20230711-1438"),
        (
            "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20250821.1",
            "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20240423",
        ),
        ("AlmaLinux OS 9.6.20250522 x86_64", "AlmaLinux OS 9.5.20241120 x86_64"),
        ("AlmaLinux OS 10.2.20260817.0 x86_64", "AlmaLinux OS 10.0.20250528 x86_64"),
        ("AlmaLinux OS Kitten 10.20250904.0 x86_64", "AlmaLinux OS Kitten 10.20250922.0 x86_64"),
        ("Windows_Server-2022-English-Full-Base-2025.08.13", "Windows_Server-2022-English-Full-Base-2024.01.16"),
        ("al2023-ami-2023.8.20250818.0-kernel-6.1-x86_64", "al2023-ami-2023.1.20230705.0-kernel-6.1-x86_64"),
        ("amzn2-ami-hvm-2.0.20250818.0-x86_64-gp2", "amzn2-ami-hvm-2.0.20230628.0-x86_64-gp2"),
    ],
)
def test_images_that_differ_in_date_and_version_alone_are_a_family(one: str, other: str) -> None:
    assert family(one) == family(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("debian-12-amd64-20250428-2096", "debian-13-amd64-20250428-2096"),
        ("debian-12-amd64-20250428-2096", "debian-12-backports-amd64-20250428-2096"),
        ("AlmaLinux OS 9.6.20250522 x86_64", "AlmaLinux OS 10.0.20250522 x86_64"),
        ("Windows_Server-2022-English-Full-Base-2025.08.13", "Windows_Server-2025-English-Full-Base-2025.08.13"),
        ("Windows_Server-2022-English-Full-Base-2025.08.13", "Windows_Server-2022-English-Core-Base-2025.08.13"),
        ("al2023-ami-2023.8.20250818.0-kernel-6.1-x86_64", "al2023-ami-2023.8.20250818.0-kernel-6.12-x86_64"),
    ],
)
def test_images_of_different_systems_are_no_family(one: str, other: str) -> None:
    assert family(one) != family(other)


@pytest.mark.parametrize("cidr", ["10.0.0.0/16", "10.0.1.0/24", "172.31.16.0/20", "192.168.1.16/28"])
def test_ranges_hold_each_address_once_but_those_that_ec2_keeps(cidr: str) -> None:
    block, ranges = IPv4Network(cidr), usable_ranges(IPv4Network(cidr))
    held = [int(IPv4Network(each.first)[0]) + at for each in ranges for at in range(each.size)]
    assert held == list(range(int(block[4]), int(block[-1])))
    assert max(each.size for each in ranges) <= RANGE_SIZE


async def test_networks_are_listed_without_the_rights_for_vpcs_and_groups(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    for action in ("DescribeVpcs", "DescribeSecurityGroups"):
        ec2.order(action, code="UnauthorizedOperation", message="You are not authorized", status=403)
    (network,) = await provider.networks()
    assert (network.network_id, network.security_groups) == ("subnet-default", ())
    ec2.order("DescribeSubnets", code="UnauthorizedOperation", message="You are not authorized", status=403)
    with pytest.raises(PermissionDenied):
        await provider.networks()


async def test_names_with_the_signs_of_patterns_are_looked_for_as_they_are(ec2: FaultyEc2, connect: Open) -> None:
    await (await connect()).images("50*?\\")
    forms = [form for action, form in ec2.account.calls if action == "DescribeImages"]
    patterns = {value for form in forms for name, value in form.items() if name.startswith("Filter.") and "50" in value}
    assert patterns == {"*50\\*\\?\\\\*"}


async def test_networks_have_no_groups_where_those_of_opennebula_are_mirrored(connect: Open) -> None:
    """Groups that a network names would turn off the mirrored ones."""
    mirrored = Mappings(security_groups=SecurityGroupSettings(mirror=True))
    assert any(each.security_groups for each in await (await connect()).networks())
    assert not any(each.security_groups for each in await (await connect(mappings=mirrored)).networks())
