"""A budget's file that is broken, locked, full, removed or of a later release refuses creates with one sentence."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from one_provider_mad.budget import store
from one_provider_mad.budget.schema import PRAGMAS
from one_provider_mad.domain import InstanceState
from one_provider_mad.errors import BudgetError, BudgetExceeded, ProviderUnavailable
from tests.actions.fakes import request_of
from tests.budget.small_cloud import Front, SmallCloud

REMADE = "remove it, and it is made again from the cloud and the ledger"
HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process has locked the file, and was stopped with SIGSTOP."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            holder.kill()


def told(front: Front, problem: str) -> str:
    return f"^{re.escape(f'the file of the budget cannot be used: {problem} ({front.path})')}$"


async def refused(front: Front, problem: str) -> None:
    """Check that a create and a start are refused with this problem, and that the sentence names the file."""
    with pytest.raises(BudgetError, match=told(front, problem)):
        await front.admit(100)
    stopped = front.cloud.make(101, state=InstanceState.STOPPED)
    with pytest.raises(BudgetError, match=told(front, problem)):
        async with front.budget.starting(stopped, request_of(101)):
            pytest.fail("the start was sent")
    del front.cloud.instances[101]


async def test_a_broken_file_refuses_creates_until_it_is_removed(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), max_instances=2)
    front.cloud.make(1)
    front.path.write_bytes(b"no database" * 1000)
    await refused(front, f"file is not a database: {REMADE}")
    front.path.unlink()
    await front.create(2)
    with pytest.raises(BudgetExceeded):
        await front.admit(3)


async def test_a_file_that_breaks_while_it_is_used_is_made_again_from_the_cloud_once_it_is_removed(
    tmp_path: Path,
) -> None:
    front = Front(tmp_path, SmallCloud(), max_instances=2)
    await front.create(1)
    size = front.path.stat().st_size
    with front.path.open("r+b") as file:
        file.seek(24)
        file.write(b"\xff" * 4)  # the counter of changes (sqlite.org/fileformat.html): what is cached is read again
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    await refused(front, f"database disk image is malformed: {REMADE}")
    front.path.unlink()
    await front.create(2)
    with pytest.raises(BudgetExceeded):
        await front.admit(3)
    assert [each.split("(")[0] for each in front.moved] == [
        (
            "the file of the budget was removed while it was in use: it is created again, without its content, which"
            " could not be read "
        )
    ]


async def test_a_removed_file_keeps_what_is_under_way_and_is_compared_with_the_cloud_before_it_admits(
    tmp_path: Path,
) -> None:
    front = Front(tmp_path, SmallCloud(), max_instances=2)
    await front.admit(1)
    front.path.unlink()
    front.cloud.is_down = True
    with pytest.raises(ProviderUnavailable):
        await front.admit(2)
    front.cloud.is_down = False
    front.cloud.make(3)
    with pytest.raises(BudgetExceeded, match="2 exist"):
        await front.admit(2)


async def test_a_file_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), max_instances=2)
    with closing(sqlite3.connect(front.path)) as db:
        db.execute("PRAGMA user_version = 99")
    await refused(front, "a later release has made it: install that release again, or remove the file")
    with closing(sqlite3.connect(front.path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)


@pytest.mark.parametrize("is_open", [False, True], ids=["before-it-is-opened", "in-use"])
async def test_a_file_that_a_stopped_process_has_locked_refuses_all_creates_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_open: bool
) -> None:
    await Front(tmp_path, SmallCloud(), max_instances=5).create(1)
    monkeypatch.setattr(store, "PATIENCE", 1.0)
    front = Front(tmp_path, SmallCloud(), max_instances=500)
    if is_open:
        await front.create(2)
    problem = r"database is locked: another process has held it for 10 s, `fuser` with this path shows which"
    with held(front.path):
        async with asyncio.timeout(30):  # a second for each of them would be 200
            found = await asyncio.gather(*(front.admit(each) for each in range(10, 210)), return_exceptions=True)
    assert {type(each) for each in found} == {BudgetError}
    assert re.match(told(front, problem), str(found[0]))
    await front.admit(3)


async def test_a_create_on_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PRAGMAS", (*PRAGMAS, "max_page_count = 12"))
    front = Front(tmp_path, SmallCloud(), max_instances=500)

    async def fill() -> None:
        for vm_id in range(500):
            await front.admit(vm_id)

    with pytest.raises(BudgetError, match=told(front, "database or disk is full")):
        await fill()


async def test_a_start_succeeds_although_its_end_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Front(tmp_path, SmallCloud(), max_per_hour=1)
    async with front.budget.starting(front.cloud.make(1, state=InstanceState.STOPPED), request_of(1)):
        front.cloud.make(1)
        monkeypatch.setattr(front.store, "settle", full)
    monkeypatch.undo()
    with pytest.raises(BudgetExceeded):
        await front.admit(2)


async def full(*_: object, **__: object) -> None:
    raise BudgetError("the file of the budget cannot be used: database or disk is full")


async def test_an_admission_that_was_cancelled_or_whose_end_was_not_written_counts_until_the_next_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Front(tmp_path, SmallCloud(), max_instances=2)
    await front.create(1)
    await front.admit(2)
    front.cloud.make(2)
    monkeypatch.setattr(front.store._database, "write", full)
    with pytest.raises(BudgetError):
        await front.budget.created("token-2", "i-2")
    monkeypatch.undo()
    del front.cloud.instances[2]  # terminated meanwhile
    await front.budget.look()
    await front.budget.look()
    await front.admit(3)
    with pytest.raises(BudgetExceeded):
        await front.admit(4)
