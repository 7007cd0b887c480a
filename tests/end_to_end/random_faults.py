"""Changing faults of a simulated cloud: its configuration is rewritten from time to time."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tests.end_to_end.information_driver import _keys
from tests.end_to_end.oned import OWNER, Place

Table = Mapping[str, object]

CLOUD: Table = {
    "latency": 0.02,
    "jitter": 0.15,
    "listing_lag": 0.2,
    "stop_time": 0.1,
    "suspend_time": 0.1,
    "destroy_time": 0.1,
    "watch_interval": 0.1,
}

MONITOR: Table = {
    "heartbeat": 0.5,
    "system_period": 2.0,
    "state_period": 0.05,
    "sync_period": 0.1,
    "vm_period": 1.0,
    "min_list_interval": 0.2,
    "missing_after": 4,
}

FAULTS: Mapping[str, Table] = {
    "no faults": {},
    "an outage": {"outage": True},
    "calls fail": {"transient": {"rate": 0.2}},
    "answers are lost": {"lost_answers": {"rate": 0.2}},
    "calls hang": {"hangs": {"rate": 0.05}},
    "listings are late": {"late_answers": {"seconds": 0.6, "rate": 0.5, "calls": ["list_instances"]}},
    "listings break off": {"broken_listings": {"rate": 0.6, "calls": ["list_instances"]}},
    "most instances are not listed": {"unseen": {"share": 0.95, "calls": ["list_instances"]}},
    "all instances are not listed": {"unseen": {"share": 1.0, "calls": ["list_instances"]}},
    "some instances are not listed": {"unseen": {"share": 0.15, "calls": ["list_instances"]}},
    "creates are refused": {"permanent": {"rate": 0.7, "calls": ["create"], "error": "NoCapacity"}},
    "throttled": {"calls_a_second": 40},
}

BRIEF = {"some instances are not listed": 0.3}
"""The most seconds that these faults last: shorter than the number of listings after which a VM counts as missing."""

BOOT_TIMES = (0.1, 0.3, 1.0, 2.5)


class RandomFaults:
    """Changes the faults: each kind comes once before any comes twice.

    Args:
        place: where the configuration is.
        seed: of the order of the faults.
        seconds: how long a set of faults lasts, at least and at most.
        missing_state: the state that is reported for missing instances.
    """

    def __init__(self, place: Place, *, seed: int, seconds: tuple[float, float], missing_state: str) -> None:
        self._place = place
        self._random = random.Random(f"faults {seed}")
        self._seconds = seconds
        self._missing_state = missing_state
        self._next: list[str] = []
        self._until = 0.0
        self.name = ""

    def change(self, now: float) -> str:
        """Change the faults if it is time; return their name, else an empty text."""
        if now < self._until:
            return ""
        if not self._next:
            self._next = self._random.sample(list(FAULTS), len(FAULTS))
        name = self._next.pop()
        if name == self.name:
            name, self._next[0] = self._next[0], name
        seconds = min(self._random.uniform(*self._seconds), BRIEF.get(name, 60.0))
        self._until = now + seconds
        self.set(name, boot_time=self._random.choice(BOOT_TIMES))
        return name

    def set(self, name: str, *, boot_time: float) -> None:
        """Write the configuration, as a whole."""
        tables: Mapping[str, Table] = {
            "simulated": {**CLOUD, "boot_time": boot_time},
            "simulated.faults": {"seed": "random run", **FAULTS[name]},
            "monitor": {**MONITOR, "missing_state": self._missing_state},
        }
        lines = _keys({"provider": "simulated", "owner": OWNER, "call_timeout": 1.0})
        for title, table in tables.items():
            lines += [f"[{title}]", *_keys(table)]
        fresh = self._place.configure("\n".join([*lines, ""]), name="fresh")
        fresh.replace(self._place.conf / "simulated.toml")
        self.name = name
