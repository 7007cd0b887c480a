"""Finds the files of the drivers of a NAME, with the versions of their layouts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from one_provider_mad.budget import schema as budget_schema
from one_provider_mad.database import connect
from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError
from one_provider_mad.journal import schema
from one_provider_mad.journal.reader import read_version
from one_provider_mad.ledger import schema as ledger_schema
from one_provider_mad.monitor import state
from one_provider_mad.providers.simulated import table
from one_provider_mad.settings import EMBEDDED, Configuration, Places


class VersionedFile(Value, frozen=True, kw_only=True):
    """A file whose layout has a version.

    Attributes:
        what: the file's content, in a few words.
        path: the file.
        version: its version; None if it cannot be told.
        written: the version that this release writes.
        trouble: why the version cannot be told, "" else.
    """

    what: str
    path: Path
    version: int | None
    written: int
    trouble: str = ""


def journal_of(name: str, configuration: Configuration | None, places: Places) -> Path:
    """Return the path of a NAME's journal; the default one while the configuration cannot be read."""
    return places.default_journal(name) if configuration is None else places.journal(configuration)


def ledger_of(name: str, configuration: Configuration | None, places: Places) -> Path:
    """Return the path of a NAME's ledger; the default one while the configuration cannot be read."""
    return places.default_ledger(name) if configuration is None else places.ledger(configuration)


def budget_of(name: str, configuration: Configuration | None, places: Places) -> Path:
    """Return the path of a NAME's budget; the default one while the configuration cannot be read."""
    return (
        places.default_journal(name).with_suffix(".budget") if configuration is None else places.budget(configuration)
    )


def versioned_files(name: str, configuration: Configuration | None, places: Places) -> Iterator[VersionedFile]:
    """Yield the existing files of a NAME whose layout has a version."""
    journal = journal_of(name, configuration, places)
    if journal.exists():
        try:
            version, trouble = read_version(journal), ""
        except MadError as error:
            version, trouble = None, str(error)
        yield VersionedFile(what="journal", path=journal, version=version, written=schema.VERSION, trouble=trouble)
    monitoring = monitoring_state(name, places)
    if monitoring.exists():
        version, trouble = _json_version(monitoring)
        yield VersionedFile(
            what="monitoring state", path=monitoring, version=version, written=state.VERSION, trouble=trouble
        )
    for what, path, written in (
        ("embedded cloud", embedded_cloud(name, configuration, places), table.SCHEMA_VERSION),
        ("ledger", ledger_of(name, configuration, places), ledger_schema.VERSION),
        ("budget", budget_of(name, configuration, places), budget_schema.VERSION),
    ):
        if path is not None and path.exists():
            version, trouble = _sqlite_version(path)
            yield VersionedFile(what=what, path=path, version=version, written=written, trouble=trouble)


def monitoring_state(name: str, places: Places) -> Path:
    """Return the path of the information driver's state file."""
    return places.var / f"one_im_provider_{name}.state"


def embedded_cloud(name: str, configuration: Configuration | None, places: Places) -> Path | None:
    """Return the path of the simulated cloud's database; None for another provider."""
    if configuration is None or configuration.settings.provider != EMBEDDED:
        return None
    return Path(str(configuration.table.get("database") or places.var / f"{name}.db"))


def is_embedded_cloud(path: Path) -> bool:
    """Return False for another program's database: OpenNebula's own, one.db, is in the same directory."""
    if not path.exists():
        return False
    try:
        with closing(connect(path, timeout=5, mode="ro")) as db:
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master").fetchall()}
    except (OSError, sqlite3.Error):
        return False
    return {"instance", "token"} <= tables


def _json_version(path: Path) -> tuple[int | None, str]:
    try:
        return int(json.loads(path.read_bytes())["version"]), ""
    except (OSError, ValueError, LookupError, TypeError) as error:
        return None, f"{path} cannot be read: {error}"


def _sqlite_version(path: Path) -> tuple[int | None, str]:
    try:
        with closing(connect(path, timeout=5, mode="ro")) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0]), ""
    except (OSError, sqlite3.Error) as error:
        return None, f"{path} cannot be read: {error}"
