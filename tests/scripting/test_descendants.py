"""Ends the processes that a script leaves behind, in a process of its own: all orphans below it become its children."""

from __future__ import annotations

import subprocess
import sys

from tests.waiting import HANG

ENDS_AT_ONCE = """
import asyncio, os, subprocess, sys
from one_provider_mad.processes import children
from one_provider_mad.scripting.descendants import MARK, Descendants

kill = os.kill

def kill_and_see(pid, number):
    kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

async def main():
    descendants = Descendants()
    mark = descendants.begin()
    script = "(setsid sh -c 'setsid sh -c \\"setsid sleep 20 & echo; wait\\" & wait' &) | read line"
    with subprocess.Popen(["sh", "-c", script], env={**os.environ, MARK: mark}) as process:
        descendants.began(mark, process.pid)
        process.wait()
    assert children(os.getpid()), "nothing was left behind"
    os.kill = kill_and_see
    await descendants.end(mark)
    assert children(os.getpid()) == []

asyncio.run(main())
"""


def test_children_of_a_process_that_ends_at_once_are_killed_as_well() -> None:
    """On a busy machine a killed process has often ended before its children are listed."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_AT_ONCE], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
