"""Remote templates: number of a name, and CONTEXT of a number."""

from __future__ import annotations

import time
from collections.abc import Callable

from one_provider_mad.domain import whole_number
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.opennebula.machine import flat
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of
from one_provider_mad.xmlrpc.client import Client
from one_provider_mad.xmlrpc.pool import read_pool

_KEPT_SECONDS = 60.0
"""Seconds for which a template's number is kept by name: a hundred deploys at once list the templates once."""

_ALL = -2


class Templates:
    """Templates of one partner.

    Args:
        client: the connection to the partner.
        page_size: templates in one page.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, client: Client, *, page_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._page_size = page_size
        self._clock = clock
        self._names: dict[str, list[int]] = {}
        self._names_until = 0.0

    async def number(self, template: str) -> int:
        """Return the number of a template given by number or by name.

        Raises:
            BadParameter: the user may use no template, or several, of that name.
        """
        if (number := whole_number(template)) is not None:
            return number
        if self._clock() >= self._names_until or template not in self._names:
            await self._list()
        numbers = self._names.get(template, [])
        if len(numbers) == 1:
            return numbers[0]
        if not numbers:
            raise BadParameter(
                f"the partner has no template {template!r} for this user: check the name with onetemplate list"
            )
        several = ", ".join(map(str, sorted(numbers)))
        raise BadParameter(f"the partner has several templates {template!r}: choose one with TEMPLATE_ID, {several}")

    async def context(self, number: int) -> dict[str, str]:
        """Return CONTEXT of a template, variables not yet filled in. Raises BadParameter."""
        return await self._client.read("one.template.info", number, read=_context)

    async def disks(self, number: int) -> list[dict[str, str]]:
        """Return the DISKs of a template. Raises BadParameter."""
        return await self._client.read("one.template.info", number, read=_disks)

    async def disk_sizes(self, number: int) -> list[str]:
        """Return SIZE in MB of each DISK of a template, also of those with an image; "" where it is not known."""
        extended = True  # adds the attributes of images (src/rm/RequestManagerInfo.cc), since 4.14
        found = await self._client.read("one.template.info", number, extended, read=_disks)
        return [each.get("SIZE", "") for each in found]

    async def _list(self) -> None:
        names = await read_pool(
            self._client, "one.templatepool.info", before=(_ALL,), page_size=self._page_size, read_row=_name
        )
        self._names = {}
        for number, name in names.items():
            self._names.setdefault(name, []).append(number)
        self._names_until = self._clock() + _KEPT_SECONDS


def _name(template: Element) -> str:
    return text_of(template.find("NAME"))


def _disks(template: Element) -> list[dict[str, str]]:
    return [flat(each) for each in elements_at(template, "TEMPLATE/DISK")]


def _context(template: Element) -> dict[str, str]:
    context = element_at(template, "TEMPLATE/CONTEXT")
    return {} if context is None else flat(context)
