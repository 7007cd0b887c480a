"""The warnings when a limit is used to 80 and 100 per cent."""

from __future__ import annotations

from one_provider_mad.budget.levels import Warned, all_scopes, levels
from one_provider_mad.budget.records import Level
from one_provider_mad.budget.rules import Use
from one_provider_mad.budget.settings import BudgetSettings, Limits


def hour(used: float) -> list[Level]:
    return [Level(table="budget", key="max_per_hour", used=used, limit=1.0)]


def test_each_step_is_told_once_until_the_use_has_fallen_below_it() -> None:
    warned = Warned()
    assert warned.news(hour(0.79)) == []
    assert warned.news(hour(0.8)) == ["0.8000 of budget.max_per_hour = 1.0000 is in use, 80 % or more"]
    assert warned.news(hour(0.9)) == []
    assert warned.news(hour(1.0)) == [
        "1.0000 of budget.max_per_hour = 1.0000 is in use, 100 % or more; nothing that adds to it is admitted"
    ]
    assert warned.news(hour(0.5)) == []
    assert len(warned.news(hour(0.85))) == 1


def test_only_limits_that_are_set_have_a_level() -> None:
    settings = BudgetSettings(max_instances=4, users={"ada": Limits(max_disk_gb=10)})
    found = [each for scope in all_scopes(settings, name="ec2") for each in levels(scope, Use(instances=3, gib=5))]
    assert [(each.table, each.key, each.used, each.limit) for each in found] == [
        ("budget", "max_instances", 3.0, 4.0),
        ("budget.users.ada", "max_disk_gb", 5, 10.0),
    ]
