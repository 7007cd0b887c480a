"""The state file, by which a new process continues the monitoring of a dead one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.monitor.attribution import KnownInstance
from one_provider_mad.monitor.inference import Memory
from one_provider_mad.monitor.state import VERSION, State, StateFile
from one_provider_mad.processes import Process
from one_provider_mad.protocol.im import parse_line
from one_provider_mad.protocol.im_messages import StartMonitor
from tests.monitor.decoder import start_monitor

PARENT = Process(pid=7, start="boot/99")


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state")


def state_of(**fields: object) -> State:
    known = KnownInstance(vm_id=VmId(7), host_id=3, deploy_id=DeployId("i-7"), misses=2, missing_since=5.0)
    request = parse_line(start_monitor(3, "cloud-3", interval=60).rstrip())
    assert isinstance(request, StartMonitor)
    memory = Memory(vms={VmId(7): known}, listed_at=6.0, held_since=4.0)
    return State(**{"parent": PARENT, "hosts": (request,), "memory": memory, "timestamp": 9, **fields})  # type: ignore[arg-type]


def test_a_saved_state_is_loaded_unchanged(file: StateFile) -> None:
    assert file.save(state_of()) == ""
    assert file.load() == (state_of(), "")


def test_only_the_owner_can_read_the_state_file(file: StateFile) -> None:
    file.save(state_of())
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_without_a_state_file_no_state_and_no_problem_is_returned(file: StateFile) -> None:
    assert file.load() == (None, "")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b'{"version":1,', "cannot be read", id="cut"),
        pytest.param(b'{"version":1}', "cannot be read", id="something-missing"),
        pytest.param(b"\xff\xfe", "cannot be read", id="no-text"),
        pytest.param(b'{"version":2,"writer":{"pid":1,"start":""}}', "cannot be read", id="unreadable-later-version"),
    ],
)
def test_an_unusable_state_file_is_reported_and_not_loaded(file: StateFile, content: bytes, sentence: str) -> None:
    file.path.write_bytes(content)
    state, problem = file.load()
    assert state is None
    assert sentence in problem


def test_a_state_file_of_a_later_release_is_loaded_without_what_that_added(file: StateFile) -> None:
    file.save(state_of())
    content = file.path.read_bytes()
    file.path.write_bytes(content.replace(b'"version":1,', b'"version":2,"added":[1],'))
    assert file.path.read_bytes() != content
    assert file.load() == (state_of(), "")


def test_a_state_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    problem = StateFile(tmp_path / "missing" / "state").save(state_of())
    assert problem.startswith("the monitoring state cannot be written: No such file or directory")


def test_a_failed_save_leaves_the_previous_state_file(file: StateFile) -> None:
    file.save(state_of())
    (file.path.parent / "state.new").mkdir()
    assert "cannot be written: " in file.save(state_of(timestamp=10))
    assert file.load() == (state_of(), "")
    assert VERSION == 1
