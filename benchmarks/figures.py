"""One figure of the table: what was measured, beside what, and what was hoped for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Series:
    """Measurements of one thing.

    Attributes:
        values: one a round.
        is_larger_better: a rate, not a time or a size.
    """

    values: tuple[float, ...]
    is_larger_better: bool = False

    @property
    def median(self) -> float:
        """The usual value."""
        return median(self.values)

    @property
    def best(self) -> float:
        """The value that other work on the machine disturbed least."""
        return max(self.values) if self.is_larger_better else min(self.values)

    def percentile(self, share: float) -> float:
        """The value that so many percent of all are not above (nearest rank)."""
        ranked = sorted(self.values)
        return ranked[max(0, math.ceil(len(ranked) * share / 100) - 1)]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    Attributes:
        work: what was done.
        part: what of it, when it is not the time it took.
        show: writes a value with its unit.
        baseline: the bare program's measurements, None where it has no such thing.
        ours: the driver's measurements.
        limit: the target for the median, in the unit of the measurements; None when there is none.
        limit_ratio: the target as a ratio to the baseline's median; None when there is none.
        upstream: what was measured of OpenNebula's own driver, elsewhere; "" when nothing was.
        shows_p99: the rarest values matter too.
    """

    work: str
    part: str = ""
    show: Callable[[float], str]
    baseline: Series | None
    ours: Series
    limit: float | None = None
    limit_ratio: float | None = None
    upstream: str = ""
    shows_p99: bool = False

    @property
    def ratio(self) -> float | None:
        """Our median to the baseline's."""
        if self.baseline is None or not self.baseline.median:
            return None
        return self.ours.median / self.baseline.median

    @property
    def is_held(self) -> bool | None:
        """Whether the median is within the target; None without a target."""
        checks = []
        if self.limit is not None:
            checks.append(self._is_within(self.ours.median, self.limit))
        if self.limit_ratio is not None and self.ratio is not None:
            checks.append(self._is_within(self.ratio, self.limit_ratio))
        return all(checks) if checks else None

    def _is_within(self, value: float, limit: float) -> bool:
        return value >= limit if self.ours.is_larger_better else value <= limit

    def cells(self) -> tuple[str, ...]:
        """The line of the table."""
        return (
            f"– {self.part}" if self.part else self.work,
            "–" if self.baseline is None else self._shown(self.baseline),
            self._shown(self.ours),
            "–" if self.ratio is None else f"{self.ratio:.2f}",
            self._target(),
            self.upstream or "–",
        )

    def _shown(self, series: Series) -> str:
        text = self.show(series.median)
        if len(series.values) > 1:
            text += f" ({self.show(series.best)})"
        return f"{text}, p99 {self.show(series.percentile(99))}" if self.shows_p99 else text

    def _target(self) -> str:
        sign = "≥" if self.ours.is_larger_better else "≤"
        parts = [f"{sign} {self.show(self.limit)}"] if self.limit is not None else []
        parts += [f"{sign} {self.limit_ratio:g} × baseline"] if self.limit_ratio is not None else []
        return f"{', '.join(parts)}: {'held' if self.is_held else 'missed'}" if parts else "–"

    def as_json(self) -> dict[str, object]:
        """Everything, for a program."""
        return {
            "work": self.work,
            "part": self.part or None,
            "baseline": None if self.baseline is None else _as_json(self.baseline),
            "ours": _as_json(self.ours),
            "ratio": self.ratio,
            "limit": self.limit,
            "limit_ratio": self.limit_ratio,
            "is_held": self.is_held,
            "upstream": self.upstream or None,
        }


def _as_json(series: Series) -> dict[str, object]:
    return {
        "median": series.median,
        "best": series.best,
        "p99": series.percentile(99),
        "values": list(series.values),
    }


HEADINGS = ("work", "baseline", "ours", "ratio", "target", "upstream (quoted)")


def table(figures: Sequence[Figure]) -> str:
    """All figures as a table for the eye, which is Markdown too."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def seconds(value: float) -> str:
    """A time."""
    if value >= 0.1:
        return f"{value:.3f} s"
    return f"{value * 1000:.1f} ms" if value >= 0.001 else f"{value * 1e6:.0f} µs"


def megabytes(value: float) -> str:
    """A size."""
    return f"{value:.1f} MB"


def per_second(value: float) -> str:
    """A rate."""
    return f"{value:,.0f}/s"


def kilobytes(value: float) -> str:
    """A length."""
    return f"{value / 1000:.1f} kB"


def number(value: float) -> str:
    """A count."""
    return f"{value:,.0f}"
