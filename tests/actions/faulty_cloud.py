"""The actions on a simulated cloud that fails, hangs or hides instances as a test demands.

Everything is real but the pipes: the configuration file, the journal, the cloud's database, and the wiring of
daemon.py. The cloud's calls can fail, lose their answers or hide instances, as real clouds' do now and then.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import pytest

from one_provider_mad.actions.dispatcher import Dispatcher
from one_provider_mad.domain import DeployId, Identity, Instance, VmId
from one_provider_mad.engines import Engines
from one_provider_mad.errors import PermissionDenied, ProviderError, ProviderUnavailable
from one_provider_mad.journal.records import Debt
from one_provider_mad.options import Options
from one_provider_mad.protocol.messages import Malformed, Request
from one_provider_mad.protocol.vmm import parse_line
from one_provider_mad.providers.interface import CreateCall, ProviderContext
from one_provider_mad.providers.simulated import provider as simulated
from one_provider_mad.providers.simulated.cloud import Cloud, Launch
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.settings import Places
from tests import oned_lines
from tests.end_to_end.oned import Place
from tests.waiting import HANG

OWNER = "guards"
VM = VmId(7)

NO_ANSWER = ProviderUnavailable("the simulated cloud does not answer")
REFUSED = PermissionDenied("the simulated cloud refuses")
"""Stops and terminations are retried after NO_ANSWER, which is transient, and fail after this."""

_Result = TypeVar("_Result")


def identity(*, owner: str = OWNER, vm_id: int = VM, stime: int = oned_lines.STIME, seq: int = 0) -> Identity:
    """The identity of the VM that the tests are about, or of one that differs from it in one way."""
    return Identity(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=0)


class Moods:
    """How the cloud behaves; a test may change it at any time.

    Attributes:
        failing: calls that are answered with an error and not carried out.
        failing_once: the same for the next call of that kind only.
        losing: calls that are carried out, and tagged_as answer never comes.
        losing_once: the same for the next call of that kind only.
        slow: calls that take so many seconds more before they are carried out.
        hidden: instances that a lookup by tags leaves out.
        calls: every call so far.
    """

    def __init__(self) -> None:
        self.failing: dict[str, ProviderError] = {}
        self.failing_once: dict[str, ProviderError] = {}
        self.losing: set[str] = set()
        self.losing_once: set[str] = set()
        self.slow: dict[str, float] = {}
        self.hidden: set[DeployId] = set()
        self.calls: list[str] = []


class MoodyProvider(simulated.SimulatedProvider):
    """The simulated cloud's provider, with the failures, lost answers and delays of `Moods`."""

    def __init__(self, moods: Moods, context: ProviderContext, settings: SimulatedSettings) -> None:
        super().__init__(context, settings)
        self._moods = moods

    async def _in_mood(self, call: str, carry_out: Awaitable[_Result]) -> _Result:
        self._moods.calls.append(call)
        if call in self._moods.slow:
            await pass_time(self._moods.slow[call])
        if call in self._moods.losing_once:
            self._moods.losing_once.remove(call)
            await carry_out
            raise NO_ANSWER
        if error := self._moods.failing_once.pop(call, None) or self._moods.failing.get(call):
            asyncio.ensure_future(carry_out).cancel()
            raise error
        result = await carry_out
        if call in self._moods.losing:
            raise NO_ANSWER
        return result

    async def create(self, call: CreateCall) -> DeployId:
        return await self._in_mood("create", super().create(call))

    async def destroy(self, deploy_id: DeployId) -> None:
        await self._in_mood("destroy", super().destroy(deploy_id))

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        return await self._in_mood("describe", super().describe(deploy_ids))

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        found = await self._in_mood("find", super().find(owner=owner, vm_id=vm_id))
        return [instance for instance in found if instance.deploy_id not in self._moods.hidden]


@pytest.fixture
def moods(monkeypatch: pytest.MonkeyPatch) -> Moods:
    """The mood of every simulated cloud that is opened from now on."""
    moods = Moods()
    monkeypatch.setattr(simulated, "SimulatedProvider", partial(MoodyProvider, moods))
    return moods


class Answers:
    """Stands in for stdout: keeps the replies and LOG lines."""

    def __init__(self) -> None:
        self.replies: asyncio.Queue[str] = asyncio.Queue()
        self.logged: list[str] = []

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        """Take a reply."""
        self.replies.put_nowait(data.decode().rstrip("\n"))
        if on_written is not None:
            on_written()

    def drained(self) -> list[str]:
        """Take all replies that are left."""
        return [self.replies.get_nowait() for _ in range(self.replies.qsize())]

    def log(self, data: bytes) -> None:
        """Take a LOG line."""
        self.logged.append(data.decode().rstrip("\n"))


class PipelessDriver:
    """A driver without pipes; a second one on the same place stands for the restarted driver.

    Args:
        place: the OpenNebula that the configuration, the journal and the cloud belong to.
        deadline: seconds an action may take (`-w`).
        retries: further tries of a call that failed for a passing reason (`-r`).
    """

    def __init__(self, place: Place, *, deadline: float = 20.0, retries: int = 0) -> None:
        self._options = Options(name="simulated", timeout=deadline, retries=retries)
        self._places = Places.from_environment({"ONE_LOCATION": str(place.root)})

    async def __aenter__(self) -> Self:
        self.output = Answers()
        self.engines = Engines(self._options, self._places, warn=self.output.logged.append)
        await self.engines.open_journal()
        self.dispatcher = Dispatcher(self._options, engines=self.engines, output=self.output, clock=time.time)
        self._debts = asyncio.create_task(self.dispatcher.debts.pay_for_ever(self.dispatcher.lanes))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._debts.cancel()
        await asyncio.wait([self._debts])
        await self.dispatcher.lanes.stop(5)
        await self.engines.close()

    def send(self, action: str, **details: Unpack[oned_lines.Details]) -> None:
        """Send a request for this action of the VM, as oned 7.4 does."""
        self.send_about(VM, action, **details)

    def send_about(self, vm_id: int, action: str, **details: Unpack[oned_lines.Details]) -> None:
        """Send a request for this action of any VM, as oned 7.4 does."""
        request = parse_line(oned_lines.line(action, vm_id, **details).rstrip(b"\n"))
        assert isinstance(request, Request | Malformed)
        self.dispatcher.accept(request)

    async def ask(self, action: str, **details: Unpack[oned_lines.Details]) -> str:
        """Send a request and return its reply from `SUCCESS` or `FAILURE` on, without the id."""
        self.send(action, **details)
        async with asyncio.timeout(HANG):
            word, result, vm_id, info = (await self.output.replies.get()).split(" ", 3)
        assert (word, vm_id) == (action, str(VM))
        return f"{result} {info}"

    async def ask_about(self, deploy_id: str, request: tuple[str, oned_lines.Details]) -> str:
        """Send a request that names this instance."""
        action, details = request
        return await self.ask(action, **(details | oned_lines.Details(deploy_id=deploy_id)))

    async def deployed(self, **details: Unpack[oned_lines.Details]) -> DeployId:
        """Send a DEPLOY, which has to succeed, and return the id."""
        result, deploy_id = (await self.ask("DEPLOY", **details)).split(" ", 1)
        assert result == "SUCCESS", deploy_id
        return DeployId(deploy_id)

    async def debts(self) -> list[Debt]:
        """The debts in the journal."""
        assert self.engines.journal is not None
        return await self.engines.journal.debts()


class Console:
    """The cloud as its owner sees it: all instances at once, also those that the listing lag still hides."""

    def __init__(self, place: Place) -> None:
        self._path = place.var / "simulated.db"
        self._settings = SimulatedSettings(boot_time=0)

    async def _in_cloud(self, do: Callable[[Cloud], Awaitable[_Result]], *, ahead: float = 0.0) -> _Result:
        cloud = Cloud(self._path, self._settings, clock=lambda: time.time() + ahead)
        await cloud.open()
        try:
            return await do(cloud)
        finally:
            await cloud.close()

    async def instances(self) -> dict[DeployId, Instance]:
        """All instances, in the states that they will have in a minute."""
        found = await self._in_cloud(lambda cloud: cloud.list_instances(), ahead=60)
        return {instance.deploy_id: instance for instance in found}

    async def alive(self) -> set[DeployId]:
        """The ids of all instances that are not terminated."""
        return {id_ for id_, instance in (await self.instances()).items() if not instance.state.is_gone}

    async def launch(self, tagged_as: Identity | None) -> DeployId:
        """Make an instance with these tags, or with none."""
        launch = Launch(type="small_256mb", image="made-by-hand")
        return await self._in_cloud(lambda cloud: cloud.launch(launch, tags=tagged_as.tags() if tagged_as else {}))

    async def terminate(self, deploy_id: DeployId) -> None:
        """Terminate an instance without the driver."""
        await self._in_cloud(lambda cloud: cloud.terminate(deploy_id))

    async def retag(self, deploy_id: DeployId, tagged_as: Identity) -> None:
        """Give an instance the tags of another identity."""
        await self._in_cloud(lambda cloud: cloud.retag(deploy_id, tagged_as.tags()))


def configure(place: Place, **settings: object) -> None:
    """Write the configuration of a fast simulated cloud with these settings.

    `policy` and `owner` are those of the file; all other settings go to `[simulated]`.
    """
    policy, owner = settings.pop("policy", {}), settings.pop("owner", OWNER)
    assert isinstance(policy, Mapping)
    quick = {"boot_time": 0, "stop_time": 0, "suspend_time": 0, "destroy_time": 0, "watch_interval": 0.01}
    place.configure(
        f'provider = "simulated"\nowner = "{owner}"\n'
        + _table("simulated", {**quick, "visibility_grace": 0, **settings})
        + _table("policy", policy)
    )


def _table(name: str, values: Mapping[str, object]) -> str:
    plain = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    tables = [_table(f"{name}.{key}", value) for key, value in values.items() if isinstance(value, Mapping)]
    return "\n".join([f"[{name}]", *plain, *tables, ""])


async def until(look: Callable[[], Awaitable[object]], *, seconds: float = HANG) -> None:
    """Repeat a check until it returns a true value; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await look():
            await pass_time(0.01)


async def pass_time(seconds: float) -> None:
    """Wait as long as a slow cloud takes."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=seconds)


def journal_path(place: Place) -> Path:
    """The path of the driver's journal."""
    return place.var / "one_provider_mad_simulated.journal"
