"""The tags of `[tags]` that instances were last given: the SQL of their records."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping

from one_provider_mad.domain import DeployId


def note_cloud_tags(db: sqlite3.Connection, deploy_id: DeployId, tags: Mapping[str, str], now: float) -> None:
    """Write the tags that an instance has now; their record is deleted where there are none."""
    if tags:
        db.execute("INSERT OR REPLACE INTO cloud_tags VALUES (?, ?, ?)", (deploy_id, json.dumps(tags), now))
    else:
        db.execute("DELETE FROM cloud_tags WHERE deploy_id = ?", (deploy_id,))


def select_cloud_tags(db: sqlite3.Connection, deploy_ids: Collection[DeployId]) -> dict[DeployId, Mapping[str, str]]:
    """Return the recorded tags of these instances."""
    # One step of SQLite for any number of instances (database.py says why).
    these = "SELECT value FROM json_each(?)"
    query = f"SELECT json_group_object(deploy_id, json(tags)) FROM cloud_tags WHERE deploy_id IN ({these})"  # noqa: S608
    found: dict[DeployId, Mapping[str, str]] = json.loads(
        db.execute(query, (json.dumps(list(deploy_ids)),)).fetchone()[0]
    )
    return found
