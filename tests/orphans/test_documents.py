"""What the local OpenNebula is asked, and what is made of its answers: real XML-RPC over loopback."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import ProviderError, ProviderUnavailable, SettingsError
from one_provider_mad.orphans.documents import LocalOpenNebula
from one_provider_mad.orphans.verdicts import VmDocument
from tests.orphans.local import FOLLOWER, LEADER, LocalOned, OwnVm


@pytest.fixture(scope="module")
def oned() -> Iterator[LocalOned]:
    with LocalOned() as oned:
        yield oned


@pytest.fixture
async def opennebula(oned: LocalOned, tmp_path: Path) -> AsyncIterator[LocalOpenNebula]:
    """VM 7 is there, VM 8 has ended."""
    oned.own = {7: OwnVm(7, 1_760_000_000, "i-7", hosts=[3, 12]), 8: OwnVm(8, 1_760_000_001, "i-8")}
    oned.own[7].drivers[12] = "kvm"
    oned.own[8].end(1_760_000_100)
    oned.is_silent_about, oned.front_ends[0].state = set(), 0
    opennebula = LocalOpenNebula(oned.environ(tmp_path))
    await opennebula.open()
    yield opennebula
    await opennebula.close()


async def test_the_pool_has_what_is_not_done(opennebula: LocalOpenNebula) -> None:
    assert set(await opennebula.living()) == {7}


async def test_a_document_tells_everything(opennebula: LocalOpenNebula) -> None:
    found = await opennebula.documents([VmId(7), VmId(8), VmId(9)])
    seven, eight = found[VmId(7)], found[VmId(8)]
    assert seven == VmDocument(
        vm_id=VmId(7), state=3, stime=1_760_000_000, deploy_id=DeployId("i-7"), hosts=(3, 12), drivers=("cloud", "kvm")
    )
    assert seven.host_id == 12
    assert eight is not None
    assert (eight.state, eight.etime, eight.hosts) == (6, 1_760_000_100, (3,))
    assert found[VmId(9)] is None


async def test_who_is_not_answered_does_not_take_it_for_no_such_vm(
    oned: LocalOned, opennebula: LocalOpenNebula
) -> None:
    """A user who may not look, or an error: nothing is known then."""
    oned.is_silent_about = {7}
    assert set(await opennebula.documents([VmId(7), VmId(8)])) == {8}


@pytest.mark.parametrize("number", ["", "9" * 5000, "\u0663", "1_0"], ids=["none", "5000-digits", "arabic", "_"])
@pytest.mark.parametrize("wrong", ["<STATE>3</STATE>", "<STIME>1760000000</STIME>", "<ID>7</ID>"])
async def test_a_document_that_lacks_what_counts_is_none(
    oned: LocalOned, opennebula: LocalOpenNebula, monkeypatch: pytest.MonkeyPatch, wrong: str, number: str
) -> None:
    text = oned.own[7].xml()
    assert wrong in text
    odd = re.sub("[0-9]+", number, wrong)
    monkeypatch.setattr(OwnVm, "xml", lambda _vm: text.replace(wrong, odd))
    assert await opennebula.documents([VmId(7)]) == {}
    with pytest.raises(ProviderError):
        await opennebula.living()


async def test_the_document_of_another_vm_is_no_answer(oned: LocalOned, opennebula: LocalOpenNebula) -> None:
    oned.own[9] = oned.own[8]
    assert await opennebula.documents([VmId(9)]) == {}


@pytest.mark.parametrize(("state", "may_act"), [(0, True), (LEADER, True), (FOLLOWER, False), (1, False)])
async def test_who_leads_may_act(oned: LocalOned, opennebula: LocalOpenNebula, state: int, *, may_act: bool) -> None:
    oned.front_ends[0].state = state
    assert await opennebula.may_act() is may_act


async def test_an_opennebula_that_knows_no_peers_has_none(
    opennebula: LocalOpenNebula, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 5.2 there is no one.zone.raftstatus."""
    monkeypatch.delattr("tests.xmlrpc.partner.Partner.do_zone_raftstatus")
    assert await opennebula.may_act()


@pytest.mark.parametrize("url", ["localhost:2633", "http://oneadmin:secret@localhost:2633/RPC2"])
async def test_an_address_that_cannot_be_one_is_told_at_once(oned: LocalOned, tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"^ONE_XMLRPC is not the URL of an OpenNebula: endpoints: "):
        await LocalOpenNebula({**oned.environ(tmp_path), "ONE_XMLRPC": url}).open()


async def test_its_release_is_numbers(
    oned: LocalOned, opennebula: LocalOpenNebula, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await opennebula.release() == (7, 4, 0)
    monkeypatch.setattr(oned, "release", "unknown")
    with pytest.raises(ProviderUnavailable, match="calls its release 'unknown'"):
        await opennebula.release()
