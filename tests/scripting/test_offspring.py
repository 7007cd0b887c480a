"""What scripts leave behind, ended in a process of its own: it becomes the parent of all orphans below it."""

from __future__ import annotations

import subprocess
import sys

ENDS_AT_ONCE = """
import asyncio, os, subprocess, sys
from one_provider_mad.processes import children
from one_provider_mad.scripting.offspring import MARK, Offspring

kill = os.kill

def kill_and_see(pid, number):
    kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

async def main():
    offspring = Offspring()
    mark = offspring.begin()
    script = "(setsid sh -c 'setsid sh -c \\"setsid sleep 20 & echo; wait\\" & wait' &) | read line"
    with subprocess.Popen(["sh", "-c", script], env={**os.environ, MARK: mark}) as process:
        offspring.began(mark, process.pid)
        process.wait()
    assert children(os.getpid()), "nothing was left behind"
    os.kill = kill_and_see
    await offspring.end(mark)
    assert children(os.getpid()) == []

asyncio.run(main())
"""


def test_the_children_of_what_ends_at_once_end_as_well() -> None:
    """On a busy machine a killed process has often ended before anybody asks."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_AT_ONCE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
