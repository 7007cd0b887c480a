from __future__ import annotations

import pytest

from one_provider_mad.actions.turns import Turns


def started(turns: Turns[str], running: int) -> list[str]:
    """Start all lanes that may start while `running` run; return them in order. A lane's first letter is its host."""
    lanes: list[str] = []
    while (lane := turns.take(running + len(lanes))) is not None:
        turns.begin(lane[0])
        lanes.append(lane)
    return lanes


def test_lanes_without_host_start_until_the_limit_of_running_lanes() -> None:
    turns: Turns[str] = Turns(2)
    for lane in ("one", "two", "three"):
        turns.wait(lane, None)
    assert [turns.take(running) for running in (0, 1, 2)] == ["one", "two", None]


def test_lanes_of_one_host_may_use_all_regular_slots_but_no_extra_ones() -> None:
    turns: Turns[str] = Turns(3)
    for number in range(9):
        turns.wait(f"a{number}", "a")
    assert started(turns, 0) == ["a0", "a1", "a2"]


def test_lanes_of_idle_hosts_get_as_many_extra_slots_as_there_are_regular_slots() -> None:
    turns: Turns[str] = Turns(2)
    for lane in ("a0", "a1", "a2", "b0", "b1", "c0", "d0"):
        turns.wait(lane, lane[0])
    assert started(turns, 0) == ["a0", "a1", "b0", "c0"], "two regular slots, and two extra ones for idle hosts"
    turns.end("b")
    assert started(turns, 3) == ["d0"], "b has had its turn"
    turns.end("c")
    assert started(turns, 3) == ["b1"]
    turns.end("a")
    turns.end("a")
    assert started(turns, 2) == ["a2"], "the lane that waited longest, although two run"


@pytest.mark.parametrize("host", [None, "a"])
def test_a_lane_removed_from_the_queue_is_not_started(host: str | None) -> None:
    turns: Turns[str] = Turns(1)
    turns.wait("a0", host)
    turns.leave("a0")
    turns.leave("never waited")
    assert [turns.take(running) for running in (0, 1)] == [None, None]
