"""Completion of `one-provider` in a real bash and a real zsh: a person types, presses Tab, and sees the line grow."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from one_provider_mad.cli.main import main
from one_provider_mad.domain import VmId
from one_provider_mad.journal.writer import Journal
from one_provider_mad.protocol.dialect import Dialect
from tests.cli.running import output_of, surroundings
from tests.end_to_end.oned import Place, aside
from tests.waiting import HANG

SHELLS = ("bash", "zsh")
BIN = Path(sys.executable).parent

START = {"bash": ("bash", "--norc", "--noprofile", "-i"), "zsh": ("zsh", "--no-rcs", "-i")}
LOAD = {
    "bash": ". functions/_one-provider",
    "zsh": "fpath=(functions $fpath); autoload -U compinit; compinit -u -D",
}
"""Commands before the first Tab; zsh finds a function of a package by its name in `fpath`."""


def installed(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


class Typist:
    """A person at a shell."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def sees(self, pattern: str) -> None:
        """Wait for the pattern behind all that was seen before."""
        deadline = time.monotonic() + HANG
        while (found := re.search(pattern, self._seen)) is None:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self._seen!r}"
            shown = os.read(self._terminal, 65536).decode(errors="replace")
            self._seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\x07]", "", shown)
        self._seen = self._seen[found.end() :]


@contextmanager
def typing(shell: str, place: Place) -> Iterator[Typist]:
    environ = {
        **surroundings(place.root),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TERM": "dumb",
        "HOME": str(place.root),
    }
    folder = place.root / "functions"
    folder.mkdir()
    script = folder / "_one-provider"
    script.write_text(output_of(place.root, "completion", shell))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        START[shell], env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=place.root
    ) as process:
        os.close(theirs)
        try:
            typist = Typist(ours)
            typist.type(f"{LOAD[shell]}; echo rea''dy\n")
            typist.sees("\nready")
            yield typist
        finally:
            process.kill()
            os.close(ours)


@pytest.fixture
def known(place: Place) -> Place:
    """An OpenNebula with the NAMEs `aws` and `partner`; the journal of `aws` has VM 4711."""
    for name in ("aws", "partner"):
        place.configure('provider = "simulated"\nowner = "mine"\n', name=name)

    async def write() -> None:
        journal = Journal(place.var / "one_provider_mad_aws.journal", clock=time.time, on_lost=print)
        await journal.open()
        journal.open_request(action="DEPLOY", vm_id=VmId(4711), dialect=Dialect.SINCE_6_0, payload=b"")
        await journal.close()

    aside(lambda: asyncio.run(write()))
    return place


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_commands_names_vms_actions_and_releases(known: Place, shell: str) -> None:
    installed(shell)
    with typing(shell, known) as typist:
        for typed, added in (
            ("orp", "hans"),
            ("check aw", "s"),
            ("journal pa", "rtner"),
            ("tail aws --vm 47", "11"),
            ("tail aws --lev", "el"),
            ("encode --type aws SHUTDOWN --vm-id 4", "711"),
            ("oned-conf aws --release 7", ".4"),
            ("install x --provider opennebul", "a"),
            ("encode DEPLO", "Y"),
        ):
            typist.type(f"one-provider {typed}\t")
            typist.sees(re.escape(f"one-provider {typed}{added} "))
            typist.type("\x15")  # Ctrl-U
        typist.type("echo the end\n")
        typist.sees("\nthe end")


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_shows_nothing_where_nothing_can_be_read(place: Place, shell: str) -> None:
    installed(shell)
    place.configure("no TOML", name="broken")
    place.configure('provider = "simulated"\nowner = "mine"\n', name="cloud")
    (place.var / "one_provider_mad_cloud.journal").write_text("no journal")
    with typing(shell, place) as typist:
        for name in ("broken", "cloud", "unknown"):
            typist.type(f"one-provider tail {name} --vm 4\t2 is typed")
            typist.sees(f"one-provider tail {name} --vm 42 is typed")
            typist.type("\x15")  # Ctrl-U


def completed(root: Path, *words: str, **environ: str | None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of what bash runs at Tab, in this process."""
    line = {"COMP_WORDS": "\n".join(("one-provider", *words)), "COMP_CWORD": str(len(words))}
    env = {**surroundings(root), **line, "_ONE_PROVIDER_COMPLETE": "bash_complete", **environ}
    result = aside(lambda: CliRunner().invoke(main, env=env, prog_name="one-provider"))
    return result.exit_code, result.stdout, result.stderr


def test_completion_creates_no_file(tmp_path: Path) -> None:
    elsewhere = {"ONE_LOCATION": None, "HOME": str(tmp_path)}
    assert completed(tmp_path, "check", "simula", **elsewhere) == (0, "plain,simulated\n", "")
    assert completed(tmp_path, "tail", "simulated", "--vm", "", **elsewhere) == (0, "\n", "")
    assert list(tmp_path.iterdir()) == []


def test_every_name_argument_and_vm_option_is_completed(known: Place) -> None:
    names = "".join(f"plain,{name}\n" for name in ("aws", "partner", "simulated"))
    for command in ("check", "config", "install", "instances", "oned-conf", "orphans", "tail", "journal show"):
        assert completed(known.root, *command.split(), "") == (0, names, ""), command
    assert completed(known.root, "journal", "accept", "p") == (0, "plain,partner\n", "")
    assert completed(known.root, "encode", "DEPLOY", "--type", "a") == (0, "plain,aws\n", "")
    assert completed(known.root, "tail", "--im", "aws", "--vm", "") == (0, "plain,4711\n", "")
