"""`one-provider` itself: launcher, help, errors and imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from one_provider_mad import __version__
from one_provider_mad.cli import main as program
from one_provider_mad.cli.check import NOT_WELL
from one_provider_mad.errors import SettingsError
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver, Place
from tests.waiting import HANG

NO_SUCH_OPTION = click.NoSuchOption("--nothing").format_message()  # click 8.4 quotes the option, 8.2 does not
LAUNCHER = Path(__file__).parents[2] / "bin" / "one-provider"


def test_launcher_works_through_a_symlink_and_prints_its_version(tmp_path: Path) -> None:
    link = tmp_path / "one-provider"
    link.symlink_to(LAUNCHER)
    done = subprocess.run([link, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"one-provider-mad {__version__}\n", "")


def test_help_lists_every_command_with_one_line() -> None:
    result = CliRunner().invoke(program.main, ["--help"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.startswith("  ") and line.split()}
    for name in program.COMMANDS:
        assert lines[name].endswith(".")


@pytest.mark.parametrize("name", sorted(program.COMMANDS))
def test_every_command_has_a_help_page(name: str) -> None:
    result = CliRunner().invoke(program.main, [name, "-h"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: one-provider {name} ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "one-provider: No such command 'nothing'. one-provider --help lists them."),
        (["instals"], "one-provider: No such command 'instals'. Did you mean 'install'?"),
        (["dmeo"], "one-provider: No such command 'dmeo'. Did you mean 'demo'?"),
        (["--nothing"], f"one-provider: {NO_SUCH_OPTION}"),
        (["decode", "--nothing"], f"one-provider decode: {NO_SUCH_OPTION}"),
    ],
)
def test_invalid_arguments_give_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "one_provider_mad.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{sentence}\n")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SettingsError("x.toml:\nowner is missing"), 1, "one-provider broken: x.toml: owner is missing\n"),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            "one-provider broken: [Errno 13] Permission denied: '/x'\n",
        ),
        (ZeroDivisionError("oh"), 1, "one-provider broken: stopped by an unexpected ZeroDivisionError: oh\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_exception_of_a_command_is_printed_as_one_sentence(
    error: BaseException, code: int, sentence: str
) -> None:
    group = type(program.main)("one-provider")

    @group.command("broken")
    def broken() -> None:
        raise error

    result = CliRunner().invoke(group, ["broken"])
    assert (result.exit_code, result.stderr.lstrip("\n")) == (code, sentence)


def test_driver_starts_without_importing_click() -> None:
    code = "import sys, one_provider_mad.programs; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, timeout=HANG).returncode == 0


SPY = """
import os, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name in ("click", "rich", "one_provider_mad.cli"):
            with open(os.environ["SPIED"], "a") as file:
                file.write(name + "\\n")

sys.meta_path.insert(0, Spy())
"""


def test_drivers_never_import_the_command_line_tool(place: Place, tmp_path: Path) -> None:
    site, spied = tmp_path / "site", tmp_path / "spied"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SPY)
    environ = {"PYTHONPATH": str(site), "SPIED": str(spied)}
    place.simulate()
    with Driver(place, environ=environ) as vmm:
        deploy_id = vmm.created(oned_requests.deploy(7))
        assert vmm.ask(oned_requests.terminate(7, deploy_id)).startswith("SUCCESS")
    with Driver(place, "simulated", program=LAUNCHER.with_name("one_im_provider"), environ=environ) as im:
        im.send("MONITOR 3 cloud /var/lib/one/datastores 1")
        assert im.next_line().startswith("MONITOR SUCCESS 3 ")
    assert not spied.exists()
    command = [sys.executable, "-m", "one_provider_mad.cli.main", "--version"]
    subprocess.run(command, env={**os.environ, **environ}, check=True, stdout=subprocess.DEVNULL, timeout=HANG)
    assert "click" in spied.read_text().split()  # the spy notices the import of click


def test_help_names_the_exit_codes() -> None:
    printed = " ".join(CliRunner().invoke(program.main, ["--help"]).output.split())
    assert f"{NOT_WELL} a check failed" in printed


def test_one_provider_is_a_click_group() -> None:
    assert isinstance(program.main, click.Group)
