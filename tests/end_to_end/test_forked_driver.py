"""A forked driver sees the same signals, parent, directory and descriptors as one that was started."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.forked_driver import ForkedDriver
from tests.end_to_end.oned import Driver

SAME = re.compile(r"^(?:PPid|NSpgid|NSsid|Uid|Groups|Umask|SigBlk|SigIgn|SigCgt|NoNewPrivs):.*", re.MULTILINE)
"""Lines of /proc/PID/status that do not depend on the time or on the process (proc(5))."""


def process(driver: Driver) -> tuple[list[str], Path, list[str], int]:
    """Its signals, parent and group; its working directory; its descriptors 0 to 2; how often /dev/null is open."""
    proc = Path(f"/proc/{driver.process.pid}")
    targets = {}
    for entry in (proc / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            targets[entry.name] = str(entry.readlink())
    standard = [targets[name].partition(":")[0] for name in "012"]
    status = SAME.findall((proc / "status").read_text())
    return status, (proc / "cwd").readlink(), standard, list(targets.values()).count("/dev/null")


def test_forked_driver_has_the_signals_descriptors_and_parent_of_a_started_one(
    monkeypatch: pytest.MonkeyPatch, driver: StartDriver
) -> None:
    found = []
    for is_forked in (False, True):
        monkeypatch.setattr(Driver, "is_forked", is_forked)
        one = driver()
        assert isinstance(one.process, ForkedDriver) is is_forked
        one.created(oned_requests.deploy(7 + is_forked))
        found.append(process(one))
        assert one.drop() == 0
    assert len(found[0][0]) >= 8, "most of the lines are there"
    assert found[0] == found[1]


def test_exit_of_a_forked_driver_by_a_signal_is_seen(monkeypatch: pytest.MonkeyPatch, driver: StartDriver) -> None:
    monkeypatch.setattr(Driver, "is_forked", True)
    one = driver()
    assert one.process.poll() is None
    one.kill()
    assert one.process.returncode == -signal.SIGKILL
