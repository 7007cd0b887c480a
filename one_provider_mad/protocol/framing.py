"""Bytes as the pipe delivers them -> whole lines, each bounded."""

from __future__ import annotations

from one_provider_mad.domain import Value

LIMIT = 16 * 1024 * 1024
"""Longest line in bytes. oned sets no bound; a DEPLOY with a large context is well above the pipe's 64 KiB."""

HEAD = 256
"""How much is kept of a line that is too long: enough for the action and the id, so that it can be answered."""


class Oversized(Value, frozen=True, kw_only=True):
    """A line that was longer than the limit; its bytes are gone.

    Attributes:
        head: its first 256 bytes.
        limit: the limit it broke, in bytes.
    """

    head: bytes
    limit: int = LIMIT


class LineBuffer:
    """Cuts a stream into lines: the same lines in whatever pieces the stream arrives, in time linear in its length.

    Args:
        limit: longest line in bytes, without its line end; at least 256.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < HEAD:
            raise ValueError(f"a line limit below {HEAD} bytes leaves no room for the head of a line")
        self._limit = limit
        self._pending = bytearray()
        self._head: bytes | None = None

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        r"""Take the next bytes and return the lines they complete, without `\n` or `\r\n`."""
        first, *others = data.split(b"\n")
        if not others:
            self._keep(first)
            return []
        rest = others.pop()
        lines = [self._finish(first), *map(self._bounded, others)]
        self._keep(rest)
        return lines

    def close(self) -> list[bytes | Oversized]:
        """Return what stood after the last line end, if anything did: the stream is over."""
        return [self._take()] if self._is_inside_a_line() else []

    def _is_inside_a_line(self) -> bool:
        return bool(self._pending) or self._head is not None

    def _finish(self, piece: bytes) -> bytes | Oversized:
        if not self._is_inside_a_line():
            return self._bounded(piece)
        self._keep(piece)
        return self._take()

    def _keep(self, piece: bytes) -> None:
        if self._head is not None:
            return
        # One byte above the limit may still be the \r of a line end; two cannot.
        if len(self._pending) + len(piece) > self._limit + 1:
            self._head = bytes(self._pending[:HEAD] + piece[:HEAD])[:HEAD]
            self._pending.clear()
        else:
            self._pending += piece

    def _take(self) -> bytes | Oversized:
        head, self._head = self._head, None
        if head is not None:
            return Oversized(head=head, limit=self._limit)
        line = bytes(self._pending)
        self._pending.clear()
        return self._bounded(line)

    def _bounded(self, line: bytes) -> bytes | Oversized:
        line = line.removesuffix(b"\r")
        return line if len(line) <= self._limit else Oversized(head=line[:HEAD], limit=self._limit)
