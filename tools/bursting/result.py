"""What a burst has shown, and whether it is as it should be. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from one_provider_mad.domain import Value
from tools.bursting.vms import Vm


class Seen(Value, frozen=True, kw_only=True):
    """One VM of the burst.

    Attributes:
        vm: as it was last seen.
        running_after: seconds from the first create until it was seen RUNNING; None if it never was.
    """

    vm: Vm
    running_after: float | None


class Result(Value, frozen=True, kw_only=True):
    """A burst.

    Attributes:
        release: OpenNebula's.
        cloud: names of the cloud's hosts.
        rooms: the VMs for which each host at home had room, by its name.
        created_in: seconds that the creates took.
        seen: the VMs.
        instances: how many instances the cloud has for each VM, by its id.
        next_host: the host of a VM that was created after one at home had ended; None if that was not tried.
    """

    release: str
    cloud: Sequence[str]
    rooms: Mapping[str, int]
    created_in: float
    seen: Sequence[Seen]
    instances: Mapping[int, int]
    next_host: str | None = None

    @property
    def vms_by_host(self) -> Mapping[str, int]:
        """Return how many of the VMs each host has; "" is the host of those that are not placed."""
        return Counter(each.vm.host for each in self.seen)

    @property
    def at_home(self) -> int:
        """Return how many of the VMs are at home."""
        return sum(count for host, count in self.vms_by_host.items() if host in self.rooms)

    @property
    def expected_at_home(self) -> int:
        """Return how many of the VMs home had room for."""
        return min(len(self.seen), sum(self.rooms.values()))

    def times(self, host: str | None = None) -> list[float]:
        """Return after how many seconds VMs were RUNNING, in order: all, or those of a host."""
        found = (each for each in self.seen if host is None or each.vm.host == host)
        return sorted(each.running_after for each in found if each.running_after is not None)

    def problems(self, within: float | None) -> Iterator[str]:
        """Yield a sentence for each thing that is not as it should be."""
        yield from self._not_running()
        if self.at_home != self.expected_at_home:
            yield (
                f"{self.at_home} of {len(self.seen)} VMs are at home, which had room for {self.expected_at_home}:"
                " one-provider check NAME says which settings of the scheduler are missing, and whether home takes VMs"
            )
        slow = [seconds for seconds in self.times() if within is not None and seconds > within]
        if slow:
            yield f"{len(slow)} VMs were RUNNING only after {within:g} s, the last one after {slow[-1]:.1f} s"
        yield from self._instances()
        if self.next_host is not None and self.next_host not in self.rooms:
            yield f"home had room again, and the next VM went to {self.next_host or 'no host'}"

    def _not_running(self) -> Iterator[str]:
        left = [each.vm for each in self.seen if each.running_after is None]
        for (state, message), count in Counter((vm.state_name, vm.message) for vm in left).items():
            reason = message or "OpenNebula gives no reason"
            yield f"{count} of {len(self.seen)} VMs are not RUNNING but {state}: {reason}"

    def _instances(self) -> Iterator[str]:
        for each in self.seen:
            expected = 1 if each.vm.host in self.cloud else 0
            found = self.instances.get(each.vm.number, 0)
            if each.running_after is not None and found != expected:
                yield f"VM {each.vm.number} on host {each.vm.host} has {found} instances in the cloud, not {expected}"

    # Shown

    def rows(self) -> Iterator[list[str]]:
        """Yield a row for each host: name, where, VMs, first and last one RUNNING."""
        for host in [*self.rooms, *self.cloud]:
            times = self.times(host)
            shown = [f"{times[0]:.1f} s", f"{times[-1]:.1f} s"] if times else ["-", "-"]
            yield [host, "home" if host in self.rooms else "cloud", str(self.vms_by_host.get(host, 0)), *shown]

    def sentences(self) -> Iterator[str]:
        """Yield what was measured, as sentences."""
        times = self.times()
        if times:
            yield (
                f"{len(times)} of {len(self.seen)} VMs were RUNNING after {times[-1]:.1f} s, half of them after"
                f" {median(times):.1f} s; creating them took {self.created_in:.1f} s."
            )
        if self.next_host is not None:
            yield f"After a VM at home had ended, the next one started on {self.next_host or 'no host'}."

    def as_json(self, within: float | None) -> dict[str, Any]:
        """Return everything for a program."""
        times = self.times()
        return {
            "release": self.release,
            "vms": len(self.seen),
            "running": len(times),
            "hosts": dict(self.vms_by_host),
            "home": dict(self.rooms),
            "cloud": list(self.cloud),
            "created_in": round(self.created_in, 1),
            "running_after": {
                "first": round(times[0], 1) if times else None,
                "median": round(median(times), 1) if times else None,
                "last": round(times[-1], 1) if times else None,
            },
            "instances": sum(self.instances.values()),
            "next_host": self.next_host,
            "problems": list(self.problems(within)),
        }
