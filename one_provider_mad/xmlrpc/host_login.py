"""Reads a cloud's credentials from the template of an OpenNebula host, where upstream's drivers keep them encrypted.

From 5.10 on `one.host.info` takes a second argument and decrypts for members of the group oneadmin; other users
silently get the encrypted values (src/rm/RequestManagerInfo.cc). Credentials are never logged here, and are reused for
a second only.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from functools import partial

from one_provider_mad.domain import whole_number
from one_provider_mad.errors import AuthenticationRefused, NotReached, ProviderError, SettingsError
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.client import Client, Connection
from one_provider_mad.xmlrpc.local_endpoint import local_endpoint
from one_provider_mad.xmlrpc.release import release_of
from one_provider_mad.xmlrpc.session import read_session

_DECRYPTING = (5, 10)

_CALL_SECONDS = 10.0

_SHARED_SECONDS = 1.0
"""Seconds for which an answer is reused: a hundred calls may be refused at once, and each reads the credentials."""


class HostLogin:
    """Reads attributes of one host's template from the OpenNebula on this machine (ONE_XMLRPC, ONE_AUTH).

    Args:
        host: the host's name or number.
        names: the attributes, all of them required.
        environ: environment variables.
    """

    def __init__(self, host: str, names: Sequence[str], *, environ: Mapping[str, str] | None = None) -> None:
        self._host = host
        self._names = tuple(names)
        self._environ = os.environ if environ is None else environ
        self._lock = asyncio.Lock()
        self._values: tuple[str, ...] = ()
        self._read_at = 0.0

    async def read(self) -> tuple[str, ...]:
        """Return the values of the attributes, in the order of `names`.

        Raises:
            AuthenticationRefused: the host does not exist or lacks an attribute, or ONE_AUTH is not accepted.
            NotReached: the local OpenNebula does not answer.
        """
        loop = asyncio.get_running_loop()
        async with self._lock:
            if not self._values or loop.time() - self._read_at > _SHARED_SECONDS:
                self._values = ()
                self._values = await self._ask()
                self._read_at = loop.time()
            return self._values

    async def _ask(self) -> tuple[str, ...]:
        try:
            endpoint = await asyncio.to_thread(local_endpoint, self._environ)
        except SettingsError as error:
            raise AuthenticationRefused(str(error)) from error
        read = partial(read_session, file="", environ=self._environ)
        connection = Connection(endpoints=(endpoint.url,), address_setting=endpoint.setting, timeout=_CALL_SECONDS)
        client = Client(connection, read_session=read)
        try:
            await client.open()
            await self._check_release(client)
            template = await client.read("one.host.info", await self._number(client), True, read=_template)  # noqa: FBT003 - as the API has it
        except (ProviderError, SettingsError) as error:
            is_passing = isinstance(error, ProviderError) and error.retryable
            kind = NotReached if is_passing else AuthenticationRefused
            raise kind(f"{' and '.join(self._names)} of host {self._host} cannot be read: {error}") from error
        finally:
            await client.close()
        if missing := [name for name in self._names if not template.get(name)]:
            raise AuthenticationRefused(f"host {self._host} has no {' and '.join(missing)} in its template")
        return tuple(template[name] for name in self._names)

    @staticmethod
    async def _check_release(client: Client) -> None:
        answer = await client.call("one.system.version")
        if release_of(answer) < _DECRYPTING:
            raise AuthenticationRefused(f"OpenNebula {str(answer)[:20]} decrypts no attributes, only 5.10 and later do")

    async def _number(self, client: Client) -> int:
        if (number := whole_number(self._host)) is not None:
            return number
        found = await client.read("one.hostpool.info", read=lambda pool: _number_of(pool, self._host))
        if found is None:
            raise AuthenticationRefused("there is no host of that name")
        return found


def _template(host: Element) -> dict[str, str]:
    return {str(each.tag): text_of(each).strip() for each in elements_at(host, "TEMPLATE/*")}


def _number_of(pool: Element, name: str) -> int | None:
    for host in pool.iterfind("HOST"):
        if text_of(host.find("NAME")) == name:
            return whole_number(text_of(host.find("ID")).strip())
    return None
