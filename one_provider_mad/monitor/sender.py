"""Write messages to monitord, with timestamps that never go backwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

from one_provider_mad.protocol.im import format_message
from one_provider_mad.protocol.im_messages import Kind, Message

_LARGE = 16 * 1024
"""Characters of text from which on a message is compressed in a thread: it would take a millisecond of the event
loop."""


class Output(Protocol):
    """Writes lines to stdout (transport.Writer)."""

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        """Write a line that must not be lost; `on_written` is called once the line is in the pipe to OpenNebula."""

    def log(self, data: bytes) -> None:
        """Write a LOG line, which may be dropped."""


class Stamps:
    """Timestamps of messages: whole seconds that never go backwards, since monitord drops messages with an older one.

    Args:
        clock: seconds since the epoch; it may be set back.
        latest: the latest timestamp of an earlier process.
    """

    def __init__(self, clock: Callable[[], float], latest: int = 0) -> None:
        self._clock = clock
        self.latest = latest

    def now(self) -> int:
        """Return the present time, or the latest timestamp while the clock is behind it."""
        self.latest = max(self.latest, int(self._clock()))
        return self.latest


class Sender:
    """Sends messages to monitord.

    Args:
        output: where lines go.
        stamps: timestamps.

    Attributes:
        figures_at: loop time from which the next MONITOR_VM may be sent, for any host.
    """

    def __init__(self, output: Output, stamps: Stamps) -> None:
        self.figures_at = 0.0
        self._output = output
        self._stamps = stamps
        self._waiting: Counter[tuple[Kind, int]] = Counter()

    def is_waiting(self, kind: Kind, host_id: int) -> bool:
        """True while monitord has not read the last message of this kind about the host.

        Callers then write no further one: a monitord that has not read for a night would have to read every old state
        first, and memory would fill up.
        """
        return self._waiting[kind, host_id] > 0

    def send(self, kind: Kind, host_id: int, text: str = "", *, is_success: bool = True) -> None:
        """Write a short message at once."""
        message = self._message(kind, host_id, text, is_success=is_success)
        self._send(message, format_message(message))

    async def send_long(self, kind: Kind, host_id: int, text: str, *, is_success: bool = True) -> None:
        """Write a message that may be long, without blocking the event loop."""
        message = self._message(kind, host_id, text, is_success=is_success)
        if len(text) < _LARGE:
            self._send(message, format_message(message))
        else:
            self._send(message, await asyncio.to_thread(format_message, message))

    def _send(self, message: Message, line: bytes) -> None:
        key = message.kind, message.host_id
        self._waiting[key] += 1
        self._output.send(line, on_written=partial(self._written, key))

    def _written(self, key: tuple[Kind, int]) -> None:
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]

    def _message(self, kind: Kind, host_id: int, text: str, *, is_success: bool) -> Message:
        return Message(kind=kind, host_id=host_id, timestamp=self._stamps.now(), text=text, is_success=is_success)
