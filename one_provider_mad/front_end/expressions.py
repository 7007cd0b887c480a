"""Reads and evaluates requirements as OpenNebula's schedulers do. Pure.

Grammar and meaning: OpenNebula src/parsers/expr_parser.l and expr_bool.y, the same from 5.10 to 7.4. `!`,
`&` and `|` have one rank and are read from left to right: `A | B & C` is `(A | B) & C`. A comparison with an attribute
that is not there is false, `!=` as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from one_provider_mad.domain import Value
from one_provider_mad.front_end.arithmetic import EXCERPT, MOST_NESTED, ExpressionError, Search, number_of

_TOKEN = re.compile(
    r"""(?P<string>"[^"]*"|[A-Za-z][0-9A-Za-z_]*)|(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<mark>[@!&|=><()*+/^-])|\s+"""
)
_MOST_TERMS = 300
"""Comparisons of one requirement; OpenNebula's own has one for each cluster of a VM's images."""


class Term(Value, frozen=True, kw_only=True):
    """A comparison.

    Attributes:
        name: of the attribute.
        operator: `=`, `!=`, `>`, `<` or `@>`.
        value: text, which may have wildcards, or a number.
    """

    name: str
    operator: str
    value: str | float


class Not(Value, frozen=True, kw_only=True):
    """The opposite of a part."""

    part: Expression


class Pair(Value, frozen=True, kw_only=True):
    """Two parts with `&` or `|` between them."""

    operator: str
    left: Expression
    right: Expression


Expression = Term | Not | Pair


def read_requirements(text: str) -> Expression | None:
    """Return a requirement, None for an empty one, which every host meets.

    Raises:
        ExpressionError: OpenNebula could not read it.
    """
    reader = _Reader(text)
    return None if reader.is_at_end() else reader.whole()


def is_met(expression: Expression | None, search: Search) -> bool:
    """Return whether the object whose attributes `search` returns meets a requirement."""
    if expression is None:
        return True
    match expression:
        case Not(part=part):
            return not is_met(part, search)
        case Pair(operator="&", left=left, right=right):
            return is_met(left, search) and is_met(right, search)
        case Pair(left=left, right=right):
            return is_met(left, search) or is_met(right, search)
        case Term(name=name, operator=operator, value=value):
            return _compare(operator, search(name), value)


def terms_of(expression: Expression | None) -> Iterator[Term]:
    """Yield the comparisons of a requirement, from left to right."""
    match expression:
        case Term():
            yield expression
        case Not(part=part):
            yield from terms_of(part)
        case Pair(left=left, right=right):
            yield from terms_of(left)
            yield from terms_of(right)


def is_choice(expression: Expression | None) -> bool:
    """Return True for a comparison, and for several with only `|` between them: `| ...` may follow them as they are."""
    match expression:
        case Term():
            return True
        case Pair(operator="|", left=left, right=right):
            return is_choice(left) and isinstance(right, Term)
    return False


def _compare(operator: str, found: Sequence[str], value: str | float) -> bool:
    if operator == "@>":
        return any(_is_equal(each, value) for each in found)
    if not found:
        return False
    if isinstance(value, str):
        is_same = _is_equal(found[0], value)
        return is_same if operator == "=" else bool(value) and not is_same
    number = number_of(found[0])
    if number is None:
        return False
    return {"=": number == value, "!=": number != value, ">": number > value, "<": number < value}[operator]


def _is_equal(text: str, value: str | float) -> bool:
    return bool(value) and fnmatchcase(text, value) if isinstance(value, str) else number_of(text) == value


class _Reader:
    """Reads one requirement from the left to the right."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._terms = 0

    def is_at_end(self) -> bool:
        return self._at == len(self._tokens)

    def whole(self) -> Expression:
        found = self._expression(0)
        if not self.is_at_end():
            raise self._unexpected("& or |")
        return found

    def _expression(self, depth: int) -> Expression:
        left = self._part(depth)
        while self._next() in ("&", "|"):
            operator = self._take()
            left = Pair(operator=operator, left=left, right=self._part(depth))
        return left

    def _part(self, depth: int) -> Expression:
        if depth > MOST_NESTED:
            raise ExpressionError(f"more than {MOST_NESTED} parentheses are inside each other")
        if self._next() == "!":
            self._take()
            return Not(part=self._part(depth + 1))
        if self._next() == "(":
            self._take()
            found = self._expression(depth + 1)
            self._expect(")")
            return found
        return self._term()

    def _term(self) -> Term:
        self._terms += 1
        if self._terms > _MOST_TERMS:
            raise ExpressionError(f"it has more than {_MOST_TERMS} comparisons")
        name = self._value()
        if not isinstance(name, str):
            raise ExpressionError(f"a comparison begins with an attribute's name, not with {name:g}")
        mark = self._next()
        if mark not in ("=", "!", ">", "<", "@"):
            raise self._unexpected(f"a comparison after {name}")
        operator = self._take()
        if operator in ("!", "@"):
            second = "=" if operator == "!" else ">"
            self._expect(second)
            operator += second
        value = self._value()
        if isinstance(value, str) and operator in (">", "<"):
            raise ExpressionError(f"{name} {operator} needs a number, not {value[:EXCERPT]!r}")
        return Term(name=name, operator=operator, value=value)

    def _value(self) -> str | float:
        text = self._next()
        if text.startswith('"'):
            return self._take()[1:-1]
        if text[:1].isalpha():
            return self._take()
        if text[-1:].isdigit():
            return float(self._take())
        raise self._unexpected("a name or a value")

    def _next(self) -> str:
        return "" if self.is_at_end() else self._tokens[self._at]

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, mark: str) -> None:
        if self._next() != mark:
            raise self._unexpected(mark)
        self._take()

    def _unexpected(self, expected: str) -> ExpressionError:
        return ExpressionError(f"expected {expected}, got {self._next()[:EXCERPT] or 'the end'}")


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"the characters {text[at : at + EXCERPT]!r} cannot stand in an expression")
        if token := match["string"] or match["number"] or match["mark"]:
            yield token
        at = match.end()
