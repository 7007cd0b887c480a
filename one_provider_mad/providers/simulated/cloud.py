"""The simulated cloud itself: instances in a table, with states that follow from the clock.

Nothing runs in the background. A row holds the latest transition and the timestamp of its end, and each reader computes
the present state from them; so every process sees the same cloud, and a killed process leaves it consistent.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from one_provider_mad.database import Database
from one_provider_mad.domain import TAG_PREFIX, DeployId, Instance, InstanceState, VmId
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    NoCapacity,
    ProviderUnavailable,
    QuotaExceeded,
    WrongState,
)
from one_provider_mad.providers.simulated import bill, table
from one_provider_mad.providers.simulated.bill import BilledDatabase
from one_provider_mad.providers.simulated.hardware import Disk, Hardware
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.providers.simulated.tariff import tariff_of

TERMINATED_SECONDS = 3600.0
"""Cloud seconds for which a terminated instance is still listed, as in EC2."""

NOTICE_SECONDS = 120.0
"""Cloud seconds from the notice that an instance is taken back to its end, as in EC2."""

AT_REST = (InstanceState.RUNNING, InstanceState.STOPPED)
"""States in which an instance's parts can be changed."""


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a create, as in the journal.

    Attributes:
        type: an instance type.
        image: an image id.
        name: for people.
        cpu: cores.
        memory: MiB.
        tags: the user's own.
        context: the instance's context, as text.
        disks: by DISK_ID.
        nics: attributes by NIC_ID.
        market: `spot`, or "" for an instance on demand.
    """

    type: str
    image: str
    name: str = ""
    cpu: float = 1.0
    memory: int = 256
    tags: dict[str, str] = {}
    context: str = ""
    disks: dict[str, Disk] = {}
    nics: dict[str, dict[str, str]] = {}
    market: Literal["", "spot"] = ""


def _new_id() -> str:
    return f"sim-{os.urandom(6).hex()}"


def _nothing_more(db: sqlite3.Connection, deploy_id: DeployId) -> None:
    """Add nothing to the instance."""


class Extras(NamedTuple):
    """Additions to a create by another API of this cloud, such as EC2's (lab/ec2).

    Attributes:
        details: further parameters; two creates with one token must have the same.
        new_id: makes an instance id in that API's form.
        add: creates the new instance's parts, in the same transaction.
    """

    details: Mapping[str, str] = {}
    new_id: Callable[[], str] = _new_id
    add: Callable[[sqlite3.Connection, DeployId], None] = _nothing_more


class Cloud:
    """One simulated account; all objects of this class on the same file share it.

    Args:
        path: the SQLite file.
        settings: the cloud's instance types, limits and durations.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path, settings: SimulatedSettings, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._offer = settings.offer
        self._clock = clock
        self._path = path
        # Not synced: a killed process loses no committed change and leaves no lock, and a crash of the whole machine
        # may cost the last seconds of a cloud that does not exist anyway.
        self._database = BilledDatabase(
            path,
            clock=clock,
            pragmas=("synchronous = OFF", "journal_mode = WAL"),
            prepare=self._prepare,
            unusable=self._unusable,
        )

    def _unusable(self, error: Exception) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"the simulated cloud's database cannot be used: {error} ({self._path});"
            " check `database` in [simulated] and the file's owner and mode"
        )

    async def open(self) -> None:
        """Open the file. Raises AuthenticationRefused when the account has another key."""
        await self._database.open()

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()

    @property
    def database(self) -> Database:
        """Return the file's database, for further tables of another API of this cloud."""
        return self._database

    async def launch(
        self, launch: Launch, *, tags: Mapping[str, str], token: str = "", extras: Extras | None = None
    ) -> DeployId:
        """Create an instance with exactly these tags, or find the earlier one with the same token.

        Without a token and without tags the instance is like one made in the cloud's own console.
        """
        extras = extras or Extras()
        call = _fingerprint(launch, tags, extras.details)

        def create(db: sqlite3.Connection) -> DeployId:
            now = self._clock()
            existing = table.find_by_token(db, token, call, now) if token else None
            if existing is not None:
                return existing  # even if its type is no longer offered
            self._offer.size(launch.type)
            self._offer.check_image(launch.image)
            self._check_limits(db, launch.type)
            db.execute("DELETE FROM instance WHERE forget_at <= ?", (now,))
            deploy_id = DeployId(extras.new_id())
            self._insert(db, deploy_id, launch, tags=tags, details=extras.details, now=now)
            extras.add(db, deploy_id)
            if token:
                db.execute("INSERT INTO token VALUES (?, ?, ?)", (token, call, deploy_id))
            return deploy_id

        return await self._database.write(create)

    async def start(self, deploy_id: DeployId) -> None:
        """Start a stopped or suspended instance."""
        await self._move(
            deploy_id,
            to=InstanceState.PENDING,
            sources=(InstanceState.STOPPED, InstanceState.SUSPENDED),
            done=(InstanceState.PENDING, InstanceState.RUNNING),
            duration=self._settings.boot_time,
            what="started",
        )

    async def stop(self, deploy_id: DeployId, *, hard: bool) -> None:
        """Stop a running instance; a hard stop takes no time."""
        await self._move(
            deploy_id,
            to=InstanceState.STOPPING,
            sources=(InstanceState.RUNNING, InstanceState.STOPPING) if hard else (InstanceState.RUNNING,),
            done=(InstanceState.STOPPED,) if hard else (InstanceState.STOPPING, InstanceState.STOPPED),
            duration=0.0 if hard else self._settings.stop_time,
            what="stopped",
        )

    async def suspend(self, deploy_id: DeployId) -> None:
        """Suspend a running instance."""
        await self._move(
            deploy_id,
            to=InstanceState.SUSPENDING,
            sources=(InstanceState.RUNNING,),
            done=(InstanceState.SUSPENDING, InstanceState.SUSPENDED),
            duration=self._settings.suspend_time,
            what="suspended",
        )

    async def terminate(self, deploy_id: DeployId, *, reason: str = "terminated from the console") -> None:
        """Terminate an instance in any state."""

        def operation(db: sqlite3.Connection) -> None:
            now = self._clock()
            row = table.load(db, deploy_id, now)
            if row.state_at(now).is_gone:
                return
            ends_at = now + self._real(self._settings.destroy_time)
            forget_at = ends_at + self._real(TERMINATED_SECONDS)
            hardware = table.encode(table.decode_hardware(row.hardware).release())
            db.execute(
                "UPDATE instance SET transition = 'terminating', ends_at = ?, reason = ?, hardware = ?, forget_at = ?"
                " WHERE id = ?",
                (ends_at, reason, hardware, forget_at, deploy_id),
            )

        await self._database.write(operation)

    async def interrupt(self, deploy_id: DeployId, *, notice: float = NOTICE_SECONDS, reason: str = "") -> None:
        """Take a running instance back, as a cloud does with spot instances: it ends once the notice is over.

        Args:
            deploy_id: the instance.
            notice: seconds until it is terminated.
            reason: the reason that clients see; the simulated cloud's own, with the time, without one.
        """

        def operation(db: sqlite3.Connection) -> None:
            now = self._clock()
            state = table.load(db, deploy_id, now).state_at(now)
            if state is not InstanceState.RUNNING:
                raise _wrong_state(deploy_id, state, "taken back", (InstanceState.RUNNING,))
            since = datetime.fromtimestamp(now, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ends_at = now + self._real(notice)
            db.execute(
                "UPDATE instance SET transition = 'interrupted', ends_at = ?, reason = ?, forget_at = ? WHERE id = ?",
                (
                    ends_at,
                    reason or f"{table.TAKEN_BACK} {since}",
                    ends_at + self._real(TERMINATED_SECONDS),
                    deploy_id,
                ),
            )

        await self._database.write(operation)

    async def reboot(self, deploy_id: DeployId) -> None:
        """Count a reboot of a running instance."""

        def operation(db: sqlite3.Connection) -> None:
            now = self._clock()
            state = table.load(db, deploy_id, now).state_at(now)
            if state is not InstanceState.RUNNING:
                raise _wrong_state(deploy_id, state, "rebooted", (InstanceState.RUNNING,))
            db.execute("UPDATE instance SET reboots = reboots + 1 WHERE id = ?", (deploy_id,))

        await self._database.write(operation)

    async def retag(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Replace the instance's identity tags by `tags`; the user's own tags stay."""

        def operation(db: sqlite3.Connection) -> None:
            row = table.load(db, deploy_id, self._clock())
            own = {key: value for key, value in table.decode_tags(row.tags).items() if not key.startswith(TAG_PREFIX)}
            db.execute("UPDATE instance SET tags = ? WHERE id = ?", (table.encode({**own, **tags}), deploy_id))

        await self._database.write(operation)

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Replace the tags of these names; an empty one is removed, and all others stay."""

        def operation(db: sqlite3.Connection) -> None:
            row = table.load(db, deploy_id, self._clock())
            left = {
                key: value for key, value in {**table.decode_tags(row.tags), **tags}.items() if value or key not in tags
            }
            db.execute("UPDATE instance SET tags = ? WHERE id = ?", (table.encode(left), deploy_id))

        await self._database.write(operation)

    async def tags(self, deploy_id: DeployId) -> dict[str, str]:
        """Return all tags of an instance, ours included. Raises InstanceNotFound."""
        return await self._database.read(lambda db: table.decode_tags(table.load(db, deploy_id, self._clock()).tags))

    async def drop_tags(self, deploy_id: DeployId) -> None:
        """Remove the instance's identity tags, as a user can in a cloud's console."""
        await self.retag(deploy_id, {})

    async def rework(self, deploy_id: DeployId, change: Callable[[Hardware], Hardware]) -> None:
        """Change the hardware of a running or stopped instance."""

        def operation(db: sqlite3.Connection) -> None:
            now = self._clock()
            row = table.load(db, deploy_id, now)
            if row.state_at(now) not in AT_REST:
                raise _wrong_state(deploy_id, row.state_at(now), "changed", AT_REST)
            try:
                hardware = change(table.decode_hardware(row.hardware))
            except BadParameter as error:
                raise BadParameter(f"instance {deploy_id} cannot be changed: {error}") from error
            db.execute("UPDATE instance SET hardware = ? WHERE id = ?", (table.encode(hardware), deploy_id))

        await self._database.write(operation)

    async def resize(self, deploy_id: DeployId, type_name: str, *, cpu: float, memory: int) -> None:
        """Give a running or stopped instance so many cores and MiB, and the type that it is charged as."""

        def operation(db: sqlite3.Connection) -> None:
            now = self._clock()
            row = table.load(db, deploy_id, now)
            if row.state_at(now) not in AT_REST:
                raise _wrong_state(deploy_id, row.state_at(now), "changed", AT_REST)
            hardware = table.decode_hardware(row.hardware).resize(cpu=cpu, memory=memory)
            values = (type_name, table.encode(hardware), deploy_id)
            db.execute("UPDATE instance SET type = ?, hardware = ? WHERE id = ?", values)

        await self._database.write(operation)

    async def change_type(self, deploy_id: DeployId, type_name: str) -> None:
        """Give a stopped instance another type, with that type's size."""
        size = self._offer.size(type_name)

        def operation(db: sqlite3.Connection) -> None:
            now = self._clock()
            row = table.load(db, deploy_id, now)
            if row.state_at(now) is not InstanceState.STOPPED:
                raise _wrong_state(deploy_id, row.state_at(now), "given another type", (InstanceState.STOPPED,))
            hardware = table.decode_hardware(row.hardware).resize(cpu=size.cpu, memory=size.memory)
            values = (type_name, table.encode(hardware), deploy_id)
            db.execute("UPDATE instance SET type = ?, hardware = ? WHERE id = ?", values)

        await self._database.write(operation)

    async def describe(self, deploy_ids: Collection[DeployId]) -> Sequence[Instance]:
        """Return those of these instances that listings show at this time."""
        return await self._select(table.LIST_THESE, {"ids": table.encode(list(deploy_ids))})

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        """Return the visible instances with tags of this owner and VM."""
        return await self._select(table.LIST_TAGGED, {"owner": owner, "vm_id": str(vm_id)})

    async def list_instances(self) -> Sequence[Instance]:
        """Return all visible instances, oldest first."""
        return await self._select(table.LIST_ALL, {})

    async def user_data(self, deploy_id: DeployId) -> str:
        """Return the user data that the instance was given. Raises InstanceNotFound."""

        def operation(db: sqlite3.Connection) -> str:
            return table.decode_hardware(table.load(db, deploy_id, self._clock()).hardware).context

        return await self._database.read(operation)

    async def _select(self, query: str, values: Mapping[str, str]) -> list[Instance]:
        def operation(db: sqlite3.Connection) -> list[Instance]:
            now = self._clock()
            rows = table.select(db, query, values, now)
            begun = bill.times_of_states(db, [row.id for row in rows if now < row.ends_at])
            return [table.view(row, now, begun=begun.get(row.id, 0.0)) for row in rows]

        return await self._database.read(operation)

    async def _move(
        self,
        deploy_id: DeployId,
        *,
        to: InstanceState,
        sources: tuple[InstanceState, ...],
        done: tuple[InstanceState, ...],
        duration: float,
        what: str,
    ) -> None:
        """Begin a transition from one of the source states; do nothing if the instance is in the resulting state."""

        def operation(db: sqlite3.Connection) -> None:
            now = self._clock()
            state = table.load(db, deploy_id, now).state_at(now)
            if state in done:
                return
            if state not in sources:
                raise _wrong_state(deploy_id, state, what, sources)
            db.execute(
                "UPDATE instance SET transition = ?, ends_at = ?, reason = ? WHERE id = ?",
                (to.value, now + self._real(duration), f"{what} on request", deploy_id),
            )

        await self._database.write(operation)

    def _real(self, cloud_seconds: float) -> float:
        return cloud_seconds / self._settings.time_scale

    def _check_limits(self, db: sqlite3.Connection, type_name: str) -> None:
        """Refuse another instance when the account or the cloud is full; terminating instances do not count."""
        limit = self._settings.max_instances
        if limit and sum(table.count_by_type(db).values()) >= limit:
            sentence = f"the simulated account may have {limit} instances and has them, terminate one first"
            raise QuotaExceeded(sentence, is_general=True)
        full = self._settings.faults.full
        if full:
            sentence = "the simulated cloud is full just now, by order of `full` in [simulated.faults]"
            raise (NoCapacity if full == "NoCapacity" else QuotaExceeded)(sentence, is_general=True)
        if type_name in self._settings.faults.no_capacity:
            raise NoCapacity(f"the simulated cloud has no room for instances of type {type_name} just now")
        room = self._settings.capacity.get(type_name)
        if room is not None and table.count_by_type(db).get(type_name, 0) >= room:
            raise NoCapacity(f"the simulated cloud has room for {room} instances of type {type_name} and is full")

    def _insert(
        self,
        db: sqlite3.Connection,
        deploy_id: DeployId,
        launch: Launch,
        *,
        tags: Mapping[str, str],
        details: Mapping[str, str],
        now: float,
    ) -> None:
        hardware = Hardware(
            cpu=launch.cpu,
            memory=launch.memory,
            context=launch.context,
            disks=launch.disks,
            nics=launch.nics,
            details=dict(details),
            market=launch.market,
        )
        table.insert(
            db,
            table.Row(
                number=0,
                id=deploy_id,
                transition=InstanceState.PENDING.value,
                ends_at=now + self._real(self._settings.boot_time),
                reason="",
                type=launch.type,
                image=launch.image,
                name=launch.name,
                tags=table.encode({**launch.tags, **tags}),
                hardware=table.encode(hardware),
                reboots=0,
                created_at=now,
                visible_at=now + self._real(self._settings.listing_lag),
                forget_at=None,
            ),
        )

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Create the tables and check the key."""
        api_key = hashlib.sha256(self._settings.api_key.encode()).hexdigest()
        if table.bring_up(db, api_key=api_key) != api_key:
            raise AuthenticationRefused(
                "the simulated cloud does not accept the key: its account was opened with another `api_key`"
            )
        bill.prepare(db, tariff_of(self._settings), self._clock())


def _wrong_state(deploy_id: str, state: InstanceState, what: str, allowed: tuple[InstanceState, ...]) -> WrongState:
    wanted = " or ".join(each.value for each in allowed)
    return WrongState(f"instance {deploy_id} is {state.value} and cannot be {what}, it must be {wanted} for that")


def _fingerprint(launch: Launch, tags: Mapping[str, str], details: Mapping[str, str]) -> str:
    """Return a hash of all parameters of a create, identity included: equal for the same call only.

    A create on demand has the hash that releases without a spot market gave it: an upgrade may come before its repeat.
    """
    parameters = msgspec.structs.asdict(launch)
    if not launch.market:
        del parameters["market"]
    call = (parameters, tags, details) if details else (parameters, tags)
    return hashlib.sha256(msgspec.json.encode(call, order="sorted")).hexdigest()
