"""Limit the memory of unanswered requests: of large ones only the bytes are kept, and all fit into a budget.

oned writes to its drivers with blocking writes, so reading stdin never stops, under any load. A document takes ten to
twenty times its size once it is parsed: so a large one is parsed when its turn comes, one at a time, and beyond the
budget it is refused.
"""

from __future__ import annotations

import asyncio
import ctypes

import msgspec

from one_provider_mad.actions.table import FIRST_WORDS
from one_provider_mad.domain import Template, Value, VmRequest
from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol.messages import Action, Malformed, Request
from one_provider_mad.protocol.payload import TEMPLATE_ACTIONS, read_outline, read_payload, read_poll
from one_provider_mad.workers import Workers

_SMALL = 16 * 1024
"""Bytes of payload up to which a request is parsed when it comes, and never refused; an ordinary one has 7,000."""

_LARGE = 128 * 1024
"""Bytes of payload from which on a request is parsed in a thread: parsing takes more than about a millisecond."""

_OWN_PIECE = 256 * 1024
"""Bytes from which on glibc maps an allocation separately (mmap), so that free() returns it to the system."""

BUDGET = 256 * 1024 * 1024
"""Bytes of payload that all unanswered requests may hold, sixteen longest lines; beyond it a request is refused."""

_SPARE = 16 * 1024 * 1024
"""Freed bytes at the top of the heap that glibc keeps for the process (M_TRIM_THRESHOLD)."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_NEVER_REFUSED = frozenset({Action.CLEANUP, Action.CANCEL, *FIRST_WORDS})
"""Accepted beyond the budget: oned never sends these terminates again, or reads a number first in these answers."""


class Heading(Value, frozen=True, kw_only=True):
    """Facts about a request that are needed before its turn comes.

    Attributes:
        host: the OpenNebula host, "" where it is unknown.
        lcm_state: VM/LCM_STATE, None where it is unknown.
    """

    host: str = ""
    lcm_state: int | None = None


class Content:
    """The message of a request, parsed now or when its turn comes.

    Args:
        backlog: counts its bytes.
        request: the request, unparsed.
        read: the parsed message and its document, where it was parsed already.

    Attributes:
        known: the parsed message; None while it is not parsed yet, or cannot be parsed.
        heading: the facts that are needed before it is parsed.
    """

    __slots__ = ("_backlog", "_document", "_request", "_size", "heading", "known")

    def __init__(self, backlog: Backlog, request: Request, read: tuple[VmRequest, bytes] | None = None) -> None:
        self._backlog = backlog
        self._size = len(request.payload)
        self._request: Request | None = None
        self._document = b""
        self.known: VmRequest | None = None
        if read is None:
            self._request = request
            host, lcm_state = read_outline(request)
            self.heading = Heading(host=host, lcm_state=lcm_state)
        else:
            self.known, self._document = read
            self.heading = Heading(host=self.known.host, lcm_state=self.known.lcm_state)

    async def read(self) -> tuple[VmRequest, bytes]:
        """Return the parsed message, and its XML document as bytes.

        Raises:
            RequestRefused: the message cannot be parsed.
        """
        if self.known is None:
            if self._request is None:
                raise AssertionError("a request is not read after its end")
            read = await self._backlog.parse(self._request)
            self._request = None
            if isinstance(read, Malformed):
                raise RequestRefused(read.reason)
            self.known, self._document = read
        return self.known, self._document

    def release(self) -> None:
        """Release the message of a finished request, but keep the attributes that identify its VM."""
        self._backlog.held -= self._size
        self._size = 0
        self._request = None
        self._document = b""
        known = self.known
        if known is not None and (known.template.values or known.user_template.values or known.operand):
            self.known = msgspec.structs.replace(known, template=Template(), user_template=Template(), operand={})


class Backlog:
    """The memory that unanswered requests hold.

    Attributes:
        held: bytes of their payloads.
    """

    def __init__(self) -> None:
        _let_memory_return()
        self.held = 0
        self._parsers = Workers(1, name="large messages")

    def take(self, request: Request, *, is_verbatim: bool) -> Content | VmRequest | Malformed:
        """Take a request: parse it now, keep its bytes for later, or refuse it.

        Of a POLL only the parsed message is kept.
        """
        size = len(request.payload)
        if request.action is Action.POLL and size <= _LARGE and not is_verbatim:
            return read_poll(request)
        if self.held + size > BUDGET and size > _SMALL and request.action not in _NEVER_REFUSED:
            return self._refuse(request)
        return self.take_again(request, is_verbatim=is_verbatim)

    def take_again(self, request: Request, *, is_verbatim: bool) -> Content | Malformed:
        """Take a request that an earlier process took before: it is not refused for lack of memory."""
        size = len(request.payload)
        if size <= _LARGE if _is_little_kept(request.action, is_verbatim=is_verbatim) else size <= _SMALL:
            read = read_payload(request)
            if isinstance(read, Malformed):
                return read
            content = Content(self, request, read if is_verbatim else (read[0], b""))
        else:
            content = Content(self, request)
        self.held += size
        return content

    def _refuse(self, request: Request) -> Malformed:
        return Malformed(
            reason=f"too much waits already: requests of {self.held // 1_000_000} MB are not answered yet, and this one"
            f" has {len(request.payload) / 1_000_000:.1f} MB; ask again later, or give the VM a smaller template",
            word=request.action.value,
            vm_id=request.vm_id,
            dialect=request.dialect,
        )

    async def parse(self, request: Request) -> tuple[VmRequest, bytes] | Malformed:
        """Parse a request whose turn has come; large ones one at a time, beside the loop."""
        if len(request.payload) <= _LARGE:
            return read_payload(request)
        return await asyncio.get_running_loop().run_in_executor(self._parsers, read_payload, request)


def _is_little_kept(action: Action, *, is_verbatim: bool) -> bool:
    """True for a request of which little is kept once it is parsed, so that it is not refused."""
    return not is_verbatim and action not in TEMPLATE_ACTIONS


def _let_memory_return() -> None:
    """Let glibc return the memory of large lines to the system: on the heap their holes would stay resident.

    By itself glibc raises M_MMAP_THRESHOLD up to 32 MB (mallopt(3)). Other C libraries have no such call.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _OWN_PIECE)
        set_option(_M_TRIM_THRESHOLD, _SPARE)
