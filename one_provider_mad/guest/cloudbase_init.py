"""User data for cloudbase-init, which reads part of what cloud-init does, on Windows.

Facts: cloudbaseinit/plugins/common/userdata.py, userdatautils.py and userdataplugins/ of cloudbase-init 1.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.message import Message
from typing import Any

from one_provider_mad.guest.effects import sentences
from one_provider_mad.guest.parts import CONFIG, SHELL_SCRIPT, given_part, message, part, unpacked
from one_provider_mad.guest.reading import Context

_EXTENSIONS = {
    b"rem cmd": "cmd",
    b"#!/usr/bin/env python": "py",
    b"#!": "sh",
    b"#ps1": "ps1",
}
"""How a script begins, and the extension by which cloudbase-init tells what runs it."""

_OTHERS = (b"#ps1_x86", b"<script>", b"<powershell>")
"""Beginnings of scripts that it tells by their text, if their names have no extension."""


def cloudbase_init_data(context: Context) -> tuple[bytes, tuple[str, ...]]:
    """Return user data, b"" for none, and sentences about everything that does not reach the guest.

    The user's password is in it as it is: Windows takes no hash.
    """
    faults = [*context.faults, *sentences(context, lambda effect: effect.cloudbase_init)]
    if not context.user and (context.keys or context.password.plain):
        faults.append("CONTEXT has no USERNAME, so no user on Windows gets its SSH keys and PASSWORD: set USERNAME")
    given = unpacked(context.given)
    own = list(_own_parts(context))
    if not own:
        return given, tuple(faults)
    theirs = given_part(given) if given.strip() else None
    if given.strip() and theirs is None:
        # Scripts whose first line is Windows's own; a part has a name, else cloudbase-init fails.
        theirs = _script(given, name="user-data")
    return message([*([theirs] if theirs else []), *own]), tuple(faults)


def _own_parts(context: Context) -> Iterator[Message]:
    if config := dict(_config(context)):
        text = json.dumps(config, ensure_ascii=True, indent=1)
        yield part(CONFIG, f"#cloud-config\n{text}\n".encode(), name="one-context.cfg")
    if context.start_script.strip():
        yield _script(context.start_script, name="start-script")


def _config(context: Context) -> Iterator[tuple[str, Any]]:
    if context.hostname:
        yield "set_hostname", context.hostname.split(".")[0]
    if context.timezone:
        yield "set_timezone", context.timezone
    if context.user:
        user: dict[str, Any] = {"name": context.user}
        if context.has_sudo:
            user["groups"] = ["Administrators"]
        if context.password.plain:
            user["passwd"] = context.password.plain
        if context.keys:
            user["ssh_authorized_keys"] = list(context.keys)
        yield "users", [user]


def _script(body: bytes, *, name: str) -> Message:
    start = body.lstrip()[:40].lower()
    if start.startswith(_OTHERS):
        return part(SHELL_SCRIPT, body, name=name)
    extension = next((extension for begin, extension in _EXTENSIONS.items() if start.startswith(begin)), "ps1")
    return part(SHELL_SCRIPT, body, name=f"{name}.{extension}")
