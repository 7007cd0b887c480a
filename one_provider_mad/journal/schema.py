"""The tables of the journal's file, its versions, and the step from each version to the next.

The number of a file's version is SQLite's `user_version`. Files of versions 1 to 9 all say 1: their tables tell which
version they are. A process of the previous release may still be ending while this one upgrades its file, so a step only
adds: every table and column that the previous release writes stays as it is, its name included (decision 30).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

VERSION = 12

# A rollback journal and full synchronisation: a create that was sent is still recorded after a power cut.
PRAGMAS = ("journal_mode = TRUNCATE", "synchronous = FULL")


_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE writers (
    pid INTEGER NOT NULL, start TEXT NOT NULL, parent_pid INTEGER NOT NULL, parent_start TEXT NOT NULL,
    seen_at REAL NOT NULL, PRIMARY KEY (pid, start));
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, vm_id INTEGER NOT NULL, action TEXT NOT NULL, is_two_blank INTEGER NOT NULL,
    payload BLOB NOT NULL, opened_at REAL NOT NULL, pid INTEGER NOT NULL, start TEXT NOT NULL,
    takers INTEGER NOT NULL DEFAULT 0);
CREATE TABLE attempts (
    token TEXT PRIMARY KEY, owner TEXT NOT NULL, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL, seq INTEGER NOT NULL,
    host_id INTEGER NOT NULL, number INTEGER NOT NULL, parameters TEXT NOT NULL, state TEXT NOT NULL,
    deploy_id TEXT NOT NULL, sent_at REAL NOT NULL, answered_at REAL NOT NULL, detail TEXT NOT NULL);
CREATE INDEX attempts_of_vm ON attempts (owner, vm_id);
CREATE INDEX attempts_sent ON attempts (sent_at);
CREATE INDEX attempts_answered ON attempts (answered_at);
CREATE INDEX attempts_finished ON attempts (sent_at, answered_at) WHERE state IN ('gone', 'refused');
CREATE TABLE moments (token TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL);
CREATE TABLE debts (
    id INTEGER PRIMARY KEY, deploy_id TEXT NOT NULL, token TEXT NOT NULL, owner TEXT NOT NULL, vm_id INTEGER NOT NULL,
    stime INTEGER NOT NULL, seq INTEGER NOT NULL, host_id INTEGER NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL,
    tries INTEGER NOT NULL, last_error TEXT NOT NULL, UNIQUE (deploy_id, token, vm_id, stime));
CREATE TABLE parked (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, since REAL NOT NULL);
CREATE TABLE soft_ends (
    deploy_id TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL,
    is_refused INTEGER NOT NULL);
CREATE TABLE imported (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL);
CREATE TABLE asked (key TEXT PRIMARY KEY, is_token INTEGER NOT NULL, asked TEXT NOT NULL);
CREATE TABLE answered (
    vm_id INTEGER PRIMARY KEY, action TEXT NOT NULL, at REAL NOT NULL, has_ended INTEGER NOT NULL);
CREATE TABLE instances (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, ended_at REAL NOT NULL);
CREATE INDEX instances_of_vm ON instances (vm_id);
CREATE TABLE recreations (
    vm_id INTEGER PRIMARY KEY, stime INTEGER NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL,
    is_interrupted INTEGER NOT NULL, tries INTEGER NOT NULL, recreated_seq INTEGER NOT NULL,
    recreated_at REAL NOT NULL);
CREATE TABLE owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL, user_id INTEGER NOT NULL,
    user_name TEXT NOT NULL, group_id INTEGER NOT NULL, group_name TEXT NOT NULL, name TEXT NOT NULL,
    seen_at REAL NOT NULL, UNIQUE (vm_id, stime));
CREATE TABLE cloud_tags (deploy_id TEXT PRIMARY KEY, tags TEXT NOT NULL, seen_at REAL NOT NULL);
"""
"""The tables of the latest version.

`is_two_blank` is 1 for the dialect since 6.0, 0 for the one before (protocol/dialect.py). `moments` has the times of
attempts on the steady clock. `instances` has the VM of each instance that a create made (since version 12), in
`imported`, or by id in `asked`, and the time when that VM's instances were destroyed, 0 until then. A changed row of
`owners` gets an `id` above all earlier ones. `cloud_tags` has the tags of `[tags]` that an instance was last given, as
a JSON object.
"""


class _Step(NamedTuple):
    """The upgrade of a journal's file from one version to the next.

    Attributes:
        version: the file's version after the upgrade.
        upgrade: SQL that changes the file.
        view: SQL that lets a reader use a file of an earlier version as if it had this one; TEMP tables and views
            are the connection's own, and come before the file's.
    """

    version: int
    upgrade: str
    view: str = ""


_STEPS = (
    _Step(
        2,
        "ALTER TABLE requests ADD COLUMN takers INTEGER NOT NULL DEFAULT 0",
        "CREATE TEMP VIEW requests AS SELECT *, 0 AS takers FROM main.requests",
    ),
    # Until then `sent_at` was the time of the last sending or answer.
    _Step(
        3,
        """
        CREATE TABLE attempts_anew (
            token TEXT PRIMARY KEY, owner TEXT NOT NULL, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL,
            seq INTEGER NOT NULL, host_id INTEGER NOT NULL, number INTEGER NOT NULL, parameters TEXT NOT NULL,
            state TEXT NOT NULL, deploy_id TEXT NOT NULL, sent_at REAL NOT NULL, answered_at REAL NOT NULL,
            detail TEXT NOT NULL);
        INSERT INTO attempts_anew SELECT token, owner, vm_id, stime, seq, host_id, number, parameters, state, deploy_id,
            sent_at, CASE state WHEN 'open' THEN 0 ELSE sent_at END, detail FROM attempts;
        DROP TABLE attempts;
        ALTER TABLE attempts_anew RENAME TO attempts;
        CREATE INDEX attempts_of_vm ON attempts (owner, vm_id)
        """,
        "CREATE TEMP VIEW attempts AS"
        " SELECT *, CASE state WHEN 'open' THEN 0 ELSE sent_at END AS answered_at FROM main.attempts",
    ),
    # Until then the numbers of requests were random, and the order of arrival was that of their times.
    _Step(
        4,
        """
        CREATE TABLE in_order AS SELECT row_number() OVER (ORDER BY opened_at, id) AS place, * FROM requests;
        DELETE FROM requests;
        INSERT INTO requests SELECT place, vm_id, action, is_two_blank, payload, opened_at, pid, start, takers
            FROM in_order;
        DROP TABLE in_order;
        CREATE INDEX IF NOT EXISTS attempts_sent ON attempts (sent_at);
        CREATE INDEX IF NOT EXISTS attempts_answered ON attempts (answered_at);
        CREATE TABLE IF NOT EXISTS answered (vm_id INTEGER PRIMARY KEY, action TEXT NOT NULL, at REAL NOT NULL)
        """,
    ),
    # Its rows count for an hour, and the earlier ones do not tell which actions have destroyed an instance.
    _Step(
        5,
        """
        DROP TABLE answered;
        CREATE TABLE answered (
            vm_id INTEGER PRIMARY KEY, action TEXT NOT NULL, at REAL NOT NULL, has_ended INTEGER NOT NULL)
        """,
        "CREATE TEMP TABLE answered (vm_id, action, at, has_ended)",
    ),
    _Step(
        6,
        """
        CREATE TABLE IF NOT EXISTS moments (
            token TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL)
        """,
    ),
    _Step(
        7,
        """
        CREATE TABLE IF NOT EXISTS soft_ends (
            deploy_id TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL,
            is_refused INTEGER NOT NULL)
        """,
    ),
    _Step(8, ""),  # added a trigger against writes of releases before version 6, which refuse version 10
    _Step(
        9,
        "CREATE TABLE IF NOT EXISTS asked (key TEXT PRIMARY KEY, is_token INTEGER NOT NULL, asked TEXT NOT NULL)",
    ),
    _Step(
        10,
        """
        DROP TRIGGER IF EXISTS attempt_without_moment;
        CREATE INDEX IF NOT EXISTS attempts_finished ON attempts (sent_at, answered_at)
            WHERE state IN ('gone', 'refused');
        CREATE TABLE IF NOT EXISTS instances (
            deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, ended_at REAL NOT NULL);
        CREATE INDEX IF NOT EXISTS instances_of_vm ON instances (vm_id);
        INSERT OR IGNORE INTO instances SELECT deploy_id, vm_id, 0 FROM imported;
        INSERT OR IGNORE INTO instances SELECT deploy_id, vm_id, 0 FROM attempts JOIN asked ON key = deploy_id
            WHERE NOT is_token ORDER BY state = 'created' DESC
        """,
        "CREATE TEMP TABLE instances (deploy_id, vm_id, ended_at)",
    ),
    _Step(
        11,
        """
        CREATE TABLE IF NOT EXISTS recreations (
            vm_id INTEGER PRIMARY KEY, stime INTEGER NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL,
            reason TEXT NOT NULL, is_interrupted INTEGER NOT NULL, tries INTEGER NOT NULL,
            recreated_seq INTEGER NOT NULL, recreated_at REAL NOT NULL)
        """,
        "CREATE TEMP TABLE recreations"
        " (vm_id, stime, seq, at, reason, is_interrupted, tries, recreated_seq, recreated_at)",
    ),
    _Step(
        12,
        """
        CREATE TABLE IF NOT EXISTS owners (
            id INTEGER PRIMARY KEY AUTOINCREMENT, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL,
            user_id INTEGER NOT NULL, user_name TEXT NOT NULL, group_id INTEGER NOT NULL, group_name TEXT NOT NULL,
            name TEXT NOT NULL, seen_at REAL NOT NULL, UNIQUE (vm_id, stime));
        CREATE TABLE IF NOT EXISTS cloud_tags (
            deploy_id TEXT PRIMARY KEY, tags TEXT NOT NULL, seen_at REAL NOT NULL)
        """,
        "CREATE TEMP TABLE owners (id, vm_id, stime, user_id, user_name, group_id, group_name, name, seen_at)",
    ),
)


def check_version(db: sqlite3.Connection) -> int:
    """Return the version of a file, 0 for a new one.

    Raises:
        sqlite3.DatabaseError: a later release has upgraded it.
    """
    if sentence := later_release(db):
        raise sqlite3.DatabaseError(sentence)
    return version_of(db)


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of a file, also of a later release's; 0 for a new one."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return _recognised(db) if version == 1 else version


def later_release(db: sqlite3.Connection) -> str:
    """Return a sentence that says that a later release has upgraded the file; "" if none has."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version <= VERSION:
        return ""
    return (
        f"a later release has upgraded it to version {version}, and this release writes versions up to {VERSION}:"
        ' install that release again, or see "Going back to an earlier release" in docs/troubleshooting.md'
    )


def _recognised(db: sqlite3.Connection) -> int:
    """Return a file's version from 1 to 9 by its tables, since `user_version` is 1 in all of these."""
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master").fetchall()}
    marks = (
        "takers" in _columns(db, "requests"),
        "answered_at" in _columns(db, "attempts"),
        "answered" in names,
        "has_ended" in _columns(db, "answered"),
        "moments" in names,
        "soft_ends" in names,
        "attempt_without_moment" in names,
        "asked" in names,
    )
    return 1 + (marks.index(False) if False in marks else len(marks))


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall()}


def prepare(db: sqlite3.Connection) -> None:
    """Create the tables of a new file, or upgrade a file of an earlier version; runs in one transaction."""
    version = check_version(db)
    if version == 0:
        _run(db, _SCHEMA)
    for step in _steps_from(version):
        _run(db, step.upgrade)
    if version != VERSION:
        db.execute(f"PRAGMA user_version = {VERSION}")


def show_as_latest(db: sqlite3.Connection) -> bool:
    """Let this connection read a file of any version as if it had the latest one, without changing the file.

    A file of a later release is read as it is, since each version only adds to what the one before has; where one does
    not, the queries fail.

    Return False for a file without tables, which a driver is just creating.
    """
    if later_release(db):
        return True
    version = check_version(db)
    for step in _steps_from(version):
        db.execute(step.view)
    return version > 0


def make_shrinkable(db: sqlite3.Connection) -> None:
    """Set a file to `auto_vacuum`, so that `shrink` works; called before `prepare`, outside a transaction.

    That rewrites a file of a version up to 9, once. On a full disk the file stays as it is, until the next start.
    """
    version = check_version(db)
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] == 0:
        with suppress(sqlite3.Error):
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if version:
                db.execute("VACUUM")


def _steps_from(version: int) -> Iterator[_Step]:
    return (step for step in _STEPS if 0 < version < step.version)


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        db.execute(statement)
