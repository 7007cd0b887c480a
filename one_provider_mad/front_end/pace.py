"""Computes how long it takes until VMs that are created at once run in a cloud, which is one host.

The model is the scheduler's source, its results are those measured: 7.4.0 as shipped ran 20 VMs after 78 s, with the
limits of front_end/scheduler.py after 15 s, with MAX_HOST alone after 269 s.
"""

from __future__ import annotations

import math

from one_provider_mad.domain import Value

DEPLOY_SECONDS = 3.5
"""Seconds of a deploy in the measurements: the cloud's call, and the start of the instance."""

MANAGER_TIMER = 15
"""Seconds between two turns in which 7.x starts further deploys of a plan (PlanManager::timer_action)."""


class Pace7(Value, frozen=True, kw_only=True):
    """The limits of 7.x (src/schedm/SchedulerManager.cc, PlanManager.cc).

    Attributes:
        max_host: MAX_HOST, 0 for no limit.
        per_host: MAX_ACTIONS_PER_HOST.
        per_cluster: MAX_ACTIONS_PER_CLUSTER.
        window_time: SCHED_MAX_WND_TIME, in seconds.
        window_length: SCHED_MAX_WND_LENGTH.
        threads: -t of the action driver.
    """

    max_host: int
    per_host: int
    per_cluster: int
    window_time: int
    window_length: int
    threads: int

    def seconds(self, vms: int) -> float:
        """Return after how many seconds so many VMs run."""
        most = self.max_host or vms
        is_full = 0 < self.window_length <= vms
        first = min(self.window_length if is_full else vms, most)
        end = (0 if is_full else self.window_time) + self._plan(first)
        if vms == first:
            return end
        if is_full:  # the others have opened the next window, and its end is waited for
            end = max(end, self.window_time)
        plans, rest = divmod(vms - first, most)
        return end + plans * self._plan(most) + (self._plan(rest) if rest else 0)

    def _plan(self, vms: int) -> float:
        at_once = min(vms, max(1, min(self.per_host, self.per_cluster)))
        batch = DEPLOY_SECONDS * math.ceil(at_once / max(1, self.threads))
        turns = math.ceil(vms / at_once) - 1
        return batch + turns * MANAGER_TIMER * math.ceil(batch / MANAGER_TIMER)


class Pace6(Value, frozen=True, kw_only=True):
    """The limits up to 6.10 (src/scheduler/src/sched/Scheduler.cc).

    Attributes:
        interval: SCHED_INTERVAL, in seconds.
        max_host: MAX_HOST; with 0 no VM is placed.
        max_dispatch: MAX_DISPATCH, 0 for no limit.
        threads: -t of the action driver.
    """

    interval: int
    max_host: int
    max_dispatch: int
    threads: int

    def seconds(self, vms: int) -> float:
        """Return after how many seconds so many VMs run, at the latest; infinity if never."""
        most = min(self.max_host, self.max_dispatch or vms)
        if most < 1:
            return math.inf
        batch = DEPLOY_SECONDS * math.ceil(min(vms, most) / max(1, self.threads))
        return self.interval * math.ceil(vms / most) + batch
