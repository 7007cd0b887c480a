"""The man pages: every command and option of `one-provider`, and every option of the drivers; groff accepts them."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from one_provider_mad import __version__, options
from one_provider_mad.cli.main import main
from tests.waiting import HANG

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "manual.py"
PAGES: dict[str, str] = runpy.run_path(str(TOOL))["pages"]("2026-01-02")
DRIVERS = ("one_vmm_provider", "one_im_provider")


def commands(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from commands(click.Context(command, info_name=name, parent=context))


COMMANDS = {
    each.command_path: each for each in commands(main.make_context("one-provider", ["--help"], resilient_parsing=True))
}


def shown(name: str) -> str:
    """The text of a page, without fonts and escapes."""
    text = re.sub(r"\\f[BIR]", "", PAGES[f"{name}.1"])
    return text.replace(r"\-", "-").replace(r"\(aq", "'").replace(r"\(dq", '"')


@pytest.mark.parametrize("path", COMMANDS)
def test_the_page_of_a_command_has_its_usage_and_every_option(path: str) -> None:
    context = COMMANDS[path]
    page = shown(path.replace(" ", "-"))
    assert f".SH SYNOPSIS\n{path} {' '.join(context.command.collect_usage_pieces(context))}\n" in page
    for parameter in context.command.get_params(context):
        if isinstance(parameter, click.Option):
            assert f"\n.TP\n{', '.join(sorted(parameter.opts, key=len))}" in page, parameter.opts
            assert (parameter.help or "") in page
    if context.parent is not None:
        assert f"\n.TP\n{path.replace(' ', '-')}(1)\n" in shown(context.parent.command_path.replace(" ", "-"))


def test_there_is_a_page_for_each_command_and_driver_and_no_other() -> None:
    assert len(COMMANDS) > 12
    assert sorted(PAGES) == sorted(f"{name.replace(' ', '-')}.1" for name in (*COMMANDS, *DRIVERS))


def test_the_page_of_the_action_driver_has_every_option_of_arguments() -> None:
    page = shown("one_vmm_provider")
    long, short = options._FIELDS, options._SHORT
    assert [option for option in long if f"--{option}" not in page] == []
    assert [letter for letter, option in short.items() if not re.search(rf"-{letter}(, --| \(--){option}", page)] == []


def test_the_pages_have_the_environment_and_files_that_the_program_knows() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "one_provider_mad").rglob("*.py"))
    known = set(re.findall(r'environ\.get\("(ONE_\w+)"', sources))
    assert known >= {"ONE_LOCATION", "ONE_XMLRPC"}
    for driver in DRIVERS:
        assert {name for name in known if f"\n.B {name}\n" not in shown(driver)} == set()
        assert f"/var/log/one/{driver}_NAME.log" in shown(driver)
    assert "NAME.toml" in shown("one-provider")
    assert "\n.TP\n3\na check failed" in shown("one-provider")


@pytest.mark.parametrize("name", PAGES)
def test_man_shows_the_page_without_a_warning(name: str, tmp_path: Path) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man or groff is not installed")
    page = tmp_path / name
    page.write_text(PAGES[name])
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANROFFSEQ": ""}
    # As lintian calls it (groff-message).
    command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    text = subprocess.run(["man", "-l", str(page)], env=environ, capture_output=True, text=True, timeout=HANG).stdout
    assert f"one-provider-mad {__version__}" in text
    assert "2026-01-02" in text
    assert "@" not in text
    lines = text.splitlines()
    assert "NAME" in lines
    assert all(len(line) <= 80 or line.startswith(" " * 11) for line in lines)


def test_the_same_sources_give_the_same_files_and_the_date_is_that_of_the_sources(tmp_path: Path) -> None:
    for name, more in (("one", {}), ("two", {}), ("dated", {"SOURCE_DATE_EPOCH": "86400"})):
        environ = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
        subprocess.run(
            [sys.executable, TOOL, tmp_path / name], env=environ | more, check=True, capture_output=True, timeout=HANG
        )
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "dated")]
    assert files[0] == files[1]
    assert all(b'"1970-01-02"' in text for text in files[2].values())
