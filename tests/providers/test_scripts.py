"""Parts of the script driver; tests/end_to_end/test_scripts*.py test the whole."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.processes import Process
from one_provider_mad.scripting import outcome
from one_provider_mad.scripting.environment import script_environment
from one_provider_mad.scripting.runner import MAX_OUTPUT, CannotRun, Finished, Runner
from tests.waiting import until

Script = Callable[[str], Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(text: str) -> Path:
        path = tmp_path / "script"
        path.write_text(text)
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, {"PATH": os.environ["PATH"], "COLOUR": "blue"})


# Running


async def test_a_script_gets_its_arguments_input_directory_and_environment(runner: Runner, script: Script) -> None:
    path = script('#!/bin/sh\nprintf "%s|" "$@"; cat; pwd; echo $COLOUR; echo aside >&2; exit 3\n')
    finished = await runner.run(path, ["a b", "", "$HOME", "'"], stdin=b"in\n")
    assert finished == Finished(code=3, stdout=f"a b||$HOME|'|in\n{path.parent}\nblue\n", stderr="aside\n")


async def test_a_script_without_input_reads_an_empty_stdin(runner: Runner, script: Script) -> None:
    assert await runner.run(script("#!/bin/sh\ncat; echo done\n"), []) == Finished(code=0, stdout="done\n")


async def test_a_script_may_leave_megabytes_of_its_input_unread(runner: Runner, script: Script) -> None:
    assert (await runner.run(script("#!/bin/sh\nexit 0\n"), [], stdin=b"x" * 4_000_000)).code == 0


async def test_a_script_without_a_shebang_line_is_run_by_a_shell(runner: Runner, script: Script) -> None:
    assert await runner.run(script("echo $1\n"), ["one"]) == Finished(code=0, stdout="one\n")


async def test_of_megabytes_of_output_the_beginning_of_stdout_and_the_end_of_stderr_are_kept(
    runner: Runner, script: Script
) -> None:
    much = "head -c 3000000 /dev/zero | tr '\\0' x | tee /dev/stderr"
    text = f"#!/bin/sh\necho first; echo first >&2; {much}\necho last; echo last >&2\n"
    finished = await runner.run(script(text), [])
    assert len(finished.stdout) == len(finished.stderr) == MAX_OUTPUT
    assert finished.stdout.startswith("first\nx")
    assert finished.stderr.endswith("xlast\n")


async def test_a_script_has_finished_even_if_a_child_still_holds_its_output_open(
    runner: Runner, script: Script
) -> None:
    finished = await runner.run(script("#!/bin/sh\nsleep 3600 &\necho $!\n"), [])
    os.kill(int(finished.stdout), signal.SIGKILL)


def have_ended(pids: str) -> bool:
    return not any(Process.of(int(pid)) for pid in pids.split())


async def test_a_script_that_runs_out_of_time_is_killed_with_its_children(runner: Runner, script: Script) -> None:
    path = script("#!/bin/sh\ntrap '' TERM\nsh -c 'sleep 60' &\necho $$ $!\nwait\nsleep 60\n")
    finished = await runner.run(path, [], seconds=0.2)
    assert finished.is_timeout
    until(lambda: have_ended(finished.stdout))


async def test_a_cancelled_script_is_killed_with_its_children(runner: Runner, script: Script, tmp_path: Path) -> None:
    running = asyncio.create_task(runner.run(script("#!/bin/sh\nsleep 60 &\necho $$ $! > pids\nwait\n"), []))
    pids = tmp_path / "pids"
    await asyncio.to_thread(until, lambda: pids.exists() and pids.read_text())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    until(lambda: have_ended(pids.read_text()))


async def test_a_script_killed_by_signal_9_has_exit_code_137(runner: Runner, script: Script) -> None:
    assert (await runner.run(script("#!/bin/sh\nkill -9 $$\n"), [])).code == 137


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(Path.unlink, "/script does not exist", id="missing"),
        pytest.param(
            lambda path: path.chmod(stat.S_IRUSR), "/script is not executable: run chmod +x ", id="no-permission"
        ),
        pytest.param(
            lambda path: path.write_text("#!/no/such/interpreter\n"),
            "/script cannot be run: the interpreter in its first line does not exist",
            id="no-interpreter",
        ),
        pytest.param(lambda path: path.parent.rename(path.parent.with_name("elsewhere")), "does not exist", id="moved"),
    ],
)
async def test_the_error_about_a_script_that_cannot_be_run_names_it_and_the_reason(
    runner: Runner, script: Script, spoil: Callable[[Path], object], sentence: str
) -> None:
    path = script("#!/bin/sh\n")
    spoil(path)
    with pytest.raises(CannotRun) as raised:
        await runner.run(path, [])
    assert str(raised.value).startswith(str(path))
    assert sentence in str(raised.value)


async def test_an_argument_with_a_nul_byte_is_refused(runner: Runner, script: Script) -> None:
    with pytest.raises(CannotRun, match="cannot be run: embedded null byte"):
        await runner.run(script("#!/bin/sh\n"), ["\0"])


# Results

COMMAND = ["/remotes/vmm/x/deploy", "a b"]


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        pytest.param("no room\n", "no room", id="one-line"),
        pytest.param("no room\n\n  at all \n", "no room at all", id="several-lines"),
        pytest.param("INFO: asking\nno room\nERROR: 17\n", "no room", id="prefixes-are-for-the-log"),
        pytest.param("ERROR: no room\n", "ERROR: no room", id="nothing-but-prefixes"),
        pytest.param(
            "noise\nERROR MESSAGE --8<------\nno room\nat all\nERROR MESSAGE ------>8--\nExitCode: 1\n",
            "no room at all",
            id="markers",
        ),
        pytest.param("ERROR MESSAGE --8<------\nno room\n", "no room", id="marker-without-end"),
        pytest.param(
            "ERROR MESSAGE --8<------\nERROR MESSAGE ------>8--\nnoise\n", "ERROR MESSAGE", id="empty-markers"
        ),
        pytest.param(
            "ExitCode: 1\n",
            "/remotes/vmm/x/deploy ended with exit code 4 and without an error message",
            id="wrapper-only",
        ),
        pytest.param("", "/remotes/vmm/x/deploy ended with exit code 4 and without an error message", id="nothing"),
    ],
)
def test_the_reason_of_a_failure_is_taken_from_the_scripts_error_output(stderr: str, sentence: str) -> None:
    assert outcome.reason(Finished(code=4, stderr=stderr), COMMAND).startswith(sentence)


@given(st.text(), st.text(), st.integers(0, 255))
def test_any_output_of_a_script_gives_a_reply_and_valid_log_lines(stdout: str, stderr: str, code: int) -> None:
    finished = Finished(code=code, stdout=stdout, stderr=stderr)
    assert outcome.payload(finished)
    assert outcome.reason(finished, COMMAND)
    for letter, text in outcome.log_lines(finished):
        assert letter in "EWID"
        assert isinstance(text, str)


def test_lines_with_a_level_prefix_are_logged_at_that_level_after_a_success_too() -> None:
    stderr = "INFO: one\nWARN: two\nDEBUG: three\nERROR: four\nfive\n"
    prefixed = [("I", "one"), ("W", "two"), ("D", "three"), ("E", "four")]
    assert list(outcome.log_lines(Finished(code=0, stderr=stderr))) == prefixed
    assert list(outcome.log_lines(Finished(code=1, stderr=stderr))) == [*prefixed, ("E", "five")]


def test_of_a_thousand_error_lines_the_last_two_hundred_are_logged() -> None:
    stderr = "".join(f"line {number}\n" for number in range(1000))
    first, *others = outcome.log_lines(Finished(code=1, stderr=stderr))
    assert first == ("W", "800 lines of its error output are left out")
    assert others == [("E", f"line {number}") for number in range(800, 1000)]


# Environment

FILES = ("defaultrc", "vmm_exec/vmm_execrc")


def test_a_script_gets_the_environment_that_upstreams_driver_sets(tmp_path: Path) -> None:
    (tmp_path / "vmm_exec").mkdir()
    (tmp_path / "defaultrc").write_text(
        "# comment\nONE_MAD_DEBUG=\nPRIORITY=19 # nice\nexport NAME='two words'\nnot an assignment\n1=2\n"
    )
    (tmp_path / "vmm_exec" / "vmm_execrc").write_text(
        'LIVE_DISK_SNAPSHOTS="kvm-qcow2 kvm-ssh"\nPATH=/opt/$PRIORITY:$PATH\n'
    )
    inherited = {"PATH": "/bin", "ONE_LOCATION": "/srv/one", "RUBYLIB": "/mine", "NAME": "before"}
    found = script_environment(inherited, etc=tmp_path, files=FILES, proxy="http://proxy:3128", warn=pytest.fail)
    assert found == {
        "PATH": "/opt/19:/bin",
        "ONE_LOCATION": "/srv/one",
        "RUBYLIB": "/srv/one/lib/ruby:/mine",
        "ONE_MAD_DEBUG": "",
        "PRIORITY": "19",
        "NAME": "two words",
        "LIVE_DISK_SNAPSHOTS": "kvm-qcow2 kvm-ssh",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://proxy:3128"),
    }


def test_lines_that_need_a_shell_are_skipped_with_one_warning(tmp_path: Path) -> None:
    (tmp_path / "defaultrc").write_text('GOOD=1\nRUN=$(touch x)\n# RUN=`no`\nODD="open\nBETTER=2\n')
    warnings: list[str] = []
    found = script_environment({}, etc=tmp_path, files=FILES, proxy="", warn=warnings.append)
    assert found == {"RUBYLIB": "/usr/lib/one/ruby", "GOOD": "1", "BETTER": "2"}
    assert warnings == [
        f"{tmp_path}/defaultrc lines 2, 4: only a shell could read that, so scripts run without its variables"
    ]


def test_an_unreadable_environment_file_is_skipped_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "defaultrc").mkdir()
    warnings: list[str] = []
    assert script_environment({}, etc=tmp_path, files=FILES, proxy="", warn=warnings.append) == {
        "RUBYLIB": "/usr/lib/one/ruby"
    }
    assert warnings == [f"{tmp_path}/defaultrc cannot be read, so scripts run without it: Is a directory"]
