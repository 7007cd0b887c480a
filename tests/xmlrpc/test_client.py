"""The client against an OpenNebula on loopback: front-ends that die, hang, send garbage, or do not lead."""

# ruff: noqa: FBT003 - the API's booleans have places, not names

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    NotReached,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    SettingsError,
    Throttled,
    WrongEndpoint,
)
from one_provider_mad.safe_xml import text_of
from one_provider_mad.xmlrpc.client import Client, Connection, check_endpoints
from one_provider_mad.xmlrpc.envelope import DOCUMENTS
from one_provider_mad.xmlrpc.raft import RaftState
from tests.waiting import until
from tests.xmlrpc.partner import FaultKind, Partner, answer_xml

Open = Callable[..., Awaitable[Client]]


@pytest.fixture
def partner() -> Iterator[Partner]:
    with Partner() as partner:
        yield partner


@pytest.fixture
def pair() -> Iterator[Partner]:
    """An OpenNebula with two front-ends."""
    with Partner(front_ends=2) as partner:
        yield partner


@pytest.fixture
async def connect() -> AsyncIterator[Open]:
    """Opens clients, and closes them in the end."""
    async with AsyncExitStack() as stack:

        async def connect(*urls: str, session: str = "oneadmin:secret", **options: Any) -> Client:
            client = Client(Connection(endpoints=urls, **{"timeout": 5.0, **options}), read_session=lambda: session)
            await client.open()
            stack.push_async_callback(client.close)
            return client

        yield connect


async def create(client: Client) -> int:
    """A call that must happen once."""
    number = await client.call("one.template.instantiate", 0, "one", False, "", False, is_repeatable=False)
    assert isinstance(number, int)
    return number


async def name_of(client: Client, number: int) -> str:
    return await client.read("one.vm.info", number, read=lambda vm: text_of(vm.find("NAME")))


def unused_url() -> str:
    """A URL at which no process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/RPC2"


async def test_a_value_and_a_document_are_read_from_answers(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls)
    assert await client.call("one.system.version") == "7.4.0"
    assert await name_of(client, await create(client)) == "one"


@pytest.mark.parametrize("method", DOCUMENTS)
async def test_an_answer_with_another_root_element_is_refused(partner: Partner, connect: Open, method: str) -> None:
    partner.order("page", method)
    client = await connect(*partner.urls)
    with pytest.raises(ProviderUnavailable, match=f"the answer to {method} is not <[A-Z_]+>, it begins with <html>"):
        await client.read(method, read=len)


def test_each_method_that_returns_a_document_has_its_root_element_listed() -> None:
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "one_provider_mad").rglob("*.py")]
    answers = r'"(one\.\w+\.(?:info\w*|raftstatus|config|monitoring))"'
    asked = {method for text in sources for method in re.findall(answers, text)}
    assert asked == DOCUMENTS.keys()


async def test_a_hundred_calls_at_once_share_four_connections(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls, connections=4)
    assert set(await asyncio.gather(*(client.call("one.system.version") for _ in range(100)))) == {"7.4.0"}


# Front-ends


async def test_the_next_front_end_is_called_if_the_first_is_down(partner: Partner, connect: Open) -> None:
    client = await connect(unused_url(), *partner.urls)
    assert await create(client) == 0
    assert await create(client) == 1
    assert partner.count("one.template.instantiate") == 2


async def test_if_no_front_end_can_be_reached_the_error_names_the_last(connect: Open) -> None:
    url = unused_url()
    client = await connect(unused_url(), url)
    with pytest.raises(ProviderUnavailable, match=f"OpenNebula at {url[7:-5]} cannot be reached") as caught:
        await create(client)
    assert caught.value.definite, "nothing was sent"


async def test_a_call_that_one_front_end_received_may_have_been_carried_out(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls, unused_url())
    partner.order("dropped", "one.vm.action")
    with pytest.raises(ProviderUnavailable, match="cannot be reached") as caught:
        await client.call("one.vm.action", "reboot", 0)
    assert not caught.value.definite


async def test_a_call_that_a_follower_refuses_is_sent_to_the_leader(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state, pair.front_ends[1].state = 2, 3
    client = await connect(*pair.urls)
    assert await create(client) == 0
    assert len(pair.vms) == 1


async def test_after_a_change_of_leader_the_next_call_finds_the_new_one(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state, pair.front_ends[1].state = 3, 2
    client = await connect(*pair.urls)
    await create(client)
    pair.front_ends[0].state, pair.front_ends[1].state = 2, 3
    await create(client)
    await create(client)
    asked = [front_end.calls for front_end in pair.front_ends]
    assert [len(calls) for calls in asked] == [2, 2]


async def test_a_call_under_way_when_another_call_finds_the_leader_is_sent_to_the_leader_too(
    pair: Partner, connect: Open
) -> None:
    pair.front_ends[0].state, pair.front_ends[1].state = 2, 3
    client = await connect(*pair.urls)
    pair.order("held", "one.template.instantiate")
    late = asyncio.create_task(create(client))
    await asyncio.to_thread(until, lambda: pair.held)
    assert await client.call("one.system.version") == "7.4.0"
    pair.go_on()
    assert await late == 0


async def test_without_a_leader_a_call_fails_as_throttled_and_not_carried_out(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state = pair.front_ends[1].state = 1
    client = await connect(*pair.urls)
    with pytest.raises(Throttled, match="no OpenNebula front-end leads") as caught:
        await create(client)
    assert caught.value.definite
    assert caught.value.retry_after
    assert not pair.vms


async def test_a_call_refused_during_an_election_is_repeated_once_it_has_ended(pair: Partner, connect: Open) -> None:
    client = await connect(*pair.urls)
    pair.order("no-leader", "one.template.instantiate")
    assert await create(client) == 0
    assert len(pair.vms) == 1


async def test_each_front_end_reports_its_own_raft_state(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state, pair.front_ends[1].state = 2, 3
    parts = [await (await connect(url)).raft_status() for url in pair.urls]
    assert [part.state for part in parts] == [RaftState.FOLLOWER, RaftState.LEADER]
    assert [part.state.may_act for part in parts] == [False, True]
    pair.front_ends[0].state = 0
    alone = await (await connect(pair.urls[0])).raft_status()
    assert (alone.state, alone.server_id, alone.state.may_act) == (RaftState.SOLO, -1, True)
    pair.front_ends[0].state = 9
    assert (await (await connect(pair.urls[0])).raft_status()).state is RaftState.UNKNOWN


# Faults

UNANSWERED: list[FaultKind] = ["http-500", "dropped", "lost-answer", "garbage"]


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_reading_call_without_an_answer_is_sent_to_the_next_front_end(
    pair: Partner, connect: Open, kind: FaultKind
) -> None:
    pair.order(kind)
    assert await (await connect(*pair.urls)).call("one.system.version") == "7.4.0"


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_call_that_must_not_be_repeated_is_sent_once_even_without_an_answer(
    pair: Partner, connect: Open, kind: FaultKind
) -> None:
    client = await connect(*pair.urls)
    pair.order(kind, "one.template.instantiate")
    with pytest.raises(ProviderUnavailable) as caught:
        await create(client)
    assert not caught.value.definite
    assert sum(front_end.calls.count("one.template.instantiate") for front_end in pair.front_ends) == 1
    assert len(pair.vms) == (kind == "lost-answer")


async def test_a_front_end_that_hangs_is_given_up_after_the_timeout(pair: Partner, connect: Open) -> None:
    pair.order("hang")
    client = await connect(*pair.urls, timeout=1)
    assert await client.call("one.system.version") == "7.4.0"
    pair.order("hang", "one.template.instantiate")
    with pytest.raises(ProviderUnavailable, match=r"did not answer one.template.instantiate within 1 s"):
        await create(client)


async def test_the_client_still_works_after_a_cancelled_call(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls)
    partner.order("hang")
    task = asyncio.create_task(client.call("one.system.version"))
    await asyncio.to_thread(until, lambda: partner.front_ends[0].calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.call("one.system.version") == "7.4.0"


async def test_an_answer_beyond_body_limit_is_refused(partner: Partner, connect: Open) -> None:
    partner.templates[9] = ("x" * 100_000, "CPU=1")
    client = await connect(*partner.urls, body_limit=65_536)
    with pytest.raises(ProviderUnavailable, match="more than 65536 bytes: raise body_limit"):
        await client.call("one.template.info", 9)


async def test_an_error_of_opennebula_is_raised_as_our_error_class(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls)
    with pytest.raises(BadParameter, match=r"virtual machine template \[4\]"):
        await client.call("one.template.instantiate", 4, "x", False, "", False)
    with pytest.raises(ProviderUnavailable, match="is not a document"):
        await client.read("one.template.instantiate", 0, "x", False, "", False, read=text_of)


# Credentials


async def test_the_error_about_wrong_credentials_does_not_quote_them(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls, session="oneadmin:hunter2")
    with pytest.raises(AuthenticationRefused) as caught:
        await client.call("one.user.info", -1, False)
    assert "hunter2" not in str(caught.value)
    assert partner.calls == [("one.user.info", (-1, False))]


async def test_a_call_refused_for_its_credentials_is_not_sent_to_another_front_end(
    pair: Partner, connect: Open
) -> None:
    client = await connect(*pair.urls)
    pair.order("refused")
    with pytest.raises(AuthenticationRefused):
        await create(client)
    assert [len(front_end.calls) for front_end in pair.front_ends] == [1, 0]
    assert await create(client) == 0


async def test_replaced_credentials_are_read_again_after_a_refusal(partner: Partner) -> None:
    sessions = iter(["oneadmin:old", "oneadmin:secret"])
    client = Client(Connection(endpoints=tuple(partner.urls)), read_session=lambda: next(sessions))
    await client.open()
    assert await client.call("one.system.version") == "7.4.0"
    await client.close()


async def test_the_client_does_not_open_without_readable_credentials(tmp_path: Path) -> None:
    client = Client(Connection(credentials_file=str(tmp_path / "missing")))
    with pytest.raises(SettingsError, match="missing does not exist"):
        await client.open()
    with pytest.raises(ProviderUnavailable, match="not open"):
        await client.call("one.system.version")
    await client.close()


# Proxies and TLS


@asynccontextmanager
async def proxy(respond: Callable[[], web.StreamResponse | web.Response]) -> AsyncIterator[str]:
    """The URL of a server that sends this answer to every request."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return respond()

    application = web.Application()
    application.router.add_post("/RPC2", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/RPC2"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationRefused),
        (403, PermissionDenied),
        (404, WrongEndpoint),
        (301, WrongEndpoint),
        (429, Throttled),
        (502, ProviderUnavailable),
        (503, NotReached),
    ],
)
async def test_an_http_status_of_a_proxy_becomes_our_error_class(
    connect: Open, status: int, kind: type[ProviderError]
) -> None:
    headers = {"Retry-After": "7", "Location": "http://127.0.0.1:1/"}
    async with proxy(lambda: web.Response(status=status, text="<html>", headers=headers)) as url:
        client = await connect(url)
        with pytest.raises(kind, match=f"HTTP {status}") as caught:
            await create(client)
    assert type(caught.value) is kind
    assert caught.value.retry_after == (7 if kind in (NotReached, Throttled) else None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("<html>No server is available to handle this request.", NotReached), ("<html>", ProviderUnavailable)],
    ids=["no-server-available", "says-nothing"],
)
async def test_a_503_means_not_carried_out_only_if_it_says_that_no_server_is_available(
    connect: Open, text: str, kind: type[ProviderError]
) -> None:
    async with proxy(lambda: web.Response(status=503, text=text)) as url:
        client = await connect(url)
        with pytest.raises(kind, match="HTTP 503") as caught:
            await create(client)
    assert type(caught.value) is kind


async def test_a_retry_after_of_a_proxy_counts_as_thirty_seconds_at_most(connect: Open) -> None:
    async with proxy(lambda: web.Response(status=429, headers={"Retry-After": "9" * 4000})) as url:
        client = await connect(url)
        with pytest.raises(Throttled) as caught:
            await create(client)
    assert caught.value.retry_after == 30


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    place = tmp_path_factory.mktemp("tls")
    cert, key = place / "cert.pem", place / "key.pem"
    subject = ["-subj", "/CN=partner", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-keyout", key, "-out", cert, "-days", "2", *subject], check=True, capture_output=True)
    return cert, key


async def test_no_call_is_sent_to_a_server_with_an_untrusted_certificate(
    connect: Open, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    heard: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(await request.read())
        return web.Response(text=answer_xml(0, "7.4.0"), content_type="text/xml")

    application = web.Application()
    application.router.add_post("/RPC2", answer)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}/RPC2"
    with pytest.raises(ProviderUnavailable, match="certificate is not trusted, self-signed certificate, check ONE_"):
        await (await connect(url)).call("one.system.version")
    assert not heard, "no password goes to a stranger"
    assert await (await connect(url, ca_file=str(cert))).call("one.system.version") == "7.4.0"
    await runner.cleanup()


async def test_the_client_does_not_open_with_an_unreadable_ca_file(connect: Open, tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate\n")
    for path in (tmp_path / "missing.pem", empty):
        with pytest.raises(SettingsError, match=f"ca_file holds no usable certificates: .*{path.name}"):
            await connect("https://127.0.0.1:1/RPC2", ca_file=str(path))


@pytest.mark.parametrize(
    ("endpoints", "sentence"),
    [
        ((), "name at least one"),
        (("localhost:2633",), "is no URL such as http"),
        (("ftp://one/RPC2",), "is no URL"),
        (("htp://user:pass@one/RPC2",), "'one/RPC2' is no URL"),
        (("http:///RPC2",), "is no URL"),
        (("http://one:99999/RPC2",), "is no URL"),
        (("http://one/RPC2", "http://user:pass@one/RPC2"), "one has credentials in its URL"),
    ],
)
def test_an_endpoint_that_is_no_http_url_or_has_credentials_is_refused(
    endpoints: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        check_endpoints(endpoints)
    assert "pass" not in str(caught.value)


def test_importing_the_client_does_not_import_aiohttp() -> None:
    modules = ["one_provider_mad.xmlrpc.client", "one_provider_mad.providers.opennebula.provider"]
    code = f"import sys, {', '.join(modules)}; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
