"""Reads the `NAME=value` lines of a file for a shell, without running a shell.

Quotes, backslashes, comments, `$NAME` and `${NAME}` have their meaning in sh(1). Lines that need a shell (a command's
output, `${NAME:-other}`, arithmetic) are reported and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from one_provider_mad.domain import Value

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(rf"({_NAME.pattern})=")
_VARIABLE = re.compile(rf"\$(?:({_NAME.pattern})|\{{({_NAME.pattern})\}})")
_EXPORT = re.compile(r"export(?=[ \t])")

_ENDS_A_WORD = " \t\n;&|<>()"
_ESCAPED_IN_QUOTES = '$`"\\\n'


class Assignment(Value, frozen=True, kw_only=True):
    """A variable and its value."""

    name: str
    value: str


class NeedsShell(Value, frozen=True, kw_only=True):
    """A line that only a shell could evaluate; the first line is 1."""

    line: int


def read_assignments(text: str, known: Mapping[str, str]) -> Iterator[Assignment | NeedsShell]:
    """Return the assignments in the text, in order, and the lines that need a shell.

    Args:
        text: the whole file.
        known: the variables set before; each assignment is added for the lines after it.
    """
    return _Reader(text.replace("\0", ""), dict(known)).statements()


class _Unreadable(Exception):
    """The current statement could be evaluated by a shell only."""


class _Reader:
    """A position in the text, and the variables set so far."""

    def __init__(self, text: str, known: dict[str, str]) -> None:
        self._text = text
        self._at = 0
        self._known = known

    def statements(self) -> Iterator[Assignment | NeedsShell]:
        while self._at < len(self._text):
            begin, before = self._at, dict(self._known)
            try:
                found = self._statement()
            except _Unreadable:
                yield NeedsShell(line=self._text.count("\n", 0, begin) + 1)
                found, self._at = None, begin
            if found is None:
                self._known = before
                self._skip_line()
            else:
                yield from found

    def _statement(self) -> list[Assignment] | None:
        """Read to the end of a line or a `;`; None for a command, as assignments before it apply to it alone."""
        found, is_export = list[Assignment](), False
        while True:
            self._skip_blanks()
            if self._peek() in ("", "\n", ";"):
                self._at += 1
                return found
            if self._peek() == "#":
                self._skip_line()
                return found
            if match := _EXPORT.match(self._text, self._at):
                self._at, is_export = match.end(), True
            elif match := _ASSIGNMENT.match(self._text, self._at):
                self._at = match.end()
                found.append(Assignment(name=match[1], value=self._word()))
                self._known[match[1]] = found[-1].value
            elif is_export and (match := _NAME.match(self._text, self._at)):
                self._at = match.end()
            else:
                return None

    def _word(self) -> str:
        parts = [self._home()] if self._peek() == "~" else []
        while (character := self._peek()) and character not in _ENDS_A_WORD:
            parts.append(self._part(character))
        return "".join(parts)

    def _part(self, character: str) -> str:
        if character == "'":
            return self._literal()
        if character == '"':
            return self._quoted()
        if character in "$`":
            return self._expanded()
        self._at += 1
        if character != "\\":
            return character
        escaped = self._take()
        return "" if escaped == "\n" else escaped

    def _literal(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise _Unreadable
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _quoted(self) -> str:
        self._at += 1
        parts = list[str]()
        while (character := self._peek()) != '"':
            if not character:
                raise _Unreadable
            if character in "$`":
                parts.append(self._expanded())
                continue
            self._at += 1
            if character == "\\" and self._peek() and self._peek() in _ESCAPED_IN_QUOTES:
                escaped = self._take()
                character = "" if escaped == "\n" else escaped
            parts.append(character)
        self._at += 1
        return "".join(parts)

    def _expanded(self) -> str:
        match = _VARIABLE.match(self._text, self._at)
        if match:
            self._at = match.end()
            return self._known.get(match[1] or match[2], "")
        following = self._text[self._at + 1 : self._at + 2]
        if self._peek() == "`" or following in tuple("({!?*@#-$0123456789'"):
            raise _Unreadable
        return self._take()

    def _home(self) -> str:
        """Return the value of a `~` at the beginning; another user's home stays as it is written."""
        following = self._text[self._at + 1 : self._at + 2]
        self._at += 1
        return self._known.get("HOME", "~") if not following or following in f"/:{_ENDS_A_WORD}" else "~"

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        found = self._peek()
        self._at += 1
        return found

    def _skip_blanks(self) -> None:
        while (character := self._peek()) and character in " \t\r":
            self._at += 1

    def _skip_line(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end + 1
