"""What a hostile endpoint can do to memory and to the event loop, on loopback and bounded in time.

    python -m benchmarks.hostile [seconds a case] [case...]

A server in a process of its own answers every call in a way that hurts; eight callers ask it through the drivers' own
clients. Printed for each case: calls, the longest stall of the loop, and how much of it this process can have caused
(more processor time it has not used meanwhile), and memory before, at its highest and after.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import resource
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.errors import ProviderError
from one_provider_mad.providers.ec2.client import Client as Ec2Client
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.client import Client as OpenNebulaClient
from one_provider_mad.xmlrpc.client import Connection
from tests.actions.fakes import OWNER, FakeCloud

CALLERS = 8

MB = 1_000_000

Ask = Callable[[], Awaitable[object]]


def _bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(MB)
    return b"".join([*(packer.compress(zeros) for _ in range(200)), packer.flush()])


def _envelope(document: bytes) -> bytes:
    value = document.replace(b"<", b"&lt;")
    data = b"<value><boolean>1</boolean></value><value><string>" + value + b"</string></value>"
    return (
        b"<methodResponse><params><param><value><array><data>"
        + data
        + b"</data></array></value></param></params></methodResponse>"
    )


def _listing(items: bytes) -> bytes:
    return b"<DescribeInstancesResponse><reservationSet>" + items + b"</reservationSet></DescribeInstancesResponse>"


def _elements(count: int) -> bytes:
    return b"<item>x</item>" * count


CASES: dict[str, Callable[[], tuple[int, dict[str, str], bytes]]] = {
    "ordinary": lambda: (503, {}, b"busy"),
    "oversized": lambda: (200, {}, b"x" * 70 * MB),
    "error": lambda: (503, {}, b"<Response>" + b"<Error>x</Error>" * 3_500_000),
    "elements": lambda: (200, {}, _listing(_elements(1_000_000))),
    "bounded": lambda: (200, {}, _listing(_elements(195_000))),
    "escaped": lambda: (200, {}, _envelope(b"<VM_POOL>" + _elements(195_000) + b"</VM_POOL>")),
    "escaped-more": lambda: (200, {}, _envelope(b"<VM_POOL>" + _elements(800_000) + b"</VM_POOL>")),
    "prefixes": lambda: (200, {}, _listing(b"<p:a/>" * 390_000)),
    "attributes": lambda: (200, {}, _listing(b"<a b='c'/>" * 195_000)),
    "texts": lambda: (200, {}, _envelope("é".encode() * 7_000_000)),
    "bomb": lambda: (200, {"Content-Encoding": "gzip"}, _bomb()),
    "error-bomb": lambda: (500, {"Content-Encoding": "gzip"}, _bomb()),
}


def serve(pipe: Pipe) -> None:
    """Answer every call as its path says, until the process is ended."""
    made: dict[str, bytes] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            name = head.split(b" ", 2)[1].decode().strip("/")
            if name not in made:
                status, headers, body = CASES[name]()
                told = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
                first = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{told}\r\n"
                made[name] = first.encode() + body
            writer.write(made[name])
            await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@asynccontextmanager
async def ec2(url: str) -> AsyncIterator[Ask]:
    """Asks for instances."""
    settings = Ec2Settings(region="x", endpoint_url=url, access_key_id="AKIA", secret_access_key="secret")
    client = Ec2Client(settings)
    await client.open()

    async def ask() -> object:
        return [page async for page in client.pages("DescribeInstances", {}, read=_ids)]

    yield ask
    await client.close()


@asynccontextmanager
async def opennebula(url: str) -> AsyncIterator[Ask]:
    """Asks for VMs."""
    client = OpenNebulaClient(Connection(endpoints=(url,)), read_session=lambda: "oneadmin:secret")
    await client.open()
    yield lambda: client.read("one.vmpool.info", -2, -1, -1, -1, read=_ids)
    await client.close()


def _ids(root: Element) -> list[str]:
    return [text_of(found) for found in elements_at(root, "reservationSet/item/instancesSet/item")]


class Stalls:
    """The longest time in seconds for which the loop ran nothing else, and the longest that was our own doing."""

    def __init__(self) -> None:
        self.longest = self.own = 0.0

    async def watch(self) -> None:
        """Look every millisecond."""
        while True:
            before, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.001)
            stall = time.perf_counter() - before - 0.001
            self.longest = max(self.longest, stall)
            self.own = max(self.own, min(stall, time.process_time() - used))


def memory() -> float:
    """MB that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MB


async def hurt(ask: Ask, seconds: float) -> str:
    """Ask for so long, as the actions do; returns what to print."""
    cloud = SharedCloud(FakeCloud(), owner=OWNER, retries=1, call_timeout=30).for_action(Waiting())
    stalls, calls, highest = Stalls(), 0, 0.0
    with suppress(ProviderError):
        await ask()  # so that what is loaded once is there
    before = memory()
    watching = asyncio.create_task(stalls.watch())
    end = time.monotonic() + seconds

    async def go_on() -> None:
        nonlocal calls, highest
        while time.monotonic() < end:
            with suppress(ProviderError):
                await cloud.call("list", ask)
            calls += 1
            highest = max(highest, memory())

    await asyncio.gather(*(go_on() for _ in range(CALLERS)))
    watching.cancel()
    await asyncio.sleep(0.5)  # what is given back is given back in a thread
    stall = f"stall {1000 * stalls.longest:6.1f} (own {1000 * stalls.own:5.1f}) ms"
    figures = f"{calls:6} calls, {stall}, memory {before:6.1f} -> {highest:6.1f}"
    return f"{figures} -> {memory():6.1f} MB"


def main() -> None:
    """Try every case against both clients, each in a process of its own."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    cases = sys.argv[2:] or list(CASES)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    try:
        for case in cases:
            for client in ("ec2", "opennebula"):
                one = multiprocessing.get_context("spawn").Process(target=_case, args=(client, port, case, seconds))
                one.start()
                one.join()
    finally:
        server.terminate()


def _case(client: str, port: int, case: str, seconds: float) -> None:
    # As a driver has it (serving.py).
    gc.set_threshold(10_000, 20, 20)
    sys.setswitchinterval(0.001)

    async def run() -> str:
        async with {"ec2": ec2, "opennebula": opennebula}[client](f"http://127.0.0.1:{port}/{case}") as ask:
            return await hurt(ask, seconds)

    print(f"{case:13} {client:11} {asyncio.run(run())}", flush=True)


if __name__ == "__main__":
    main()
