"""What running a folder of scripts costs beside the scripts themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from benchmarks.figures import Figure, Series, megabytes, seconds
from benchmarks.fleet import Fleet
from benchmarks.started import HERE, Starter

NAME = "scripted"
BARE_SCRIPTS = HERE / "bare_scripts.py"

TAKES = 0.1
"""Seconds that a script sleeps."""

SCRIPT = f"#!/bin/sh\necho STATE=a\nexec sleep {TAKES:g}\n"


def few_scripts(starter: Starter, fleet: Fleet) -> Iterator[Figure]:
    """As many at once as ARGUMENTS usually say."""
    yield from _polls(starter, fleet, count=100, threads=15, rounds=5, upstream="11.0 s")


def many_scripts(starter: Starter, fleet: Fleet) -> Iterator[Figure]:
    """Ten times as many."""
    yield from _polls(starter, fleet, count=1000, threads=200, rounds=3, upstream="11.7 s, 120 MB")


def _polls(starter: Starter, fleet: Fleet, *, count: int, threads: int, rounds: int, upstream: str) -> Iterator[Figure]:
    """So many scripts, by ours and by the bare program in turns."""
    script = starter.place.var / "remotes" / "vmm" / NAME / "poll"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SCRIPT)
    script.chmod(0o755)
    lines = fleet.lines("POLL", count, "5.10")
    one = lines[: lines.index(b"\n") + 1]
    taken, memory, costs = (defaultdict[str, list[float]](list) for _ in range(3))
    for _ in range(rounds):
        bare = starter.bare(BARE_SCRIPTS, f"bare {threads} {script}")
        ours = starter.ours(f"-t {threads} -r 0 -p {NAME}")
        for who, opened in (("bare", bare), ("ours", ours)):
            with opened as program:
                program.exchange(one, count=1)  # so that everything that is imported after INIT is there
                exchange = program.exchange(lines, count=count)
                taken[who].append(exchange.seconds)
                costs[who].append(exchange.processor_seconds / count)
                memory[who].append(program.memory("VmHWM"))
    work = f"{count:,} poll scripts of {TAKES:g} s, -t {threads}"
    yield Figure(
        work=work,
        show=seconds,
        baseline=Series(values=tuple(taken["bare"])),
        ours=Series(values=tuple(taken["ours"])),
        limit_ratio=1.15,
        upstream=upstream,
    )
    yield Figure(
        work=work,
        part="processor time a script, without the script's",
        show=seconds,
        baseline=Series(values=tuple(costs["bare"])),
        ours=Series(values=tuple(costs["ours"])),
    )
    yield Figure(
        work=work,
        part="most memory ever resident",
        show=megabytes,
        baseline=Series(values=tuple(memory["bare"])),
        ours=Series(values=tuple(memory["ours"])),
    )
