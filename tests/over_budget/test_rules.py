"""When a limit of a month is reached, and which VMs are powered off then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.budget.months import month_of
from one_provider_mad.budget.records import MonthUse
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.idle.rules import Figure, Machine
from one_provider_mad.over_budget.rules import Reach, outlook, reached, targets

NOW = 1_764_590_400.0
"""2025-12-01 12:00 UTC."""

MONTH = month_of(NOW)


def use(
    spent: float, per_hour: float, *, limit: float = 100.0, table: str = "budget", ids: tuple[str, ...] = ()
) -> MonthUse:
    return MonthUse(
        table=table,
        whom="ec2",
        limit=limit,
        spent=spent,
        per_hour=per_hour,
        currency="USD",
        deploy_ids=frozenset(ids),
    )


def machine(vm_id: int, *, stime: int = 1) -> Machine:
    return Machine(
        vm_id=VmId(vm_id),
        stime=stime,
        deploy_id=DeployId(f"i-{vm_id}"),
        group_id=0,
        started_at=0.0,
        asked=None,
        warning="",
        figure=Figure(0.0, None),
    )


@pytest.mark.parametrize(
    ("spent", "per_hour", "now", "seconds"),
    [
        pytest.param(100.0, 0.0, NOW, 0.0, id="reached"),
        pytest.param(130.0, 5.0, NOW, 0.0, id="exceeded"),
        pytest.param(99.0, 2.0, NOW, 1800.0, id="within-the-hour"),
        pytest.param(99.0, 0.5, NOW, None, id="later"),
        pytest.param(99.0, 0.0, NOW, None, id="nothing-runs"),
        pytest.param(99.0, 2.0, MONTH.end - 1200, None, id="not-in-this-month"),
        pytest.param(99.0, 2.0, MONTH.end - 2400, 1800.0, id="just-in-this-month"),
    ],
)
def test_a_limit_counts_from_an_hour_before_it_is_reached_if_that_is_in_this_month(
    spent: float, per_hour: float, now: float, seconds: float | None
) -> None:
    found = reached(use(spent, per_hour), now=now, month=MONTH)
    assert (found.at - now if found else None) == seconds


@given(
    spent=st.floats(0, 200), per_hour=st.floats(0, 1e4), limit=st.floats(0, 200), now=st.floats(MONTH.begin, MONTH.end)
)
def test_nothing_is_powered_off_before_the_limit_is_spent(
    spent: float, per_hour: float, limit: float, now: float
) -> None:
    found = reached(use(spent, per_hour, limit=limit), now=now, month=MONTH)
    assert (found is not None and found.at <= now) >= (spent >= limit)
    if found is not None and found.at > now:
        hours = (found.at - now) / 3600
        assert spent + per_hour * hours == pytest.approx(limit, rel=1e-3, abs=1e-2)
        assert hours <= 1


def test_the_newest_vm_comes_first_and_the_limit_that_is_reached_first_counts() -> None:
    whole = Reach(use=use(99, 2, ids=("i-1", "i-2", "i-3")), at=NOW + 1800)
    of_ada = Reach(use=use(9, 2, table="budget.users.ada", ids=("i-2",)), at=NOW)
    machines = [machine(1, stime=5), machine(2, stime=5), machine(3, stime=9), machine(4)]
    worth = [DeployId(f"i-{number}") for number in (1, 2, 3, 4)]
    found = targets(machines, [whole, of_ada], worth=worth)
    assert [(each.machine.vm_id, each.reach) for each in found] == [(3, whole), (2, of_ada), (1, whole)]
    assert targets(machines, [whole], worth=worth[:1])[0].machine.vm_id == 1


def test_the_operators_sentence_names_limit_time_and_number() -> None:
    reach = Reach(use=use(99, 2), at=NOW + 1800)
    assert outlook(reach, count=2, left=1, now=NOW) == (
        "max_per_month of ec2, 100.0000 USD, will be reached at 2025-12-01 12:30 UTC: 2 VMs are powered off then"
        " through OpenNebula, the newest first, and 1 VM is left running, since no saving by that is known; an"
        " administrator may change budget.max_per_month, or at_limit in [budget]"
    )
    assert outlook(reach, count=1, left=0, now=NOW + 1800).startswith(
        "max_per_month of ec2, 100.0000 USD, is reached: 1 VM is powered off then through OpenNebula, the newest first;"
    )
