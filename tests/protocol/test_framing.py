from __future__ import annotations

import sys
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.protocol.framing import HEAD, LIMIT, LineBuffer, Oversized
from tests.protocol.cases import FROM_DRIVER, FROM_ONED

SMALL = 256
PIECE = 64 * 1024


def lines_of(pieces: list[bytes], *, limit: int = LIMIT) -> list[bytes | Oversized]:
    """The lines that the buffer returns when the stream arrives in these pieces."""
    buffer = LineBuffer(limit)
    lines = [line for piece in pieces for line in buffer.feed(piece)]
    return lines + buffer.close()


@pytest.mark.parametrize(("value", "line"), FROM_ONED + FROM_DRIVER)
def test_a_line_fed_byte_by_byte_is_returned_whole(value: object, line: bytes) -> None:
    assert lines_of([bytes([byte]) for byte in line]) == [line.removesuffix(b"\n")]


@pytest.mark.parametrize(("value", "line"), FROM_ONED + FROM_DRIVER)
def test_an_unfinished_line_is_kept_until_its_line_end_arrives(value: object, line: bytes) -> None:
    buffer = LineBuffer()
    assert buffer.feed(line + b"POLL 4") == [line.removesuffix(b"\n")]
    assert buffer.feed(b"2 QQ==\n") == [b"POLL 42 QQ=="]
    assert buffer.close() == []


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n", [b""], id="empty-line"),
        pytest.param(b"\n\n", [b"", b""], id="empty-lines"),
        pytest.param(b"INIT\r\n", [b"INIT"], id="crlf"),
        pytest.param(b"INIT\r\r\n", [b"INIT\r"], id="only-one-carriage-return-is-the-line-end's"),
        pytest.param(b"a\rb\n", [b"a\rb"], id="carriage-return-inside"),
        pytest.param(b"INIT\nFINALIZE", [b"INIT", b"FINALIZE"], id="last-line-unterminated"),
        pytest.param(b"FINALIZE\r", [b"FINALIZE"], id="last-line-cut-inside-its-crlf"),
        pytest.param(b"a\x00b\n", [b"a\x00b"], id="nul"),
    ],
)
def test_a_stream_is_cut_at_its_line_ends(stream: bytes, lines: list[bytes]) -> None:
    assert lines_of([stream]) == lines
    assert lines_of([bytes([byte]) for byte in stream]) == lines


def test_an_unfinished_line_is_returned_once_at_the_end_of_the_stream() -> None:
    buffer = LineBuffer()
    buffer.feed(b"half a line")
    assert buffer.close() == [b"half a line"]
    assert buffer.close() == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize(("size", "limit"), [(1, 4 * HEAD), (PIECE, 2 * PIECE), (3 * PIECE, 2 * PIECE)])
def test_a_line_of_exactly_the_limit_is_returned_and_a_longer_one_is_oversized(
    size: int, limit: int, end: bytes
) -> None:
    for length, expected in [
        (limit, b"x" * limit),
        (limit + 1, Oversized(head=b"x" * HEAD, limit=limit)),
        (limit + 2, Oversized(head=b"x" * HEAD, limit=limit)),
    ]:
        stream = b"x" * length + end
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert lines_of(pieces, limit=limit) == [expected]


def test_a_line_of_sixteen_mebibytes_is_returned_whole() -> None:
    line = b"DEPLOY 42 " + b"A" * (LIMIT - 10)
    stream = line + b"\nINIT\n"
    pieces = [stream[start : start + PIECE] for start in range(0, len(stream), PIECE)]
    assert lines_of(pieces) == [line, b"INIT"]


def test_only_the_head_of_an_oversized_line_is_returned_and_the_next_line_is_read() -> None:
    pieces = [b"DEPLOY 42 ", *[b"A" * 100] * 10, b"\nINIT\n"]
    assert lines_of(pieces, limit=SMALL) == [
        Oversized(head=b"DEPLOY 42 " + b"A" * (HEAD - 10), limit=SMALL),
        b"INIT",
    ]


def test_an_oversized_line_is_returned_only_when_it_ends() -> None:
    buffer = LineBuffer(SMALL)
    assert buffer.feed(b"x" * 1000) == []
    assert buffer.feed(b"y" * 1000) == []
    assert buffer.feed(b"\n") == [Oversized(head=b"x" * HEAD, limit=SMALL)]


def test_an_oversized_line_is_returned_at_the_end_of_the_stream_too() -> None:
    assert lines_of([b"x" * 1000], limit=SMALL) == [Oversized(head=b"x" * HEAD, limit=SMALL)]


def test_the_bytes_of_an_oversized_line_are_not_kept() -> None:
    buffer = LineBuffer(PIECE)
    for _ in range(100):
        buffer.feed(b"x" * PIECE)
        assert sys.getsizeof(buffer._pending) <= 2 * PIECE


def test_a_limit_smaller_than_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        LineBuffer(255)


class ScannedBytes(bytes):
    """Bytes that count how many of them were scanned."""

    scanned = 0

    def split(self, *args: Any) -> list[bytes]:
        ScannedBytes.scanned += len(self)
        return super().split(*args)

    def find(self, *args: Any) -> int:
        raise AssertionError("a second scan of the same bytes")

    __contains__ = index = count = splitlines = partition = find  # type: ignore[assignment]


class UnscannedBuffer(bytearray):
    """A buffer of waiting bytes that may be appended to, but not searched."""

    def find(self, *args: Any) -> int:
        raise AssertionError("the waiting bytes are searched again")

    __contains__ = index = count = split = splitlines = partition = find  # type: ignore[assignment]


@pytest.mark.parametrize(("size", "total"), [(1, PIECE), (PIECE, LIMIT)], ids=["byte-by-byte", "pipe-by-pipe"])
def test_only_newly_fed_bytes_are_scanned_for_line_ends(size: int, total: int) -> None:
    buffer = LineBuffer()
    waiting = buffer._pending = UnscannedBuffer()
    ScannedBytes.scanned = 0
    moves, allocated = 0, sys.getsizeof(waiting)
    for _ in range(total // size):
        assert buffer.feed(ScannedBytes(b"x" * size)) == []
        assert buffer._pending is waiting  # appended to in place, not copied
        moves += sys.getsizeof(waiting) != allocated
        allocated = sys.getsizeof(waiting)
    assert ScannedBytes.scanned == total
    assert moves < 120  # the buffer grows by an eighth at a time
    assert buffer.feed(b"\n") == [b"x" * total]


@given(
    stream=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"x", b"x" * 200]) | st.binary(), max_size=30),
    cut=st.data(),
)
def test_the_same_lines_are_returned_however_the_stream_is_cut_into_pieces(
    stream: list[bytes], cut: st.DataObject
) -> None:
    whole = b"".join(stream)
    at = sorted(cut.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    pieces = [whole[start:end] for start, end in zip([0, *at], [*at, len(whole)], strict=True)]
    assert lines_of(pieces, limit=SMALL) == lines_of([whole], limit=SMALL) == lines_of(stream, limit=SMALL)


@given(stream=st.binary())
def test_below_the_limit_all_bytes_but_line_ends_are_returned(stream: bytes) -> None:
    expected = [line.removesuffix(b"\r") for line in stream.split(b"\n")]
    if not stream or stream.endswith(b"\n"):
        expected.pop()
    assert lines_of([stream]) == expected


class OutOfMemory(bytearray):
    """The beginning of a line that cannot grow or be copied, since memory is exhausted."""

    def __iadd__(self, piece: object) -> Self:
        raise MemoryError

    def __bytes__(self) -> bytes:
        raise MemoryError


NO_MEMORY = "the driver has too little memory to read a request line of this length"


def test_a_line_that_memory_cannot_hold_keeps_its_head_and_the_next_line_is_read() -> None:
    buffer = LineBuffer(SMALL)
    buffer._pending = OutOfMemory(b"DEPLOY 42 AA")
    assert buffer.feed(b"AAAA") == []
    assert buffer.feed(b"AAAA\nINIT\n") == [
        Oversized(head=b"DEPLOY 42 AAAAAA", limit=SMALL, trouble=NO_MEMORY),
        b"INIT",
    ]


def test_a_line_that_memory_cannot_hold_a_copy_of_keeps_its_head() -> None:
    buffer = LineBuffer(SMALL)
    buffer._pending = OutOfMemory(b"DEPLOY 42 AAAA")
    (line,) = buffer.close()
    assert line == Oversized(head=b"DEPLOY 42 AAAA", limit=SMALL, trouble=NO_MEMORY)
    assert isinstance(line, Oversized)
    assert line.reason == NO_MEMORY
    assert buffer.close() == []
