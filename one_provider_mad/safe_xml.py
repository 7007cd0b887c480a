"""Parses foreign XML safely (decision 25).

End users write parts of every document: entities, DTDs and network access are off, and libxml2's own limits on depth
and size hold unless the caller has limited the document's size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from lxml import etree

ORDINARY_SIZE = 10_000_000
"""Bytes up to which a document is parsed within libxml2's default limits (a text of 10 MB, 256 levels)."""

MOST_MARKS = 400_000
"""Most `<` and `=` in a document from another machine, since each can become two nodes of 120 bytes: freeing more would
stop the event loop for longer than 20 ms, from any thread. 1,000 instances have some 200,000."""

_COUNTED_AT_ONCE = 262_144
"""Bytes in which marks are counted before another thread may run."""

_OWN_PARSER = 65_536
"""Bytes above which a document gets its own parser: a shared one would keep the errors of its last document."""

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
    """One parser per thread: a shared parser would parse one document at a time (lxml's FAQ).

    A thread that reads a cloud's listing must not block the event loop, which reads requests.
    """

    def __init__(self) -> None:
        self.ordinary = _parser(huge_tree=False)


_parsers = _Parsers()


def parse_document(document: bytes) -> Element:
    """Parse UTF-8 bytes of bounded size.

    Raises:
        etree.XMLSyntaxError: the document is not well-formed XML.
    """
    # A large document may hold texts beyond libxml2's default bounds.
    if len(document) > _OWN_PARSER:
        return etree.fromstring(document, _parser(huge_tree=len(document) > ORDINARY_SIZE))
    return etree.fromstring(document, _parsers.ordinary)


def parse_bounded(document: bytes) -> Element:
    """Parse UTF-8 bytes from another machine, within a bound on memory and time.

    Raises:
        TooManyElementsError: the document has too many elements and attributes.
        etree.XMLSyntaxError: the document is not well-formed XML.
    """
    marks = 0
    for start in range(0, len(document), _COUNTED_AT_ONCE):
        end = start + _COUNTED_AT_ONCE
        marks += document.count(b"<", start, end) + document.count(b"=", start, end)
        if marks > MOST_MARKS:
            raise TooManyElementsError
    return parse_document(document)


class TooManyElementsError(ValueError):
    """A document has more elements and attributes than any expected answer."""


def elements_at(element: Element, path: str) -> Iterator[Element]:
    """Yield every element at a path of names, as `iterfind`, but in steps between which other threads may run.

    lxml holds the interpreter until it has found the next match: for seconds among hundreds of thousands of others.
    """
    name, _, rest = path.partition("/")
    for child in element.iterchildren(name):
        if rest:
            yield from elements_at(child, rest)
        else:
            yield child


def element_at(element: Element, path: str) -> Element | None:
    """Return the first element at a path of names, found in steps; None when there is none."""
    return next(elements_at(element, path), None)


def outline_of(beginning: bytes) -> Iterator[tuple[tuple[str, ...], Element]]:
    """Yield each complete element in a document's beginning, with the names on its path below the root.

    Raises:
        etree.XMLSyntaxError: the beginning is not well-formed XML.
    """
    parser = etree.XMLPullParser(("start", "end"), **_OPTIONS)
    parser.feed(beginning)
    path: list[str] = []
    for event, element in parser.read_events():
        if not isinstance(element, Element):
            continue  # other events do not occur
        if event == "start":
            path.append(element.tag)
        else:
            yield tuple(path[1:]), element
            path.pop()


def children_of(document: bytes, *, root: str, name: str) -> Iterator[Element]:
    """Yield each child of the root with a name, complete, and free it afterwards.

    So a long document never stands in memory as a whole, and it may have more elements than `parse_bounded` allows.

    Raises:
        UnexpectedRootError: the root has another name.
        etree.XMLSyntaxError: the document is not well-formed XML.
    """
    parser = etree.XMLPullParser(("end",), tag=name, huge_tree=len(document) > ORDINARY_SIZE, **_OPTIONS)
    for start in range(0, len(document), _COUNTED_AT_ONCE):
        parser.feed(document[start : start + _COUNTED_AT_ONCE])
        for _, element in parser.read_events():
            parent = element.getparent() if isinstance(element, Element) else None
            if isinstance(element, Element) and parent is not None and _is_root(parent, root):
                yield element
                element.clear()
                del parent[: parent.index(element)]  # libxml2 still adds to the element itself
    if (found := parser.close()).tag != root:
        raise UnexpectedRootError(found.tag)


def _is_root(element: Element, name: str) -> bool:
    return element.getparent() is None and element.tag == name


class UnexpectedRootError(ValueError):
    """A document has another root than the expected one."""


def text_of(element: Element | None) -> str:
    """Return the text of an element and its children; "" for no element."""
    if element is None:
        return ""
    if not len(element):
        return element.text or ""
    return "".join(str(text) for text in element.itertext())  # in steps, so that another thread may run
