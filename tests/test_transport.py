from __future__ import annotations

import asyncio
import fcntl
import os
import random
import select
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from one_provider_mad import transport
from one_provider_mad.transport import Reader, Writer
from tests import waiting
from tests.waiting import HANG

PIPE = 1024 * 1024
"""The maximum capacity of a pipe, which the transport requests."""

PAGE = 4096
"""The kernel's unit of a pipe's capacity: lines of this length fill it to the last byte."""


class Pipe:
    """A pipe whose reading end a thread reads, once the test starts it.

    `lines` are the complete lines that were read.
    """

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.data = bytearray()
        self._thread: threading.Thread | None = None

    @property
    def lines(self) -> list[bytes]:
        *whole, rest = bytes(self.data).split(b"\n")
        assert rest == b"", "half a line"
        return whole

    def read_now(self) -> bytes:
        """Read the present content of the pipe, without waiting."""
        self.data += (piece := os.read(self.read_end, self.waiting()) if self.waiting() else b"")
        return piece

    def read_pages(self, count: int) -> None:
        """Read exactly `count` pages, waiting for each."""
        for _ in range(count):
            self.data += os.read(self.read_end, PAGE)

    def read_on(self) -> None:
        """Read from now on, in a thread, until the writing end is closed."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self.read_end, 65536):
            self.data += piece

    def waiting(self) -> int:
        """Bytes in the pipe."""
        return int.from_bytes(fcntl.ioctl(self.read_end, termios.FIONREAD, b"\0" * 4), "little")

    def is_full(self) -> bool:
        poll = select.poll()
        poll.register(self.write_end, select.POLLOUT)
        return not poll.poll(0)

    def finish(self) -> None:
        """Close the writing end and read everything."""
        os.close(self.write_end)
        self.write_end = -1
        if self._thread is None:
            self.read_on()
        assert self._thread is not None
        self._thread.join(HANG)
        assert not self._thread.is_alive()

    def break_(self) -> None:
        """Close the reading end."""
        os.close(self.read_end)
        self.read_end = -1

    def close(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
        if self._thread is not None:
            self._thread.join(HANG)
        if self.read_end >= 0:
            os.close(self.read_end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that a thread fulfils."""
    async with asyncio.timeout(HANG):
        while not condition():
            await asyncio.to_thread(threading.Event().wait, 0.002)


def an_open_writer(pipe: Pipe) -> Writer:
    writer = Writer(pipe.write_end)
    writer.dropped = lambda count: b"dropped %d\n" % count
    writer.open()
    return writer


async def stall(writer: Writer, pipe: Pipe) -> list[bytes]:
    """Fill the pipe, and send one page more, which a thread has to write; return the lines."""
    lines = [(b"filler %d " % number).ljust(PAGE - 1, b".") for number in range(PIPE // PAGE + 1)]
    for line in lines:
        writer.send(line + b"\n")
    await until(lambda: pipe.waiting() == PIPE)
    return lines


# Writing


async def test_a_line_is_written_within_one_turn_of_the_loop_while_the_pipe_is_read(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    written: list[str] = []
    writer.send(b"one\n", on_written=lambda: written.append("one"))
    await asyncio.sleep(0)
    assert (pipe.read_now(), written) == (b"one\n", ["one"])
    writer.log(b"two\n")
    assert pipe.read_now() == b"two\n"
    await writer.drained()


async def test_replies_of_one_turn_share_writes_that_are_each_atomic(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = an_open_writer(pipe)
    writes: list[bytes] = []
    write = os.write

    def noted(fd: int, data: bytes) -> int:
        writes.append(bytes(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", noted)
    lines = [b"%d " % number + b"x" * 1020 + b"\n" for number in range(9)]
    lines[5] = b"5 " + b"x" * PAGE + b"\n"
    for line in lines:
        writer.send(line)
    await writer.drained()
    assert writes == [b"".join(lines[:4]), lines[4], lines[5], b"".join(lines[6:])]


async def test_a_log_line_is_written_after_the_replies_before_it(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    writer.send(b"reply\n")
    writer.log(b"log\n")
    assert pipe.read_now() == b"reply\nlog\n"
    await writer.drained()


async def test_log_lines_of_callbacks_stay_in_order_while_the_thread_writes(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    write = os.write

    def late(fd: int, data: bytes) -> int:
        if threading.current_thread() is not threading.main_thread():
            may_write.wait(HANG)
        return write(fd, data)

    monkeypatch.setattr(os, "write", late)
    writer = an_open_writer(pipe)
    lines = [b"first", b"x" * (PAGE - 1), b"y" * 2 * PAGE, b"last"]
    writer.send(lines[0] + b"\n", on_written=lambda: writer.log(lines[2] + b"\n"))
    writer.send(lines[1] + b"\n", on_written=lambda: writer.log(lines[3] + b"\n"))
    await asyncio.sleep(0)
    may_write.set()
    await writer.drained()
    pipe.finish()
    assert pipe.lines == lines


async def test_a_flush_writes_replies_before_the_loops_next_turn(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    writer.send(b"last\n")
    writer.flush()
    assert pipe.read_now() == b"last\n"


async def test_lines_after_the_answer_to_init_wait_until_the_writer_is_opened(pipe: Pipe) -> None:
    writer = Writer(pipe.write_end)
    written: list[str] = []
    writer.log(b"log\n")
    writer.send(b"reply\n", on_written=lambda: written.append("reply"))
    assert pipe.read_now() == b""
    writer.send_first(b"INIT SUCCESS\n")
    assert pipe.read_now() == b"INIT SUCCESS\n"
    assert not written
    writer.open()
    assert pipe.read_now() == b"log\nreply\n"
    assert written == ["reply"]


async def test_the_pipe_is_enlarged_to_one_megabyte(pipe: Pipe) -> None:
    assert fcntl.fcntl(pipe.write_end, fcntl.F_GETPIPE_SZ) < PIPE
    Writer(pipe.write_end)
    assert fcntl.fcntl(pipe.write_end, fcntl.F_GETPIPE_SZ) == PIPE


async def test_replies_wait_for_a_stalled_reader_and_none_is_lost(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    lines = [b"reply %d %s" % (number, b"x" * 1000) for number in range(4000)]
    written: list[int] = []
    for number, line in enumerate(lines):
        writer.send(line + b"\n", on_written=lambda number=number: written.append(number))  # type: ignore[misc]
    await asyncio.sleep(0)
    assert 0 < len(written) < 2000, "the loop continues although no process reads"
    pipe.read_on()
    await writer.drained()
    pipe.finish()
    assert pipe.lines == lines
    assert written == list(range(4000))


async def test_on_written_is_called_only_after_the_reply_was_written(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    await stall(writer, pipe)
    written: list[str] = []
    writer.send(b"late\n", on_written=lambda: written.append("late"))
    await asyncio.to_thread(threading.Event().wait, 0.05)
    assert not written
    pipe.read_on()
    await writer.drained()
    assert written == ["late"]


@pytest.mark.parametrize("size", [4096, 4097, 65536, 3 * PIPE], ids=str)
async def test_a_long_line_arrives_whole_and_in_order(pipe: Pipe, size: int) -> None:
    writer = an_open_writer(pipe)
    lines = [b"before", b"x" * (size - 1), b"after"]
    for line in lines:
        writer.send(line + b"\n")
    pipe.read_on()
    await writer.drained()
    pipe.finish()
    assert pipe.lines == lines


async def test_lines_of_all_lengths_stay_whole_and_in_order(pipe: Pipe) -> None:
    chance = random.Random(7)  # the same every time
    lengths = [chance.choice([1, 40, 4095, 4096, 5000, 70_000, PIPE + 1]) for _ in range(150)]
    lines = [b"%d " % number + b"x" * length for number, length in enumerate(lengths)]
    writer = an_open_writer(pipe)
    pipe.read_on()
    for line in lines:
        writer.send(line + b"\n")
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    await writer.drained()
    pipe.finish()
    assert pipe.lines == lines


async def test_a_non_blocking_pipe_is_written_whole(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    os.set_blocking(pipe.write_end, False)
    lines = [b"x" * (2 * PIPE), b"y"]
    for line in lines:
        writer.send(line + b"\n")
    await until(lambda: pipe.waiting() >= PIPE - PAGE)
    pipe.read_on()
    await writer.drained()
    pipe.finish()
    assert pipe.lines == lines


async def test_writing_does_not_change_the_flags_of_the_descriptor(pipe: Pipe) -> None:
    before = fcntl.fcntl(pipe.write_end, fcntl.F_GETFL)
    writer = an_open_writer(pipe)
    await stall(writer, pipe)
    assert fcntl.fcntl(pipe.write_end, fcntl.F_GETFL) == before
    pipe.read_on()
    await writer.drained()


async def test_a_regular_file_is_written_like_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "out"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = Writer(descriptor)
    writer.open()
    for line in (b"one\n", b"x" * 10_000 + b"\n", b"three\n"):
        writer.send(line)
    await writer.drained()
    assert writer.is_read()
    os.close(descriptor)
    assert path.read_bytes().split() == [b"one", b"x" * 10_000, b"three"]


# LOG lines


@pytest.mark.parametrize("is_stalled_by_a_log", [False, True], ids=["by-a-reply", "by-a-log"])
async def test_old_log_lines_are_dropped_and_counted_while_the_reader_stalls(
    pipe: Pipe, *, is_stalled_by_a_log: bool
) -> None:
    writer = an_open_writer(pipe)
    if is_stalled_by_a_log:
        while not pipe.is_full():
            writer.send(b"filler".ljust(PAGE - 1, b".") + b"\n")
            writer.flush()
    else:
        await stall(writer, pipe)
    sent = 2500
    for number in range(sent):
        writer.log(b"log %d\n" % number)
        if number % 100 == 0:
            writer.send(b"reply %d\n" % number)
    pipe.read_on()
    await writer.drained()
    pipe.finish()
    logs = [int(line.split()[1]) for line in pipe.lines if line.startswith(b"log ")]
    replies = [int(line.split()[1]) for line in pipe.lines if line.startswith(b"reply ")]
    dropped = [int(line.split()[1]) for line in pipe.lines if line.startswith(b"dropped ")]
    assert replies == list(range(0, sent, 100)), "replies are never dropped"
    assert logs[-2000:] == list(range(sent - 2000, sent)), "the newest ones stay, in order"
    assert logs == sorted(logs)
    assert sum(dropped) == sent - len(logs), "dropped lines are counted"
    assert sum(dropped) > 400


class LogLine(bytes):
    """Bytes that count how many such objects are alive."""

    held = 0

    def __new__(cls, data: bytes) -> Self:
        cls.held += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        LogLine.held -= 1


async def test_dropped_log_lines_free_their_memory_while_the_reader_stalls(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    await stall(writer, pipe)
    for number in range(10_000):
        writer.log(LogLine(b"log %d\n" % number))
    assert LogLine.held <= 2001, "the newest ones, and perhaps one being written"
    pipe.read_on()
    await writer.drained()
    assert LogLine.held == 0


async def test_written_log_lines_are_not_counted_as_dropped(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    pipe.read_on()
    for number in range(5000):
        writer.log(b"log %d\n" % number)
        if number % 50 == 0:
            await writer.drained()
    await writer.drained()
    pipe.finish()
    assert len(pipe.lines) == 5000
    assert not [line for line in pipe.lines if line.startswith(b"dropped")]


async def test_writing_the_count_of_dropped_lines_does_not_block_the_loop(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader takes just enough that the waiting lines fill the pipe again."""
    monkeypatch.setattr(transport, "_LOG_BOUND", 3)
    writer = an_open_writer(pipe)
    await stall(writer, pipe)
    for number in range(5):
        writer.log((b"log %d " % number).ljust(PAGE - 1, b".") + b"\n")
    loop = asyncio.get_running_loop()
    was_blocked: list[bool] = []

    def read_slowly() -> None:
        is_alive = threading.Event()
        pipe.read_pages(4)
        waiting.until(pipe.is_full)
        for _ in range(20):  # until the loop has learnt of the last line, and long after
            loop.call_soon_threadsafe(is_alive.set)
            was_blocked.append(not is_alive.wait(HANG))
            is_alive.clear()
        pipe.read_on()

    slow = threading.Thread(target=read_slowly)
    slow.start()
    await writer.drained()
    slow.join()
    pipe.finish()
    assert not any(was_blocked)
    assert pipe.lines.count(b"dropped 2") == 1


def no_thread(_thread: threading.Thread) -> None:
    """Replaces Thread.start, as if a limit on processes or memory were reached."""
    raise RuntimeError("can't start new thread")


async def test_a_line_that_a_thread_has_to_write_needs_no_new_thread(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = an_open_writer(pipe)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    lines = [b"x" * (2 * PIPE), b"short", b"y" * PAGE]
    for line in lines:
        writer.send(line + b"\n")
    monkeypatch.undo()
    pipe.read_on()
    await writer.drained()
    pipe.finish()
    assert pipe.lines == lines


@pytest.mark.parametrize("size", [10, 2 * PAGE], ids=["at-once", "by-the-thread"])
async def test_later_lines_are_written_although_an_on_written_callback_fails(pipe: Pipe, size: int) -> None:
    def fail() -> None:
        raise OSError("the journal is closed")

    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    writer = an_open_writer(pipe)
    written: list[str] = []
    writer.send(b"x" * size + b"\n", on_written=fail)
    writer.send(b"second\n", on_written=lambda: written.append("second"))
    pipe.read_on()
    async with asyncio.timeout(HANG):
        await writer.drained()
    pipe.finish()
    assert (pipe.lines[1:], written) == ([b"second"], ["second"])
    assert [type(each) for each in errors] == [OSError]


# Broken pipes


async def test_writing_to_a_broken_pipe_raises_nothing(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    assert writer.is_read()
    pipe.break_()
    assert not writer.is_read()
    written: list[str] = []
    writer.send(b"one\n", on_written=lambda: written.append("one"))
    writer.log(b"two\n")
    writer.send(b"x" * 10_000 + b"\n", on_written=lambda: written.append("long"))
    writer.send_first(b"INIT SUCCESS\n")
    await writer.drained()
    assert not written
    assert not writer.is_read()


async def test_a_write_detects_a_broken_pipe(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    pipe.break_()
    writer.send(b"x" * 10_000 + b"\n")
    await writer.drained()
    assert not writer.is_read()


async def test_a_waiting_line_is_given_up_when_the_pipe_breaks(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    await stall(writer, pipe)
    written: list[str] = []
    writer.send(b"late\n", on_written=lambda: written.append("late"))
    pipe.break_()
    async with asyncio.timeout(HANG):
        await writer.drained()
    assert not written
    assert not writer.is_read()


async def test_a_closed_descriptor_counts_as_not_read(pipe: Pipe) -> None:
    writer = an_open_writer(pipe)
    os.close(pipe.write_end)
    pipe.write_end = -1
    assert not writer.is_read()
    writer.send(b"one\n")
    await writer.drained()


# Reading


class Intake:
    """Collects the data that a reader feeds, and notices the end."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ended = asyncio.Event()

    def feed(self, data: bytes) -> None:
        assert not self.ended.is_set(), "no data follows the end"
        self.pieces.append(data)
        if not data:
            self.ended.set()

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    async def whole(self) -> bytes:
        async with asyncio.timeout(HANG):
            await self.ended.wait()
        return self.data


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


async def test_data_from_a_pipe_is_fed_as_it_arrives(pipe: Pipe) -> None:
    intake = Intake()
    reader = Reader(pipe.read_end, intake.feed)
    reader.start()
    os.write(pipe.write_end, b"INIT\n")
    await until(lambda: intake.data == b"INIT\n")
    os.write(pipe.write_end, b"DEPLOY 7")
    await until(lambda: intake.data == b"INIT\nDEPLOY 7")
    os.close(pipe.write_end)
    pipe.write_end = -1
    assert await intake.whole() == b"INIT\nDEPLOY 7"
    assert intake.pieces.count(b"") == 1


async def test_twenty_megabytes_are_read_without_loss(pipe: Pipe) -> None:
    intake = Intake()
    Reader(pipe.read_end, intake.feed).start()
    assert fcntl.fcntl(pipe.read_end, fcntl.F_GETPIPE_SZ) == PIPE
    data = os.urandom(1024) * 20 * 1024
    await asyncio.to_thread(write_all, pipe.write_end, data)
    os.close(pipe.write_end)
    pipe.write_end = -1
    assert await intake.whole() == data


async def test_reading_does_not_change_the_flags_of_the_descriptor(pipe: Pipe) -> None:
    before = fcntl.fcntl(pipe.read_end, fcntl.F_GETFL)
    intake = Intake()
    reader = Reader(pipe.read_end, intake.feed)
    reader.start()
    assert fcntl.fcntl(pipe.read_end, fcntl.F_GETFL) == before
    reader.stop()
    assert fcntl.fcntl(pipe.read_end, fcntl.F_GETFL) == before


async def test_nothing_is_read_after_stopping(pipe: Pipe) -> None:
    intake = Intake()
    reader = Reader(pipe.read_end, intake.feed)
    reader.start()
    os.write(pipe.write_end, b"one")
    await until(lambda: intake.data == b"one")
    reader.stop()
    reader.stop()
    os.write(pipe.write_end, b"two")
    for _ in range(20):
        await asyncio.sleep(0)
    assert intake.data == b"one"
    assert pipe.waiting() == 3


@pytest.mark.parametrize("size", [0, 1, 3 * PIPE], ids=str)
async def test_a_regular_file_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "in"
    data = os.urandom(size)
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    intake = Intake()
    Reader(descriptor, intake.feed).start()
    assert await intake.whole() == data
    os.close(descriptor)


@pytest.mark.parametrize("path", ["/dev/null", "/"], ids=["null", "directory"])
async def test_reading_dev_null_or_a_directory_ends_at_once(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    intake = Intake()
    Reader(descriptor, intake.feed).start()
    assert await intake.whole() == b""
    os.close(descriptor)


async def test_a_read_error_counts_as_the_end(pipe: Pipe) -> None:
    intake = Intake()
    Reader(pipe.write_end, intake.feed).start()  # the wrong end: readable once it breaks, and then an error
    pipe.break_()
    assert await intake.whole() == b""


@pytest.mark.parametrize("is_file", [False, True], ids=["pipe", "file"])
async def test_a_read_is_repeated_after_a_memory_error(
    pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_file: bool
) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"DEPLOY 7\n")
    descriptor = os.open(path, os.O_RDONLY) if is_file else pipe.read_end
    os.write(pipe.write_end, b"DEPLOY 7\n")
    os.close(pipe.write_end)
    pipe.write_end = -1
    failures = [MemoryError(), MemoryError()]
    read = os.read

    def scarcely(fd: int, size: int) -> bytes:
        if fd == descriptor and failures:
            raise failures.pop()
        return read(fd, size)

    monkeypatch.setattr(os, "read", scarcely)
    intake = Intake()
    Reader(descriptor, intake.feed).start()
    assert await intake.whole() == b"DEPLOY 7\n"
    assert not failures
    if is_file:
        os.close(descriptor)


async def test_an_exception_in_feed_does_not_end_the_reading_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"DEPLOY 7\n")
    descriptor = os.open(path, os.O_RDONLY)
    fed: list[bytes] = []
    has_ended = asyncio.Event()

    def feed(data: bytes) -> None:
        fed.append(data)
        if not data:
            has_ended.set()
        raise KeyError("a defect")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    Reader(descriptor, feed).start()
    async with asyncio.timeout(HANG):
        await has_ended.wait()
    assert fed == [b"DEPLOY 7\n", b""]
    os.close(descriptor)


def test_the_loop_can_end_before_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"x" * PIPE)
    descriptor = os.open(path, os.O_RDONLY)
    is_fed = threading.Event()

    async def leave() -> None:
        Reader(descriptor, lambda _data: is_fed.set()).start()

    for _ in range(20):
        os.lseek(descriptor, 0, os.SEEK_SET)
        asyncio.run(leave())
    os.close(descriptor)
