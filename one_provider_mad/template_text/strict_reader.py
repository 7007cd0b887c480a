"""Reads OpenNebula's template text strictly: `NAME = value`, `NAME = [ KEY = value, … ]`, `# comment`.

Text in, a `Template` out, or a `TemplateError` that names the line. The grammar is that of OpenNebula's own parser,
less the cases in which it silently reads other values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.domain import Template
from one_provider_mad.template_text.grammar import (
    BAREWORD,
    BLANKS,
    CDATA_END,
    COMMENT,
    FORBIDDEN,
    KEPT_NAME,
    NAME,
    QUOTED,
    SPACE,
    unquoted,
)

_BLANKS = re.compile(BLANKS)
_SPACE = re.compile(rf"(?:{SPACE}++|{COMMENT})*+")
"""Blanks and comments. The end of the text ends a comment, too, since a file may lack the last line end."""

_NAME = re.compile(NAME)
_BAREWORD = re.compile(BAREWORD)
_QUOTED = re.compile(QUOTED)
_END_OF_VALUE = re.compile(rf"(?={SPACE}|[#,\]]|\Z)")


class TemplateError(ValueError):
    """The text is not a valid template.

    Args:
        line: number of the line, from 1.
        reason: the error in that line.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def read_template(text: str) -> Template:
    """Return the template that a text holds; attributes with the same name are all kept, in order.

    Raises:
        TemplateError: the first error in the text.
    """
    reader = _Reader(text.replace("\r\n", "\n"))
    values: dict[str, list[str | Mapping[str, str]]] = {}
    while not reader.is_at_end():
        name, value = reader.attribute()
        values.setdefault(name, []).append(value)
    return Template(values={name: tuple(several) for name, several in values.items()})


class _Reader:
    """Reads one attribute after the other from a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        if match := FORBIDDEN.search(text):
            raise self._error(f"the character {match[0]!r} cannot stand in a template", at=match.start())
        if (at := text.find(CDATA_END)) >= 0:
            raise self._error(f"OpenNebula's parser refuses the characters {CDATA_END} even in quotes", at=at)

    def is_at_end(self) -> bool:
        """Skip blanks, empty lines and comments; return True at the end of the text."""
        self._pass(_SPACE)
        return self._at == len(self._text)

    def attribute(self) -> tuple[str, str | Mapping[str, str]]:
        """Return the next attribute, plain or vector."""
        start = self._at
        name = self._name()
        if self._next() == "[":
            return self._element(name, at=start), self._vector(name)
        return self._plain_element(name), self._value_or_nothing(name)

    def _vector(self, name: str) -> Mapping[str, str]:
        start = self._at
        self._at += 1
        keys: dict[str, str] = {}
        self._pass(_SPACE)
        if self._next() == "]":
            self._at += 1
            return keys
        while True:
            at = self._at
            key = self._element(self._name(inside=name), at=at)
            keys.setdefault(key, self._value(key))  # of equal keys OpenNebula keeps the first
            self._pass(_SPACE)
            mark = self._next()
            if mark not in (",", "]"):
                raise self._missing_mark(name, start)
            self._at += 1
            if mark == "]":
                return keys
            self._pass(_SPACE)

    def _name(self, *, inside: str = "") -> str:
        start = self._at
        name = self._take(_NAME)
        where = f" in {inside}" if inside else ""
        if not name:
            raise self._error(f"expected a name{where}, got {self._glimpse()}")
        self._pass(_BLANKS)
        if self._next() != "=":
            raise self._error(f"{name} has no = after it{where}; a value with blanks needs quotes", at=start)
        self._at += 1
        self._pass(_BLANKS)
        return name.upper()

    def _value_or_nothing(self, name: str) -> str:
        return "" if self._next() in ("", "\n", "#") else self._value(name)

    def _value(self, name: str) -> str:
        start = self._at
        if self._next() == '"':
            value = self._quoted(name)
        else:
            value = self._take(_BAREWORD)
            if not value:
                raise self._error(f'{name} has no value; write {name}="" for an empty one', at=start)
        if not _END_OF_VALUE.match(self._text, self._at):
            raise self._error(f"the value of {name} is followed by {self._glimpse()}: put the whole value in quotes")
        return value

    def _quoted(self, name: str) -> str:
        text = self._take(_QUOTED)
        if not text:
            raise self._error(f'the quotes of {name} are never closed (\\" is a quote inside them)')
        return unquoted(text)

    def _element(self, name: str, *, at: int) -> str:
        if not KEPT_NAME.fullmatch(name):
            raise self._error(f"the name {name} must begin with a letter or _, and not with XML", at=at)
        return name

    @staticmethod
    def _plain_element(name: str) -> str:
        """Return the name under which OpenNebula stores a plain attribute."""
        return name if KEPT_NAME.fullmatch(name) else f"ONE_{name}"

    def _missing_mark(self, name: str, start: int) -> TemplateError:
        if not self._next():
            return self._error(f"the [ of {name} is never closed", at=start)
        return self._error(f"expected , or ] in {name}, got {self._glimpse()}")

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _pass(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self._text, self._at):
            self._at = match.end()

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _glimpse(self) -> str:
        rest = self._text[self._at : self._at + 12].split("\n")[0]
        return repr(rest) if rest else "the end of the line" if self._next() else "the end of the text"

    def _error(self, reason: str, *, at: int | None = None) -> TemplateError:
        return TemplateError(self._text.count("\n", 0, self._at if at is None else at) + 1, reason)
