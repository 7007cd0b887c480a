"""Who cannot be reached or logged in to is told in plain words, with the setting that says so."""

from __future__ import annotations

import socket
import ssl

import aiohttp
import pytest

from one_provider_mad.xmlrpc.reach import login_refused, place_of, unreachable


async def cause_at(url: str) -> str:
    """The sentence for an endpoint that takes no call."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_connect=5)) as http:
        with pytest.raises(aiohttp.ClientError) as caught:
            await http.post(url)
    return unreachable("it", caught.value, setting="X")


async def test_a_port_that_nobody_listens_at_is_a_refused_connection() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert await cause_at(f"http://127.0.0.1:{port}/RPC2") == "it cannot be reached: connection refused; see X"
    sentence = await cause_at(f"http://localhost:{port}/RPC2")
    assert sentence == "it cannot be reached: connection refused; see X", "several addresses, one sentence"


async def test_a_name_that_does_not_exist_is_told() -> None:
    sentence = await cause_at("http://partner.invalid/RPC2")
    assert sentence == "it cannot be reached: its name cannot be resolved; see X"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (aiohttp.ConnectionTimeoutError(), "it does not take connections in time"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "no TLS connection, handshake failed"),
        (OSError(113, "No route to host"), "no route to host"),
        (aiohttp.InvalidURL("x"), "x"),
        (ValueError(), "ValueError"),
    ],
)
def test_each_cause_is_in_words(error: Exception, cause: str) -> None:
    assert unreachable("it", error, setting="X") == f"it cannot be reached: {cause}; see X"


def test_neither_place_nor_login_tells_a_password() -> None:
    assert place_of("https://user:secret@partner.example:2633/RPC2", whose="the partner") == (
        "the partner at partner.example:2633"
    )
    assert str(login_refused("the partner", "alice:secret", setting="X")) == (
        "the partner refuses the login of alice: see X"
    )
