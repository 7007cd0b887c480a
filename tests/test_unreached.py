"""Errors of aiohttp and HTTP responses that prove that a call was not carried out; with real sockets if possible."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from one_provider_mad.errors import NotReached, WrongEndpoint
from one_provider_mad.unreached import says_not_carried_out, unreached

KEY = ConnectionKey("cloud.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)

NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SEVERAL = (
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno 111] Connect call failed ('127.0.0.1', 9)"
)
"""The message of aiohttp for a name with several addresses, which is unfit for an operator."""
NO_RESOLVER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def meaning(error: BaseException, *, was_reached: bool) -> NotReached | None:
    return unreached(error, who="EC2 at cloud.example", setting="endpoint_url", was_reached=was_reached)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def raised(http: aiohttp.ClientSession, url: str) -> aiohttp.ClientError:
    with pytest.raises(aiohttp.ClientError) as caught:
        await http.post(url)
    return caught.value


async def test_a_refused_connection_counts_as_not_reached(http: aiohttp.ClientSession) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        errors = [await raised(http, f"http://{host}:{port}/") for host in ("127.0.0.1", "localhost")]
    for error, was_reached in product(errors, (False, True)):
        found = meaning(error, was_reached=was_reached)
        assert type(found) is NotReached
        assert str(found) == "EC2 at cloud.example cannot be reached: connection refused; see endpoint_url"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (aiohttp.ConnectionTimeoutError(), "it does not accept connections in time"),
        (aiohttp.ClientConnectorDNSError(KEY, NO_NAME), "its name cannot be resolved"),
        (aiohttp.ClientConnectorError(KEY, OSError(113, "No route to host")), "no route to host"),
        (aiohttp.ClientConnectorError(KEY, OSError(SEVERAL)), "connection refused;"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong")), "no TLS connection, handshake failed"),
        (aiohttp.InvalidURL("x"), "its URL is invalid"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_error_names_the_cause_in_words(error: Exception, cause: str) -> None:
    assert f"cannot be reached: {cause}" in str(meaning(error, was_reached=True))


async def test_an_invalid_url_counts_as_wrong_endpoint(http: aiohttp.ClientSession) -> None:
    assert type(meaning(await raised(http, "http://"), was_reached=True)) is WrongEndpoint


@pytest.mark.parametrize(
    ("error", "first", "later"),
    [
        pytest.param(aiohttp.ClientConnectorDNSError(KEY, NO_NAME), WrongEndpoint, NotReached, id="no-such-name"),
        pytest.param(aiohttp.ClientConnectorDNSError(KEY, NO_RESOLVER), NotReached, NotReached, id="no-resolver"),
        pytest.param(
            aiohttp.ClientConnectorError(KEY, OSError(113, "No route to host")), NotReached, NotReached, id="no-route"
        ),
        pytest.param(
            aiohttp.ClientConnectorCertificateError(KEY, ValueError("self-signed")),
            WrongEndpoint,
            NotReached,
            id="certificate",
        ),
        pytest.param(aiohttp.ConnectionTimeoutError(), NotReached, NotReached, id="connection-timeout"),
    ],
)
def test_unknown_names_and_certificates_count_as_outages_only_after_a_successful_call(
    error: BaseException, first: type[NotReached], later: type[NotReached]
) -> None:
    assert type(meaning(error, was_reached=False)) is first
    assert type(meaning(error, was_reached=True)) is later
    assert str(meaning(error, was_reached=False)).startswith("EC2 at cloud.example cannot be reached: ")
    assert ("check endpoint_url" in str(meaning(error, was_reached=False))) is (first is WrongEndpoint)


@pytest.mark.parametrize(
    "error",
    [aiohttp.ServerDisconnectedError(), aiohttp.ServerTimeoutError(), aiohttp.ClientPayloadError(), TimeoutError()],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_lost_before_the_answer_leaves_open_whether_the_call_was_carried_out(error: BaseException) -> None:
    assert meaning(error, was_reached=True) is None


@pytest.mark.parametrize(
    ("status", "body", "details", "says_so"),
    [
        (503, b"The server is overloaded and can't handle the request", {}, True),
        (503, b"<html>503 Service Unavailable<p>No server is available to handle this request.", {}, True),
        (503, b"", {"retry_after": 3.0}, True),
        (503, b"", {}, False),
        (503, b"The request has failed due to a temporary failure of the server.", {}, False),
        (502, b"No server is available to handle this request.", {}, False),
        (500, b"", {"retry_after": 3.0}, False),
    ],
)
def test_only_a_503_of_a_proxy_or_with_retry_after_proves_that_a_call_was_not_carried_out(
    status: int, body: bytes, details: dict[str, Any], *, says_so: bool
) -> None:
    assert says_not_carried_out(status, body, **{"retry_after": None, **details}) is says_so
