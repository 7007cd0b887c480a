"""Sentences for a person: which OpenNebula cannot be logged in to, as whom, and which setting says so."""

from __future__ import annotations

from urllib.parse import urlsplit

from one_provider_mad.errors import AuthenticationRefused


def place_of(endpoint: str, *, whose: str = "OpenNebula") -> str:
    """The host and port; a URL may hold a password."""
    parts = urlsplit(endpoint)
    return f"{whose} at {parts.hostname}" + (f":{parts.port}" if parts.port else "")


def login_refused(place: str, session: str, *, setting: str) -> AuthenticationRefused:
    """The error for a user and password that are not accepted.

    Args:
        place: where, as `place_of` says it.
        session: `user:password`; only the user is named.
        setting: where the login stands.
    """
    user = session.partition(":")[0]
    return AuthenticationRefused(f"{place} refuses the login of {user}: see {setting}")
