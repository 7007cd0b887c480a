"""Reads standard input and writes standard output; no other module does.

Reading never stops: oned writes to its drivers with blocking writes (src/mad/Mad.cc, include/StreamManager.h), so a
driver that does not read stalls oned itself. No line is split over two writes: up to 5.12 oned takes a pause of more
than 25 ms inside a line for a crash of the driver (src/mad/MadManager.cc, listener).
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
"""Bytes per read: a dozen ordinary requests, so that the first ones start before the last ones are parsed."""

_PIPE = 1024 * 1024
"""Requested capacity of a pipe; ordinary users get no larger one (pipe(7), pipe-max-size)."""

_ATOMIC = 4096
"""PIPE_BUF: a write of at most this size does not block on a pipe that poll(2) calls writable."""

_LOG_BOUND = 2000
"""Most LOG lines that wait while oned does not read; beyond it the oldest is dropped. Replies are never dropped."""

_AGAIN_SECONDS = 0.1
"""Seconds until the next read after one for which there was no memory; the input stays in the pipe."""


class Reader:
    """Reads standard input in chunks of bytes.

    Args:
        fd: the descriptor.
        feed: called in the loop with each chunk, and once with b"" at the end.
    """

    def __init__(self, fd: int, feed: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._feed = feed
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Start reading; never blocks."""
        _enlarge(self._fd)
        try:
            # A ready descriptor does not block a read. It is not set non-blocking, since other processes that have it
            # open, such as a shell, share that flag.
            self._loop.add_reader(self._fd, self._on_readable)
        except OSError:
            # epoll does not support files (EPERM).
            threading.Thread(target=self._read_file, name="stdin", daemon=True).start()

    def stop(self) -> None:
        """Stop reading."""
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
        """Return the next chunk, b"" at the end; None when there is no memory for it."""
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
    """Writes whole lines to standard output, in order.

    Replies are written in the event loop's next turn, as many with one write as are written atomically: each write may
    wake oned. While the reader does not keep up, lines wait and a thread writes them, so that the loop never blocks.
    All replies wait, LOG lines up to a bound. The thread is started at the beginning, since a machine short of
    processes or memory may be unable to start it later.

    Args:
        fd: the descriptor.

    Attributes:
        dropped: returns the line that reports the number of dropped LOG lines.

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
        self._is_flush_due = False
        self._is_thread_writing = False
        self._handed: SimpleQueue[list[_Line]] = SimpleQueue()
        self._empty = asyncio.Event()
        self._empty.set()
        _enlarge(fd)
        threading.Thread(target=self._write_handed, name="stdout", daemon=True).start()

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        """Write a reply soon, and call `on_written` once it is written. Never blocks, never fails."""
        line = _Line(data, on_written, is_log=False)
        if self._held is not None:
            self._held.append(line)
            self._empty.clear()
            return
        self._add(line)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def log(self, data: bytes) -> None:
        """Write a LOG line, which may be dropped while the reader does not read."""
        line = _Line(data, None, is_log=True)
        self._logs.append(line)
        if len(self._logs) > _LOG_BOUND:
            oldest = self._logs.popleft()
            oldest.is_dropped, oldest.data = True, b""  # only its place in the queue is kept
            self._drops += 1
        self._add(line)
        self.flush()

    def send_first(self, data: bytes) -> None:
        """Write the answer to INIT before all waiting lines."""
        if not self._is_broken:
            self._write(data)

    def open(self) -> None:
        """Write waiting and later lines: until the first request none may follow INIT's answer (include/Driver.h)."""
        if not self._is_open:
            self._is_open = True
            self.flush()

    def hold_replies(self) -> None:
        """Hold replies, but not LOG lines, until `let_replies_go`: a reply may crash a starting core."""
        self._held = [] if self._held is None else self._held

    def let_replies_go(self) -> None:
        """Write the held replies in order, and no longer hold later ones."""
        held, self._held = self._held, None
        for line in held or ():
            self._add(line)
        self.flush()

    def is_read(self) -> bool:
        """Return False once the other end of the pipe is closed."""
        if not self._is_broken:
            self._is_broken = any(events & (select.POLLERR | select.POLLNVAL) for _, events in self._poll.poll(0))
        return not self._is_broken

    async def drained(self) -> None:
        """Return once all lines are written, or can never be."""
        await self._empty.wait()

    def flush(self) -> None:
        """Write the waiting lines that can be written without blocking, and have the thread write the next ones."""
        self._is_flush_due = False
        if not self._is_open or self._is_thread_writing:
            return
        if self._drops:
            count, self._drops = self._drops, 0
            self._lines.appendleft(_Line(self.dropped(count), None, is_log=False))
        while not self._is_thread_writing and (lines := self._take_lines()):
            data = _joined(lines)
            if not self._is_broken and (len(data) > _ATOMIC or not self._poll.poll(0)):
                self._is_thread_writing = True
                self._handed.put(lines)
            else:
                self._write(data)
                self._done(lines)
        if not (self._is_thread_writing or self._held):
            self._empty.set()

    def _add(self, line: _Line) -> None:
        self._lines.append(line)
        self._empty.clear()

    def _take_lines(self) -> list[_Line]:
        """Take the next lines that one atomic write can hold, or a longer line alone; none when no line waits."""
        lines: list[_Line] = []
        size = 0
        while self._lines and (not lines or size + len(self._lines[0].data) <= _ATOMIC):
            line = self._lines.popleft()
            if line.is_dropped:
                continue
            if line.is_log:
                self._logs.popleft()  # the same line: both queues have the same order
            lines.append(line)
            size += len(line.data)
        return lines

    def _done(self, lines: list[_Line]) -> None:
        for line in lines:
            if line.on_written is not None and not self._is_broken:
                self._call_back(line.on_written)

    def _call_back(self, on_written: Callable[[], None]) -> None:
        """Call `on_written`; its failure must not affect the line, which is written, or the lines after it."""
        try:
            on_written()
        except Exception as error:  # noqa: BLE001 - the loop's handler logs it
            self._loop.call_exception_handler({"message": "a written line was not recorded", "exception": error})

    def _write_handed(self) -> None:
        """Write the lines that the event loop hands over, until the process ends; runs in the thread."""
        while True:
            lines = self._handed.get()
            self._write(_joined(lines))
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._written, lines)
            del lines

    def _written(self, lines: list[_Line]) -> None:
        self._is_thread_writing = False
        self._done(lines)
        self.flush()

    def _write(self, data: bytes) -> None:
        while data and not self._is_broken:
            try:
                written = os.write(self._fd, data)
                data = data[written:] if written < len(data) else b""
            except BlockingIOError:
                # Another process made the shared description non-blocking: wait as a blocking write would.
                self._poll.poll()
            except OSError as error:
                if error.errno != errno.EINTR:
                    self._is_broken = True


def _joined(lines: list[_Line]) -> bytes:
    return b"".join([line.data for line in lines])


def _enlarge(fd: int) -> None:
    """Ask for a larger pipe, so that a whole line fits; other kinds of files are ignored."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
