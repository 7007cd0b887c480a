from __future__ import annotations

import threading

import pytest

from one_provider_mad.workers import Workers
from tests.waiting import HANG


def no_thread(_thread: threading.Thread) -> None:
    """Replaces Thread.start, as if a limit on processes or memory were reached."""
    raise RuntimeError("can't start new thread")


def test_work_runs_in_the_existing_thread_if_no_other_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(3, name="test")
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    is_free = threading.Event()
    first = workers.submit(is_free.wait, HANG)
    others = [workers.submit(pow, 2, number) for number in range(5)]
    is_free.set()
    assert first.result(HANG)
    assert [other.result(HANG) for other in others] == [1, 2, 4, 8, 16]
    workers.shutdown()


def test_creating_workers_raises_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Workers(name="test")


def test_more_threads_are_started_once_that_is_possible_again(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(3, name="test")
    meeting = threading.Barrier(3, timeout=HANG)
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", no_thread)
        first = workers.submit(meeting.wait)
    others = [workers.submit(meeting.wait) for _ in range(2)]
    assert sorted(each.result(HANG) for each in (first, *others)) == [0, 1, 2]
    workers.shutdown()
