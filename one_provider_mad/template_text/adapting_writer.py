"""Writes template text from any names and values, changing them where OpenNebula could not read them.

OpenNebula drops a whole message for one syntax error, and puts its host into ERROR. So a value is changed where
needed, and an attribute that cannot be written at all is left out: every function returns "" for it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

from one_provider_mad.characters import clean
from one_provider_mad.masking import masked
from one_provider_mad.template_text.grammar import KEPT_NAME

Plain = str | float
"""The value of an attribute: text, or a number."""


def fit_name(name: str) -> str:
    """Return the name in upper case, "" unless it has only letters, digits and `_`, the first not a digit."""
    upper = name.upper()
    return upper if name.isascii() and KEPT_NAME.fullmatch(upper) else ""


def fit_value(value: str) -> str:
    """Return the value in a form that can stand in quotes: valid XML, no double quotes; line ends and backslashes stay.

    The parser's only escape is a backslash before a quote, so a value that ends in a backslash would escape the closing
    quote: a blank is appended there. `]]>` is a syntax error even inside quotes.
    """
    plain = masked(value).replace('"', "'")
    text = clean(plain) if "\n" not in plain else "\n".join(map(clean, plain.split("\n"))).strip()
    return f"{text} " if text.endswith("\\") else text


def attribute(name: str, value: Plain) -> str:
    """Write `NAME="value"`; "" when name or value cannot be written."""
    fit = fit_name(name)
    text = _text(value)
    return f'{fit}="{text}"' if fit and text else ""


def vector(name: str, values: Mapping[str, Plain]) -> str:
    """Write `NAME=[KEY="value",…]` on one line, without keys that cannot be written; "" when no key is left.

    Of two keys that differ in letter case only, the first is written, as the parser would keep that one.
    """
    fit = fit_name(name)
    pairs: dict[str, str] = {}
    for key, value in values.items():
        if pair := attribute(key, value):
            pairs.setdefault(key.upper(), pair)
    return f"{fit}=[{','.join(pairs.values())}]" if fit and pairs else ""


def lines(*attributes: str) -> str:
    """Return the written attributes, one a line; empty texts are left out."""
    return "".join(f"{written}\n" for written in attributes if written)


def in_base64(text: str) -> str:
    """Return the text as UTF-8 in base64 without line breaks, for values that hold a template of their own."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


def _text(value: Plain) -> str:
    # An empty value is a syntax error up to 4.12: its scanner needs a character between the quotes.
    if isinstance(value, str):
        return fit_value(value)
    if not math.isfinite(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.2f}".rstrip("0").rstrip(".")
