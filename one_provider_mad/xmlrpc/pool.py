"""Reads a whole pool, page by page, without losing a row to concurrent changes.

`one.*pool.info*` takes an offset and a negative size (src/rm/RequestManagerPoolInfoFilter.cc). Rows are sorted by id,
ascending or descending as API_LIST_ORDER says. A row that vanishes from an earlier page moves all later ones up by one:
so pages overlap, and a page that does not overlap the one before means that more rows have vanished than the overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from one_provider_mad.domain import whole_number
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.http_answers import TooLargeError
from one_provider_mad.safe_xml import Element, text_of
from one_provider_mad.xmlrpc.client import Client
from one_provider_mad.xmlrpc.envelope import Argument

_Row = TypeVar("_Row")

_TRIES = 3

_SMALLEST_PAGE = 10
"""Smallest page to ask for when larger pages exceed the limit of an answer."""


async def read_pool(
    client: Client,
    method: str,
    *,
    before: Sequence[Argument],
    after: Sequence[Argument] = (),
    page_size: int,
    read_row: Callable[[Element], _Row],
) -> dict[int, _Row]:
    """Return every row of a pool, by id.

    Args:
        client: the connection.
        method: `one.vmpool.infoextended` and its like.
        before: arguments before the range.
        after: arguments after it.
        page_size: rows per page, at least 2; it is lowered when an answer is too large.
        read_row: pure; reads one row. It runs in a thread for a large page.

    Raises:
        ProviderError: a page was refused or not answered, or contradicts itself, or the pool changes too fast. Half a
            pool is never returned.
    """
    tries = 0
    while tries < _TRIES:
        try:
            rows = await _read_once(client, method, before, after, page_size, read_row)
        except TooLargeError:
            if page_size <= _SMALLEST_PAGE:
                raise
            page_size = max(page_size // 4, _SMALLEST_PAGE)  # some of its rows are large
            continue
        if rows is not None:
            return rows
        tries += 1
    raise ProviderUnavailable(f"the pool changes faster than {method} lists it: raise page_size")


async def _read_once(
    client: Client,
    method: str,
    before: Sequence[Argument],
    after: Sequence[Argument],
    page_size: int,
    read_row: Callable[[Element], _Row],
) -> dict[int, _Row] | None:
    """Return the rows of one pass over the pool; None when a page did not overlap the one before."""
    overlap = max(1, page_size // 20)
    rows: dict[int, _Row] = {}
    offset = 0
    last: list[int] = []

    def read_page(document: Element) -> list[tuple[int, _Row]]:
        page = [(_id(element), read_row(element)) for element in document]
        check_page(method, page)
        return page

    while True:
        page = await client.read(method, *before, offset, -page_size, *after, read=read_page)
        if last and not set(last).intersection(number for number, _ in page):
            return None
        if rows and len(page) >= page_size and rows.keys() >= {number for number, _ in page}:
            raise ProviderUnavailable(f"{method} answers every page alike: a front-end or a proxy ignores the range")
        rows.update(page)
        if len(page) < page_size:
            return rows
        last = [number for number, _ in page[-overlap:]]
        offset += page_size - overlap


def check_page(method: str, page: Sequence[tuple[int, _Row]]) -> None:
    """Refuse a page with two different rows of one id. Two pages may differ: they overlap, and rows change meanwhile.

    Raises:
        ProviderUnavailable: the page contradicts itself, so that none of its rows is reliable.
    """
    rows = dict(page)
    if len(rows) < len(page) and any(rows[number] != row for number, row in page):
        raise ProviderUnavailable(f"a page of {method} contradicts itself: it has two different rows with one ID")


def _id(element: Element) -> int:
    number = whole_number(text_of(element.find("ID")).strip())
    if number is None or number < 0:
        raise ProviderUnavailable("a row of the pool has no ID")
    return number
