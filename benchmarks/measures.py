"""The measurements. Each makes figures; our rounds and the bare ones take turns, so both meet the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.figures import Figure, Series, megabytes, per_second, seconds
from benchmarks.fleet import NAME, Fleet, configure
from benchmarks.started import BARE_ACTIONS, BARE_POLLS, Exchange, Started, Starter, longest_stall

STARTS = 30
ROUNDS = 5
WATCHED_ROUNDS = 3
POLL_ROUNDS = 3
POLLED_VMS = 200
POLLS = 20_000
LATENCY = 0.1

Open = Callable[[], AbstractContextManager[Started]]


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


def reboots(
    starter: Starter,
    fleet: Fleet,
    *,
    count: int,
    threads: int,
    factor: float,
    upstream: str = "",
    memory_limit: float | None = None,
    upstream_memory: str = "",
) -> Iterator[Figure]:
    """Actions that wait for the cloud: so many at once as `-t` allows, and nothing added to the waiting."""
    configure(starter, latency=LATENCY)
    lines = fleet.lines("REBOOT", count, "7.4")
    bare_arguments, our_arguments = f"bare {threads} {LATENCY}", f"-t {threads} -r 0 {NAME}"
    taken: dict[str, list[float]] = {"bare": [], "ours": []}
    most: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for who, program in (
            ("bare", starter.bare(BARE_ACTIONS, bare_arguments)),
            ("ours", starter.ours(our_arguments)),
        ):
            with program as running:
                _warm_up(running, lines)
                taken[who].append(running.exchange(lines, count=count).seconds)
                most[who].append(running.memory("VmHWM"))
    work = f"{count:,} REBOOTs of {LATENCY:g} s, -t {threads}"
    waiting = -(-count // threads) * LATENCY
    yield Figure(
        work=work,
        show=seconds,
        baseline=Series(values=tuple(taken["bare"])),
        ours=Series(values=tuple(taken["ours"])),
        limit=factor * waiting,
        upstream=upstream,
    )
    if memory_limit is not None:
        yield Figure(
            work="– most memory ever resident",
            show=megabytes,
            baseline=Series(values=tuple(most["bare"])),
            ours=Series(values=tuple(most["ours"])),
            limit=memory_limit,
            upstream=upstream_memory,
        )
    yield _stalls(
        lambda path: starter.ours(our_arguments, stalls=path),
        lambda path: starter.bare(BARE_ACTIONS, bare_arguments, stalls=path),
        lambda program: _reboot(program, lines, count),
        starter.place.root,
    )


def polls(starter: Starter, fleet: Fleet) -> Iterator[Figure]:
    """Questions that cost the cloud nothing: what reading, deciding and answering costs."""
    configure(starter, latency=0.0)
    lines = fleet.lines("POLL", POLLED_VMS, "5.10")
    flood = lines * (POLLS // POLLED_VMS)
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    arguments = f"-t 15 -r 0 {NAME}"
    for _ in range(POLL_ROUNDS):
        for who, program in (("bare", starter.bare(BARE_POLLS)), ("ours", starter.ours(arguments))):
            with program as running:
                running.exchange(lines, count=POLLED_VMS)
                rates[who].append(POLLS / running.exchange(flood, count=POLLS).seconds)
    yield Figure(
        work=f"POLLs a second, {POLLS:,} of {POLLED_VMS} VMs",
        show=per_second,
        baseline=Series(values=tuple(rates["bare"]), is_larger_better=True),
        ours=Series(values=tuple(rates["ours"]), is_larger_better=True),
        limit=8000.0,
        limit_ratio=0.6,
        upstream="300/s (dummy), 145/s (scripts)",
    )

    def poll(program: Started) -> Exchange:
        program.exchange(lines, count=POLLED_VMS)
        return program.exchange(flood, count=POLLS)

    yield _stalls(lambda path: starter.ours(arguments, stalls=path), None, poll, starter.place.root)


def _warm_up(program: Started, lines: bytes) -> None:
    """One action, so that everything that is imported after INIT is there."""
    program.exchange(lines[: lines.index(b"\n") + 1], count=1)


def _reboot(program: Started, lines: bytes, count: int) -> Exchange:
    _warm_up(program, lines)
    return program.exchange(lines, count=count)


def _stalls(
    ours: Callable[[Path], AbstractContextManager[Started]],
    bare: Callable[[Path], AbstractContextManager[Started]] | None,
    load: Callable[[Started], Exchange],
    directory: Path,
) -> Figure:
    """The longest time for which the event loop did nothing else, in runs of their own: watching costs a little."""

    def longest(opened: Callable[[Path], AbstractContextManager[Started]], name: str) -> float:
        path = directory / f"{name}.stalls"
        path.unlink(missing_ok=True)
        with opened(path) as program:
            return longest_stall(path, load(program))

    return Figure(
        work="– longest stall of the event loop",
        show=seconds,
        baseline=None if bare is None else Series(values=tuple(longest(bare, "bare") for _ in range(WATCHED_ROUNDS))),
        ours=Series(values=tuple(longest(ours, "ours") for _ in range(WATCHED_ROUNDS))),
    )
