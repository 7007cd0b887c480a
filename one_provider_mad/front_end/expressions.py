"""Reads and evaluates requirements and ranks as OpenNebula's schedulers do. Pure.

Grammar and meaning: OpenNebula src/parsers/expr_parser.l, expr_bool.y and expr_arith.y, the same from 5.10 to 7.4. `!`,
`&` and `|` have one rank and are read from left to right: `A | B & C` is `(A | B) & C`. A comparison with an attribute
that is not there is false, `!=` as well.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from one_provider_mad.domain import Value

Search = Callable[[str], Sequence[str]]
"""Returns the values of an attribute, in the document's order; none for one that is not there."""

_TOKEN = re.compile(
    r"""(?P<string>"[^"]*"|[A-Za-z][0-9A-Za-z_]*)|(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<mark>[@!&|=><()*+/^-])|\s+"""
)
_MOST_NESTED = 100
"""Parentheses inside each other; no person writes a tenth of them."""

_MOST_TERMS = 300
"""Comparisons of one requirement; OpenNebula's own has one for each cluster of a VM's images."""

_MOST_RANK = 2**31
"""A rank is a number of 32 bits; one that does not fit, such as infinity, counts as the least, -2^31, on x86."""

_EXCERPT = 40


class ExpressionError(ValueError):
    """OpenNebula could not read the expression; the message says where."""


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


def rank_of(text: str, search: Search) -> int:
    """Return the rank of the object whose attributes `search` returns; one that is not there counts as 0.

    Raises:
        ExpressionError: OpenNebula could not read it.
    """
    return _Arithmetic(text, search).whole()


def names_in(text: str) -> frozenset[str]:
    """Return the attributes that a rank names."""
    return frozenset(match["string"].strip('"') for match in _TOKEN.finditer(text) if match["string"])


def _compare(operator: str, found: Sequence[str], value: str | float) -> bool:
    if operator == "@>":
        return any(_is_equal(each, value) for each in found)
    if not found:
        return False
    if isinstance(value, str):
        is_same = _is_equal(found[0], value)
        return is_same if operator == "=" else bool(value) and not is_same
    number = _number(found[0])
    if number is None:
        return False
    return {"=": number == value, "!=": number != value, ">": number > value, "<": number < value}[operator]


def _is_equal(text: str, value: str | float) -> bool:
    return bool(value) and fnmatchcase(text, value) if isinstance(value, str) else _number(text) == value


def _number(text: str) -> float | None:
    match = re.match(r"\s*[-+]?[0-9]+(\.[0-9]*)?", text)
    return float(match[0]) if match else None


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
        if depth > _MOST_NESTED:
            raise ExpressionError(f"more than {_MOST_NESTED} parentheses are inside each other")
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
            raise ExpressionError(f"{name} {operator} needs a number, not {value[:_EXCERPT]!r}")
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
        return ExpressionError(f"expected {expected}, got {self._next()[:_EXCERPT] or 'the end'}")


class _Arithmetic:
    """Computes a rank from the left to the right; `*` and `/` come before `+` and `-`."""

    def __init__(self, text: str, search: Search) -> None:
        self._tokens = deque(_tokens(text))
        self._search = search

    def whole(self) -> int:
        value = self._sum(0) if self._tokens else 0.0
        if self._tokens:
            raise ExpressionError(f"expected +, -, * or /, got {self._tokens[0][:_EXCERPT]}")
        return int(value) if -_MOST_RANK < value < _MOST_RANK else -_MOST_RANK

    def _sum(self, depth: int) -> float:
        value = self._product(depth)
        while self._tokens and self._tokens[0] in ("+", "-"):
            is_sum = self._tokens.popleft() == "+"
            other = self._product(depth)
            value = value + other if is_sum else value - other
        return value

    def _product(self, depth: int) -> float:
        value = self._factor(depth)
        while self._tokens and self._tokens[0] in ("*", "/"):
            is_product = self._tokens.popleft() == "*"
            other = self._factor(depth)
            value = value * other if is_product else _divided(value, other)
        return value

    def _factor(self, depth: int) -> float:
        word = self._tokens.popleft() if self._tokens else ""
        if depth > _MOST_NESTED:
            raise ExpressionError(f"more than {_MOST_NESTED} parentheses are inside each other")
        if word == "-":
            return -self._factor(depth + 1)
        if word == "(":
            value = self._sum(depth + 1)
            if not self._tokens or self._tokens.popleft() != ")":
                raise ExpressionError("a ) is missing")
            return value
        if word[:1].isalpha() or word.startswith('"'):
            found = self._search(word.strip('"'))
            return (_number(found[0]) or 0.0) if found else 0.0
        if word[-1:].isdigit():
            return float(word)
        raise ExpressionError(f"expected a name or a number, got {word[:_EXCERPT] or 'the end'}")


def _divided(value: float, divisor: float) -> float:
    """Return the quotient, as C++ has it for a divisor of 0, too."""
    if divisor:
        return value / divisor
    return math.copysign(math.inf, value) if value else math.nan


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"the characters {text[at : at + _EXCERPT]!r} cannot stand in an expression")
        if token := match["string"] or match["number"] or match["mark"]:
            yield token
        at = match.end()
