"""Runs the information driver as it is, and writes down when each listing of the simulated cloud began and ended.

What a sweep takes without its listing is not to be seen from outside. So the call that lists is wrapped: its beginning
and its end (on the machine's monotonic clock), and how long all threads ran between them, go to a file.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from one_provider_mad.domain import Instance
from one_provider_mad.monitor.costs import CostWatch
from one_provider_mad.providers.simulated.provider import SimulatedProvider

_list = SimulatedProvider.list_instances
_file = -1
"""Where to write, once it is open: what is open when a driver begins, it closes."""


async def list_noted(provider: SimulatedProvider) -> Sequence[Instance]:
    """Do what list_instances does, and write down when."""
    global _file  # noqa: PLW0603 - it is opened by the first call
    if _file < 0:
        _file = os.open(os.environ["BENCHMARK_LISTINGS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    begun, ran = time.monotonic(), time.process_time()
    instances = await _list(provider)
    ended, has_run = time.monotonic(), time.process_time()
    os.write(_file, f"{begun} {ended} {has_run - ran}\n".encode())
    return instances


def book_nothing(watch: CostWatch, *listing: object) -> None:
    """Stand in for CostWatch.ask."""


if __name__ == "__main__":
    if os.environ.get("BENCHMARK_LEDGER") == "no":
        CostWatch.ask = book_nothing  # type: ignore[assignment,method-assign]
    SimulatedProvider.list_instances = list_noted  # type: ignore[assignment,method-assign]
    runpy.run_path(os.environ["BENCHMARK_PROGRAM"], run_name="__main__")
