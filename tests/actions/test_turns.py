from __future__ import annotations

import pytest

from one_provider_mad.actions.turns import Turns


def started(turns: Turns[str], running: int) -> list[str]:
    """Every lane that may start while so many run, in order; each then runs on its host, which is its first letter."""
    lanes: list[str] = []
    while (lane := turns.take(running + len(lanes))) is not None:
        turns.begin(lane[0])
        lanes.append(lane)
    return lanes


def test_without_hosts_there_are_as_many_places_as_there_are() -> None:
    turns: Turns[str] = Turns(2)
    for lane in ("one", "two", "three"):
        turns.wait(lane, None)
    assert [turns.take(running) for running in (0, 1, 2)] == ["one", "two", None]


def test_one_host_may_use_all_places_and_no_more() -> None:
    turns: Turns[str] = Turns(3)
    for number in range(9):
        turns.wait(f"a{number}", "a")
    assert started(turns, 0) == ["a0", "a1", "a2"]


def test_each_host_that_runs_nothing_has_a_place_beside_a_full_one_up_to_as_many_again() -> None:
    turns: Turns[str] = Turns(2)
    for lane in ("a0", "a1", "a2", "b0", "b1", "c0", "d0"):
        turns.wait(lane, lane[0])
    assert started(turns, 0) == ["a0", "a1", "b0", "c0"], "two places, and another two"
    turns.end("b")
    assert started(turns, 3) == ["d0"], "b has had its turn"
    turns.end("c")
    assert started(turns, 3) == ["b1"]
    turns.end("a")
    turns.end("a")
    assert started(turns, 2) == ["a2"], "what waited longest, though two run"


@pytest.mark.parametrize("host", [None, "a"])
def test_a_lane_that_left_has_no_turn(host: str | None) -> None:
    turns: Turns[str] = Turns(1)
    turns.wait("a0", host)
    turns.leave("a0")
    turns.leave("never waited")
    assert [turns.take(running) for running in (0, 1)] == [None, None]
