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
        self.huge = _parser(huge_tree=True)


_parsers = _Parsers()


def parse_document(document: bytes) -> Element:
    """Parse UTF-8 bytes whose size is bounded already.

    Raises:
        etree.XMLSyntaxError: it is no well-formed XML.
    """
    # A large document may hold texts that libxml2 refuses otherwise.
    return etree.fromstring(document, _parsers.ordinary if len(document) <= ORDINARY_SIZE else _parsers.huge)


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
    return "".join(map(str, element.itertext())) if len(element) else element.text or ""
