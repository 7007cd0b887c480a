"""Drivers that can start no further thread and have little memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import ROOT, Driver, Place, replies
from tests.waiting import HANG, until

_MARGIN = 4 * 1024 * 1024
"""Half of the stack of a new thread."""


def grant_no_thread(driver: Driver) -> None:
    """Limit the address space so that the process can start no thread; RLIMIT_NPROC does not hold for root."""
    status = Path(f"/proc/{driver.process.pid}/status").read_text()
    size = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize:"))
    resource.prlimit(driver.process.pid, resource.RLIMIT_AS, (size + _MARGIN, resource.RLIM_INFINITY))


def test_driver_that_cannot_start_a_thread_answers_all_requests_and_ends(stalled: Driver) -> None:
    until(lambda: "started" in stalled.place.log())
    stalled.write(oned_requests.deploy(7))
    until(stalled.place.instances)
    grant_no_thread(stalled)
    stalled.write(b"".join(oned_requests.unknown(number) for number in range(300)))
    stalled.begin_reading()
    for number in range(300):
        stalled.reply("FROBNICATE", number)
    assert stalled.finalize() == 0


def test_large_requests_are_answered_when_no_thread_can_be_started(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    one.created(oned_requests.deploy(100))
    grant_no_thread(one)
    large = [oned_requests.deploy(vm_id, template=oned_requests.asking_for(NOTE="x" * 150_000)) for vm_id in range(8)]
    one.write(b"".join(large))
    found = {one.wait_for(lambda line: line.startswith("DEPLOY SUCCESS ")).split()[2] for _ in large}
    assert found == {str(vm_id) for vm_id in range(8)}
    assert one.finalize() == 0
    assert len(replies(one.lines)) == 9


def test_request_too_large_for_the_memory_fails_and_the_others_are_answered(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    one.created(oned_requests.deploy(100))
    grant_no_thread(one)
    before, after = range(15), range(16, 31)
    one.write(
        b"".join(oned_requests.unknown(number) for number in before)
        + oned_requests.with_payload("DEPLOY", 15, b"A" * 12_000_000)
        + b"".join(oned_requests.unknown(number) for number in after)
    )
    for number in before:
        assert one.reply("FROBNICATE", number).startswith("FAILURE")
    assert one.reply("DEPLOY", 15) == ("FAILURE the driver has too little memory to read a request line of this length")
    for number in after:
        assert one.reply("FROBNICATE", number).startswith("FAILURE")
    assert one.finalize() == 0


DEFECTIVE = f"""\
#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from one_provider_mad.actions.lanes import Lanes
from one_provider_mad.programs import one_vmm_provider
submit = Lanes.submit
def fail(lanes, job):
    if job.vm_id == 13:
        raise MemoryError
    submit(lanes, job)
Lanes.submit = fail
one_vmm_provider()
"""
"""A driver whose lanes cannot take VM 13."""


def test_driver_ends_at_an_internal_error_and_the_next_process_answers_the_open_request(
    driver: StartDriver, place: Place, tmp_path: Path
) -> None:
    place.simulate(boot_time=0)
    program = tmp_path / "defective"
    program.write_text(DEFECTIVE)
    program.chmod(0o755)
    with Driver(place, program=program) as one:
        one.created(oned_requests.deploy(7))
        one.send(oned_requests.deploy(13))
        assert one.process.wait(HANG) == 1
    (place.root / "var" / "one_vmm_provider_simulated.log").unlink()  # the log has the error that this test causes
    successor = driver()
    assert successor.reply("DEPLOY", 13).startswith("SUCCESS")
    assert len(place.instances()) == 2
