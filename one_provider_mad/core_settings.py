"""Reads the address of oned's API from the settings that oned writes.

oned writes its settings to `config` in its var directory before it starts drivers, one attribute per line
(src/nebula/Nebula.cc, start; src/template/Template.cc, to_str).
"""

from __future__ import annotations

import re

_SETTING = re.compile(r'^[ \t]*(PORT|LISTEN_ADDRESS)[ \t]*=[ \t]*"?([^"\s]*)"?', re.MULTILINE)
_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read from oned's configuration
_HIGHEST_PORT = 65_535


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
