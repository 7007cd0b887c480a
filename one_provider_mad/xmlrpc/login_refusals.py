"""Error messages for an OpenNebula that refuses the login: which one, the user, and the setting to check."""

from __future__ import annotations

from urllib.parse import urlsplit

from one_provider_mad.errors import AuthenticationRefused


def endpoint_name(endpoint: str, *, peer: str = "OpenNebula") -> str:
    """Return name, host and port for error messages, without the rest of the URL, which may hold a password."""
    parts = urlsplit(endpoint)
    return f"{peer} at {parts.hostname}" + (f":{parts.port}" if parts.port else "")


def login_refused(place: str, session: str, *, setting: str) -> AuthenticationRefused:
    """Return the error for a user and password that are not accepted.

    Args:
        place: as `endpoint_name` returns it.
        session: `user:password`; only the user is named.
        setting: name of the setting that holds the login.
    """
    user = session.partition(":")[0]
    return AuthenticationRefused(f"{place} refuses the login of {user}: see {setting}")
