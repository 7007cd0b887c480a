"""Starts the real program exactly as oned starts a driver, and talks to it over real pipes.

argv is the path and one packed element; fds 0 and 1 are pipes, fd 2 is closed; every signal is blocked; a descriptor
leaks; the working directory is the var directory (OpenNebula src/mad/Mad.cc, include/Driver.h).
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from one_provider_mad.cli.instances import collect
from tests.end_to_end.forked_driver import ForkedDriver
from tests.waiting import HANG

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "bin" / "one_vmm_provider"
OWNER = "one-test"


_Result = TypeVar("_Result")


def aside(work: Callable[[], _Result]) -> _Result:
    """Run in another thread a function that needs an event loop: pytest plugins keep theirs in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


class Place:
    """An OpenNebula directory of a test's own: `etc/one_provider_mad` and `var` under one ONE_LOCATION."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "etc" / "one_provider_mad"
        self.var = root / "var"
        self.conf.mkdir(parents=True, exist_ok=True)
        self.var.mkdir(exist_ok=True)

    def configure(self, text: str, *, name: str = "simulated") -> Path:
        """Write the configuration file of NAME."""
        path = self.conf / f"{name}.toml"
        path.write_text(text)
        path.chmod(0o600)
        return path

    def simulate(self, *faults: str, **settings: object) -> Path:
        """Write the configuration of a simulated cloud with these settings, and lines of `[simulated.faults]`."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += ["[simulated.faults]", *faults] if faults else []
        return self.configure("\n".join(['provider = "simulated"', f'owner = "{OWNER}"', "[simulated]", *lines, ""]))

    def instances(self, *, name: str = "simulated", is_all: bool = False) -> list[Mapping[str, Any]]:
        """The entries that `one-provider instances --json` shows now."""
        return aside(lambda: collect(name, {"ONE_LOCATION": str(self.root)}, is_all=is_all))

    def instances_in_cloud(self) -> list[tuple[Any, ...]]:
        """All rows of the simulated cloud's table of instances."""
        with closing(sqlite3.connect(self.var / "simulated.db")) as db:
            return db.execute("SELECT * FROM instance ORDER BY number").fetchall()

    def contexts(self, vm_id: int) -> list[str]:
        """The context that each instance of a VM in the simulated cloud got."""
        of_vm = "json_extract(tags, '$.ONE_PROVIDER_VM_ID') = ?"
        with closing(sqlite3.connect(self.var / "simulated.db")) as db:
            query = f"SELECT json_extract(hardware, '$.context') FROM instance WHERE {of_vm} ORDER BY number"
            return [row[0] for row in db.execute(query, (str(vm_id),))]

    def has_attempts(self, count: int = 1) -> bool:
        """True once the journal has so many attempts: from then on their creates may have been sent."""
        return len(self._journaled("SELECT token FROM attempts")) >= count

    def unanswered(self, *, name: str = "simulated") -> list[str]:
        """The actions of the unanswered requests in the journal."""
        return self._journaled("SELECT action FROM requests ORDER BY opened_at", name=name)

    def _journaled(self, query: str, *, name: str = "simulated") -> list[str]:
        path = self.var / f"one_provider_mad_{name}.journal"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                return [row[0] for row in db.execute(query)]
        except sqlite3.Error:
            return []  # the journal is being created

    def log(self, name: str = "simulated") -> str:
        """The driver's own log so far."""
        path = self.var / f"one_vmm_provider_{name}.log"
        return path.read_text() if path.exists() else ""

    def events(self, name: str = "simulated") -> list[dict[str, Any]]:
        """The complete entries of that log."""
        return [json.loads(entry) for entry in self.log(name).splitlines(keepends=True) if entry.endswith("\n")]

    def hits(self, fault: str) -> int:
        """The number of calls that this fault of the simulated cloud has hit."""
        return sum(event.get("fault") == fault for event in self.events())


@contextmanager
def as_oned_starts_drivers() -> Iterator[None]:
    """Processes that are started inside have every signal blocked and no fd 2."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.set_inheritable(2, False)  # noqa: FBT003 - os takes no keyword here
    try:
        yield
    finally:
        os.set_inheritable(2, True)  # noqa: FBT003
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


COVERAGE = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""Variables that make a process measure its coverage, which doubles the work of its start."""


class Driver:
    """One running driver.

    Args:
        place: its OpenNebula.
        arguments: ARGUMENTS of VM_MAD, one argv element; several for a caller that splits it, None for none.
        program: what to start.
        via: a command that starts it in place of the test.
        environ: added to a bare environment; None as a value removes a name.
        init: send INIT and wait for its answer.
        reading: read what it writes, from the beginning.
        stdin: a descriptor to use instead of a new pipe.
        stdout: the same.
        cwd: its working directory; oned's is the var directory.

    Attributes:
        is_measured: the coverage of drivers is measured in this test.
        is_forked: a fork server starts the programs of bin/ in this test (forked_driver.py).
    """

    is_measured = True
    is_forked = False

    def __init__(
        self,
        place: Place,
        arguments: str | Sequence[str] | None = "-t 15 -r 0 simulated",
        *,
        program: Path = PROGRAM,
        via: Sequence[str] = (),
        environ: Mapping[str, str | None] = {},
        init: bool = True,
        reading: bool = True,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        cwd: Path | None = None,
    ) -> None:
        names = ("PATH", "HOME", *(COVERAGE if self.is_measured else ()))
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment["ONE_LOCATION"] = str(place.root)
        for name, value in environ.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        leak = os.open(os.devnull, os.O_RDWR)
        is_forked = self.is_forked and not via and program.parent == PROGRAM.parent
        start: Callable[..., subprocess.Popen[bytes]] = ForkedDriver if is_forked else subprocess.Popen
        try:
            with nullcontext() if is_forked else as_oned_starts_drivers():
                self.process = start(
                    [*via, str(program), *([arguments] if isinstance(arguments, str) else arguments or [])],
                    stdin=stdin,
                    stdout=stdout,
                    cwd=cwd or place.var,
                    env=environment,
                    pass_fds=[leak],
                    bufsize=0,
                )
        finally:
            os.close(leak)
        self.started = time.monotonic()
        self.place = place
        self.lines: list[str] = []
        self.raw = bytearray()
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        if reading and self.process.stdout is not None:
            self.begin_reading()
        if init:
            self.send("INIT")
            assert self.next_line() == "INIT SUCCESS"

    def begin_reading(self) -> None:
        """Read what the driver writes, in a thread, as oned does."""
        self._wake, self._wake_end = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        descriptor, rest = self.process.stdout.fileno(), b""
        while True:
            ready, _, _ = select.select([descriptor, self._wake], [], [])
            data = os.read(descriptor, 65536) if descriptor in ready else b""
            if not data:
                break
            self.raw += data
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                self._queue.put(line.decode())
        self._queue.put(None)

    def stop_reading(self) -> None:
        """End the reading thread: a pipe that a thread reads from is not closed before that."""
        if self._thread is not None:
            os.write(self._wake_end, b"-")
            self._thread.join()
            os.close(self._wake)
            os.close(self._wake_end)
            self._thread = None

    def send(self, line: str | bytes) -> None:
        """Send one line."""
        data = line.encode() if isinstance(line, str) else line
        self.write(data if data.endswith(b"\n") else data + b"\n")

    def write(self, data: bytes) -> None:
        """Send bytes."""
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def next_line(self, seconds: float = HANG) -> str:
        """The next line that the driver writes; fails if none comes in time."""
        try:
            line = self._queue.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no line within {seconds} s; so far {self.lines}; log:\n{self.place.log()}") from None
        if line is None:
            raise AssertionError(f"the driver ended; so far {self.lines}; log:\n{self.place.log()}")
        self.lines.append(line)
        return line

    def wait_for(self, matches: Callable[[str], bool], seconds: float = HANG) -> str:
        """The next line that matches; others are kept in `lines`."""
        deadline = time.monotonic() + seconds
        while True:
            line = self.next_line(max(0.01, deadline - time.monotonic()))
            if matches(line):
                return line

    def reply(self, action: str, vm_id: int, seconds: float = HANG) -> str:
        """The next reply to this action of this VM: its result and the text after the id."""
        line = self.wait_for(lambda text: text.split(" ")[0::2][:2] == [action, str(vm_id)], seconds)
        words = line.split(" ", 3)
        return f"{words[1]} {words[3]}"

    def ask(self, line: str | bytes, seconds: float = HANG) -> str:
        """Send a request and wait for its reply: `SUCCESS …` or `FAILURE …`."""
        text = line.decode() if isinstance(line, bytes) else line
        words = text.split()
        self.send(line)
        return self.reply(words[0], int(words[1]), seconds)

    def created(self, line: bytes) -> str:
        """Send a DEPLOY that is to succeed, and return the deploy id."""
        result, deploy_id = self.ask(line).split(" ", 1)
        assert result == "SUCCESS", deploy_id
        return deploy_id

    def is_quiet(self) -> bool:
        """True if the next line is the reply to an unknown action, which is refused at once."""
        self.send("FROBNICATE  999 ")
        return self.next_line() == "FROBNICATE FAILURE 999 Action FROBNICATE not supported"

    def silence(self, seconds: float = 0.3) -> None:
        """Fail if the driver writes anything for so long."""
        try:
            line = self._queue.get(timeout=seconds)
        except queue.Empty:
            return
        raise AssertionError(f"unexpected: {line}")

    def rest(self, seconds: float = HANG) -> list[str]:
        """Everything until the driver closes its output."""
        found: list[str] = []
        deadline = time.monotonic() + seconds
        while True:
            line = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            if line is None:
                self.lines += found
                return found
            found.append(line)

    def finalize(self, seconds: float = HANG) -> int:
        """FINALIZE and the end of input, as a person's pipe ends; returns the exit code."""
        assert self.process.stdin is not None
        self.send("FINALIZE")
        self.process.stdin.close()
        return self.process.wait(seconds)

    def drop(self, seconds: float = HANG) -> int:
        """FINALIZE and both pipes closed at once, as oned ends a driver; returns the exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stop_reading()
        self.send("FINALIZE")
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(seconds)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def leave(self, seconds: float = 3.0) -> None:
        """Close both pipes, as oned does when it ends, and kill the driver if it does not end by itself."""
        self.stop_reading()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def replies(lines: Iterable[str]) -> list[str]:
    """The lines that answer requests."""
    return [line for line in lines if not line.startswith(("LOG ", "INIT "))]
