"""The SQL of the journal: each function takes an open connection, and reads or writes one thing."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, islice
from typing import Any

import msgspec

from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal.owners import prune_owners
from one_provider_mad.journal.records import (
    ORPHAN,
    Answered,
    Attempt,
    AttemptState,
    Debt,
    OpenRequest,
    Outline,
    Writer,
)
from one_provider_mad.journal.shortages import select_refusal, select_shortages
from one_provider_mad.masking import masked
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.timestamps import Timestamp

_ROWS_AT_ONCE = 100
"""Rows in one INSERT: SQLite takes 999 values in a statement everywhere."""

Row = tuple[Any, ...]


CALLED_OFF = "DRIVER_CANCEL"
"""Action in the record of a request that DRIVER_CANCEL has cancelled and that has not ended yet."""


_ANSWERED_SECONDS = 3600.0
"""Seconds for which the latest answered action of each VM is kept, and then deleted: longer than any listing takes."""


_FINISHED_SECONDS = 30 * 86400.0
"""Seconds for which records of finished attempts and terminated instances are kept, and then deleted: longer than any
cloud remembers a create token, or lists a terminated instance."""


_FINISHED = "state IN ('gone', 'refused')"
"""Condition of the index `attempts_finished`: SQLite uses the index for a query with the same condition."""


_SPARE_PAGES = 64
"""Fewest free pages that `shrink` leaves in a file."""


def packed(payload: bytes | memoryview) -> bytes:
    """Return a payload in its stored form, compressed."""
    return zlib.compress(payload, 1) if payload else b""


def storable(text: str) -> str:
    """Return a text of the cloud's for the journal: secrets masked, without lone surrogates, which SQLite refuses."""
    return masked(text).encode(errors="replace").decode()


def sign_in(db: sqlite3.Connection, me: Process, parent: Process, now: float) -> None:
    """Record that this process writes the journal, and which process has started it."""
    row = (me.pid, me.start, parent.pid, parent.start, now)
    db.execute("INSERT OR REPLACE INTO writers VALUES (?, ?, ?, ?, ?)", row)


def prune(db: sqlite3.Connection, now: float, *, most: int) -> bool:
    """Delete old records, at most this number of each kind; return True when some may be left.

    Open requests, debts, parked instances, and all records of an instance that may exist are kept.
    """
    # One step of SQLite for each statement, for any number of rows (database.py says why).
    values = {"before": now - _FINISHED_SECONDS, "most": most, "seconds": _ANSWERED_SECONDS}
    finished = f"{_FINISHED} AND sent_at < :before AND answered_at < :before"
    finished += " AND token NOT IN (SELECT token FROM debts)"
    columns = "token, instances.deploy_id AS instance"
    rows = f"SELECT {columns} FROM attempts LEFT JOIN instances USING (vm_id, deploy_id) WHERE {finished} LIMIT :most"  # noqa: S608
    lists = "count(*), json_group_array(token), json_group_array(instance) FILTER (WHERE instance IS NOT NULL)"
    attempts, tokens, of_attempts = db.execute(f"SELECT {lists} FROM ({rows})", values).fetchone()  # noqa: S608
    ended = "SELECT deploy_id FROM instances WHERE ended_at > 0 AND ended_at < :before LIMIT :most"
    query = f"SELECT count(*), json_group_array(deploy_id) FROM ({ended})"  # noqa: S608
    ends, of_ended_vms = db.execute(query, values).fetchone()
    instances = json.dumps(json.loads(of_attempts) + json.loads(of_ended_vms))
    for table, condition, keys in (
        ("attempts", "token", tokens),
        ("moments", "token", tokens),
        ("asked", "is_token AND key", tokens),
        ("asked", "NOT is_token AND key", instances),
        ("imported", "deploy_id", instances),
        ("instances", "deploy_id", instances),
    ):
        if keys != "[]":
            db.execute(f"DELETE FROM {table} WHERE {condition} IN (SELECT value FROM json_each(?))", (keys,))  # noqa: S608
    answered = "SELECT vm_id FROM answered WHERE at < (SELECT max(at) FROM answered) - :seconds LIMIT :most"
    deleted = db.execute(f"DELETE FROM answered WHERE vm_id IN ({answered})", values).rowcount  # noqa: S608
    asked_guests = "SELECT deploy_id FROM soft_ends WHERE at < :before LIMIT :most"
    query = f"DELETE FROM soft_ends WHERE deploy_id IN ({asked_guests})"  # noqa: S608
    counts: list[int] = [attempts, ends, deleted, db.execute(query, values).rowcount]
    lost = "SELECT vm_id FROM recreations WHERE at < :before LIMIT :most"
    counts.append(db.execute(f"DELETE FROM recreations WHERE vm_id IN ({lost})", values).rowcount)  # noqa: S608
    counts.append(prune_owners(db, values))
    return max(counts) >= most


def shrink(db: sqlite3.Connection, *, seconds: float) -> bool:
    """Give free pages back to the file system for at most these seconds; return True when some are left to give.

    A sixteenth of the smaller file stays free, so that the next records need no new pages.
    """
    free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
    surplus = free - max(_SPARE_PAGES, (size - free) // 15)
    if surplus <= 0 or not db.execute("PRAGMA auto_vacuum").fetchone()[0]:
        return False
    until = time.monotonic() + seconds
    for _page in range(surplus):
        if time.monotonic() > until:
            return True
        db.execute("PRAGMA incremental_vacuum(1)")  # sqlite3 ends this pragma after one page, also with a larger number
    return False


def show_life(db: sqlite3.Connection, me: Process, now: float) -> None:
    """Record that this process is alive now."""
    db.execute("UPDATE writers SET seen_at = ? WHERE pid = ? AND start = ?", (now, me.pid, me.start))


def forget_writer(db: sqlite3.Connection, process: Process) -> None:
    """Delete the records of a dead process and of its unanswered requests."""
    db.execute("DELETE FROM requests WHERE pid = ? AND start = ?", (process.pid, process.start))
    db.execute("DELETE FROM writers WHERE pid = ? AND start = ?", (process.pid, process.start))


def select_writers(db: sqlite3.Connection) -> list[Writer]:
    """Return every process recorded as a writer."""
    rows = db.execute("SELECT pid, start, parent_pid, parent_start, seen_at FROM writers").fetchall()
    return [
        Writer(
            process=Process(pid=pid, start=start),
            parent=Process(pid=parent_pid, start=parent_start),
            seen_at=seen_at,
        )
        for pid, start, parent_pid, parent_start, seen_at in rows
    ]


def write_requests(
    db: sqlite3.Connection,
    rows: Iterable[Row],
    called_off: list[int],
    closed: list[int],
    ended: list[int],
    now: float,
) -> None:
    """Write new requests, mark the cancelled ones, and delete the answered ones."""
    # One step of SQLite for each of the three, for any number of requests (database.py says why).
    for row in rows:
        if isinstance(row[4], memoryview):
            kept = (*row[:4], packed(row[4]), *row[5:])
            db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", kept)
    waiting = (row for row in rows if not isinstance(row[4], memoryview))
    while some := list(islice(waiting, _ROWS_AT_ONCE)):
        places = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, 0)"] * len(some))
        db.execute(f"INSERT OR REPLACE INTO requests VALUES {places}", [*chain.from_iterable(some)])  # noqa: S608 - only marks
    if called_off:
        these = "UPDATE requests SET action = ? WHERE id IN (SELECT value FROM json_each(?))"
        db.execute(these, (CALLED_OFF, json.dumps(called_off)))
    if closed:
        these = "FROM requests WHERE id IN (SELECT value FROM json_each(?))"
        numbers = json.dumps(closed)
        # The information driver, listing instances now, must see that its listing is outdated for these VMs.
        has_ended = "id IN (SELECT value FROM json_each(?))"
        if ended:
            vms = f"SELECT vm_id FROM requests WHERE {has_ended}"  # noqa: S608 - only marks
            query = f"UPDATE instances SET ended_at = ? WHERE ended_at = 0 AND vm_id IN ({vms})"  # noqa: S608
            db.execute(query, (now, json.dumps(ended)))
        answers = f"INSERT OR REPLACE INTO answered SELECT vm_id, action, ?, {has_ended} {these} ORDER BY id"
        db.execute(answers, (now, json.dumps(ended), numbers))
        db.execute(f"DELETE {these}", (numbers,))


def select_open_requests(db: sqlite3.Connection) -> list[OpenRequest]:
    """Return the unanswered requests, oldest first."""
    rows = db.execute(
        "SELECT id, vm_id, action, is_two_blank, payload, opened_at, pid, start, takers FROM requests ORDER BY id"
    ).fetchall()
    return [
        OpenRequest(
            id=number,
            vm_id=VmId(vm_id),
            action=action,
            dialect=Dialect.of_line(has_status_field=bool(is_two_blank)),
            payload=zlib.decompress(payload) if payload else b"",
            opened_at=opened_at,
            writer=Process(pid=pid, start=start),
            takers=takers,
        )
        for number, vm_id, action, is_two_blank, payload, opened_at, pid, start, takers in rows
    ]


def select_outline(db: sqlite3.Connection, since: float) -> Outline:
    """Return the action driver's current work, without attempts that were sent and answered before `since`."""
    unanswered: dict[Process, set[VmId]] = {}
    for pid, start, vm_id in db.execute("SELECT pid, start, vm_id FROM requests").fetchall():
        unanswered.setdefault(Process(pid=pid, start=start), set()).add(VmId(vm_id))
    answers = "SELECT vm_id, action, at, has_ended FROM answered WHERE at >= (SELECT max(at) FROM answered) - ?"
    rows = db.execute(answers, (_ANSWERED_SECONDS,)).fetchall()
    young = "state IN ('open', 'created') AND (sent_at >= :since OR answered_at >= :since)"
    return Outline(
        unanswered={process: frozenset(vms) for process, vms in unanswered.items()},
        answered={
            VmId(vm_id): Answered(action=action, at=at, has_ended=bool(has_ended))
            for vm_id, action, at, has_ended in rows
        },
        attempts=tuple(select_attempts(db, young, {"since": since})),
        parked=frozenset(DeployId(row[0]) for row in db.execute("SELECT deploy_id FROM parked").fetchall()),
        owed=frozenset(DeployId(row[0]) for row in db.execute("SELECT deploy_id FROM debts").fetchall()),
        refusal=select_refusal(db),
        shortages=select_shortages(db),
    )


def select_ends(db: sqlite3.Connection, deploy_ids: Collection[DeployId]) -> list[tuple[DeployId, float]]:
    """Return these instances with the time when an action ended them, without those that none has ended."""
    query = (
        "SELECT deploy_id, ended_at FROM instances WHERE ended_at > 0 AND deploy_id IN (SELECT value FROM json_each(?))"
    )
    return [(DeployId(row[0]), float(row[1])) for row in db.execute(query, (json.dumps(list(deploy_ids)),)).fetchall()]


def select_import(db: sqlite3.Connection, deploy_id: DeployId) -> tuple[VmId, int] | None:
    """Return ID and STIME of the VM that has imported this untagged instance; None when none has."""
    row = db.execute("SELECT vm_id, stime FROM imported WHERE deploy_id = ?", (deploy_id,)).fetchone()
    return None if row is None else (VmId(row[0]), int(row[1]))


def claim_import(db: sqlite3.Connection, deploy_id: DeployId, vm_id: VmId, stime: int) -> tuple[VmId, int]:
    """Record an untagged instance as this VM's import, unless it is another's; return ID and STIME of its VM."""
    claimed = db.execute("INSERT OR IGNORE INTO imported VALUES (?, ?, ?)", (deploy_id, vm_id, stime)).rowcount
    if claimed:
        _note_instance(db, deploy_id, vm_id)
    return select_import(db, deploy_id) or (vm_id, stime)


def note_specification(db: sqlite3.Connection, deploy_id: DeployId, vm_id: VmId, specification: str) -> None:
    """Write the specification that a VM's instance now has (actions/instance_spec.py)."""
    db.execute("INSERT OR REPLACE INTO asked VALUES (?, 0, ?)", (deploy_id, specification))
    _note_instance(db, deploy_id, vm_id)


def _note_instance(db: sqlite3.Connection, deploy_id: DeployId, vm_id: VmId) -> None:
    db.execute("INSERT OR REPLACE INTO instances VALUES (?, ?, 0)", (deploy_id, vm_id))


def select_specification(db: sqlite3.Connection, deploy_id: DeployId, owner: str, vm_id: VmId) -> str | None:
    """Return an instance's specification: written under its id, or, before any change, under its attempt's token."""
    of_attempt = "SELECT token FROM attempts WHERE owner = :owner AND vm_id = :vm_id AND deploy_id = :deploy_id"
    row = db.execute(
        "SELECT asked FROM asked WHERE (NOT is_token AND key = :deploy_id)"  # noqa: S608 - nothing from outside
        f" OR (is_token AND key IN ({of_attempt})) ORDER BY is_token LIMIT 1",
        {"owner": owner, "vm_id": vm_id, "deploy_id": deploy_id},
    ).fetchone()
    return None if row is None else str(row[0])


def select_attempts_of_vm(db: sqlite3.Connection, owner: str, vm_id: VmId) -> list[Attempt]:
    """Return every attempt for this VM ID, oldest first, with its timestamp on the steady clock."""
    values = {"owner": owner, "vm_id": vm_id}
    found = select_attempts(db, "owner = :owner AND vm_id = :vm_id", values)
    rows = db.execute(
        "SELECT token, at, steady, boot FROM moments JOIN attempts USING (token)"
        " WHERE owner = :owner AND vm_id = :vm_id",
        values,
    ).fetchall()
    latest = {token: Timestamp(at=at, steady=steady, boot=boot) for token, at, steady, boot in rows}
    return [msgspec.structs.replace(each, latest=latest.get(each.token)) for each in found]


_ATTEMPT = (
    "SELECT token, owner, vm_id, stime, seq, host_id, number, parameters, state, deploy_id, sent_at, answered_at,"
    " detail FROM attempts"
)


def select_attempts(db: sqlite3.Connection, which: str, values: Mapping[str, object]) -> list[Attempt]:
    """Return the attempts that meet a condition, ordered by STIME, SEQ and number."""
    rows = db.execute(f"{_ATTEMPT} WHERE {which} ORDER BY stime, seq, number", values).fetchall()
    return [_attempt(row) for row in rows]


def _attempt(row: Row) -> Attempt:
    token, owner, vm_id, stime, seq, host_id, number, parameters, state, deploy_id, sent_at, answered_at, detail = row
    return Attempt(
        token=token,
        identity=Identity(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id),
        number=number,
        parameters=json.loads(parameters),
        state=AttemptState(state),
        deploy_id=DeployId(deploy_id),
        sent_at=sent_at,
        answered_at=answered_at,
        detail=detail,
    )


def save_attempt(db: sqlite3.Connection, attempt: Attempt) -> None:
    """Write an attempt, with its timestamp on the steady clock and its instance's specification."""
    who = attempt.identity
    db.execute(
        "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (attempt.token, who.owner, who.vm_id, who.stime, who.seq, who.host_id, attempt.number,
         json.dumps(attempt.parameters), attempt.state.value, attempt.deploy_id, attempt.sent_at, attempt.answered_at,
         storable(attempt.detail)),
    )  # fmt: skip
    if attempt.latest is not None:
        row = (attempt.token, attempt.latest.at, attempt.latest.steady, attempt.latest.boot)
        db.execute("INSERT OR REPLACE INTO moments VALUES (?, ?, ?, ?)", row)
    if attempt.state is AttemptState.CREATED:  # `ended_at` of an instance that has a row stays
        db.execute("INSERT OR IGNORE INTO instances VALUES (?, ?, 0)", (attempt.deploy_id, who.vm_id))
    if attempt.specification:
        db.execute("INSERT OR REPLACE INTO asked VALUES (?, 1, ?)", (attempt.token, attempt.specification))


def select_vm_ids(db: sqlite3.Connection) -> list[VmId]:
    """Return the VMs of all requests, attempts, debts, and parked and imported instances, in order."""
    tables = ("requests", "attempts", "debts", "parked", "imported")
    union = " UNION ".join(f"SELECT vm_id FROM {table}" for table in tables)  # noqa: S608
    return [VmId(vm_id) for (vm_id,) in db.execute(f"{union} ORDER BY vm_id")]


def select_debts(db: sqlite3.Connection) -> list[Debt]:
    """Return every open debt, oldest first."""
    rows = db.execute(
        "SELECT id, deploy_id, token, owner, vm_id, stime, seq, host_id, reason, since, tries, last_error FROM debts"
        " ORDER BY id"
    ).fetchall()
    return [
        Debt(
            id=number,
            deploy_id=DeployId(deploy_id),
            token=token,
            identity=Identity(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id),
            reason=reason,
            since=since,
            tries=tries,
            last_error=last_error,
        )
        for number, deploy_id, token, owner, vm_id, stime, seq, host_id, reason, since, tries, last_error in rows
    ]


def select_live_imports(db: sqlite3.Connection) -> list[tuple[DeployId, VmId]]:
    """Return imported instances that no action has terminated, each with its VM."""
    rows = db.execute(
        "SELECT deploy_id, vm_id FROM imported"
        " WHERE deploy_id NOT IN (SELECT deploy_id FROM instances WHERE ended_at > 0) ORDER BY vm_id"
    ).fetchall()
    return [(DeployId(deploy_id), VmId(vm_id)) for deploy_id, vm_id in rows]


def add_debt(db: sqlite3.Connection, debt: Debt) -> None:
    """Write a debt; where it exists already, its record gets the later SEQ and time of both."""
    who, reason = debt.identity, storable(debt.reason)
    db.execute(
        "INSERT INTO debts"
        " (deploy_id, token, owner, vm_id, stime, seq, host_id, reason, since, tries, last_error)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '')"
        " ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq), since = max(since, excluded.since),"
        # The reason of a request's debt replaces an orphan's, since only an orphan's debt may be deleted unpaid.
        " reason = CASE WHEN substr(reason, 1, ?) = ? THEN excluded.reason ELSE reason END",
        (
            debt.deploy_id,
            debt.token,
            who.owner,
            who.vm_id,
            who.stime,
            who.seq,
            who.host_id,
            reason,
            debt.since,
            len(ORPHAN),
            ORPHAN,
        ),
    )
