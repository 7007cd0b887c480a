"""Writes template text from which OpenNebula reads exactly the given values; refuses values for which there is none.

A value that ends in a backslash would escape the closing quote, and `]]>` is a syntax error even inside quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.template_text.grammar import CDATA_END, ELEMENT, FORBIDDEN, quoted

_NAME = re.compile(ELEMENT, re.ASCII | re.IGNORECASE)


class UnwritableError(ValueError):
    """Template text cannot hold a value; the error's sentence names its attribute."""


def attribute(name: str, value: str) -> str:
    """Write `NAME="value"`. Raises UnwritableError."""
    return f"{_named(name)}={_quoted(name, value)}"


def vector(name: str, values: Mapping[str, str]) -> str:
    """Write `NAME=[ A="1", B="2" ]`; empty values are left out. Raises UnwritableError."""
    inner = ",\n  ".join(attribute(key, value) for key, value in values.items() if value)
    return f"{_named(name)}=[\n  {inner} ]"


def is_writable(value: str) -> bool:
    """Return True when a value can be written unchanged."""
    return not (value.endswith("\\") or CDATA_END in value or FORBIDDEN.search(value))


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UnwritableError(f"{name!r} is no name of an attribute: letters, digits and _ only")
    return name.upper()


def _quoted(name: str, value: str) -> str:
    if value.endswith("\\"):
        raise UnwritableError(f"{name} ends in a backslash, which no template can hold: add a blank")
    if CDATA_END in value:
        raise UnwritableError(f"{name} holds {CDATA_END}, which no template can hold: put a blank into it")
    if FORBIDDEN.search(value):
        raise UnwritableError(f"{name} holds control characters, which no template can hold")
    return quoted(value)
