"""The contents of an account: the simulated cloud's instances, and beside them EC2's volumes, addresses and the like.

They are in the same file as the instances. Nothing runs in the background: a volume's present state follows from its
line, the clock, and its instance.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from one_provider_mad.lab.ec2.refusals import Refusal, not_found
from one_provider_mad.providers.simulated import table
from one_provider_mad.providers.simulated.cloud import Cloud
from one_provider_mad.providers.simulated.settings import SimulatedSettings

_Result = TypeVar("_Result")

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS ec2_volume (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,         -- GiB
        kind TEXT NOT NULL,
        zone TEXT NOT NULL,
        encrypted INTEGER NOT NULL,
        tags TEXT NOT NULL,            -- JSON
        token TEXT NOT NULL,
        asked TEXT NOT NULL,           -- JSON, of the create
        created_at REAL NOT NULL,
        ready_at REAL NOT NULL,
        instance_id TEXT NOT NULL,     -- where it is attached, '' for nowhere
        device TEXT NOT NULL,
        attached_at REAL NOT NULL,
        ends_with_instance INTEGER NOT NULL,
        is_launched INTEGER NOT NULL,  -- made with its instance
        deleted_at REAL
    )""",
    "CREATE INDEX IF NOT EXISTS ec2_volume_instance ON ec2_volume (instance_id)",
    "CREATE INDEX IF NOT EXISTS ec2_volume_token ON ec2_volume (token)",
    """CREATE TABLE IF NOT EXISTS ec2_address (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        public_ip TEXT NOT NULL UNIQUE,
        tags TEXT NOT NULL,
        association_id TEXT NOT NULL,
        instance_id TEXT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS ec2_interface (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        subnet TEXT NOT NULL,
        groups TEXT NOT NULL,          -- with commas between
        tags TEXT NOT NULL,            -- JSON
        instance_id TEXT NOT NULL,     -- where it is attached, '' for nowhere
        attachment_id TEXT NOT NULL,
        device_index INTEGER NOT NULL,
        ends_with_instance INTEGER NOT NULL,
        address TEXT NOT NULL DEFAULT ''  -- the one asked for, '' for any
    )""",
    """CREATE TABLE IF NOT EXISTS ec2_group (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        vpc TEXT NOT NULL,
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        tags TEXT NOT NULL,            -- JSON
        rules TEXT NOT NULL            -- JSON
    )""",
    """CREATE TABLE IF NOT EXISTS ec2_event (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        instance_id TEXT NOT NULL,
        code TEXT NOT NULL,
        description TEXT NOT NULL,
        not_before REAL NOT NULL
    )""",
)

ROOT_DEVICE = "/dev/xvda"
"""Device of the root volume, of every image."""

ROOT_SIZE = 8
"""GiB of every snapshot, and so of the root volume of every image, and of a volume without a size in the call."""


class Volume(NamedTuple):
    """A line of the table `ec2_volume`, its columns in order."""

    number: int
    id: str
    size: int
    kind: str
    zone: str
    encrypted: int
    tags: str
    token: str
    asked: str
    created_at: float
    ready_at: float
    instance_id: str
    device: str
    attached_at: float
    ends_with_instance: int
    is_launched: int
    deleted_at: float | None

    def settled(self, now: float, instance: table.Row | None) -> Volume:
        """Return the volume as the end of its instance leaves it: detached, or deleted."""
        if not self.instance_id or self.deleted_at is not None:
            return self
        if instance is None or (self.ends_with_instance and instance.state_at(now).is_gone):
            gone_at = now if self.ends_with_instance else None
            return self._replace(instance_id="", device="", deleted_at=gone_at)
        if instance.transition == "terminating":
            if self.ends_with_instance:
                return self._replace(instance_id="", device="", deleted_at=now)
            if now >= instance.ends_at:
                return self._replace(instance_id="", device="")
        return self

    def state(self, now: float) -> str:
        """Return EC2's word for the volume's state; the volume comes from `settled`."""
        if self.deleted_at is not None:
            return "deleted"
        if now < self.ready_at:
            return "creating"
        return "in-use" if self.instance_id else "available"


class Address(NamedTuple):
    """A line of the table `ec2_address`, its columns in order."""

    number: int
    id: str
    public_ip: str
    tags: str
    association_id: str
    instance_id: str


class Event(NamedTuple):
    """A line of the table `ec2_event`, its columns in order: one of EC2's plans for an instance."""

    number: int
    instance_id: str
    code: str
    description: str
    not_before: float


class InstancesView(NamedTuple):
    """Instances with their volumes and addresses, all at one timestamp.

    Attributes:
        now: that timestamp.
        rows: the visible instances of the request, in the order of their numbers.
        volumes: as the end of an instance leaves them, by instance.
        addresses: by instance.
        interfaces: id, device index and groups of each attached interface in `ec2_interface`, by instance.
    """

    now: float
    rows: Sequence[table.Row]
    volumes: dict[str, list[Volume]]
    addresses: dict[str, Address]
    interfaces: Mapping[str, Sequence[tuple[str, int, str]]] = {}


class Resources:
    """One account in one region.

    Args:
        database: the simulated cloud's file.
        settings: its offers and durations.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Path, settings: SimulatedSettings, *, clock: Callable[[], float]) -> None:
        self.cloud = Cloud(database, settings, clock=clock)
        self.clock = clock
        self.settings = settings
        self.region = settings.region
        self.zone = f"{settings.region}a"
        self.number = _account_number(settings.account)

    async def open(self) -> None:
        """Open the file. Raises ProviderError when it cannot be used."""
        await self.cloud.open()
        await self.write(bring_up)

    async def close(self) -> None:
        """Close the file."""
        await self.cloud.close()

    async def read(self, operation: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Carry out an operation that changes nothing."""
        return await self.cloud.database.read(operation)

    async def write(self, operation: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Carry out an operation; when it raises, nothing is changed."""
        return await self.cloud.database.write(operation)

    def real(self, cloud_seconds: float) -> float:
        """Convert seconds of the simulated cloud to real seconds."""
        return cloud_seconds / self.settings.time_scale

    async def view(self, query: str = table.LIST_ALL, **values: str) -> InstancesView:
        """Return instances with their parts: all, or those of another query of `table`."""
        return await self.read(lambda db: view(db, self.clock(), query, **values))

    async def named(self, instance_ids: Collection[str]) -> InstancesView:
        """Return these instances with their parts, as EC2 does for ids.

        Raises:
            Refusal: one is no valid id, is not known, or is not visible yet.
        """
        for each in instance_ids:
            check_id(each)
        found = await self.view(table.LIST_THESE, ids=table.encode(list(dict.fromkeys(instance_ids))))
        known = {row.id for row in found.rows}
        for each in instance_ids:
            if each not in known:
                raise not_found(each)
        return found


def bring_up(db: sqlite3.Connection) -> None:
    """Create missing tables, and delete volumes that ended with a forgotten instance."""
    for statement in SCHEMA:
        db.execute(statement)
    columns = [line[1] for line in db.execute("PRAGMA table_info(ec2_interface)")]
    if "address" not in columns:  # a file of release 0.1
        db.execute("ALTER TABLE ec2_interface ADD COLUMN address TEXT NOT NULL DEFAULT ''")
    db.execute(
        "DELETE FROM ec2_volume WHERE instance_id <> '' AND ends_with_instance"
        " AND instance_id NOT IN (SELECT id FROM instance)"
    )


def check_id(instance_id: str) -> None:
    """Refuse an id that cannot be an instance's; those of instances made through another API are fine."""
    if not re.fullmatch(r"(i|sim)-[0-9a-z]{1,32}", instance_id):
        text = f'Invalid id: "{instance_id[:80]}" (expecting "i-...")'
        raise Refusal("InvalidInstanceID.Malformed", text)


def view(db: sqlite3.Connection, now: float, query: str = table.LIST_ALL, **values: str) -> InstancesView:
    """Return instances with their parts, all at one timestamp."""
    lines: str = db.execute(query, {**values, "now": now}).fetchone()[0]
    rows = sorted(table.decode_rows(lines))
    by_id = {row.id: row for row in rows}
    narrow = table.encode(list(by_id)) if query != table.LIST_ALL else ""
    volumes: dict[str, list[Volume]] = {}
    for volume in attached(db, narrow):
        settled = volume.settled(now, by_id.get(volume.instance_id))
        if settled.instance_id:
            volumes.setdefault(settled.instance_id, []).append(settled)
    found = db.execute("SELECT * FROM ec2_address WHERE instance_id <> ''").fetchall()
    addresses = {address.instance_id: address for address in map(Address._make, found)}
    interfaces: dict[str, list[tuple[str, int, str]]] = {}
    query = "SELECT instance_id, id, device_index, groups FROM ec2_interface WHERE instance_id <> '' ORDER BY 3"
    for instance_id, *interface in db.execute(query).fetchall():
        interfaces.setdefault(instance_id, []).append(tuple(interface))
    return InstancesView(now=now, rows=rows, volumes=volumes, addresses=addresses, interfaces=interfaces)


_decode_volumes = msgspec.json.Decoder(list[Volume]).decode
_SELECT = f"SELECT '[' || coalesce(group_concat(json_array({', '.join(Volume._fields)})), '') || ']' FROM ec2_volume"  # noqa: S608
"""Volumes as JSON, in one step of SQLite (database.py says why)."""


def attached(db: sqlite3.Connection, instance_ids: str) -> list[Volume]:
    """Return the volumes of these instances, a JSON list, "" for all, before the effects of their instances' ends."""
    which = "instance_id IN (SELECT value FROM json_each(?))" if instance_ids else "instance_id <> ?"
    return _decode_volumes(db.execute(f"{_SELECT} WHERE {which}", (instance_ids,)).fetchone()[0])


def volumes(db: sqlite3.Connection, now: float) -> list[Volume]:
    """Return every volume that is not deleted, as the end of its instance leaves it."""
    found = sorted(_decode_volumes(db.execute(f"{_SELECT} WHERE deleted_at IS NULL").fetchone()[0]))
    instances = owners(db, {volume.instance_id for volume in found if volume.instance_id}, now)
    settled = (volume.settled(now, instances.get(volume.instance_id)) for volume in found)
    return [volume for volume in settled if volume.deleted_at is None]


def owners(db: sqlite3.Connection, instance_ids: Collection[str], now: float) -> dict[str, table.Row]:
    """Return the instances of volumes and addresses, including those that are not visible yet."""
    query = "SELECT * FROM instance WHERE id IN (SELECT value FROM json_each(?))"
    rows = map(table.Row._make, db.execute(query, (table.encode(list(instance_ids)),)))
    return {row.id: row for row in rows if row.is_known(now)}


def volume(db: sqlite3.Connection, volume_id: str, now: float) -> Volume:
    """Return one volume, as the end of its instance leaves it. Raises Refusal for an unknown or deleted one."""
    line = db.execute("SELECT * FROM ec2_volume WHERE id = ?", (volume_id,)).fetchone()
    if line is not None:
        found = Volume._make(line)
        settled = found.settled(now, owners(db, {found.instance_id} - {""}, now).get(found.instance_id))
        if settled.deleted_at is None:
            return settled
    raise Refusal("InvalidVolume.NotFound", f"The volume '{volume_id[:80]}' does not exist.")


def put_volume(db: sqlite3.Connection, volume: Volume) -> None:
    """Add a volume with the next number, or replace the one with its id."""
    db.execute("DELETE FROM ec2_volume WHERE id = ? AND number = ?", (volume.id, volume.number))
    values = (volume.number or None, *volume[1:])
    db.execute(f"INSERT INTO ec2_volume VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608


def events_planned(db: sqlite3.Connection) -> dict[str, list[Event]]:
    """Return the plans by instance."""
    found: dict[str, list[Event]] = {}
    for event in map(Event._make, db.execute("SELECT * FROM ec2_event ORDER BY number")):
        found.setdefault(event.instance_id, []).append(event)
    return found


def plan_event(db: sqlite3.Connection, event: Event) -> None:
    """Add a plan with the next number."""
    db.execute("INSERT INTO ec2_event VALUES (NULL, ?, ?, ?, ?)", event[1:])


def _account_number(account: str) -> str:
    """Return twelve digits: the account's name, or made from it."""
    return account if re.fullmatch(r"\d{12}", account) else f"{zlib.crc32(account.encode()):012d}"
