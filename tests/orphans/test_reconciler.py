"""What is destroyed and, above all, what is not: a real journal, a fake cloud, an OpenNebula that says what it must."""

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
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME, identity_of
from tests.orphans.front import ACTIVE, POWEROFF, Front, end

# The hole that OpenNebula leaves


async def test_the_instance_of_a_vm_that_is_over_is_terminated_after_the_second_look(front: Front) -> None:
    assert await front.look(3) == set()
    end(front)
    assert await front.look() == set()
    assert await front.look() == {"i-7"}
    (debt,) = await front.world.journal.debts()
    assert debt.identity == identity_of(7)
    assert debt.reason.startswith(f"orphan (done): VM 7 (STIME {STIME}) is DONE since ")
    assert front.told[-1].startswith("instance i-7 is terminated as an orphan: VM 7 (STIME")


async def test_as_shipped_it_is_told_of_and_no_more(front: Front) -> None:
    front.policy = OrphanPolicy(grace=0)
    end(front)
    assert await front.look(5) == set()
    (told,) = front.told
    assert told.startswith("instance i-7 is an orphan: VM 7")
    (entry,) = json.loads(await front.world.journal.fact(ORPHANS) or "")["orphans"]
    assert (entry["deploy_id"], entry["vm_id"], entry["verdict"], entry["looks"]) == ("i-7", 7, "done", 5)


async def test_a_leftover_of_a_recreate_goes_and_the_vms_own_stays(front: Front) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8", state=POWEROFF)
    assert await front.look(2) == {"i-7"}


async def test_of_twins_the_one_that_opennebula_knows_stays(front: Front) -> None:
    await front.create("i-8")
    front.opennebula.vm(7, "i-8")
    assert await front.look(2) == {"i-7"}


async def test_a_leftover_goes_also_when_its_vm_is_over(front: Front) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    end(front)
    del front.cloud.instances[DeployId("i-8")]
    assert await front.look(2) == {"i-7"}


@pytest.mark.parametrize("named", ["i-8", "one-8", "", "-"])
async def test_an_instance_whose_create_was_never_answered_goes_as_well(front: Front, named: str) -> None:
    """A driver that was killed has it in its journal without an id; whoever took it over found it by its tags."""
    ago = 5000 if named == "i-8" else 500  # some clouds tell of the latest start
    await front.create("i-8", vm_id=8, is_known=False, ago=ago)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    front.opennebula.vm(8, named)
    end(front, 8)
    assert await front.look(2) == {"i-8"}


@pytest.mark.parametrize(("ago", "gone"), [(600, {"i-8"}), (1200, set())])
async def test_a_leftover_whose_create_was_never_answered_goes_if_it_was_made_about_then(
    front: Front, ago: float, gone: set[str]
) -> None:
    await front.create("i-8", vm_id=8, is_known=False, ago=ago)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    await front.create("i-9", vm_id=8, seq=1)
    front.opennebula.vm(8, "i-9")
    assert await front.look(3) == gone


# Everything else is left alone


@pytest.mark.parametrize(
    "state",
    [pytest.param(state, id=name) for name, state in {"off": 8, "suspended": 5, "stopped": 4, "undeployed": 9}.items()],
)
async def test_a_vm_that_is_not_done_keeps_its_instance(front: Front, state: int) -> None:
    front.opennebula.vm(7, "i-7", state=state)
    front.cloud.instances[DeployId("i-7")].state = InstanceState.STOPPED
    assert await front.look(5) == set()
    assert not front.told


@pytest.mark.parametrize(
    "vm",
    [
        pytest.param(None, id="there-is-no-such-vm"),
        pytest.param({"stime": STIME + 1, "state": DONE_STATE, "etime": 1}, id="its-number-was-used-again"),
        pytest.param({"state": DONE_STATE, "etime": 0}, id="nobody-knows-since-when-it-is-over"),
        pytest.param({"hosts": (12,), "state": DONE_STATE, "etime": 1}, id="it-never-was-on-that-host"),
        pytest.param({"deploy_id": ""}, id="it-has-no-deploy-id-yet"),
        pytest.param({"deploy_id": "i-9"}, id="it-is-something-that-the-cloud-does-not-show"),
        pytest.param({"deploy_id": "one-7", "hosts": (3, 12)}, id="it-runs-on-another-host"),
        pytest.param({"hosts": (3, 12), "drivers": ("cloud", "kvm")}, id="it-was-migrated-to-another-drivers-host"),
    ],
)
async def test_in_doubt_nothing_is_terminated(front: Front, vm: dict[str, Any] | None) -> None:
    front.opennebula.vms.clear()
    if vm is not None:
        front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    assert await front.look(5) == set()
    assert len(front.told) == 1, "somebody should know"
    assert front.told[0].startswith("instance i-7 belongs to no VM for certain: ")


async def test_an_instance_that_is_newer_than_what_opennebula_knows_is_left_alone(front: Front) -> None:
    """A recreate is under way, or was cut short."""
    await front.create("i-8", seq=1)
    assert await front.look(5) == set()


async def test_of_twins_that_opennebula_does_not_know_neither_is_terminated(front: Front) -> None:
    await front.create("i-8")
    front.opennebula.vm(7, "i-9")
    assert await front.look(5) == set()


async def test_somebody_elses_instance_is_nobodys_business(front: Front) -> None:
    await front.create("i-8", owner="another", vm_id=8)
    front.cloud.add(None, deploy_id="i-wild")
    assert await front.look(5) == set()
    assert not front.told


async def test_a_twin_that_the_journal_does_not_know_is_told_of_only(front: Front) -> None:
    """Made by another OpenNebula, say, that has the same owner by mistake: the tags alone are no ground."""
    await front.create("i-8", is_known=False)
    end(front)
    assert await front.look(5) == {"i-7"}
    assert "i-8 is an orphan" in "".join(front.told)


async def test_of_two_that_the_journal_may_have_made_neither_is_terminated(front: Front) -> None:
    """The VM was deleted while it was deployed, and one of them is a copy."""
    await front.create("i-8", vm_id=8, is_known=False)
    await front.create("i-9", vm_id=8, is_known=False)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    front.opennebula.vm(8, "")
    end(front, 8)
    assert await front.look(5) == set()


@pytest.mark.parametrize("state", [POWEROFF, DONE_STATE])
async def test_a_copy_of_an_instance_with_all_its_tags_is_told_of_only(front: Front, state: int) -> None:
    """Somebody has launched more like this in the cloud's console, and the answer to the create itself was lost."""
    await front.create("i-8", vm_id=8, is_known=False, ago=5000)
    await front.create("i-9", vm_id=8, is_known=False, ago=1000)
    await front.attempt(identity_of(8), state=AttemptState.OPEN)
    front.opennebula.vm(8, "i-8", state=state, etime=5)
    assert await front.look(5) == ({"i-8"} if state == DONE_STATE else set())
    assert any("i-9 is an orphan" in text for text in front.told)


@pytest.mark.parametrize("way", ["unknown", "imported"])
async def test_what_this_driver_has_not_made_is_told_of_only(front: Front, way: str) -> None:
    await front.create("i-8", vm_id=8, is_known=way == "imported")
    if way == "imported":
        await front.world.journal.record_import(DeployId("i-8"), vm_id=VmId(8), stime=STIME)
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()
    assert len(front.told) == 1


@pytest.mark.parametrize(("state", "seq"), [(AttemptState.REFUSED, 0), (AttemptState.OPEN, 1)])
async def test_a_create_that_made_something_else_or_nothing_is_no_permission(
    front: Front, state: AttemptState, seq: int
) -> None:
    await front.create("i-8", vm_id=8, is_known=False)
    await front.attempt(identity_of(8, seq=seq), state=state)
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()


async def test_a_vm_of_the_same_number_and_stime_whose_instance_was_not_made_here_is_another_ones(front: Front) -> None:
    """The driver asks the OpenNebula of another cluster, by mistake."""
    front.opennebula.vm(7, "i-99")
    end(front)
    assert await front.look(5) == set()
    assert len(front.told) == 1


async def test_an_attempt_of_another_life_of_that_number_made_something_else(front: Front) -> None:
    await front.create("i-8", vm_id=8, is_known=False)
    other = Attempt.new(identity_of(8, stime=STIME - 1), 1, {})
    await front.world.journal.save_attempt(
        msgspec.structs.replace(other, state=AttemptState.CREATED, deploy_id=DeployId("i-8"))
    )
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()


async def test_a_front_end_that_does_not_lead_leaves_it_to_the_one_that_does(front: Front) -> None:
    end(front)
    front.opennebula.leads = False
    assert await front.look(5) == set()
    front.opennebula.leads = True
    assert await front.look() == {"i-7"}


async def test_a_journal_of_another_machine_is_no_permission(front: Front) -> None:
    """A clone of the front-end: what is terminated in its OpenNebula is needed in the original's."""
    await front.look()
    end(front)
    await front.look()
    assert await front.world.journal.fact(MACHINE) == "here"
    front.machine = "a copy"
    front.restart()
    assert await front.look(5) == set()
    (warning,) = [text for text in front.told if "machine" in text]
    assert warning.endswith("run one-provider journal accept fake")


async def test_graces_pass_first(front: Front) -> None:
    front.policy = OrphanPolicy(policy="terminate-done", grace=600)
    end(front, ago=590)
    front.set_by = 0.0
    assert await front.look(3) == set(), "it was made just now"
    front.set_by = 599.0
    assert await front.look(3) == set()
    front.set_by = 601.0
    assert await front.look() == {"i-7"}
    await front.create("i-8", vm_id=8)
    front.opennebula.vm(8, "i-8")
    front.opennebula.end(8, at=front.world.clock() + 595)
    front.set_by = 1190.0
    assert await front.look(3) == {"i-7"}, "its VM was there until just now"
    front.set_by = 1200.0
    assert await front.look() == {"i-7", "i-8"}


async def test_no_more_than_so_many_at_once(front: Front) -> None:
    front.policy = OrphanPolicy(policy="terminate-done", grace=0, at_most=2)
    for vm_id in range(10, 15):
        await front.create(f"i-{vm_id}", vm_id=vm_id)
        front.opennebula.vm(vm_id, f"i-{vm_id}")
        end(front, vm_id)
    assert [len(await front.look()) for _ in range(5)] == [0, 2, 4, 5, 5]


# Between two looks, and between a look and the deed


@pytest.mark.parametrize("what", ["opennebula", "cloud", "contradiction", "vm"])
async def test_a_look_that_was_not_complete_begins_anew(front: Front, what: str) -> None:
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


async def test_a_vm_with_an_action_under_way_is_left_alone(front: Front) -> None:
    end(front)
    front.busy = {7}
    assert await front.look(5) == set()
    front.busy = set()
    assert await front.look() == set()
    assert await front.look() == {"i-7"}


@pytest.mark.parametrize("what", ["busy", "cloud"])
async def test_right_before_the_deed_it_is_busy_or_not_seen(front: Front, what: str) -> None:
    end(front)
    await front.look()
    before = front.opennebula.documents

    async def documents(vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        if len(front.opennebula.asked) == 2:  # two looks have asked
            front.busy = {7} if what == "busy" else set()
        return await before(vm_ids)

    front.opennebula.documents = documents  # type: ignore[method-assign]
    if what == "cloud":
        front.cloud.before["find"].append(ProviderUnavailable("the cloud cannot be asked"))
    assert await front.look() == set()
    assert len(front.opennebula.asked) == 3


async def test_a_vm_whose_request_another_process_has_not_answered_is_left_alone(front: Front) -> None:
    """Up to 5.12 oned does not end the driver of before when it starts a new one."""
    end(front)
    journal = front.world.journal
    number = journal.open_request(action="DEPLOY", vm_id=VmId(7), is_two_blank=True, payload=b"")
    await journal.sync()
    assert await front.look(5) == set()
    assert front.told == ["instance i-7 belongs to no VM for certain: an action of VM 7 is under way"]
    journal.close_request(number)
    await journal.sync()
    assert await front.look(2) == {"i-7"}


async def test_whatever_has_changed_since_the_look_is_seen_before_the_deed(front: Front) -> None:
    """Right before, this VM alone is looked at again."""
    end(front)
    await front.look()
    before = front.opennebula.documents

    async def documents(vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        if len(front.opennebula.asked) == 2:  # two looks have asked
            front.opennebula.vm(7, "i-7", state=POWEROFF)
        return await before(vm_ids)

    front.opennebula.documents = documents  # type: ignore[method-assign]
    assert await front.look() == set()
    assert len(front.opennebula.asked) == 3


async def test_what_is_owed_already_is_not_noted_again(front: Front) -> None:
    end(front)
    await front.look(5)
    assert len(await front.world.journal.debts()) == 1


async def test_what_is_over_is_told_once(front: Front) -> None:
    front.policy = OrphanPolicy()
    end(front)
    await front.look(5)
    assert len(front.told) == 1
    front.cloud.instances.clear()
    await front.look()
    assert json.loads(await front.world.journal.fact(ORPHANS) or "")["orphans"] == []


async def test_what_was_told_is_not_told_again_after_a_look_that_failed(front: Front) -> None:
    front.policy = OrphanPolicy()
    end(front)
    await front.look(2)
    front.opennebula.error = ProviderUnavailable("OpenNebula cannot be asked")
    await front.run(1)
    front.opennebula.error = None
    await front.look(3)
    assert len(front.told) == 1


async def test_when_it_is_something_else_by_now_that_is_told_as_well(front: Front) -> None:
    front.policy = OrphanPolicy()
    end(front)
    await front.look(2)
    front.opennebula.vms.clear()
    await front.look(2)
    assert [text.split(":")[0] for text in front.told] == [
        "instance i-7 is an orphan",
        "instance i-7 belongs to no VM for certain",
    ]


# Marks of an undeploy


@pytest.mark.parametrize(
    ("vm", "is_freed"),
    [
        pytest.param({"state": ACTIVE, "lcm_state": 3}, True, id="it-runs"),
        pytest.param({"state": ACTIVE, "lcm_state": 16}, True, id="it-is-unknown"),
        pytest.param({"state": POWEROFF}, True, id="it-was-powered-off"),
        pytest.param({"state": 9}, False, id="it-is-undeployed"),
        pytest.param({"state": ACTIVE, "lcm_state": 29}, False, id="it-is-being-undeployed"),
        pytest.param({"state": ACTIVE, "lcm_state": 3, "deploy_id": "i-9"}, False, id="it-is-something-else"),
    ],
)
async def test_a_vm_that_another_front_end_has_put_back_on_its_host_is_on_it(
    front: Front, vm: dict[str, Any], *, is_freed: bool
) -> None:
    """Its instance is named in no report while it is marked, and what a report of all VMs leaves out is lost."""
    await front.world.journal.park(DeployId("i-7"), VmId(7))
    front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    await front.look()
    assert await front.world.journal.parked() == {"i-7"}, "oned may have an answer yet to read"
    front.set_by = 120.0
    await front.look()
    assert await front.world.journal.parked() == (set() if is_freed else {"i-7"})
