"""Both drivers on one cloud with all faults: every report is true, never early, and complete.

Time is scaled by 50 and more: monitord asks for states every 5 s, here they are reported 20 times a second, and the
cloud is listed every 0.2 s instead of every 10 s. So 36 s are half an hour. Not scaled are the start of
a driver, and the three seconds after which it fails requests that it cannot repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.end_to_end.oned import Place
from tests.end_to_end.random_run import Plan, RandomRun


@contextmanager
def random_run(place: Place, plan: Plan) -> Iterator[RandomRun]:
    """A random run, ended with the test; fails if a log has an unexpected error."""
    one = RandomRun(place, plan)
    try:
        yield one
    finally:
        one.leave()
        print(one.summary())  # noqa: T201 shown with `-s`, and when the test fails
    for log in place.var.glob("one_*_simulated.log"):
        defects = [entry for entry in log.read_text().splitlines() if "unexpected" in entry or "Traceback" in entry]
        assert not defects


def run(place: Place, plan: Plan) -> RandomRun:
    """Run once; fails if a report or reply was wrong, or a difference remains."""
    with random_run(place, plan) as one:
        one.run()
        one.end_faults()
        assert not one.checker.errors, "\n\n".join(one.checker.errors[:3])
        one.settle()
        assert [one.actions.driver.finalize(), one.reports.driver.finalize()] == [0, 0]
    return one


def test_reports_and_replies_stay_true_under_faults_and_kills(place: Place) -> None:
    one = run(
        place, Plan(seed=11, vms=40, seconds=4.5, kills=(1.2, 2.0), most_kills=1, fault_seconds=(0.3, 0.5), rest=0.3)
    )
    assert one.kills == {"actions": 1, "reports": 1}
    assert one.checker.counts["times an outage"]


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reports_and_replies_stay_true_under_a_minute_of_faults_and_kills(place: Place, seed: int) -> None:
    missing_state = "UNKNOWN" if seed % 2 else "POWEROFF"
    run(place, Plan(seed=seed, vms=100, seconds=60.0, kills=(1.5, 8.0), missing_state=missing_state))
