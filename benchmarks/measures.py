"""The measurements. Rounds of ours and of the bare program take turns, so that both meet the same noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.figures import Figure, Series, megabytes, per_second, seconds
from benchmarks.fleet import NAME, Fleet, configure
from benchmarks.started import BARE_ACTIONS, BARE_POLLS, Exchange, Started, Starter, longest_stall

STARTS = 30
REBOOT_ROUNDS = 5
POLL_ROUNDS = 3
WATCHED_ROUNDS = 3

LATENCY = 0.1
POLLED_VMS = 200
POLLS = 20_000

Open = Callable[[Path | None], AbstractContextManager[Started]]
"""Starts a program; watched, when a file for its stalls is named."""


def start(starter: Starter) -> Iterator[Figure]:
    """How soon INIT is answered: oned does nothing else until then."""
    configure(starter, latency=0.0)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(STARTS):
        with starter.bare(BARE_ACTIONS) as program:
            bare.append(program.seconds_to_init)
        with starter.ours(f"-t 15 -r 0 {NAME}") as program:
            ours.append(program.seconds_to_init)
    yield Figure(
        work="exec to INIT SUCCESS",
        show=seconds,
        baseline=Series(values=tuple(bare)),
        ours=Series(values=tuple(ours)),
        limit=0.15,
        upstream="0.20–0.22 s",
        shows_p99=True,
    )


def idle_memory(starter: Starter, fleet: Fleet) -> Iterator[Figure]:
    """What a driver that has nothing to do holds: after INIT and one action."""
    configure(starter, latency=0.0)
    line = fleet.lines("REBOOT", 1, "7.4")

    def resident(program: Started) -> float:
        program.exchange(line, count=1)
        return program.memory("VmRSS")

    with starter.bare(BARE_ACTIONS, "bare 15 0") as bare, starter.ours(f"-t 15 -r 0 {NAME}") as ours:
        yield Figure(
            work="resident memory, idle",
            show=megabytes,
            baseline=Series(values=(resident(bare),)),
            ours=Series(values=(resident(ours),)),
            limit=40.0,
            upstream="28 MB",
        )


def few_reboots(starter: Starter, fleet: Fleet) -> Iterator[Figure]:
    """As many at once as ARGUMENTS usually say."""
    yield from _Reboots(starter, fleet, count=100, threads=15).figures()


def many_reboots(starter: Starter, fleet: Fleet) -> Iterator[Figure]:
    """Ten times as many, in less time."""
    reboots = _Reboots(starter, fleet, count=1000, threads=200)
    yield from reboots.figures(upstream="11.7 s (scripts)")
    yield reboots.memory(limit=80.0, upstream="120 MB (scripts)")


class _Reboots:
    """Actions that wait for the cloud: so many at once as `-t` allows, after one lookup in the cloud that all share."""

    def __init__(self, starter: Starter, fleet: Fleet, *, count: int, threads: int) -> None:
        configure(starter, latency=LATENCY)
        self._starter = starter
        self._count = count
        self._arguments = {"bare": f"bare {threads} {LATENCY} lookup", "ours": f"-t {threads} -r 0 {NAME}"}
        self._lines = fleet.lines("REBOOT", count, "7.4")
        self._memory: dict[str, list[float]] = defaultdict(list)
        self._work = f"{count:,} REBOOTs of {LATENCY:g} s, -t {threads}"

    def figures(self, *, upstream: str = "") -> Iterator[Figure]:
        taken: dict[str, list[float]] = defaultdict(list)
        for _ in range(REBOOT_ROUNDS):
            for who, opened in (("bare", self._bare), ("ours", self._ours)):
                with opened(None) as program:
                    taken[who].append(self._send(program).seconds)
                    self._memory[who].append(program.memory("VmHWM"))
        yield Figure(
            work=self._work,
            show=seconds,
            baseline=Series(values=tuple(taken["bare"])),
            ours=Series(values=tuple(taken["ours"])),
            limit_ratio=1.05,
            upstream=upstream,
        )
        yield _stalls(self._work, self._ours, self._bare, self._send, self._starter.place.root)

    def memory(self, *, limit: float, upstream: str) -> Figure:
        return Figure(
            work=self._work,
            part="most memory ever resident",
            show=megabytes,
            baseline=Series(values=tuple(self._memory["bare"])),
            ours=Series(values=tuple(self._memory["ours"])),
            limit=limit,
            upstream=upstream,
        )

    def _ours(self, stalls: Path | None) -> AbstractContextManager[Started]:
        return self._starter.ours(self._arguments["ours"], stalls=stalls)

    def _bare(self, stalls: Path | None) -> AbstractContextManager[Started]:
        return self._starter.bare(BARE_ACTIONS, self._arguments["bare"], stalls=stalls)

    def _send(self, program: Started) -> Exchange:
        one = self._lines[: self._lines.index(b"\n") + 1]
        program.exchange(one, count=1)  # so that everything that is imported after INIT is there
        return program.exchange(self._lines, count=self._count)


def polls(starter: Starter, fleet: Fleet) -> Iterator[Figure]:
    """Questions that cost the cloud nothing: what reading, looking and answering costs."""
    configure(starter, latency=0.0)
    lines = fleet.lines("POLL", POLLED_VMS, "5.10")
    flood = lines * (POLLS // POLLED_VMS)
    work = f"POLLs a second, {POLLS:,} of {POLLED_VMS} VMs"

    def ours(stalls: Path | None) -> AbstractContextManager[Started]:
        return starter.ours(f"-t 15 -r 0 {NAME}", stalls=stalls)

    def bare(_stalls: Path | None) -> AbstractContextManager[Started]:
        return starter.bare(BARE_POLLS)

    def send(program: Started) -> Exchange:
        program.exchange(lines, count=POLLED_VMS)
        return program.exchange(flood, count=POLLS)

    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for _ in range(POLL_ROUNDS):
        for who, opened in (("bare", bare), ("ours", ours)):
            with opened(None) as program:
                exchange = send(program)
                rates[who].append(POLLS / exchange.seconds)
                costs[who].append(exchange.processor_seconds / POLLS)
    yield Figure(
        work=work,
        show=per_second,
        baseline=Series(values=tuple(rates["bare"]), is_larger_better=True),
        ours=Series(values=tuple(rates["ours"]), is_larger_better=True),
        limit=8000.0,
        limit_ratio=0.6,
        upstream="300/s (dummy), 145/s (scripts)",
    )
    yield Figure(
        work=work,
        part="processor time a POLL",
        show=seconds,
        baseline=Series(values=tuple(costs["bare"])),
        ours=Series(values=tuple(costs["ours"])),
    )
    yield _stalls(work, ours, None, send, starter.place.root)


def _stalls(work: str, ours: Open, bare: Open | None, send: Callable[[Started], Exchange], directory: Path) -> Figure:
    """The longest time for which the event loop did nothing else, in runs of their own: watching costs a little."""

    def longest(opened: Open) -> float:
        path = directory / "stalls"
        path.unlink(missing_ok=True)
        with opened(path) as program:
            return longest_stall(path, send(program))

    return Figure(
        work=work,
        part="longest stall of the event loop",
        show=seconds,
        baseline=None if bare is None else Series(values=tuple(longest(bare) for _ in range(WATCHED_ROUNDS))),
        ours=Series(values=tuple(longest(ours) for _ in range(WATCHED_ROUNDS))),
    )
