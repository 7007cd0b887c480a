"""The users, groups and names of VMs in the journal."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, Identity, OwnedVm, VmId, VmOwner
from one_provider_mad.journal import writer
from one_provider_mad.journal.owners import note_owners, select_owned_vms, select_owners
from one_provider_mad.journal.reader import owner_changes, owners, read_owned_vms
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.journal.schema import PRAGMAS, prepare
from one_provider_mad.journal.writer import Journal

NOW = 1_800_000_000.0
DAY = 86400.0
ADA = VmOwner(user_id=3, user="ada", group_id=1, group="users")
GRACE = VmOwner(user_id=4, user="grace", group_id=101, group="navy")


class Clock:
    """Shows the time that a test sets."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def journal(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    monkeypatch.setattr(writer, "_PAUSE", 0.0)
    monkeypatch.setattr(writer, "PRAGMAS", PRAGMAS[:1])
    journal = Journal(tmp_path / "x.journal", clock=clock, on_lost=pytest.fail)
    await journal.open()
    yield journal
    await journal.close()


def a_vm(vm_id: int, owner: VmOwner = ADA, *, stime: int = 5, name: str = "web") -> OwnedVm:
    return OwnedVm(vm_id=VmId(vm_id), stime=stime, owner=owner, name=name)


async def note(journal: Journal, *vms: OwnedVm) -> None:
    journal.note_owners(vms)
    await journal.debts()  # comes after the write


async def test_each_life_of_a_vm_has_its_owner(journal: Journal) -> None:
    await note(journal, a_vm(7), a_vm(7, GRACE, stime=6), a_vm(8, GRACE))
    assert owners(journal.path) == {(7, 5): ADA, (7, 6): GRACE, (8, 5): GRACE}


async def test_a_new_owner_replaces_the_earlier_one(journal: Journal) -> None:
    await note(journal, a_vm(7))
    await note(journal, a_vm(7, GRACE, name="mail"))
    assert read_owned_vms(journal.path) == [a_vm(7, GRACE, name="mail")]


async def test_only_changes_are_read_after_a_number(journal: Journal) -> None:
    await note(journal, a_vm(7), a_vm(8))
    before = owner_changes(journal.path, after=0)
    assert owner_changes(journal.path, after=before.latest) == (before.latest, {})
    await note(journal, a_vm(7), a_vm(8, GRACE))
    assert owner_changes(journal.path, after=before.latest).owners == {(8, 5): GRACE}


async def test_a_request_without_user_and_group_leaves_the_record(journal: Journal) -> None:
    await note(journal, a_vm(7))
    await note(journal, a_vm(7, VmOwner()))
    assert owners(journal.path) == {(7, 5): ADA}


async def test_notes_made_during_a_write_are_all_written(journal: Journal) -> None:
    for vm_id in range(50):
        journal.note_owners([a_vm(vm_id)])
        await asyncio.sleep(0)
    await journal.close()
    assert len(owners(journal.path)) == 50


def test_there_are_no_owners_without_a_journal(tmp_path: Path) -> None:
    assert owners(tmp_path / "none") == {}


async def test_an_owner_is_kept_while_the_vm_has_an_instance_or_is_seen(journal: Journal, clock: Clock) -> None:
    lost, seen, living, imported = a_vm(1), a_vm(2), a_vm(3), a_vm(4)
    await note(journal, lost, seen, living, imported)
    attempt = Attempt.new(Identity(owner="harbour", vm_id=VmId(3), stime=5, seq=0, host_id=1), 1, {})
    await journal.save_attempt(attempt)
    await journal.record_import(DeployId("i-4"), vm_id=VmId(4), stime=5)
    clock.now += 20 * DAY
    await note(journal, seen)
    clock.now += 20 * DAY
    await journal.prune()
    assert read_owned_vms(journal.path) == [seen, living, imported]
    clock.now += 20 * DAY
    await journal.prune()
    assert read_owned_vms(journal.path) == [living, imported]


async def test_an_owner_goes_with_the_last_record_of_its_vm(journal: Journal, clock: Clock) -> None:
    await note(journal, a_vm(3))
    attempt = Attempt.new(Identity(owner="harbour", vm_id=VmId(3), stime=5, seq=0, host_id=1), 1, {})
    await journal.save_attempt(attempt)
    await journal.save_attempt(msgspec.structs.replace(attempt, state=AttemptState.GONE))
    clock.now += 31 * DAY
    await journal.prune()
    await journal.prune()
    assert owners(journal.path) == {}


texts = st.text(max_size=8)
vm_owners = st.builds(VmOwner, user_id=st.integers(-1, 9), user=texts, group_id=st.integers(-1, 9), group=texts)
notes = st.builds(OwnedVm, vm_id=st.integers(0, 4).map(VmId), stime=st.integers(0, 2), owner=vm_owners, name=texts)


def storable(vm: OwnedVm) -> OwnedVm:
    def plain(text: str) -> str:
        return text.encode(errors="replace").decode().replace("\0", "?")

    owner = VmOwner(
        user_id=vm.owner.user_id, user=plain(vm.owner.user), group_id=vm.owner.group_id, group=plain(vm.owner.group)
    )
    return OwnedVm(vm_id=vm.vm_id, stime=vm.stime, owner=owner, name=plain(vm.name))


@given(st.lists(st.lists(notes, max_size=4, unique_by=lambda vm: (vm.vm_id, vm.stime)), max_size=5), st.data())
def test_a_reader_of_changes_knows_what_a_reader_of_all_does(writes: list[list[OwnedVm]], data: st.DataObject) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        prepare(db)
        known: dict[tuple[int, int], VmOwner] = {}
        written: dict[tuple[int, int], OwnedVm] = {}
        latest = 0
        for now, vms in enumerate(writes):
            note_owners(db, vms, now * DAY)
            written |= {(vm.vm_id, vm.stime): storable(vm) for vm in vms}
            if data.draw(st.booleans()):
                [(latest, changed)] = select_owners(db, after=latest)
                known |= changed
        [(_, changed)] = select_owners(db, after=latest)
        assert {**known, **changed} == {key: vm.owner for key, vm in written.items()}
        assert select_owned_vms(db) == [written[key] for key in sorted(written)]
