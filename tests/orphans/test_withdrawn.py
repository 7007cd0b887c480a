"""What was to be destroyed and is not any more: a debt may stand for days, and OpenNebula be another by then."""

from __future__ import annotations

from typing import Any

import pytest

from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME
from tests.orphans.front import POWEROFF, TERMINATE, Front, end


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


async def test_other_debts_stand(front: Front) -> None:
    await front.world.add_debt("i-7")
    front.policy = OrphanPolicy(policy="report")
    assert await front.look(2) == {"i-7"}
    front.opennebula.vm(7, "i-7", state=POWEROFF)
    front.policy = TERMINATE
    assert await front.look(2) == {"i-7"}


@pytest.mark.parametrize("other", [{"stime": STIME + 1}, {"deploy_id": "i-8"}])
async def test_a_leftover_is_owed_whatever_else_there_is(front: Front, other: dict[str, Any]) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8")
    assert await front.look(3) == {"i-7"}
    front.opennebula.vm(7, **{"deploy_id": "i-7", **other})
    assert await front.look() == {"i-7"}
