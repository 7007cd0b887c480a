from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from one_provider_mad.processes import Process
from tests.waiting import until


def test_process_current_equals_process_of_the_own_pid() -> None:
    assert Process.current() == Process.of(os.getpid())
    assert Process.current().pid == os.getpid()
    assert Process.current().is_alive()


def test_process_parent_is_the_process_of_the_parent_pid() -> None:
    assert Process.parent() == Process.of(os.getppid())
    assert Process.parent() != Process.current()


def test_a_killed_process_is_not_alive() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process.of(child.pid)
        assert process is not None
        assert process.is_alive()
        child.kill()
    assert not process.is_alive()
    assert Process.of(child.pid) is None


def test_a_zombie_is_not_alive() -> None:
    """Up to 5.12 oned collects an old driver later, or never (src/mad/Mad.cc)."""
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process.of(child.pid)
        assert process is not None
        child.kill()
        until(lambda: Process.of(child.pid) is None)
        assert not process.is_alive()
        assert child.returncode is None, "its parent has not waited for it yet"


def test_a_process_with_the_same_pid_and_another_start_is_not_alive() -> None:
    before = Process(pid=os.getpid(), start="some earlier time")
    assert not before.is_alive()


@pytest.mark.parametrize("name", ["a b", "x) S 1 (y", ")", "((", "a\nb"], ids=ascii)
def test_a_program_name_with_blanks_and_parentheses_is_parsed(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child, subprocess.Popen(["sleep", "60"]) as plain:
        process, other = Process.of(child.pid), Process.of(plain.pid)
        child.kill()
        plain.kill()
    assert process is not None
    assert other is not None
    boot, _, start = process.start.partition("/")
    assert (boot, len(boot)) == (other.start.partition("/")[0], 36)
    assert abs(int(start) - int(other.start.partition("/")[2])) < 1000, "clock ticks, a moment apart"


def test_another_process_reads_the_same_start_time_of_a_process() -> None:
    code = f"from one_provider_mad.processes import Process; print(Process.of({os.getpid()}).start)"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == Process.current().start


def test_a_process_without_proc_entry_has_its_pid_and_an_empty_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "of", lambda _pid: None)
    assert Process.current() == Process(pid=os.getpid(), start="")
    assert Process.parent() == Process(pid=os.getppid(), start="")
