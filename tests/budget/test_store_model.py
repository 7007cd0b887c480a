"""Any interleaving of calls, kills and listings: what runs stays within the limit, and what fits is admitted.

The model keeps the true state of two clouds and the most that may exist by then; it shares no code with the store.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from one_provider_mad.budget import transactions
from one_provider_mad.budget.months import month_of
from one_provider_mad.budget.records import Observed, Wish
from one_provider_mad.budget.rules import Refusal, Scope, Terms, Unready
from one_provider_mad.budget.schema import prepare
from one_provider_mad.budget.settings import Limits
from one_provider_mad.budget.transactions import Calls
from one_provider_mad.domain import DeployId, Identity, VmId, VmOwner
from one_provider_mad.pricing.values import Item, Kind, Part, Price
from one_provider_mad.processes import Process
from one_provider_mad.timestamps import Timestamp

NAMES = ("one", "two")
LIMIT = 10
GRACE = 10.0
LAG = GRACE / 2
"""Seconds for which a new instance is not listed, and after which a call of a killed process has no effect."""
BEGIN = 1_796_000_000.0
NO_PID = 1 << 30

names = st.sampled_from(NAMES)
sizes = st.sampled_from(("small", "large"))


class Made:
    """An instance in the cloud."""

    def __init__(self, name: str, vm_id: int, size: str, at: float) -> None:
        self.id, self.name, self.vm_id, self.size, self.made_at = f"i-{vm_id}", name, vm_id, size, at
        self.disks = 0
        self.state = "running"
        self.shown_at = 0.0
        self.was_shown_ended = False
        self.most = 0.0
        """The most that the store may count for it."""
        self.lowest = 0.0
        """The least that it has cost since the store was last told."""


class Call:
    """A call that was admitted, until nothing can come of it any more."""

    def __init__(self, process: Process, kind: str, made: Made | None, price: float, size: str = "") -> None:
        self.process, self.kind, self.made, self.price, self.size = process, kind, made, price, size
        self.vm_id = 0
        self.name = ""
        self.has_happened = False
        self.over_at: float | None = None
        """Since when no process waits for it."""

    @property
    def key(self) -> str:
        return self.made.id if self.made and self.kind != "create" else f"token-{self.vm_id}"


class Budgets(RuleBasedStateMachine):
    """Two NAMEs, one store."""

    @initialize(has_changes=st.booleans(), stopped=st.sampled_from((0.0, 0.5)))
    def begin(self, *, has_changes: bool, stopped: float) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        prepare(self.db)
        self.now = BEGIN
        self.prices = {"small": 1.0, "large": 3.0}
        self.stopped = stopped
        self.has_changes = has_changes
        self.processes = {name: Process(pid=NO_PID + at, start="0") for at, name in enumerate(NAMES)}
        self.made: list[Made] = []
        self.calls: list[Call] = []
        self.late: dict[str, tuple[float, list[Observed], list[Made]]] = {}
        self.looked_at = dict.fromkeys(NAMES, 0.0)
        self.serial = 0
        for name in NAMES:
            self.look(name)

    def teardown(self) -> None:
        """Once everything is gone for good the store is empty: nothing leaks."""
        if not hasattr(self, "db"):
            return
        for name in NAMES:
            self.kill(name)
        for each in self.made:
            each.state = "ended"
        for _ in range(3):
            for name in NAMES:
                self.look(name)
            self.now += 2 * GRACE
        left = self.db.execute("SELECT * FROM commitments").fetchall()
        self.db.close()
        assert not left

    # The truth

    def price(self, made: Made) -> float:
        """What it costs now."""
        if made.state == "ended":
            return 0.0
        share = self.stopped if made.state == "stopped" else 1.0
        return share * self.prices[made.size] + made.disks

    def pending(self, call: Call) -> bool:
        """True while something may come of a call."""
        return call.over_at is None or self.now - call.over_at < GRACE

    def note(self) -> None:
        """Keep the most and the least that the store may count of each instance."""
        for made in self.made:
            if made.state != "ending":
                made.most = max(made.most, self.price(made), *self.targets(made))
            made.lowest = min(made.lowest, self.price(made))

    def targets(self, made: Made) -> list[float]:
        return [call.price for call in self.calls if call.made is made and self.pending(call)]

    def counts(self, made: Made) -> bool:
        """True while the store may count an instance right after a listing."""
        if made.state != "ended":
            return True
        calls = [call for call in self.calls if call.made is made and self.pending(call)]
        if any(call.kind == "create" for call in calls):
            return True  # the ended instance may be that of an earlier create for the same VM
        return not made.was_shown_ended and (self.now - made.shown_at < GRACE or bool(calls))

    def possible(self) -> float:
        """The most that the store may count right after listings of both clouds."""
        self.note()
        creates = [call for call in self.calls if call.kind == "create" and not call.has_happened]
        return sum(made.most for made in self.made if self.counts(made)) + sum(
            call.price for call in creates if self.pending(call)
        )

    @invariant()
    def nothing_runs_beyond_the_limit(self) -> None:
        """Prices that rise after an admission are nobody's fault; creates are held against them in `create`."""
        if hasattr(self, "db"):
            self.note()
            assert self.has_changes or sum(self.price(made) for made in self.made) <= LIMIT + 1e-6

    # Calls

    def stamp(self) -> Timestamp:
        return Timestamp(at=self.now, steady=self.now - BEGIN + 100, boot="boot")

    def under_way(self, name: str) -> Calls:
        me = self.processes[name]
        keys = [each.key for each in self.calls if each.process == me and each.over_at is None]
        return Calls(me=me, keys=frozenset(keys))

    def wish(self, made: Made | None, vm_id: int, what: dict[str, Any]) -> Wish:
        key, deploy_id = (f"token-{vm_id}", "") if made is None else ("", made.id)
        identity = Identity(owner="o", vm_id=VmId(vm_id), stime=vm_id + 1, seq=0, host_id=0)
        return Wish(key=key, deploy_id=deploy_id, identity=identity, owner=VmOwner(), what="it", **what)

    def admit(self, name: str, wish: Wish, added: float) -> bool:
        """Admit as admission.py does: a refusal for what others use is asked for again after a listing."""
        refused = self.ask(name, wish)
        if isinstance(refused, Refusal):
            for each in NAMES:  # the other NAME lists its cloud each minute by itself
                self.look(each)
            refused = self.ask(name, wish)
            if refused is not None:
                assert self.possible() + added > LIMIT - 1e-6, (refused, self.possible(), added)
                return False
        assert refused is None
        return True

    def ask(self, name: str, wish: Wish) -> Refusal | Unready | None:
        scope = Scope(table="budget", whom="team", limits=Limits(max_per_hour=LIMIT))
        terms = Terms(file="one.toml", now=self.now, month=month_of(self.now))
        me = self.processes[name]
        return transactions.admit(self.db, wish, name=name, scopes=[scope], terms=terms, at=self.stamp(), me=me)

    def open(self, name: str, call: Call) -> None:
        call.name = name
        self.calls.append(call)

    @rule(name=names, size=sizes)
    def create(self, name: str, size: str) -> None:
        self.serial += 1
        price = self.prices[size]
        wish = self.wish(None, self.serial, {"price": compute(price), "gib": 0.0, "is_new_type": True})
        if self.admit(name, wish, price):
            assert sum(made.lowest for made in self.made) + price <= LIMIT + 1e-6
            call = Call(self.processes[name], "create", None, price, size)
            call.vm_id = self.serial
            self.open(name, call)

    def idle(self, state: str) -> list[Made]:
        busy = [each.made for each in self.calls if each.over_at is None or not self.is_settled(each)]
        return [each for each in self.made if each.state == state and each not in busy]

    def is_settled(self, call: Call) -> bool:
        return not self.may_happen(call) or call.has_happened

    @precondition(lambda self: self.idle("stopped"))
    @rule(data=st.data(), size=sizes)
    def start(self, data: st.DataObject, size: str) -> None:
        """Start, with the size that the VM has by now."""
        made = data.draw(st.sampled_from(self.idle("stopped")))
        price = self.prices[size] + made.disks
        wish = self.wish(made, made.vm_id, {"price": compute(price), "gib": float(made.disks), "is_new_type": True})
        if self.admit(made.name, wish, price - self.price(made)):
            self.open(made.name, Call(self.processes[made.name], "start", made, price, size))

    @precondition(lambda self: self.idle("running"))
    @rule(data=st.data())
    def attach(self, data: st.DataObject) -> None:
        made = data.draw(st.sampled_from(self.idle("running")))
        wish = self.wish(made, made.vm_id, {"price": compute(1.0), "gib": 1.0, "is_part": True})
        if self.admit(made.name, wish, 1.0):
            self.open(made.name, Call(self.processes[made.name], "attach", made, self.price(made) + 1.0))

    # Fates

    def may_happen(self, call: Call) -> bool:
        return not call.has_happened and (call.over_at is None or self.now - call.over_at < LAG)

    def happen(self, call: Call) -> None:
        """Let a call take effect in the cloud."""
        call.has_happened = True
        if call.kind == "create":
            call.made = Made(call.name, call.vm_id, call.size, self.now)
            call.made.lowest, call.made.most = min(call.price, self.price(call.made)), call.price
            self.made.append(call.made)
        elif call.made is not None and call.made.state in ("stopped", "running"):
            call.made.state = "running"
            call.made.size = call.size or call.made.size
            call.made.disks += call.kind == "attach"
        self.note()

    @precondition(lambda self: any(self.may_happen(each) for each in self.calls))
    @rule(data=st.data())
    def take_effect(self, data: st.DataObject) -> None:
        self.happen(data.draw(st.sampled_from([each for each in self.calls if self.may_happen(each)])))

    def is_held(self, call: Call) -> bool:
        """True while the process that admitted a call waits for it."""
        return call.over_at is None and call.process == self.processes[call.name]

    @precondition(lambda self: any(self.is_held(each) for each in self.calls))
    @rule(data=st.data(), fate=st.sampled_from(("answered", "lost", "refused", "forgotten")))
    def end(self, data: st.DataObject, fate: str) -> None:
        call = data.draw(st.sampled_from([each for each in self.calls if self.is_held(each)]))
        if fate == "refused" and not call.has_happened:
            self.calls.remove(call)
            self.refused(call)
            return
        if fate == "answered" and not call.has_happened:
            self.happen(call)
        if fate == "forgotten":  # the action was cancelled, or the file could not be written
            call.process = Process(pid=NO_PID - 1, start="0")
            return
        call.over_at = self.now
        is_made = fate == "answered" and call.kind == "create" and call.made is not None
        wait = GRACE if call.kind == "create" or fate != "answered" else 0.0
        deploy_id = call.made.id if is_made and call.made is not None else ""
        transactions.settle(self.db, call.key, name=call.name, deploy_id=deploy_id, wait=wait, at=self.stamp())
        if not wait:
            self.calls.remove(call)

    def refused(self, call: Call) -> None:
        if call.kind == "create":
            transactions.release(self.db, call.key, name=call.name)
            return
        made = call.made
        assert made is not None
        made.most = max(made.most, call.price)  # until the next listing
        if call.kind == "attach":
            wish = self.wish(made, made.vm_id, {"price": compute(1.0), "gib": 1.0, "is_part": True})
            transactions.withdraw(self.db, wish, name=call.name)
        transactions.settle(self.db, call.key, name=call.name, deploy_id="", wait=0.0, at=self.stamp())

    @rule(name=names)
    def kill(self, name: str) -> None:
        """Kill the process of a NAME and start it again."""
        before = self.processes[name]
        self.processes[name] = Process(pid=before.pid + 2, start="0")
        self.late.pop(name, None)

    @precondition(lambda self: any(each.state == "running" for each in self.made))
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([each for each in self.made if each.state == "running"])).state = "stopped"

    @precondition(lambda self: any(each.state in ("running", "stopped") for each in self.made))
    @rule(data=st.data())
    def terminate(self, data: st.DataObject) -> None:
        self.note()
        made = data.draw(st.sampled_from([each for each in self.made if each.state in ("running", "stopped")]))
        made.state = "ending"

    @precondition(lambda self: any(each.state == "ending" for each in self.made))
    @rule(data=st.data(), is_told=st.booleans())
    def vanish(self, data: st.DataObject, *, is_told: bool) -> None:
        made = data.draw(st.sampled_from([each for each in self.made if each.state == "ending"]))
        made.state = "ended"
        if is_told:
            identity = Identity(owner="o", vm_id=VmId(made.vm_id), stime=made.vm_id + 1, seq=0, host_id=0)
            transactions.gone(self.db, identity, [DeployId(made.id)], name=made.name, at=self.stamp())

    @precondition(lambda self: self.has_changes)
    @rule(size=sizes, price=st.sampled_from((0.5, 1.0, 2.0, 4.0)))
    def reprice(self, size: str, price: float) -> None:
        self.note()
        self.prices[size] = price
        self.note()

    @rule(seconds=st.sampled_from((0.5, 3.0, 6.0, 12.0)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.calls = [each for each in self.calls if self.may_happen(each) or self.pending(each)]

    # Listings

    def visible(self, name: str, left_out: float = 0.0) -> list[Made]:
        """What a listing has: not the youngest, perhaps not the ended ones, once in a while not each of the others."""
        return [
            made
            for made in self.made
            if made.name == name
            and (made.shown_at or self.now - made.made_at >= LAG)
            and not (made.state == "ended" and made.vm_id % 2)
            and not (left_out and made.vm_id % 3 == 0 and self.now - made.shown_at < GRACE / 3)
        ]

    def observed(self, shown: list[Made]) -> list[Observed]:
        return [
            Observed(
                deploy_id=made.id,
                vm_id=made.vm_id,
                stime=made.vm_id + 1,
                seq=0,
                is_ended=made.state == "ended",
                is_ending=made.state == "ending",
                amount=self.price(made),
                known=self.price(made),
                currency="USD",
                gib=float(made.disks),
                created_at=made.made_at,
            )
            for made in shown
        ]

    def look(self, name: str) -> None:
        shown = self.visible(name)
        self.reconcile(name, self.now, self.observed(shown), shown)

    @rule(name=names)
    def list_now(self, name: str) -> None:
        self.look(name)

    @rule(name=names)
    def begin_list(self, name: str) -> None:
        shown = self.visible(name, left_out=1.0)
        self.late[name] = (self.now, self.observed(shown), shown)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def end_list(self, data: st.DataObject) -> None:
        """Give the store a listing that began before other things happened; one that is overtaken is dropped."""
        name = data.draw(st.sampled_from(sorted(self.late)))
        begun, observed, shown = self.late.pop(name)
        if begun >= self.looked_at[name]:
            self.reconcile(name, begun, observed, shown)

    def reconcile(self, name: str, begun: float, observed: list[Observed], shown: list[Made]) -> None:
        self.note()
        self.looked_at[name] = begun
        stamp = Timestamp(at=begun, steady=begun - BEGIN + 100, boot="boot")
        for call in self.calls:
            if call.name == name and call.over_at is None and call.process != self.processes[name]:
                call.over_at = self.now
        transactions.reconcile(
            self.db, observed, name=name, begun=stamp, at=self.stamp(), grace=GRACE, calls=self.under_way(name)
        )
        seen = {each.deploy_id: each for each in observed}
        for made in shown:
            made.shown_at = begun
            made.was_shown_ended |= seen[DeployId(made.id)].is_ended
            if begun == self.now:
                made.lowest = self.price(made)
                if made.state != "ending":
                    made.most = max([self.price(made), *self.targets(made)])


def compute(price: float) -> Price:
    return Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name="any"), amount=price),), currency="USD")


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
