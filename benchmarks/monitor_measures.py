"""What reporting on ten thousand VMs costs, beside a program that judges nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.crowd import MONITOR, NAME, START_MONITOR, VMS, fill
from benchmarks.figures import Figure, Series, kilobytes, megabytes, number, seconds
from benchmarks.started import BARE_ACTIONS, HERE, IM_PROGRAM, Started, Starter, longest_stall

BARE_MONITOR = HERE / "bare_monitor.py"
LISTINGS = HERE / "listings.py"

STARTS = 20
SWEEPS = 4
WATCHED_SWEEPS = 4
LEGACY_REPORTS = 3
LEDGER_ROUNDS = 3
LEDGER_BEFORE = 5
"""Sweeps that are not measured: the first booking reads or writes every instance."""

LEDGER_SWEEPS = 4

IDLE_SECONDS = 2
"""For how long an idle loop is watched, to see how late the machine makes it."""

WORK = f"sweep of {VMS:,} VMs"
LEGACY_WORK = f"MONITOR of {VMS:,} VMs, its listing included"


class Crowd:
    """The cloud that is reported on, and the programs that do it."""

    def __init__(self, starter: Starter) -> None:
        self._starter = starter
        self._database = fill(starter)
        self.listings = starter.place.root / "listings.txt"
        self.stalls = starter.place.root / "stalls.txt"

    def ours(self) -> AbstractContextManager[Started]:
        """The information driver."""
        return self._starter.ours(NAME, program=IM_PROGRAM)

    def noted(self, *, is_booking: bool = True) -> AbstractContextManager[Started]:
        """The same; when it lists goes to a file."""
        return self._starter.ours(NAME, program=IM_PROGRAM, listings=self.listings, is_booking=is_booking)

    def watched(self) -> AbstractContextManager[Started]:
        """The same; when its event loop stalls goes to a file."""
        return self._starter.ours(NAME, program=IM_PROGRAM, stalls=self.stalls)

    def longest_idle_stall(self, duration: float) -> float:
        """How late a loop is for so many seconds that has nothing to do."""
        self.stalls.unlink(missing_ok=True)
        with self._starter.bare(BARE_ACTIONS, f"bare 1 {duration}", stalls=self.stalls) as program:
            return longest_stall(self.stalls, program.exchange(b"REBOOT 1 -\n", count=1))

    def bare(self, *, sweeps: int = 0) -> AbstractContextManager[Started]:
        """The bare program, which sweeps so many times when it is told to begin."""
        return self._starter.bare(BARE_MONITOR, f"{self._database} {sweeps} {self.listings}")


class Listing(NamedTuple):
    """When the cloud was listed.

    Attributes:
        begun: the machine's monotonic clock.
        ended: the same.
        processor_seconds: how long all threads of the program ran meanwhile.
    """

    begun: float
    ended: float
    processor_seconds: float

    @classmethod
    def read(cls, path: Path) -> list[Listing]:
        """All that were written down."""
        return [cls(*map(float, line.split())) for line in path.read_text().splitlines()]


def monitor(starter: Starter) -> Iterator[Figure]:
    """Everything about the information driver."""
    crowd = Crowd(starter)
    yield from first_system_host(crowd)
    yield from sweeps(crowd)
    yield ledger(crowd)
    yield stalls(crowd)
    yield from legacy(crowd)


def first_system_host(crowd: Crowd) -> Iterator[Figure]:
    """How soon a host is MONITORED: nothing but SYSTEM_HOST makes it so."""
    work = "exec, INIT and START_MONITOR to SYSTEM_HOST"
    whole, taken = _Taken(), _Taken()
    for _ in range(STARTS):
        for who, opened in (("bare", crowd.bare()), ("ours", crowd.ours())):
            with opened as program:
                exchange = program.hear(START_MONITOR, b"SYSTEM_HOST ", count=1)
            taken[who].append(exchange.seconds)
            whole[who].append(program.seconds_to_init + exchange.seconds)
    yield Figure(work=work, show=seconds, baseline=whole.series("bare"), ours=whole.series("ours"), shows_p99=True)
    # No baseline: that has imported everything before it answers INIT.
    yield Figure(
        work=work, part="from START_MONITOR on", show=seconds, baseline=None, ours=taken.series("ours"), shows_p99=True
    )


def sweeps(crowd: Crowd) -> Iterator[Figure]:
    """One sweep after the other: what each takes when the cloud has answered."""
    waits, costs, memory, longest, counts = (_Taken() for _ in range(5))
    for who, opened in (("bare", crowd.bare(sweeps=1 + SWEEPS)), ("ours", crowd.noted())):
        crowd.listings.unlink(missing_ok=True)
        with opened as program:
            first = program.hear(START_MONITOR, b"STATE_VM ", count=1)
            exchange = program.hear(b"", b"STATE_VM ", count=SWEEPS)
            memory[who].append(program.memory("VmHWM"))
        listings = [each for each in Listing.read(crowd.listings) if each.begun >= first.begun][: 1 + SWEEPS]
        told = [at for at, line in zip(exchange.times, exchange.answers, strict=True) if _is_sync(line)]
        waits[who] += [at - listing.ended for at, listing in zip(told, listings[1:], strict=True)]
        listed = sum(each.processor_seconds for each in listings[1:])
        costs[who].append((exchange.processor_seconds - listed) / SWEEPS)
        longest[who].append(max(map(len, exchange.answers)) + 1)
        counts[who] += _lines_a_sweep(exchange.answers)
    yield Figure(
        work=f"{WORK}, from the end of its listing to STATE_VM",
        show=seconds,
        baseline=waits.series("bare"),
        ours=waits.series("ours"),
        limit=1.0,
    )
    yield Figure(
        work=WORK,
        part="processor time, without the listing's",
        show=seconds,
        baseline=costs.series("bare"),
        ours=costs.series("ours"),
        limit=1.0,
    )
    yield Figure(
        work=WORK,
        part="most memory ever resident",
        show=megabytes,
        baseline=memory.series("bare"),
        ours=memory.series("ours"),
        limit=150.0,
    )
    yield Figure(
        work=WORK, part="longest line", show=kilobytes, baseline=longest.series("bare"), ours=longest.series("ours")
    )
    yield Figure(
        work=WORK, part="lines of all kinds", show=number, baseline=counts.series("bare"), ours=counts.series("ours")
    )


def ledger(crowd: Crowd) -> Figure:
    """What it costs to book each listing: the same driver without and with a ledger, in turn."""
    costs = _Taken()
    for is_booking in (False, True) * LEDGER_ROUNDS:
        crowd.listings.unlink(missing_ok=True)
        with crowd.noted(is_booking=is_booking) as program:
            program.hear(START_MONITOR, b"STATE_VM ", count=LEDGER_BEFORE)
            before = len(Listing.read(crowd.listings))
            exchange = program.hear(b"", b"STATE_VM ", count=LEDGER_SWEEPS)
        listings = Listing.read(crowd.listings)[before : before + LEDGER_SWEEPS]
        listed = sum(each.processor_seconds for each in listings)
        costs["ledger" if is_booking else "none"].append((exchange.processor_seconds - listed) / LEDGER_SWEEPS)
    return Figure(
        work=WORK,
        part="processor time, without and with the ledger",
        show=seconds,
        baseline=costs.series("none"),
        ours=costs.series("ledger"),
    )


def stalls(crowd: Crowd) -> Figure:
    """The longest time for which the event loop did nothing else while it swept, beside an idle loop's."""
    idle = crowd.longest_idle_stall(IDLE_SECONDS)
    crowd.stalls.unlink(missing_ok=True)
    with crowd.watched() as program:
        program.hear(START_MONITOR, b"STATE_VM ", count=1)
        exchange = program.hear(b"", b"STATE_VM ", count=WATCHED_SWEEPS)
    return Figure(
        work=WORK,
        part="longest stall of the event loop",
        show=seconds,
        baseline=Series(values=(idle,)),
        ours=Series(values=(longest_stall(crowd.stalls, exchange),)),
        limit=0.02,
    )


def legacy(crowd: Crowd) -> Iterator[Figure]:
    """One line that asks, one that answers, the listing between them."""
    taken, longest = _Taken(), _Taken()
    for who, opened in (("bare", crowd.bare()), ("ours", crowd.ours())):
        with opened as program:
            program.exchange(MONITOR, count=1)  # so that everything that is imported after INIT is there
            for _ in range(LEGACY_REPORTS):
                exchange = program.exchange(MONITOR, count=1)
                taken[who].append(exchange.seconds)
                longest[who].append(len(exchange.answers[0]) + 1)
    yield Figure(
        work=LEGACY_WORK,
        show=seconds,
        baseline=taken.series("bare"),
        ours=taken.series("ours"),
    )
    yield Figure(
        work=LEGACY_WORK,
        part="length of the answer",
        show=kilobytes,
        baseline=longest.series("bare"),
        ours=longest.series("ours"),
    )


class _Taken(defaultdict[str, list[float]]):
    def __init__(self) -> None:
        super().__init__(list)

    def series(self, who: str) -> Series:
        return Series(values=tuple(self[who]))


def _is_sync(line: bytes) -> bool:
    return line.startswith(b"STATE_VM ")


def _lines_a_sweep(lines: list[bytes]) -> list[float]:
    """How many lines came from one STATE_VM to the next, that one included."""
    ends = [0, *(index + 1 for index, line in enumerate(lines) if _is_sync(line))]
    return [end - begin for begin, end in pairwise(ends)]
