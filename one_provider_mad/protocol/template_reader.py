"""Splits template text of probes and scripts into attributes, and finds text that OpenNebula would refuse.

Source: OpenNebula's src/parsers/template_parser.l and .y. One unreadable attribute makes the core refuse the whole
text, and an unreadable MONITOR_HOST puts its host into ERROR.
"""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9_]+"
_SKIPPED = re.compile(r"(?:[ \t\r\n]+|#[^\n]*\n)*")
# Unlike the core's, a bareword here holds no quotes: the core would take them for a part of the value.
_VALUE = r'(?:"(?:\\"|[^"\\]|\\(?!"))*"|[^=# \t\r\n,\[\]"]+)'
_PAIR = rf"{_NAME}[ \t]*=[ \t]*{_VALUE}"
_BLANK = r"[ \t\r\n]*"
_VECTOR = rf"\[{_BLANK}{_PAIR}(?:{_BLANK},{_BLANK}{_PAIR})*{_BLANK}\]"
_ATTRIBUTE = re.compile(rf"(?P<name>{_NAME})[ \t]*=[ \t]*(?:{_VECTOR}|{_VALUE}|(?=\r?\n))")
_PAIRS = re.compile(rf"(?P<name>{_NAME})[ \t]*=[ \t]*(?P<value>{_VALUE})")
_EXCERPT = 40


def split_attributes(text: str) -> list[tuple[str, str]] | str:
    """Return the template's attributes, each as upper-case name and whole text; or the unreadable place.

    The place is a text of at most 40 characters that begins where the template cannot be read.
    """
    if "\0" in text or "]]>" in text:
        at = min(text.find(mark) for mark in ("\0", "]]>") if mark in text)
        return text[at : at + _EXCERPT]
    found: list[tuple[str, str]] = []
    at = _end(_SKIPPED, text, 0)
    while at < len(text):
        match = _ATTRIBUTE.match(text, at)
        if match is None:
            return text[at : at + _EXCERPT]
        found.append((match["name"].upper(), match[0]))
        at = _end(_SKIPPED, text, match.end())
    return found


def pairs_of(attribute: str) -> list[tuple[str, str]]:
    """Return the names and unquoted values in one attribute's text: one pair, or the pairs of a vector."""
    name, _, value = attribute.partition("=")
    if not value.lstrip().startswith("["):
        return [(name.strip(), _unquoted(value.strip()))]
    return [(match["name"], _unquoted(match["value"])) for match in _PAIRS.finditer(value)]


def _unquoted(value: str) -> str:
    return value[1:-1].replace('\\"', '"') if value.startswith('"') else value


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
