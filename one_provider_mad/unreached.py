"""Detects HTTP calls that were certainly not carried out: without a connection, or with a 503 that says so."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

from one_provider_mad.errors import NotReached, WrongEndpoint

SERVICE_UNAVAILABLE = 503

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""Errors of getaddrinfo(3) for a name that does not exist; EAI_AGAIN is none, as no name server answered."""

_ERRNO = re.compile(r"\[Errno (\d+)\]")

_SAYS_SO = re.compile(
    rb"overloaded|unable to (?:handle|process)|(?:can(?:no|')t|cannot|not able to) (?:handle|process)"
    rb"|no server is available|not (?:been )?(?:carried out|processed)",
    re.IGNORECASE,
)
"""Texts in the 503 of EC2, HAProxy and others for a call that they did not carry out or forward."""


def unreached(error: BaseException, *, who: str, setting: str, was_reached: bool) -> NotReached | None:
    """Return the error for a call that was certainly not sent; None where it may have been sent.

    Args:
        error: the exception of aiohttp.
        who: name of the service, for the message.
        setting: name of the setting that holds the address.
        was_reached: the address has answered before; then a missing name or an untrusted certificate counts as an
            outage.
    """
    import aiohttp

    match error:
        case aiohttp.InvalidURL():
            is_lasting, was_reached = True, False
        case aiohttp.ConnectionTimeoutError():
            is_lasting = False
        case aiohttp.ClientHttpProxyError():
            is_lasting = error.status < 500
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            is_lasting = True
        case aiohttp.ClientConnectorError():
            is_lasting = error.os_error.errno in _NO_SUCH_NAME
        case _:
            return None
    reason = _cause(error)
    if is_lasting and not was_reached:
        return WrongEndpoint(f"{who} cannot be reached: {reason}, check {setting}")
    return NotReached(f"{who} cannot be reached: {reason}; see {setting}")


def says_not_carried_out(status: int, body: bytes, *, retry_after: float | None) -> bool:
    """Return True for a 503 that says that the call was not carried out; any other may come after its effect."""
    return status == SERVICE_UNAVAILABLE and (retry_after is not None or bool(_SAYS_SO.search(body)))


def _cause(error: BaseException) -> str:
    """Return the reason of a failed connection, without the address; a class name only where there is nothing else."""
    chain = list(_causes(error))
    if (name := type(error).__name__) == "InvalidURL":
        return "its URL is invalid"
    if name == "ClientHttpProxyError":
        return f"the proxy refuses the connection with HTTP {getattr(error, 'status', 0)}"
    for each in chain:
        if verdict := getattr(each, "verify_message", ""):
            return f"its certificate is not trusted, {verdict}"
        if isinstance(each, ssl.SSLError) and not hasattr(each, "certificate_error"):
            return f"no TLS connection, {_reason(each)}"
    for each in chain:
        if isinstance(each, TimeoutError):
            return "it does not accept connections in time"
        if type(each).__name__ in ("ClientConnectorDNSError", "gaierror"):
            return "its name cannot be resolved"
    for each in chain:
        if isinstance(each, OSError) and (number := _number_of(each)):
            return os.strerror(number).lower()
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and the chain of errors that aiohttp wrapped."""
    while error is not None:
        yield error
        error = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error.__cause__


def _number_of(error: OSError) -> int:
    """Return the errno; after trying several addresses asyncio keeps it only in the text."""
    if error.errno:
        return error.errno
    found = _ERRNO.search(str(error))
    return int(found[1]) if found else 0


def _reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason; errors raised by Python itself have none."""
    return str(getattr(error, "reason", None) or "handshake failed").replace("_", " ").lower()
