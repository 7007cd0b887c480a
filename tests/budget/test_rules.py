"""The limits of `[budget]`: what is admitted, and the sentence of what is not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.budget.months import month_of
from one_provider_mad.budget.rules import Ask, Scope, Terms, Use, has_limits, refusal, scopes_for
from one_provider_mad.budget.settings import BudgetSettings, Limits
from one_provider_mad.domain import VmOwner

NOW = datetime(2026, 12, 21, 12, tzinfo=UTC).timestamp()
"""With 252 hours left of the month."""

TERMS = Terms(file="ec2.toml", now=NOW, month=month_of(NOW))


def scope(**limits: Any) -> Scope:
    return Scope(table="budget", whom="ec2", limits=Limits(**limits))


def instance(price: float | None, **more: Any) -> Ask:
    """The creation of one instance."""
    defaults: dict[str, Any] = {
        "what": "an instance m5.large",
        "amount": price,
        "known": price or 0.0,
        "price": price,
        "currency": "USD",
        "instances": 1,
        "gib": 8.0,
        "type_name": "m5.large",
        "is_new_type": True,
    }
    return Ask(**{**defaults, **more})


REFUSED = {
    "hour": (
        {"max_per_hour": 5},
        Use(instances=3, per_hour=4.9, currencies=frozenset({"USD"})),
        instance(0.192),
        (
            "max_per_hour of ec2 is 5.0000 USD, 4.9000 USD is in use, and an instance m5.large would add 0.1920 USD"
            "; an"
            " administrator may change budget.max_per_hour in ec2.toml"
        ),
    ),
    "month": (
        {"max_per_month": 100},
        Use(month=80.0, currencies=frozenset({"USD"})),
        instance(0.1),
        (
            "max_per_month of ec2 is 100.0000 USD, 80.0000 USD is booked or will be by 2026-12-31, and an instance"
            " m5.large would add 25.2000 USD; an administrator may change budget.max_per_month in ec2.toml"
        ),
    ),
    "instances": (
        {"max_instances": 3},
        Use(instances=3),
        instance(None),
        (
            "max_instances of ec2 is 3, 3 exist, and an instance m5.large would add 1; an administrator may change"
            " budget.max_instances in ec2.toml"
        ),
    ),
    "disk": (
        {"max_disk_gb": 100},
        Use(gib=93.5),
        instance(None),
        (
            "max_disk_gb of ec2 is 100 GiB, 93.5 GiB is in use, and an instance m5.large would add 8 GiB"
            "; an administrator"
            " may change budget.max_disk_gb in ec2.toml"
        ),
    ),
    "one VM": (
        {"max_price_per_vm": 0.1},
        Use(),
        instance(0.192),
        (
            "max_price_per_vm of ec2 is 0.1000 USD, and an instance m5.large would cost 0.1920 USD an hour"
            "; an administrator"
            " may change budget.max_price_per_vm in ec2.toml"
        ),
    ),
    "type": (
        {"allowed_types": ("t3.*", "c5.large")},
        Use(),
        instance(None),
        (
            "allowed_types of ec2 is t3.*, c5.large, and an instance m5.large would be of type m5.large"
            "; an administrator may"
            " change budget.allowed_types in ec2.toml"
        ),
    ),
    "spot": (
        {"max_spot_price": 0.05},
        Use(),
        instance(0.07, is_spot=True, spot_price=0.06),
        (
            "max_spot_price of ec2 is 0.0500 USD, and an instance m5.large would cost 0.0600 USD an hour"
            "; an administrator"
            " may change budget.max_spot_price in ec2.toml"
        ),
    ),
    "unknown price": (
        {"max_per_hour": 5},
        Use(),
        instance(None),
        (
            "the price of an instance m5.large is unknown, and budget.max_per_hour counts it"
            "; an administrator may set it in"
            ' [prices], or unknown_price = "allow" in [budget], in ec2.toml'
        ),
    ),
    "unknown price of another": (
        {"max_per_month": 5},
        Use(unpriced="instance i-7 of VM 7"),
        instance(0.001),
        (
            "the price of instance i-7 of VM 7, which exists, is unknown, and budget.max_per_month counts it; an"
            ' administrator may set it in [prices], or unknown_price = "allow" in [budget], in ec2.toml'
        ),
    ),
    "currencies": (
        {"max_per_hour": 5},
        Use(per_hour=1.0, currencies=frozenset({"EUR"})),
        instance(0.1),
        (
            "the sum of prices in EUR and USD is unknown, and budget.max_per_hour counts it; an administrator may set"
            " currency and rate in [prices] in ec2.toml"
        ),
    ),
}


@pytest.mark.parametrize(("limits", "use", "ask", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_names_limit_use_what_was_asked_and_who_may_change_it(
    limits: dict[str, Any], use: Use, ask: Ask, sentence: str
) -> None:
    refused = refusal(scope(**limits), use, ask, TERMS)
    assert refused is not None
    assert refused.sentence == sentence


ADMITTED = {
    "to the cent": ({"max_per_hour": 0.3}, Use(per_hour=0.1 + 0.1), instance(0.1, currency="")),
    "type by pattern": ({"allowed_types": ("m5.*",)}, Use(), instance(None)),
    "start keeps its type": ({"allowed_types": ("t3.*",)}, Use(), instance(None, is_new_type=False)),
    "nothing added": ({"max_per_hour": 1}, Use(per_hour=2.0), instance(0.0, currency="")),
    "no limit": ({}, Use(instances=10_000, per_hour=1e6), instance(None)),
    "on demand": ({"max_spot_price": 0.01}, Use(), instance(0.2)),
}


@pytest.mark.parametrize(("limits", "use", "ask"), ADMITTED.values(), ids=ADMITTED.keys())
def test_what_stays_within_the_limits_is_admitted(limits: dict[str, Any], use: Use, ask: Ask) -> None:
    assert refusal(scope(**limits), use, ask, TERMS) is None


def test_an_unknown_price_that_is_allowed_counts_as_its_known_part() -> None:
    terms = Terms(file="ec2.toml", now=NOW, month=month_of(NOW), may_be_unknown=True)
    ask = instance(None, known=0.2, currency="")
    assert refusal(scope(max_per_hour=0.3), Use(), ask, terms) is None
    assert refusal(scope(max_per_hour=0.1), Use(), ask, terms) is not None


def test_only_a_refusal_that_others_use_caused_may_pass_later() -> None:
    full, never = Use(instances=2), Use()
    asked = instance(None)
    refused = [refusal(scope(max_instances=limit), use, asked, TERMS) for limit, use in ((2, full), (0, never))]
    assert [each is not None and each.is_by_use for each in refused] == [True, False]


def test_limits_of_the_whole_of_a_user_and_of_a_group_apply_together() -> None:
    settings = BudgetSettings(users={"ada": Limits(max_instances=1)}, groups={"students": Limits(max_per_hour=1)})
    owner = VmOwner(user_id=3, user="ada", group_id=4, group="students")
    assert [each.table for each in scopes_for(settings, name="ec2", owner=owner)] == [
        "budget",
        "budget.users.ada",
        "budget.groups.students",
    ]
    assert [each.whom for each in scopes_for(settings, name="ec2", owner=VmOwner())] == ["ec2"]


def test_an_empty_budget_has_no_limits() -> None:
    assert not has_limits(BudgetSettings(share="team", users={"ada": Limits()}))
    assert has_limits(BudgetSettings(groups={"students": Limits(max_instances=0)}))


amounts = st.floats(0, 1000)


@given(limit=amounts, use=amounts, price=amounts)
def test_a_sum_is_admitted_exactly_up_to_its_limit(limit: float, use: float, price: float) -> None:
    asked = instance(price, currency="")
    is_admitted = refusal(scope(max_per_hour=limit), Use(per_hour=use), asked, TERMS) is None
    excess = use + price - limit
    if excess > 1e-5:
        assert not is_admitted or price == 0
    elif excess <= 0:
        assert is_admitted


@given(st.integers(0, 4_000_000_000))
def test_months_follow_each_other_without_a_gap(at: int) -> None:
    month = month_of(at)
    assert month.begin <= at < month.end
    assert month_of(month.end).begin == month.end
    assert 28 * 24 <= month.hours_left(month.begin) <= 31 * 24
