"""Splits template text that probes and scripts print into attributes, and finds text that OpenNebula would refuse.

For one unreadable attribute OpenNebula refuses the whole text, and an unreadable MONITOR_HOST puts its host into ERROR.
Text that OpenNebula reads is not refused here, even if it changes a name or drops a value.
"""

from __future__ import annotations

import re

from one_provider_mad.template_text.grammar import (
    BAREWORD,
    BLANKS,
    CDATA_END,
    COMMENT,
    NAME,
    QUOTED,
    SPACE,
    unquoted,
)

_SKIP = rf"(?:{SPACE}++|{COMMENT})*+"
_SKIPPED = re.compile(rf"(?:{SPACE}++|(?P<comment>{COMMENT}))*+")
_VALUE = rf"(?:{QUOTED}|{BAREWORD})"
_PAIR = rf"{NAME}{BLANKS}={BLANKS}{_VALUE}"
_VECTOR = rf"\[{_SKIP}(?:{_PAIR}{_SKIP}(?:,{_SKIP}{_PAIR}{_SKIP})*)?\]"
_ATTRIBUTE = re.compile(rf"(?P<name>{NAME}){BLANKS}={BLANKS}(?:{_VECTOR}|{_VALUE}|(?=\r?\n))")
_PAIR_OR_COMMENT = re.compile(rf"(?P<name>{NAME}){BLANKS}={BLANKS}(?P<value>{_VALUE})|{COMMENT}")
_UNREADABLE = ("\0", CDATA_END)
_EXCERPT = 40


def split_attributes(text: str) -> list[tuple[str, str]] | str:
    """Return each attribute's name in upper case and its text, or else the beginning of the first unreadable text.

    The unreadable text is cut to 40 characters.
    """
    found = find_attributes(text)
    return found if isinstance(found, str) else [(name, text[start:end]) for name, start, end in found]


def find_attributes(text: str) -> list[tuple[str, int, int]] | str:
    """Return each attribute's name in upper case, its begin and its end in the text; else as `split_attributes`."""
    unreadable = [text.index(mark) for mark in _UNREADABLE if mark in text]
    if unreadable:
        at = min(unreadable)
        return text[at : at + _EXCERPT]
    attributes: list[tuple[str, int, int]] = []
    at = 0
    while skipped := _SKIPPED.match(text, at):
        at = skipped.end()
        if skipped.end("comment") == len(text):  # without the line end that OpenNebula requires
            at = skipped.start("comment")
        elif at == len(text):
            return attributes
        match = _ATTRIBUTE.match(text, at)
        if match is None:
            return text[at : at + _EXCERPT]
        attributes.append((match["name"].upper(), match.start(), match.end()))
        at = match.end()
    raise AssertionError("it matches an empty text, too")


def pairs_of(attribute: str) -> list[tuple[str, str]]:
    """Return names and values, without quotes, in one attribute's text: one pair, or every pair of a vector."""
    name, _, value = attribute.partition("=")
    if not value.lstrip().startswith("["):
        return [(name.strip(), unquoted(value.strip()))]
    return [(match["name"], unquoted(match["value"])) for match in _PAIR_OR_COMMENT.finditer(value) if match["name"]]
