"""OpenNebula's template text as it is written: always taken by its parser, whatever names and values hold.

One syntax error loses the whole message, and puts a host into ERROR. So a value is made fit, and what cannot be is left
out: every function returns "" for an attribute that must not be written.

Read in OpenNebula's src/parsers/template_parser.l and template_syntax.y, before 4.14 src/template/template_parser.l.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping

from one_provider_mad.masking import masked
from one_provider_mad.protocol.vmm import clean

Plain = str | float
"""What an attribute can hold: text, or a number."""

# A name that begins otherwise is stored under another (ONE_…), which would be nobody's attribute.
_NAME = re.compile(r"(?!XML)[A-Z_][A-Z0-9_]*")


def fit_name(name: str) -> str:
    """Return the name in upper case, "" when it cannot be a name (letters, digits and `_`, not a digit first)."""
    upper = name.upper()
    return upper if name.isascii() and _NAME.fullmatch(upper) else ""


def fit_value(value: str) -> str:
    """Return the value as it can stand between quotes: valid XML without a double quote; lines and backslashes stay.

    The parser's only escape is a backslash before a quote, so a value that ends in a backslash would swallow the quote
    after it: a blank follows there. `]]>` makes it give up even inside quotes.
    """
    plain = masked(value).replace('"', "'")
    text = clean(plain) if "\n" not in plain else "\n".join(map(clean, plain.split("\n"))).strip()
    return f"{text} " if text.endswith("\\") else text


def attribute(name: str, value: Plain) -> str:
    """Write `NAME="value"`, "" when the name or the value has nothing that can be written."""
    fit = fit_name(name)
    text = _text(value)
    return f'{fit}="{text}"' if fit and text else ""


def vector(name: str, values: Mapping[str, Plain]) -> str:
    """Write `NAME=[KEY="value",…]` on one line, without keys that cannot be written; "" when none is left.

    Of two keys that differ in letter case only, the first is written: it is the one that the parser would take.
    """
    fit = fit_name(name)
    pairs: dict[str, str] = {}
    for key, value in values.items():
        if pair := attribute(key, value):
            pairs.setdefault(key.upper(), pair)
    return f"{fit}=[{','.join(pairs.values())}]" if fit and pairs else ""


def lines(*attributes: str) -> str:
    """Put attributes one below the other; those that are "" are left out."""
    return "".join(f"{written}\n" for written in attributes if written)


def in_base64(text: str) -> str:
    """Return the UTF-8 text in base64 without line breaks, for values that hold a template of their own."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


def _text(value: Plain) -> str:
    # An empty value is a syntax error up to 4.12: its scanner wants something between the quotes.
    if isinstance(value, str):
        return fit_value(value)
    if not math.isfinite(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.2f}".rstrip("0").rstrip(".")
