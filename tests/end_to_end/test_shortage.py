"""Drivers on a machine that grants them no further thread, and no memory to speak of."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.conftest import StartDriver
from tests.end_to_end import wire
from tests.end_to_end.oned import Driver, Place, replies
from tests.waiting import until

_MARGIN = 4 * 1024 * 1024
"""Half of what the stack of a new thread takes."""


def grant_no_thread(driver: Driver) -> None:
    """Leave the process so little room that it can start no thread, however many processes its user may have."""
    status = Path(f"/proc/{driver.process.pid}/status").read_text()
    size = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize:"))
    resource.prlimit(driver.process.pid, resource.RLIMIT_AS, (size + _MARGIN, resource.RLIM_INFINITY))


def test_a_driver_that_may_start_no_thread_while_nobody_reads_answers_all_and_ends(stalled: Driver) -> None:
    until(lambda: "started" in stalled.place.log())
    stalled.write(wire.deploy(7))
    until(stalled.place.instances)
    grant_no_thread(stalled)
    stalled.write(b"".join(wire.unknown(number) for number in range(300)))
    stalled.begin_reading()
    for number in range(300):
        stalled.reply("FROBNICATE", number)
    assert stalled.finalize() == 0


def test_requests_that_are_read_in_threads_are_answered_when_no_thread_can_be_started(
    driver: StartDriver, place: Place
) -> None:
    place.simulate(boot_time=0)
    one = driver()
    one.created(wire.deploy(100))
    grant_no_thread(one)
    large = [wire.deploy(vm_id, template=wire.asking_for(NOTE="x" * 150_000)) for vm_id in range(8)]
    one.write(b"".join(large))
    found = {one.wait_for(lambda line: line.startswith("DEPLOY SUCCESS ")).split()[2] for _ in large}
    assert found == {str(vm_id) for vm_id in range(8)}
    assert one.finalize() == 0
    assert len(replies(one.lines)) == 9
