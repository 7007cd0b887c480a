"""Reading a pool page by page: no row is lost if the pool changes meanwhile, and the event loop is not blocked."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.safe_xml import Element, text_of
from one_provider_mad.xmlrpc.client import Client, Connection
from one_provider_mad.xmlrpc.pool import read_pool
from tests.xmlrpc.partner import Partner
from tests.xmlrpc.partner_vms import ACTIVE, DONE, RUNNING, Vm


def add(partner: Partner, number: int) -> None:
    tags: dict[str, Any] = {"ONE_PROVIDER_OWNER": ["x"], "ONE_PROVIDER_VM_ID": [str(number)]}
    template: dict[str, Any] = {"CPU": ["1"], "MEMORY": ["256"], "VMID": [str(number)]}
    vm = Vm(number, 0, f"vm-{number}", partner.is_7, template, tags)
    vm.state, vm.lcm_state, vm.has_history = ACTIVE, RUNNING, True
    partner.vms[number] = vm


@pytest.fixture(params=[True, False], ids=["descending", "ascending"])
def partner(request: pytest.FixtureRequest) -> Iterator[Partner]:
    with Partner() as partner:
        partner.is_descending = request.param
        yield partner


@pytest.fixture
async def client(partner: Partner) -> AsyncIterator[Client]:
    client = Client(Connection(endpoints=tuple(partner.urls)), read_session=lambda: "oneadmin:secret")
    await client.open()
    yield client
    await client.close()


def name(row: Element) -> str:
    return text_of(row.find("NAME"))


async def listed(client: Client, *, page_size: int, read: Callable[[Element], str] = name) -> dict[int, str]:
    return await read_pool(
        client, "one.vmpool.infoextended", before=(-2,), after=(-1, ""), page_size=page_size, read_row=read
    )


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 100, 137])
async def test_every_row_is_read_for_any_number_of_pages(partner: Partner, client: Client, count: int) -> None:
    for number in range(count):
        add(partner, number * 3)
    assert await listed(client, page_size=20) == {number * 3: f"vm-{number * 3}" for number in range(count)}


async def test_no_row_is_lost_when_rows_vanish_and_appear_between_two_pages(partner: Partner, client: Client) -> None:
    for number in range(100):
        add(partner, number)
    gone = iter([0, 99, 50, 1, 98])
    seen = 0

    def read(row: Element) -> str:
        # Rows are read while the next page was not asked for yet.
        nonlocal seen
        seen += 1
        if seen % 20 == 0 and (number := next(gone, None)) is not None:
            partner.vms[number].state = DONE
            add(partner, 200 + number)
        return name(row)

    found = await listed(client, page_size=20, read=read)
    assert {number for number, vm in partner.vms.items() if vm.state != DONE and number < 100} <= set(found)


async def test_a_listing_fails_if_the_pool_changes_faster_than_it_is_read(partner: Partner, client: Client) -> None:
    for number in range(400):
        add(partner, number)
    numbers = sorted(partner.vms, reverse=partner.is_descending)

    def read(row: Element) -> str:
        vanished = [number for number in numbers if partner.vms[number].state != DONE][:2]
        for number in vanished:
            partner.vms[number].state = DONE
        return name(row)

    with pytest.raises(ProviderUnavailable, match=r"changes faster than one\.vmpool\.infoextended lists it"):
        await listed(client, page_size=20, read=read)


class FirstPageClient:
    """Reads the first page, whichever page is requested."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def read(self, method: str, *arguments: Any, read: Any) -> Any:
        return await self._client.read(method, *arguments[:3], *arguments[5:], read=read)


async def test_a_listing_fails_if_every_page_has_the_same_rows(partner: Partner, client: Client) -> None:
    for number in range(20):
        add(partner, number)
    arguments = {"before": (-2, 0, -20), "after": (-1, "")}
    with pytest.raises(ProviderUnavailable, match="answers every page alike"):
        await read_pool(
            FirstPageClient(client),  # type: ignore[arg-type]
            "one.vmpool.infoextended",
            **arguments,
            page_size=20,
            read_row=name,
        )


@pytest.mark.parametrize("second", ["vm-3", "another"])
async def test_a_listing_fails_if_two_rows_with_one_id_differ(
    partner: Partner, client: Client, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    rows = "".join(f"<VM><ID>3</ID><NAME>{text}</NAME></VM>" for text in ("vm-3", second))
    monkeypatch.setattr(partner, "do_vmpool_infoextended", lambda *_: f"<VM_POOL>{rows}</VM_POOL>")
    if second == "vm-3":
        assert await listed(client, page_size=20) == {3: "vm-3"}
        return
    with pytest.raises(ProviderUnavailable, match="contradicts itself: it has two different rows with one ID"):
        await listed(client, page_size=20)


async def test_a_listing_fails_if_one_of_its_pages_fails(partner: Partner, client: Client) -> None:
    for number in range(50):
        add(partner, number)
    pages = 0

    def read(row: Element) -> str:
        nonlocal pages
        pages += 1
        if pages == 20:
            partner.order("http-500")
        return name(row)

    with pytest.raises(ProviderUnavailable, match="HTTP 500"):
        await listed(client, page_size=20, read=read)


@pytest.mark.parametrize("partner", [True], indirect=True, ids=["descending"])
async def test_thousands_of_rows_are_read_outside_the_event_loop_thread(partner: Partner, client: Client) -> None:
    from one_provider_mad.providers.opennebula.machine import read_listed_vm

    for number in range(3_000):
        add(partner, number)
    readers: set[threading.Thread] = set()

    def read_row(row: Element) -> object:
        readers.add(threading.current_thread())
        return read_listed_vm(row)

    rows = await read_pool(
        client, "one.vmpool.infoextended", before=(-2,), after=(-1, ""), page_size=1000, read_row=read_row
    )
    assert len(rows) == 3_000
    assert threading.main_thread() not in readers


async def test_a_page_beyond_body_limit_is_requested_in_smaller_ones(partner: Partner) -> None:
    """A few VMs with large templates must not hide all others."""
    for number in range(60):
        add(partner, number)
    for number in (7, 8):
        partner.vms[number].template["LARGE"] = ["x" * 60_000]
    client = Client(
        Connection(endpoints=tuple(partner.urls), body_limit=200_000), read_session=lambda: "oneadmin:secret"
    )
    await client.open()
    assert await listed(client, page_size=60) == {number: f"vm-{number}" for number in range(60)}
    partner.vms[9].template["LARGE"] = ["x" * 250_000]
    with pytest.raises(ProviderUnavailable, match="has more than 200000 bytes: raise body_limit"):
        await listed(client, page_size=60)
    await client.close()
