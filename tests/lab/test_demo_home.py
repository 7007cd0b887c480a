"""The demonstration's choice of a host: as OpenNebula's scheduler makes it with PRIORITY first."""

from __future__ import annotations

import pytest

from one_provider_mad.lab.demo_home import Host, cloud_host, placed, placements

REPORT = 'HYPERVISOR="ec2"\nPUBLIC_CLOUD="YES"\nTOTALCPU="2000"\nTOTALMEMORY="20971520"\nPRIORITY="-1"\n'


def test_the_cloud_takes_the_vm_that_home_has_no_room_for() -> None:
    lines = placements(cloud_host("ec2", REPORT), range(40, 44))
    assert [line.rpartition("-> ")[2] for line in lines] == ["home", "home", "ec2", "ec2"]
    assert "home (PRIORITY 0, 0 CPU), ec2 (PRIORITY -1, 20 CPU)" in lines[2]


def test_a_vm_waits_while_home_and_cloud_are_full() -> None:
    lines = placements(cloud_host("ec2", REPORT.replace("2000", "0")), range(3))
    assert lines[-1].endswith("-> waits")


@pytest.mark.parametrize(("priorities", "chosen"), [((0, -1), "a"), ((-2, -1), "b"), ((0, 5), "b")])
def test_the_highest_priority_with_room_is_chosen(priorities: tuple[float, float], chosen: str) -> None:
    hosts = [Host(name=name, priority=at, cpus=1) for name, at in zip("ab", priorities, strict=True)]
    taken = placed(hosts)
    assert taken is not None
    assert taken.name == chosen
