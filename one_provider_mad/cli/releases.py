"""The option --release: releases with an output of their own, and which of them any other release is taken as."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

Numbers = tuple[int, ...]
"""A release as numbers, (6, 10) for 6.10."""

_OLDEST = (4, 4)
"""First release whose requests the drivers read."""

_RELEASE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")


def numbers(release: str) -> Numbers:
    """Return a release such as 6.10 as numbers."""
    return tuple(map(int, release.split(".")))


class ReleaseChoice(click.Choice):  # type: ignore[type-arg] # click is generic from 8.4 on
    """A choice of releases that also accepts every other release, and notes on stderr which one it is taken as.

    Args:
        releases: those with an output of their own.
        taken_as: returns the one of them whose output is right for a release of 4.4 or later.
    """

    def __init__(self, releases: Sequence[str], taken_as: Callable[[Numbers], str]) -> None:
        super().__init__(releases)
        self._taken_as = taken_as

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the release with the right output; a text that is no release fails as in any choice."""
        if value in self.choices or not _RELEASE.fullmatch(str(value)) or numbers(value) < _OLDEST:
            return super().convert(value, param, ctx)
        nearest = self._taken_as(numbers(value))
        if ctx is None or not ctx.resilient_parsing:
            click.echo(f"note: {value} is taken as {nearest}, the nearest release with an output of its own", err=True)
        return nearest
