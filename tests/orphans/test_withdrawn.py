"""Withdraw debts for orphans: a debt may stand for days, and its VM may need the instance again."""

from __future__ import annotations

from typing import Any

import pytest

from one_provider_mad.actions.debts import pay
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import CannotTell, MadError, ProviderUnavailable
from one_provider_mad.orphans.verdicts import DONE_STATE
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME, identity_of
from tests.orphans.reconciler_setup import ACTIVE, POWEROFF, FrontEnd, end


@pytest.mark.parametrize("named", ["i-7", ""])
async def test_the_debt_for_an_orphan_is_withdrawn_if_its_vm_is_back(front: FrontEnd, named: str) -> None:
    """While the cloud refuses to terminate, OpenNebula is restored from a backup in which the VM is powered off."""
    end(front)
    assert await front.look(3) == {"i-7"}
    front.opennebula.vm(7, named, state=POWEROFF)
    assert await front.look() == set()
    assert front.warnings[-1] == "instance i-7 is not terminated any more as an orphan"


async def test_the_debt_for_an_orphan_is_withdrawn_if_its_vm_names_the_instance_again(front: FrontEnd) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    assert await front.look(3) == {"i-7"}
    front.opennebula.vm(7, "i-7")
    assert await front.look() == set()


async def test_the_debt_for_an_orphan_is_withdrawn_if_the_policy_no_longer_allows_it(front: FrontEnd) -> None:
    end(front)
    assert await front.look(3) == {"i-7"}
    front.policy = OrphanPolicy(policy="report")
    assert await front.look() == set()


@pytest.mark.parametrize(
    ("vm", "is_refused", "is_withdrawn"),
    [
        pytest.param({"state": ACTIVE, "lcm_state": 3}, True, True, id="running"),
        pytest.param({"state": POWEROFF}, True, True, id="powered-off"),
        pytest.param({"state": 9}, True, True, id="undeployed"),
        pytest.param({"state": ACTIVE, "lcm_state": 18}, True, False, id="being-powered-off"),
        pytest.param({"state": ACTIVE, "lcm_state": 15}, False, False, id="being-recreated"),
        pytest.param({"state": 1}, False, False, id="pending"),
        pytest.param({"state": DONE_STATE, "etime": 5}, False, False, id="done"),
        pytest.param({"state": POWEROFF, "deploy_id": "i-8"}, False, False, id="another-deploy-id"),
        pytest.param({"state": POWEROFF, "stime": STIME + 1}, False, False, id="another-stime"),
        pytest.param(None, False, False, id="no-such-vm"),
    ],
)
async def test_the_debt_of_a_cancelled_deploy_is_withdrawn_only_if_the_vm_uses_the_instance_again(
    front: FrontEnd, vm: dict[str, Any] | None, *, is_refused: bool, is_withdrawn: bool
) -> None:
    """A deploy was cancelled here, and another front-end, which led meanwhile, adopted the instance."""
    await front.world.add_debt("i-7")
    front.set_by = 10.0
    front.restart()
    front.policy = OrphanPolicy(policy="report")
    front.opennebula.vms.clear()
    if vm is not None:
        front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    assert await is_refused_now(front) == is_refused
    assert await front.look(2) == (set() if is_withdrawn else {"i-7"})
    assert [text for text in front.warnings if "uses it" in text] == [
        "instance i-7 is not terminated any more: VM 7 uses it again"
    ] * is_withdrawn


async def is_refused_now(front: FrontEnd) -> bool:
    (debt,) = await front.world.journal.debts()
    try:
        await front.reconciler.revalidation.refuse_needed(debt, DeployId("i-7"))
    except CannotTell:
        return True
    return False


async def test_a_new_debt_stands_although_the_vm_runs_but_is_not_paid_without_the_vms_document(front: FrontEnd) -> None:
    front.set_by = -10.0
    front.restart()
    await front.world.add_debt("i-7")
    assert await front.look(2) == {"i-7"}, "the VM may be on its way back to its host"
    front.opennebula.deaf = {7}
    assert await is_refused_now(front)


@pytest.mark.parametrize("other", [{"stime": STIME + 1}, {"deploy_id": "i-8"}])
async def test_the_debt_for_a_leftover_stands_if_the_vm_has_another_stime_or_deploy_id(
    front: FrontEnd, other: dict[str, Any]
) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    assert await front.look(3) == {"i-7"}
    front.opennebula.vm(7, **{"deploy_id": "i-7", **other})
    assert await front.look() == {"i-7"}


# Right before the payment: a new process pays debts before its first check, and the pool may lack a VM


async def is_confirmed(front: FrontEnd) -> bool:
    """True if the instance of the debt would be terminated at this moment."""
    (debt,) = await front.world.journal.debts()
    try:
        await front.reconciler.revalidation.confirm(debt)
    except MadError:
        return False
    return True


OBSTACLES: dict[str, dict[str, Any]] = {
    "OpenNebula is restored": {"vm": {"state": POWEROFF}},
    "and the pool lacks the VM": {"vm": {"state": POWEROFF}, "hidden": {7}},
    "the VM id is used again": {"vm": {"state": DONE_STATE, "etime": 5, "stime": STIME + 1}},
    "OpenNebula returns no document of the VM": {"deaf": {7}},
    "OpenNebula is unreachable": {"error": ProviderUnavailable("OpenNebula cannot be asked")},
    "another front-end leads": {"leads": False},
    "the journal was copied": {"machine": "a copy"},
    "the configuration was edited": {"policy": OrphanPolicy()},
    "an action is under way": {"action": "DEPLOY"},
    "a person has imported the instance": {"imported": True},
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
async def test_a_debt_for_an_orphan_is_confirmed_again_right_before_it_is_paid(
    front: FrontEnd, obstacle: dict[str, Any]
) -> None:
    end(front)
    assert await front.look(2) == {"i-7"}
    front.restart()
    assert await is_confirmed(front)
    for name, value in obstacle.items():
        if name == "vm":
            front.opennebula.vm(7, "i-7", **value)
        elif name == "action":
            front.world.journal.open_request(action=value, vm_id=VmId(7), dialect=Dialect.SINCE_6_0, payload=b"")
            await front.world.journal.sync()
        elif name == "imported":
            await front.world.journal.record_import(DeployId("i-7"), vm_id=VmId(7), stime=STIME)
        else:
            setattr(front if name in ("machine", "policy") else front.opennebula, name, value)
    assert not await is_confirmed(front)


async def test_the_debt_for_a_leftover_is_confirmed_although_its_vm_is_done_meanwhile(front: FrontEnd) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    assert await front.look(2) == {"i-7"}
    end(front)
    assert await is_confirmed(front)


async def test_the_debt_for_an_orphan_is_not_confirmed_if_its_tags_name_another_vm(front: FrontEnd) -> None:
    end(front)
    assert await front.look(2) == {"i-7"}
    front.cloud.instances[DeployId("i-7")].identity = identity_of(8)
    assert not await is_confirmed(front)


async def test_the_debt_for_an_orphan_is_not_paid_without_confirmation(front: FrontEnd) -> None:
    """For example without credentials, which existed when the debt was recorded."""
    end(front)
    assert await front.look(2) == {"i-7"}
    (debt,) = await front.world.journal.debts()
    with pytest.raises(CannotTell, match="has to be asked first"):
        await pay(front.engine(), debt, clock=front.world.clock)
    assert front.cloud.count("destroy") == 0


async def test_a_debt_for_an_orphan_is_not_withdrawn_after_a_request_for_the_same_termination(front: FrontEnd) -> None:
    end(front)
    assert await front.look(2) == {"i-7"}
    await front.world.add_debt("i-7")
    (debt,) = await front.world.journal.debts()
    assert not debt.is_orphan
    front.opennebula.vm(7, "i-7", state=POWEROFF)
    assert await front.look() == {"i-7"}
