"""XML that came from outside, parsed so that nothing in it can do harm (decision 25).

Parts of every document are written by end users: no entities, no DTD, no network, and libxml2's own bounds on depth
and size unless the caller has bounded the document himself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from lxml import etree

ORDINARY_SIZE = 10_000_000
"""Documents up to this many bytes are read within libxml2's usual bounds: a text of 10 MB, 256 levels."""

MOST_MARKS = 400_000
"""What a document of another machine may have of `<` and `=`, of which each can become two nodes of 120 bytes: freeing
more would stop the event loop for longer than 20 ms, in whichever thread. 1,000 instances have some 200,000."""

_COUNTED_AT_ONCE = 262_144
"""Bytes that are counted before another thread may go on."""

_OWN_PARSER = 65_536
"""Documents of more bytes have a parser of their own: one keeps what it has found wrong with the document before."""

Element = etree._Element  # noqa: SLF001 - lxml has no public name for the type of its elements


_OPTIONS: dict[str, Any] = {
    "encoding": "utf-8",
    "resolve_entities": False,
    "load_dtd": False,
    "no_network": True,
    "remove_comments": True,
    "remove_pis": True,
    "collect_ids": False,
}


def _parser(*, huge_tree: bool) -> etree.XMLParser:
    return etree.XMLParser(huge_tree=huge_tree, **_OPTIONS)


class _Parsers(threading.local):
    """Each thread's own: one parser parses one document at a time, and whoever comes meanwhile waits (lxml's FAQ).

    A thread that reads a cloud's listing must not hold up the event loop, which reads requests.
    """

    def __init__(self) -> None:
        self.ordinary = _parser(huge_tree=False)


_parsers = _Parsers()


def parse_document(document: bytes) -> Element:
    """Parse UTF-8 bytes whose size is bounded already.

    Raises:
        etree.XMLSyntaxError: it is no well-formed XML.
    """
    # A large document may hold texts that libxml2 refuses otherwise.
    if len(document) > _OWN_PARSER:
        return etree.fromstring(document, _parser(huge_tree=len(document) > ORDINARY_SIZE))
    return etree.fromstring(document, _parsers.ordinary)


def parse_bounded(document: bytes) -> Element:
    """Parse UTF-8 bytes of another machine, within a bound on what that may take.

    Raises:
        TooManyElementsError: it has too many elements and attributes.
        etree.XMLSyntaxError: it is no well-formed XML.
    """
    marks = 0
    for start in range(0, len(document), _COUNTED_AT_ONCE):
        end = start + _COUNTED_AT_ONCE
        marks += document.count(b"<", start, end) + document.count(b"=", start, end)
        if marks > MOST_MARKS:
            raise TooManyElementsError
    return parse_document(document)


class TooManyElementsError(ValueError):
    """A document has more elements and attributes than any that is asked for."""


def elements_at(element: Element, path: str) -> Iterator[Element]:
    """Every element at a path of names, as `iterfind` has them, step by step: another thread may go on meanwhile.

    lxml keeps the interpreter until it has found the next one: for seconds where hundreds of thousands lead nowhere.
    """
    name, _, rest = path.partition("/")
    for child in element.iterchildren(name):
        if rest:
            yield from elements_at(child, rest)
        else:
            yield child


def element_at(element: Element, path: str) -> Element | None:
    """The first element at a path of names, step by step."""
    return next(elements_at(element, path), None)


def outline_of(beginning: bytes) -> Iterator[tuple[tuple[str, ...], Element]]:
    """Each whole element of a document's beginning, below its root, with the names that lead to it.

    Raises:
        etree.XMLSyntaxError: it is no well-formed XML.
    """
    parser = etree.XMLPullParser(("start", "end"), **_OPTIONS)
    parser.feed(beginning)
    path: list[str] = []
    for event, element in parser.read_events():
        if not isinstance(element, Element):
            continue  # of other events there are none
        if event == "start":
            path.append(element.tag)
        else:
            yield tuple(path[1:]), element
            path.pop()


def text_of(element: Element | None) -> str:
    """The text inside, children's included; "" for an element that is not there."""
    if element is None:
        return ""
    if not len(element):
        return element.text or ""
    return "".join(str(text) for text in element.itertext())  # step by step, so that another thread may go on
