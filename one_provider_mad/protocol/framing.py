"""Cuts the bytes from a pipe into whole lines of bounded length."""

from __future__ import annotations

from one_provider_mad.domain import Value

LIMIT = 16 * 1024 * 1024
"""Longest request line in bytes; a longer one is answered with FAILURE. oned sets no bound, and a DEPLOY with a large
context has well over 64 KiB."""

HEAD = 256
"""Number of bytes kept of a line that is too long: its action and VM ID are there, so that it can be answered."""

_NO_MEMORY = "the driver has too little memory to read a request line of this length"


class Oversized(Value, frozen=True, kw_only=True):
    """A line that was longer than the limit, or too long for the memory; only its first bytes are kept.

    Attributes:
        head: the line's first 256 bytes.
        limit: the longest line that is read, in bytes.
        trouble: why the line could not be read, "" if it exceeded the limit.
    """

    head: bytes
    limit: int = LIMIT
    trouble: str = ""

    @property
    def reason(self) -> str:
        """Why the line was not read, as the text of its FAILURE."""
        return self.trouble or f"the request line is longer than {self.limit} bytes"


class LineBuffer:
    """Cuts a stream of bytes into lines, however it is split into pieces; takes time linear in its length.

    Args:
        limit: longest line in bytes, without its line end; at least 256.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < HEAD:
            raise ValueError(f"a line limit below {HEAD} bytes leaves no room for the head of a line")
        self._limit = limit
        self._pending = bytearray()
        self._unread: Oversized | None = None

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        r"""Take the next bytes and return the lines that they complete, without `\n` or `\r\n`."""
        first, *others = data.split(b"\n")
        if not others:
            self._keep(first)
            return []
        rest = others.pop()
        lines = [self._finish(first), *map(self._bounded, others)]
        self._keep(rest)
        return lines

    def close(self) -> list[bytes | Oversized]:
        """End the stream and return its last line, if that has no line end."""
        return [self._take()] if self._is_inside_a_line() else []

    def _is_inside_a_line(self) -> bool:
        return bool(self._pending) or self._unread is not None

    def _finish(self, piece: bytes) -> bytes | Oversized:
        if not self._is_inside_a_line():
            return self._bounded(piece)
        self._keep(piece)
        return self._take()

    def _keep(self, piece: bytes) -> None:
        if self._unread is not None:
            return
        # One byte above the limit may still be the \r of a line end; two cannot.
        if len(self._pending) + len(piece) > self._limit + 1:
            self._drop(piece)
            return
        try:
            self._pending += piece
        except MemoryError:
            self._drop(piece, trouble=_NO_MEMORY)

    def _drop(self, piece: bytes, *, trouble: str = "") -> None:
        """Keep only the head of a line that is too long with this piece of it."""
        head = bytes(self._pending[:HEAD] + piece[:HEAD])[:HEAD]
        self._pending.clear()
        self._unread = Oversized(head=head, limit=self._limit, trouble=trouble)

    def _take(self) -> bytes | Oversized:
        unread, self._unread = self._unread, None
        if unread is not None:
            return unread
        try:
            line = bytes(self._pending)
        except MemoryError:
            return Oversized(head=bytes(self._pending[:HEAD]), limit=self._limit, trouble=_NO_MEMORY)
        finally:
            self._pending.clear()
        return self._bounded(line)

    def _bounded(self, line: bytes) -> bytes | Oversized:
        line = line.removesuffix(b"\r")
        return line if len(line) <= self._limit else Oversized(head=line[:HEAD], limit=self._limit)
