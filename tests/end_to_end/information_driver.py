"""Starts the real information driver as oned or monitord does, parses its lines, and changes instances in the cloud."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from one_provider_mad.domain import DeployId, Identity, Instance, VmId
from one_provider_mad.providers.simulated.cloud import Cloud, Launch
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.end_to_end.oned import OWNER, ROOT, Driver, Place, aside
from tests.monitor.decoder import Line, Values, read_legacy, read_modern, start_monitor, vectors
from tests.waiting import HANG, until

_Result = TypeVar("_Result")

PROGRAM = ROOT / "bin" / "one_im_provider"

QUICK = {"state_period": 0.1, "vm_period": 0.1, "min_list_interval": 0.05}
"""A `[monitor]` that lists and reports ten times a second."""

INSTANT = {"boot_time": 0, "stop_time": 0, "suspend_time": 0, "destroy_time": 0, "watch_interval": 0.01}

TAKES = {"boot_time": 600, "stop_time": 600, "destroy_time": 600, "watch_interval": 0.05}
"""Transitions end only when Console.complete is called, however slow the machine is."""


def configure(
    place: Place,
    *,
    monitor: Mapping[str, object] = {},
    capacity: Mapping[str, object] = {},
    faults: Mapping[str, object] = {},
    **simulated: object,
) -> Path:
    """Write the configuration of a fast simulated cloud with short monitoring periods."""
    lines = ['provider = "simulated"', f'owner = "{OWNER}"', "[simulated]"]
    lines += _keys({**INSTANT, **simulated})
    for name, table in (("simulated.faults", faults), ("monitor", {**QUICK, **monitor}), ("capacity", capacity)):
        lines += [f"[{name}]", *_keys(table)] if table else []
    return place.configure("\n".join([*lines, ""]))


def _keys(table: Mapping[str, object]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items()]


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_keys(value)) + " }"
    return json.dumps(value)


class Monitored:
    """A running information driver, as its core sees it.

    Args:
        place: its OpenNebula.
        is_legacy: the core is oned of 5.10 or before.
        options: arguments of Driver.
    """

    def __init__(self, place: Place, *, is_legacy: bool = False, **options: Any) -> None:
        self.place = place
        self._read = read_legacy if is_legacy else read_modern
        self.driver = Driver(place, "simulated", **{"program": PROGRAM, **options})
        self.lines: list[Line] = []

    def send(self, line: bytes) -> None:
        self.driver.send(line)

    def start(self, host_id: int = 3, **periods: int) -> None:
        """Send START_MONITOR, and assert that it is answered."""
        self.send(start_monitor(host_id, f"cloud-{host_id}", **periods))
        answer = self.wait(lambda line: line.word == "START_MONITOR" and line.host_id == host_id)
        assert (answer.status, answer.text) == ("SUCCESS", "")

    def next(self, seconds: float = HANG) -> Line:
        """The next line."""
        try:
            line = self._read(self.driver.next_line(seconds).encode() + b"\n")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        self.lines.append(line)
        return line

    def wait(self, matches: Callable[[Line], bool], seconds: float = HANG) -> Line:
        """The next line that matches."""
        deadline = time.monotonic() + seconds
        while True:
            line = self.next(max(0.01, deadline - time.monotonic()))
            if matches(line):
                return line

    def message(self, word: str, host_id: int = 3, seconds: float = HANG) -> Line:
        """The next message of this kind about this host."""
        return self.wait(lambda line: (line.word, line.host_id) == (word, host_id), seconds)

    def system(self, host_id: int = 3, **wanted: str) -> Values:
        """The next SYSTEM_HOST with these values."""
        return self._next_with("SYSTEM_HOST", host_id, wanted)

    def figures(self, host_id: int = 3, **wanted: str) -> Values:
        """The next MONITOR_HOST with these values."""
        return self._next_with("MONITOR_HOST", host_id, wanted)

    def _next_with(self, word: str, host_id: int, wanted: Mapping[str, str]) -> Values:
        def matches(line: Line) -> bool:
            if (line.word, line.host_id, line.status) != (word, host_id, "SUCCESS"):
                return False
            return all(line.values.get(name) == [value] for name, value in wanted.items())

        return self.wait(matches).values

    def sync(self, host_id: int = 3, **wanted: str) -> dict[int, str]:
        """The next report of all VMs with these states of `vm<number>`: VM to state."""
        goal = {int(name.removeprefix("vm")): word for name, word in wanted.items()}

        def matches(line: Line) -> bool:
            is_sync = (line.word, line.host_id) == ("STATE_VM", host_id) and "SYNC_STATE" in line.values
            return is_sync and goal.items() <= states(line).items()

        return states(self.wait(matches))

    def change(self, host_id: int = 3, **wanted: str) -> dict[int, str]:
        """The next report of changed VMs with these states of `vm<number>`: VM to state."""
        goal = {int(name.removeprefix("vm")): word for name, word in wanted.items()}

        def matches(line: Line) -> bool:
            is_change = (line.word, line.host_id) == ("STATE_VM", host_id) and "SYNC_STATE" not in line.values
            return is_change and goal.items() <= states(line).items()

        return states(self.wait(matches))

    def next_lines(self, count: int) -> list[Line]:
        """The next `count` lines."""
        return [self.next() for _ in range(count)]

    def catch_up(self) -> None:
        """Read all lines that have arrived."""
        while not self.driver._queue.empty():
            self.next()

    def log(self) -> str:
        path = self.place.var / "one_im_provider_simulated.log"
        return path.read_text() if path.exists() else ""


def states(line: Line) -> dict[int, str]:
    """The states of a STATE_VM, by VM."""
    return {int(vm["ID"]): vm["STATE"] for vm in vectors(line.values, "VM")}


def hold(actions: Driver) -> None:
    """Stop an action driver while it holds no lock on the journal and the cloud, so that others can read them."""
    files = (actions.place.var / "one_provider_mad_simulated.journal", actions.place.var / "simulated.db")
    status = Path(f"/proc/{actions.process.pid}/status")

    def is_held() -> bool:
        actions.process.send_signal(signal.SIGSTOP)
        until(lambda: "State:\tT" in status.read_text())
        try:
            for file in files:
                with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as db:
                    db.execute("BEGIN EXCLUSIVE")
                    db.execute("ROLLBACK")
        except sqlite3.OperationalError:
            actions.process.send_signal(signal.SIGCONT)
            return False
        return True

    until(is_held)


@contextmanager
def monitored(place: Place, **options: Any) -> Iterator[Monitored]:
    """A running information driver; fails at the end if its log has an unexpected error."""
    one = Monitored(place, **options)
    try:
        yield one
    finally:
        one.driver.leave()
    defects = [entry for entry in one.log().splitlines() if "unexpected" in entry or "Traceback" in entry]
    assert not defects


class Console:
    """The cloud's own console, in which a person changes instances.

    Args:
        place: the OpenNebula whose drivers serve the cloud.
    """

    def __init__(self, place: Place) -> None:
        self._path = place.var / "simulated.db"

    def run(self, *, vm_id: int | None = None, host_id: int = 3, seq: int = 0, name: str = "") -> str:
        """Start an instance, with the tags of a VM or without."""
        identity = Identity(owner=OWNER, vm_id=VmId(vm_id or 0), stime=1_760_000_000, seq=seq, host_id=host_id)
        launch = Launch(type="small_256mb", image="web", name=name or f"one-{vm_id}")
        tags = {} if vm_id is None else identity.tags()
        return self._do(lambda cloud: cloud.launch(launch, tags=tags))

    def run_many(self, vm_ids: Iterable[int], *, host_id: int = 3) -> list[str]:
        """Start an instance for each of these VMs."""

        async def launch(cloud: Cloud) -> list[str]:
            identities = [
                Identity(owner=OWNER, vm_id=VmId(number), stime=1_760_000_000, seq=0, host_id=host_id)
                for number in vm_ids
            ]
            launches = [
                cloud.launch(Launch(type="small_256mb", image="web", name=f"one-{each.vm_id}"), tags=each.tags())
                for each in identities
            ]
            return list(await asyncio.gather(*launches))

        return self._do(launch)

    def stop(self, deploy_id: str) -> None:
        self._do(lambda cloud: cloud.stop(DeployId(deploy_id), hard=True))

    def start(self, deploy_id: str) -> None:
        self._do(lambda cloud: cloud.start(DeployId(deploy_id)))

    def suspend(self, deploy_id: str) -> None:
        self._do(lambda cloud: cloud.suspend(DeployId(deploy_id)))

    def terminate(self, deploy_id: str) -> None:
        self._do(lambda cloud: cloud.terminate(DeployId(deploy_id)))

    def complete(self) -> None:
        """End all transitions of instances."""
        with closing(sqlite3.connect(self._path, timeout=HANG)) as db, db:
            db.execute("UPDATE instance SET ends_at = 0")

    def drop_tags(self, deploy_id: str) -> None:
        self._do(lambda cloud: cloud.drop_tags(DeployId(deploy_id)))

    def tag(self, deploy_id: str, *, vm_id: int, host_id: int = 3) -> None:
        identity = Identity(owner=OWNER, vm_id=VmId(vm_id), stime=1_760_000_000, seq=0, host_id=host_id)
        self._do(lambda cloud: cloud.retag(DeployId(deploy_id), identity.tags()))

    def instances(self) -> list[Instance]:
        async def list_all(cloud: Cloud) -> list[Instance]:
            return list(await cloud.list_instances())

        return self._do(list_all)

    def _do(self, work: Callable[[Cloud], Awaitable[_Result]]) -> _Result:
        async def run() -> _Result:
            settings = SimulatedSettings(boot_time=0, stop_time=0, suspend_time=0, destroy_time=0)
            cloud = Cloud(self._path, settings, clock=time.time)
            await cloud.open()
            try:
                return await work(cloud)
            finally:
                await cloud.close()

        return aside(lambda: asyncio.run(run()))
