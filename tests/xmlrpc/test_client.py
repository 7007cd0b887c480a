"""The client against an OpenNebula on loopback: front-ends that die, hang, lie, or do not lead."""

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

from one_provider_mad.documents import text_of
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


def nobody() -> str:
    """A URL that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/RPC2"


async def test_a_value_and_a_document_are_read(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls)
    assert await client.call("one.system.version") == "7.4.0"
    assert await name_of(client, await create(client)) == "one"


@pytest.mark.parametrize("method", DOCUMENTS)
async def test_a_document_that_was_not_asked_for_is_no_answer(partner: Partner, connect: Open, method: str) -> None:
    partner.order("page", method)
    client = await connect(*partner.urls)
    with pytest.raises(ProviderUnavailable, match=f"the answer to {method} is not <[A-Z_]+>, it begins with <html>"):
        await client.read(method, read=len)


def test_every_document_that_is_read_has_a_root_of_its_own() -> None:
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "one_provider_mad").rglob("*.py")]
    asked = {method for text in sources for method in re.findall(r'"(one\.\w+\.(?:info\w*|raftstatus|config))"', text)}
    assert asked == DOCUMENTS.keys()


async def test_many_ask_at_once(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls, connections=4)
    assert set(await asyncio.gather(*(client.call("one.system.version") for _ in range(100)))) == {"7.4.0"}


# Front-ends


async def test_a_front_end_that_is_down_is_passed_over_and_not_asked_first_again(
    partner: Partner, connect: Open
) -> None:
    client = await connect(nobody(), *partner.urls)
    assert await create(client) == 0
    assert await create(client) == 1
    assert partner.count("one.template.instantiate") == 2


async def test_when_none_can_be_reached_the_sentence_names_the_last(connect: Open) -> None:
    url = nobody()
    client = await connect(nobody(), url)
    with pytest.raises(ProviderUnavailable, match=f"OpenNebula at {url[7:-5]} cannot be reached") as caught:
        await create(client)
    assert caught.value.definite, "nothing was sent"


async def test_a_call_of_which_one_front_end_may_know_was_perhaps_carried_out(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls, nobody())
    partner.order("dropped", "one.vm.action")
    with pytest.raises(ProviderUnavailable, match="cannot be reached") as caught:
        await client.call("one.vm.action", "reboot", 0)
    assert not caught.value.definite


async def test_a_front_end_that_does_not_lead_is_passed_over(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state, pair.front_ends[1].state = 2, 3
    client = await connect(*pair.urls)
    assert await create(client) == 0
    assert len(pair.vms) == 1


async def test_when_the_leader_changes_the_next_call_finds_it(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state, pair.front_ends[1].state = 3, 2
    client = await connect(*pair.urls)
    await create(client)
    pair.front_ends[0].state, pair.front_ends[1].state = 2, 3
    await create(client)
    await create(client)
    asked = [front_end.calls for front_end in pair.front_ends]
    assert [len(calls) for calls in asked] == [2, 2]


async def test_when_the_leader_changes_whoever_was_waiting_finds_it_as_well(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state, pair.front_ends[1].state = 2, 3
    client = await connect(*pair.urls)
    pair.order("held", "one.template.instantiate")
    late = asyncio.create_task(create(client))
    await asyncio.to_thread(until, lambda: pair.held)
    assert await client.call("one.system.version") == "7.4.0"
    pair.go_on()
    assert await late == 0


async def test_without_any_leader_the_call_was_not_carried_out_and_is_paced(pair: Partner, connect: Open) -> None:
    pair.front_ends[0].state = pair.front_ends[1].state = 1
    client = await connect(*pair.urls)
    with pytest.raises(Throttled, match="no OpenNebula front-end leads") as caught:
        await create(client)
    assert caught.value.definite
    assert caught.value.retry_after
    assert not pair.vms


async def test_an_election_that_is_just_over_costs_nothing(pair: Partner, connect: Open) -> None:
    client = await connect(*pair.urls)
    pair.order("no-leader", "one.template.instantiate")
    assert await create(client) == 0
    assert len(pair.vms) == 1


async def test_each_front_end_tells_its_own_part(pair: Partner, connect: Open) -> None:
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
async def test_a_question_that_is_not_answered_is_put_to_the_next_front_end(
    pair: Partner, connect: Open, kind: FaultKind
) -> None:
    pair.order(kind)
    assert await (await connect(*pair.urls)).call("one.system.version") == "7.4.0"


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_what_must_happen_once_is_not_sent_twice(pair: Partner, connect: Open, kind: FaultKind) -> None:
    client = await connect(*pair.urls)
    pair.order(kind, "one.template.instantiate")
    with pytest.raises(ProviderUnavailable) as caught:
        await create(client)
    assert not caught.value.definite
    assert sum(front_end.calls.count("one.template.instantiate") for front_end in pair.front_ends) == 1
    assert len(pair.vms) == (kind == "lost-answer")


async def test_a_front_end_that_hangs_is_given_up(pair: Partner, connect: Open) -> None:
    pair.order("hang")
    client = await connect(*pair.urls, timeout=0.2)
    assert await client.call("one.system.version") == "7.4.0"
    pair.order("hang", "one.template.instantiate")
    with pytest.raises(ProviderUnavailable, match=r"did not answer one.template.instantiate within 0.2 s"):
        await create(client)


async def test_a_call_that_is_cancelled_leaves_the_client_fit(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls)
    partner.order("hang")
    task = asyncio.create_task(client.call("one.system.version"))
    await asyncio.to_thread(until, lambda: partner.front_ends[0].calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.call("one.system.version") == "7.4.0"


async def test_an_answer_that_is_too_large_is_not_taken(partner: Partner, connect: Open) -> None:
    partner.templates[9] = ("x" * 100_000, "CPU=1")
    client = await connect(*partner.urls, body_limit=65_536)
    with pytest.raises(ProviderUnavailable, match="more than 65536 bytes: raise body_limit"):
        await client.call("one.template.info", 9)


async def test_a_refusal_is_raised_by_its_kind(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls)
    with pytest.raises(BadParameter, match=r"virtual machine template \[4\]"):
        await client.call("one.template.instantiate", 4, "x", False, "", False)
    with pytest.raises(ProviderUnavailable, match="is not a document"):
        await client.read("one.template.instantiate", 0, "x", False, "", False, read=text_of)


# Credentials


async def test_wrong_credentials_are_told_so_and_never_quoted(partner: Partner, connect: Open) -> None:
    client = await connect(*partner.urls, session="oneadmin:hunter2")
    with pytest.raises(AuthenticationRefused) as caught:
        await client.call("one.user.info", -1, False)
    assert "hunter2" not in str(caught.value)
    assert partner.calls == [("one.user.info", (-1, False))]


async def test_a_refusal_of_good_credentials_is_not_put_to_another_front_end(pair: Partner, connect: Open) -> None:
    client = await connect(*pair.urls)
    pair.order("refused")
    with pytest.raises(AuthenticationRefused):
        await create(client)
    assert [len(front_end.calls) for front_end in pair.front_ends] == [1, 0]
    assert await create(client) == 0


async def test_credentials_that_were_replaced_are_read_again(partner: Partner) -> None:
    sessions = iter(["oneadmin:old", "oneadmin:secret"])
    client = Client(Connection(endpoints=tuple(partner.urls)), read_session=lambda: next(sessions))
    await client.open()
    assert await client.call("one.system.version") == "7.4.0"
    await client.close()


async def test_credentials_that_cannot_be_used_fail_the_opening(tmp_path: Path) -> None:
    client = Client(Connection(credentials_file=str(tmp_path / "missing")))
    with pytest.raises(SettingsError, match="missing does not exist"):
        await client.open()
    with pytest.raises(ProviderUnavailable, match="not open"):
        await client.call("one.system.version")
    await client.close()


# What stands between


@asynccontextmanager
async def proxy(respond: Callable[[], web.StreamResponse | web.Response]) -> AsyncIterator[str]:
    """The URL of a machine that answers whatever is asked with this."""

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
async def test_what_a_proxy_says_is_understood(connect: Open, status: int, kind: type[ProviderError]) -> None:
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
    ids=["says-that-nobody-took-it", "says-nothing"],
)
async def test_a_503_is_no_answer_unless_it_says_that_nobody_took_the_call(
    connect: Open, text: str, kind: type[ProviderError]
) -> None:
    async with proxy(lambda: web.Response(status=503, text=text)) as url:
        client = await connect(url)
        with pytest.raises(kind, match="HTTP 503") as caught:
            await create(client)
    assert type(caught.value) is kind


async def test_no_proxy_makes_us_wait_longer_than_half_a_minute(connect: Open) -> None:
    async with proxy(lambda: web.Response(status=429, headers={"Retry-After": "9" * 4000})) as url:
        client = await connect(url)
        with pytest.raises(Throttled) as caught:
            await create(client)
    assert caught.value.retry_after == 30


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    place = tmp_path_factory.mktemp("tls")
    cert, key = place / "cert.pem", place / "key.pem"
    subject = ["-subj", "/CN=partner", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-keyout", key, "-out", cert, "-days", "2", *subject], check=True, capture_output=True)
    return cert, key


async def test_only_a_trusted_certificate_is_spoken_to(connect: Open, certificate: tuple[Path, Path]) -> None:
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


async def test_certificates_that_cannot_be_read_fail_the_opening(connect: Open, tmp_path: Path) -> None:
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
def test_a_url_that_no_opennebula_can_have_is_refused(endpoints: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        check_endpoints(endpoints)
    assert "pass" not in str(caught.value)


def test_nobody_pays_for_the_client_before_it_is_opened() -> None:
    modules = ["one_provider_mad.xmlrpc.client", "one_provider_mad.providers.opennebula.provider"]
    code = f"import sys, {', '.join(modules)}; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
