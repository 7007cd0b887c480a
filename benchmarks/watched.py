"""Runs an asyncio program as it is, and writes down how late its event loop is whenever it is late.

A timer is due every two milliseconds. When it comes late, the loop was busy with something else, or did not get the
processor, for so long: the moment (of the machine's monotonic clock, which is the same for every process) and the
lateness go to a file.
"""

from __future__ import annotations

import asyncio
import os
import runpy
from collections.abc import Coroutine
from typing import Any

PERIOD = 0.002
NOTED = 0.001
"""Seconds. What is less late than that is the granularity of epoll."""

_run = asyncio.run


def watch(path: str) -> None:
    """Begin to write to this file; called in the loop."""
    loop = asyncio.get_running_loop()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def beat(due: float) -> None:
        now = loop.time()
        if now - due > NOTED:
            os.write(descriptor, f"{now} {now - due}\n".encode())
        loop.call_at(now + PERIOD, beat, now + PERIOD)

    beat(loop.time())


def run_watched(main: Coroutine[Any, Any, Any]) -> Any:
    """Do what asyncio.run does, watched."""

    async def watched() -> Any:
        watch(os.environ["BENCHMARK_STALLS"])
        return await main

    return _run(watched())


if __name__ == "__main__":
    asyncio.run = run_watched  # type: ignore[assignment]
    runpy.run_path(os.environ["BENCHMARK_PROGRAM"], run_name="__main__")
