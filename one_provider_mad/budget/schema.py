"""The tables of a budget's file."""

from __future__ import annotations

import sqlite3

VERSION = 1

PRAGMAS = ("journal_mode = TRUNCATE", "synchronous = FULL")

_TABLES = (
    """CREATE TABLE commitments (
        name TEXT NOT NULL, key TEXT NOT NULL, deploy_id TEXT NOT NULL,
        vm_id INTEGER NOT NULL, stime INTEGER NOT NULL, seq INTEGER NOT NULL,
        user TEXT NOT NULL, grp TEXT NOT NULL,
        amount REAL, known REAL NOT NULL, currency TEXT NOT NULL, gib REAL,
        added REAL NOT NULL DEFAULT 0, added_gib REAL NOT NULL DEFAULT 0, added_at REAL NOT NULL DEFAULT 0,
        since REAL NOT NULL, seen_at REAL NOT NULL DEFAULT 0,
        touched_at REAL NOT NULL, touched_steady REAL NOT NULL, touched_boot TEXT NOT NULL, wait REAL,
        pid INTEGER NOT NULL DEFAULT 0, start TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (name, key))""",
    "CREATE INDEX commitments_by_instance ON commitments (name, deploy_id)",
    "CREATE INDEX commitments_by_vm ON commitments (name, vm_id)",
    """CREATE TABLE segments (
        name TEXT NOT NULL, user TEXT NOT NULL, grp TEXT NOT NULL, known REAL NOT NULL,
        "begin" REAL NOT NULL, "end" REAL NOT NULL)""",
    """CREATE TABLE booked (
        name TEXT NOT NULL, month TEXT NOT NULL, user TEXT NOT NULL, grp TEXT NOT NULL, known REAL NOT NULL,
        unpriced REAL NOT NULL, PRIMARY KEY (name, month, user, grp))""",
    """CREATE TABLE names (
        name TEXT PRIMARY KEY, looked_at REAL NOT NULL DEFAULT 0, as_of REAL NOT NULL DEFAULT 0,
        is_booked INTEGER NOT NULL DEFAULT 0)""",
)
"""The tables.

`commitments` has each instance that exists or may exist: `key` is the token of its create, or its id where a listing
showed it first; `wait` is NULL while a call for it is under way by the process `pid` and `start`, else the seconds
after `touched_at` from which on a listing may lower it or show that it does not exist. `segments` has what was spent
since the ledger's last booking and no commitment shows any more; `booked` what the ledger of a NAME has, with the hours
of unknown price. `is_booked` tells that the ledger was read at all.
"""


def prepare(db: sqlite3.Connection) -> None:
    """Create the tables of a new file.

    Raises:
        sqlite3.DatabaseError: a later release has made the file.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise sqlite3.DatabaseError("a later release has made it: install that release again, or remove the file")
    if version == 0:
        for each in _TABLES:
            db.execute(each)
        db.execute(f"PRAGMA user_version = {VERSION}")
