"""Standard input and output: the only file that touches them.

Reading never stops, whatever the rest is doing: oned writes to its drivers with blocking writes (src/mad/Mad.cc,
include/StreamManager.h), so a driver that does not read stalls oned itself. Writing is one `write` a line, whole: up to
5.12 oned takes a pause of more than 25 ms inside a line for a crash (src/mad/MadManager.cc, listener).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

_CHUNK = 64 * 1024
"""Bytes read at once: a dozen ordinary requests, so that the first ones start before the last ones are parsed."""

_PIPE = 1024 * 1024
"""What a pipe is asked to hold; more is not granted to ordinary users (pipe(7), pipe-max-size)."""

_ATOMIC = 4096
"""PIPE_BUF: a write of up to so many bytes does not block on a pipe that poll(2) calls writable."""

_LOG_BOUND = 2000
"""LOG lines kept for a reader that does not read; older ones go first. Replies are kept without bound."""

_AGAIN_SECONDS = 0.1
"""How long to wait for memory to read into; what is not read stays in the pipe."""


class Reader:
    """Standard input as chunks of bytes.

    Args:
        fd: the descriptor.
        feed: takes each chunk; called in the loop; b"" once, at the end.
    """

    def __init__(self, fd: int, feed: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._feed = feed
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin to read; never blocks."""
        _enlarge(self._fd)
        try:
            # Readiness, then one blocking read that cannot block: the descriptor's flags are shared with whoever else
            # has it open (a shell, say), so it is not made non-blocking.
            self._loop.add_reader(self._fd, self._on_readable)
        except OSError:
            # Files cannot be waited for with epoll (EPERM).
            threading.Thread(target=self._read_file, name="stdin", daemon=True).start()

    def stop(self) -> None:
        """Read no more."""
        with contextlib.suppress(OSError, ValueError):
            self._loop.remove_reader(self._fd)

    def _on_readable(self) -> None:
        data = self._read()
        if not data:
            self.stop()
        if data is None:
            self._loop.call_later(_AGAIN_SECONDS, self.start)
        else:
            self._feed(data)

    def _read(self) -> bytes | None:
        """Read a piece, b"" at the end; None when there is no memory to read it into."""
        try:
            return os.read(self._fd, _CHUNK)
        except MemoryError:
            return None
        except OSError:
            return b""  # a broken terminal or socket is an end like any other

    def _read_file(self) -> None:
        data: bytes | None = b"-"
        while data != b"":
            data = self._read()
            taken = threading.Event()
            if data is None:
                taken.wait(_AGAIN_SECONDS)
                continue
            try:
                self._loop.call_soon_threadsafe(self._take, data, taken)
            except RuntimeError:
                return  # the loop is closed
            taken.wait()

    def _take(self, data: bytes, taken: threading.Event) -> None:
        try:
            self._feed(data)
        finally:
            taken.set()


class _Line:
    __slots__ = ("data", "is_dropped", "is_log", "on_written")

    def __init__(self, data: bytes, on_written: Callable[[], None] | None, *, is_log: bool) -> None:
        self.data = data
        self.on_written = on_written
        self.is_log = is_log
        self.is_dropped = False


class Writer:
    """Standard output as whole lines, in order.

    A line is written at once while the reader keeps up. When it does not, lines wait and a thread writes them, so that
    the loop never blocks; replies all wait, LOG lines up to a bound. The thread is there from the beginning: a machine
    that is short of processes or memory may start none just when it is needed.

    Args:
        fd: the descriptor.

    Attributes:
        dropped: makes the line that says how many LOG lines were dropped.

    Raises:
        RuntimeError: the thread cannot be started.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.dropped: Callable[[int], bytes] = lambda _count: b""
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._lines: deque[_Line] = deque()
        self._logs: deque[_Line] = deque()
        self._drops = 0
        self._is_open = False
        self._is_broken = False
        self._held: list[_Line] | None = None
        self._thread_line: _Line | None = None
        self._handed: SimpleQueue[_Line] = SimpleQueue()
        self._empty = asyncio.Event()
        self._empty.set()
        _enlarge(fd)
        threading.Thread(target=self._write_handed, name="stdout", daemon=True).start()

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        """Write a reply; `on_written` is called once it is on its way to the reader. Never blocks, never fails."""
        if self._held is not None:
            self._held.append(_Line(data, on_written, is_log=False))
            self._empty.clear()
            return
        if not self._keeps_up(data):
            self._add(_Line(data, on_written, is_log=False))
            return
        self._write(data)
        if on_written is not None and not self._is_broken:
            self._tell(on_written)

    def _keeps_up(self, data: bytes) -> bool:
        """True when nothing waits and the reader takes this line at once: so it is nearly always."""
        is_idle = self._is_open and not self._lines and self._thread_line is None and not self._is_broken
        return is_idle and len(data) <= _ATOMIC and bool(self._poll.poll(0))

    def log(self, data: bytes) -> None:
        """Write a LOG line, which may be dropped while nobody reads."""
        line = _Line(data, None, is_log=True)
        self._logs.append(line)
        if len(self._logs) > _LOG_BOUND:
            oldest = self._logs.popleft()
            oldest.is_dropped, oldest.data = True, b""  # its place in the queue is all that is kept of it
            self._drops += 1
        self._add(line)

    def send_first(self, data: bytes) -> None:
        """Write the answer to INIT, in front of everything that waits."""
        if not self._is_broken:
            self._write(data)

    def open(self) -> None:
        """Let lines through: until the first request after INIT nothing may follow its answer (include/Driver.h)."""
        if not self._is_open:
            self._is_open = True
            self._flush()

    def hold_replies(self) -> None:
        """Keep replies, but not LOG lines, until `let_replies_go`: a core that is starting may die of one."""
        self._held = [] if self._held is None else self._held

    def let_replies_go(self) -> None:
        """Write the replies that were kept, in order, and every later one as it comes."""
        held, self._held = self._held, None
        for line in held or ():
            self._add(line)

    def is_read(self) -> bool:
        """False once nobody has the other end open any more."""
        if not self._is_broken:
            self._is_broken = any(events & (select.POLLERR | select.POLLNVAL) for _, events in self._poll.poll(0))
        return not self._is_broken

    async def drained(self) -> None:
        """Return when everything was written, or can never be."""
        await self._empty.wait()

    def _add(self, line: _Line) -> None:
        self._lines.append(line)
        self._empty.clear()
        self._flush()

    def _flush(self) -> None:
        """Write what can be written without blocking; leave the rest to a thread."""
        if not self._is_open or self._thread_line is not None:
            return
        if self._drops:
            count, self._drops = self._drops, 0
            self._lines.appendleft(_Line(self.dropped(count), None, is_log=False))
        while self._lines:
            line = self._lines.popleft()
            if line.is_dropped:
                continue
            if line.is_log:
                self._logs.popleft()  # the oldest: they are in the same order here and there
            if not self._is_broken and (len(line.data) > _ATOMIC or not self._poll.poll(0)):
                self._write_in_thread(line)
                return
            self._write(line.data)
            self._done(line)
        if not self._held:
            self._empty.set()

    def _done(self, line: _Line) -> None:
        if line.on_written is not None and not self._is_broken:
            self._tell(line.on_written)

    def _tell(self, on_written: Callable[[], None]) -> None:
        """Call back; a failure there is not the line's, which is written, nor that of the lines behind it."""
        try:
            on_written()
        except Exception as error:  # noqa: BLE001 - the loop's handler logs it
            self._loop.call_exception_handler({"message": "a written line was not noted", "exception": error})

    def _write_in_thread(self, line: _Line) -> None:
        self._thread_line = line
        self._handed.put(line)

    def _write_handed(self) -> None:
        """Write what the loop hands over, for as long as the process lives."""
        while True:
            line = self._handed.get()
            self._write(line.data)
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._written, line)
            del line

    def _written(self, line: _Line) -> None:
        self._thread_line = None
        self._done(line)
        self._flush()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._is_broken:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Somebody else made the shared description non-blocking: wait as a blocking write would.
                self._poll.poll()
            except OSError as error:
                if error.errno != errno.EINTR:
                    self._is_broken = True


def _enlarge(fd: int) -> None:
    """Ask for a larger pipe, so that a whole line fits; whatever is no pipe stays as it is."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
