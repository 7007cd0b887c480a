"""An OpenNebula for tests: real XML-RPC over loopback, VMs that take their time, and faults to order.

`Partner` runs in a thread of its own, so that tests may be asynchronous or not, and drivers other processes. It answers
as 5.10.5 and 7.4.0 do, element for element, errors included (src/rm/Request.cc).
"""

from __future__ import annotations

import asyncio
import threading
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self
from xml.sax.saxutils import escape

from aiohttp import web

from tests.waiting import HANG
from tests.xmlrpc.partner_api import AUTHENTICATION, INTERNAL, RELEASES, ApiError, Release
from tests.xmlrpc.partner_parts import Parts

__all__ = ["RELEASES", "Partner", "Release"]

FaultKind = Literal["http-500", "hang", "held", "lost-answer", "dropped", "garbage", "page", "no-leader", "refused"]


@dataclass
class Fault:
    """A fault that the next calls of a method meet."""

    method: str
    kind: FaultKind
    times: int


@dataclass
class FrontEnd:
    """One URL of the partner.

    Attributes:
        state: its raft state: 0 alone, 1 candidate, 2 follower without a leader, 3 leader.
        url: its endpoint, once it listens.
    """

    state: int | str = 0
    url: str = ""
    runner: web.AppRunner | None = None
    calls: list[str] = field(default_factory=list)


class Partner(Parts):
    """A whole OpenNebula; use it as a context manager.

    Args:
        release: the release as which it answers.
        delay: seconds each state of a transition takes.
        front_ends: number of its front-ends, each with its own URL.
    """

    def __init__(self, release: Release = "7.4.0", *, delay: float = 0.004, front_ends: int = 1) -> None:
        super().__init__(release, delay=delay)
        self.front_ends = [FrontEnd() for _ in range(front_ends)]
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._may_go_on: asyncio.Event | None = None
        self.held = 0

    # Running

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(HANG), "the partner does not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._over is not None
        assert self._thread is not None
        self.go_on()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(HANG)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._over, self._may_go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        for front_end in self.front_ends:
            application = web.Application(client_max_size=2**26)
            application.router.add_post("/RPC2", self._handler(front_end))
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            front_end.runner = runner
            front_end.url = f"http://127.0.0.1:{runner.addresses[0][1]}/RPC2"
        ready.set()
        await self._over.wait()
        for front_end in self.front_ends:
            if front_end.runner is not None:
                await front_end.runner.cleanup()

    @property
    def urls(self) -> list[str]:
        return [front_end.url for front_end in self.front_ends]

    @property
    def place(self) -> str:
        """Host and port, as error sentences name them."""
        return self.urls[0].removeprefix("http://").removesuffix("/RPC2")

    def order(self, kind: FaultKind, method: str = "", *, times: int = 1) -> None:
        """Let the next calls of a method, or of any method, meet a fault."""
        self.faults.append(Fault(method, kind, times))

    def go_on(self) -> None:
        """Answer the held calls, and hold no more."""
        assert self._loop is not None
        assert self._may_go_on is not None
        for fault in self.faults:
            fault.times = 0 if fault.kind == "held" else fault.times
        self._loop.call_soon_threadsafe(self._may_go_on.set)

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(called == method for called, _ in self.calls)

    # Serving

    def _handler(self, front_end: FrontEnd) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            arguments, method = xmlrpc.client.loads(body)
            assert method is not None
            front_end.calls.append(method)
            fault = self._fault(method)
            if fault == "hang":
                assert self._over is not None
                await self._over.wait()
            if fault == "held":
                assert self._may_go_on is not None
                self.held += 1
                await self._may_go_on.wait()
            if fault == "http-500":
                return web.Response(status=500, text="<html><body>Internal Server Error</body></html>")
            if fault == "garbage":
                return web.Response(text="<html><body>Welcome to nginx!</body></html>", content_type="text/html")
            if fault == "page":
                return web.Response(text=answer_xml(0, "<html></html>"), content_type="text/xml")
            if fault == "dropped":
                _drop(request)
                return web.Response()
            answer = self._answer(front_end, method, arguments, fault)
            if fault == "lost-answer":
                _drop(request)
            return web.Response(text=answer, content_type="text/xml", charset="utf-8")

        return handle

    def _fault(self, method: str) -> FaultKind | None:
        for fault in self.faults:
            if fault.times and fault.method in ("", method):
                fault.times -= 1
                return fault.kind
        return None

    def _answer(self, front_end: FrontEnd, method: str, arguments: tuple[Any, ...], fault: FaultKind | None) -> str:
        session, *rest = arguments
        self.calls.append((method, tuple(rest)))
        handler = getattr(self, "do_" + method.removeprefix("one.").replace(".", "_"), None)
        if handler is None:
            return fault_xml(-506, f"Method '{method}' not defined")
        user = self.users.get(session)
        try:
            if user is None or fault == "refused":
                raise ApiError(AUTHENTICATION, "User couldn't be authenticated, aborting call.")
            if method != "one.zone.raftstatus" and (front_end.state in (1, 2) or fault == "no-leader"):
                raise ApiError(INTERNAL, "Cannot process request, no leader found")
            for vm in self.vms.values():
                vm.catch_up()
            result = handler(user, *rest) if method != "one.zone.raftstatus" else handler(front_end)
        except ApiError as error:
            return answer_xml(error.code, f"[{method}] {error.text}", error.number)
        except TypeError:
            return fault_xml(-501, "Parameter that is supposed to be integer is not")
        return answer_xml(0, result)

    def do_zone_raftstatus(self, front_end: FrontEnd) -> str:
        server = -1 if front_end.state == 0 else self.front_ends.index(front_end)
        return (
            f"<RAFT><SERVER_ID>{server}</SERVER_ID><STATE>{front_end.state}</STATE><TERM>0</TERM><VOTEDFOR>-1</VOTEDFOR>"
            "<COMMIT>0</COMMIT><LOG_INDEX>-1</LOG_INDEX><LOG_TERM>-1</LOG_TERM><FEDLOG_INDEX>-1</FEDLOG_INDEX></RAFT>"
        )


def _drop(request: web.Request) -> None:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()


def answer_xml(code: int, result: str | int, number: int | None = None) -> str:
    """The envelope as xmlrpc-c writes it."""
    value = f"<string>{escape(result)}</string>" if isinstance(result, str) else f"<i4>{result}</i4>"
    more = "" if number is None else f"<value><i4>{number}</i4></value>\n<value><i8>-1</i8></value>\n"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<methodResponse>\n<params>\n<param><value><array><data>\n'
        f"<value><boolean>{int(code == 0)}</boolean></value>\n<value>{value}</value>\n<value><i4>{code}</i4></value>\n"
        f"{more}</data></array></value></param>\n</params>\n</methodResponse>\n"
    )


def fault_xml(code: int, text: str) -> str:
    """A call that could not be read."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<methodResponse>\n<fault>\n<value><struct>\n'
        "<member><name>faultCode</name>\n"
        f"<value><i4>{code}</i4></value></member>\n<member><name>faultString</name>\n"
        f"<value><string>{escape(text)}</string></value></member>\n</struct></value>\n</fault>\n</methodResponse>\n"
    )
