"""Reads how far limits are used from a budget's file, in processes other than the action driver; changes nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from one_provider_mad.budget.levels import all_scopes, levels
from one_provider_mad.budget.months import month_of
from one_provider_mad.budget.records import Level
from one_provider_mad.budget.schema import VERSION
from one_provider_mad.budget.settings import BudgetSettings
from one_provider_mad.budget.transactions import use_of
from one_provider_mad.database import connect
from one_provider_mad.errors import BudgetError

_BUSY_SECONDS = 5.0
"""Seconds to wait for an action driver that writes."""


def read_levels(path: Path, settings: BudgetSettings, *, name: str, now: float) -> list[Level]:
    """Return how far each limit on a sum is used; none without a file, as before the first action.

    Args:
        path: the budget's file.
        settings: `[budget]`.
        name: NAME of the configuration.
        now: seconds since the epoch.

    Raises:
        BudgetError: there is a file and it cannot be read.
    """
    if not path.exists():
        return []
    try:
        # After a crash SQLite must roll back half a commit before it reads.
        with closing(connect(path, timeout=_BUSY_SECONDS, mode="rw" if os.access(path, os.W_OK) else "ro")) as db:
            db.execute("BEGIN")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                return []
            if version > VERSION:
                raise sqlite3.DatabaseError("a later release has made it")
            db.execute("PRAGMA query_only = 1")
            return _levels(db, settings, name=name, now=now)
    except (OSError, sqlite3.Error) as error:
        raise BudgetError(f"the file of the budget cannot be read: {error} ({path})") from error


def _levels(db: sqlite3.Connection, settings: BudgetSettings, *, name: str, now: float) -> list[Level]:
    month = month_of(now)
    return [level for scope in all_scopes(settings, name=name) for level in levels(scope, use_of(db, scope, month))]
