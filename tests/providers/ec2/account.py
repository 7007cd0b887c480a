"""The account that the embedded EC2 endpoint serves, as tests inspect and change it.

Tests bypass the API and read the simulated cloud's file, which also has instances that the API does not show.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from one_provider_mad.domain import DeployId
from one_provider_mad.lab.ec2 import account as served
from one_provider_mad.lab.ec2 import plans, resources, shown
from one_provider_mad.lab.ec2.addresses import add_address
from one_provider_mad.lab.ec2.offers import EC2_TYPES
from one_provider_mad.providers.simulated import table
from one_provider_mad.providers.simulated.hardware import Hardware
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.waiting import HANG

NUMBER = "123456789012"
REGION = "eu-west-1"

ADDRESSES = {"198.51.100.7": "eipalloc-0", "198.51.100.8": "eipalloc-1"}
"""The account has them from the beginning."""

SETTINGS = SimulatedSettings(
    account=NUMBER,
    region=REGION,
    boot_time=0.02,
    stop_time=0.02,
    destroy_time=0.02,
    instance_types=dict(EC2_TYPES),
)

_COLUMNS = {"boot": "boot_time", "stop": "stop_time", "end": "destroy_time", "lag": "listing_lag"}


@dataclass(kw_only=True)
class Instance:
    """One instance that a test adds."""

    id: str
    token: str
    asked: dict[str, str]
    tags: dict[str, str]
    kind: str
    zone: str
    launched_at: float
    state: str
    ready_at: float

    CODES: ClassVar[Mapping[str, int]] = shown.CODES


class Account:
    """The account, bypassing the API.

    Args:
        path: the simulated cloud's file.
        account: the account that is served from it.
        aside: runs a coroutine in the event loop that serves the account.

    Attributes:
        short: (type, zone or subnet or "") without capacity.
        ends: types whose instances are accepted and ended at once, for want of capacity.
        answers_spent_tokens: as EC2 did until January 2025: a used token shows its instance, even a terminated one.
        prices: what the region costs.
        calls: every action that was accepted as signed, with its form.
    """

    def __init__(self, path: Path, account: served.Account, aside: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.short: set[tuple[str, str]] = set()
        self.ends: set[str] = set()
        self.answers_spent_tokens = False
        self.calls: list[tuple[str, dict[str, str]]] = []
        self._file = sqlite3.connect(path, timeout=HANG, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA synchronous = OFF")
        self._lock = threading.RLock()
        self._account = account
        self._aside = aside
        self.instances = Instances(self)
        self.prices = account.prices
        self._first = self._settings
        self.reset()

    def reset(self) -> None:
        """An empty account, with settings as at first."""
        self.short, self.ends, self.answers_spent_tokens = set(), set(), False
        self.calls.clear()
        self.prices.on_demand.clear()
        self.prices.spot.clear()
        self._settings = self._first
        with self.file() as db:
            for name in ("instance", "token", "ec2_volume", "ec2_interface", "ec2_address", "ec2_event", "ec2_group"):
                db.execute(f"DELETE FROM {name}")
            for public_ip, allocation_id in ADDRESSES.items():
                add_address(db, public_ip, allocation_id=allocation_id)

    @contextmanager
    def file(self) -> Iterator[sqlite3.Connection]:
        """The cloud's file, for one transaction."""
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def act(self, action: str, form: Mapping[str, str]) -> Any:
        """Carry out an action as another user would, in the console."""
        return self._aside(self._account.perform(action, form))

    def count(self, action: str) -> int:
        return sum(name == action for name, _ in self.calls)

    def show_all(self) -> None:
        """Make every instance visible from now on."""
        with self.file() as db:
            db.execute("UPDATE instance SET visible_at = 0")

    def plan_event(self, instance_id: str, code: str, description: str, not_before: float) -> None:
        """Have EC2 plan something for an instance."""
        event = resources.Event(
            number=0, instance_id=instance_id, code=code, description=description, not_before=not_before
        )
        with self.file() as db:
            resources.plan_event(db, event)

    def interrupt(self, instance_id: str, *, notice: float) -> None:
        """Have EC2 take back a spot instance."""
        self._aside(plans.interrupt(self._account.resources, instance_id, notice=notice))

    @property
    def alive(self) -> list[Seen]:
        return [each for each in self.instances.values() if each.state != "terminated"]

    @property
    def volumes(self) -> dict[str, SeenVolume]:
        """Volumes that were not created with an instance."""
        with self.file() as db:
            found = db.execute("SELECT id FROM ec2_volume WHERE NOT is_launched ORDER BY number").fetchall()
        return {line[0]: SeenVolume(self, line[0]) for line in found}

    # Seconds of transitions, and of the time during which a new instance is not visible

    @property
    def _settings(self) -> SimulatedSettings:
        return self._account.resources.settings

    @_settings.setter
    def _settings(self, settings: SimulatedSettings) -> None:
        self._account.resources.settings = self._account.resources.cloud._settings = settings

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _COLUMNS:
            self._settings = replace(self._settings, **{_COLUMNS[name]: float(value)})
        else:
            super().__setattr__(name, value)


class Instances(MutableMapping[str, "Seen"]):
    """Every instance, by its id, in order."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def __getitem__(self, instance_id: str) -> Seen:
        if instance_id not in list(self):
            raise KeyError(instance_id)
        return Seen(self._account, instance_id)

    def __iter__(self) -> Iterator[str]:
        with self._account.file() as db:
            return iter([line[0] for line in db.execute("SELECT id FROM instance ORDER BY number")])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __setitem__(self, instance_id: str, instance: Any) -> None:
        """Add an instance without a launch."""
        self.fill([instance])

    def fill(self, instances: Iterable[Instance]) -> None:
        """Add several instances without a launch, in one transaction."""
        with self._account.file() as db:
            for each in instances:
                size = EC2_TYPES[each.kind]
                details = {"Placement.AvailabilityZone": each.zone, **each.asked}
                hardware = Hardware(cpu=size.cpu, memory=size.memory, details=details)
                row = table.Row(
                    number=0,
                    id=each.id,
                    transition={"running": "pending", "stopped": "stopping"}[each.state],
                    ends_at=each.ready_at,
                    reason="",
                    type=each.kind,
                    image=each.asked["ImageId"],
                    name="",
                    tags=table.encode(each.tags),
                    hardware=table.encode(hardware),
                    reboots=0,
                    created_at=each.launched_at,
                    visible_at=each.launched_at,
                    forget_at=None,
                )
                table.insert(db, row)

    def __delitem__(self, instance_id: str) -> None:
        with self._account.file() as db:
            db.execute("DELETE FROM instance WHERE id = ?", (instance_id,))


class Seen:
    """One instance; each property reads its present value."""

    def __init__(self, account: Account, instance_id: str) -> None:
        self._account = account
        self.id = instance_id

    @property
    def _row(self) -> table.Row:
        with self._account.file() as db:
            return table.load(db, DeployId(self.id), 0.0)

    @property
    def word(self) -> str:
        """EC2's word for its state."""
        return shown.word(self._row.state_at(time.time()))

    @property
    def state(self) -> str:
        """EC2's word for the state that its transition leads to."""
        return shown.word(table.TRANSITIONS[self._row.transition][1])

    @property
    def tags(self) -> dict[str, str]:
        return table.decode_tags(self._row.tags)

    @property
    def kind(self) -> str:
        return self._row.type

    @property
    def reboots(self) -> int:
        return self._row.reboots

    @property
    def asked(self) -> Mapping[str, str]:
        """The parameters of its RunInstances call."""
        return shown.details(self._row)

    @property
    def forced(self) -> bool:
        """Whether a StopInstances call for it had Force."""
        forms = [form for action, form in self._account.calls if action == "StopInstances"]
        return any(form.get("Force") == "true" for form in forms if self.id in form.values())

    @property
    def address(self) -> str:
        """The address associated last, by IP or allocation id as in that call; "" if it no longer has it."""
        with self._account.file() as db:
            line = db.execute("SELECT id, public_ip FROM ec2_address WHERE instance_id = ?", (self.id,)).fetchone()
        forms = [form for action, form in self._account.calls if action == "AssociateAddress"]
        asked = [form.get("PublicIp") or form["AllocationId"] for form in forms if form["InstanceId"] == self.id]
        return asked[-1] if line and asked and asked[-1] in line else ""


class SeenVolume:
    """One volume; each property reads its present value."""

    def __init__(self, account: Account, volume_id: str) -> None:
        self._account = account
        self.id = volume_id

    @property
    def _line(self) -> resources.Volume:
        now = time.time()
        with self._account.file() as db:
            found = db.execute("SELECT * FROM ec2_volume WHERE id = ?", (self.id,)).fetchone()
            volume = resources.Volume._make(found)
            return volume.settled(now, resources.owners(db, {volume.instance_id} - {""}, now).get(volume.instance_id))

    @property
    def state(self) -> str:
        return self._line.state(max(time.time(), self.ready_at))

    @property
    def ready_at(self) -> float:
        return self._line.ready_at

    @property
    def size(self) -> int:
        return self._line.size

    @property
    def zone(self) -> str:
        return self._line.zone

    @property
    def device(self) -> str:
        return self._line.device

    @property
    def instance_id(self) -> str:
        return self._line.instance_id

    @property
    def tags(self) -> dict[str, str]:
        tags: dict[str, str] = json.loads(self._line.tags)
        return tags
