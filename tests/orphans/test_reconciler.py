"""What is destroyed and, above all, what is not: a real journal, a fake cloud, an OpenNebula that says what it must."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.actions.engine import Engine
from one_provider_mad.domain import DeployId, InstanceState, VmId
from one_provider_mad.errors import MadError, ProviderUnavailable
from one_provider_mad.journal import Attempt, AttemptState
from one_provider_mad.orphans.reconciler import MACHINE, ORPHANS, Reconciler
from one_provider_mad.orphans.verdicts import DONE_STATE, VmDocument
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME, FakeEngines, World, a_world, identity_of

ACTIVE, POWEROFF = 3, 8
TERMINATE = OrphanPolicy(policy="terminate-done", grace=0)


class FakeOpenNebula:
    """Pretends to be the local OpenNebula.

    Attributes:
        vms: its VMs by number; an error in the place of one befalls who asks for it.
        error: befalls everybody.
        leads: it has no peers, or leads them.
    """

    endpoint = "http://localhost:2633/RPC2"

    def __init__(self) -> None:
        self.vms: dict[int, VmDocument] = {}
        self.error: MadError | None = None
        self.deaf: set[int] = set()
        self.leads = True

    def vm(self, vm_id: int, deploy_id: str, *, state: int = ACTIVE, **details: Any) -> None:
        """Let a VM be so."""
        fields = {"stime": STIME, "host_id": 3, **details}
        self.vms[vm_id] = VmDocument(vm_id=VmId(vm_id), state=state, deploy_id=DeployId(deploy_id), **fields)

    def end(self, vm_id: int, *, at: float) -> None:
        """Terminate a VM, and tell nobody."""
        self.vms[vm_id] = msgspec.structs.replace(self.vms[vm_id], state=DONE_STATE, etime=int(at))

    async def open(self) -> None:
        """Nothing to do."""

    async def may_act(self) -> bool:
        self._obey()
        return self.leads

    async def living(self) -> Mapping[VmId, VmDocument]:
        self._obey()
        return {vm.vm_id: vm for vm in self.vms.values() if vm.state != DONE_STATE}

    async def documents(self, vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        self._obey()
        return {vm_id: self.vms.get(vm_id) for vm_id in vm_ids if vm_id not in self.deaf}

    def _obey(self) -> None:
        if self.error is not None:
            raise self.error


class Front:
    """A front-end: a cloud, a journal, an OpenNebula, and somebody who compares them.

    Args:
        world: the cloud and the journal.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.cloud = world.provider
        self.opennebula = FakeOpenNebula()
        self.policy = TERMINATE
        self.machine = "here"
        self.busy: set[int] = set()
        self.told: list[str] = []
        self.set_by = 0.0
        self.restart()

    def restart(self) -> None:
        """A new process begins with nothing but the journal."""
        self.reconciler = Reconciler(
            FakeEngines(self.world),
            self.opennebula,
            tell=self._tell,
            is_busy=lambda vm_id: vm_id in self.busy,
            clock=lambda: self.world.clock() + self.set_by,
            machine=lambda: self.machine,
        )

    def _tell(self, severity: Severity, text: str) -> None:
        assert severity is Severity.WARNING
        self.told.append(text)

    def engine(self) -> Engine:
        engine = self.world.engine()
        settings = msgspec.structs.replace(engine.configuration.settings, orphans=self.policy)
        configuration = msgspec.structs.replace(engine.configuration, settings=settings)
        return msgspec.structs.replace(engine, configuration=configuration)

    async def create(self, deploy_id: str, *, vm_id: int = 7, seq: int = 0, is_known: bool = True, **tags: Any) -> None:
        """An instance that this driver has made; unless its journal is lost."""
        identity = identity_of(vm_id, seq=seq, **tags)
        self.cloud.add(identity, deploy_id=deploy_id)
        if is_known:
            attempt = Attempt.new(identity, len(self.cloud.instances), {})
            created = msgspec.structs.replace(
                attempt, state=AttemptState.CREATED, deploy_id=DeployId(deploy_id), sent_at=self.world.clock()
            )
            await self.world.journal.save_attempt(created)

    async def look(self, times: int = 1) -> set[str]:
        """Look so many times; the instances that are to be terminated by now."""
        for _ in range(times):
            await self.reconciler.look(self.engine())
        return {debt.deploy_id for debt in await self.world.journal.debts()}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """VM 7 runs as i-7, which this driver has made."""
    async with a_world(tmp_path) as world:
        front = Front(world)
        await front.create("i-7")
        front.opennebula.vm(7, "i-7")
        yield front


def end(front: Front, vm_id: int = 7, *, ago: float = 5) -> None:
    front.opennebula.end(vm_id, at=front.world.clock() - ago)


# The hole that OpenNebula leaves


async def test_the_instance_of_a_vm_that_is_over_is_terminated_after_the_second_look(front: Front) -> None:
    assert await front.look(3) == set()
    end(front)
    assert await front.look() == set()
    assert await front.look() == {"i-7"}
    (debt,) = await front.world.journal.debts()
    assert debt.identity == identity_of(7)
    assert debt.reason.startswith(f"orphan (done): VM 7 (STIME {STIME}) is DONE since ")
    assert front.told[-1].startswith("instance i-7 is terminated as an orphan: VM 7 (STIME")


async def test_as_shipped_it_is_told_of_and_no_more(front: Front) -> None:
    front.policy = OrphanPolicy(grace=0)
    end(front)
    assert await front.look(5) == set()
    (told,) = front.told
    assert told.startswith("instance i-7 is an orphan: VM 7")
    (entry,) = json.loads(await front.world.journal.fact(ORPHANS) or "")["orphans"]
    assert (entry["deploy_id"], entry["vm_id"], entry["verdict"], entry["looks"]) == ("i-7", 7, "done", 5)


async def test_a_leftover_of_a_recreate_goes_and_the_vms_own_stays(front: Front) -> None:
    await front.create("i-8", seq=1)
    front.opennebula.vm(7, "i-8", state=POWEROFF)
    assert await front.look(2) == {"i-7"}


async def test_of_twins_the_one_that_opennebula_knows_stays(front: Front) -> None:
    await front.create("i-8")
    front.opennebula.vm(7, "i-8")
    assert await front.look(2) == {"i-7"}


# Everything else is left alone


@pytest.mark.parametrize(
    "state",
    [pytest.param(state, id=name) for name, state in {"off": 8, "suspended": 5, "stopped": 4, "undeployed": 9}.items()],
)
async def test_a_vm_that_is_not_done_keeps_its_instance(front: Front, state: int) -> None:
    front.opennebula.vm(7, "i-7", state=state)
    front.cloud.instances[DeployId("i-7")].state = InstanceState.STOPPED
    assert await front.look(5) == set()
    assert not front.told


@pytest.mark.parametrize(
    "vm",
    [
        pytest.param(None, id="there-is-no-such-vm"),
        pytest.param({"stime": STIME + 1, "state": DONE_STATE, "etime": 1}, id="its-number-was-used-again"),
        pytest.param({"state": DONE_STATE, "etime": 0}, id="nobody-knows-since-when-it-is-over"),
        pytest.param({"deploy_id": ""}, id="it-has-no-deploy-id-yet"),
        pytest.param({"deploy_id": "i-9"}, id="it-is-something-that-the-cloud-does-not-show"),
        pytest.param({"deploy_id": "one-7", "host_id": 12}, id="it-runs-on-another-host"),
    ],
)
async def test_in_doubt_nothing_is_terminated(front: Front, vm: dict[str, Any] | None) -> None:
    front.opennebula.vms.clear()
    if vm is not None:
        front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    assert await front.look(5) == set()
    assert len(front.told) == 1, "somebody should know"
    assert front.told[0].startswith("instance i-7 belongs to no VM for certain: ")


async def test_an_instance_that_is_newer_than_what_opennebula_knows_is_left_alone(front: Front) -> None:
    """A recreate is under way, or was cut short."""
    await front.create("i-8", seq=1)
    assert await front.look(5) == set()


async def test_of_twins_that_opennebula_does_not_know_neither_is_terminated(front: Front) -> None:
    await front.create("i-8")
    front.opennebula.vm(7, "i-9")
    assert await front.look(5) == set()


async def test_somebody_elses_instance_is_nobodys_business(front: Front) -> None:
    await front.create("i-8", owner="another", vm_id=8)
    front.cloud.add(None, deploy_id="i-wild")
    assert await front.look(5) == set()
    assert not front.told


@pytest.mark.parametrize("way", ["unknown", "imported"])
async def test_what_this_driver_has_not_made_is_told_of_only(front: Front, way: str) -> None:
    await front.create("i-8", vm_id=8, is_known=way == "imported")
    if way == "imported":
        await front.world.journal.record_import(DeployId("i-8"), vm_id=VmId(8), stime=STIME)
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()
    assert len(front.told) == 1


async def test_an_attempt_of_another_life_of_that_number_made_something_else(front: Front) -> None:
    await front.create("i-8", vm_id=8, is_known=False)
    other = Attempt.new(identity_of(8, stime=STIME - 1), 1, {})
    await front.world.journal.save_attempt(
        msgspec.structs.replace(other, state=AttemptState.CREATED, deploy_id=DeployId("i-8"))
    )
    front.opennebula.vm(8, "i-8")
    end(front, 8)
    assert await front.look(5) == set()


async def test_a_front_end_that_does_not_lead_leaves_it_to_the_one_that_does(front: Front) -> None:
    end(front)
    front.opennebula.leads = False
    assert await front.look(5) == set()
    front.opennebula.leads = True
    assert await front.look() == {"i-7"}


async def test_a_journal_of_another_machine_is_no_permission(front: Front) -> None:
    """A clone of the front-end: what is terminated in its OpenNebula is needed in the original's."""
    await front.look()
    end(front)
    await front.look()
    assert await front.world.journal.fact(MACHINE) == "here"
    front.machine = "a copy"
    front.restart()
    assert await front.look(5) == set()
    (warning,) = [text for text in front.told if "machine" in text]
    assert warning.endswith("run one-provider journal accept fake")


async def test_graces_pass_first(front: Front) -> None:
    front.policy = OrphanPolicy(policy="terminate-done", grace=600)
    end(front, ago=590)
    front.set_by = 0.0
    assert await front.look(3) == set(), "it was made just now"
    front.set_by = 599.0
    assert await front.look(3) == set()
    front.set_by = 601.0
    assert await front.look() == {"i-7"}
    await front.create("i-8", vm_id=8)
    front.opennebula.vm(8, "i-8")
    front.opennebula.end(8, at=front.world.clock() + 595)
    front.set_by = 1190.0
    assert await front.look(3) == {"i-7"}, "its VM was there until just now"
    front.set_by = 1200.0
    assert await front.look() == {"i-7", "i-8"}


async def test_no_more_than_so_many_at_once(front: Front) -> None:
    front.policy = OrphanPolicy(policy="terminate-done", grace=0, at_most=2)
    for vm_id in range(10, 15):
        await front.create(f"i-{vm_id}", vm_id=vm_id)
        front.opennebula.vm(vm_id, f"i-{vm_id}")
        end(front, vm_id)
    assert [len(await front.look()) for _ in range(5)] == [0, 2, 4, 5, 5]


# Between two looks, and between a look and the deed


@pytest.mark.parametrize("what", ["opennebula", "cloud", "vm"])
async def test_a_look_that_was_not_complete_begins_anew(front: Front, what: str) -> None:
    end(front)
    await front.look()
    if what == "opennebula":
        front.opennebula.error = ProviderUnavailable("OpenNebula cannot be asked")
    elif what == "cloud":
        front.cloud.before["list"].append(ProviderUnavailable("the cloud cannot be asked"))
    else:
        front.opennebula.deaf = {7}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", _once)
        with pytest.raises(asyncio.CancelledError):
            await front.reconciler.run()
    front.opennebula.error, front.opennebula.deaf = None, set()
    assert await front.look() == set()
    assert await front.look() == {"i-7"}


async def _once(_seconds: float) -> None:
    raise asyncio.CancelledError


async def test_a_vm_with_an_action_under_way_is_left_alone(front: Front) -> None:
    end(front)
    front.busy = {7}
    assert await front.look(5) == set()
    front.busy = set()
    assert await front.look() == set()
    assert await front.look() == {"i-7"}


async def test_whatever_has_changed_since_the_look_is_seen_before_the_deed(front: Front) -> None:
    """Right before, this VM alone is looked at again."""
    end(front)
    await front.look()
    before = front.reconciler._opennebula.documents
    asked = 0

    async def documents(vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        nonlocal asked
        asked += 1
        if asked == 2:
            front.opennebula.vm(7, "i-7", state=POWEROFF)
        return await before(vm_ids)

    front.opennebula.documents = documents  # type: ignore[method-assign]
    assert await front.look() == set()
    assert asked == 2


async def test_what_is_owed_already_is_not_noted_again(front: Front) -> None:
    end(front)
    await front.look(5)
    assert len(await front.world.journal.debts()) == 1


async def test_what_is_over_is_told_once(front: Front) -> None:
    front.policy = OrphanPolicy()
    end(front)
    await front.look(5)
    assert len(front.told) == 1
    front.cloud.instances.clear()
    await front.look()
    assert json.loads(await front.world.journal.fact(ORPHANS) or "")["orphans"] == []


# Whatever happens

MISHAPS = (
    "restore", "reuse", "deaf", "silent", "partial", "follow", "restart", "back", "ahead", "copy", "busy",
)  # fmt: skip
STEPS = ("end", "off", "resume", "recreate", "nothing", "nothing", *MISHAPS)


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 2)), min_size=4, max_size=14))
def test_no_sequence_of_mishaps_costs_an_instance_that_is_needed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_play(tmp_path_factory.mktemp("front"), steps))


async def _play(path: Path, steps: list[tuple[str, int]]) -> None:
    async with a_world(path) as world:
        front = Front(world)
        needed: dict[int, str] = {}
        for vm_id in (1, 2):
            await front.create(f"i-{vm_id}-0", vm_id=vm_id)
            front.opennebula.vm(vm_id, f"i-{vm_id}-0")
            needed[vm_id] = f"i-{vm_id}-0"
        await front.look()
        for step, vm_id in steps:
            await _step(front, step, vm_id, needed)
            try:
                owed = await front.look()
            except MadError as error:
                front.reconciler._not_seen(error)
                owed = {debt.deploy_id for debt in await world.journal.debts()}
            assert not owed & set(needed.values())


async def _step(front: Front, step: str, vm_id: int, needed: dict[int, str]) -> None:
    """Let one thing happen; what was amiss before is not any more, but what a machine or a person did stays."""
    opennebula = front.opennebula
    opennebula.error, opennebula.deaf, opennebula.leads, front.busy = None, set(), True, set()
    front.cloud.before["list"].clear()
    if step in MISHAPS:
        _MISHAPS[step](front, vm_id)
        return
    vm = opennebula.vms.get(vm_id)
    is_mine = vm is not None and vm.stime == STIME and front.machine == "here"
    if step == "end" and vm is not None:
        opennebula.end(vm_id, at=front.world.clock())
        if is_mine:
            needed.pop(vm_id, None)  # else it is another one that has ended
    elif vm is not None and is_mine and vm.state != DONE_STATE and step in ("off", "resume"):
        opennebula.vms[vm_id] = msgspec.structs.replace(vm, state=POWEROFF if step == "off" else ACTIVE)
    elif vm is not None and is_mine and vm.state != DONE_STATE and step == "recreate":
        seq = len(front.cloud.instances)
        await front.create(f"i-{vm_id}-{seq}", vm_id=vm_id, seq=seq)
        opennebula.vms[vm_id] = msgspec.structs.replace(vm, deploy_id=DeployId(f"i-{vm_id}-{seq}"))
        needed[vm_id] = f"i-{vm_id}-{seq}"


def _restore(front: Front, vm_id: int) -> None:
    """OpenNebula comes back from a backup of before the VM was made, and gives its number to another one."""
    front.opennebula.vms.pop(vm_id, None)


def _reuse(front: Front, vm_id: int) -> None:
    if vm_id not in front.opennebula.vms:
        front.opennebula.vm(vm_id, f"i-{vm_id}-0", stime=STIME + 1000)


_MISHAPS: Mapping[str, Callable[[Front, int], None]] = {
    "restore": _restore,
    "reuse": _reuse,
    "deaf": lambda front, vm_id: front.opennebula.deaf.add(vm_id),
    "silent": lambda front, _: setattr(front.opennebula, "error", ProviderUnavailable("OpenNebula cannot be asked")),
    "partial": lambda front, _: front.cloud.before["list"].append(ProviderUnavailable("only half is listed")),
    "follow": lambda front, _: setattr(front.opennebula, "leads", False),
    "restart": lambda front, _: front.restart(),
    "back": lambda front, _: setattr(front, "set_by", front.set_by - 5000.0),
    "ahead": lambda front, _: setattr(front, "set_by", front.set_by + 5000.0),
    "copy": lambda front, _: setattr(front, "machine", "a copy"),
    "busy": lambda front, vm_id: front.busy.add(vm_id),
}
