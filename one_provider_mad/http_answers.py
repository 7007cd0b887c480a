"""Answers over HTTP, taken in within bounds: of bytes, also as they unpack, and of what parsing may take.

The other side may be anybody's, or broken: it chooses neither how much memory an answer takes nor how long the event
loop stands still. Nothing large stays behind in an error that is raised.
"""

from __future__ import annotations

import asyncio
import ctypes
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from one_provider_mad.errors import MadError, ProviderUnavailable

if TYPE_CHECKING:
    import aiohttp

_Read = TypeVar("_Read")
_Error = TypeVar("_Error", bound=MadError)

LONGEST_REFUSAL = 64 * 1024
"""Bytes of an error that are read; EC2's have some hundreds."""

SMALL = 64 * 1024
"""Answers up to so many bytes are parsed on the event loop: it takes less than handing them to a thread."""

LARGE = 4 * 1024 * 1024
"""Answers of more bytes come one at a time: 32 connections would hold 32 of them otherwise. A full page has less."""

BULKY = 1024 * 1024
"""Answers of more bytes leave much free memory behind, which the C library would keep."""

CODINGS = "gzip, deflate"
"""Content codings that are understood, for Accept-Encoding."""

_PIECE = 128 * 1024
"""Bytes that are unpacked at a time, in less than a millisecond."""

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class TooLargeError(ProviderUnavailable):
    """The answer is larger than it may be; a smaller page may be asked for."""


class Answers:
    """Takes in the answers of one cloud.

    Args:
        limit: bytes that an answer may have, unpacked.
        setting: what the configuration calls this limit.
    """

    def __init__(self, *, limit: int, setting: str) -> None:
        self.limit = limit
        self.setting = setting
        self.reading = asyncio.Lock()
        self.parsing = asyncio.Lock()

    def next(self) -> Answer:
        """Get ready for one answer; use it as a context manager."""
        return Answer(self)


class Answer:
    """One answer, from its first byte until it is read."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._body = bytearray()
        self._is_bulky = self._is_large = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()
        if self._is_bulky:
            asyncio.get_running_loop().run_in_executor(None, _give_memory_back)

    async def take(self, response: aiohttp.ClientResponse, *, what: str) -> None:
        """Take in the whole body.

        Args:
            response: whose session does not unpack by itself.
            what: the answer, for sentences.

        Raises:
            ProviderUnavailable: it is too large, or not packed as its header says.
        """
        limit = self._answers.limit
        try:
            await self._fill(response, limit)
        except _EndlessError:
            self._let_go()
            raise TooLargeError(f"{what} has more than {limit} bytes: raise {self._answers.setting}") from None
        except zlib.error as error:
            self._let_go()
            raise ProviderUnavailable(f"{what} cannot be unpacked: {error}") from None

    async def take_refusal(self, response: aiohttp.ClientResponse) -> bytes:
        """Read an error's body, or the beginning of one that is longer than those of a cloud are."""
        with suppress(_EndlessError, zlib.error):  # its status says enough
            await self._fill(response, LONGEST_REFUSAL)
        return self._given_away()[:LONGEST_REFUSAL]

    async def _fill(self, response: aiohttp.ClientResponse, limit: int) -> None:
        """Raises _EndlessError, zlib.error."""
        unpacked = _unpacking(response.headers.get("Content-Encoding", ""))
        arrived = 0
        async for packed in response.content.iter_any():
            arrived += len(packed)
            for piece in unpacked(packed):
                self._body += piece
                if len(self._body) > limit:
                    raise _EndlessError
                self._is_bulky = len(self._body) > BULKY
                if len(self._body) > LARGE and not self._is_large:
                    await self._answers.reading.acquire()
                    self._is_large = True
                if len(piece) >= _PIECE:
                    await asyncio.sleep(0)  # a few bytes may become a thousand times as many
            if arrived > limit:
                raise _EndlessError  # although nothing comes of it
        for piece in unpacked(b""):
            self._body += piece

    async def read(self, work: Callable[[bytes], _Read]) -> _Read:
        """Make something of the body: in a thread where it is not small, one after the other.

        Args:
            work: pure; is given the body.

        Raises:
            MadError: what `work` raises, without the frames that hold the body and what was made of it.
        """
        try:
            if len(self._body) <= SMALL:
                return work(self._given_away())
            async with self._answers.parsing:
                return await asyncio.to_thread(work, self._given_away())
        except MadError as error:
            raise without_frames(error) from None

    def _given_away(self) -> bytes:
        body, self._body = bytes(self._body), bytearray()
        return body

    def _let_go(self) -> None:
        self._body = bytearray()
        if self._is_large:
            self._is_large = False
            self._answers.reading.release()


def seconds_asked(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks to wait; None where it has no number."""
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdecimal() else None


def without_frames(error: _Error) -> _Error:
    """The error, as if it had been raised nowhere: the frames that a traceback keeps hold whole answers."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _give_memory_back() -> None:
    """Have glibc return what is free in the middle of its heaps: mostly the tree of a large document."""
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class _EndlessError(Exception):
    """More came than may come."""


def _unpacking(coding: str) -> Callable[[bytes], Iterable[bytes]]:
    """What unpacks the next bytes of a body, piece by piece as they are taken; given b"", it says what is missing.

    It raises zlib.error for what is not packed well.
    """
    match coding.strip().lower():
        case "" | "identity":
            return lambda plain: (plain,)
        case "gzip" | "x-gzip" | "deflate":
            return partial(_pieces, zlib.decompressobj(_GZIP_OR_ZLIB))
    raise zlib.error(f"nobody asked for Content-Encoding {coding[:20]!r}")


def _pieces(unpacker: zlib._Decompress, packed: bytes) -> Iterator[bytes]:
    if not packed and not unpacker.eof:
        raise zlib.error("it ends too early")
    while packed and not unpacker.eof:
        yield unpacker.decompress(packed, _PIECE)
        packed = unpacker.unconsumed_tail
