from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from one_provider_mad.actions.lanes import _GATHERED_POLLS, Job, Lanes
from one_provider_mad.domain import VmId, VmRequest
from tests.actions.fakes import pass_time, turns

Result = TypeVar("Result")


class Hall:
    """Lanes whose jobs and listings run until the test ends them.

    `begun`, `ended`, `calling_off` and `called_off` hold the names of jobs; `batches` the VMs of each listing,
    `answered` and `answered_no_news` those of each POLL.
    """

    def __init__(self, threads: int = 2) -> None:
        self.lanes = Lanes(
            threads,
            poll=self._poll,
            answer_no_news=self._answer_no_news,
            calling_off=self._calling_off,
            called_off=self._called_off,
        )
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.calling_off: list[str] = []
        self.called_off: list[str] = []
        self.running: dict[str, VmId] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.listing: asyncio.Event | None = None
        self.batches: list[list[int]] = []
        self.answered: list[int] = []
        self.answered_no_news: list[int] = []

    def submit(self, vm_id: int, name: str, *, is_background: bool = False) -> Job:
        job = Job(VmId(vm_id), name, self._work, is_background=is_background)
        self.lanes.submit(job)
        return job

    async def _work(self, job: Job) -> None:
        assert job.vm_id not in self.running.values(), f"two of VM {job.vm_id} at once"
        self.begun.append(job.name)
        self.running[job.name] = job.vm_id
        gate = self.gates[job.name] = asyncio.Event()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.name)
            raise
        else:
            self.ended.append(job.name)
        finally:
            del self.running[job.name], self.gates[job.name]

    async def end(self, *names: str) -> None:
        """Let jobs end, and wait for the consequences."""
        for name in names:
            self.gates[name].set()
        await turns()

    def poll(self, vm_id: int) -> VmRequest:
        request = VmRequest(vm_id=VmId(vm_id))
        self.lanes.submit_poll(request)
        return request

    async def _poll(self, requests: list[VmRequest]) -> None:
        self.batches.append([request.vm_id for request in requests])
        self.listing = asyncio.Event()
        try:
            await self.listing.wait()
        finally:
            self.listing = None
        for request in requests:
            if self.lanes.is_listed(request):
                self.answered.append(request.vm_id)
                self.lanes.answered(request)
            await asyncio.sleep(0)

    async def end_listing(self) -> None:
        assert self.listing is not None, "there is no listing under way"
        self.listing.set()
        await turns()

    def _answer_no_news(self, request: VmRequest) -> None:
        self.answered_no_news.append(request.vm_id)

    def _calling_off(self, job: Job) -> None:
        assert job.name not in self.cancelled
        self.calling_off.append(job.name)

    def _called_off(self, job: Job) -> None:
        assert job.is_called_off
        self.called_off.append(job.name)


async def is_idle(hall: Hall) -> bool:
    waiting = asyncio.ensure_future(hall.lanes.drained())
    await turns()
    is_done = waiting.done()
    waiting.cancel()
    return is_done


# Order and concurrency


async def test_a_lane_runs_its_actions_one_by_one_in_order_of_arrival() -> None:
    hall = Hall(threads=5)
    for name in ("deploy", "shutdown", "cleanup"):
        hall.submit(7, name)
    await turns()
    assert hall.begun == ["deploy"]
    await hall.end("deploy")
    assert hall.begun == ["deploy", "shutdown"]
    await hall.end("shutdown")
    await hall.end("cleanup")
    assert hall.ended == ["deploy", "shutdown", "cleanup"]


async def test_lanes_of_different_vms_run_side_by_side() -> None:
    hall = Hall(threads=3)
    for vm_id in (1, 2, 3):
        hall.submit(vm_id, f"vm {vm_id}")
    await turns()
    assert hall.begun == ["vm 1", "vm 2", "vm 3"]


@pytest.mark.parametrize("threads", [1, 2, 15])
async def test_no_more_lanes_run_at_once_than_the_t_option_allows(threads: int) -> None:
    hall = Hall(threads=threads)
    for vm_id in range(40):
        hall.submit(vm_id, f"vm {vm_id}")
    await turns()
    assert len(hall.running) == threads
    await hall.end(*hall.running)
    assert len(hall.running) == threads
    assert hall.begun == [f"vm {vm_id}" for vm_id in range(2 * threads)], "in order of arrival"


async def test_a_lane_with_many_actions_does_not_delay_other_lanes() -> None:
    hall = Hall(threads=1)
    for number in range(3):
        hall.submit(1, f"one {number}")
    hall.submit(2, "two")
    await turns()
    await hall.end("one 0")
    assert hall.begun == ["one 0", "two"]


async def test_an_action_that_raises_does_not_block_its_lane() -> None:
    hall = Hall()
    raised = asyncio.Event()

    async def crash(_job: Job) -> None:
        raised.set()
        raise KeyError("a defect")

    job = Job(VmId(7), "crash", crash)
    hall.lanes.submit(job)
    hall.submit(7, "next")
    await raised.wait()
    await turns()
    assert hall.begun == ["next"]
    assert job.task is not None
    assert isinstance(job.task.exception(), KeyError)


async def test_tasks_are_named_after_their_jobs() -> None:
    hall = Hall()
    job = hall.submit(12, "deploy vm 12")
    hall.poll(5)
    assert job.task is not None
    assert job.task.get_name() == "deploy vm 12"
    await turns()
    assert "poll 1 VMs" in {task.get_name() for task in asyncio.all_tasks()}
    await hall.lanes.stop(1)


# POLLs


async def test_a_queued_action_starts_before_an_older_poll() -> None:
    hall = Hall(threads=1)
    hall.submit(1, "first")
    hall.poll(5)
    hall.submit(2, "second")
    await turns()
    await hall.end("first")
    assert hall.begun == ["first", "second"]
    assert not hall.batches
    await hall.end("second")
    assert hall.batches == [[5]]


async def test_polls_due_at_the_same_time_share_a_listing() -> None:
    hall = Hall()
    hall.poll(1)
    await turns(2)
    assert hall.batches == [[1]], "a single POLL does not wait for others"
    for vm_id in (2, 3):
        hall.poll(vm_id)
    await hall.end_listing()
    assert hall.batches == [[1], [2, 3]]
    await hall.end_listing()
    assert hall.answered == [1, 2, 3]


async def test_polls_that_keep_arriving_share_a_listing_up_to_a_limit() -> None:
    hall = Hall()
    chunks = _GATHERED_POLLS // 10 + 5
    for chunk in range(chunks):
        for vm_id in range(10):
            hall.poll(10 * chunk + vm_id)
        await asyncio.sleep(0)
    await turns()
    [batch] = hall.batches
    assert len(batch) in range(_GATHERED_POLLS, _GATHERED_POLLS + 20)
    await hall.end_listing()
    await turns(len(batch) + 20)  # it yields to the loop after each
    assert sum(map(len, hall.batches)) == 10 * chunks


async def test_a_listing_for_queued_polls_waits_for_a_free_slot() -> None:
    hall = Hall(threads=1)
    hall.poll(9)
    hall.submit(1, "first")
    await turns()
    assert hall.batches == []
    await hall.end("first")
    assert hall.batches == [[9]]


async def test_a_listing_for_polls_takes_one_of_the_t_slots() -> None:
    hall = Hall(threads=2)
    hall.poll(9)
    await turns()
    for vm_id in (1, 2):
        hall.submit(vm_id, f"vm {vm_id}")
    await turns()
    assert hall.begun == ["vm 1"]
    await hall.end_listing()
    assert hall.begun == ["vm 1", "vm 2"]


async def test_a_poll_of_a_busy_vm_waits_until_its_lane_is_empty() -> None:
    hall = Hall(threads=5)
    hall.submit(7, "deploy")
    hall.submit(7, "shutdown")
    hall.poll(7)
    hall.poll(8)
    await turns()
    assert hall.batches == [[8]]
    await hall.end_listing()
    await hall.end("deploy")
    assert hall.batches == [[8]]
    await hall.end("shutdown")
    assert hall.batches == [[8], [7]]


async def test_a_later_action_overtakes_a_queued_poll() -> None:
    hall = Hall(threads=1)
    hall.submit(1, "busy")
    hall.poll(7)
    hall.submit(7, "shutdown")
    hall.poll(7)
    await turns()
    await hall.end("busy")
    assert hall.begun == ["busy", "shutdown"]
    assert not hall.answered_no_news, "no listing was made for it yet, so it cannot be outdated"
    await hall.end("shutdown")
    assert hall.batches == [[7, 7]]
    await hall.end_listing()
    assert hall.answered == [7, 7]


@pytest.mark.looptime
class TestPause:
    """A job that pauses before its next check of the cloud frees its slot, and takes one again to continue."""

    @staticmethod
    def pausing(hall: Hall, vm_id: int, seconds: float, log: list[str]) -> Job:
        async def work(job: Job) -> None:
            log.append(f"{job.name} begins")
            await hall.lanes.rest(seconds)
            log.append(f"{job.name} continues")
            await pass_time(5)
            log.append(f"{job.name} ends")

        job = Job(VmId(vm_id), f"job {vm_id}", work)
        hall.lanes.submit(job)
        return job

    async def test_jobs_continue_after_a_pause_in_order_as_slots_become_free(self) -> None:
        hall, log = Hall(threads=1), list[str]()
        for vm_id in range(3):
            self.pausing(hall, vm_id, 10.0 + vm_id, log)
        await pass_time(9)
        assert log == ["job 0 begins", "job 1 begins", "job 2 begins"]
        await hall.lanes.drained()
        assert log[3:] == [f"job {vm_id} {what}" for vm_id in range(3) for what in ("continues", "ends")]

    async def test_no_more_jobs_run_after_their_pauses_than_there_are_slots(self) -> None:
        hall, log = Hall(threads=2), list[str]()
        for vm_id in range(6):
            self.pausing(hall, vm_id, 10.0, log)
        await hall.lanes.drained()
        running = most = 0
        for line in log:
            running += line.endswith("continues") - line.endswith("ends")
            most = max(most, running)
        assert most == 2

    @pytest.mark.parametrize("seconds", [5, 12])
    async def test_a_job_cancelled_in_a_pause_leaves_its_slot_to_others(self, seconds: float) -> None:
        hall, log = Hall(threads=1), list[str]()
        for vm_id in range(2):
            self.pausing(hall, vm_id, 10.0, log)
        await pass_time(seconds)  # both pause, or the second waits for the slot of the first
        assert hall.lanes.call_off(VmId(1))
        await hall.lanes.drained()
        assert log == ["job 0 begins", "job 1 begins", "job 0 continues", "job 0 ends"]
        hall.submit(3, "after")
        hall.submit(4, "later")
        await turns()
        assert hall.begun == ["after"], "there is still one slot"

    async def test_a_job_continues_after_its_pause_although_the_lanes_are_on_hold(self) -> None:
        hall, log = Hall(threads=1), list[str]()
        self.pausing(hall, 1, 10.0, log)
        self.pausing(hall, 2, 10.0, log)
        await pass_time(1)
        hall.lanes.hold()
        await pass_time(30)
        assert log[-1] == "job 2 ends"


async def test_an_action_ends_the_poll_of_its_vm_whose_listing_is_under_way() -> None:
    hall = Hall()
    hall.poll(6)
    await turns()
    hall.poll(7)
    await hall.end_listing()
    hall.poll(7)
    await turns()
    hall.submit(7, "shutdown")
    assert hall.answered_no_news == [7], "the POLL that the listing under way is for, at once"
    await hall.end_listing()
    assert hall.answered == [6], "not the POLL that was answered with no news"
    await hall.end("shutdown")
    assert hall.batches[-1] == [7]
    await hall.end_listing()
    assert hall.answered == [6, 7], "the POLL after it"


async def test_an_action_drops_only_the_polls_of_its_vm_that_were_not_answered_yet() -> None:
    """Answering a thousand takes a while, and further requests arrive meanwhile."""
    hall = Hall(threads=1)
    hall.submit(1, "busy")
    for vm_id in (5, 6, 6, 7):
        hall.poll(vm_id)
    await turns()
    await hall.end("busy")
    assert hall.batches == [[5, 6, 6, 7]]
    assert hall.listing is not None
    hall.listing.set()
    for _ in range(20):
        if len(hall.answered) < 2:
            await asyncio.sleep(0)
    assert hall.answered == [5, 6]
    hall.submit(5, "reboot five")
    hall.submit(6, "reboot six")
    await turns()
    assert hall.answered == [5, 6, 7]
    assert hall.answered_no_news == [6], "the POLL that was not answered yet"


async def test_a_vm_is_busy_while_an_action_runs_or_is_queued() -> None:
    hall = Hall(threads=1)
    hall.submit(1, "running")
    hall.submit(2, "waiting")
    hall.poll(3)
    await turns()
    assert [hall.lanes.is_busy(VmId(vm_id)) for vm_id in (1, 2, 3)] == [True, True, False]
    await hall.end("running")
    await hall.end("waiting")
    assert [hall.lanes.is_busy(VmId(vm_id)) for vm_id in (1, 2, 3)] == [False] * 3


async def test_an_action_does_not_end_another_vms_poll() -> None:
    hall = Hall()
    hall.poll(6)
    await turns()
    hall.submit(7, "shutdown")
    assert not hall.answered_no_news
    await hall.end_listing()
    assert hall.answered == [6]


# Cancelling


async def test_a_cancelled_queued_action_never_runs() -> None:
    hall = Hall(threads=1)
    hall.submit(1, "busy")
    hall.submit(7, "deploy")
    await turns()
    assert hall.lanes.call_off(VmId(7))
    assert (hall.calling_off, hall.called_off) == ([], ["deploy"]), "called off at once"
    await hall.end("busy")
    assert hall.begun == ["busy"]
    assert await is_idle(hall)


async def test_a_running_action_is_cancelled_and_its_lane_continues() -> None:
    hall = Hall()
    job = hall.submit(7, "deploy")
    await turns()
    assert hall.lanes.call_off(VmId(7))
    assert job.is_called_off
    assert (hall.calling_off, hall.called_off) == (["deploy"], []), "its task has not ended yet"
    hall.submit(7, "cleanup")
    await turns()
    assert (hall.cancelled, hall.called_off) == (["deploy"], ["deploy"])
    assert hall.begun == ["deploy", "cleanup"]


async def test_the_next_action_waits_until_the_cancelled_one_has_ended() -> None:
    hall = Hall()
    is_released = asyncio.Event()

    async def slow_to_end(_job: Job) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await is_released.wait()

    hall.lanes.submit(Job(VmId(7), "deploy", slow_to_end))
    hall.submit(7, "cleanup")
    await turns()
    hall.lanes.call_off(VmId(7))
    hall.submit(7, "cleanup again")
    await turns()
    assert not hall.begun
    is_released.set()
    await turns()
    assert hall.begun == ["cleanup again"], "the queued cleanup is cancelled as well"


async def test_an_action_is_cancelled_before_its_task_has_run() -> None:
    hall = Hall()
    hall.submit(7, "deploy")
    assert hall.lanes.call_off(VmId(7)), "its task had no turn yet"
    await turns()
    assert not hall.begun
    assert hall.called_off == ["deploy"]
    assert await is_idle(hall)


async def test_call_off_returns_false_for_a_vm_without_a_job() -> None:
    hall = Hall()
    hall.submit(1, "busy")
    await turns()
    assert not hall.lanes.call_off(VmId(7))
    assert not hall.called_off


@pytest.mark.parametrize("when", ["due", "listed", "listed and due", "behind an action"])
async def test_cancelled_polls_are_never_answered(when: str) -> None:
    hall = Hall(threads=1)
    if when == "due":
        hall.submit(1, "busy")
        hall.poll(7)
    elif when == "listed":
        hall.poll(7)
    elif when == "listed and due":
        hall.poll(7)
        await turns()
        hall.poll(7)
    else:
        hall.submit(7, "busy")
        hall.poll(7)
    await turns()
    assert hall.lanes.call_off(VmId(7))
    await turns()
    if hall.listing is not None:
        await hall.end_listing()
    await hall.end(*hall.running)
    assert not hall.answered
    assert not hall.answered_no_news
    assert await is_idle(hall)


async def test_running_background_work_is_not_cancelled() -> None:
    hall = Hall()
    hall.submit(7, "debt", is_background=True)
    await turns()
    assert not hall.lanes.call_off(VmId(7)), "there is no request of oned's"
    hall.submit(7, "deploy")
    hall.submit(7, "second debt", is_background=True)
    assert hall.lanes.call_off(VmId(7))
    await hall.end("debt")
    await hall.end("second debt")
    assert hall.ended == ["debt", "second debt"]
    assert hall.called_off == ["deploy"]
    assert await is_idle(hall)


async def test_queued_background_work_is_not_cancelled() -> None:
    hall = Hall(threads=1)
    hall.submit(1, "busy")
    hall.submit(7, "deploy")
    hall.submit(7, "debt", is_background=True)
    await turns()
    assert hall.lanes.call_off(VmId(7))
    await hall.end("busy")
    assert hall.begun == ["busy", "debt"]


# The end


async def test_drained_waits_for_actions_and_for_polls() -> None:
    hall = Hall()
    assert await is_idle(hall), "with nothing to do there is nothing to wait for"
    hall.submit(7, "deploy")
    hall.poll(7)
    await turns()
    assert not await is_idle(hall)
    await hall.end("deploy")
    assert not await is_idle(hall)
    await hall.end_listing()
    assert await is_idle(hall)


async def test_lanes_on_hold_start_no_job_and_let_running_ones_end() -> None:
    hall = Hall()
    hall.submit(7, "running")
    hall.poll(8)
    await turns()
    hall.lanes.hold()
    hall.submit(7, "next")
    hall.submit(9, "other")
    hall.poll(9)
    await hall.end("running")
    await hall.end_listing()
    assert hall.ended == ["running"]
    assert hall.begun == ["running"]
    assert hall.batches == [[8]]


@pytest.mark.looptime
async def test_stop_cancels_all_jobs_and_waits_for_them() -> None:
    hall = Hall()
    hall.submit(7, "deploy")
    hall.submit(7, "never")
    hall.poll(8)
    await turns()
    await hall.lanes.stop(1)
    await turns()
    assert hall.cancelled == ["deploy"]
    assert hall.begun == ["deploy"]
    assert not hall.answered
    assert asyncio.get_running_loop().time() == 0


@pytest.mark.looptime
async def test_stop_waits_no_longer_than_its_limit() -> None:
    hall = Hall()

    async def stubborn(_job: Job) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await pass_time(1000)

    hall.lanes.submit(Job(VmId(7), "stubborn", stubborn))
    await turns()
    await hall.lanes.stop(0.3)
    assert asyncio.get_running_loop().time() == pytest.approx(0.3)
    await pass_time(1000)


# Random order


class AnyOrder(RuleBasedStateMachine):
    """Random actions, POLLs, cancellations and endings, checked against invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.threads = 2
        self.hall = Hall(threads=self.threads)
        self.numbers = count()
        self.submitted: list[str] = []
        self.background: set[str] = set()
        self.polls = 0
        self.lost_polls = 0

    def settle(self) -> None:
        """Let all tasks run as far as they can."""
        self.loop.run_until_complete(turns(8))

    def in_loop(self, function: Callable[[], Result]) -> Result:
        """Call a function on the loop, as the driver does."""

        async def call() -> Result:
            return function()

        return self.loop.run_until_complete(call())

    def of(self, vm_id: int, names: list[str]) -> list[str]:
        return [name for name in names if name.startswith(f"{vm_id}/")]

    @rule(vm_id=st.integers(0, 3), is_background=st.booleans(), is_settled=st.booleans())
    def submit(self, vm_id: int, *, is_background: bool, is_settled: bool) -> None:
        name = f"{vm_id}/{next(self.numbers)}"
        self.submitted.append(name)
        if is_background:
            self.background.add(name)
        self.in_loop(lambda: self.hall.submit(vm_id, name, is_background=is_background))
        if is_settled:
            self.settle()

    @rule(vm_id=st.integers(0, 3), is_settled=st.booleans())
    def poll(self, vm_id: int, *, is_settled: bool) -> None:
        self.polls += 1
        self.in_loop(lambda: self.hall.poll(vm_id))
        if is_settled:
            self.settle()

    @rule(vm_id=st.integers(0, 3))
    def call_off(self, vm_id: int) -> None:
        open_jobs = [
            name
            for name in self.of(vm_id, self.submitted)
            if name not in self.hall.ended and name not in self.hall.called_off and name not in self.background
        ]
        before = self.open_polls(vm_id)
        found = self.in_loop(lambda: self.hall.lanes.call_off(VmId(vm_id)))
        assert found is bool(open_jobs or before)
        self.lost_polls += before
        self.settle()
        assert set(open_jobs) <= set(self.hall.called_off)

    def open_polls(self, vm_id: int) -> int:
        """The number of POLLs of a VM that wait in the lanes."""
        lanes = self.hall.lanes
        lane = lanes._lanes.get(VmId(vm_id))
        return (
            len(lanes._due_polls.get(VmId(vm_id), []))
            + len(lanes._listed_polls.get(VmId(vm_id), []))
            + (len(lane.polls) if lane else 0)
        )

    @precondition(lambda self: self.hall.running)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.hall.running)))
        self.hall.gates[name].set()
        self.settle()

    @precondition(lambda self: self.hall.listing is not None)
    @rule()
    def end_listing(self) -> None:
        self.loop.run_until_complete(self.hall.end_listing())

    @invariant()
    def no_more_run_than_there_are_places(self) -> None:
        assert len(self.hall.running) + (self.hall.listing is not None) <= self.threads

    @invariant()
    def no_two_run_for_one_vm(self) -> None:
        vms = list(self.hall.running.values())
        assert len(vms) == len(set(vms))

    @invariant()
    def in_order_within_a_lane(self) -> None:
        for vm_id in range(4):
            begun = [int(name.split("/")[1]) for name in self.of(vm_id, self.hall.begun)]
            assert begun == sorted(begun)

    @invariant()
    def places_are_not_left_empty(self) -> None:
        self.settle()
        waiting = [name for name in self.submitted if name not in self.hall.begun and name not in self.hall.called_off]
        startable = {name.split("/")[0] for name in waiting} - {str(vm_id) for vm_id in self.hall.running.values()}
        assert not startable or len(self.hall.running) + (self.hall.listing is not None) == self.threads

    def teardown(self) -> None:
        try:
            for _ in range(len(self.submitted) + self.polls):
                for gate in self.hall.gates.values():
                    gate.set()
                if self.hall.listing is not None:
                    self.hall.listing.set()
                self.settle()
            self.loop.run_until_complete(asyncio.wait_for(self.hall.lanes.drained(), 10))
        finally:
            self.loop.close()
        self.check_the_books()

    def check_the_books(self) -> None:
        hall = self.hall
        assert len(hall.begun) == len(set(hall.begun)), "nothing runs twice"
        finished = [name for name in hall.ended if name not in hall.called_off]
        assert sorted([*finished, *hall.called_off]) == sorted(self.submitted), "each job ran once or was cancelled"
        assert self.background <= set(hall.ended), "background work is never cancelled"
        answers = len(hall.answered) + len(hall.answered_no_news)
        assert answers + self.lost_polls == self.polls, "each POLL is answered once"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(stateful_step_count=40)
