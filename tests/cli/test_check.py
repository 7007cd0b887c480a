"""`one-provider check`: ticks and crosses, each cross with a remedy, and the exit code."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import shlex
import socket
import sqlite3
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import one_provider_mad
from one_provider_mad import __version__
from one_provider_mad.cli.check import NOT_WELL
from one_provider_mad.cli.core_user import CoreUser
from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal.records import Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.orphans.reconciler import MACHINE
from tests.cli.running import COMMAND, json_of, lines_on_a_terminal, on_a_terminal, output_of, ran, surroundings
from tests.end_to_end.oned import OWNER, Place, aside
from tests.waiting import HANG
from tests.xmlrpc.partner import Partner

Point = dict[str, Any]

PROGRAMS = ("one_vmm_provider", "one_im_provider")
USER, GROUP = 4711, 4712


def complete(place: Place) -> Place:
    """Make an installation complete but for a running OpenNebula, with programs that start quickly."""
    mads = place.root / "lib" / "mads"
    mads.mkdir(parents=True)
    for program in PROGRAMS:
        (mads / program).write_text(f"#!/bin/sh\necho one-provider-mad {__version__}\n")
        (mads / program).chmod(0o755)
    place.simulate(max_instances=2)
    return place


@pytest.fixture
def ready(place: Place) -> Place:
    """An installation of the user that runs the tests."""
    return complete(place)


@pytest.fixture
def theirs() -> Iterator[Place]:
    """An installation of another user, in a directory that all users may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away, and become another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        place = complete(Place(Path(folder)))
        configuration = place.conf / "simulated.toml"
        for path in (place.var, place.conf, configuration):
            os.chown(path, USER, GROUP)
        yield place


def points(place: Place, *, code: int = 0) -> dict[str, Point]:
    return by_name(json_of(place.root, "check", "simulated", code=code))


def by_name(entries: list[Point]) -> dict[str, Point]:
    return {each.pop("what"): each for each in entries}


def crosses(found: dict[str, Point]) -> set[str]:
    return {what for what, point in found.items() if point["is_well"] is False}


def is_private() -> bool:
    """True if this checkout or its environment is in a directory that other users may not enter."""
    folders = {Path(one_provider_mad.__file__), Path(sysconfig.get_path("purelib"))}
    return not all(each.stat().st_mode & 0o001 for folder in folders for each in folder.parents)


WELL = NOT_WELL if is_private() else 0
"""Exit code of a check that finds nothing wrong with another user's installation."""


def journaled(place: Place, *writings: Callable[[Journal], Awaitable[None]]) -> Path:
    path = place.var / "one_provider_mad_simulated.journal"

    async def write() -> None:
        journal = Journal(path, clock=time.time, on_lost=print)
        await journal.open()
        for writing in writings:
            await writing(journal)
        await journal.close()

    aside(lambda: asyncio.run(write()))
    return path


def test_check_ticks_every_point_of_a_good_installation(ready: Place, tmp_path: Path) -> None:
    login = tmp_path / "one_auth"
    login.write_text("oneadmin:secret\n")
    login.chmod(0o600)
    with Partner() as oned:
        environ = {"ONE_AUTH": str(login), "ONE_XMLRPC": oned.urls[0]}
        code, printed, errors = ran(ready.root, "check", "simulated", **environ)
        assert (code, errors) == (0, "")
        marks = [line[0] for line in printed.splitlines()]
        assert set(marks) == {"✓"}
        found = by_name(json.loads(ran(ready.root, "check", "simulated", "--json", **environ)[1]))
    assert [point["remedy"] for point in found.values() if point["remedy"]] == []
    assert [line[2:].partition(":")[0] for line in printed.splitlines()] == list(found)
    assert list(found) == [
        "configuration", "permissions", "state", "logs", "one_vmm_provider", "one_im_provider", "package",
        "credentials", "listing", "database", "instances", "journal", "OpenNebula", "system datastore",
        "home", "encrypted attributes",
    ]  # fmt: skip
    assert found["credentials"]["found"].startswith("account simulated/embedded, answered in ")
    assert found["listing"]["found"] == "0 instances, 0 of them ours"
    assert found["instances"]["found"] == "2 of 2 left"
    assert (
        found["OpenNebula"]["found"]
        == f"{environ['ONE_XMLRPC']} (ONE_XMLRPC) answers: this front-end leads or is alone"
    )


@pytest.mark.parametrize(
    ("release", "datastores", "found"),
    [
        ("7.4.0", {"system": "local"}, [False]),
        ("7.4.0", {"system": "local", "cloud-system": "dummy"}, [True]),
        ("5.10.5", {"system": "ssh"}, []),
    ],
    ids=["7.4-without-dummy", "7.4-with-dummy", "5.10"],
)
def test_check_fails_on_7_x_without_a_dummy_system_datastore(
    ready: Place, tmp_path: Path, release: Any, datastores: dict[str, str], found: list[bool]
) -> None:
    login = tmp_path / "one_auth"
    login.write_text("oneadmin:secret\n")
    login.chmod(0o600)
    with Partner(release) as oned:
        oned.system_datastores = datastores
        environ = {"ONE_AUTH": str(login), "ONE_XMLRPC": oned.urls[0]}
        points = json_of(ready.root, "check", "simulated", code=NOT_WELL if False in found else 0, **environ)
    assert [each["is_well"] for each in points if each["what"] == "system datastore"] == found


def test_check_warns_of_a_user_for_whom_opennebula_decrypts_nothing(ready: Place, tmp_path: Path) -> None:
    login = tmp_path / "one_auth"
    login.write_text("burst:secret\n")
    login.chmod(0o600)
    with Partner("7.4.0") as oned:
        points = json_of(ready.root, "check", "simulated", ONE_AUTH=str(login), ONE_XMLRPC=oned.urls[0])
    found = by_name(points)["encrypted attributes"]
    assert (found["is_well"], found["remedy"]) == (None, "oneuser addgroup burst oneadmin")
    assert found["found"].startswith("OpenNebula does not decrypt them for burst, the user in ONE_AUTH: a VM with a")


def test_check_names_the_xmlrpc_endpoint_that_does_not_answer(ready: Place, tmp_path: Path) -> None:
    login = tmp_path / "one_auth"
    login.write_text("oneadmin:secret\n")
    login.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    (ready.var / "config").write_text(f"LISTEN_ADDRESS=127.0.0.1\nPORT={port}\n")
    found = by_name(json_of(ready.root, "check", "simulated", ONE_AUTH=str(login)))["OpenNebula"]
    source = f"(PORT and LISTEN_ADDRESS in {ready.var}/config)"
    assert found["found"].endswith(f", asked at http://127.0.0.1:{port}/RPC2 {source}")


def test_check_succeeds_with_warnings_only(ready: Place) -> None:
    (ready.root / "lib" / "mads" / "one_im_provider").unlink()
    printed = output_of(ready.root, "check", "simulated")
    lines = printed.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("! one_im_provider: is not in "))
    assert lines[at + 1] == "    run one-provider install, unless EXECUTABLE names another path"
    assert any(line.startswith("! OpenNebula: ") for line in lines)
    assert "✗" not in printed
    code, coloured = on_a_terminal(ready.root, "check", "simulated")
    assert (code, "\x1b[32m✓" in coloured, "\x1b[33m!" in coloured) == (0, True, True)
    assert "checking simulated" in coloured  # progress is shown on a terminal only
    assert "checking" not in printed


def test_check_says_how_to_run_it_as_opennebulas_user_with_its_variables(ready: Place) -> None:
    ready.var.rename(ready.root / "elsewhere")
    remedy = points(ready, code=NOT_WELL)["user"]["remedy"]
    assert remedy.endswith(": sudo -u oneadmin -E -H one-provider check simulated")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_check_wraps_its_lines_between_words_on_a_terminal(ready: Place, columns: int) -> None:
    whole = [line for line in output_of(ready.root, "check", "simulated").splitlines() if "answered in" not in line]
    lines = [
        re.sub("^(. checking simulated)+", "", line)  # the progress
        for line in lines_on_a_terminal(ready.root, "check", "simulated", columns=columns)
    ]
    assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []
    shown = " ".join(" ".join(lines).split())
    assert [line for line in whole if " ".join(line.split()) not in shown] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('provider = "ec2"\n', "owner is missing"),
        ('provider = "simulated"\nowner = "x"\n[capacity]\ncpus = 1\n', "capacity.cpus is no setting"),
        ('provider = "ec2"\nowner = "x"\n', "ec2.region is missing"),
        ('provider = "unknown"\nowner = "x"\n', "there is no provider 'unknown' here"),
    ],
)
def test_check_of_an_invalid_configuration_reports_the_error_and_checks_nothing_else(
    place: Place, text: str, found: str
) -> None:
    place.configure(text)
    (point,) = points(place, code=NOT_WELL).values()
    assert (point["is_well"], found in point["found"]) == (False, True)
    assert point["remedy"]


def test_check_of_an_unconfigured_name_fails_with_exit_code_not_well(place: Place) -> None:
    code, printed, errors = ran(place.root, "check", "other")
    assert (code, errors) == (NOT_WELL, "")
    assert printed.startswith("✗ configuration: other.toml does not exist: create ")


def test_check_fails_if_others_can_change_or_read_private_files(ready: Place) -> None:
    journal = journaled(ready)
    configuration = ready.conf / "simulated.toml"
    configuration.chmod(0o620)
    journal.chmod(0o644)
    printed = output_of(ready.root, "check", "simulated", code=NOT_WELL)
    assert (
        f"✗ permissions: {configuration} is -rw--w----: others may change it\n    chmod go-w {configuration}\n"
        in printed
    )
    assert f"✗ permissions: {journal} is -rw-r--r--\n    chmod 600 {journal}\n" in printed
    configuration.chmod(0o640)
    journal.chmod(0o600)
    assert points(ready)["permissions"]["is_well"] is True


def test_check_fails_if_opennebulas_user_cannot_use_a_file(theirs: Place) -> None:
    journal = journaled(theirs)
    configuration = theirs.conf / "simulated.toml"
    for path in (configuration, journal):
        os.chown(path, 0, 0)
    printed = output_of(theirs.root, "check", "simulated", code=NOT_WELL)
    for path in (configuration, journal):
        assert (
            f"✗ permissions: {path} is -rw------- and belongs to user 0: OpenNebula's user, 4711, cannot use it\n"
            in printed
        )
        assert f"    chown --reference={theirs.var} {path}\n" in printed
    os.chown(journal, USER, GROUP)
    os.chown(configuration, 0, GROUP)
    configuration.chmod(0o640)
    assert crosses(points(theirs, code=WELL)) <= {"package"}


def test_check_names_the_one_folder_that_is_closed_to_opennebulas_user(theirs: Place) -> None:
    os.chown(theirs.conf, 0, 0)
    theirs.conf.chmod(0o700)
    printed = output_of(theirs.root, "check", "simulated", code=NOT_WELL)
    file = theirs.conf / "simulated.toml"
    assert f"✗ permissions: {theirs.conf} is closed to OpenNebula's user, 4711, and {file} is in it\n" in printed
    assert f"    chgrp 4712 {theirs.conf} && chmod g+x {theirs.conf}\n" in printed
    theirs.conf.chmod(0o755)
    theirs.var.chmod(0o500)
    assert crosses(points(theirs, code=NOT_WELL)) - {"package"} == {"state"}


def test_check_starts_the_drivers_as_opennebulas_user(theirs: Place) -> None:
    program = theirs.root / "lib" / "mads" / "one_im_provider"
    closed = theirs.root / "home"
    closed.mkdir(mode=0o700)
    program.rename(closed / program.name)
    program.symlink_to(closed / program.name)
    assert points(theirs, code=NOT_WELL)["one_im_provider"] == {
        "is_well": False,
        "found": f"{closed} is closed to 4711, and {program} leads there",
        "remedy": "let that user into it, or install one-provider-mad where all users may read, as in /opt",
    }
    closed.chmod(0o711)
    (closed / program.name).write_text("#!/bin/sh\necho 'one_im_provider: a cause: make it' >&2\nexit 1\n")
    found = points(theirs, code=NOT_WELL)["one_im_provider"]
    assert (found["is_well"], found["found"], found["remedy"]) == (False, "a cause", "make it")
    (closed / program.name).write_text("#!/removed/python3.11\n")
    found = points(theirs, code=NOT_WELL)["one_im_provider"]
    assert found["found"] == f"{program} is no program that 4711 can run"
    (closed / program.name).write_text('#!/bin/sh\n[ "$(id -u)-$1" = 4711---version ] && echo one-provider-mad 0.0.9\n')
    found = points(theirs, code=WELL)["one_im_provider"]
    assert (found["is_well"], found["found"]) == (
        None,
        f"{program} is one-provider-mad 0.0.9, and this command is of {__version__}",
    )


def test_check_names_a_link_to_a_deleted_directory(ready: Place) -> None:
    program = ready.root / "lib" / "mads" / "one_im_provider"
    program.unlink()
    program.symlink_to("/opt/removed/bin/one_im_provider")
    assert points(ready, code=NOT_WELL)["one_im_provider"] == {
        "is_well": False,
        "found": f"{program} leads to /opt/removed, which does not exist",
        "remedy": "run one-provider install, which makes the link anew",
    }


def test_check_says_what_it_cannot_see_as_another_user(ready: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where root cannot become another user."""
    monkeypatch.setattr(CoreUser, "can_be_tried", lambda _: False)
    found = points(ready)
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert found["user"] == {
        "is_well": None,
        "found": f"what OpenNebula's user, {name}, may read, write and run was not tested",
        "remedy": f"run this as root, or as that user: sudo -u {name} -E -H one-provider check simulated",
    }
    assert found["one_im_provider"]["found"].endswith("/lib/mads/one_im_provider was not started")


def test_check_warns_of_a_metrics_directory_that_cannot_be_written_or_read(ready: Place) -> None:
    directory = ready.root / "textfiles"
    path = ready.conf / "simulated.toml"
    path.write_text(f'{path.read_text()}[metrics]\ntextfile_directory = "{directory}"\n')
    assert points(ready)["metrics"] == {
        "is_well": None,
        "found": f"{directory} cannot be written: the driver works without metrics",
        "remedy": "create the directory, and let OpenNebula's user write there",
    }
    directory.mkdir(mode=0o755)
    assert points(ready)["metrics"] == {"is_well": True, "found": f"{directory} can be written", "remedy": ""}
    directory.chmod(0o750)
    printed = output_of(ready.root, "check", "simulated")
    assert f"! metrics: {directory} is drwxr-x---: node_exporter can read it only as a member of its group\n" in printed


def test_check_warns_of_a_metrics_directory_that_opennebulas_user_cannot_write(theirs: Place) -> None:
    path, directory = theirs.conf / "simulated.toml", theirs.root / "textfiles"
    path.write_text(f'{path.read_text()}[metrics]\ntextfile_directory = "{directory}"\n')
    directory.mkdir(mode=0o755)
    assert points(theirs, code=WELL)["metrics"]["found"].startswith(f"{directory} cannot be written: ")


def test_check_fails_at_wrong_credentials_an_unanswered_call_and_another_account(ready: Place) -> None:
    ready.simulate(api_key="the right one")
    assert not crosses(points(ready))
    ready.simulate(api_key="hush")
    printed = output_of(ready.root, "check", "simulated", code=NOT_WELL)
    assert "✗ credentials: " in printed
    assert "hush" not in printed
    ready.configure(
        f'provider = "simulated"\nowner = "{OWNER}"\ncall_timeout = 0.5\n[simulated]\napi_key = "the right one"\n'
        "[simulated.faults.hangs]\n"
    )
    point = points(ready, code=NOT_WELL)["endpoint"]
    assert point["found"] == "no answer within 0.5 s"
    ready.simulate(api_key="the right one", region="elsewhere")
    journaled(ready, lambda journal: journal.set_fact("account", "simulated/embedded"))
    point = points(ready, code=NOT_WELL)["account"]
    assert point["found"] == "the credentials belong to simulated/elsewhere, the journal to simulated/embedded"
    assert "one-provider journal accept simulated" in point["remedy"]


def test_check_fails_if_an_instance_type_has_no_capacity_left(ready: Place) -> None:
    ready.configure(
        f'provider = "simulated"\nowner = "{OWNER}"\n[simulated.capacity]\nsmall_256mb = 0\nlarge_4gb = 3\n'
    )
    found = points(ready, code=NOT_WELL)
    assert crosses(found) == {"instances of small_256mb"}
    assert found["instances of small_256mb"]["found"] == "0 of 0 left"
    assert found["instances of large_4gb"]["found"] == "3 of 3 left"


def test_check_warns_that_a_cloud_without_opennebulas_groups_cannot_mirror_them(ready: Place) -> None:
    ready.configure(f'provider = "simulated"\nowner = "{OWNER}"\n[security_groups]\nmirror = true\n')
    found = points(ready)
    assert found["security groups"]["is_well"] is None
    assert found["security groups"]["found"] == (
        "mirror = true has no effect: simulated has no groups of OpenNebula's, rules do not arrive there"
    )


def test_check_fails_if_debts_are_old_or_the_journal_is_unreadable(ready: Place) -> None:
    who = Identity(owner=OWNER, vm_id=VmId(7), stime=1, seq=0, host_id=0)
    journaled(
        ready,
        lambda journal: journal.add_debt(Debt(deploy_id=DeployId("sim-1"), identity=who, reason="x", since=1.0)),
        lambda journal: journal.add_debt(
            Debt(deploy_id=DeployId("sim-2"), identity=who, reason="x", since=time.time())
        ),
        lambda journal: journal.set_fact(MACHINE, "another"),
    )
    found = points(ready, code=NOT_WELL)
    assert crosses(found) == {"debts"}
    assert found["debts"]["found"] == "1 termination pending for over an hour"
    assert found["journal"]["found"].endswith("0 requests open, 2 debts")
    assert found["machine"]["is_well"] is None
    (ready.var / "one_provider_mad_simulated.journal").write_text("no database" * 200)
    assert crosses(points(ready, code=NOT_WELL)) == {"journal"}


def full(place: Place) -> dict[str, Point]:
    """The points of a check that can write to no file, as on a full disk."""
    command = shlex.join([*COMMAND, "check", "simulated", "--json"])
    done = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -f 0; {command}"], env=surroundings(place.root), capture_output=True, timeout=HANG
    )
    assert done.returncode == NOT_WELL, done
    return by_name(json.loads(done.stdout))


def test_check_fails_if_the_journal_cannot_be_written(ready: Place) -> None:
    """Every DEPLOY fails without a writable journal; on a full disk it can still be read."""
    assert points(ready)["journal"]["is_well"] is True, "no journal exists yet, and it can be created"
    assert full(ready)["journal"]["is_well"] is False
    path = journaled(ready)
    assert points(ready)["journal"]["is_well"] is True
    found = full(ready)["journal"]
    assert found["is_well"] is False
    assert found["found"].startswith("the journal cannot be written: ")
    assert found["remedy"].startswith("make room, and let OpenNebula's user write the journal: until then all actions")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("SELECT name FROM facts").fetchall() == []
        db.execute("PRAGMA user_version = 99")
    assert points(ready, code=NOT_WELL)["journal"]["found"].startswith(
        "the journal cannot be written: a later release has upgraded it to version 99, and this release writes "
    )
    assert sorted(each.name for each in ready.var.glob("*tried*")) == []


def test_check_fails_if_the_free_space_is_reserved_for_root(ready: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0))
    found = points(ready, code=NOT_WELL)["journal"]
    assert found["found"].startswith("the journal cannot be written: [Errno 28] the free space is reserved for root")


def test_check_fails_if_the_journal_is_read_only(request: pytest.FixtureRequest) -> None:
    # Root can write to it anyway, so that only a check as OpenNebula's user shows it.
    place = request.getfixturevalue("theirs" if os.geteuid() == 0 else "ready")
    path = journaled(place)
    path.chmod(0o400)
    user = place.var.stat().st_uid
    name = user if os.geteuid() == 0 else pwd.getpwuid(user).pw_name
    printed = output_of(place.root, "check", "simulated", code=NOT_WELL)
    found = f"✗ permissions: {path} is -r--------: OpenNebula's user, {name}, cannot write it\n    chmod 600 {path}\n"
    assert found in printed


def test_check_fails_if_an_earlier_journal_is_missing(ready: Place) -> None:
    (ready.var / "one_provider_mad_simulated.configured").touch()
    found = points(ready, code=NOT_WELL)
    assert crosses(found) == {"journal"}
    path = ready.var / "one_provider_mad_simulated.journal"
    assert found["journal"]["found"] == f"{path} is missing, although simulated had one"


def test_check_of_scripts_warns_if_a_required_script_is_missing(ready: Place) -> None:
    scripts = ready.var / "remotes" / "vmm" / "mine"
    scripts.mkdir(parents=True)
    for name in ("deploy", "shutdown"):
        (scripts / name).write_text("#!/bin/sh\n")
        (scripts / name).chmod(0o755)
    found = {each["what"]: each for each in json.loads(output_of(ready.root, "check", "mine", "--json"))}
    assert (found["scripts"]["is_well"], found["scripts"]["found"]) == (None, f"cancel cannot be run in {scripts}")
    (scripts / "cancel").symlink_to(scripts / "deploy")
    found = {each["what"]: each for each in json.loads(output_of(ready.root, "check", "mine", "--json"))}
    assert (found["scripts"]["is_well"], found["scripts"]["found"]) == (True, f"served from {scripts}")
