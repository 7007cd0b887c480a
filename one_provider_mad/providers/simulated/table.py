"""The table of instances: its columns, its queries, and each instance's present state."""

from __future__ import annotations

import math
import sqlite3
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, Usage
from one_provider_mad.errors import InstanceNotFound, ProviderUnavailable, TokenMismatch, TokenSpent
from one_provider_mad.providers.simulated.hardware import Hardware

SCHEMA_VERSION = 1

SCHEMA = (
    "CREATE TABLE account (api_key TEXT NOT NULL)",
    """CREATE TABLE instance (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        transition TEXT NOT NULL,  -- the one begun last
        ends_at REAL NOT NULL,     -- when it ends, seconds since the epoch
        reason TEXT NOT NULL,
        type TEXT NOT NULL,
        image TEXT NOT NULL,
        name TEXT NOT NULL,
        tags TEXT NOT NULL,        -- JSON, ours and the user's
        hardware TEXT NOT NULL,    -- JSON
        reboots INTEGER NOT NULL,
        created_at REAL NOT NULL,
        visible_at REAL NOT NULL,
        forget_at REAL             -- when a terminated instance is shown no more
    )""",
    """CREATE INDEX instance_identity ON instance (
        json_extract(tags, '$.ONE_PROVIDER_OWNER'), json_extract(tags, '$.ONE_PROVIDER_VM_ID'))""",
    # A line as JSON, so that a listing is one step of SQLite: between two steps the thread lets go of the interpreter,
    # and a busy event loop gives it back only after 5 ms.
    """CREATE VIEW listing AS SELECT id, visible_at, forget_at, tags, json_array(
        number, id, transition, ends_at, reason, type, image, name, tags, hardware, reboots, created_at, visible_at,
        forget_at) AS line FROM instance""",
    "CREATE INDEX instance_forget_at ON instance (forget_at) WHERE forget_at IS NOT NULL",
    "CREATE TABLE token (token TEXT PRIMARY KEY, call TEXT NOT NULL, id TEXT NOT NULL) WITHOUT ROWID",
)

TRANSITIONS: Mapping[str, tuple[InstanceState, InstanceState]] = {
    "pending": (InstanceState.PENDING, InstanceState.RUNNING),
    "stopping": (InstanceState.STOPPING, InstanceState.STOPPED),
    "suspending": (InstanceState.SUSPENDING, InstanceState.SUSPENDED),
    "terminating": (InstanceState.TERMINATING, InstanceState.TERMINATED),
    "interrupted": (InstanceState.RUNNING, InstanceState.TERMINATED),
}
"""Transition of an instance to its states before and after the transition's end."""

LIST_ALL = """SELECT '[' || coalesce(group_concat(line), '') || ']' FROM listing
    WHERE visible_at <= :now AND (forget_at IS NULL OR forget_at > :now)"""

LIST_THESE = """SELECT '[' || coalesce(group_concat(line), '') || ']'
    FROM json_each(:ids) AS wanted JOIN listing ON listing.id = wanted.value
    WHERE visible_at <= :now AND (forget_at IS NULL OR forget_at > :now)"""

LIST_TAGGED = """SELECT '[' || coalesce(group_concat(line), '') || ']' FROM listing
    WHERE visible_at <= :now AND (forget_at IS NULL OR forget_at > :now)
    AND json_extract(tags, '$.ONE_PROVIDER_OWNER') = :owner AND json_extract(tags, '$.ONE_PROVIDER_VM_ID') = :vm_id"""

CACHED_TEXTS = 4096
"""Number of decoded columns that are cached; listings read the same ones over and over."""


class Row(NamedTuple):
    """A row of the table `instance`, its columns in order."""

    number: int
    id: str
    transition: str
    ends_at: float
    reason: str
    type: str
    image: str
    name: str
    tags: str
    hardware: str
    reboots: int
    created_at: float
    visible_at: float
    forget_at: float | None

    def state_at(self, now: float) -> InstanceState:
        """Return the instance's state at the time `now`."""
        return TRANSITIONS[self.transition][now >= self.ends_at]

    def is_known(self, now: float) -> bool:
        """Return True if the cloud still knows the instance."""
        return self.forget_at is None or now < self.forget_at


def encode(value: object) -> str:
    """Return a value as JSON for a column."""
    return msgspec.json.encode(value).decode()


decode_tags = msgspec.json.Decoder(dict[str, str]).decode
decode_hardware = msgspec.json.Decoder(Hardware).decode
decode_rows = msgspec.json.Decoder(list[Row]).decode


def bring_up(db: sqlite3.Connection, *, api_key: str) -> str:
    """Create the tables in a new file, with `api_key` as its account's key; return the key of the file's account."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO account VALUES (?)", (api_key,))
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        raise ProviderUnavailable(
            f"the simulated cloud's database has schema {version} and this release knows {SCHEMA_VERSION},"
            " move the file away or name another in `database`"
        )
    key: str = db.execute("SELECT api_key FROM account").fetchone()[0]
    return key


def insert(db: sqlite3.Connection, row: Row) -> None:
    """Add an instance's row; the table gives the row the next number."""
    db.execute("INSERT INTO instance VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row[1:])


def load(db: sqlite3.Connection, deploy_id: DeployId, now: float) -> Row:
    """Return the row of one instance. Raises InstanceNotFound."""
    values = db.execute("SELECT * FROM instance WHERE id = ?", (deploy_id,)).fetchone()
    row = Row._make(values) if values else None
    if row is None or not row.is_known(now):
        raise InstanceNotFound(f"the simulated cloud has no instance {deploy_id}, it may be terminated and forgotten")
    return row


def select(db: sqlite3.Connection, query: str, values: Mapping[str, str], now: float) -> list[Row]:
    """Return the rows of one of the queries, oldest first."""
    lines: str = db.execute(query, {**values, "now": now}).fetchone()[0]
    return sorted(decode_rows(lines))


def find_by_token(db: sqlite3.Connection, token: str, call: str, now: float) -> DeployId | None:
    """Return the instance that the same call made before, None for none."""
    row = db.execute("SELECT call, id FROM token WHERE token = ?", (token,)).fetchone()
    if row is None:
        return None
    if row[0] != call:
        raise TokenMismatch(f"idempotency token {token} was used before with other parameters, take a new one")
    deploy_id = DeployId(row[1])
    try:
        is_gone = load(db, deploy_id, now).state_at(now).is_gone
    except InstanceNotFound:
        is_gone = True
    if is_gone:
        raise TokenSpent(f"idempotency token {token} made {deploy_id}, which is terminated, take a new one")
    return deploy_id


def count_by_type(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of instances of each type, without terminating ones."""
    query = "SELECT type, count(*) FROM instance WHERE transition NOT IN ('terminating', 'interrupted') GROUP BY type"
    return dict(db.execute(query).fetchall())


def view(row: Row, now: float, *, begun: float = 0.0) -> Instance:
    """Return the instance as clients see it.

    Args:
        row: the instance.
        now: seconds since the epoch.
        begun: when a state began that the latest transition will end; 0 when unknown.
    """
    state = row.state_at(now)
    traits = _traits_of(row)
    return Instance(
        deploy_id=DeployId(row.id),
        state=state,
        raw_state=state.value,
        identity=_identity(row.tags),
        name=row.name,
        created_at=row.created_at,
        state_since=row.ends_at if now >= row.ends_at else begun,
        reason=row.reason,
        usage=traits.usage(now - row.created_at) if state is InstanceState.RUNNING else None,
        attributes={**traits.attributes, **interruption(row)} if row.transition == "interrupted" else traits.attributes,
    )


INTERRUPTION, INTERRUPTION_SINCE = "SIM_INTERRUPTION", "SIM_INTERRUPTION_SINCE"
"""Attributes of an instance that the cloud takes back, or has taken back."""

TAKEN_BACK = "taken back by the cloud since"
"""The reason of such an instance, before the time."""


def interruption(row: Row) -> dict[str, str]:
    """Return the attributes of an instance that the cloud takes back: reason and time.

    Each is one word: up to 5.10 reports leave out all others.
    """
    return {INTERRUPTION: "taken-back", INTERRUPTION_SINCE: row.reason.rpartition(" ")[2]}


def usage(row: Row, now: float) -> Usage:
    """Return the figures of a running instance at a timestamp."""
    return _traits_of(row).usage(now - row.created_at)


def _traits_of(row: Row) -> Traits:
    return _traits(row.number, row.id, row.type, row.image, row.reboots, row.hardware)


class Traits(NamedTuple):
    """The values of an instance that are the same in every listing, computed once.

    Attributes:
        attributes: attributes for monitoring beside the figures.
        cpu: percent at full load.
        memory: KiB.
        traffic: bytes received in a second.
        phase: where its wave of load began.
    """

    attributes: Mapping[str, str]
    cpu: float
    memory: float
    traffic: int
    phase: float

    def usage(self, age: float) -> Usage:
        """Return figures that follow from the id and the clock alone: a load in waves, and steady traffic."""
        load = 0.5 + 0.45 * math.sin(age / 30 + self.phase)
        received = int(self.traffic * age) if age > 0 else 0
        return Usage(
            cpu=int(100 * self.cpu * load) / 100,
            memory=int(self.memory * (0.3 + 0.5 * load)),
            net_rx=received,
            net_tx=received // 4,
        )


@lru_cache(CACHED_TEXTS)
def _identity(tags: str) -> Identity | None:
    return Identity.from_tags(decode_tags(tags))


@lru_cache(CACHED_TEXTS)
def _traits(number: int, deploy_id: str, type_name: str, image: str, reboots: int, hardware_text: str) -> Traits:
    hardware = decode_hardware(hardware_text)
    chance = zlib.crc32(deploy_id.encode())
    return Traits(
        attributes={
            "SIM_INSTANCE_TYPE": type_name,
            "SIM_IMAGE_ID": image,
            "GUEST_IP": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
            "SIM_REBOOTS": str(reboots),
            **hardware.facts(),
        },
        cpu=100 * hardware.cpu,
        memory=1024 * hardware.memory,
        traffic=1000 + chance % 9000,
        phase=chance % 628 / 100,
    )
