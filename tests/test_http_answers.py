"""Large, compressed and malicious HTTP responses: limits on their size, and on the memory they keep."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import weakref
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress

import pytest

from one_provider_mad import http_answers, safe_xml
from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.errors import ProviderError, ProviderUnavailable
from one_provider_mad.http_answers import LONGEST_REFUSAL
from one_provider_mad.providers.ec2.client import Client as Ec2Client
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.safe_xml import Element, element_at, elements_at, parse_document, text_of
from one_provider_mad.xmlrpc.client import Client as OpenNebulaClient
from one_provider_mad.xmlrpc.client import Connection
from tests.actions.fakes import OWNER, FakeCloud
from tests.waiting import HANG, until
from tests.xmlrpc.partner import answer_xml

MB = 1_000_000

LIMIT = 3 * MB

Ask = Callable[[], Awaitable[str]]


class Server:
    """Answers every call with the same bytes, and may stop in the middle of them.

    Attributes:
        status: HTTP status of the answers.
        headers: their further headers.
        body: bytes that are sent.
        length: Content-Length; if larger than the body, the connection stays open without further data.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.length: int | None = None
        self.url = ""
        self._over = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            length = len(self.body) if self.length is None else self.length
            headers = {**self.headers, "Content-Length": str(length), "Connection": "close"}
            header_lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {self.status} Fine\r\n{header_lines}\r\n".encode() + self.body)
            await writer.drain()
            if length > len(self.body):
                await self._over.wait()
        writer.close()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield self
        self._over.set()
        server.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().served() as one:
        yield one


def whole(root: Element) -> str:
    return text_of(root)


@asynccontextmanager
async def ec2(url: str) -> AsyncIterator[Ask]:
    settings = Ec2Settings(
        region="x", endpoint_url=url, access_key_id="AKIA", secret_access_key="secret", max_answer=LIMIT
    )
    client = Ec2Client(settings)
    await client.open()
    yield lambda: client.call("DescribeInstances", read=whole)
    await client.close()


@asynccontextmanager
async def opennebula(url: str) -> AsyncIterator[Ask]:
    client = OpenNebulaClient(Connection(endpoints=(url,), body_limit=LIMIT), read_session=lambda: "oneadmin:secret")
    await client.open()
    yield lambda: client.read("one.vm.info", 7, read=whole)
    await client.close()


def as_ec2(text: str) -> bytes:
    return f"<DescribeInstancesResponse>{text}</DescribeInstancesResponse>".encode()


def as_opennebula(text: str) -> bytes:
    return answer_xml(0, f"<VM>{text}</VM>").encode()


CLIENTS = pytest.mark.parametrize(
    ("open_client", "written"),
    [pytest.param(ec2, as_ec2, id="ec2"), pytest.param(opennebula, as_opennebula, id="opennebula")],
)

Open = Callable[[str], object]
Written = Callable[[str], bytes]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collection: objects in reference cycles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    tracemalloc.stop()


@pytest.mark.usefixtures("uncollected")
@CLIENTS
@pytest.mark.parametrize("fault", ["too large", "no XML", "too many elements"])
async def test_a_refused_response_leaves_nothing_in_memory(
    server: Server, open_client: Open, written: Written, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(safe_xml, "MOST_MARKS", 3000)
    server.body = {
        "too large": b"x" * (LIMIT + 1),
        "no XML": written("x" * 2 * MB)[:-20],
        "too many elements": written("x" * 2 * MB + "<a/>" * 3000),
    }[fault]
    async with open_client(server.url) as ask:  # type: ignore[attr-defined]
        cloud = SharedCloud(FakeCloud(), owner=OWNER, retries=1, call_timeout=30).for_action(Waiting())
        with pytest.raises(ProviderUnavailable):
            await ask()  # loads modules
        tracemalloc.start()
        errors = []
        try:
            await cloud.call("list", ask)
        except ProviderUnavailable as error:
            errors.append(weakref.ref(error))
        # The server, and a finished thread, free their memory a moment later.
        await asyncio.to_thread(until, lambda: tracemalloc.get_traced_memory()[0] < MB)
    assert [error() for error in errors] == [None]


@CLIENTS
async def test_a_gzip_bomb_is_not_decompressed_beyond_the_limit(
    server: Server, open_client: Open, written: Written
) -> None:
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(MB)
    server.body = b"".join([*(packer.compress(zeros) for _ in range(100)), packer.flush()])
    server.headers = {"Content-Encoding": "gzip"}
    assert len(server.body) < MB / 5
    async with open_client(server.url) as ask:  # type: ignore[attr-defined]
        tracemalloc.start()
        with pytest.raises(ProviderUnavailable, match=f"has more than {LIMIT} bytes: raise "):
            await ask()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3 * LIMIT


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda plain: zlib.compress(plain, wbits=31),
    "deflate": zlib.compress,
    "identity": lambda plain: plain,
}


@CLIENTS
@pytest.mark.parametrize("coding", PACKED)
async def test_a_compressed_response_is_decompressed(
    server: Server, open_client: Open, written: Written, coding: str
) -> None:
    server.headers = {"Content-Encoding": coding}
    server.body = PACKED[coding](written("text " * 100_000))
    async with open_client(server.url) as ask:  # type: ignore[attr-defined]
        assert await ask() == "text " * 100_000


@CLIENTS
@pytest.mark.parametrize(
    ("coding", "cut", "sentence"),
    [
        ("gzip", 5, "cannot be decompressed: it ends too early"),
        ("br", 0, "cannot be decompressed: Content-Encoding 'br' was not requested"),
    ],
)
async def test_a_response_that_cannot_be_decompressed_counts_as_unavailable(
    server: Server, open_client: Open, written: Written, coding: str, cut: int, sentence: str
) -> None:
    server.headers = {"Content-Encoding": coding}
    packed = zlib.compress(written("text"), wbits=31)
    server.body = packed[: len(packed) - cut]
    async with open_client(server.url) as ask:  # type: ignore[attr-defined]
        with pytest.raises(ProviderUnavailable, match=sentence):
            await ask()


@CLIENTS
async def test_an_error_response_is_read_only_up_to_its_limit(
    server: Server, open_client: Open, written: Written
) -> None:
    """The end of the response never comes here."""
    server.status, server.length = 503, 56 * MB
    server.body = b"<Response>" + b"<Error>x</Error>" * (LONGEST_REFUSAL // 10)
    async with open_client(server.url) as ask, asyncio.timeout(HANG):  # type: ignore[attr-defined]
        with pytest.raises(ProviderUnavailable, match=r"HTTP (status )?503"):
            await ask()


@CLIENTS
async def test_a_response_with_too_many_elements_is_refused(
    server: Server, open_client: Open, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.body = written("<a/>" * 3000)
    async with open_client(server.url) as ask:  # type: ignore[attr-defined]
        assert await ask() == ""
        monkeypatch.setattr(safe_xml, "MOST_MARKS", 3000)
        with pytest.raises(ProviderUnavailable, match="has too many elements: lower page_size"):
            await ask()


def test_element_paths_find_the_same_elements_as_lxml() -> None:
    root = parse_document(b"<r><a><b>1</b><c/></a><a><b>2</b></a><b>3</b><d><e><b>4</b></e></d></r>")
    for path in ("a/b", "a", "*/b", "d/e/b", "a/x", "x/b"):
        assert list(elements_at(root, path)) == root.findall(path)
        assert element_at(root, path) is root.find(path)


async def test_without_frames_removes_cause_context_and_traceback() -> None:
    try:
        try:
            raise ValueError("the cause")
        except ValueError as error:
            raise ProviderError("the error") from error
    except ProviderError as error:
        bare = http_answers.without_frames(error)
        assert (bare.__cause__, bare.__context__, bare.__traceback__) == (None, None, None)
