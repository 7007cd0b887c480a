"""The ledger's file: what is written is read, whatever has happened to the file meanwhile."""

from __future__ import annotations

import errno
import sqlite3
import stat
from contextlib import closing
from math import inf
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.domain import VmOwner
from one_provider_mad.errors import LedgerError
from one_provider_mad.ledger.reader import open_spans, read_spans
from one_provider_mad.ledger.records import Span
from one_provider_mad.ledger.schema import Row
from one_provider_mad.ledger.writer import LedgerFile, write_spans

ADA = VmOwner(user_id=3, user="ada", group_id=1, group="users")
CLOSED = Span(
    name="sky",
    thing="i-1",
    vm_id=7,
    stime=50,
    owner=ADA,
    type_name="large",
    market="on-demand",
    state="running",
    begin=100.0,
    end=200.0,
    amount=0.5,
    known=0.5,
    currency="USD",
)
OPEN = msgspec.structs.replace(CLOSED, state="stopped", begin=200.0, end=300.0, is_open=True, amount=None, known=0.1)
ABSENT = msgspec.structs.replace(OPEN, thing="i-2", end=250.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one_provider_mad_sky.ledger"


def test_spans_are_read_as_they_were_written(path: Path) -> None:
    write_spans(path, "sky", [CLOSED, OPEN, ABSENT], as_of=300.0)
    assert read_spans(path) == [CLOSED, OPEN, ABSENT]
    assert open_spans(path) == (300.0, [OPEN, ABSENT])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_open_span_ends_at_the_latest_listing_unless_its_thing_was_absent(path: Path) -> None:
    write_spans(path, "sky", [OPEN, ABSENT], as_of=300.0)
    write_spans(path, "sky", [], as_of=900.0)
    assert [span.end for span in read_spans(path)] == [900.0, 250.0]


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (0.0, inf, [CLOSED, OPEN, ABSENT]),
        (0.0, 200.0, [CLOSED]),
        (200.0, inf, [OPEN, ABSENT]),
        (250.0, inf, [OPEN]),
        (199.0, 201.0, [CLOSED, OPEN, ABSENT]),
        (0.0, 100.0, []),
    ],
)
def test_only_spans_with_a_part_in_the_time_are_read(
    path: Path, since: float, until: float, expected: list[Span]
) -> None:
    write_spans(path, "sky", [CLOSED, OPEN, ABSENT], as_of=300.0)
    assert read_spans(path, since=since, until=until) == expected


def test_without_a_ledger_there_are_no_spans(path: Path) -> None:
    assert read_spans(path) == []
    assert open_spans(path) == (0.0, [])
    path.touch()
    assert open_spans(path) == (0.0, [])


# Mishaps


def contents_of(file: LedgerFile) -> list[Span]:
    return [row.span for row in file.load().rows]


@pytest.mark.parametrize("spoilt", [b"no database at all" * 500, "damaged"])
def test_a_broken_file_is_set_aside_and_a_new_one_begins(path: Path, spoilt: bytes | str) -> None:
    write_spans(path, "sky", [OPEN] * 500, as_of=300.0)
    if isinstance(spoilt, bytes):
        path.write_bytes(spoilt)
    else:  # a valid header, and rubbish behind it
        content = path.read_bytes()
        path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    said: list[str] = []
    file = LedgerFile(path, "sky", warn=said.append)
    assert contents_of(file) == []
    file.write([Row(id=1, span=CLOSED)], (), as_of=300.0)
    assert read_spans(path) == [CLOSED]
    assert len(said) == 1
    assert "is broken" in said[0]
    assert [aside.name for aside in path.parent.glob("*.broken-*") if aside.name in said[0]]


def test_one_process_alone_writes(path: Path) -> None:
    first, second = LedgerFile(path, "sky"), LedgerFile(path, "sky")
    first.load()
    with pytest.raises(LedgerError, match="another process writes the ledger"):
        second.load()
    first.close()
    assert second.load().next_id == 1
    second.close()


def test_a_later_releases_ledger_is_read_and_never_written(path: Path) -> None:
    write_spans(path, "sky", [CLOSED], as_of=300.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("ALTER TABLE spans ADD COLUMN later TEXT")
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="a later release has written it"):
        LedgerFile(path, "sky").load()
    assert path.read_bytes() == before
    assert read_spans(path) == [CLOSED]


def test_nothing_of_a_failed_write_remains(path: Path) -> None:
    write_spans(path, "sky", [CLOSED], as_of=300.0)
    file = LedgerFile(path, "sky")
    file.load()
    broken = msgspec.structs.replace(OPEN, known=None)
    with pytest.raises(LedgerError, match="cannot be written"):
        file.write([Row(id=2, span=OPEN), Row(id=3, span=broken)], [1], as_of=900.0)
    assert read_spans(path) == [CLOSED]
    assert open_spans(path)[0] == 300.0
    file.close()


def test_a_replaced_file_is_noticed(path: Path) -> None:
    file = LedgerFile(path, "sky")
    file.load()
    answers = [file.is_replaced]
    path.unlink()
    answers.append(file.is_replaced)
    assert contents_of(file) == []
    answers.append(file.is_replaced)
    assert answers == [False, True, False]
    file.close()


def test_only_rows_without_an_owner_get_one_later(path: Path) -> None:
    nobody = msgspec.structs.replace(CLOSED, owner=VmOwner())
    other = msgspec.structs.replace(nobody, stime=51)
    eve = VmOwner(user_id=4, user="eve", group_id=1, group="users")
    write_spans(path, "sky", [CLOSED, nobody, other], as_of=300.0)
    file = LedgerFile(path, "sky")
    file.load()
    file.learn_owners({(7, 50): eve})
    assert [span.owner for span in read_spans(path)] == [ADA, eve, VmOwner()]
    file.close()


def test_a_file_system_without_locks_is_named_as_the_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(LedgerError, match=r"the ledger cannot be written: .*No locks available"):
        LedgerFile(path, "sky").load()
