"""Reads the arithmetic of a rank as OpenNebula's schedulers do, and computes it with numbers or with ranges. Pure.

Grammar: OpenNebula src/parsers/expr_parser.l and expr_arith.y, the same from 5.10 to 7.4. A minus sign belongs to the
digits after it, so that `A -1` has no operator. A name stands for that attribute of the host.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

Search = Callable[[str], Sequence[str]]
"""Returns the values of an attribute, in the document's order; none for one that is not there."""

_TOKEN = re.compile(r'(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<name>[A-Za-z][0-9A-Za-z_]*|"[^"]*")|(?P<sign>[-+*/()])|\s+')

MOST_NESTED = 100
"""Parentheses inside each other; no person writes a tenth of them."""

EXCERPT = 40
"""Characters of an expression that a message quotes."""

_MOST_RANK = 2**31
"""A rank is a number of 32 bits; one that does not fit, such as infinity, counts as the least, -2^31, on x86."""

_Value = TypeVar("_Value")


class ExpressionError(ValueError):
    """OpenNebula cannot read the expression; the message says where."""


class Algebra(Protocol[_Value]):
    """Computes with one kind of values."""

    def number(self, value: float) -> _Value:
        """Return a number that the expression has."""

    def attribute(self, name: str) -> _Value:
        """Return the value of an attribute."""

    def negated(self, value: _Value) -> _Value:
        """Return -value."""

    def sum(self, one: _Value, other: _Value) -> _Value:
        """Return one + other."""

    def product(self, one: _Value, other: _Value) -> _Value:
        """Return one * other."""

    def quotient(self, one: _Value, other: _Value) -> _Value:
        """Return one / other."""


def compute(text: str, algebra: Algebra[_Value]) -> _Value:
    """Return the value of an expression; an empty one is 0.

    Raises:
        ExpressionError: OpenNebula cannot read it, and counts 0 for every host.
    """
    return _Reader(text, algebra).whole()


def names_in(text: str) -> frozenset[str]:
    """Return the attributes that an expression names."""
    return frozenset(match["name"].strip('"') for match in _TOKEN.finditer(text) if match["name"])


def rank_of(text: str, search: Search) -> int:
    """Return the rank of the object whose attributes `search` returns; one that is not there counts as 0.

    Raises:
        ExpressionError: OpenNebula cannot read it.
    """
    value = compute(text, _Numbers(search))
    return int(value) if -_MOST_RANK < value < _MOST_RANK else -_MOST_RANK


def number_of(text: str) -> float | None:
    """Return the number at the beginning of an attribute's value, as C++ reads it; None for other text."""
    match = re.match(r"\s*[-+]?[0-9]+(\.[0-9]*)?", text)
    return float(match[0]) if match else None


class _Numbers:
    """Computes with numbers, as C++ does."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def number(self, value: float) -> float:
        return value

    def attribute(self, name: str) -> float:
        found = self._search(name)
        return (number_of(found[0]) or 0.0) if found else 0.0

    def negated(self, value: float) -> float:
        return -value

    def sum(self, one: float, other: float) -> float:
        return one + other

    def product(self, one: float, other: float) -> float:
        return one * other

    def quotient(self, one: float, other: float) -> float:
        if other:
            return one / other
        return math.copysign(math.inf, one) if one else math.nan


class _Reader(Generic[_Value]):
    """Computes an expression from the left to the right; `*` and `/` come before `+` and `-`."""

    def __init__(self, text: str, algebra: Algebra[_Value]) -> None:
        self._text = text
        self._tokens = deque(_tokens(text))
        self._algebra = algebra

    def whole(self) -> _Value:
        value = self._sum(0) if self._tokens else self._algebra.number(0.0)
        if self._tokens:
            raise ExpressionError(f"{self._text[:EXCERPT]!r} has no operator before {self._tokens[0][1][:EXCERPT]!r}")
        return value

    def _sum(self, depth: int) -> _Value:
        value = self._product(depth)
        while sign := self._next_of("+", "-"):
            other = self._product(depth)
            value = self._algebra.sum(value, other if sign == "+" else self._algebra.negated(other))
        return value

    def _product(self, depth: int) -> _Value:
        value = self._factor(depth)
        while sign := self._next_of("*", "/"):
            other = self._factor(depth)
            value = self._algebra.product(value, other) if sign == "*" else self._algebra.quotient(value, other)
        return value

    def _factor(self, depth: int) -> _Value:
        if depth > MOST_NESTED:
            raise ExpressionError(f"more than {MOST_NESTED} parentheses are inside each other")
        if not self._tokens:
            raise ExpressionError("it ends where a name or a number is expected")
        kind, text = self._tokens.popleft()
        if kind == "number":
            return self._algebra.number(float(text))
        if kind == "name":
            return self._algebra.attribute(text.strip('"'))
        if text == "-":
            return self._algebra.negated(self._factor(depth + 1))
        if text != "(":
            raise ExpressionError(f"{text!r} has no name or number before it")
        value = self._sum(depth + 1)
        if not self._next_of(")"):
            raise ExpressionError("a ( is never closed")
        return value

    def _next_of(self, *signs: str) -> str:
        """Take and return the next token if it is one of these signs; "" else."""
        return self._tokens.popleft()[1] if self._tokens and self._tokens[0][1] in signs else ""


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"the characters {text[at : at + EXCERPT]!r} cannot stand in an expression")
        if match.lastgroup:
            yield match.lastgroup, match[0]
        at = match.end()
