"""Reads the address of oned's API, and the attributes of VMs that oned encrypts, from the settings that oned writes.

oned writes its settings to `config` in its var directory before it starts drivers, one attribute per line
(src/nebula/Nebula.cc, start; src/template/Template.cc, to_str).
"""

from __future__ import annotations

import re

_SETTING = re.compile(r'^[ \t]*(PORT|LISTEN_ADDRESS)[ \t]*=[ \t]*"?([^"\s]*)"?', re.MULTILINE)
_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read from oned's configuration
_HIGHEST_PORT = 65_535

_ENCRYPTED = re.compile(r'^[ \t]*VM_ENCRYPTED_ATTR[ \t]*=[ \t]*"?([^"\s]+)"?', re.MULTILINE)


def listening_at(config: str) -> tuple[str, int] | None:
    """Return address and port of the API for clients on this machine; None when the file lacks them. Blocks.

    Args:
        config: path of the file.
    """
    try:
        with open(config, encoding="utf-8", errors="replace") as file:
            settings: dict[str, str] = dict(_SETTING.findall(file.read()))
    except OSError:
        return None
    address, port = settings.get("LISTEN_ADDRESS", ""), settings.get("PORT", "")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= _HIGHEST_PORT:
        return None
    return _ANY_ADDRESS.get(address, address), int(port)


def encrypted_vm_attributes(config: str) -> frozenset[tuple[str, str]] | None:
    """Return the attributes of VM_ENCRYPTED_ATTR, names in upper case; None when the file cannot be read. Blocks.

    `CONTEXT/PASSWORD` is ("CONTEXT", "PASSWORD"), an attribute at the top ("NAME", ""). The core encrypts them in the
    template and in the user template (src/vm/VirtualMachine.cc, encrypt).

    Args:
        config: path of the file.
    """
    try:
        with open(config, encoding="utf-8", errors="replace") as file:
            paths = [each.upper().partition("/") for each in _ENCRYPTED.findall(file.read())]
    except OSError:
        return None
    return frozenset((name, inner) for name, _, inner in paths)
