"""User data as lines for a shell: for OpenNebula's one-context, and in the form of release 0.1."""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.guest.effects import sentences
from one_provider_mad.guest.passwords import hashed
from one_provider_mad.guest.reading import FILES, KEYS, OF_DISK, OF_NETWORK, SECRET, Context

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def old_lines(attributes: Mapping[str, str]) -> bytes:
    """Return every attribute as a line, as release 0.1 did."""
    return "".join(f'{name}="{_quoted(value)}"\n' for name, value in attributes.items()).encode()


def one_context_data(attributes: Mapping[str, str], context: Context, *, purpose: str) -> tuple[bytes, tuple[str, ...]]:
    """Return user data for one-context, b"" for none, and sentences about everything that does not reach the guest.

    Its one-contextd fetches it without a session token, and has a shell read it (one-apps, usr/sbin/one-contextd). It
    takes no gzip.

    Args:
        attributes: CONTEXT.
        context: the same, as it was read.
        purpose: salt of the password's hash.
    """
    sent = {
        name: value
        for name, value in attributes.items()
        if value.strip() and name not in {*SECRET, *KEYS, *FILES, *context.left_out} and _is_sent(name)
    }
    if context.keys:
        sent["SSH_PUBLIC_KEY"] = "\n".join(context.keys)
    if password := context.password.hashed or (
        hashed(context.password.plain, purpose=purpose) if context.password.plain else ""
    ):
        sent["CRYPTED_PASSWORD"] = password
    faults = (*context.faults, *sentences(context, lambda effect: effect.one_context))
    if not sent:
        return b"", faults
    # Without this, loc-10-network removes the image's own configuration of its interfaces.
    sent.setdefault("NETCFG_TYPE", "none")
    return old_lines(sent), faults


def _is_sent(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not (OF_DISK.fullmatch(name) or OF_NETWORK.fullmatch(name))


def _quoted(value: str) -> str:
    for special in '\\"$`':
        value = value.replace(special, f"\\{special}")
    return value
