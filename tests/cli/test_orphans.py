"""`one-provider orphans`, and machines in `one-provider journal accept`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from one_provider_mad.cli import main as program
from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal.records import Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.orphans.reconciler import MACHINE, ORPHANS
from one_provider_mad.orphans.timetable import TROUBLE
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import COVERAGE, Driver, Place, aside
from tests.orphans.local_oned import LocalOned
from tests.waiting import HANG, until

NAME = "simulated"


def orphans(place: Place, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command as a process of its own."""
    environ = {key: value for key, value in os.environ.items() if key not in {"ONE_PROVIDER_MAD_CONF", *COVERAGE}}
    done = subprocess.run(
        [sys.executable, "-m", "one_provider_mad.cli.main", "orphans", *arguments],
        env={**environ, "ONE_LOCATION": str(place.root)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    return done.returncode, done.stdout, done.stderr


def output_lines(place: Place, *arguments: str) -> list[str]:
    """The output lines of a run in this process."""
    result = CliRunner().invoke(program.main, arguments, env={"ONE_LOCATION": str(place.root)})
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def json_lines(place: Place) -> Any:
    """The parsed output of a run with --json in this process."""
    return json.loads("\n".join(output_lines(place, "orphans", NAME, "--json")))


def journaled(place: Place, *writings: Callable[[Journal], Awaitable[None]]) -> None:
    """Write to the journal, as the driver does."""

    async def write() -> None:
        journal = Journal(place.var / f"one_provider_mad_{NAME}.journal", clock=time.time, on_lost=print)
        await journal.open()
        for writing in writings:
            await writing(journal)
        await journal.close()

    aside(lambda: asyncio.run(write()))


def fact(name: str, value: str) -> Callable[[Journal], Awaitable[None]]:
    return lambda journal: journal.set_fact(name, value)


def found(*entries: dict[str, Any], parts: tuple[dict[str, Any], ...] = ()) -> Callable[[Journal], Awaitable[None]]:
    return fact(ORPHANS, json.dumps({"at": time.time() - 90, "orphans": entries, "parts": parts}))


def entry(vm_id: int, deploy_id: str, verdict: str = "done") -> dict[str, Any]:
    return {"deploy_id": deploy_id, "vm_id": vm_id, "verdict": verdict, "evidence": "because", "looks": 2}


def test_orphans_prints_the_orphans_that_the_driver_found_and_changes_nothing(place: Place) -> None:
    place.configure(
        'provider = "simulated"\nowner = "mine"\n[simulated]\nboot_time = 0\nstop_time = 0\n[orphans]\ninterval = 1\n'
    )
    assert orphans(place, NAME) == (
        0,
        "The driver has not searched yet. Next search: when OpenNebula starts the driver, which is not running.\n",
        "",
    )
    begun = time.time()
    with LocalOned() as oned, Driver(place, environ=oned.environ(place.root)) as driver:
        deploy_id = driver.created(oned_requests.deploy(7))
        driver.ask(oned_requests.power_off(7, deploy_id))
        oned.know(place.instances()[0]).end(int(time.time()) - 5)
        until(lambda: '"event":"orphan"' in place.log())
    code, table, errors = orphans(place, NAME)
    assert (code, errors) == (0, "")
    head, row, count, costs, outlook = table.splitlines()
    assert head.split() == ["VM", "DEPLOY", "ID", "VERDICT", "PRICE/H", "SEARCHES", "EVIDENCE"]
    assert re.fullmatch(
        rf"7 +{deploy_id} +done +\d+\.\d+ +\d+ +VM 7 \(STIME 1760000000\) is DONE since [-0-9]+ [:0-9]+ UTC", row
    )
    assert re.fullmatch(r"1 possible orphan, as of \d+ s ago; policy: report\.", count)
    assert re.fullmatch(r"They cost \d+\.\d+ USD an hour, \d+\.\d\d USD in a month of 730 hours\.", costs)
    assert outlook == "Next search: when OpenNebula starts the driver, which is not running."
    code, text, errors = orphans(place, NAME, "--json")
    printed = json.loads(text)
    assert (code, errors, printed["policy"], printed["parts"]) == (0, "", "report", [])
    assert begun <= printed["looked_at"] <= time.time()
    (shown,) = printed["orphans"]
    assert shown.pop("looks") >= 2
    assert shown.pop("price")["amount"] > 0
    assert printed["parked"] == []
    assert shown.pop("since") <= printed["looked_at"]
    assert shown.pop("created_at") <= printed["looked_at"]
    assert shown.pop("evidence").startswith("VM 7 (STIME 1760000000) is DONE since ")
    expected = {"deploy_id": deploy_id, "vm_id": 7, "stime": 1_760_000_000, "seq": 0, "host_id": 0, "verdict": "done"}
    assert shown == {**expected, "is_owed": False, "is_busy": False}
    assert [each["deploy_id"] for each in place.instances()] == [deploy_id]


def test_orphans_prints_pending_terminations_and_unused_volumes_and_addresses(place: Place) -> None:
    identity = Identity(owner="simulated", vm_id=VmId(9), stime=1, seq=0, host_id=3)
    debt = Debt(deploy_id=DeployId("i-9"), identity=identity, reason="orphan (done): because", since=0.0)
    volume = {"id": "vol-1", "kind": "volume", "vm_id": 9, "detail": "8 GiB\x1b[2J"}
    address = {"id": "eip-1", "kind": "address", "vm_id": None, "detail": "198.18.0.1"}
    journaled(
        place,
        found(entry(12, "i-12", "unknown"), entry(9, "i-9"), parts=(volume, address)),
        lambda journal: journal.add_debt(debt),
    )
    _, nine, twelve, *parts, count, _ = output_lines(place, "orphans", NAME)
    assert nine.split(maxsplit=2) == ["9", "i-9", "done, being terminated  ?        2         because"]
    assert twelve.split() == ["12", "i-12", "unknown", "?", "2", "because"]
    assert parts[0].startswith("volume vol-1 of VM 9 is not in use: 8 GiB")
    assert "\x1b" not in parts[0]
    assert parts[1] == "address eip-1 is not in use: 198.18.0.1"
    assert count.startswith("2 possible orphans, as of 9")


def test_an_instance_whose_vm_has_an_action_under_way_is_not_counted_as_an_orphan(place: Place) -> None:
    place.configure('provider = "simulated"\nowner = "mine"\n[simulated]\nboot_time = 3600\n[orphans]\ninterval = 1\n')
    with LocalOned() as oned, Driver(place, environ=oned.environ(place.root)) as driver:
        driver.send(oned_requests.deploy(7))
        until(lambda: place.instances() != [])
        oned.know(place.instances()[0], deploy_id="")
        until(lambda: json_lines(place)["orphans"] != [])
        (shown,) = json_lines(place)["orphans"]
        assert (shown["verdict"], shown["is_busy"]) == ("unknown", True)
        assert shown["evidence"] == "an action of VM 7 is under way"
        count, busy, _ = output_lines(place, "orphans", NAME)
        assert re.fullmatch(r"Every instance belongs to a VM, as of \d+ s ago; policy: report\.", count)
        assert busy == "Not judged, since an action is under way: VM 7."
        until(lambda: json_lines(place)["orphans"][0]["looks"] > 3)
    assert "instance anomaly" not in place.log()


def test_orphans_reports_that_every_instance_belongs_to_a_vm(place: Place) -> None:
    journaled(place, found())
    line, _ = output_lines(place, "orphans", NAME)
    assert line.startswith("Every instance belongs to a VM, as of 9")


def test_orphans_reports_which_volumes_or_addresses_could_not_be_listed(place: Place) -> None:
    last = {"at": time.time() - 3000, "orphans": [], "parts": [], "parts_problem": "no permission"}
    journaled(place, fact(ORPHANS, json.dumps(last)))
    assert (
        output_lines(place, "orphans", NAME)[0] == "Volumes, snapshots and addresses could not be listed: no permission"
    )


UNREACHABLE = "OpenNebula at localhost:2633 cannot be asked: Connection refused"


@pytest.mark.parametrize(
    ("searched", "failed", "retry", "line"),
    [
        pytest.param(
            None,
            None,
            None,
            "The driver has not searched yet. Next search: when OpenNebula has started and answers.",
            id="new",
        ),
        pytest.param(100, None, None, r"Next search: in (1\d\d|200) s\.", id="at-the-interval"),
        pytest.param(400, None, None, r"Next search: overdue by 1\d\d s: ", id="overdue"),
        pytest.param(
            900,
            10,
            240,
            rf"Next search: in [12]\d\d s; the last one, \d+ s ago, failed: {UNREACHABLE}",
            id="one-failed",
        ),
        pytest.param(900, 950, 240, r"Next search: overdue by 6\d\d s: ", id="one-failed-before"),
        pytest.param(
            None,
            10,
            None,
            f"The driver has not searched yet. Next search: none until the driver .*: {UNREACHABLE}",
            id="none",
        ),
    ],
)
def test_orphans_shows_the_time_of_the_next_search_and_the_last_failure(
    place: Place, searched: int | None, failed: int | None, retry: int | None, line: str
) -> None:
    async def run() -> list[str]:
        journal = Journal(place.var / f"one_provider_mad_{NAME}.journal", clock=time.time, on_lost=print)
        await journal.open()  # so that the writer of the journal is a running process
        if searched is not None:
            await fact(ORPHANS, json.dumps({"at": time.time() - searched, "orphans": [], "parts": []}))(journal)
        if failed is not None:
            trouble = {"at": time.time() - failed, "reason": UNREACHABLE, "retry": retry}
            await fact(TROUBLE, json.dumps(trouble))(journal)
        lines = await asyncio.to_thread(output_lines, place, "orphans", NAME)
        await journal.close()
        return lines

    *_, last = aside(lambda: asyncio.run(run()))
    assert re.match(line, last), last


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("unknown", "unknown.toml does not exist: "),
        ("kvm", "kvm is served by scripts, which cannot list the cloud's instances\n"),
    ],
)
def test_orphans_of_scripts_or_an_unconfigured_name_fails_with_one_sentence(
    place: Place, name: str, sentence: str
) -> None:
    (place.var / "remotes" / "vmm" / "kvm").mkdir(parents=True)
    code, printed, complaint = orphans(place, name)
    assert (code, printed) == (1, "")
    assert complaint.startswith(f"one-provider orphans: {sentence}")


def test_journal_accept_names_the_consequence_of_accepting_a_machine(place: Place) -> None:
    path: Path = place.var / f"one_provider_mad_{NAME}.journal"
    journaled(place, fact(MACHINE, "the original"), fact("account", "account-1/north"))
    account, machine = output_lines(place, "journal", "accept", NAME)
    assert account == f"{path} no longer insists on account-1/north: the next action records the credentials' account"
    assert machine.startswith(f"{path} no longer insists on the machine that wrote it: from now on the OpenNebula on ")
    assert machine.endswith(" so make sure that the other one is off")
    assert output_lines(place, "journal", "accept", NAME) == [
        f"{path} has no account recorded: the next action records the credentials' account"
    ]
