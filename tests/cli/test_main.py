"""`one-provider` itself: how it begins and ends."""

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
from tests.end_to_end import wire
from tests.end_to_end.oned import Driver, Place

LAUNCHER = Path(__file__).parents[2] / "bin" / "one-provider"


def test_the_launcher_works_from_anywhere_and_tells_its_version(tmp_path: Path) -> None:
    link = tmp_path / "one-provider"
    link.symlink_to(LAUNCHER)
    done = subprocess.run([link, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"one-provider-mad {__version__}\n", "")


def test_every_command_is_listed_with_a_line_of_help() -> None:
    result = CliRunner().invoke(program.main, ["--help"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.startswith("  ") and line.split()}
    for name in program.COMMANDS:
        assert lines[name].endswith(".")


@pytest.mark.parametrize("name", sorted(program.COMMANDS))
def test_every_command_has_a_page_of_help(name: str) -> None:
    result = CliRunner().invoke(program.main, [name, "-h"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: one-provider {name} ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "one-provider: No such command 'nothing'."),
        (["--nothing"], "one-provider: No such option '--nothing'."),
        (["decode", "--nothing"], "one-provider decode: No such option '--nothing'."),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "one_provider_mad.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
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
def test_whatever_goes_wrong_inside_is_one_sentence(error: BaseException, code: int, sentence: str) -> None:
    group = type(program.main)("one-provider")

    @group.command("broken")
    def broken() -> None:
        raise error

    result = CliRunner().invoke(group, ["broken"])
    assert (result.exit_code, result.stderr.lstrip("\n")) == (code, sentence)


def test_the_driver_starts_without_anything_of_the_tool() -> None:
    code = "import sys, one_provider_mad.programs; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, timeout=30).returncode == 0


SPY = """
import os, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name in ("click", "rich", "one_provider_mad.cli"):
            with open(os.environ["SPIED"], "a") as file:
                file.write(name + "\\n")

sys.meta_path.insert(0, Spy())
"""


def test_neither_driver_loads_anything_of_the_tool_in_a_whole_life(place: Place, tmp_path: Path) -> None:
    site, spied = tmp_path / "site", tmp_path / "spied"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SPY)
    environ = {"PYTHONPATH": str(site), "SPIED": str(spied)}
    place.simulate()
    with Driver(place, environ=environ) as vmm:
        deploy_id = vmm.created(wire.deploy(7))
        assert vmm.ask(wire.terminate(7, deploy_id)).startswith("SUCCESS")
    with Driver(place, "simulated", program=LAUNCHER.with_name("one_im_provider"), environ=environ) as im:
        im.send("MONITOR 3 cloud /var/lib/one/datastores 1")
        assert im.next_line().startswith("MONITOR SUCCESS 3 ")
    assert not spied.exists()
    command = [sys.executable, "-m", "one_provider_mad.cli.main", "--version"]
    subprocess.run(command, env={**os.environ, **environ}, check=True, stdout=subprocess.DEVNULL, timeout=30)
    assert "click" in spied.read_text().split()  # the spy sees what there is to see


def test_exit_codes_are_told() -> None:
    told = " ".join(CliRunner().invoke(program.main, ["--help"]).output.split())
    assert f"{NOT_WELL} a check failed" in told


def test_the_tool_is_a_click_group() -> None:
    assert isinstance(program.main, click.Group)
