"""An information driver in virtual time: a request handler, a sweeper and a fake cloud."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from one_provider_mad.domain import DeployId, InstanceState, Usage
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.cloud_source import OpenCloud, ProbeSource, ReportSettings
from one_provider_mad.monitor.host_attributes import HostAttributes
from one_provider_mad.monitor.requests import RequestHandler
from one_provider_mad.monitor.sender import Stamps
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings
from one_provider_mad.monitor.sweep import Sweeper
from one_provider_mad.protocol.im import parse_line
from one_provider_mad.protocol.im_messages import Monitor, StartMonitor, StopMonitor, Unreadable
from tests.actions.fakes import FakeCloud, virtual_clock
from tests.monitor.builders import OWNER, identity_of
from tests.monitor.decoder import Line, monitor, read_legacy, read_modern, start_monitor, stop_monitor, vectors


class FakeSource:
    """Pretends to be the configuration: one cloud, or an error if one is set.

    Args:
        provider: the cloud.
        journal: path of the action driver's journal.
        monitor: the table `[monitor]`.
        capacity: the table `[capacity]`.
    """

    def __init__(
        self,
        provider: FakeCloud,
        journal: Path,
        *,
        monitor: MonitorSettings | None = None,
        capacity: CapacitySettings | None = None,
    ) -> None:
        self.error: MadError | None = None
        self.settings = ReportSettings(
            hypervisor="fake",
            kind="fake",
            monitor=monitor or MonitorSettings(),
            capacity=capacity or CapacitySettings(),
        )
        self.watched = OpenCloud(provider=provider, owner=OWNER, call_timeout=60.0, journal=journal)
        self.probe_source: ProbeSource | None = None

    def report_settings(self) -> ReportSettings:
        return self.settings

    def probes(self) -> ProbeSource | None:
        return self.probe_source

    async def current(self) -> OpenCloud:
        if self.error is not None:
            raise self.error
        return self.watched


class VirtualDriver:
    """A request handler, with the lines it writes in a list beside the time at which they were written.

    Args:
        path: directory of the journal.
        provider: the cloud.
        clock: seconds since the epoch; the loop's time by default.
        host_attributes: tells what to write of HOSTNAME, PRIORITY and VERSION.
        monitor: settings of `[monitor]`.
    """

    def __init__(
        self,
        path: Path,
        provider: FakeCloud | None = None,
        *,
        clock: Callable[[], float] | None = None,
        host_attributes: HostAttributes | None = None,
        **monitor: Any,
    ) -> None:
        self.cloud = provider or FakeCloud()
        self.source = FakeSource(self.cloud, path / "journal", monitor=MonitorSettings(**monitor))
        self.clock = clock or virtual_clock()
        self.sweeper = Sweeper(self.source, clock=self.clock)
        self.said: list[tuple[float, Line]] = []
        self.is_read = True
        self.unread: list[Callable[[], None]] = []
        self.handler = RequestHandler(
            sweeper=self.sweeper,
            source=self.source,
            output=self,
            stamps=Stamps(self.clock),
            host_attributes=host_attributes,
        )
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()

    # The output that the request handler writes to

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        is_legacy = data.startswith((b"MONITOR SUCCESS", b"MONITOR FAILURE", b"STOPMONITOR"))
        self.said.append((self._loop.time() - self._begun, (read_legacy if is_legacy else read_modern)(data)))
        if on_written is not None:
            self.unread.append(on_written)
        if self.is_read:
            self.read()

    def read(self) -> None:
        """Let OpenNebula read everything that was written."""
        unread, self.unread = self.unread, []
        for on_written in unread:
            on_written()

    def log(self, data: bytes) -> None:
        self.send(data)

    # The core, which writes to the request handler

    def tell(self, line: bytes) -> None:
        request = parse_line(line.rstrip(b"\n"))
        assert isinstance(request, Monitor | StartMonitor | StopMonitor | Unreadable)
        self.handler.accept(request)

    def start(self, host_id: int = 3, **periods: int) -> None:
        self.tell(start_monitor(host_id, f"cloud-{host_id}", **periods))

    def stop(self, host_id: int = 3) -> None:
        self.tell(stop_monitor(host_id))

    def ask(self, host_id: int = 3) -> None:
        self.tell(monitor(host_id))

    # The cloud

    def add(self, vm_id: int, state: InstanceState = InstanceState.RUNNING, *, host_id: int = 3) -> DeployId:
        """Let the instance of a VM exist."""
        deploy_id = self.cloud.add(identity_of(vm_id, host_id=host_id), state, deploy_id=f"i-{vm_id}")
        self.cloud.instances[deploy_id].usage = Usage(cpu=10.0, memory=1024)
        return deploy_id

    def set_state(self, vm_id: int, state: InstanceState) -> None:
        self.cloud.instances[DeployId(f"i-{vm_id}")].state = state

    # Lines written so far

    def times(self, word: str, host_id: int = 3) -> list[float]:
        """The times at which such messages about a host were written, in seconds since the beginning."""
        return [round(at, 3) for at, line in self.said if (line.word, line.host_id) == (word, host_id)]

    def lines(self, word: str, host_id: int = 3) -> list[Line]:
        return [line for _, line in self.said if (line.word, line.host_id) == (word, host_id)]

    def syncs(self, host_id: int = 3) -> list[tuple[float, dict[int, str]]]:
        """Reports of all VMs, with the times at which they were written."""
        return [(at, said) for at, said, is_sync in self.states(host_id) if is_sync]

    def changes(self, host_id: int = 3) -> list[tuple[float, dict[int, str]]]:
        """Reports of changed VMs, with the times at which they were written."""
        return [(at, said) for at, said, is_sync in self.states(host_id) if not is_sync]

    def states(self, host_id: int = 3) -> list[tuple[float, dict[int, str], bool]]:
        found = [(at, line) for at, line in self.said if (line.word, line.host_id) == ("STATE_VM", host_id)]
        return [
            (
                round(at, 3),
                {int(vm["ID"]): vm["STATE"] for vm in vectors(line.values, "VM")},
                "SYNC_STATE" in line.values,
            )
            for at, line in found
        ]

    def set(self, **monitor: Any) -> None:
        """Change settings of `[monitor]`."""
        changed = msgspec.structs.replace(self.source.settings.monitor, **monitor)
        self.source.settings = msgspec.structs.replace(self.source.settings, monitor=changed)
