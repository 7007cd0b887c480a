"""Run the actions of each VM one after the other, those of different VMs in parallel, up to a limit (decision 7).

The actions of a VM are its lane. Its POLLs wait until the lane is empty, so that none of them reports a state from
before an action that was answered since. A POLL whose listing is under way when an action arrives is answered without
a state at once: the listing's would be outdated. actions/turns.py chooses the lane that comes next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from one_provider_mad.actions.turns import Turns
from one_provider_mad.domain import VmId, VmRequest

_GATHERED_POLLS = 500
"""POLLs after which a listing begins although more are arriving: oned's lines for so many take some 20 ms to read."""


class Job:
    """One action of one VM, from acceptance to answer.

    Attributes:
        vm_id: its lane.
        name: its name in task lists, `deploy vm 12`.
        work: carries the action out; started when the job's turn comes.
        number: its record in the journal, 0 for none.
        task: its task while it runs.
        is_called_off: DRIVER_CANCEL cancelled the job, so the action gets no answer.
        is_background: the driver's own work (a debt), which DRIVER_CANCEL does not affect.
        host: its OpenNebula host, where each idle host has an extra place (actions/turns.py); else None.
        is_broken_off: it is cancelled since a newer action of its VM replaces it.
    """

    __slots__ = (
        "host",
        "is_background",
        "is_broken_off",
        "is_called_off",
        "name",
        "number",
        "task",
        "vm_id",
        "work",
    )

    def __init__(
        self,
        vm_id: VmId,
        name: str,
        work: Callable[[Job], Coroutine[Any, Any, None]],
        *,
        number: int = 0,
        is_background: bool = False,
        host: str | None = None,
    ) -> None:
        self.number = number
        self.vm_id = vm_id
        self.name = name
        self.work = work
        self.task: asyncio.Task[None] | None = None
        self.is_called_off = False
        self.is_background = is_background
        self.host = host
        self.is_broken_off = False


class _Lane:
    __slots__ = ("current", "polls", "queue")

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()
        self.current: Job | None = None
        self.polls: list[VmRequest] = []


class Lanes:
    """The lanes of one driver.

    Args:
        threads: how many jobs may run at once; a batch of POLLs counts as one. Where jobs name their hosts, each idle
            host has an extra place, up to as many again.
        poll: answers a batch of POLLs.
        answer_no_news: answers with no news a POLL that an action has overtaken.
        calling_off: called with a running job before DRIVER_CANCEL cancels it.
        called_off: called with each job that was called off, broken off or dropped, once it has ended.
    """

    def __init__(
        self,
        threads: int,
        *,
        poll: Callable[[list[VmRequest]], Coroutine[Any, Any, None]],
        answer_no_news: Callable[[VmRequest], None],
        calling_off: Callable[[Job], None],
        called_off: Callable[[Job], None],
    ) -> None:
        self._threads = threads
        self._turns: Turns[_Lane] = Turns(threads)
        self._poll = poll
        self._answer_no_news = answer_no_news
        self._calling_off = calling_off
        self._called_off = called_off
        self._lanes: dict[VmId, _Lane] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._resting = 0
        self._returning: deque[asyncio.Future[None]] = deque()
        self._due_polls: dict[VmId, list[VmRequest]] = {}
        self._listed_polls: dict[VmId, list[VmRequest]] = {}
        self._is_listing = False
        self._taken_polls = 0
        self._is_held = False
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, job: Job) -> None:
        """Put a lifecycle action at the end of its VM's lane, in front of its POLLs."""
        lane = self._lanes.setdefault(job.vm_id, _Lane())
        lane.polls[:0] = self._due_polls.pop(job.vm_id, ())
        for request in self._listed_polls.pop(job.vm_id, ()):
            self._answer_no_news(request)
        lane.queue.append(job)
        if lane.current is None and len(lane.queue) == 1:
            self._turns.wait(lane, job.host)
        if not job.is_background:
            self._requests += 1
            self._idle.clear()
        self._pump()

    def submit_poll(self, request: VmRequest) -> None:
        """Queue a POLL for the next listing that begins when its VM's lane is empty."""
        self._taken_polls += 1
        lane = self._lanes.get(request.vm_id)
        if lane is None:
            self._due_polls.setdefault(request.vm_id, []).append(request)
        else:
            lane.polls.append(request)
        self._idle.clear()
        if not self._is_listing:  # else the end of the listing under way starts the next one
            self._pump()

    def call_off(self, vm_id: VmId) -> bool:
        """Carry out DRIVER_CANCEL: drop the VM's waiting jobs, cancel the running one. True when there was any."""
        due, listed = self._due_polls.pop(vm_id, None), self._listed_polls.pop(vm_id, None)
        found = bool(due or listed)
        lane = self._lanes.get(vm_id)
        if lane is not None:
            found = self._empty(lane) or found
            if lane.current is not None and not lane.current.is_background and not lane.current.is_called_off:
                found = True
                lane.current.is_called_off = True
                self._calling_off(lane.current)
                if lane.current.task is not None:
                    lane.current.task.cancel()
            if lane.current is None and not lane.queue:
                del self._lanes[vm_id]
        self._pump()
        return found

    def _empty(self, lane: _Lane) -> bool:
        kept = [job for job in lane.queue if job.is_background]
        waiting = [job for job in lane.queue if not job.is_background]
        found = bool(waiting or lane.polls)
        lane.polls.clear()
        lane.queue = deque(kept)
        self._queue_up(lane)
        self._requests -= len(waiting)
        for job in waiting:
            job.is_called_off = True
            self._called_off(job)
        return found

    def open_jobs(self, vm_id: VmId) -> list[Job]:
        """Return the running and the waiting jobs of a VM's lane, oldest first."""
        lane = self._lanes.get(vm_id)
        if lane is None:
            return []
        return [*lane.queue] if lane.current is None else [lane.current, *lane.queue]

    def every_open_job(self) -> list[Job]:
        """Return the running and the waiting jobs of all VMs."""
        return [job for vm_id in self._lanes for job in self.open_jobs(vm_id)]

    def break_off(self, job: Job) -> None:
        """Cancel a running job that a newer one replaces; the lane's next job begins once it has ended."""
        if job.task is not None and not job.is_broken_off:
            job.is_broken_off = True
            job.task.cancel()

    def drop(self, job: Job) -> None:
        """Remove a waiting job from its lane: it never begins."""
        lane = self._lanes[job.vm_id]
        lane.queue.remove(job)
        self._requests -= 1
        if lane.current is None and (not lane.queue or lane.queue[0].host != job.host):
            self._queue_up(lane)
        self._called_off(job)
        if lane.current is None and not lane.queue:
            self._end(lane, job.vm_id)
            self._pump()

    def _queue_up(self, lane: _Lane) -> None:
        """Put a lane at the end of the queue, under the host of its next job."""
        self._turns.leave(lane)
        if lane.queue and lane.current is None:
            self._turns.wait(lane, lane.queue[0].host)

    async def rest(self, seconds: float) -> None:
        """Pause the calling job for so many seconds without its place; return once the job has a place again.

        Otherwise a few actions that wait for a cloud would hold up all others, ends of instances among them.
        """
        self._resting += 1
        self._pump()
        is_back = False
        try:
            await asyncio.sleep(seconds)
            if self._busy() >= self._threads:
                place = asyncio.get_running_loop().create_future()
                self._returning.append(place)
                try:
                    await place
                finally:
                    is_back = place.done() and not place.cancelled()
        finally:
            self._resting -= not is_back

    def _busy(self) -> int:
        """Number of places that running jobs take."""
        return len(self._running) - self._resting

    def _let_return(self) -> None:
        """Give free places to jobs whose `rest` has ended, in the order in which the pauses ended."""
        while self._returning and self._busy() < self._threads:
            place = self._returning.popleft()
            if not place.done():
                self._resting -= 1
                place.set_result(None)

    def hold(self) -> None:
        """Start no more jobs; running ones continue."""
        self._is_held = True

    async def drained(self) -> None:
        """Return when the jobs of all requests have ended; those of debts may still wait."""
        await self._idle.wait()

    async def stop(self, seconds: float) -> None:
        """Cancel all jobs, and wait at most so many seconds for them to end."""
        self._is_held = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    def _pump(self) -> None:
        """Start every job that may start. Lifecycle actions first, then one listing for all POLLs that are due."""
        self._let_return()
        if self._is_held:
            return
        while (lane := self._turns.take(self._busy())) is not None:
            self._start(lane)
        if self._due_polls and not self._is_listing and self._busy() < self._threads:
            self._is_listing = True
            self._gather(self._taken_polls, self._taken_polls + _GATHERED_POLLS)
        if not self._requests and not (self._is_listing or self._due_polls or self._has_waiting_polls()):
            self._idle.set()

    def _has_waiting_polls(self) -> bool:
        return any(lane.polls for lane in self._lanes.values())

    def _start(self, lane: _Lane) -> None:
        job = lane.current = lane.queue.popleft()
        self._turns.begin(job.host)
        job.task = self._run(job.work(job), job.name)
        job.task.add_done_callback(lambda _task: self._finished(lane, job))

    def _finished(self, lane: _Lane, job: Job) -> None:
        lane.current = None
        self._turns.end(job.host)
        self._requests -= not job.is_background
        if job.is_called_off or job.is_broken_off:
            self._called_off(job)
        if lane.queue:
            self._turns.wait(lane, lane.queue[0].host)
        else:
            self._end(lane, job.vm_id)
        self._pump()

    def _end(self, lane: _Lane, vm_id: VmId) -> None:
        """Remove a lane without jobs: its POLLs may be answered."""
        del self._lanes[vm_id]
        if lane.polls:
            self._due_polls[vm_id] = lane.polls

    def _gather(self, seen: int, bound: int) -> None:
        """Begin the listing in the event loop's next turn, or later while each turn brings more POLLs to share it."""
        asyncio.get_running_loop().call_soon(self._list_or_gather, seen, bound)

    def _list_or_gather(self, seen: int, bound: int) -> None:
        if seen < self._taken_polls < bound:
            self._gather(self._taken_polls, bound)
            return
        self._is_listing = False
        if self._due_polls and not self._is_held and self._busy() < self._threads:
            self._start_listing()
        else:
            self._pump()

    def _start_listing(self) -> None:
        self._is_listing = True
        self._listed_polls, self._due_polls = self._due_polls, {}
        requests = [request for group in self._listed_polls.values() for request in group]
        self._run(self._poll(requests), f"poll {len(requests)} VMs").add_done_callback(self._listed)

    def depth(self) -> tuple[int, int]:
        """Return how many requests wait for their turn, and how many jobs run."""
        lanes = self._lanes.values()
        waiting = sum(len(lane.queue) + len(lane.polls) for lane in lanes) + sum(map(len, self._due_polls.values()))
        return waiting, len(self._running)

    def is_busy(self, vm_id: VmId) -> bool:
        """True while an action of this VM runs or waits."""
        return vm_id in self._lanes

    def answered(self, request: VmRequest) -> None:
        """Note that a VM's first POLL in the listing under way was answered: no action can overtake it now."""
        group = self._listed_polls.get(request.vm_id, [])
        del group[:1]
        if not group:
            self._listed_polls.pop(request.vm_id, None)

    def is_listed(self, request: VmRequest) -> bool:
        """True while a POLL waits for the listing under way; False once an action of its VM has overtaken it."""
        return request.vm_id in self._listed_polls

    def _listed(self, _task: asyncio.Task[None]) -> None:
        self._is_listing = False
        self._listed_polls = {}
        self._pump()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task
