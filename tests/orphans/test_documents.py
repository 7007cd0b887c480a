"""Requests to the local OpenNebula and its parsed answers, with real XML-RPC over loopback."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, VmId, VmOwner
from one_provider_mad.errors import ProviderError, ProviderUnavailable, SettingsError
from one_provider_mad.orphans.documents import LocalOpenNebula
from one_provider_mad.orphans.verdicts import VmDocument
from tests.orphans.local_oned import FOLLOWER, LEADER, LocalOned, OwnVm


@pytest.fixture(scope="module")
def oned() -> Iterator[LocalOned]:
    with LocalOned() as oned:
        yield oned


@pytest.fixture
async def opennebula(oned: LocalOned, tmp_path: Path) -> AsyncIterator[LocalOpenNebula]:
    """VM 7 exists, VM 8 is DONE."""
    oned.own = {7: OwnVm(7, 1_760_000_000, "i-7", hosts=[3, 12]), 8: OwnVm(8, 1_760_000_001, "i-8")}
    oned.own[7].drivers[12] = "kvm"
    oned.own[8].end(1_760_000_100)
    oned.is_silent_about, oned.front_ends[0].state = set(), 0
    opennebula = LocalOpenNebula(oned.environ(tmp_path))
    await opennebula.open()
    yield opennebula
    await opennebula.close()


async def test_the_lookup_of_living_vms_returns_those_that_are_not_done(opennebula: LocalOpenNebula) -> None:
    assert set(await opennebula.living()) == {7}


async def test_documents_are_parsed_and_a_missing_vm_is_none(opennebula: LocalOpenNebula) -> None:
    found = await opennebula.documents([VmId(7), VmId(8), VmId(9)])
    seven, eight = found[VmId(7)], found[VmId(8)]
    assert seven == VmDocument(
        vm_id=VmId(7),
        state=3,
        stime=1_760_000_000,
        deploy_id=DeployId("i-7"),
        hosts=(3, 12),
        drivers=("cloud", "kvm"),
        host_names=("cloud", "cloud"),
        name="vm-7",
        owner=VmOwner(user_id=0, user="oneadmin", group_id=0, group="oneadmin"),
    )
    assert seven.host_id == 12
    assert eight is not None
    assert (eight.state, eight.etime, eight.hosts) == (6, 1_760_000_100, (3,))
    assert found[VmId(9)] is None


async def test_an_unauthorized_vm_is_left_out_and_not_reported_missing(
    oned: LocalOned, opennebula: LocalOpenNebula
) -> None:
    """After a refusal or an error the state of the VM is unknown."""
    oned.is_silent_about = {7}
    assert set(await opennebula.documents([VmId(7), VmId(8)])) == {8}


@pytest.mark.parametrize("number", ["", "9" * 5000, "\u0663", "1_0"], ids=["none", "5000-digits", "arabic", "_"])
@pytest.mark.parametrize("wrong", ["<STATE>3</STATE>", "<STIME>1760000000</STIME>", "<ID>7</ID>"])
async def test_a_document_with_an_invalid_number_is_rejected(
    oned: LocalOned, opennebula: LocalOpenNebula, monkeypatch: pytest.MonkeyPatch, wrong: str, number: str
) -> None:
    text = oned.own[7].xml()
    assert wrong in text
    odd = re.sub("[0-9]+", number, wrong)
    monkeypatch.setattr(OwnVm, "xml", lambda _vm: text.replace(wrong, odd))
    assert await opennebula.documents([VmId(7)]) == {}
    with pytest.raises(ProviderError):
        await opennebula.living()


async def test_a_document_of_another_vm_is_rejected(oned: LocalOned, opennebula: LocalOpenNebula) -> None:
    oned.own[9] = oned.own[8]
    assert await opennebula.documents([VmId(9)]) == {}


@pytest.mark.parametrize(("state", "may_act"), [(0, True), (LEADER, True), (FOLLOWER, False), (1, False)])
async def test_may_act_is_true_for_a_leader_or_a_front_end_without_peers(
    oned: LocalOned, opennebula: LocalOpenNebula, state: int, *, may_act: bool
) -> None:
    oned.front_ends[0].state = state
    assert await opennebula.may_act() is may_act


async def test_may_act_is_true_for_a_release_without_raftstatus(
    opennebula: LocalOpenNebula, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 5.2 there is no one.zone.raftstatus."""
    monkeypatch.delattr("tests.xmlrpc.partner.Partner.do_zone_raftstatus")
    assert await opennebula.may_act()


@pytest.mark.parametrize("url", ["localhost:2633", "http://oneadmin:secret@localhost:2633/RPC2"])
async def test_open_fails_if_one_xmlrpc_is_no_valid_url(oned: LocalOned, tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"^ONE_XMLRPC is not the URL of an OpenNebula: endpoints: "):
        await LocalOpenNebula({**oned.environ(tmp_path), "ONE_XMLRPC": url}).open()


async def test_release_is_parsed_into_numbers(
    oned: LocalOned, opennebula: LocalOpenNebula, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await opennebula.release() == (7, 4, 0)
    monkeypatch.setattr(oned, "release", "unknown")
    with pytest.raises(ProviderUnavailable, match="calls its release 'unknown'"):
        await opennebula.release()
