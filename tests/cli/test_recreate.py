"""`one-provider recreate`: VMs that a cloud refused or took back, and no others."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.cli import recreate as command
from one_provider_mad.cli import recreation as module
from one_provider_mad.cli.recreate_vm import read_vm
from one_provider_mad.cli.recreation import Outcome, recreate
from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.errors import InstanceNotFound, JournalError, MadError
from one_provider_mad.journal import recreations
from one_provider_mad.journal.recreations import read_recreation
from one_provider_mad.journal.writer import Journal
from one_provider_mad.providers.simulated.cloud import Cloud, Launch
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.cli.hooked_core import BOOT_FAILURE, MONITOR, PERSON, POWEROFF, RUNNING, UNKNOWN, HookedCore
from tests.cli.running import output_of
from tests.waiting import HANG, until
from tests.xmlrpc.local_core import environment, local_core

VM = VmId(7)
REASON = "no room for t3.small in eu-west-1a"
SETTINGS = 'provider = "simulated"\nowner = "harbour"\n[spot]\ninterrupted = "{}"\n'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", (0.0, 0.0, 0.0))


@pytest.fixture
def core() -> Iterator[HookedCore]:
    with local_core(HookedCore()) as served:
        assert isinstance(served, HookedCore)
        yield served


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An OpenNebula with the drivers `cloud` and `other`."""
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    for name in ("cloud", "other"):
        (conf / f"{name}.toml").write_text(SETTINGS.format("report"))
        (conf / f"{name}.toml").chmod(0o600)
    return tmp_path


def journal_of(root: Path, name: str = "cloud") -> Path:
    return root / "var" / f"one_provider_mad_{name}.journal"


def refuse(root: Path, *, seq: int = 0, name: str = "cloud", stime: int = 5, at: float | None = None) -> None:
    """Mark the VM as the action driver does."""

    async def run() -> None:
        journal = Journal(journal_of(root, name), clock=lambda: time.time() if at is None else at, on_lost=pytest.fail)
        await journal.open()
        await journal.note_refused_vm(Identity(owner="harbour", vm_id=VM, stime=stime, seq=seq, host_id=3), REASON)
        await journal.close()

    (root / "var").mkdir(exist_ok=True)
    asyncio.run(run())


def asked(core: HookedCore, root: Path, *, is_dry: bool = False, is_paced: bool = False) -> Outcome:
    return recreate(VM, environment(core, root), is_dry=is_dry, is_paced=is_paced)


def test_a_vm_that_was_refused_is_recreated(core: HookedCore, root: Path) -> None:
    refuse(root)
    assert asked(core, root, is_dry=True).sentence == f"VM 7 would be recreated, for the first time of 3: {REASON}"
    assert core.asked("one.vm.recover") == 0
    assert asked(core, root).sentence == f"VM 7 was recreated, for the first time of 3: {REASON}"
    assert core.asked("one.vm.recover") == 1


@pytest.mark.parametrize(
    ("seq", "stime", "state", "drivers", "raft", "sentence"),
    [
        pytest.param(
            0, 5, RUNNING, ["cloud"], 0, "it is ACTIVE, and its last start has not failed", id="runs-meanwhile"
        ),
        pytest.param(1, 5, BOOT_FAILURE, ["cloud"], 0, "did not refuse it for want of room", id="mark-of-another-seq"),
        pytest.param(0, 4, BOOT_FAILURE, ["cloud"], 0, "did not refuse it for want of room", id="mark-of-another-life"),
        pytest.param(0, 5, BOOT_FAILURE, ["kvm"], 0, "no driver of ours serves its host (VM_MAD: kvm)", id="not-ours"),
        pytest.param(0, 5, BOOT_FAILURE, [], 0, "no driver of ours serves its host (VM_MAD: none)", id="no-host"),
        pytest.param(0, 5, BOOT_FAILURE, ["cloud"], 2, "this front-end does not lead", id="follower"),
    ],
)
def test_other_vms_are_left_alone(
    core: HookedCore,
    root: Path,
    seq: int,
    stime: int,
    state: tuple[int, int],
    drivers: list[str],
    raft: int,
    sentence: str,
) -> None:
    refuse(root, seq=seq, stime=stime)
    core.state, core.drivers, core.raft = state, drivers, raft
    outcome = asked(core, root)
    assert (outcome.is_recreated, sentence in outcome.sentence) == (False, True), outcome.sentence
    assert core.asked("one.vm.recover") == 0


def fail_again(core: HookedCore, root: Path, *, name: str = "cloud") -> None:
    """The scheduler has placed the recreated VM, on a host of this driver, and it was refused again."""
    core.state = BOOT_FAILURE
    core.drivers.append(name)
    refuse(root, seq=len(core.drivers) - 1, name=name)


@pytest.mark.parametrize("names", [("cloud", "cloud", "cloud"), ("other", "cloud", "other")], ids=["one", "two-clouds"])
def test_a_vm_is_recreated_three_times_in_a_row_at_most(core: HookedCore, root: Path, names: tuple[str, ...]) -> None:
    refuse(root)
    for name in names:
        assert asked(core, root).is_recreated
        fail_again(core, root, name=name)
    outcome = asked(core, root)
    assert outcome.sentence == (
        f"VM 7 is left in BOOT_FAILURE: it was recreated 3 times in a row, and found no room: {REASON}"
    )
    assert core.asked("one.vm.recover") == 3


def test_a_vm_that_was_elsewhere_in_between_is_counted_anew(core: HookedCore, root: Path) -> None:
    refuse(root)
    for _ in range(3):
        assert asked(core, root).is_recreated
        fail_again(core, root)
    core.drivers.append("kvm")  # where it ran, until a person recreated it
    fail_again(core, root)
    assert asked(core, root).sentence.startswith("VM 7 was recreated, for the first time of 3")


@pytest.mark.parametrize(("tries", "wait"), [(0, 0.0), (1, 20.0), (2, 60.0)])
def test_a_hook_pauses_before_the_second_and_third_try(core: HookedCore, root: Path, tries: int, wait: float) -> None:
    """The host of a full cloud shows no room with its next report."""
    now = time.time()
    refuse(root, at=now)
    for _ in range(tries):
        assert asked(core, root).is_recreated
        fail_again(core, root)
    outcome = asked(core, root, is_paced=True)
    assert (outcome.is_recreated, wait - 10 < outcome.wait <= wait) == (not wait, bool(wait) or outcome.wait == 0)
    assert core.asked("one.vm.recover") == tries + (not wait)


def test_of_several_hooks_at_once_one_recreates_the_vm(
    core: HookedCore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(root)
    environ, together = environment(core, root), threading.Barrier(4, timeout=HANG)
    original = read_vm
    seen = iter(range(4))  # calls of the first look, which all hooks have before one of them goes on

    def looked(*arguments: Any) -> Any:
        vm = original(*arguments)
        if next(seen, None) is not None:
            together.wait()
        return vm

    monkeypatch.setattr(module, "read_vm", looked)
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: recreate(VM, environ), range(4)))
    assert core.asked("one.vm.recover") == 1
    assert sum(each.is_recreated for each in outcomes) == 1


def test_a_busy_journal_is_waited_for(core: HookedCore, root: Path) -> None:
    refuse(root)
    with closing(sqlite3.connect(journal_of(root), isolation_level=None)) as db, ThreadPoolExecutor(1) as pool:
        db.execute("BEGIN IMMEDIATE")
        outcome = pool.submit(asked, core, root)
        until(lambda: core.asked("one.vm.info") == 1)
        assert (core.asked("one.vm.recover"), outcome.done()) == (0, False)
        db.execute("COMMIT")
        assert outcome.result(HANG).is_recreated


def test_a_journal_that_stays_busy_is_named(core: HookedCore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recreations, "_BUSY_SECONDS", 0.05)
    refuse(root)
    with closing(sqlite3.connect(journal_of(root), isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalError, match=r"the journal cannot be used: database is locked \(.*cloud.journal\)"):
            asked(core, root)
    assert core.asked("one.vm.recover") == 0


def test_a_journal_of_a_driver_that_was_not_started_since_an_upgrade_has_no_marks(core: HookedCore, root: Path) -> None:
    refuse(root)
    with closing(sqlite3.connect(journal_of(root))) as db:
        db.execute("PRAGMA user_version = 10")
    assert "did not refuse it for want of room" in asked(core, root).sentence


def test_a_core_that_does_not_answer_is_asked_again(core: HookedCore, root: Path) -> None:
    refuse(root)

    def fail_after_the_first() -> None:
        core.unanswered = 1 if core.asked("one.vm.info") == 1 else 0

    core.before_info = fail_after_the_first
    assert asked(core, root).is_recreated
    assert core.asked("one.vm.recover") == 1


def test_a_vm_that_could_not_be_recreated_is_given_back(core: HookedCore, root: Path) -> None:
    refuse(root)
    core.before_info = lambda: setattr(core, "unanswered", 9)
    with pytest.raises(MadError, match="answers with HTTP 500"):
        asked(core, root)
    core.before_info, core.unanswered = lambda: None, 0
    assert asked(core, root).sentence.startswith("VM 7 was recreated, for the first time of 3")
    record = read_recreation(journal_of(root), VM)
    assert record is not None
    assert record.tries == 1


def test_a_vm_that_has_moved_on_meanwhile_is_left_alone(core: HookedCore, root: Path) -> None:
    refuse(root)

    def retried_by_a_person() -> None:
        core.state = RUNNING if core.asked("one.vm.info") > 1 else BOOT_FAILURE

    core.before_info = retried_by_a_person
    assert asked(core, root).sentence == "VM 7 is left alone: it has moved on meanwhile, and is ACTIVE"
    assert core.asked("one.vm.recover") == 0


def test_a_vm_that_does_not_exist_is_named(core: HookedCore, root: Path) -> None:
    with pytest.raises(InstanceNotFound, match=r"Error getting virtual machine \[8\]"):
        recreate(VmId(8), environment(core, root))


def test_a_person_gets_the_sentence_and_an_exit_code(core: HookedCore, root: Path) -> None:
    refuse(root)
    core.state = RUNNING
    environ: dict[str, Any] = environment(core, root)
    for words, code in ((("7",), 1), (("7", "--hook"), 0)):
        printed = output_of(root, "recreate", *words, code=code, **environ)
        assert printed == "VM 7 is left alone: it is ACTIVE, and its last start has not failed\n"
    core.state = BOOT_FAILURE
    printed = output_of(root, "recreate", "7", "--json", **environ)
    assert printed == (
        f'{{"vm_id": 7, "is_recreated": true, "sentence": "VM 7 was recreated, for the first time of 3: {REASON}"}}\n'
    )


def test_a_hook_is_called_again_after_its_pause_and_after_an_error(
    core: HookedCore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[int, int, float]] = []
    monkeypatch.setattr(command, "_call_again", lambda vm_id, tries, *, wait: called.append((vm_id, tries, wait)))
    environ: dict[str, Any] = environment(core, root)
    refuse(root)
    assert "VM 7 was recreated" in output_of(root, "recreate", "7", "--hook", **environ)
    fail_again(core, root)
    assert "is recreated in 20 s, for the second time" in output_of(root, "recreate", "7", "--hook", **environ)
    core.unanswered = 1
    printed = output_of(root, "recreate", "7", "--hook", "--tries", "9", **environ)
    assert printed.startswith("VM 7 is looked at again in 30 s: OpenNebula")
    assert called == [(7, 0, pytest.approx(20, abs=10)), (7, 10, 30)]
    core.unanswered = 1
    assert "answers with HTTP 500" in output_of(root, "recreate", "7", "--hook", "--tries", "10", code=1, **environ)


def test_the_next_call_comes_from_a_process_that_outlives_this_one(tmp_path: Path) -> None:
    """The program's path is absolute, since a hook's folder is not the operator's."""
    program = tmp_path / "one-provider"
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/written\nmv {tmp_path}/written {tmp_path}/called\n')
    program.chmod(0o755)
    script = (
        "import sys; from one_provider_mad.cli import recreate as command\n"
        f"sys.argv[0] = {str(program)!r}; command._call_again(7, 2, wait=0.0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG)
    until((tmp_path / "called").exists)
    assert (tmp_path / "called").read_text() == "recreate 7 --hook --tries 2\n"


# Instances that the cloud has taken back


def end_instance(core: HookedCore, root: Path, how: str) -> None:
    """Give the VM an instance in the simulated cloud, which ends so."""

    async def run() -> None:
        cloud = Cloud(root / "var" / "cloud.db", SimulatedSettings(boot_time=0.0, destroy_time=0.0), clock=time.time)
        await cloud.open()
        deploy_id = await cloud.launch(Launch(type="small_256mb", image="x"), tags={})
        if how == "taken back":
            await cloud.interrupt(deploy_id, notice=0.0)
        elif how == "terminated":
            await cloud.terminate(deploy_id)
        core.deploy_id = deploy_id
        await cloud.close()

    environment(core, root)
    asyncio.run(run())


@pytest.mark.parametrize(
    ("setting", "section", "how", "sentence"),
    [
        pytest.param("recreate", "", "taken back", "VM 7 was recreated: taken back by the cloud since 2", id="setting"),
        pytest.param(
            "report", "<INTERRUPTED>recreate</INTERRUPTED>", "taken back", "VM 7 was recreated: taken", id="template"
        ),
        pytest.param(
            "recreate",
            "<TYPE>cloud</TYPE><INTERRUPTED>report</INTERRUPTED>",
            "taken back",
            "neither [spot] interrupted nor INTERRUPTED",
            id="template-against",
        ),
        pytest.param(
            "report",
            "<TYPE>another</TYPE><INTERRUPTED>recreate</INTERRUPTED>",
            "taken back",
            "neither [spot] interrupted nor INTERRUPTED",
            id="of-another-cloud",
        ),
        pytest.param("recreate", "", "terminated", "terminated on request, and not taken back", id="terminated"),
        pytest.param("recreate", "", "", "its instance is not terminated", id="still-there"),
    ],
)
@pytest.mark.parametrize("state", [UNKNOWN, POWEROFF], ids=["UNKNOWN", "POWEROFF"])
def test_a_vm_that_its_cloud_took_back_is_recreated_where_that_is_wanted(
    core: HookedCore, root: Path, setting: str, section: str, how: str, sentence: str, state: tuple[int, int]
) -> None:
    (root / "etc" / "one_provider_mad" / "cloud.toml").write_text(SETTINGS.format(setting))
    refuse(root, stime=4)  # another life's, so that the journal is there
    end_instance(core, root, how)
    core.state, core.action, core.section = state, MONITOR, section
    assert sentence in asked(core, root).sentence
    assert core.asked("one.vm.recover") == sentence.startswith("VM 7 was recreated")
    record = read_recreation(journal_of(root), VM)
    assert record is not None
    assert record.is_interrupted is sentence.startswith("VM 7 was recreated")


def test_without_a_journal_of_this_release_a_vm_that_was_taken_back_waits(core: HookedCore, root: Path) -> None:
    (root / "etc" / "one_provider_mad" / "cloud.toml").write_text(SETTINGS.format("recreate"))
    end_instance(core, root, "taken back")
    core.state = UNKNOWN
    with pytest.raises(JournalError, match=r"the journal is missing, or was not opened since an upgrade"):
        asked(core, root)
    assert core.asked("one.vm.recover") == 0


def test_a_vm_that_a_person_powered_off_is_left_alone(core: HookedCore, root: Path) -> None:
    (root / "etc" / "one_provider_mad" / "cloud.toml").write_text(SETTINGS.format("recreate"))
    end_instance(core, root, "taken back")
    core.state, core.action = POWEROFF, PERSON
    assert asked(core, root).sentence == "VM 7 is left alone: it was powered off on request"


@pytest.mark.parametrize(("release", "undeploys"), [("5.10.5", 1), ("6.8.0", 1), ("6.10.0", 0), ("7.4.0", 0)])
def test_up_to_6_8_a_vm_in_poweroff_is_undeployed_first(
    core: HookedCore, root: Path, release: str, undeploys: int
) -> None:
    (root / "etc" / "one_provider_mad" / "cloud.toml").write_text(SETTINGS.format("recreate"))
    refuse(root, stime=4)
    end_instance(core, root, "taken back")
    core.state, core.action, core.release = POWEROFF, MONITOR, release
    assert asked(core, root).is_recreated
    assert (core.asked("one.vm.action"), core.asked("one.vm.recover")) == (undeploys, 1)


def test_an_instance_is_named_by_its_id_alone(core: HookedCore, root: Path) -> None:
    """One that the cloud has forgotten says nothing."""
    (root / "etc" / "one_provider_mad" / "cloud.toml").write_text(SETTINGS.format("recreate"))
    end_instance(core, root, "taken back")
    core.state, core.deploy_id = UNKNOWN, DeployId("sim-0")
    assert asked(core, root).sentence == "VM 7 is left alone: its cloud does not list its instance any more"
