"""Read VMs from the local OpenNebula with the rights of its own user (ONE_XMLRPC, ONE_AUTH)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial

from one_provider_mad.domain import DeployId, VmId, VmOwner, whole_number
from one_provider_mad.errors import InstanceNotFound, NotSupported, ProviderError, ProviderUnavailable
from one_provider_mad.orphans.verdicts import VmDocument
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.client import Client, Connection
from one_provider_mad.xmlrpc.local_endpoint import local_endpoint
from one_provider_mad.xmlrpc.pool import read_pool
from one_provider_mad.xmlrpc.release import release_of
from one_provider_mad.xmlrpc.session import read_session

_ALL_USERS, _NOT_DONE = -2, -1

_PAGE_SIZE = 1000

_AT_ONCE = 4
"""Most VMs that are read from oned at the same time; further ones wait."""


class LocalOpenNebula:
    """Client of the local OpenNebula, which runs this driver.

    Args:
        environ: the environment, with ONE_XMLRPC, ONE_AUTH and ONE_LOCATION as OpenNebula's own tools read them.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._read_session = partial(read_session, file="", environ=environ)
        self._opened: Client | None = None

    async def open(self) -> None:
        """Read ONE_AUTH and ONE_XMLRPC. Raises SettingsError when the login token or the URL cannot be used."""
        endpoint = await asyncio.to_thread(local_endpoint, self._environ)
        await asyncio.to_thread(self._read_session)  # before the large import below
        connection = Connection(endpoints=(endpoint.url,), address_setting=endpoint.setting)
        self._opened = Client(connection, read_session=self._read_session)
        await self._opened.open()

    @property
    def _client(self) -> Client:
        assert self._opened is not None  # noqa: S101 - `open` comes first
        return self._opened

    async def close(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()

    async def may_act(self) -> bool:
        """True when this front-end has no peers, or leads them. Raises ProviderError when oned does not answer."""
        try:
            return (await self._client.raft_status()).state.may_act
        except NotSupported:
            return True  # up to 5.2 there is no such method, and no peers

    async def release(self) -> tuple[int, ...]:
        """Return the release of OpenNebula as numbers, such as (6, 10, 0). Raises ProviderError."""
        answer = await self._client.call("one.system.version")
        if not (release := release_of(answer)):
            raise ProviderUnavailable(f"OpenNebula calls its release {str(answer)[:20]!r}")
        return release

    async def living(self) -> Mapping[VmId, VmDocument]:
        """Return every VM that is not DONE, by ID. An incomplete answer raises ProviderError."""
        rows = await read_pool(
            self._client,
            "one.vmpool.info",
            before=(_ALL_USERS,),
            after=(_NOT_DONE,),
            page_size=_PAGE_SIZE,
            read_row=read_document,
        )
        return {row.vm_id: row for row in rows.values()}

    async def documents(self, vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        """Return these VMs by ID, also DONE ones: None for an ID never used, no entry where oned did not answer."""
        turn = asyncio.Semaphore(_AT_ONCE)
        found: dict[VmId, VmDocument | None] = {}

        async def ask(vm_id: VmId) -> None:
            async with turn:
                with suppress(ProviderError):  # the caller sees the missing entry
                    found[vm_id] = await self.document(vm_id)

        async with asyncio.TaskGroup() as group:
            for vm_id in vm_ids:
                group.create_task(ask(vm_id))
        return found

    async def document(self, vm_id: VmId) -> VmDocument | None:
        """Return one VM; None when OpenNebula never had a VM of this ID. Raises ProviderError."""
        try:
            document = await self._client.read("one.vm.info", vm_id, read=read_document)
        except InstanceNotFound:
            return None
        if document.vm_id != vm_id:
            raise ProviderUnavailable(f"OpenNebula answers with VM {document.vm_id} when it is asked for VM {vm_id}")
        return document


def read_document(element: Element) -> VmDocument:
    """Parse a `<VM>` element. Raises ProviderUnavailable when a required element is missing."""
    history = list(elements_at(element, "HISTORY_RECORDS/HISTORY"))
    return VmDocument(
        vm_id=VmId(number_at(element, "ID")),
        state=number_at(element, "STATE"),
        stime=number_at(element, "STIME"),
        etime=number_at(element, "ETIME"),
        lcm_state=number_at(element, "LCM_STATE"),
        deploy_id=DeployId(text_of(element.find("DEPLOY_ID")).strip()),
        hosts=tuple(number_at(record, "HID") for record in history),
        drivers=tuple(text_of(record.find("VM_MAD")).strip() for record in history),
        host_names=tuple(text_of(record.find("HOSTNAME")).strip() for record in history),
        name=text_of(element.find("NAME")),
        owner=_owner(element),
    )


def _owner(element: Element) -> VmOwner:
    """Return the VM's user and group; without their names both count as unknown."""
    user, group = text_of(element.find("UNAME")), text_of(element.find("GNAME"))
    if not user or not group:
        return VmOwner()
    return VmOwner(user_id=_id_at(element, "UID"), user=user, group_id=_id_at(element, "GID"), group=group)


def _id_at(element: Element, name: str) -> int:
    number = whole_number(text_of(element.find(name)).strip())
    return -1 if number is None else number


def number_at(element: Element, name: str) -> int:
    """Return the number in a child of a `<VM>` element. Raises ProviderUnavailable when there is none."""
    number = whole_number(text_of(element.find(name)).strip())
    if number is None:
        raise ProviderUnavailable(f"a VM of the local OpenNebula has no {name}")
    return number
