"""The drivers' metrics for Prometheus: names, help texts and labels; only where `[metrics]` turns them on.

`recorder` is None while metrics are off; other modules count through it alone. Names and units follow Prometheus'
conventions (https://prometheus.io/docs/practices/naming): base units, `_total` for counters, timestamps instead of
ages. Every label has few values, for any number of VMs and any answers of a cloud.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, TypeVar

from one_provider_mad import errors

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_Result = TypeVar("_Result")

_ACTION_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_CALL_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds of the histograms' buckets: a DEPLOY may take 600, a call 60 (`call_timeout`)."""

_MOST_VALUES = 64
"""Most different values of a label; further values count as `other`."""

ACTIONS, REPORTS = "one_vmm_provider", "one_im_provider"
"""The programs, as values of the label `program`."""

SUCCESS, FAILURE, CANCELLED, OTHER = "success", "failure", "cancelled", "other"

recorder: Recorder | None = None
"""The process's recorder while metrics are on, else None; one process serves one NAME."""


class Recorder:
    """Counts for one program of one NAME.

    Args:
        name: NAME, the label `name` of every sample.
        program: one of the programs, the label `program` of every sample.
        version: the project's version.

    Raises:
        ImportError: prometheus-client is not installed.
    """

    def __init__(self, *, name: str, program: str, version: str) -> None:
        import prometheus_client as client

        client.disable_created_metrics()  # type: ignore[no-untyped-call] # no start timestamp beside every counter
        self._own = (name, program)
        self._known: dict[str, set[str]] = {}
        self._registry = client.CollectorRegistry()
        self._render = client.generate_latest
        both, actions, reports = (ACTIONS, REPORTS), (ACTIONS,), (REPORTS,)
        self._actions = client.Counter(
            "one_provider_actions_total",
            "Answered requests of OpenNebula, and cancelled actions.",
            self._labels("action", "result"),
            registry=self._only(actions),
        )
        self._action_seconds = client.Histogram(
            "one_provider_action_duration_seconds",
            "Time of an action, from its start to its answer, without POLLs that share a listing.",
            self._labels("action"),
            registry=self._only(actions),
            buckets=_ACTION_SECONDS,
        )
        self._overdue = client.Counter(
            "one_provider_actions_timed_out_total",
            "Requests that failed because their time ran out (-w).",
            self._labels("action"),
            registry=self._only(actions),
        )
        self._waiting = client.Gauge(
            "one_provider_requests_waiting",
            "Requests that wait for their start.",
            self._labels(),
            registry=self._only(actions),
        )
        self._running = client.Gauge(
            "one_provider_requests_running",
            "Running actions, and terminations for debts; POLLs that share a listing count as one.",
            self._labels(),
            registry=self._only(actions),
        )
        self._debts = client.Gauge(
            "one_provider_debts",
            "Instances that must be terminated in the cloud and could not be yet.",
            self._labels(),
            registry=self._only(actions),
        )
        self._calls = client.Counter(
            "one_provider_cloud_calls_total",
            "Calls to the cloud, by operation and outcome; each try counts.",
            self._labels("operation", "outcome"),
            registry=self._only(both),
        )
        self._call_seconds = client.Histogram(
            "one_provider_cloud_call_duration_seconds",
            "Time of a call to the cloud.",
            self._labels("operation"),
            registry=self._only(both),
            buckets=_CALL_SECONDS,
        )
        self._throttles = client.Counter(
            "one_provider_cloud_throttles_total",
            "Calls that the cloud refused because of their rate.",
            self._labels(),
            registry=self._only(both),
        )
        self._retries = client.Counter(
            "one_provider_cloud_retries_total",
            "Calls that were repeated after a failure, throttled ones included.",
            self._labels("operation"),
            registry=self._only(actions),
        )
        self._hosts = client.Gauge(
            "one_provider_hosts_monitored",
            "Monitored hosts.",
            self._labels(),
            registry=self._only(reports),
        )
        self._up = client.Gauge(
            "one_provider_cloud_up",
            "1 if the last listing of the cloud succeeded, 0 if it failed.",
            self._labels(),
            registry=self._only(reports),
        )
        self._swept_at = client.Gauge(
            "one_provider_sweep_last_success_timestamp_seconds",
            "Start of the latest reported listing, in seconds since the epoch.",
            self._labels(),
            registry=self._only(reports),
        )
        self._sweep_seconds = client.Histogram(
            "one_provider_sweep_duration_seconds",
            "Time of a successful sweep, from its start to the state of every VM.",
            self._labels(),
            registry=self._only(reports),
            buckets=_CALL_SECONDS,
        )
        self._vms = client.Gauge(
            "one_provider_vms",
            "VMs of all monitored hosts, by their reported state.",
            self._labels("state"),
            registry=self._only(reports),
        )
        self._held = client.Gauge(
            "one_provider_vms_held",
            "VMs whose state is held because unusually many instances vanished.",
            self._labels(),
            registry=self._only(reports),
        )
        self._price = client.Gauge(
            "one_provider_price_per_hour",
            "Known prices of all instances together, in units of the currency an hour.",
            self._labels("currency"),
            registry=self._only(reports),
        )
        self._month = client.Gauge(
            "one_provider_cost_month_to_date",
            "Known costs of all instances since the month began in UTC, in units of the currency.",
            self._labels("currency"),
            registry=self._only(reports),
        )
        self._unpriced = client.Gauge(
            "one_provider_instances_without_price",
            "Instances of whose price a part is unknown.",
            self._labels(),
            registry=self._only(reports),
        )
        self._booked_at = client.Gauge(
            "one_provider_ledger_last_success_timestamp_seconds",
            "Start of the latest listing that is in the ledger, in seconds since the epoch.",
            self._labels(),
            registry=self._only(reports),
        )
        self._limit = client.Gauge(
            "one_provider_budget_limit",
            "A limit of the budget, in the unit of the limit.",
            self._labels("limit"),
            registry=self._only(reports),
        )
        self._used = client.Gauge(
            "one_provider_budget_used",
            "Use of a limit of the budget, in the unit of the limit.",
            self._labels("limit"),
            registry=self._only(reports),
        )
        self._info = client.Gauge(
            "one_provider_info",
            "The project's version, in a label; always 1.",
            self._labels("version"),
            registry=self._only(both),
        )
        self._started = client.Gauge(
            "one_provider_start_time_seconds",
            "Start of counting, in seconds since the epoch.",
            self._labels(),
            registry=self._only(both),
        )
        self._written = client.Gauge(
            "one_provider_last_write_timestamp_seconds",
            "Time of this file's last write, in seconds since the epoch.",
            self._labels(),
            registry=self._only(both),
        )
        self._info.labels(*self._own, version).set(1)
        self._started.labels(*self._own).set(time())
        self._throttles.labels(*self._own)  # exported from the start, since a rate needs an initial zero

    def _labels(self, *more: str) -> tuple[str, ...]:
        return ("name", "program", *more)

    def _only(self, programs: tuple[str, ...]) -> CollectorRegistry | None:
        """Return the registry when this program is one of `programs`; else None, so that the metric is not exported."""
        return self._registry if self._own[1] in programs else None

    # Actions

    def answered(self, action: str, *, is_success: bool) -> None:
        """Count an answered request."""
        self._actions.labels(*self._own, self._few("action", action), SUCCESS if is_success else FAILURE).inc()

    def called_off(self, action: str) -> None:
        """Count a cancelled action, which gets no answer."""
        self._actions.labels(*self._own, self._few("action", action), CANCELLED).inc()

    def overdue(self, action: str, count: int = 1) -> None:
        """Count requests that failed because their time ran out."""
        self._overdue.labels(*self._own, self._few("action", action)).inc(count)

    def took(self, action: str, seconds: float) -> None:
        """Record the time of an action."""
        self._action_seconds.labels(*self._own, self._few("action", action)).observe(seconds)

    def queue(self, *, waiting: int, running: int) -> None:
        """Set the number of waiting and running requests."""
        self._waiting.labels(*self._own).set(waiting)
        self._running.labels(*self._own).set(running)

    def owed(self, count: int) -> None:
        """Set the number of debts."""
        self._debts.labels(*self._own).set(count)

    # Calls to the cloud

    async def timed(self, operation: str, call: Awaitable[_Result]) -> _Result:
        """Await a call and count it; return its result, or raise its error."""
        begun = monotonic()
        try:
            result = await call
        except BaseException as error:
            self.called(operation, monotonic() - begun, error)
            raise
        self.called(operation, monotonic() - begun)
        return result

    def called(self, operation: str, seconds: float, error: BaseException | None = None) -> None:
        """Count a finished call to the cloud, by its error if it failed."""
        operation = self._few("operation", operation)
        self._calls.labels(*self._own, operation, SUCCESS if error is None else outcome_of(error)).inc()
        self._call_seconds.labels(*self._own, operation).observe(seconds)
        if isinstance(error, errors.Throttled):
            self._throttles.labels(*self._own).inc()

    def repeated(self, operation: str) -> None:
        """Count a call to the cloud that is repeated after a failure."""
        self._retries.labels(*self._own, self._few("operation", operation)).inc()

    # Sweeps

    def swept(self, began_at: float, seconds: float, states: Mapping[str, int], *, held: int) -> None:
        """Record a successful sweep.

        Args:
            began_at: seconds since the epoch when the listing began.
            seconds: time of the sweep.
            states: number of VMs in each state, zeros included.
            held: VMs that are held because too many vanished at once.
        """
        self._up.labels(*self._own).set(1)
        self._swept_at.labels(*self._own).set(began_at)
        self._sweep_seconds.labels(*self._own).observe(seconds)
        self._held.labels(*self._own).set(held)
        for state, count in states.items():
            self._vms.labels(*self._own, state).set(count)

    def booked(self, hosts: Iterable[tuple[str, float, float, int]], *, at: float | None) -> None:
        """Record what instances cost.

        Args:
            hosts: of each host the currency, the price an hour, the cost of the month, and the instances without price.
            at: start of the listing that is in the ledger, seconds since the epoch; None if it could not be written.
        """
        hours: dict[str, float] = {}
        months: dict[str, float] = {}
        unpriced = 0
        for currency, hour, month, without in hosts:
            hours[currency] = hours.get(currency, 0.0) + hour
            months[currency] = months.get(currency, 0.0) + month
            unpriced += without
        for gauge, sums in ((self._price, hours), (self._month, months)):
            gauge.clear()
            for currency, amount in sums.items():
                gauge.labels(*self._own, self._few("currency", currency)).set(amount)
        self._unpriced.labels(*self._own).set(unpriced)
        if at is not None:
            self._booked_at.labels(*self._own).set(at)

    def limited(self, limits: Iterable[tuple[str, float, float]]) -> None:
        """Record how far limits are used: name, use and limit of each; of too many limits only the first."""
        self._limit.clear()
        self._used.clear()
        for key, used, limit in limits:
            if (label := self._few("limit", key)) != OTHER:
                self._limit.labels(*self._own, label).set(limit)
                self._used.labels(*self._own, label).set(used)

    def lost(self) -> None:
        """Record a failed sweep."""
        self._up.labels(*self._own).set(0)

    def monitored(self, hosts: int) -> None:
        """Set the number of monitored hosts; without hosts the figures of the last sweep are removed."""
        self._hosts.labels(*self._own).set(hosts)
        if not hosts:
            of_sweeps = (self._up, self._swept_at, self._vms, self._held, self._limit, self._used)
            for gauge in (*of_sweeps, self._price, self._month, self._unpriced, self._booked_at):
                gauge.clear()

    def _few(self, label: str, value: str) -> str:
        """Return the value, or `other` when the label has too many values already."""
        known = self._known.setdefault(label, set())
        if value in known:
            return value
        if len(known) >= _MOST_VALUES:
            return OTHER
        known.add(value)
        return value

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        self._written.labels(*self._own).set(time())
        return self._render(self._registry)


def outcome_of(error: BaseException) -> str:
    """Return the label `outcome` of a failed call: the kind of error, as in docs/providers.md."""
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__), "defect")
