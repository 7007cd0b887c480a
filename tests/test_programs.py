"""Preparation of a process that oned starts, answers before the daemon runs, and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad import __version__, programs
from tests.waiting import HANG

ROOT = Path(__file__).parent.parent

REPORT = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
from one_provider_mad.programs import prepare_process
has_stderr = prepare_process()
open_ones = [int(fd) for fd in os.listdir("/proc/self/fd")][:-1]
report = dict(
    has_stderr=has_stderr,
    open=sorted(open_ones),
    inheritable=[os.get_inheritable(fd) for fd in (0, 1, 2)],
    stderr=os.readlink("/proc/self/fd/2"),
    is_redirected=sys.stdout is sys.stderr,
    blocked=[*signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    child=signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    pipe=signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,
)
print("not for the core")
print("for no reader", file=sys.stderr)
with open({path!r}, "w") as file:
    json.dump(report, file)
"""


def report_of(redirections: str, tmp_path: Path) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Prepare a process that has all signals blocked, a leaked descriptor, and these redirections."""
    path = tmp_path / "report.json"
    code = REPORT.format(root=str(ROOT), path=str(path))
    shell = ["env", "--block-signal", "sh", "-c", f'exec "$@" 9</dev/null {redirections}', "sh"]
    done = subprocess.run([*shell, sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG)
    return json.loads(path.read_text()), done


@pytest.mark.parametrize(
    ("redirections", "has_stderr"),
    [
        pytest.param("", True, id="all-open"),
        pytest.param("2>&-", False, id="as-oned-does"),
        pytest.param("0<&- 2>&-", False, id="no-input-either"),
        pytest.param("0<&- 1>&- 2>&-", False, id="nothing-open"),
    ],
)
def test_prepare_process_closes_leaked_descriptors_unblocks_signals_and_redirects_stdout(
    redirections: str, *, has_stderr: bool, tmp_path: Path
) -> None:
    report, done = report_of(redirections, tmp_path)
    assert done.returncode == 0
    assert done.stdout == "", "nothing reaches oned but lines of the protocol"
    assert done.stderr == ("not for the core\nfor no reader\n" if has_stderr else "")
    assert report["stderr"] == "/dev/null" or has_stderr
    del report["stderr"]
    assert report == {
        "has_stderr": has_stderr,
        "open": [0, 1, 2],
        "inheritable": [True, True, True],
        "is_redirected": True,
        "blocked": [],
        "child": True,
        "pipe": True,
    }


def test_without_proc_descriptors_are_closed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    def no_proc(path: str) -> list[str]:
        """Pretends to be a system without /proc."""
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "listdir", no_proc)
    monkeypatch.setattr(os, "closerange", lambda low, high: closed.extend(range(low, high)))
    programs._close_leaked()
    assert closed == [*range(3, min(os.sysconf("SC_OPEN_MAX"), programs._MANY))]


FAILING = """
import sys, types
sys.path.insert(0, {root!r})
daemon = types.ModuleType("one_provider_mad.daemon")
def run(options, *, has_stderr, is_initialised, begun):
    {body}
daemon.run = run
daemon.Modules = lambda: None
sys.modules["one_provider_mad.daemon"] = daemon
from one_provider_mad.programs import one_vmm_provider
one_vmm_provider()
"""


def end_of(body: str, *arguments: str, sent: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program over a daemon that pretends to be `body`."""
    command = [sys.executable, "-c", FAILING.format(root=str(ROOT), body=body), *arguments]
    return subprocess.run(command, input=sent, capture_output=True, text=True, timeout=HANG)


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        pytest.param("return 0", 0, "", id="served"),
        pytest.param("return 3", 3, "", id="its-own-code"),
        pytest.param("raise KeyboardInterrupt", 130, "", id="interrupted"),
        pytest.param(
            "raise ValueError('two\\nlines')",
            1,
            "one_vmm_provider: stopped by an unexpected ValueError: two lines (<string>, line 6)\n",
            id="defect",
        ),
        pytest.param(
            "import lxml_of_tomorrow",
            1,
            "one_vmm_provider: No module named 'lxml_of_tomorrow'; is it installed for " + sys.executable + "?\n",
            id="library-missing",
        ),
        pytest.param("raise OSError('\\udcff')", 1, "OSError: \\udcff (", id="surrogate-in-the-message"),
    ],
)
def test_the_program_ends_with_at_most_one_line_on_stderr(body: str, code: int, sentence: str) -> None:
    done = end_of(body)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == (1 if sentence else 0)


def test_the_daemon_gets_the_parsed_arguments() -> None:
    done = end_of("print(options.name, options.threads, has_stderr)", "-t 7 -r 0 ec2")
    assert (done.stdout, done.stderr) == ("", "ec2 7 True\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(["--version"], f"one-provider-mad {__version__}\n", id="version"),
        pytest.param(["--help"], programs.USAGE, id="help"),
        pytest.param(["-h"], programs.USAGE, id="short-help"),
    ],
)
def test_version_and_help_are_printed(arguments: list[str], text: str) -> None:
    done = end_of("raise AssertionError", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def test_version_in_packed_arguments_is_ignored_with_a_warning() -> None:
    assert end_of("print(options.warnings[0])", "--version ec2").stderr == "option '--version' is unknown: ignored\n"


@pytest.mark.parametrize(
    ("sent", "answer", "seen"),
    [
        pytest.param("INIT\n", "INIT SUCCESS\n", (True, b"", ""), id="init"),
        pytest.param("INIT\nFINALIZE\n", "INIT SUCCESS\n", (True, b"", "FINALIZE\n"), id="init-and-more"),
        pytest.param("DEPLOY 1 -\n", "", (False, b"DEPLO", "Y 1 -\n"), id="request-without-init"),
        pytest.param("INIT \n", "", (False, b"INIT ", "\n"), id="init-with-blank"),
        pytest.param("IN", "", (False, b"IN", ""), id="part-of-init"),
        pytest.param("", "", (False, b"", ""), id="nothing"),
    ],
)
def test_init_is_answered_before_the_daemon_is_imported(sent: str, answer: str, seen: tuple[bool, bytes, str]) -> None:
    # The input is a file, so all of it is there when the program reads.
    with tempfile.TemporaryFile("w+") as file:
        file.write(sent)
        file.seek(0)
        script = FAILING.format(root=str(ROOT), body="print((is_initialised, begun, os.read(0, 99).decode()))")
        command = [sys.executable, "-c", f"import os\n{script}", "simulated"]
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=HANG)
    assert (done.stdout, done.stderr) == (answer, f"{seen}\n")


def test_sigterm_stays_pending_until_the_daemon_handles_it() -> None:
    body = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print(signal.sigpending())"
    done = end_of(body, "simulated")
    assert (done.returncode, done.stdout) == (0, "")
    assert "SIGTERM" in done.stderr


def test_a_closed_stdout_at_init_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", FAILING.format(root=str(ROOT), body="return 0"), "simulated"]
    with tempfile.TemporaryFile() as file:
        file.write(b"INIT\n")
        file.seek(0)
        done = subprocess.run(command, stdin=file, stdout=write_end, stderr=subprocess.PIPE, timeout=HANG)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")
