"""How far limits are used, and the warnings at 80 and 100 per cent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from one_provider_mad.budget.records import Level
from one_provider_mad.budget.rules import Scope, Use, whole_budget
from one_provider_mad.budget.settings import BudgetSettings
from one_provider_mad.pricing.values import figure

_STEPS = (100, 80)
"""Per cent of a limit that are warned of."""


def all_scopes(settings: BudgetSettings, *, name: str) -> list[Scope]:
    """Return the limits of the whole budget, of each user and of each group."""
    scopes = [whole_budget(settings, name=name)]
    scopes += [
        Scope(table=f"budget.users.{user}", whom=f"user {user}", limits=limits, user=user)
        for user, limits in settings.users.items()
    ]
    scopes += [
        Scope(table=f"budget.groups.{group}", whom=f"group {group}", limits=limits, group=group)
        for group, limits in settings.groups.items()
    ]
    return scopes


def levels(scope: Scope, use: Use) -> Iterator[Level]:
    """Yield how far the limits of a scope on sums are used."""
    limits = scope.limits
    for key, limit, used in (
        ("max_per_hour", limits.max_per_hour, use.per_hour),
        ("max_per_month", limits.max_per_month, use.month),
        ("max_instances", limits.max_instances, float(use.instances)),
        ("max_disk_gb", limits.max_disk_gb, use.gib),
    ):
        if limit is not None:
            yield Level(table=scope.table, key=key, used=used, limit=float(limit))


class Warned:
    """Remembers which limits were warned of, so that each step is told once until the use falls below it."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], int] = {}

    def news(self, found: Iterable[Level]) -> list[str]:
        """Return a sentence for each limit whose use has reached a further step."""
        told: list[str] = []
        for level in found:
            key, step = (level.table, level.key), step_of(level)
            if step > self._steps.get(key, 0):
                told.append(_sentence(level, step))
            self._steps[key] = step
        return told


def step_of(level: Level) -> int:
    """Return the greatest step that the use has reached, in per cent; 0 for none."""
    return next((step for step in _STEPS if level.limit and level.used * 100 >= level.limit * step), 0)


def standing(found: Iterable[Level]) -> str:
    """Return the warning that a host shows while limits are used to 80 or 100 per cent, "" for none.

    It does not say how much is used, so that it changes with the steps alone.
    """
    told = [(level, step) for level in found if (step := step_of(level))]
    return "; ".join(f"{_share(step)} of {_limit(level)} {_how(level)}{_end(step)}" for level, step in told)


def _sentence(level: Level, step: int) -> str:
    return f"{_written(level, level.used)} of {_limit(level)} {_how(level)}, {_share(step)} or more{_end(step)}"


def _limit(level: Level) -> str:
    return f"{level.table}.{level.key} = {_written(level, level.limit)}"


def _written(level: Level, amount: float) -> str:
    return figure(amount) if level.key.startswith("max_per") else f"{amount:g}"


def _share(step: int) -> str:
    return f"{step} %"


def _how(level: Level) -> str:
    return "is spent, or will be by the month's end" if level.key == "max_per_month" else "is in use"


def _end(step: int) -> str:
    return "; nothing that adds to it is admitted" if step == _STEPS[0] else ""
