"""Reads standard input and writes standard output; no other module does.

Reading never stops: oned writes to its drivers with blocking writes (src/mad/Mad.cc, include/StreamManager.h), so a
driver that does not read stalls oned itself. Each line is written with one `write`: up to 5.12 oned takes a pause of
more than 25 ms inside a line for a crash of the driver (src/mad/MadManager.cc, listener).
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

    A line is written at once while the reader keeps up. Otherwise lines wait and a thread writes them, so that the loop
    never blocks; all replies wait, LOG lines up to a bound. The thread is started at the beginning, since a machine
    short of processes or memory may be unable to start it later.

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
        self._thread_line: _Line | None = None
        self._handed: SimpleQueue[_Line] = SimpleQueue()
        self._empty = asyncio.Event()
        self._empty.set()
        _enlarge(fd)
        threading.Thread(target=self._write_handed, name="stdout", daemon=True).start()

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        """Write a reply, and call `on_written` once it is written. Never blocks, never fails."""
        if self._held is not None:
            self._held.append(_Line(data, on_written, is_log=False))
            self._empty.clear()
            return
        if not self._keeps_up(data):
            self._add(_Line(data, on_written, is_log=False))
            return
        self._write(data)
        if on_written is not None and not self._is_broken:
            self._call_back(on_written)

    def _keeps_up(self, data: bytes) -> bool:
        """Return True when no line waits and this one can be written at once, the usual case."""
        is_idle = self._is_open and not self._lines and self._thread_line is None and not self._is_broken
        return is_idle and len(data) <= _ATOMIC and bool(self._poll.poll(0))

    def log(self, data: bytes) -> None:
        """Write a LOG line, which may be dropped while the reader does not read."""
        line = _Line(data, None, is_log=True)
        self._logs.append(line)
        if len(self._logs) > _LOG_BOUND:
            oldest = self._logs.popleft()
            oldest.is_dropped, oldest.data = True, b""  # only its place in the queue is kept
            self._drops += 1
        self._add(line)

    def send_first(self, data: bytes) -> None:
        """Write the answer to INIT before all waiting lines."""
        if not self._is_broken:
            self._write(data)

    def open(self) -> None:
        """Write waiting and later lines: until the first request none may follow INIT's answer (include/Driver.h)."""
        if not self._is_open:
            self._is_open = True
            self._flush()

    def hold_replies(self) -> None:
        """Hold replies, but not LOG lines, until `let_replies_go`: a reply may crash a starting core."""
        self._held = [] if self._held is None else self._held

    def let_replies_go(self) -> None:
        """Write the held replies in order, and every later one at once."""
        held, self._held = self._held, None
        for line in held or ():
            self._add(line)

    def is_read(self) -> bool:
        """Return False once the other end of the pipe is closed."""
        if not self._is_broken:
            self._is_broken = any(events & (select.POLLERR | select.POLLNVAL) for _, events in self._poll.poll(0))
        return not self._is_broken

    async def drained(self) -> None:
        """Return once all lines are written, or can never be."""
        await self._empty.wait()

    def _add(self, line: _Line) -> None:
        self._lines.append(line)
        self._empty.clear()
        self._flush()

    def _flush(self) -> None:
        """Write the lines that can be written without blocking; hand the next one to the thread."""
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
                self._logs.popleft()  # the same line: both queues have the same order
            if not self._is_broken and (len(line.data) > _ATOMIC or not self._poll.poll(0)):
                self._write_in_thread(line)
                return
            self._write(line.data)
            self._done(line)
        if not self._held:
            self._empty.set()

    def _done(self, line: _Line) -> None:
        if line.on_written is not None and not self._is_broken:
            self._call_back(line.on_written)

    def _call_back(self, on_written: Callable[[], None]) -> None:
        """Call `on_written`; its failure must not affect the line, which is written, or the lines after it."""
        try:
            on_written()
        except Exception as error:  # noqa: BLE001 - the loop's handler logs it
            self._loop.call_exception_handler({"message": "a written line was not recorded", "exception": error})

    def _write_in_thread(self, line: _Line) -> None:
        self._thread_line = line
        self._handed.put(line)

    def _write_handed(self) -> None:
        """Write the lines that the event loop hands over, until the process ends; runs in the thread."""
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


def _enlarge(fd: int) -> None:
    """Ask for a larger pipe, so that a whole line fits; other kinds of files are ignored."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
