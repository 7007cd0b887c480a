"""The instances that are terminated as orphans, and those that are not: a real journal, a fake cloud and OpenNebula."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, InstanceState, VmId
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.orphans.reconciler import MACHINE, ORPHANS
from one_provider_mad.orphans.verdicts import DONE_STATE, VmDocument
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME, identity_of
from tests.orphans.reconciler_setup import ACTIVE, POWEROFF, FrontEnd, end

# VMs that OpenNebula ended without a request


async def test_the_instance_of_a_done_vm_becomes_a_debt_after_the_second_check(front: FrontEnd) -> None:
    assert await front.look(3) == set()
    end(front)
    assert await front.look() == set()
    assert await front.look() == {"i-7"}
    (debt,) = await front.world.journal.debts()
    assert debt.identity == identity_of(7)
    assert debt.reason.startswith(f"orphan (done): VM 7 (STIME {STIME}) is DONE since ")
    assert front.warnings[-1].startswith("instance i-7 is terminated as an orphan: VM 7 (STIME")


async def test_the_default_policy_only_reports_orphans(front: FrontEnd) -> None:
    front.policy = OrphanPolicy(grace=0)
    end(front)
    assert await front.look(5) == set()
    (warning,) = front.warnings
    assert warning.startswith("instance i-7 is an orphan: VM 7")
    (entry,) = json.loads(await front.world.journal.fact(ORPHANS) or "")["orphans"]
    assert (entry["deploy_id"], entry["vm_id"], entry["verdict"], entry["looks"]) == ("i-7", 7, "done", 5)


async def test_an_instance_from_before_a_recreate_is_terminated_and_the_instance_the_vm_names_stays(
    front: FrontEnd,
) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8", state=POWEROFF)
    assert await front.look(2) == {"i-7"}


async def test_of_duplicates_the_one_with_the_vms_deploy_id_stays(front: FrontEnd) -> None:
    await front.create("i-8")
    front.opennebula.vm(7, "i-8")
    assert await front.look(2) == {"i-7"}


async def test_an_instance_from_before_a_recreate_is_terminated_after_its_vm_is_done(front: FrontEnd) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    end(front)
    del front.cloud.instances[DeployId("i-8")]
    assert await front.look(2) == {"i-7"}


@pytest.mark.parametrize("named", ["i-8", "one-8", "", "-"])
async def test_an_orphan_whose_create_was_never_answered_is_terminated(front: FrontEnd, named: str) -> None:
    """The journal of a killed driver has its attempt without an id; the next driver found the instance by its tags."""
    ago = 5000 if named == "i-8" else 500  # some clouds report the time of the latest start
    await front.create("i-8", vm_id=8, is_known=False, ago=ago)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    front.opennebula.vm(8, named)
    end(front, 8)
    assert await front.look(2) == {"i-8"}


@pytest.mark.parametrize(("ago", "gone"), [(600, {"i-8"}), (1200, set())])
async def test_a_leftover_of_an_unanswered_create_is_terminated_if_its_creation_time_matches(
    front: FrontEnd, ago: float, gone: set[str]
) -> None:
    await front.create("i-8", vm_id=8, is_known=False, ago=ago)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    await front.create("i-9", vm_id=8, seq=1)
    front.opennebula.vm(8, "i-9")
    assert await front.look(3) == gone


@pytest.mark.parametrize(("drivers", "gone"), [(("cloud", "kvm"), {"i-7"}), (("cloud", "cloud"), set())])
async def test_the_instance_of_a_vm_that_ended_with_another_deploy_id_is_terminated_only_if_it_had_left_the_cloud(
    front: FrontEnd, drivers: tuple[str, str], gone: set[str]
) -> None:
    """It was undeployed here, and resumed at home, where it got another DEPLOY_ID."""
    front.opennebula.vm(7, "h-0:one-7:kvm", hosts=(3, 12), drivers=drivers)
    end(front)
    assert await front.look(2) == gone


# Instances that are left alone


@pytest.mark.parametrize(
    "state",
    [pytest.param(state, id=name) for name, state in {"off": 8, "suspended": 5, "stopped": 4, "undeployed": 9}.items()],
)
async def test_the_instance_of_a_vm_that_is_not_done_is_kept(front: FrontEnd, state: int) -> None:
    front.opennebula.vm(7, "i-7", state=state)
    front.cloud.instances[DeployId("i-7")].state = InstanceState.STOPPED
    assert await front.look(5) == set()
    assert not front.warnings


@pytest.mark.parametrize(
    "vm",
    [
        pytest.param(None, id="no-such-vm"),
        pytest.param({"stime": STIME + 1, "state": DONE_STATE, "etime": 1}, id="vm-id-used-again"),
        pytest.param({"state": DONE_STATE, "etime": 0}, id="done-without-etime"),
        pytest.param({"hosts": (12,), "state": DONE_STATE, "etime": 1}, id="vm-never-on-that-host"),
        pytest.param({"deploy_id": ""}, id="no-deploy-id-yet"),
        pytest.param({"deploy_id": "i-9"}, id="deploy-id-unknown-to-the-cloud"),
        pytest.param({"deploy_id": "one-7", "hosts": (3, 12)}, id="on-another-host"),
        pytest.param({"hosts": (3, 12), "drivers": ("cloud", "kvm")}, id="migrated-to-another-drivers-host"),
    ],
)
async def test_an_instance_of_doubtful_origin_is_reported_and_not_terminated(
    front: FrontEnd, vm: dict[str, Any] | None
) -> None:
    front.opennebula.vms.clear()
    if vm is not None:
        front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    assert await front.look(5) == set()
    assert len(front.warnings) == 1, "a person should know"
    assert front.warnings[0].startswith("instance i-7 belongs to no VM for certain: ")


async def test_an_instance_with_a_newer_seq_than_the_one_the_vm_names_is_kept(front: FrontEnd) -> None:
    """A recreate is under way, or was interrupted."""
    await front.create("i-8", seq=1)
    assert await front.look(5) == set()


async def test_duplicates_are_not_terminated_if_the_vm_has_another_deploy_id(front: FrontEnd) -> None:
    await front.create("i-8")
    front.opennebula.vm(7, "i-9")
    assert await front.look(5) == set()


async def test_instances_of_other_owners_and_untagged_ones_are_ignored(front: FrontEnd) -> None:
    await front.create("i-8", owner="another", vm_id=8)
    front.cloud.add(None, deploy_id="i-wild")
    assert await front.look(5) == set()
    assert not front.warnings


async def test_a_duplicate_that_the_journal_does_not_know_is_only_reported(front: FrontEnd) -> None:
    """Another OpenNebula with the same owner by mistake may have created it: the tags alone do not suffice."""
    await front.create("i-8", is_known=False)
    end(front)
    assert await front.look(5) == {"i-7"}
    assert "i-8 is an orphan" in "".join(front.warnings)


async def test_of_two_instances_for_one_open_attempt_neither_is_terminated(front: FrontEnd) -> None:
    """The VM was deleted during its deploy, and one of the instances is a copy."""
    await front.create("i-8", vm_id=8, is_known=False)
    await front.create("i-9", vm_id=8, is_known=False)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    front.opennebula.vm(8, "")
    end(front, 8)
    assert await front.look(5) == set()


@pytest.mark.parametrize("state", [POWEROFF, DONE_STATE])
async def test_a_copy_of_an_instance_with_the_same_tags_is_only_reported(front: FrontEnd, state: int) -> None:
    """A person launched a similar instance in the cloud's console, and the answer to the create was lost."""
    await front.create("i-8", vm_id=8, is_known=False, ago=5000)
    await front.create("i-9", vm_id=8, is_known=False, ago=1000)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    front.opennebula.vm(8, "i-8", state=state, etime=5)
    assert await front.look(5) == ({"i-8"} if state == DONE_STATE else set())
    assert any("i-9 is an orphan" in text for text in front.warnings)


@pytest.mark.parametrize("way", ["unknown", "imported"])
async def test_an_orphan_that_this_driver_did_not_create_is_only_reported(front: FrontEnd, way: str) -> None:
    await front.create("i-8", vm_id=8, is_known=way == "imported")
    if way == "imported":
        await front.world.journal.record_import(DeployId("i-8"), vm_id=VmId(8), stime=STIME)
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()
    assert len(front.warnings) == 1


@pytest.mark.parametrize(("state", "seq"), [(AttemptState.REFUSED, 0), (AttemptState.OPEN, 1)])
async def test_an_attempt_that_was_refused_or_has_another_seq_does_not_allow_termination(
    front: FrontEnd, state: AttemptState, seq: int
) -> None:
    await front.create("i-8", vm_id=8, is_known=False)
    await front.attempt(identity_of(8, seq=seq), state=state)
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()


async def test_the_orphan_is_only_reported_if_the_done_vm_names_an_unknown_instance(front: FrontEnd) -> None:
    """By mistake the driver asks another cluster's OpenNebula, which has a VM with the same id and STIME."""
    front.opennebula.vm(7, "i-99")
    end(front)
    assert await front.look(5) == set()
    assert len(front.warnings) == 1


async def test_an_attempt_with_another_stime_does_not_allow_termination(front: FrontEnd) -> None:
    await front.create("i-8", vm_id=8, is_known=False)
    other = Attempt.new(identity_of(8, stime=STIME - 1), 1, {})
    await front.world.journal.save_attempt(
        msgspec.structs.replace(other, state=AttemptState.CREATED, deploy_id=DeployId("i-8"))
    )
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()


async def test_a_follower_terminates_no_orphan_until_it_leads(front: FrontEnd) -> None:
    end(front)
    front.opennebula.leads = False
    assert await front.look(5) == set()
    front.opennebula.leads = True
    assert await front.look() == {"i-7"}


async def test_no_orphan_is_terminated_with_the_journal_of_another_machine(front: FrontEnd) -> None:
    """A clone of the front-end: a VM that is DONE in its OpenNebula may be running in the original's."""
    await front.look()
    end(front)
    await front.look()
    assert await front.world.journal.fact(MACHINE) == "here"
    front.machine = "a copy"
    front.restart()
    assert await front.look(5) == set()
    (warning,) = [text for text in front.warnings if "machine" in text]
    assert warning.endswith("run one-provider journal accept fake")


async def test_an_orphan_is_terminated_only_after_the_grace_since_creation_and_done(front: FrontEnd) -> None:
    front.policy = OrphanPolicy(policy="terminate-done", grace=600)
    end(front, ago=590)
    front.set_by = 0.0
    assert await front.look(3) == set(), "it was created just now"
    front.set_by = 599.0
    assert await front.look(3) == set()
    front.set_by = 601.0
    assert await front.look() == {"i-7"}
    await front.create("i-8", vm_id=8)
    front.opennebula.vm(8, "i-8")
    front.opennebula.end(8, at=front.world.clock() + 595)
    front.set_by = 1190.0
    assert await front.look(3) == {"i-7"}, "its VM existed until just now"
    front.set_by = 1200.0
    assert await front.look() == {"i-7", "i-8"}


async def test_no_more_orphans_are_terminated_at_once_than_the_setting_at_most(front: FrontEnd) -> None:
    front.policy = OrphanPolicy(policy="terminate-done", grace=0, at_most=2)
    for vm_id in range(10, 15):
        await front.create(f"i-{vm_id}", vm_id=vm_id)
        front.opennebula.vm(vm_id, f"i-{vm_id}")
        end(front, vm_id)
    assert [len(await front.look()) for _ in range(5)] == [0, 2, 4, 5, 5]


# Between two checks, and between a check and the termination


@pytest.mark.parametrize("what", ["opennebula", "cloud", "contradiction", "vm"])
async def test_an_incomplete_check_restarts_the_count_of_checks(front: FrontEnd, what: str) -> None:
    end(front)
    await front.look()
    if what == "opennebula":
        front.opennebula.error = ProviderUnavailable("OpenNebula cannot be asked")
    elif what == "cloud":
        front.cloud.before["list"].append(ProviderUnavailable("the cloud cannot be asked"))
    elif what == "contradiction":
        front.cloud.doubles = {DeployId("i-7"): InstanceState.STOPPED}
    else:
        front.opennebula.deaf = {7}
    await front.run(1)
    front.opennebula.error, front.opennebula.deaf, front.cloud.doubles = None, set(), {}
    assert await front.look() == set()
    assert await front.look() == {"i-7"}


async def test_an_orphan_is_not_terminated_while_an_action_of_its_vm_is_under_way(front: FrontEnd) -> None:
    end(front)
    front.busy = {7}
    assert await front.look(5) == set()
    front.busy = set()
    assert await front.look() == set()
    assert await front.look() == {"i-7"}


@pytest.mark.parametrize("what", ["busy", "cloud"])
async def test_no_debt_is_recorded_if_the_vm_is_busy_or_the_lookup_fails_right_before(
    front: FrontEnd, what: str
) -> None:
    end(front)
    await front.look()
    before = front.opennebula.documents

    async def documents(vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        if len(front.opennebula.asked) == 2:  # two checks have asked
            front.busy = {7} if what == "busy" else set()
        return await before(vm_ids)

    front.opennebula.documents = documents  # type: ignore[method-assign]
    if what == "cloud":
        front.cloud.before["find"].append(ProviderUnavailable("the cloud cannot be asked"))
    assert await front.look() == set()
    assert len(front.opennebula.asked) == 3


async def test_an_orphan_is_not_terminated_while_another_process_has_a_request_of_its_vm(front: FrontEnd) -> None:
    """Up to 5.12 oned does not end the old driver when it starts a new one."""
    end(front)
    journal = front.world.journal
    number = journal.open_request(action="DEPLOY", vm_id=VmId(7), dialect=Dialect.SINCE_6_0, payload=b"")
    await journal.sync()
    assert await front.look(5) == set()
    assert front.warnings == []
    journal.close_request(number)
    await journal.sync()
    assert await front.look(2) == {"i-7"}


async def test_no_debt_is_recorded_if_the_vm_is_no_longer_done_right_before(front: FrontEnd) -> None:
    """Right before the debt is recorded, this VM alone is read again."""
    end(front)
    await front.look()
    before = front.opennebula.documents

    async def documents(vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        if len(front.opennebula.asked) == 2:  # two checks have asked
            front.opennebula.vm(7, "i-7", state=POWEROFF)
        return await before(vm_ids)

    front.opennebula.documents = documents  # type: ignore[method-assign]
    assert await front.look() == set()
    assert len(front.opennebula.asked) == 3


async def test_repeated_checks_record_one_debt(front: FrontEnd) -> None:
    end(front)
    await front.look(5)
    assert len(await front.world.journal.debts()) == 1


async def test_an_orphan_is_reported_once_and_leaves_the_list_when_it_is_gone(front: FrontEnd) -> None:
    front.policy = OrphanPolicy()
    end(front)
    await front.look(5)
    assert len(front.warnings) == 1
    front.cloud.instances.clear()
    await front.look()
    assert json.loads(await front.world.journal.fact(ORPHANS) or "")["orphans"] == []


async def test_an_orphan_is_not_reported_again_after_a_failed_check(front: FrontEnd) -> None:
    front.policy = OrphanPolicy()
    end(front)
    await front.look(2)
    front.opennebula.error = ProviderUnavailable("OpenNebula cannot be asked")
    await front.run(1)
    front.opennebula.error = None
    await front.look(3)
    assert len(front.warnings) == 1


async def test_an_instance_is_reported_again_when_its_verdict_changes(front: FrontEnd) -> None:
    front.policy = OrphanPolicy()
    end(front)
    await front.look(2)
    front.opennebula.vms.clear()
    await front.look(2)
    assert [text.split(":")[0] for text in front.warnings] == [
        "instance i-7 is an orphan",
        "instance i-7 belongs to no VM for certain",
    ]


# Parked marks


@pytest.mark.parametrize(
    ("vm", "is_freed"),
    [
        pytest.param({"state": ACTIVE, "lcm_state": 3}, True, id="running"),
        pytest.param({"state": ACTIVE, "lcm_state": 16}, True, id="unknown"),
        pytest.param({"state": POWEROFF}, True, id="powered-off"),
        pytest.param({"state": 9}, False, id="undeployed"),
        pytest.param({"state": ACTIVE, "lcm_state": 29}, False, id="being-undeployed"),
        pytest.param({"state": ACTIVE, "lcm_state": 3, "deploy_id": "i-9"}, False, id="another-deploy-id"),
    ],
)
async def test_the_parked_mark_is_cleared_if_the_vm_is_on_its_host_again(
    front: FrontEnd, vm: dict[str, Any], *, is_freed: bool
) -> None:
    """Another front-end deployed it. Reports lack a marked instance, and a full report makes its VM look lost."""
    await front.world.journal.park(DeployId("i-7"), VmId(7))
    front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    await front.look()
    assert await front.world.journal.parked() == {"i-7"}, "oned may not have read an answer yet"
    front.set_by = 120.0
    await front.look()
    assert await front.world.journal.parked() == (set() if is_freed else {"i-7"})
