"""State letters in reports to oned up to 5.10, for each row of the table in docs/monitoring.md."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, InstanceState, VmId
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.journal.records import Answered
from one_provider_mad.monitor.activity import Activity
from tests.actions.fakes import pass_time
from tests.end_to_end.oned import ROOT
from tests.monitor.builders import identity_of
from tests.monitor.decoder import vectors
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime

VM, ITS = VmId(7), DeployId("i-7")


class Scene:
    """VM 7 with its instance, the action driver's activity, and the reports to oned."""

    def __init__(self, path: Path) -> None:
        self.one = VirtualDriver(path)
        self.one.sweeper._activity = self  # type: ignore[assignment]
        self.activity = Activity()

    async def read(self, path: Path, *, since: float) -> Activity:
        """The activity, in place of the journal's."""
        return self.activity

    def state(self, state: InstanceState) -> None:
        self.one.set_state(VM, state)

    def busy(self, *, parked: bool = False) -> None:
        self.activity = Activity(busy=frozenset({VM}), parked=frozenset({ITS} if parked else ()))

    def answer(self, action: str, *, parked: bool = False, has_ended: bool = False) -> None:
        answered = {VM: Answered(action=action, at=self.one.clock(), has_ended=has_ended)}
        self.activity = Activity(answered=answered, parked=frozenset({ITS} if parked else ()))

    async def letter(self) -> str:
        """The letter of VM 7 in the next report, unless it is left out or there is another instance."""
        await pass_time(10)
        self.one.ask()
        await pass_time(1)
        found = {int(vm["ID"]): vm["POLL"] for vm in vectors(self.one.lines("MONITOR")[-1].values, "VM")}
        if -1 in found:
            return "wild"
        return found[VM].partition("STATE=")[2][:1] if VM in found else "left out"


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    await scene.one.handler.stop()


Act = Callable[[Scene], object]

STOPPED, RUNNING, DEAD = InstanceState.STOPPED, InstanceState.RUNNING, InstanceState.TERMINATED


def start(scene: Scene) -> None:
    scene.one.add(VM)


def stop(scene: Scene) -> None:
    scene.state(STOPPED)


def run(scene: Scene) -> None:
    scene.state(RUNNING)


def busy(scene: Scene) -> None:
    scene.busy()


def start_busily(scene: Scene) -> None:
    busy(scene)
    start(scene)


def vanish(scene: Scene) -> None:
    for deploy_id in list(scene.one.cloud.instances)[:8]:
        del scene.one.cloud.instances[deploy_id]


def wait(scene: Scene) -> None:
    """Nothing happens."""


def cut_off(scene: Scene) -> None:
    scene.one.cloud.always["list"] = ProviderUnavailable("no answer")


def park(scene: Scene) -> None:
    stop(scene)
    scene.answer("SHUTDOWN", parked=True)


def answered(action: str, *, has_ended: bool = False) -> Act:
    return lambda scene: scene.answer(action, has_ended=has_ended)


ROWS: dict[str, tuple[list[Act], list[Act]]] = {
    "stops an instance in the console": ([start], [stop]),
    "starts a stopped instance in the console": ([start, stop], [run]),
    "suspends an instance in the console": ([start], [lambda scene: scene.state(InstanceState.SUSPENDED)]),
    "terminates an instance in the console": ([start], [lambda scene: scene.state(DEAD)]),
    'terminates an instance in the console, with `missing_state = "POWEROFF"`': (
        [lambda scene: scene.one.set(missing_state="POWEROFF"), start],
        [lambda scene: scene.state(DEAD)],
    ),
    "makes an instance disappear without a trace": ([start], [vanish, wait, wait, wait]),
    "makes more than half of all disappear at once": (
        [lambda scene: [scene.one.add(number) for number in range(10)]],
        [vanish, wait, wait, wait],
    ),
    "starts an instance without tags": ([start], [lambda scene: scene.one.cloud.add(deploy_id="i-web")]),
    "removes the tags of a VM's instance": (
        [start],
        [lambda scene: setattr(scene.one.cloud.instances[ITS], "identity", None)],
    ),
    "starts a second instance with a VM's tags": (
        [start],
        [lambda scene: scene.one.cloud.add(identity_of(VM, seq=1), STOPPED, deploy_id="i-second")],
    ),
    "deploys a VM": ([wait], [start_busily, answered("DEPLOY")]),
    "powers a VM off": ([start], [busy, stop, answered("SHUTDOWN")]),
    "resumes a VM": ([start, stop], [busy, run, answered("DEPLOY")]),
    "reboots a VM": ([start], [busy, answered("REBOOT")]),
    "terminates a VM": (
        [start],
        [busy, lambda scene: scene.state(DEAD), answered("SHUTDOWN", has_ended=True)],
    ),
    "undeploys or stops a VM": ([start], [busy, park]),
    "starts the instance of an undeployed VM in the console": ([start, park], [run]),
    "deploys an undeployed VM again": ([start, park], [lambda scene: scene.busy(parked=True), run, answered("DEPLOY")]),
    "terminates a VM that is powered off": ([start, stop], [wait]),
    "cuts the cloud off": ([start], [cut_off]),
    "restores the cloud": ([start, cut_off], [lambda scene: scene.one.cloud.always.clear(), wait, wait]),
    "kills the action driver during an action": ([start], [busy]),
}
"""By event: the steps before it, and its own steps."""

IN_WORDS = {"as before": "a", "the same": "d", "- for all": "-", "all VMs": "a"}
"""Letters for the table's words: VM 7 ran before, and the second instance of that name is stopped."""


def table() -> dict[str, list[str]]:
    """By the first cell of each row, the sequence of letters in its third."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    rows = text.partition("| a person… |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| ([^-].+?) \| .+? \| (.+?) \|", rows, re.MULTILINE)
    letters = {who: cell.replace("`", "").split(", then ") for who, cell in cells}
    return {who: [IN_WORDS.get(each, each) for each in sequence] for who, sequence in letters.items()}


TABLE = table()


def test_every_row_of_the_monitoring_table_has_a_case() -> None:
    assert set(TABLE) == set(ROWS)


@pytest.mark.parametrize("who", ROWS)
async def test_each_event_in_the_monitoring_table_is_reported_with_its_letters(scene: Scene, who: str) -> None:
    before, then = ROWS[who]
    for act in before:
        act(scene)
        await scene.letter()
    said = []
    for act in then:
        act(scene)
        said.append(await scene.letter())
    # A listing from before an answer reports nothing yet, and a cloud that is back is listed after a while.
    said = [letter for letter, _ in groupby([*said, await scene.letter()])]
    assert said[-len(TABLE[who]) :] == TABLE[who]
    assert set(said) <= {*TABLE[who], "-"}


@pytest.mark.parametrize(("missing_state", "letter"), [("UNKNOWN", "-"), ("POWEROFF", "left out")])
async def test_a_missing_vm_is_reported_by_missing_state_during_and_after_an_outage(
    scene: Scene, missing_state: str, letter: str
) -> None:
    """Two reports that leave it out would power it off, and it could not be recreated."""
    scene.one.set(missing_state=missing_state)
    start(scene)
    await scene.letter()
    scene.state(DEAD)
    await pass_time(10)
    await scene.one.sweeper.sweep()  # for another host
    cut_off(scene)
    assert [await scene.letter(), await scene.letter()] == [letter, letter]
    scene.one.cloud.always.clear()
    await pass_time(60)
    assert await scene.letter() == ("e" if missing_state == "UNKNOWN" else letter)
