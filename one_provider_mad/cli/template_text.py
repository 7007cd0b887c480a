"""Reads OpenNebula's template text strictly: `NAME = value`, `NAME = [ KEY = value, … ]`, `# comment`.

Pure: text in, a `Template` out, or a `TemplateError` that names the line. The grammar is that of OpenNebula's own
parser (src/parsers/template_parser.y), without the cases that it silently misreads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.domain import Template

_BLANKS = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*+")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_WORD = re.compile(r"[^=# \t\n,\[\]\"]+")
_QUOTED = re.compile(r'"((?:\\"|[^"])*+)"')
"""The only escape is backslash and quote; any other backslash stands for itself."""

_END_OF_VALUE = re.compile(r"(?=[ \t\n#,\]]|\Z)")
_FORBIDDEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot hold, and so OpenNebula cannot either, and DEL. Tab and line feed are allowed."""

_ELEMENT = re.compile(r"[A-Z_][A-Z0-9_]*")


class TemplateError(ValueError):
    """The text is no template.

    Args:
        line: number of the line, from 1.
        reason: the error in that line.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def read_template(text: str) -> Template:
    """Return a whole template; several attributes of one name are all kept, in order.

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
    """Reads attributes from a text, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        if match := _FORBIDDEN.search(text):
            raise self._error(f"the character {match[0]!r} cannot stand in a template", at=match.start())
        if (at := text.find("]]>")) >= 0:
            raise self._error("OpenNebula's parser refuses the characters ]]> even in quotes", at=at)

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
        return self._plain_element(name), self._value(name)

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
            keys.setdefault(key, self._value(key))  # OpenNebula keeps the first of two
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

    def _value(self, name: str) -> str:
        start = self._at
        if self._next() in ("", "\n", "#"):
            return ""
        if self._next() == '"':
            value = self._quoted(name)
        else:
            value = self._take(_WORD)
            if not value:
                raise self._error(f'{name} has no value; write {name}="" for an empty one', at=start)
        if not _END_OF_VALUE.match(self._text, self._at):
            raise self._error(f"the value of {name} goes on with {self._glimpse()}: put the whole value in quotes")
        return value

    def _quoted(self, name: str) -> str:
        match = _QUOTED.match(self._text, self._at)
        if match is None:
            raise self._error(f'the quotes of {name} are never closed (\\" is a quote inside them)')
        self._at = match.end()
        return match[1].replace('\\"', '"')

    def _element(self, name: str, *, at: int) -> str:
        if not _ELEMENT.fullmatch(name) or name.startswith("XML"):
            raise self._error(f"the name {name} must begin with a letter or _, and not with XML", at=at)
        return name

    @staticmethod
    def _plain_element(name: str) -> str:
        """Return the name under which OpenNebula stores a plain attribute."""
        return f"ONE_{name}" if name[0].isdigit() or name.startswith("XML") else name

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
