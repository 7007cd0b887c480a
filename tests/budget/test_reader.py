"""Another process reads how far limits are used, from the budget's file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from one_provider_mad.budget.months import month_of
from one_provider_mad.budget.reader import read_levels
from one_provider_mad.budget.records import Wish
from one_provider_mad.budget.rules import Terms
from one_provider_mad.budget.settings import BudgetSettings, Limits
from one_provider_mad.budget.store import Store
from one_provider_mad.domain import Identity, VmId, VmOwner
from one_provider_mad.errors import BudgetError
from one_provider_mad.pricing.values import Item, Kind, Part, Price
from one_provider_mad.timestamps import Timestamp

NOW = 1_764_590_400.0
SETTINGS = BudgetSettings(max_per_month=100, max_instances=4, users={"ada": Limits(max_per_hour=1)})
HOURS = month_of(NOW).hours_left(NOW)


async def filled(path: Path) -> None:
    """A file with an instance of ada's, of 0.1 USD an hour, whose create is under way."""
    store = Store(path, "ec2")
    price = Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name="m5.large"), amount=0.1),), currency="USD")
    identity = Identity(owner="one", vm_id=VmId(7), stime=1, seq=0, host_id=0)
    wish = Wish(key="t", identity=identity, owner=VmOwner(user="ada"), what="one", price=price, gib=8.0)
    terms = Terms(file="ec2.toml", now=NOW, month=month_of(NOW))
    now = Timestamp.now(lambda: NOW)
    await store.reconcile((), begun=now, at=now, grace=0.0)
    assert await store.admit(wish, scopes=(), terms=terms, at=now) is None
    await store.close()


async def test_the_levels_are_those_of_the_file_and_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    assert read_levels(path, SETTINGS, name="ec2", now=NOW) == []
    assert not path.exists()
    await filled(path)
    before = path.read_bytes()
    found = {f"{each.table}.{each.key}": each.used for each in read_levels(path, SETTINGS, name="ec2", now=NOW)}
    assert found == {
        "budget.max_per_month": pytest.approx(0.1 * HOURS),
        "budget.max_instances": 1.0,
        "budget.users.ada.max_per_hour": pytest.approx(0.1),
    }
    assert path.read_bytes() == before


async def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    await filled(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(BudgetError, match="cannot be read: a later release has made it"):
        read_levels(path, SETTINGS, name="ec2", now=NOW)
    path.write_bytes(b"nonsense " * 200)
    with pytest.raises(BudgetError, match=r"the file of the budget cannot be read: .*database"):
        read_levels(path, SETTINGS, name="ec2", now=NOW)


def test_an_empty_file_has_no_levels(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    path.touch()
    assert read_levels(path, SETTINGS, name="ec2", now=NOW) == []
