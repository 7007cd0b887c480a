from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from one_provider_mad import logs
from one_provider_mad.logs import LogFile, configure
from one_provider_mad.settings import Places
from tests.waiting import until

ROOT = Path(__file__).parent.parent


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    yield Places(conf=tmp_path / "conf", var=tmp_path / "var", log=tmp_path)
    file = structlog.get_config()["logger_factory"]._file
    structlog.reset_defaults()
    if isinstance(file, LogFile):
        os.close(file._descriptor)
    elif file is not sys.stderr:
        file.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check at every line whether the file was moved away."""
    monkeypatch.setattr(logs, "_CHECK_SECONDS", 0.0)


def begin(places: Places, name: str = "x", *, has_stderr: bool = True, is_verbose: bool = False) -> str | None:
    return configure("one_vmm_provider", name, places, has_stderr=has_stderr, is_verbose=is_verbose)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Content and place of the log


def test_a_log_value_of_ten_thousand_characters_is_kept_and_one_of_a_million_is_cut(places: Places) -> None:
    """EC2's encoded authorization messages have up to 10,240, and are of no use in part."""
    begin(places)
    for length in (10_240, 1_000_000):
        structlog.get_logger().info("output", text="x" * length)
    whole, cut = entries(places.log / "one_vmm_provider_x.log")
    assert whole["text"] == "x" * 10_240
    assert cut["text"].endswith("… (1000000 characters)")
    assert len(cut["text"]) < 20_000


def test_every_log_line_is_one_json_object_with_timestamp_and_level(places: Places) -> None:
    assert begin(places) is None
    structlog.get_logger().info("action answered", vm=7, info="grüße\nof\ttwo lines")
    [entry] = entries(places.log / "one_vmm_provider_x.log")
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"event": "action answered", "level": "info", "vm": 7, "info": "grüße\nof\ttwo lines"}


def test_the_log_file_has_mode_640(places: Places) -> None:
    before = os.umask(0)
    try:
        begin(places)
    finally:
        os.umask(before)
    assert stat.S_IMODE((places.log / "one_vmm_provider_x.log").stat().st_mode) == 0o640


def test_an_exceptions_traceback_is_in_the_same_line(places: Places) -> None:
    begin(places)
    try:
        raise KeyError("reservations")
    except KeyError:
        structlog.get_logger().exception("action failed unexpectedly", vm=7)
    [entry] = entries(places.log / "one_vmm_provider_x.log")
    assert (entry["level"], entry["vm"]) == ("error", 7)
    assert entry["exception"].startswith("Traceback (most recent call last)")
    assert entry["exception"].endswith("KeyError: 'reservations'")


@pytest.mark.parametrize("is_verbose", [True, False], ids=["verbose", "usual"])
def test_debug_lines_are_written_only_if_verbose(places: Places, *, is_verbose: bool) -> None:
    begin(places, is_verbose=is_verbose)
    structlog.get_logger().debug("detail")
    assert bool(entries(places.log / "one_vmm_provider_x.log")) is is_verbose


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param("provider_name", "one_vmm_provider_provider_name.log", id="a-name"),
        pytest.param("../../etc/passwd", "one_vmm_provider_.._.._etc_passwd.log", id="a-path"),
        pytest.param("a b\0", "one_vmm_provider_a_b_.log", id="blanks"),
        pytest.param("", "one_vmm_provider_unnamed.log", id="none"),
    ],
)
def test_an_invalid_name_cannot_move_the_log_file_elsewhere(places: Places, name: str, file: str) -> None:
    assert begin(places, name) is None
    assert [path.name for path in places.log.iterdir()] == [file]


def test_an_event_with_a_surrogate_character_is_logged(places: Places) -> None:
    begin(places)
    structlog.get_logger().info("odd", text="\udcff")
    assert entries(places.log / "one_vmm_provider_x.log")[0]["event"] == "odd"


# Where there is no log directory


def test_bidirectional_and_control_characters_are_escaped_in_the_log(places: Places) -> None:
    begin(places)
    structlog.get_logger().warning("refused", reason="i-\u202egpj.exe \x9b31m\x7f na\xefve")
    raw = (places.log / "one_vmm_provider_x.log").read_bytes()
    assert raw.isascii() or b"na\xc3\xafve" in raw
    assert not re.search("[\u202e\x7f-\x9f]", raw.decode())
    assert entries(places.log / "one_vmm_provider_x.log")[-1]["reason"] == "i-\u202egpj.exe \x9b31m\x7f na\xefve"


def without_directory(places: Places) -> Places:
    return Places(conf=places.conf, var=places.var, log=places.log / "missing")


def test_configure_returns_a_sentence_if_the_log_file_cannot_be_created(places: Places) -> None:
    lost = without_directory(places)
    path = lost.log / "one_vmm_provider_x.log"
    assert begin(lost) == f"there is no driver log: No such file or directory ({path})"


def test_without_a_file_a_verbose_driver_with_stderr_logs_to_stderr(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(without_directory(places), has_stderr=True, is_verbose=True)
    structlog.get_logger().info("started")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "started"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("has_stderr", "is_verbose"),
    [(False, True), (True, False), (False, False)],
    ids=["no-stderr", "not-verbose", "neither"],
)
def test_without_a_file_other_drivers_log_nowhere(
    places: Places, capsys: pytest.CaptureFixture[str], *, has_stderr: bool, is_verbose: bool
) -> None:
    begin(without_directory(places), has_stderr=has_stderr, is_verbose=is_verbose)
    structlog.get_logger().info("started")
    assert capsys.readouterr() == ("", "")


# The file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.log"


@pytest.fixture
def file(path: Path) -> Iterator[LogFile]:
    file = LogFile(path)
    file.reopen()
    yield file
    os.close(file._descriptor)


def test_log_lines_are_appended_without_buffering(file: LogFile, path: Path) -> None:
    path.write_text("before\n")
    assert file.write("one\n") == 4
    file.flush()
    assert path.read_text() == "before\none\n"


def move_away(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def move_away_and_make_anew(path: Path) -> None:
    move_away(path)
    path.touch()


@pytest.mark.parametrize("rotate", [move_away, move_away_and_make_anew, Path.unlink])
@pytest.mark.usefixtures("eager")
def test_a_new_log_file_is_created_after_the_old_one_was_moved_or_removed(
    file: LogFile, path: Path, rotate: Callable[[Path], None]
) -> None:
    file.write("old\n")
    rotate(path)
    file.write("new\n")
    assert path.read_text() == "new\n"


@pytest.mark.usefixtures("eager")
def test_reopening_the_log_file_leaks_no_descriptors(file: LogFile, path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(20):
        path.unlink()
        file.write("line\n")
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before)


def test_a_moved_log_file_is_noticed_within_seconds(file: LogFile, path: Path) -> None:
    file.write("old\n")
    move_away(path)
    until(lambda: file.write("new\n") and path.exists())


@pytest.mark.usefixtures("eager")
def test_a_log_line_that_cannot_be_written_is_dropped_without_error(file: LogFile, path: Path) -> None:
    path.unlink()
    path.mkdir()
    assert file.write("lost\n") == 0
    path.rmdir()
    file.write("found\n")
    assert path.read_text() == "found\n"


@pytest.mark.usefixtures("eager")
def test_a_log_line_is_dropped_without_error_if_the_disk_is_full() -> None:
    file = LogFile(Path("/dev/full"))
    file.reopen()
    assert file.write("lost\n") == 0
    os.close(file._descriptor)


# Imports


def test_structlog_is_imported_without_rich() -> None:
    code = (
        "import sys; from one_provider_mad.logs import import_structlog; import_structlog();"
        "print([name for name in sys.modules if name.startswith('rich')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_importing_structlog_keeps_a_rich_that_was_imported_before() -> None:
    code = (
        "import sys; sys.modules['rich'] = sys; from one_provider_mad.logs import import_structlog;"
        "import_structlog(); print(sys.modules['rich'] is sys)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("True", "")
