"""Reads HTTP answers within bounds: of bytes, also after decompression, and of time on the event loop.

The other side may be hostile or broken: it must not decide how much memory an answer takes, nor how long it stops the
event loop. Raised errors keep no large object alive.
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
"""Bytes of an error's body that are read, the rest is left; EC2's have some hundreds."""

SMALL = 64 * 1024
"""Answers up to this many bytes are parsed on the event loop, which is faster than a thread for them."""

LARGE = 4 * 1024 * 1024
"""Bytes above which answers are read one at a time, to bound the memory; a full page of a listing is smaller."""

BULKY = 1024 * 1024
"""Bytes of an answer above which glibc is made to return the free memory after the answer is parsed."""

CODINGS = "gzip, deflate"
"""Supported content codings, for Accept-Encoding."""

_PIECE = 128 * 1024
"""Bytes that are decompressed at a time, in less than a millisecond."""

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class TooLargeError(ProviderUnavailable):
    """The answer exceeds the limit; the caller may ask for a smaller page."""


class Answers:
    """Reads the answers of one cloud.

    Args:
        limit: most bytes of an answer, decompressed.
        setting: name of this limit in the configuration.
    """

    def __init__(self, *, limit: int, setting: str) -> None:
        self.limit = limit
        self.setting = setting
        self.reading = asyncio.Lock()
        self.parsing = asyncio.Lock()

    def next(self) -> Answer:
        """Return a reader for one answer; use it as a context manager."""
        return Answer(self)


class Answer:
    """One answer, from its first byte until it is parsed."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._body = bytearray()
        self._is_bulky = self._is_large = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release_body()
        if self._is_bulky:
            asyncio.get_running_loop().run_in_executor(None, _give_memory_back)

    async def take(self, response: aiohttp.ClientResponse, *, what: str) -> None:
        """Read the whole body of an answer within the limit.

        Args:
            response: the answer; its aiohttp session must not decompress bodies.
            what: name of the answer, for error messages.

        Raises:
            ProviderUnavailable: the body is too large, or not compressed as its header says.
        """
        limit = self._answers.limit
        try:
            await self._fill(response, limit)
        except _EndlessError:
            self._release_body()
            raise TooLargeError(f"{what} has more than {limit} bytes: raise {self._answers.setting}") from None
        except zlib.error as error:
            self._release_body()
            raise ProviderUnavailable(f"{what} cannot be decompressed: {error}") from None

    async def take_refusal(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the body of an error, at most LONGEST_REFUSAL bytes of it."""
        with suppress(_EndlessError, zlib.error):  # the status is enough
            await self._fill(response, LONGEST_REFUSAL)
        return self._take_body()[:LONGEST_REFUSAL]

    async def _fill(self, response: aiohttp.ClientResponse, limit: int) -> None:
        """Read and decompress the body. Raises _EndlessError beyond the limit, zlib.error for corrupt data."""
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
                    await asyncio.sleep(0)  # a few bytes may decompress to a thousand times as many
            if arrived > limit:
                raise _EndlessError  # many compressed bytes that decompress to nothing
        for piece in unpacked(b""):
            self._body += piece

    async def read(self, work: Callable[[bytes], _Read]) -> _Read:
        """Parse the body that was read; a large one in a thread, one at a time.

        Args:
            work: takes the body and returns the result; it runs in any thread.

        Raises:
            MadError: the error of `work`, without its frames, which hold the body and its parts.
        """
        try:
            if len(self._body) <= SMALL:
                return work(self._take_body())
            async with self._answers.parsing:
                return await asyncio.to_thread(work, self._take_body())
        except MadError as error:
            raise without_frames(error) from None

    def _take_body(self) -> bytes:
        body, self._body = bytes(self._body), bytearray()
        return body

    def _release_body(self) -> None:
        self._body = bytearray()
        if self._is_large:
            self._is_large = False
            self._answers.reading.release()


def seconds_asked(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in the header Retry-After; None without a number there."""
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdecimal() else None


def without_frames(error: _Error) -> _Error:
    """Return the error without traceback and causes, as their frames would keep whole answers in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _give_memory_back() -> None:
    """Make glibc return free memory inside its heaps, mostly from the tree of a large document."""
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class _EndlessError(Exception):
    """The answer exceeds its limit."""


def _unpacking(coding: str) -> Callable[[bytes], Iterable[bytes]]:
    """Return a function that decompresses the next bytes of a body piece by piece; b"" marks the end.

    It raises zlib.error for corrupt data, and at the end for missing data.
    """
    match coding.strip().lower():
        case "" | "identity":
            return lambda plain: (plain,)
        case "gzip" | "x-gzip" | "deflate":
            return partial(_pieces, zlib.decompressobj(_GZIP_OR_ZLIB))
    raise zlib.error(f"Content-Encoding {coding[:20]!r} was not requested")


def _pieces(unpacker: zlib._Decompress, packed: bytes) -> Iterator[bytes]:
    if not packed and not unpacker.eof:
        raise zlib.error("it ends too early")
    while packed and not unpacker.eof:
        yield unpacker.decompress(packed, _PIECE)
        packed = unpacker.unconsumed_tail
