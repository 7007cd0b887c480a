"""The orphan check in a running driver: warnings, errors, unused parts, and the times of checks."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.errors import JournalError, PermissionDenied, ProviderUnavailable, SettingsError
from one_provider_mad.orphans.reconciler import MACHINE, ORPHANS
from one_provider_mad.orphans.timetable import CHECK_SECONDS, TROUBLE
from one_provider_mad.orphans.verdicts import DONE_STATE
from one_provider_mad.providers.interface import UnusedResource
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME, a_world, identity_of
from tests.orphans.reconciler_setup import POWEROFF, CloudOfParts, FrontEnd, end


async def test_without_credentials_the_check_is_off_but_the_machine_is_journaled(front: FrontEnd) -> None:
    front.opennebula.refusal = SettingsError("one_auth does not exist")
    end(front)
    await front.run(99)
    (warning,) = [entry for entry in front.world.logged if entry["log_level"] == "warning"]
    assert warning["event"] == "orphans are not looked for"
    assert (front.warnings, front.cloud.calls) == ([], [])
    assert await front.world.journal.fact(MACHINE) == "here", "the journal may be copied later"


async def test_the_check_is_off_for_a_verbatim_driver(front: FrontEnd) -> None:
    front.engines.is_verbatim = True
    front.opennebula.refusal = SettingsError("one_auth does not exist")
    await front.run(99)
    assert await front.world.journal.fact(MACHINE) is None
    assert not front.world.logged


async def test_the_check_continues_after_a_locked_journal(front: FrontEnd) -> None:
    end(front)
    fact = front.world.journal.fact

    async def locked(name: str) -> str | None:
        front.world.journal.fact = fact  # type: ignore[method-assign]
        raise JournalError("the journal cannot be used: database is locked")

    front.world.journal.fact = locked  # type: ignore[method-assign]
    await front.run(2)
    assert [debt.deploy_id for debt in await front.world.journal.debts()] == ["i-7"]


@pytest.mark.parametrize(("looks", "warnings"), [(3, 0), (4, 1), (9, 1)])
async def test_an_unreachable_opennebula_is_reported_once_from_the_fourth_check_on(
    front: FrontEnd, looks: int, warnings: int
) -> None:
    """oned starts its drivers before it listens itself."""
    front.opennebula.error = ProviderUnavailable("OpenNebula at localhost:2633 cannot be reached")
    await front.run(looks)
    assert front.warnings == ["orphans are not looked for: OpenNebula at localhost:2633 cannot be reached"] * warnings


async def test_a_second_outage_of_opennebula_is_reported_again(front: FrontEnd) -> None:
    for _ in range(2):
        front.opennebula.error = ProviderUnavailable("OpenNebula at localhost:2633 cannot be reached")
        await front.run(5)
        front.opennebula.error = None
        await front.run(1)
    assert len(front.warnings) == 2


async def test_an_unexpected_exception_restarts_the_count_of_checks_and_is_reported(front: FrontEnd) -> None:
    end(front)
    await front.look()
    front.cloud.before["list"] += [ZeroDivisionError()] * 5
    await front.run(5)
    assert front.warnings == [
        "orphans are not looked for: internal error (ZeroDivisionError), the driver's log has the details"
    ]
    assert await front.look() == set()
    assert {entry["event"] for entry in front.world.logged if entry["log_level"] == "error"} == {
        "looking for orphans failed unexpectedly"
    }


async def test_the_release_is_learned_from_the_first_successful_check(front: FrontEnd) -> None:
    """The form of lines for oned's log depends on it, and the first request may be days away."""
    front.opennebula.error = ProviderUnavailable("OpenNebula at localhost:2633 cannot be reached")
    await front.run(2)
    assert front.learned == []
    front.opennebula.error = None
    await front.run(3)
    assert front.learned == [(7, 4, 0)]


async def test_a_copied_journal_is_reported_once(front: FrontEnd) -> None:
    await front.look()
    front.machine = "a copy"
    end(front)
    await front.look(5)
    assert len([text for text in front.warnings if "another machine" in text]) == 1


# Unused parts


@pytest.fixture
async def parted(tmp_path: Path) -> AsyncIterator[FrontEnd]:
    """VM 7 runs as i-7; the cloud has an unused volume of it, and a snapshot without a VM."""
    cloud = CloudOfParts()
    async with a_world(tmp_path, cloud) as world:
        front = FrontEnd(world)
        await front.create("i-7")
        front.opennebula.vm(7, "i-7")
        cloud.parts = [
            UnusedResource(part_id="vol-1", kind="volume", identity=identity_of(7), detail="8 GiB"),
            UnusedResource(part_id="snap-1", kind="snapshot"),
        ]
        yield front


async def parts(front: FrontEnd) -> list[str]:
    await front.look()
    return [entry["id"] for entry in json.loads(await front.world.journal.fact(ORPHANS) or "")["parts"]]


@pytest.mark.parametrize(
    ("vm", "is_loose"),
    [
        pytest.param({"state": POWEROFF}, False, id="off"),
        pytest.param({"state": DONE_STATE, "etime": 5}, True, id="done"),
        pytest.param({"stime": STIME + 1}, True, id="vm-id-used-again"),
        pytest.param(None, True, id="no-such-vm"),
    ],
)
async def test_an_unused_volume_is_reported_if_its_vm_is_gone(
    parted: FrontEnd, vm: dict[str, Any] | None, *, is_loose: bool
) -> None:
    parted.opennebula.vms.clear()
    if vm is not None:
        parted.opennebula.vm(7, "i-7", **vm)
    assert await parts(parted) == ["vol-1", "snap-1"][0 if is_loose else 1 :]


async def test_a_part_of_a_vm_that_the_pool_lacks_is_not_reported(parted: FrontEnd) -> None:
    """A user without admin rights sees only some VMs in the pool."""
    parted.opennebula.hidden = {7}
    assert await parts(parted) == ["snap-1"]
    parted.opennebula.deaf = {7}
    assert await parts(parted) == ["snap-1"]


async def test_no_document_is_requested_for_a_part_of_a_vm_in_the_pool(parted: FrontEnd) -> None:
    await parts(parted)
    assert parted.opennebula.asked == [set(), set()]


async def test_unused_parts_are_reported_once_and_never_deleted(parted: FrontEnd) -> None:
    parted.policy = OrphanPolicy(policy="terminate-done", grace=0)
    for _ in range(3):
        await parts(parted)
    assert parted.warnings == ["unused volumes, snapshots or addresses of this OpenNebula: 1"]
    assert {name for name, _ in parted.cloud.calls} == {"list"}


async def test_what_a_provider_makes_again_is_removed_or_reported(parted: FrontEnd) -> None:
    cloud = parted.cloud
    assert isinstance(cloud, CloudOfParts)
    cloud.removable = {"snap-1"}
    cloud.removal_refusal = PermissionDenied("no permission for DeleteSecurityGroup")
    assert [await parts(parted) for _ in range(2)] == [["snap-1"]] * 2
    assert parted.warnings[0] == "unused resources are not removed: no permission for DeleteSecurityGroup"
    assert len(parted.warnings) == 2, "once, beside the number of unused parts"
    cloud.removal_refusal = None
    assert await parts(parted) == []


async def test_orphans_are_terminated_although_listing_parts_is_refused(parted: FrontEnd) -> None:
    parted.cloud.refusal = PermissionDenied("no permission for DescribeVolumes")  # type: ignore[attr-defined]
    end(parted)
    assert await parted.look(3) == {"i-7"}
    assert [text for text in parted.warnings if "volumes" in text] == [
        "unused volumes, snapshots and addresses are not looked for: no permission for DescribeVolumes"
    ]
    found = json.loads(await parted.world.journal.fact(ORPHANS) or "")
    assert (found["parts"], found["parts_problem"]) == ([], "no permission for DescribeVolumes")


# Times of checks


def policy(interval: float) -> OrphanPolicy:
    return OrphanPolicy(policy="report", interval=interval)


def apart(front: FrontEnd) -> list[int]:
    """Seconds from the start to each check, to a quarter of a minute: real time passes beside the virtual one."""
    return [15 * round((at - front.begun_at) / 15) for at in front.looks]


async def test_checks_run_at_the_start_and_then_at_the_interval(front: FrontEnd) -> None:
    front.policy = policy(300)
    await front.run(seconds=700)
    assert apart(front) == [0, 300, 600]


async def test_an_edited_interval_takes_effect_within_seconds(front: FrontEnd) -> None:
    front.policy = policy(3600)
    await front.run(seconds=120, edits={42: policy(30)})
    assert apart(front) == [0, 45, 75, 105]


async def test_a_restart_does_not_restart_the_interval(front: FrontEnd) -> None:
    front.policy = policy(300)
    for _ in range(4):  # every two minutes
        await front.run(seconds=120)
        front.set_by += 120 - (front.now() - front.begun_at) % 120
        front.restart()
    assert apart(front) == [0, 300]


async def test_a_check_before_a_restart_counts_as_the_first_of_two(front: FrontEnd) -> None:
    end(front)
    front.policy = policy(300)
    await front.run(1)
    assert front.warnings == []
    front.restart()
    await front.run(seconds=310)
    assert [text.split(":")[0] for text in front.warnings] == ["instance i-7 is an orphan"]


async def test_a_failed_check_before_a_restart_restarts_the_count_of_checks(front: FrontEnd) -> None:
    end(front)
    await front.run(1)
    front.set_by += 600
    front.opennebula.error = ProviderUnavailable("OpenNebula at localhost:2633 cannot be reached")
    await front.run(1)
    front.opennebula.error = None
    front.restart()
    await front.run(1)
    assert front.warnings == []
    assert await front.world.journal.debts() == []


async def test_the_first_check_waits_until_oned_is_up(front: FrontEnd) -> None:
    front.core_is_up.clear()
    running = asyncio.create_task(front.run(1))
    for _ in range(100):
        await asyncio.to_thread(os.sched_yield)
    assert front.looks == []
    front.core_is_up.set()
    await running
    assert len(front.looks) == 1


async def test_a_failed_check_is_repeated_after_growing_pauses(front: FrontEnd) -> None:
    front.policy = policy(300)
    front.opennebula.error = ProviderUnavailable("OpenNebula at localhost:2633 cannot be reached")
    await front.run(6)
    assert apart(front) == [0, 30, 90, 210, 450, 750]
    trouble = json.loads(await front.world.journal.fact(TROUBLE) or "")
    assert (trouble["reason"], trouble["retry"]) == ("OpenNebula at localhost:2633 cannot be reached", 300)


async def test_a_clock_that_is_set_back_does_not_delay_the_next_check(front: FrontEnd) -> None:
    await front.run(1)
    front.set_by -= 86_400
    front.looks.clear()
    await front.run(1)
    assert len(front.looks) == 1
    assert front.looks[0] - (front.begun_at - 86_400) < OrphanPolicy().interval + CHECK_SECONDS


async def test_the_journal_records_why_there_is_no_check(front: FrontEnd) -> None:
    front.opennebula.refusal = SettingsError("one_auth does not exist")
    await front.run(1)
    trouble = json.loads(await front.world.journal.fact(TROUBLE) or "")
    assert (trouble["reason"], trouble["retry"]) == ("one_auth does not exist", None)
