"""Runs `one-provider`: as a process of its own, on a terminal, or in this process where that proves as much."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from one_provider_mad.cli import main as program
from tests.end_to_end.oned import COVERAGE, aside
from tests.waiting import HANG

COMMAND = (sys.executable, "-m", "one_provider_mad.cli.main")


def surroundings(root: Path, **more: str) -> dict[str, str]:
    """An environment that leads to the OpenNebula at this root, and to no other."""
    away = {"ONE_PROVIDER_MAD_CONF", "ONE_XMLRPC", *COVERAGE}
    kept = {name: value for name, value in os.environ.items() if name not in away}
    return {**kept, "ONE_LOCATION": str(root), "ONE_AUTH": str(root / "no_one_auth"), **more}


def ran(root: Path, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process of its own."""
    done = subprocess.run(
        [*COMMAND, *arguments], env=surroundings(root, **environ), capture_output=True, text=True, timeout=HANG
    )
    return done.returncode, done.stdout, done.stderr


def output_of(root: Path, *arguments: str, code: int = 0, **environ: str) -> str:
    """The output of a run in this process; fails at another exit code."""
    result = aside(lambda: CliRunner().invoke(program.main, arguments, env=surroundings(root, **environ)))
    assert result.exit_code == code, result.output
    return str(result.output)


def json_of(root: Path, *arguments: str, code: int = 0, **environ: str) -> Any:
    """The parsed output of a run with --json."""
    return json.loads(output_of(root, *arguments, "--json", code=code, **environ))


def on_a_terminal(root: Path, *arguments: str, columns: int = 100, typed: str = "") -> tuple[int, str]:
    """Exit code, and the output to a terminal, on which this was typed ahead."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = surroundings(root, TERM="xterm-256color")
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        environ.pop(name, None)
    with subprocess.Popen([*COMMAND, *arguments], env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        written = bytearray()
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:
            pass  # on Linux a read fails once the other end is closed
        os.close(ours)
    return process.returncode, written.decode()


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
"""Colours and movements of the cursor."""


def lines_on_a_terminal(root: Path, *arguments: str, columns: int) -> list[str]:
    """The lines of the output to a terminal of this width, without colours."""
    return _CONTROL.sub("", on_a_terminal(root, *arguments, columns=columns)[1]).splitlines()
