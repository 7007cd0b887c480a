"""What was to be destroyed and is not any more: a debt may stand for days, and OpenNebula be another by then."""

from __future__ import annotations

from typing import Any

import pytest

from one_provider_mad.actions.debts import pay
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import CannotTell, MadError, ProviderUnavailable
from one_provider_mad.orphans.verdicts import DONE_STATE
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME, identity_of
from tests.orphans.front import ACTIVE, POWEROFF, Front, end


@pytest.mark.parametrize("named", ["i-7", ""])
async def test_what_is_owed_is_withdrawn_when_the_vm_is_back(front: Front, named: str) -> None:
    """While the cloud refuses to terminate, OpenNebula is restored from a backup in which the VM is powered off."""
    end(front)
    assert await front.look(3) == {"i-7"}
    front.opennebula.vm(7, named, state=POWEROFF)
    assert await front.look() == set()
    assert front.told[-1] == "instance i-7 is not terminated any more as an orphan"


async def test_what_is_owed_is_withdrawn_when_the_vm_calls_it_its_own_again(front: Front) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    assert await front.look(3) == {"i-7"}
    front.opennebula.vm(7, "i-7")
    assert await front.look() == set()


async def test_what_is_owed_is_withdrawn_when_nobody_wants_that_any_more(front: Front) -> None:
    end(front)
    assert await front.look(3) == {"i-7"}
    front.policy = OrphanPolicy(policy="report")
    assert await front.look() == set()


@pytest.mark.parametrize(
    ("vm", "is_refused", "is_withdrawn"),
    [
        pytest.param({"state": ACTIVE, "lcm_state": 3}, True, True, id="it-runs"),
        pytest.param({"state": POWEROFF}, True, True, id="it-is-off"),
        pytest.param({"state": 9}, True, True, id="it-is-undeployed"),
        pytest.param({"state": ACTIVE, "lcm_state": 18}, True, False, id="it-is-on-its-way"),
        pytest.param({"state": ACTIVE, "lcm_state": 15}, False, False, id="it-is-recreated"),
        pytest.param({"state": 1}, False, False, id="it-is-to-be-deployed-again"),
        pytest.param({"state": DONE_STATE, "etime": 5}, False, False, id="it-is-over"),
        pytest.param({"state": POWEROFF, "deploy_id": "i-8"}, False, False, id="it-is-something-else"),
        pytest.param({"state": POWEROFF, "stime": STIME + 1}, False, False, id="it-is-another"),
        pytest.param(None, False, False, id="there-is-none"),
    ],
)
async def test_what_a_request_owes_stands_unless_the_vm_lives_on_it(
    front: Front, vm: dict[str, Any] | None, *, is_refused: bool, is_withdrawn: bool
) -> None:
    """A deploy was called off here, and another front-end that led meanwhile has taken the instance over."""
    await front.world.add_debt("i-7")
    front.set_by = 10.0
    front.restart()
    front.policy = OrphanPolicy(policy="report")
    front.opennebula.vms.clear()
    if vm is not None:
        front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    assert await is_refused_now(front) == is_refused
    assert await front.look(2) == (set() if is_withdrawn else {"i-7"})
    assert [text for text in front.told if "uses it" in text] == [
        "instance i-7 is not terminated any more: VM 7 uses it again"
    ] * is_withdrawn


async def is_refused_now(front: Front) -> bool:
    (debt,) = await front.world.journal.debts()
    try:
        await front.reconciler.last_look.refuse_needed(debt, DeployId("i-7"))
    except CannotTell:
        return True
    return False


async def test_what_is_owed_from_before_waits_for_opennebula_and_what_is_new_stands(front: Front) -> None:
    front.set_by = -10.0
    front.restart()
    await front.world.add_debt("i-7")
    assert await front.look(2) == {"i-7"}, "the VM is on its way back to its host, perhaps"
    front.opennebula.deaf = {7}
    assert await is_refused_now(front)


@pytest.mark.parametrize("other", [{"stime": STIME + 1}, {"deploy_id": "i-8"}])
async def test_a_leftover_is_owed_whatever_else_there_is(front: Front, other: dict[str, Any]) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    assert await front.look(3) == {"i-7"}
    front.opennebula.vm(7, **{"deploy_id": "i-7", **other})
    assert await front.look() == {"i-7"}


# When its turn comes: a new process pays what it finds before it looks, and the pool may leave a VM out


async def is_confirmed(front: Front) -> bool:
    """Whether what is owed would be terminated just now."""
    (debt,) = await front.world.journal.debts()
    try:
        await front.reconciler.last_look.confirm(debt)
    except MadError:
        return False
    return True


AMISS: dict[str, dict[str, Any]] = {
    "OpenNebula is restored": {"vm": {"state": POWEROFF}},
    "and the pool leaves the VM out": {"vm": {"state": POWEROFF}, "hidden": {7}},
    "the number is used again": {"vm": {"state": DONE_STATE, "etime": 5, "stime": STIME + 1}},
    "it says nothing of the VM": {"deaf": {7}},
    "it cannot be asked": {"error": ProviderUnavailable("OpenNebula cannot be asked")},
    "another front-end leads": {"leads": False},
    "the journal was copied": {"machine": "a copy"},
    "the configuration was edited": {"policy": OrphanPolicy()},
    "an action is under way": {"action": "DEPLOY"},
    "a person has taken it over": {"imported": True},
}


@pytest.mark.parametrize("amiss", AMISS.values(), ids=AMISS)
async def test_what_is_owed_is_looked_at_once_more_right_before_it_goes(front: Front, amiss: dict[str, Any]) -> None:
    end(front)
    assert await front.look(2) == {"i-7"}
    front.restart()
    assert await is_confirmed(front)
    for name, value in amiss.items():
        if name == "vm":
            front.opennebula.vm(7, "i-7", **value)
        elif name == "action":
            front.world.journal.open_request(action=value, vm_id=VmId(7), is_two_blank=True, payload=b"")
            await front.world.journal.sync()
        elif name == "imported":
            await front.world.journal.record_import(DeployId("i-7"), vm_id=VmId(7), stime=STIME)
        else:
            setattr(front if name in ("machine", "policy") else front.opennebula, name, value)
    assert not await is_confirmed(front)


async def test_a_leftover_whose_vm_has_ended_meanwhile_goes_all_the_same(front: Front) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    assert await front.look(2) == {"i-7"}
    end(front)
    assert await is_confirmed(front)


async def test_an_instance_that_is_not_shown_or_is_another_vms_by_now_is_none(front: Front) -> None:
    end(front)
    assert await front.look(2) == {"i-7"}
    front.cloud.instances[DeployId("i-7")].identity = identity_of(8)
    assert not await is_confirmed(front)


async def test_nobody_terminates_an_orphan_unasked(front: Front) -> None:
    """Without credentials, say, which were there when it was noted."""
    end(front)
    assert await front.look(2) == {"i-7"}
    (debt,) = await front.world.journal.debts()
    with pytest.raises(CannotTell, match="has to be asked first"):
        await pay(front.engine(), debt)
    assert front.cloud.count("destroy") == 0


async def test_what_a_request_has_asked_for_is_no_longer_withdrawn(front: Front) -> None:
    end(front)
    assert await front.look(2) == {"i-7"}
    await front.world.add_debt("i-7")
    (debt,) = await front.world.journal.debts()
    assert not debt.is_orphan
    front.opennebula.vm(7, "i-7", state=POWEROFF)
    assert await front.look() == {"i-7"}
