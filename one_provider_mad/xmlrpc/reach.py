"""Sentences for a person: which OpenNebula cannot be reached or logged in to, why, and which setting says so."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from one_provider_mad.errors import AuthenticationRefused

_ERRNO = re.compile(r"\[Errno (\d+)\]")


def place_of(endpoint: str, *, whose: str = "OpenNebula") -> str:
    """The host and port; a URL may hold a password."""
    parts = urlsplit(endpoint)
    return f"{whose} at {parts.hostname}" + (f":{parts.port}" if parts.port else "")


def unreachable(place: str, error: BaseException, *, setting: str) -> str:
    """The sentence for a connection that was not made.

    Args:
        place: where, as `place_of` says it.
        error: what aiohttp raised.
        setting: where the address stands.
    """
    return f"{place} cannot be reached: {_cause(error)}; see {setting}"


def login_refused(place: str, session: str, *, setting: str) -> AuthenticationRefused:
    """The error for a user and password that are not accepted.

    Args:
        place: where, as `place_of` says it.
        session: `user:password`; only the user is named.
        setting: where the login stands.
    """
    user = session.partition(":")[0]
    return AuthenticationRefused(f"{place} refuses the login of {user}: see {setting}")


def _cause(error: BaseException) -> str:
    """Why, without the address, and without the names of classes where anything else is known."""
    chain = list(_causes(error))
    for each in chain:
        if verdict := getattr(each, "verify_message", ""):
            return f"its certificate is not trusted, {verdict}"
        if isinstance(each, ssl.SSLError) and not hasattr(each, "certificate_error"):
            return f"no TLS connection, {getattr(each, 'reason', 'handshake failed').replace('_', ' ').lower()}"
    for each in chain:
        if isinstance(each, TimeoutError):
            return "it does not take connections in time"
        if type(each).__name__ in ("ClientConnectorDNSError", "gaierror"):
            return "its name cannot be resolved"
    for each in chain:
        if isinstance(each, OSError) and (number := _number_of(each)):
            return os.strerror(number).lower()
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what aiohttp has wrapped or was handling."""
    while error is not None:
        yield error
        error = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error.__cause__


def _number_of(error: OSError) -> int:
    """The system's number; of several addresses tried, asyncio keeps it in the text alone."""
    if error.errno:
        return error.errno
    found = _ERRNO.search(str(error))
    return int(found[1]) if found else 0
