"""Calls over HTTP that certainly were not carried out: no connection came about, or a 503 says so."""

from __future__ import annotations

import os
import re
import socket

from one_provider_mad.errors import NotReached, WrongEndpoint

SERVICE_UNAVAILABLE = 503

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""The resolver has answered that there is no such name; it could not ask anybody with EAI_AGAIN (getaddrinfo(3))."""

_SAYS_SO = re.compile(
    rb"overloaded|unable to (?:handle|process)|(?:can(?:no|')t|cannot|not able to) (?:handle|process)"
    rb"|no server is available|not (?:been )?(?:carried out|processed)",
    re.IGNORECASE,
)
"""What EC2, HAProxy and others write for a call that they hand on to nobody."""


def unreached(error: BaseException, *, who: str, setting: str, was_reached: bool) -> NotReached | None:
    """What an error of aiohttp means where the call was certainly not sent; None where it may have been.

    Args:
        error: what aiohttp has raised.
        who: who was to be reached, for the sentence.
        setting: what the configuration calls the address.
        was_reached: an answer came from there before; then a name that does not exist, or a certificate that is not
            trusted, is an outage like any other.
    """
    import aiohttp

    match error:
        case aiohttp.InvalidURL():
            return WrongEndpoint(f"{who} cannot be reached: its URL cannot be read, check {setting}")
        case aiohttp.ConnectionTimeoutError():
            return NotReached(f"{who} cannot be reached: it takes no connection")
        case aiohttp.ClientHttpProxyError():
            is_lasting = error.status < 500
            reason = f"the proxy refuses the connection with HTTP {error.status}"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            is_lasting, reason = True, f"TLS cannot be agreed on: {_certificate_reason(error)}"
        case aiohttp.ClientConnectorError():
            is_lasting, reason = error.os_error.errno in _NO_SUCH_NAME, _reason(error.os_error)
        case _:
            return None
    if is_lasting and not was_reached:
        return WrongEndpoint(f"{who} cannot be reached: {reason}, check {setting}")
    return NotReached(f"{who} cannot be reached: {reason}")


def says_not_carried_out(status: int, body: bytes, *, retry_after: float | None) -> bool:
    """True for a 503 that says that nobody took the call; another one may come of a server that was at work on it."""
    return status == SERVICE_UNAVAILABLE and (retry_after is not None or bool(_SAYS_SO.search(body)))


def _reason(error: OSError) -> str:
    """Connection refused, No route to host... in the system's words."""
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved ({error.strerror})"
    return os.strerror(error.errno) if error.errno else str(error)


def _certificate_reason(error: BaseException) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause)
