"""A front-end with probes, and the messages about a host while they run."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from one_provider_mad.monitor.cloud_source import ReportSettings
from one_provider_mad.monitor.probed_host import MessageSender
from one_provider_mad.monitor.probes import Probes
from one_provider_mad.monitor.settings import MonitorSettings
from one_provider_mad.options import Options
from one_provider_mad.protocol.im_messages import Kind, Message, Periods, StartMonitor
from one_provider_mad.settings import Places
from tests.waiting import until

DOCUMENT = b"<MONITOR_CONFIGURATION><NETWORK><PORT>4124</PORT></NETWORK></MONITOR_CONFIGURATION>"
HOURLY = Periods(**dict.fromkeys(msgspec.structs.asdict(Periods()), 3600))
MODERN = StartMonitor(host_id=3, host="us-east-1", im_mad="cloud", document=DOCUMENT, periods=HOURLY)

LONG = 1000
"""Characters beyond which a text is long, and may be held up in `Listener`."""

_PR_SET_CHILD_SUBREAPER = 36


class ProbedFrontEnd:
    """A front-end with probes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = Places(conf=root / "etc/one_provider_mad", var=root / "var", log=root / "var", etc=root / "etc")
        self.places.etc.mkdir()
        self.report_settings = ReportSettings(hypervisor="cloud", kind="scripts")
        self.warnings: list[str] = []
        self.now = 0.0

    def probe(self, path: str, text: str = "", *, mode: int = 0o755) -> Path:
        """Write a probe below remotes/im."""
        file = self.places.var / "remotes" / "im" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(mode)
        return file

    def settings(self, **monitor: float) -> None:
        self.report_settings = ReportSettings(hypervisor="cloud", kind="scripts", monitor=MonitorSettings(**monitor))  # type: ignore[arg-type]

    def probes(self, seconds: float | None = None, threads: int = 15) -> Probes:
        options = Options(name="cloud", timeout=seconds, threads=threads)
        return Probes(
            name=options.name,
            places=self.places,
            settings=lambda: self.report_settings,
            options=options,
            warn=self.warnings.append,
            clock=lambda: self.now,
        )


@contextmanager
def front_end(root: Path) -> Iterator[ProbedFrontEnd]:
    """A front-end; afterwards this process no longer adopts its orphans."""
    yield ProbedFrontEnd(root)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def without_error(text: str) -> list[str]:
    *lines, error = text.splitlines()
    assert error == 'PROVIDER_ERROR="-"'
    return lines


class Listener:
    """Collects messages.

    Attributes:
        said: messages so far, in order.
        waiting: kinds whose last message was not read yet.
        breaking: kinds for which `say` raises an exception.
        gate: while it is closed, the first long text is held up.
        is_holding: a long text is held up.
    """

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_holding = False
        self.waiting: set[Kind] = set()
        self.breaking: set[Kind] = set()

    def is_waiting(self, kind: Kind, host_id: int) -> bool:
        del host_id
        return kind in self.waiting

    def send(self, kind: Kind, host_id: int, text: str = "", *, is_success: bool = True) -> None:
        if kind in self.breaking:
            raise ZeroDivisionError
        self.said.append(Message(kind=kind, host_id=host_id, timestamp=0, text=text, is_success=is_success))

    async def send_long(self, kind: Kind, host_id: int, text: str) -> None:
        if len(text) > LONG and not self.gate.is_set() and not self.is_holding:
            self.is_holding = True
            await self.gate.wait()
        self.send(kind, host_id, text)


@asynccontextmanager
async def reporting(
    front: ProbedFrontEnd,
    request: StartMonitor = MODERN,
    *,
    probes: Probes | None = None,
    listener: MessageSender | None = None,
    on_reported: Callable[[], None] = lambda: None,
) -> AsyncIterator[list[Message]]:
    """The messages about a host while its probes run."""
    ours = Listener()
    task = asyncio.create_task((probes or front.probes()).report(request, listener or ours, on_reported))
    try:
        yield listener.said if isinstance(listener, Listener) else ours.said
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def come(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(until, condition)


def texts(said: list[Message], kind: Kind) -> list[str]:
    return [message.text for message in said if message.kind is kind]


def systems(said: list[Message]) -> list[str]:
    """SYSTEM_HOST texts of probes, without the first message, which is sent before they have run."""
    first, *rest = texts(said, Kind.SYSTEM_HOST) or [""]
    return rest if first == 'PROVIDER_ERROR="-"\n' else [first, *rest] if first else []
