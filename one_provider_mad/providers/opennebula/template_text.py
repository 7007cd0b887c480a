"""OpenNebula's template text, written so that its parser reads the same values. Pure.

The lexer (src/parsers/template_parser.l) knows one escape, a backslash before a quote; a value that ends in a backslash
swallows the quote after it, and `]]>` anywhere in a line ends the parsing. Neither can be written, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_FORBIDDEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f\ud800-\udfff\ufffe\uffff]")


class UnwritableError(ValueError):
    """A template text cannot hold this; the sentence says which value."""


def attribute(name: str, value: str) -> str:
    """Write `NAME="value"`. Raises UnwritableError."""
    return f"{_named(name)}={_quoted(name, value)}"


def vector(name: str, values: Mapping[str, str]) -> str:
    """Write `NAME=[ A="1", B="2" ]`; empty values are left out. Raises UnwritableError."""
    inner = ",\n  ".join(attribute(key, value) for key, value in values.items() if value)
    return f"{_named(name)}=[\n  {inner} ]"


def is_writable(value: str) -> bool:
    """Return True when a value can be written unchanged."""
    return not (value.endswith("\\") or "]]>" in value or _FORBIDDEN.search(value))


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UnwritableError(f"{name!r} is no name of an attribute: letters, digits and _ only")
    return name.upper()


def _quoted(name: str, value: str) -> str:
    if value.endswith("\\"):
        raise UnwritableError(f"{name} ends in a backslash, which no template can hold: add a blank")
    if "]]>" in value:
        raise UnwritableError(f"{name} holds ]]>, which no template can hold: put a blank into it")
    if _FORBIDDEN.search(value):
        raise UnwritableError(f"{name} holds control characters, which no template can hold")
    return '"' + value.replace('"', '\\"') + '"'
