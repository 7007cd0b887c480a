"""What the drivers count, for Prometheus: names, help texts and labels; nothing at all unless `[metrics]` asks for it.

`recorder` is None until then: whoever has something to count looks at that, and at nothing else. Names and units follow
Prometheus' conventions (https://prometheus.io/docs/practices/naming): base units, `_total` for what only grows, moments
instead of ages. Every label has few values, however many VMs there are and whatever a cloud answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, TypeVar

from one_provider_mad import errors

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_Result = TypeVar("_Result")

_ACTION_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_CALL_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histograms' buckets: a DEPLOY may take its 600 s, a call its 60 s (`call_timeout`)."""

_MOST_VALUES = 64
"""From so many values of a label on further ones count as `other`."""

ACTIONS, REPORTS = "one_vmm_provider", "one_im_provider"
"""The programs, as the label `program` names them."""

SUCCESS, FAILURE, CANCELLED, OTHER = "success", "failure", "cancelled", "other"

recorder: Recorder | None = None
"""Counts while metrics are on, None while they are off; one process serves one NAME, so there is one of it."""


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

        client.disable_created_metrics()  # type: ignore[no-untyped-call] # a moment beside every counter, which nobody asks for
        self._own = (name, program)
        self._known: dict[str, set[str]] = {}
        self._registry = client.CollectorRegistry()
        self._render = client.generate_latest
        both, actions, reports = (ACTIONS, REPORTS), (ACTIONS,), (REPORTS,)
        self._actions = client.Counter(
            "one_provider_actions_total",
            "Requests of OpenNebula that were answered, and actions that were called off instead.",
            self._labels("action", "result"),
            registry=self._only(actions),
        )
        self._action_seconds = client.Histogram(
            "one_provider_action_duration_seconds",
            "Time an action took, from its turn to its answer; POLLs that share a listing are not in it.",
            self._labels("action"),
            registry=self._only(actions),
            buckets=_ACTION_SECONDS,
        )
        self._overdue = client.Counter(
            "one_provider_actions_timed_out_total",
            "Requests that were answered with a failure because their time was over (-w).",
            self._labels("action"),
            registry=self._only(actions),
        )
        self._waiting = client.Gauge(
            "one_provider_requests_waiting",
            "Requests that wait for their turn.",
            self._labels(),
            registry=self._only(actions),
        )
        self._running = client.Gauge(
            "one_provider_requests_running",
            "Actions that are being carried out, and terminations of what is owed; POLLs that share a listing are one.",
            self._labels(),
            registry=self._only(actions),
        )
        self._debts = client.Gauge(
            "one_provider_debts",
            "Things that must be terminated in the cloud and could not be yet.",
            self._labels(),
            registry=self._only(actions),
        )
        self._calls = client.Counter(
            "one_provider_cloud_calls_total",
            "Calls to the cloud, by what they asked for and how they ended; each try counts.",
            self._labels("operation", "outcome"),
            registry=self._only(both),
        )
        self._call_seconds = client.Histogram(
            "one_provider_cloud_call_duration_seconds",
            "Time a call to the cloud took.",
            self._labels("operation"),
            registry=self._only(both),
            buckets=_CALL_SECONDS,
        )
        self._throttles = client.Counter(
            "one_provider_cloud_throttles_total",
            "Calls that were refused because there were too many.",
            self._labels(),
            registry=self._only(both),
        )
        self._retries = client.Counter(
            "one_provider_cloud_retries_total",
            "Calls that were sent again after one that failed, throttled ones included.",
            self._labels("operation"),
            registry=self._only(actions),
        )
        self._hosts = client.Gauge(
            "one_provider_hosts_monitored",
            "Hosts that are reported on.",
            self._labels(),
            registry=self._only(reports),
        )
        self._up = client.Gauge(
            "one_provider_cloud_up",
            "1 if the last look at the cloud succeeded, 0 if it failed.",
            self._labels(),
            registry=self._only(reports),
        )
        self._swept_at = client.Gauge(
            "one_provider_sweep_last_success_timestamp_seconds",
            "When the listing began that the reports tell of, in seconds since the epoch.",
            self._labels(),
            registry=self._only(reports),
        )
        self._sweep_seconds = client.Histogram(
            "one_provider_sweep_duration_seconds",
            "Time a sweep that succeeded took, from the wish to look to the state of every VM.",
            self._labels(),
            registry=self._only(reports),
            buckets=_CALL_SECONDS,
        )
        self._vms = client.Gauge(
            "one_provider_vms",
            "VMs of all hosts that are monitored, by the state that is reported.",
            self._labels("state"),
            registry=self._only(reports),
        )
        self._held = client.Gauge(
            "one_provider_vms_held",
            "VMs that are left as they are because unusually many instances vanished.",
            self._labels(),
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
            "When the driver began to count, in seconds since the epoch.",
            self._labels(),
            registry=self._only(both),
        )
        self._written = client.Gauge(
            "one_provider_last_write_timestamp_seconds",
            "When this was written, in seconds since the epoch.",
            self._labels(),
            registry=self._only(both),
        )
        self._info.labels(*self._own, version).set(1)
        self._started.labels(*self._own).set(time())
        self._throttles.labels(*self._own)  # from the beginning on: a rate wants a zero to begin with

    def _labels(self, *more: str) -> tuple[str, ...]:
        return ("name", "program", *more)

    def _only(self, programs: tuple[str, ...]) -> CollectorRegistry | None:
        """The registry, for what this program counts; what the other one counts is made and never shown."""
        return self._registry if self._own[1] in programs else None

    # Actions

    def answered(self, action: str, *, is_success: bool) -> None:
        """A request was answered."""
        self._actions.labels(*self._own, self._few("action", action), SUCCESS if is_success else FAILURE).inc()

    def called_off(self, action: str) -> None:
        """An action was called off: nothing is answered."""
        self._actions.labels(*self._own, self._few("action", action), CANCELLED).inc()

    def overdue(self, action: str, count: int = 1) -> None:
        """Time was over for so many requests, which are answered with a failure."""
        self._overdue.labels(*self._own, self._few("action", action)).inc(count)

    def took(self, action: str, seconds: float) -> None:
        """An action is over."""
        self._action_seconds.labels(*self._own, self._few("action", action)).observe(seconds)

    def queue(self, *, waiting: int, running: int) -> None:
        """How much there is to do by now."""
        self._waiting.labels(*self._own).set(waiting)
        self._running.labels(*self._own).set(running)

    def owed(self, count: int) -> None:
        """How many debts there are by now."""
        self._debts.labels(*self._own).set(count)

    # Calls to the cloud

    async def timed(self, operation: str, call: Awaitable[_Result]) -> _Result:
        """Make a call, and count it; its result, and whatever it raises, are passed on."""
        begun = monotonic()
        try:
            result = await call
        except BaseException as error:
            self.called(operation, monotonic() - begun, error)
            raise
        self.called(operation, monotonic() - begun)
        return result

    def called(self, operation: str, seconds: float, error: BaseException | None = None) -> None:
        """A call has ended, badly if there is an error."""
        operation = self._few("operation", operation)
        self._calls.labels(*self._own, operation, SUCCESS if error is None else outcome_of(error)).inc()
        self._call_seconds.labels(*self._own, operation).observe(seconds)
        if isinstance(error, errors.Throttled):
            self._throttles.labels(*self._own).inc()

    def repeated(self, operation: str) -> None:
        """A call is sent again."""
        self._retries.labels(*self._own, self._few("operation", operation)).inc()

    # Sweeps

    def swept(self, began_at: float, seconds: float, states: Mapping[str, int], *, held: int) -> None:
        """The cloud was listed, and is known.

        Args:
            began_at: seconds since the epoch when the listing began.
            seconds: how long it took to look and judge.
            states: VMs by their state, the states that none is in included.
            held: VMs that are held because too many vanished at once.
        """
        self._up.labels(*self._own).set(1)
        self._swept_at.labels(*self._own).set(began_at)
        self._sweep_seconds.labels(*self._own).observe(seconds)
        self._held.labels(*self._own).set(held)
        for state, count in states.items():
            self._vms.labels(*self._own, state).set(count)

    def lost(self) -> None:
        """The cloud cannot be listed."""
        self._up.labels(*self._own).set(0)

    def monitored(self, hosts: int) -> None:
        """How many hosts are reported on by now; without any, what was last seen of them is no news any more."""
        self._hosts.labels(*self._own).set(hosts)
        if not hosts:
            for gauge in (self._up, self._swept_at, self._vms, self._held):
                gauge.clear()

    def _few(self, label: str, value: str) -> str:
        """The value, unless there are too many of them already."""
        known = self._known.setdefault(label, set())
        if value in known:
            return value
        if len(known) >= _MOST_VALUES:
            return OTHER
        known.add(value)
        return value

    def text(self) -> bytes:
        """Everything that was counted, in Prometheus' text format."""
        self._written.labels(*self._own).set(time())
        return self._render(self._registry)


def outcome_of(error: BaseException) -> str:
    """The label `outcome` of a call that failed: the kind of error, as docs/providers.md lists them."""
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__), "defect")
