"""A random run: both drivers on one cloud, with user operations on all VMs, changing faults, and kill -9.

The test is oned and monitord at once: one thread reads both drivers, and takes replies before reports that arrived at
the same time, since reports travel through monitord.
"""

from __future__ import annotations

import random
import select
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from one_provider_mad.domain import InstanceState
from one_provider_mad.errors import MadError
from tests.end_to_end.cloud_states import CloudStates
from tests.end_to_end.core_vms import CHOICES, CoreVm
from tests.end_to_end.information_driver import PROGRAM as REPORTS
from tests.end_to_end.information_driver import Console
from tests.end_to_end.killed_driver import KilledDriver
from tests.end_to_end.oned import PROGRAM as ACTIONS
from tests.end_to_end.oned import Place
from tests.end_to_end.random_faults import RandomFaults
from tests.end_to_end.report_checker import ReportChecker
from tests.monitor.decoder import start_monitor
from tests.waiting import HANG, until

HOST = 3

PATIENCE = 20.0
"""Seconds after the restart of a driver until a user recovers a request of the killed one: a driver fails what
it cannot repeat after three."""

HARDLY_SENT = 0.3
"""Seconds before its end within which a driver may not have journaled a request."""

AGREED = {
    ("RUNNING", InstanceState.RUNNING),
    ("POWEROFF", InstanceState.STOPPED),
    ("SUSPENDED", InstanceState.SUSPENDED),
    ("SUSPENDED", InstanceState.STOPPED),  # it was stopped in the console before the suspend
    ("UNDEPLOYED", InstanceState.STOPPED),
    ("STOPPED", InstanceState.STOPPED),
    # A suspend that took effect and was answered with FAILURE: a suspended instance is not stopped too.
    ("POWEROFF", InstanceState.SUSPENDED),
    ("UNDEPLOYED", InstanceState.SUSPENDED),
    ("STOPPED", InstanceState.SUSPENDED),
    ("DONE", None),
    # Terminated in the console, which does not change a VM that is powered off.
    ("UNKNOWN", None),
    ("POWEROFF", None),
    ("SUSPENDED", None),
    ("BOOT_UNDEPLOY_FAILURE", None),
    ("BOOT_STOPPED_FAILURE", None),
}
"""Pairs of states, in OpenNebula and in the cloud, that a VM may have in the end."""


class Plan(NamedTuple):
    """Parameters of a run: seconds between two kills of a driver, seconds that a set of faults lasts, ..."""

    seed: int
    vms: int
    seconds: float
    kills: tuple[float, float]
    most_kills: int = 1000
    fault_seconds: tuple[float, float] = (0.5, 2.0)
    missing_state: str = "POWEROFF"
    rest: float = 1.0


class RandomRun:
    """One random run; `plan` makes it repeatable.

    Args:
        place: an empty OpenNebula.
        plan: its parameters.

    Attributes:
        checker: the events and errors.
        kills: number of kills of each driver.
    """

    def __init__(self, place: Place, plan: Plan) -> None:
        self.place = place
        self.plan = plan
        self.kills: Counter[str] = Counter()
        self._begun = time.time()
        self._chance = random.Random(plan.seed)
        self._chance_of_kills = random.Random(f"kills {plan.seed}")
        self._faults = RandomFaults(place, seed=plan.seed, seconds=plan.fault_seconds, missing_state=plan.missing_state)
        self._faults.set("no faults", boot_time=0.3)
        self._console = Console(place)
        self._console.instances()
        self.states = CloudStates(place.var / "simulated.db")
        self.vms = {number: CoreVm(number, host_id=HOST) for number in range(plan.vms)}
        title = f"seed {plan.seed}, begun at {self._begun:.3f}"
        self.checker = ReportChecker(title, self.vms, states=self.states, missing_state=plan.missing_state)
        self.actions = KilledDriver(place, "-t 50 -r 2 -w 8 simulated", program=ACTIONS)
        self.reports = KilledDriver(place, "simulated", program=REPORTS)
        self.reports.send(start_monitor(HOST, "harbour"))
        self._due = dict.fromkeys(self.vms, 0.0)
        self._lost_at: dict[int, float] = {}
        self._next_kills: dict[str, float] = {}

    def leave(self) -> None:
        self.states.close()
        self.actions.driver.leave()
        self.reports.driver.leave()

    def summary(self) -> str:
        counts = {**self.checker.counts, **{f"kills of {name}": count for name, count in self.kills.items()}}
        counted = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        return f"random run {self.plan.seed}: {len(self.vms)} VMs in {time.time() - self._begun:.0f} s: {counted}"

    def _change_faults(self, now: float) -> None:
        if name := self._faults.change(now):
            self.checker.note(None, f"faults: {name}")
            self.checker.counts[f"times {name}"] += 1

    # kill -9

    def _kill(self, now: float) -> None:
        chance = self._chance_of_kills
        for name, driver in (("actions", self.actions), ("reports", self.reports)):
            due = self._next_kills.setdefault(name, now + chance.uniform(*self.plan.kills))
            if now >= due and driver.ready_at and self.kills[name] < self.plan.most_kills:
                self._next_kills[name] = now + chance.uniform(*self.plan.kills)
                self.kill(name)

    def kill(self, name: str) -> None:
        """Kill a driver; the lines that it has written are still read."""
        driver = self.actions if name == "actions" else self.reports
        self.checker.note(None, f"kill -9 of the driver for {name}")
        self.kills[name] += 1
        ready_at = driver.ready_at
        lines = driver.kill()
        if name == "reports":
            self.checker.take(lines)
            return
        self._take_replies(lines)
        for vm in self.vms.values():
            vm.lose_driver(ready_at)
            if vm.is_waiting:
                self._lost_at[vm.number] = time.time()

    def _recover_lost(self, vm: CoreVm, now: float) -> None:
        """Let a user recover a VM whose request the killed driver did not read."""
        lost_at = self._lost_at.get(vm.number)
        if lost_at is None or not self.actions.ready_at:
            return
        if not vm.is_waiting or vm.asked:
            del self._lost_at[vm.number]
        elif lost_at - vm.asked_at < HARDLY_SENT or now > self.actions.ready_at + PATIENCE:
            del self._lost_at[vm.number]
            self._write(vm, "recover", vm.recover())

    # User operations

    def _act(self, now: float) -> None:
        for vm in list(self.vms.values()):
            self._recover_lost(vm, now)
            if now < self._due[vm.number] or vm.state == "DONE":
                continue
            self._due[vm.number] = now + self._chance.uniform(0.05, self.plan.rest)
            if not vm.is_waiting:
                self._do_something(vm)
            elif vm.state == "BOOT" and self._chance.random() < 0.02:
                self._write(vm, *self._chance.choice((("recreate", vm.do("recreate")), ("retry", vm.recover()))))

    def _do_something(self, vm: CoreVm) -> None:
        if self._chance.random() < 0.2 and vm.state in ("RUNNING", "POWEROFF") and not vm.asked:
            self._use_console(vm)
            return
        choices = CHOICES[vm.state]
        (name,) = self._chance.choices(list(choices), list(choices.values()))
        self._write(vm, name, vm.do(name))
        if name == "terminate":
            self._add_vm()

    def _add_vm(self) -> None:
        if sum(vm.state not in ("DONE", "SHUTDOWN") for vm in self.vms.values()) < self.plan.vms:
            number = len(self.vms)
            self.vms[number] = CoreVm(number, host_id=HOST)
            self._due[number] = time.time()

    def _write(self, vm: CoreVm, name: str, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.checker.note(vm.number, f"{name}: {line.decode().split()[0]}, now {vm.state}")
            self.actions.send(line)
            self.checker.counts["requests"] += 1

    def _use_console(self, vm: CoreVm) -> None:
        state = self.states.state(vm.deploy_id)
        word = ""
        try:
            if state is InstanceState.RUNNING and self._chance.random() < 0.7:
                word = "stops"
                self._console.stop(vm.deploy_id)
            elif state is InstanceState.STOPPED:
                word = "starts"
                self._console.start(vm.deploy_id)
            elif state is InstanceState.RUNNING:
                word = "terminates"
                self._console.terminate(vm.deploy_id)
        except MadError as error:
            self.checker.note(vm.number, f"the console refuses: {error}")
            return
        if word:
            self.checker.note(vm.number, f"a user {word} {vm.deploy_id} in the console")
            self.checker.counts[f"times a user {word} in the console"] += 1

    # Lines of the drivers

    def listen(self, seconds: float = 0.02) -> None:
        """Wait for lines of the drivers, and take them."""
        drivers = [self.actions, self.reports]
        select.select([driver.descriptor for driver in drivers], [], [], seconds)
        reports = self.reports.hear()
        answers = self.actions.hear()  # read after the reports, so that replies written before them have arrived
        self.states.observe()
        self._take_replies(answers)
        self.checker.ready_at = self.actions.ready_at
        self.checker.take(reports)

    def _take_replies(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.startswith("LOG "):
                continue
            action, status, number, info = line.split(" ", 3)
            vm = self.vms[int(number)]
            before = vm.state
            is_asked = vm.reply(action, info, is_success=status == "SUCCESS")
            self.checker.note(vm.number, f"reply: {line}; {before} -> {vm.state}")
            self.checker.counts["replies" if status == "SUCCESS" else "replies of failure"] += 1
            if not is_asked:
                self.checker.accuse(vm.number, f"a reply without a request: {line}")
            if before != vm.state:
                # Some VMs rest long enough to be reported, and to be missed.
                longest = self.plan.rest * (1 if vm.number % 3 else 6)
                self._due[vm.number] = time.time() + self._chance.uniform(0, longest)
            if vm.state == "DONE":
                self._add_vm()

    # The whole

    def run(self) -> None:
        """Run for the planned time and until each driver was killed and an outage came, or until an error."""
        until(self._is_monitored)
        end = time.time() + self.plan.seconds
        longest = end + HANG
        while ((now := time.time()) < end or (now < longest and not self._has_had_all())) and not self.checker.errors:
            self._change_faults(now)
            self._act(now)
            self._kill(now)
            self.listen()

    def _has_had_all(self) -> bool:
        """True once each driver was killed and an outage came."""
        return len(self.kills) == 2 and self.checker.counts["times an outage"] > 0

    def _is_monitored(self) -> bool:
        """True once the host is in the state file, so that a restarted driver monitors it."""
        self.listen(0)
        path = self.place.var / "one_im_provider_simulated.state"
        is_kept = path.exists() and '"hosts":[{' in path.read_text()
        return is_kept and self.checker.is_monitored and bool(self.actions.ready_at)

    def end_faults(self, seconds: float = 2 * HANG) -> None:
        """End the faults, and wait until the states of all VMs agree in OpenNebula, the cloud and the reports."""
        self._faults.set("no faults", boot_time=0.1)
        self.checker.note(None, "no more faults")
        deadline = time.time() + seconds
        while not self.checker.errors and (left := self._unsettled()):
            assert time.time() < deadline, "\n".join(f"{why}\n{self.checker.story(number)}" for number, why in left[:4])
            now = time.time()
            for vm in self.vms.values():
                self._recover_lost(vm, now)
                if vm.state == "PENDING" or (vm.state.endswith("FAILURE") and self._difference(vm)):
                    (name, *_) = CHOICES[vm.state]
                    self._write(vm, name, vm.do(name))
            self.listen()

    def settle(self) -> None:
        """Wait until no termination is pending and no request is unanswered."""
        until(
            lambda: self._is_heard() and not [each for each in self.place.instances() if each["debt"]],
            pause=0.2,
        )
        until(lambda: self._is_heard() and not self.place.unanswered())

    def _is_heard(self) -> bool:
        self.listen(0)
        return True

    def _unsettled(self) -> list[tuple[int, str]]:
        """The VMs whose state differs from the cloud's or from the last report, with the difference."""
        found = [(vm.number, self._difference(vm)) for vm in self.vms.values()]
        return [(number, why) for number, why in found if why]

    def _difference(self, vm: CoreVm) -> str:
        live = self.states.live(vm.number)
        if vm.is_waiting or vm.state in ("PENDING", "BOOT_FAILURE"):
            return f"still {vm.state}"
        if len(live) > 1 or (live and live != [vm.deploy_id]):
            return f"its instance is {vm.deploy_id}, and there are {live}"
        state = self.states.state(live[0]) if live else None
        if (vm.state, state) not in AGREED:
            return f"{vm.state} in OpenNebula, {state and state.value} in the cloud"
        if (bool(live) and vm.is_on_host) is not (vm.number in self.checker.synced):
            return f"{'' if vm.number in self.checker.synced else 'not '}named in reports of all VMs, {vm.state}"
        return ""
