"""A fake cloud and the parts of a driver around it, for the tests of the actions.

Everything runs in virtual time (looptime): the cloud's states, the journal's clock and the deadlines follow the loop's
clock, and that stands still while the journal, which is a real SQLite file, is at work in its thread.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from one_provider_mad.actions.dispatcher import Dispatcher
from one_provider_mad.actions.engine import Engine, PollSource
from one_provider_mad.actions.work import Work
from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.database import Database
from one_provider_mad.domain import (
    DeployId,
    Identity,
    Instance,
    InstanceState,
    SnapshotId,
    Template,
    Usage,
    VmId,
    VmRequest,
)
from one_provider_mad.errors import (
    InstanceNotFound,
    MadError,
    SettingsError,
    TokenMismatch,
    TokenSpent,
    WrongState,
)
from one_provider_mad.journal.records import Attempt, AttemptState, Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.options import Options
from one_provider_mad.ownership.creating import Complete, as_sent
from one_provider_mad.ownership.vm import Vm
from one_provider_mad.protocol.messages import Control, Malformed, Request
from one_provider_mad.protocol.vmm import parse_line
from one_provider_mad.providers.interface import CreateCall, CreatePlan, Parameters, VerbatimDriver, VerbatimRequest
from one_provider_mad.settings import Configuration, Policy, Settings
from tests import oned_lines

OWNER = "harbour"
STIME = 1_760_000_000
EPOCH = 1_800_000_000.0
"""The wall-clock time at the loop's time 0."""

PATIENCE = 100_000.0
"""Virtual seconds after which waiting for a condition fails: longer than any deadline or back-off."""


Clock = Callable[[], float]


def virtual_clock() -> Clock:
    """A wall clock that follows the running loop's; any thread may read it."""
    loop = asyncio.get_running_loop()
    return lambda: EPOCH + loop.time()


async def pass_time(seconds: float) -> None:
    """Let this much virtual time pass."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_future()


async def turns(count: int = 20) -> None:
    """Let all tasks run that need no time to pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait for a condition in virtual time, at most a fiftieth too long; fail if it never holds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not condition():
        waited = loop.time() - begun
        assert waited < PATIENCE, f"{what} never came"
        await pass_time(max(0.05, waited / 50))


def identity_of(vm_id: int = 7, *, seq: int = 0, stime: int = STIME, owner: str = OWNER, host_id: int = 3) -> Identity:
    return Identity(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id)


def request_of(vm_id: int = 7, **fields: Any) -> VmRequest:
    """The content of a request about a VM; by default of its first life, on host 3, without a deploy id."""
    return VmRequest(**{"vm_id": VmId(vm_id), "host": "cloud", "host_id": 3, "stime": STIME, **fields})


@dataclass
class FakeInstance:
    """An instance of the fake cloud; `then` is the time of its next transition, and the state it then has."""

    deploy_id: DeployId
    identity: Identity | None
    state: InstanceState
    then: tuple[float, InstanceState] | None = None
    visible_at: float = 0.0
    reason: str = ""
    usage: Usage | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)

    def settle(self, now: float) -> None:
        if self.then is not None and now >= self.then[0]:
            self.state, self.then = self.then[1], None

    def shown(self) -> Instance:
        return Instance(
            deploy_id=self.deploy_id,
            state=self.state,
            raw_state=self.state.value,
            identity=self.identity,
            reason=self.reason,
            attributes=self.attributes,
            usage=self.usage,
        )


Order = BaseException | asyncio.Event
"""An error to raise, or an event to wait for."""


class FakeCloud:
    """Pretends to be a cloud: instances in a dictionary, states by the loop's clock, errors and delays on demand.

    `before["create"]` holds errors and delays of the next creates before they take effect, `after["create"]` those of
    their answers; `always["create"]` applies to each create. `calls` holds all calls so far. `doubles` are listed a
    second time in each listing, in the state given there.
    """

    name: str = "fake"

    def __init__(self) -> None:
        self.is_create_repeatable = True
        self.visibility_grace = 0.0
        self.watch_interval = 1.0
        self.boot_time = 5.0
        self.stop_time = 5.0
        self.destroy_time = 5.0
        self.lag = 0.0
        self.alternatives: tuple[Parameters, ...] = ({"size": "small"},)
        self.without_effect: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.first_state = InstanceState.PENDING
        self.calls: list[tuple[str, Any]] = []
        self.before: defaultdict[str, deque[Order]] = defaultdict(deque)
        self.after: defaultdict[str, deque[Order]] = defaultdict(deque)
        self.always: dict[str, Order] = {}
        self.instances: dict[DeployId, FakeInstance] = {}
        self.tokens: dict[str, tuple[CreateCall, DeployId]] = {}
        self.doubles: dict[DeployId, InstanceState] = {}
        self.is_closed = False
        self._numbers = 0

    # For the tests

    def add(
        self,
        identity: Identity | None = None,
        state: InstanceState = InstanceState.RUNNING,
        *,
        deploy_id: str = "",
        reason: str = "",
    ) -> DeployId:
        """Add an instance, as if it had been created before."""
        self._numbers += 1
        id_ = DeployId(deploy_id or f"i-{self._numbers}")
        self.instances[id_] = FakeInstance(id_, identity, state, reason=reason)
        return id_

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.calls)

    def state(self, deploy_id: str) -> InstanceState:
        return self._settled(DeployId(deploy_id)).state

    def identity(self, deploy_id: str) -> Identity | None:
        return self.instances[DeployId(deploy_id)].identity

    def alive(self) -> list[DeployId]:
        return [id_ for id_ in self.instances if not self._settled(id_).state.is_gone]

    # The provider's methods

    def _settled(self, deploy_id: DeployId) -> FakeInstance:
        instance = self.instances[deploy_id]
        instance.settle(_now())
        return instance

    async def _travel(self, operation: str, subject: Any) -> None:
        self.calls.append((operation, subject))
        await self._obey(self.always.get(operation))
        if self.before[operation]:
            await self._obey(self.before[operation].popleft())

    async def _return(self, operation: str) -> None:
        if self.after[operation]:
            await self._obey(self.after[operation].popleft())

    @staticmethod
    async def _obey(order: Order | None) -> None:
        if isinstance(order, asyncio.Event):
            await order.wait()
        elif order is not None:
            raise order

    def _known(self, deploy_id: DeployId) -> FakeInstance:
        if deploy_id not in self.instances or _now() < self.instances[deploy_id].visible_at:
            raise InstanceNotFound(f"no instance {deploy_id}")
        return self._settled(deploy_id)

    async def open(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True

    async def account(self) -> str:
        await self._travel("account", None)
        return "account-1/north"

    def plan(self, request: VmRequest) -> CreatePlan:
        return CreatePlan(alternatives=self.alternatives, warnings=self.warnings)

    async def create(self, call: CreateCall) -> DeployId:
        await self._travel("create", call)
        made = self.tokens.get(call.token) if self.is_create_repeatable else None
        if made is None:
            deploy_id = self.add(call.identity, self.first_state)
            instance = self.instances[deploy_id]
            instance.parameters = call.parameters
            instance.visible_at = _now() + self.lag
            if self.first_state is InstanceState.PENDING:
                instance.then = (_now() + self.boot_time, InstanceState.RUNNING)
            self.tokens[call.token] = (call, deploy_id)
        else:
            if made[0] != call:
                raise TokenMismatch("the token was used with other parameters")
            deploy_id = made[1]
            if deploy_id not in self.instances or self._settled(deploy_id).state.is_gone:
                raise TokenSpent(f"the token made {deploy_id}, which is terminated")
        await self._return("create")
        return deploy_id

    async def start(self, deploy_id: DeployId) -> None:
        await self._travel("start", deploy_id)
        instance = self._known(deploy_id)
        if instance.state in (InstanceState.STOPPED, InstanceState.SUSPENDED):
            instance.state, instance.then = InstanceState.PENDING, (_now() + self.boot_time, InstanceState.RUNNING)
        elif instance.state not in (InstanceState.RUNNING, InstanceState.PENDING):
            raise WrongState(f"{deploy_id} is {instance.state.value}")
        await self._return("start")

    async def stop(self, deploy_id: DeployId, *, hard: bool) -> None:
        await self._travel("stop hard" if hard else "stop", deploy_id)
        instance = self._known(deploy_id)
        if instance.state is InstanceState.PENDING:
            raise WrongState(f"{deploy_id} is pending")
        if instance.state is not InstanceState.STOPPED:
            instance.state, instance.then = InstanceState.STOPPING, (_now() + self.stop_time, InstanceState.STOPPED)

    async def reboot(self, deploy_id: DeployId, *, hard: bool) -> None:
        await self._travel("reboot hard" if hard else "reboot", deploy_id)
        self._known(deploy_id)

    async def destroy(self, deploy_id: DeployId) -> None:
        await self._travel("destroy", deploy_id)
        instance = self._known(deploy_id)
        if not instance.state.is_gone:
            instance.state = InstanceState.TERMINATING
            instance.then = (_now() + self.destroy_time, InstanceState.TERMINATED)
        await self._return("destroy")

    async def retag(self, deploy_id: DeployId, identity: Identity) -> None:
        await self._travel("retag", (deploy_id, identity))
        self._known(deploy_id).identity = identity

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        wanted = sorted(deploy_ids)
        await self._travel("describe", wanted)
        return {instance.deploy_id: instance for instance in self._visible() if instance.deploy_id in wanted}

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        await self._travel("find", vm_id)
        return [
            instance
            for instance in self._visible()
            if instance.identity is not None and (instance.identity.owner, instance.identity.vm_id) == (owner, vm_id)
        ]

    async def list_instances(self) -> Sequence[Instance]:
        await self._travel("list", None)
        return self._visible()

    def _visible(self) -> list[Instance]:
        now = _now()
        shown = [self._settled(id_).shown() for id_ in self.instances if now >= self.instances[id_].visible_at]
        doubles = [each for each in shown if each.deploy_id in self.doubles]
        return shown + [msgspec.structs.replace(each, state=self.doubles[each.deploy_id]) for each in doubles]


class AbleCloud(FakeCloud):
    """Pretends to be a cloud with all optional capabilities; records each such call."""

    name: str = "able"

    async def suspend(self, deploy_id: DeployId) -> None:
        await self._travel("suspend", deploy_id)
        instance = self._known(deploy_id)
        instance.state, instance.then = InstanceState.SUSPENDING, (_now() + self.stop_time, InstanceState.SUSPENDED)

    async def create_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> SnapshotId:
        await self._travel("create_snapshot", (deploy_id, snapshot))
        return SnapshotId("snap-1")

    async def revert_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        await self._travel("revert_snapshot", (deploy_id, snapshot))

    async def delete_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        await self._travel("delete_snapshot", (deploy_id, snapshot))

    async def attach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        await self._travel("attach_disk", (deploy_id, disk))

    async def detach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        await self._travel("detach_disk", (deploy_id, disk))

    async def create_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        await self._travel("create_disk_snapshot", (deploy_id, disk))

    async def revert_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        await self._travel("revert_disk_snapshot", (deploy_id, disk))

    async def resize_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        await self._travel("resize_disk", (deploy_id, disk))

    async def attach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        await self._travel("attach_nic", (deploy_id, nic))

    async def detach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        await self._travel("detach_nic", (deploy_id, nic))

    async def resize(self, deploy_id: DeployId, request: VmRequest) -> None:
        await self._travel("resize", (deploy_id, request))

    async def update_context(self, deploy_id: DeployId, request: VmRequest) -> Sequence[str]:
        await self._travel("update_context", (deploy_id, request))
        return self.without_effect

    async def update_security_group(self, deploy_id: DeployId, request: VmRequest) -> None:
        await self._travel("update_security_group", (deploy_id, request))

    async def update_nic(self, deploy_id: DeployId, request: VmRequest) -> None:
        await self._travel("update_nic", (deploy_id, request))


def _now() -> float:
    return asyncio.get_running_loop().time()


_promise = Database._promise


def promise_while_the_clock_stands(self: Database) -> asyncio.Future[Any]:
    """Promise as Database does, and let an executor thread wait too, since virtual time waits for no other thread."""
    future = _promise(self)
    is_done = threading.Event()
    future.add_done_callback(lambda _: is_done.set())
    asyncio.get_running_loop().run_in_executor(None, is_done.wait)
    return future


@dataclass(kw_only=True)
class World:
    """A fake cloud, and the real parts of a driver that work on it."""

    provider: FakeCloud
    journal: Journal
    clock: Clock
    retries: int = 0
    call_timeout: float = 60.0
    policy: Policy = field(default_factory=Policy)
    required_type: str = ""
    warnings: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    logged: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        self.shared = SharedCloud(self.provider, owner=OWNER, retries=self.retries, call_timeout=self.call_timeout)
        self.cloud = self.shared.for_action(Waiting())

    def set_cloud(self, *, retries: int = 0, call_timeout: float = 60.0) -> None:
        """Use the provider with other options."""
        self.retries, self.call_timeout = retries, call_timeout
        self.__post_init__()

    def work(self, request: VmRequest, *, deadline: float = math.inf) -> Work:
        return Work(
            cloud=self.cloud,
            journal=self.journal,
            policy=self.policy,
            request=request,
            deadline=deadline,
            clock=self.clock,
            warn=self.warnings.append,
            required_type=self.required_type,
        )

    def vm(self, request: VmRequest) -> Vm:
        return self.work(request).vm

    def engine(self, verbatim: VerbatimDriver | None = None) -> Engine:
        configuration = Configuration(
            name="fake", path=None, settings=Settings(provider="fake", owner=OWNER, policy=self.policy), table={}
        )
        if verbatim is not None:
            return Engine(configuration=configuration, journal=self.journal, verbatim=verbatim)
        return Engine(configuration=configuration, journal=self.journal, cloud=self.shared)

    async def attempts(self, vm_id: int = 7) -> list[Attempt]:
        return await self.journal.attempts(owner=OWNER, vm_id=VmId(vm_id))

    async def add_attempt(
        self, state: AttemptState, *, deploy_id: str = "", number: int = 1, seq: int = 0, age: float = 0.0
    ) -> Attempt:
        """Write an attempt of VM 7 to the journal that was sent `age` seconds ago."""
        attempt = Attempt.new(identity_of(seq=seq), number, {"size": "small"})
        attempt = Attempt(
            token=attempt.token,
            identity=attempt.identity,
            number=number,
            parameters=attempt.parameters,
            state=state,
            deploy_id=DeployId(deploy_id),
            sent_at=self.clock() - age,
        )
        await self.journal.save_attempt(attempt)
        return attempt

    async def add_debt(self, deploy_id: str = "", *, token: str = "", seq: int = 0, vm_id: int = 7) -> None:
        await self.journal.add_debt(
            Debt(
                deploy_id=DeployId(deploy_id),
                token=token,
                identity=identity_of(vm_id, seq=seq),
                reason="it has to go",
                since=self.clock(),
            )
        )


@asynccontextmanager
async def a_world(tmp_path: Path, provider: FakeCloud | None = None) -> AsyncIterator[World]:
    """A world with its own journal; closes all parts at the end."""
    # Log events go to a list: drawing tracebacks for a terminal takes seconds.
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logged:
        patch.setattr(Database, "_promise", promise_while_the_clock_stands)
        lost: list[str] = []
        clock = virtual_clock()
        journal = Journal(tmp_path / "journal", clock=clock, on_lost=lost.append)
        await journal.open()
        world = World(provider=provider or FakeCloud(), journal=journal, clock=clock, lost=lost, logged=logged)
        try:
            yield world
        finally:
            await world.shared.close()
            await journal.close()


class FakeEngines:
    """Pretends to be the configuration: one engine, or `error` if it is set.

    Args:
        world: the cloud and the journal of the engine.
        verbatim: a verbatim driver, instead of the world's cloud.
    """

    def __init__(self, world: World, *, verbatim: VerbatimDriver | None = None) -> None:
        self._world = world
        self._verbatim = verbatim
        self.journal: Journal | None = world.journal
        self.is_journal_open = asyncio.Event()
        self.is_journal_open.set()
        self.is_verbatim = verbatim is not None
        self.owner = OWNER
        self.error: BaseException | None = None

    async def current(self) -> Engine:
        if self.error is not None:
            raise self.error
        return self._world.engine(self._verbatim)

    async def poll_source(self) -> PollSource:
        engine = await self.current()
        return PollSource(cloud=engine.cloud, verbatim=engine.verbatim)


class Desk:
    """A dispatcher that writes its lines to a list.

    Args:
        world: the cloud and the journal that the actions work on.
        threads: `-t`.
        timeout: `-w`.
        verbatim: a verbatim driver, instead of the world's cloud.
        complete: completes requests with what the core knows.
    """

    def __init__(
        self,
        world: World,
        *,
        threads: int = 15,
        timeout: float | None = None,
        verbatim: VerbatimDriver | None = None,
        complete: Complete = as_sent,
    ) -> None:
        self.world = world
        self.lines: list[str] = []
        self.is_reading = True
        self._unread: list[Callable[[], None]] = []
        self.engines = FakeEngines(world, verbatim=verbatim)
        self.dispatcher = Dispatcher(
            Options(name="fake", threads=threads, timeout=timeout),
            engines=self.engines,
            output=self,
            clock=world.clock,
            complete=complete,
        )
        self.lanes = self.dispatcher.lanes

    # The output that the dispatcher writes to

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        assert data.endswith(b"\n")
        self.lines.append(data.decode().removesuffix("\n"))
        if on_written is not None:
            if self.is_reading:
                on_written()
            else:
                self._unread.append(on_written)

    def log(self, data: bytes) -> None:
        self.send(data)

    def read(self) -> None:
        """Let oned read all lines that it had left unread."""
        self.is_reading = True
        while self._unread:
            self._unread.pop(0)()

    # oned, which writes to the dispatcher

    def ask(self, action: str, vm_id: int = 7, **details: Any) -> Request:
        """Send a request as oned would."""
        stime = {} if action == "DRIVER_CANCEL" else {"stime": STIME, "host_id": 3}
        return self.tell(oned_lines.line(action, vm_id, **{**stime, **details}))

    def tell(self, line: bytes) -> Request:
        """Send a line that is a request."""
        request = parse_line(line.rstrip(b"\n"))
        assert isinstance(request, Request)
        self.dispatcher.accept(request)
        return request

    def write(self, line: bytes) -> None:
        """Send any line."""
        parsed = parse_line(line)
        assert isinstance(parsed, Request | Malformed)
        assert not isinstance(parsed, Control)
        self.dispatcher.accept(parsed)

    def replies(self, action: str | None = None, vm_id: int | None = None) -> list[str]:
        """Replies so far, LOG lines left out: all, or those to one action of one VM."""
        found = [line for line in self.lines if not line.startswith("LOG ")]
        if action is not None:
            found = [line for line in found if line.split(" ")[0] == action]
        if vm_id is not None:
            found = [line for line in found if line.split(" ")[2] == str(vm_id)]
        return found

    def logs(self) -> list[str]:
        return [line for line in self.lines if line.startswith("LOG ")]

    async def reply(self, action: str, vm_id: int = 7) -> str:
        """The first reply to an action of a VM, once it is there: `SUCCESS i-1`."""
        await until(lambda: bool(self.replies(action, vm_id)), f"a reply to {action} of VM {vm_id}")
        _, status, _, info = self.replies(action, vm_id)[0].split(" ", 3)
        return f"{status} {info}"

    async def answer(self, action: str, vm_id: int = 7, **details: Any) -> str:
        """Send a request, wait until all work has ended, and return the one reply."""
        before = len(self.replies())
        self.ask(action, vm_id, **details)
        await self.settled()
        fresh = self.replies()[before:]
        assert len(fresh) == 1, fresh
        word, status, number, info = fresh[0].split(" ", 3)
        assert (word, number) == (action, str(vm_id))
        return f"{status} {info}"

    async def settled(self) -> None:
        """Wait until all requests have ended."""
        async with asyncio.timeout(PATIENCE):
            await self.lanes.drained()

    async def open_requests(self) -> list[str]:
        """The actions of the requests that are unanswered in the journal."""
        return [request.action for request in await self.world.journal.open_requests()]


@asynccontextmanager
async def a_desk(world: World, **options: Any) -> AsyncIterator[Desk]:
    """A dispatcher that is stopped in the end."""
    desk = Desk(world, **options)
    try:
        yield desk
    finally:
        await desk.lanes.stop(1.0)


BROKEN: MadError = SettingsError("fake.toml: owner is missing")
"""The error of an unusable configuration."""


class FakeScripts:
    """Pretends to run a script for each action; keeps the requests, and returns or raises `answer`."""

    name = "scripts"
    is_busy = False

    def __init__(self) -> None:
        self.requests: list[VerbatimRequest] = []
        self.answer: str | BaseException = "-"
        self.gate: asyncio.Event | None = None

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def perform(self, request: VerbatimRequest, log: Callable[[str, str], None]) -> str:
        self.requests.append(request)
        log("I", f"running {request.action.lower()}")
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


LARGE = 200_000
"""Bytes of context in a message that is parsed only when its turn comes."""


def large() -> Template:
    """A template with a very large context, for example a long start script."""
    return Template(values={"CPU": ("1",), "CONTEXT": ({"START_SCRIPT": "x" * LARGE},)})


def now() -> float:
    return asyncio.get_running_loop().time()
