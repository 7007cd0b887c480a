"""`python -m benchmarks [--json]`: measure, and print. Nothing here passes or fails."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ec2_measures, measures, monitor_measures, script_measures
from benchmarks.figures import Figure, table
from benchmarks.fleet import Fleet
from benchmarks.started import Starter

_VMS = 1000


def _measure(root: Path) -> Iterator[Figure]:
    starter = Starter(root)
    yield from measures.start(starter)
    fleet = Fleet.deploy(starter, _VMS)
    yield from measures.idle_memory(starter, fleet)
    yield from measures.few_reboots(starter, fleet)
    yield from measures.many_reboots(starter, fleet)
    yield from measures.polls(starter, fleet)
    yield from script_measures.few_scripts(starter, fleet)
    yield from script_measures.many_scripts(starter, fleet)
    yield from monitor_measures.monitor(starter)
    yield from ec2_measures.ec2(starter)


def main() -> None:
    """Measure everything."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description="The figures, measured here.")
    arguments.add_argument("--json", action="store_true", help="every single value, for a program")
    is_json = arguments.parse_args().json
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    before, begun = os.getloadavg()[0], time.monotonic()
    figures = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as root:
        for figure in _measure(Path(root)):
            print(f"{time.monotonic() - begun:5.1f} s  {figure.work} {figure.part}".rstrip(), file=sys.stderr)
            figures.append(figure)
    took = time.monotonic() - begun
    if is_json:
        content = {"machine": machine, "load": before, "seconds": took, "figures": [each.as_json() for each in figures]}
        print(json.dumps(content, indent=2))
    else:
        print(table(figures))
        print(f"{machine}; load average before: {before:.1f}; {took:.0f} s. Median of the rounds (best of them).")


if __name__ == "__main__":
    main()
