"""Check quotations in documents: commands run, messages exist, settings are valid, the picture is up to date."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from one_provider_mad.budget.settings import Limits
from one_provider_mad.cli import main as program
from one_provider_mad.domain import Template
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.options import parse_arguments
from one_provider_mad.providers import interface
from one_provider_mad.providers.registry import BUILT_IN, settings_of
from one_provider_mad.settings import Configuration, Settings, convert
from tests import oned_lines
from tests.cli.ec2_here import ec2_here
from tests.end_to_end.oned import COVERAGE, Driver, Place, aside
from tests.waiting import HANG

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")

OURS = ("one-provider", "one_vmm_provider", "one_im_provider")
OTHERS = (
    *(
        "/opt/one-provider/bin/pip",
        "apt",
        "aws",
        "dnf",
        "export",
        "git",
        "install",
        "ln",
        "make",
        "pipx",
        "python3",
        "ssh",
        "systemctl",
        "umask",
        "wg",
    ),
    *("onecluster", "onetemplate", "oneuser", "onevm", "onevnet"),
)
"""Programs of others, and programs that cannot run in a test; OpenNebula's run in tests/real_oned."""

WHERE = "/opt/one-provider-mad/"
"""The path of the checkout in documents."""


@cache
def text_of(page: Path) -> str:
    return page.read_text()


def blocks(page: Path, *kinds: str) -> Iterator[str]:
    """Every fenced block of these kinds, without its indentation."""
    for match in BLOCK.finditer(text_of(page)):
        if match["kind"] in kinds:
            yield re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)


def surroundings(root: Path) -> dict[str, str]:
    """An environment with an OpenNebula without credentials, and without settings of any other one."""
    for folder in ("etc", "var", "lib/mads"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    away = {"ONE_PROVIDER_MAD_CONF", "ONE_XMLRPC", *COVERAGE}
    kept = {name: value for name, value in os.environ.items() if name not in away}
    return {**kept, "ONE_LOCATION": str(root), "ONE_AUTH": str(root / "no_one_auth")}


def run(environ: Mapping[str, str], line: str) -> str:
    """The output of a line with pipes; `one-provider` runs in this process, drivers run as processes."""
    written = ""
    for part in line.split(" | "):
        words = shlex.split(part)
        assert words[0] in OURS, line
        if words[0] == "one-provider":
            written = within(environ, words[1:], given=written)
        else:
            command = [str(ROOT / "bin" / words[0]), *words[1:]]
            done = subprocess.run(command, input=written, env=environ, capture_output=True, text=True, timeout=HANG)
            assert done.returncode == 0, f"{line}: {done.stderr}"
            written = done.stdout
    return written


def within(environ: Mapping[str, str], words: list[str], *, given: str) -> str:
    result = aside(lambda: CliRunner().invoke(program.main, words, input=given, env=environ))
    assert result.exit_code == 0, f"one-provider {shlex.join(words)}: {result.output}"
    return str(result.output)


# Terminal sessions: commands and their output

VARYING = (
    (r"/\S+(?=/)", ""),  # directories
    (r"\bsim-[0-9a-f]+", "sim-0"),
    (r"\d{4}-\d\d-\d\d|\d\d-\d\d(?= \d\d:)", "day"),
    (r"\d\d:\d\d:\d\d", "time"),
    (r"\d+\.\d+", "seconds"),
    (r" +", " "),
)


def plain(text: str) -> str:
    """Replace the parts of a text that differ from one run to the next."""
    for pattern, stead in VARYING:
        text = re.sub(pattern, stead, text)
    return text.strip()


def is_output(quoted: Iterable[str], written: Iterable[str]) -> bool:
    """True if the output matches; `…` stands for any text, alone in its line for any lines."""
    wanted = ".*".join(map(re.escape, "\n".join(map(plain, quoted)).split("…")))
    return re.fullmatch(wanted, "\n".join(map(plain, written)), re.DOTALL) is not None


def sessions(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of the blocks of kind `console`, and the lines that follow it."""
    for block in blocks(page, "console"):
        for typed in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *quoted = typed.rstrip("\n").split("\n")
            yield command, quoted


SESSIONS = ("README.md", "docs/quick-start.md", "docs/costs.md")


@pytest.mark.parametrize("name", SESSIONS)
def test_quoted_terminal_sessions_show_the_output_of_their_commands(name: str, tmp_path: Path) -> None:
    environ, found = surroundings(tmp_path), list(sessions(ROOT / name))
    assert len(found) >= 4
    for command, quoted in found:
        written = run(environ, command)
        assert is_output(quoted, written.strip().split("\n")), f"{command} writes\n{written}"


def test_no_other_page_quotes_terminal_sessions() -> None:
    assert {page for page in PAGES if any(sessions(page))} == {ROOT / name for name in SESSIONS}


def test_the_comparison_of_documented_output_detects_differences() -> None:
    written = ["7  sim-5f  running", "", "the end"]
    assert is_output(["7 sim-00  …", "…", "the end"], written)
    assert not is_output(["8 sim-00  …", "…", "the end"], written)
    assert not is_output(["7 sim-00 running", "the end"], written)


# The picture


def test_the_picture_shows_the_output_of_the_present_demonstration(tmp_path: Path) -> None:
    picture: Any = runpy.run_path(str(ROOT / "tools" / "picture.py"))
    environ = {**surroundings(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "bin" / "one-provider", "demo"], env=environ, capture_output=True, text=True, timeout=HANG
    )
    assert done.returncode == 0, done.stderr
    shown = picture["shown"](text_of(picture["PICTURE"]))
    written = [picture["masked"](line).strip() for line in done.stdout.splitlines()]
    assert is_output(map(picture["masked"], shown), written), f"run make picture; the demonstration is\n{done.stdout}"
    # Only the ends of long lines may be left out by `…`, and no lines.
    assert len(shown) == len(written)
    assert sum(line.endswith(" …") for line in shown) <= 2


def test_the_picture_loads_nothing_and_all_text_lies_inside_it() -> None:
    svg = text_of(ROOT / "docs" / "demo.svg")
    assert "url(#" in svg
    assert not re.search(r"url\((?!#)|href=|@import|<script", svg)
    match = re.search(r'<rect x="0" y="0" width="([\d.]+)" height="([\d.]+)" />', svg)
    assert match
    width, height = map(float, match.groups())
    places = [
        tuple(map(float, each))
        for each in re.findall(r'<text .*? x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"', svg)
    ]
    assert len(places) > 60
    assert all(x + length <= width and y <= height for x, y, length in places)


# Every command


def commands(page: Path) -> Iterator[str]:
    """All commands in the blocks of a page, and our commands in its text."""
    typed = [line for block in blocks(page, "sh") if not block.startswith("#!") for line in block.splitlines()]
    for line in [*typed, *(command for command, _ in sessions(page))]:
        yield from shell_commands(line)
    for name in INLINE.findall(BLOCK.sub("", text_of(page))):
        if name.split()[0] in {*OURS, "sudo"} and len(name.split()) > 1:
            yield from shell_commands(" ".join(name.split()))


def shell_commands(line: str) -> Iterator[str]:
    """The commands of a line, without comments, sudo and the file that the output goes to."""
    for part in re.split(r" \| | && ", re.sub(r" > [\w.]+$", "", line.strip())):
        words = shlex.split(re.sub(r"^sudo -u \w+ (-E -H )?", "", part).replace("…", "x"), comments=True)
        if words:
            yield shlex.join(words)


def test_every_command_in_a_documents_block_is_ours_or_in_the_list_of_others() -> None:
    found = {(page.name, command.split()[0]) for page in PAGES for command in commands(page)}
    assert {word for _, word in found if word not in OURS} == set(OTHERS), found


def test_make_targets_in_documents_exist() -> None:
    asked = {
        match
        for page in PAGES
        for match in re.findall(r"(?:^|`)make (?:-C \S+ )?([a-z][a-z0-9-]*)", text_of(page), re.MULTILINE)
    }
    assert {"demo", "demo-ec2", "test", "setup", "soak", "bench"} <= asked
    assert asked <= set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_paths_of_the_checkout_in_documents_exist() -> None:
    named = {path for page in PAGES for path in re.findall(rf"{WHERE}([\w/.*-]*[\w*])", text_of(page))}
    assert named >= {"bin/one*", "bin/one_vmm_provider"}
    assert {path.name for path in ROOT.glob("bin/one*")} == set(OURS)
    assert not [path for path in named if not [*ROOT.glob(path)]]


BURSTING = (
    (
        "one-provider install ec2 --provider ec2 --set ec2.region=eu-west-1 --set ec2.defaults.INSTANCETYPE=t3.small"
        " --set 'capacity.instance_types={ \"t3.small\" = 10 }'"
    ),
    "one-provider reach NAME --vm 9",
    "one-provider install ec2 --recreate-hook",
    "one-provider template 5 --for ec2-ireland --for ec2-paris",
)

COSTS_EC2 = (
    "one-provider install ec2 --provider ec2 --set ec2.region=eu-west-1 --set budget.max_per_month=500"
    " --set budget.max_price_per_vm=1"
)

NOT_RUN = {
    "one-provider demo": "the picture's test runs it",
    "one-provider demo --ec2": "tests/lab/test_demo_ec2.py runs it",
    "one-provider reach NAME --vm 42": "ends with 3 without an instance of that VM; tests/cli/test_reach.py runs it",
    "one-provider console NAME --vm 42": "the same; tests/cli/test_console.py runs it",
    "one-provider purge --check": "ends with 3 for a NAME with instances; tests/cli/test_purge.py runs it",
    "one-provider install NAME --datastore DATASTORE": "needs an OpenNebula; tests/real_oned/test_transfer.py runs it",
    "one-provider install ec2 --datastore default": "the same; tests/real_oned/test_template_to_shell.py runs it",
    "one-provider upgrade --check": "ends with 3 for a NAME without its region; tests/cli/test_upgrade.py runs it",
    "one-provider template 5 --for NAME --dry-run": "needs OpenNebula's template 5; tests/cli/test_template.py runs it",
    "one-provider keep-place --install": "makes hooks in an OpenNebula; tests/cli/test_keep_place.py runs it",
    "one-provider keep-place --remove": "removes hooks of an OpenNebula; the same",
    "one-provider keep-place 42": "needs OpenNebula's VM 42; tests/cli/test_keep_place.py runs it",
    "one-provider keep-place 42 --free": "the same",
    "one-provider install NAME --recreate-hook": "asks OpenNebula; tests/cli/test_install_hook.py runs it",
    "one-provider recreate 42": "the same; tests/cli/test_recreate.py runs it",
    **dict.fromkeys(BURSTING, "tests/real_oned/test_bursting_page.py follows the page"),
    "one-provider install NAME --set budget.max_per_hour=0.015": "the page's sessions are run in a folder of their own",
    COSTS_EC2: "test_the_page_on_costs_bounds_the_bill_of_ec2 follows the page",
    "one-provider types NAME --cpu 4 --memory 16G --gpu 1 --spot": "ends with 1 in a cloud without GPUs",
    "one-provider tail NAME --follow": "never ends; tests/cli/test_tail.py follows",
}


def normal(command: str) -> str:
    """Replace the configuration's name in a command by NAME."""
    if command.split()[:2] == ["one-provider", "install"]:
        return command.replace("KIND", "simulated").replace("provider_name", "NAME")
    return re.sub(r"(?<=\s)(?:provider_name|ec2|simulated)(?=\s|'|$)", "NAME", command)


def understand(command: str) -> bool:
    """Parse a command as the program would; return False for a mere mention without required arguments.

    Raises:
        click.ClickException: there is no such command, or it has no such option.
    """
    _, *rest = shlex.split(command)
    is_mention = len(rest) == 1
    name: str | None = "one-provider"
    understood: click.Command | None = program.main
    context = None
    try:
        while understood is not None:
            context = understood.make_context(name, rest, parent=context)
            if not isinstance(understood, click.Group):
                break
            name, understood, rest = understood.resolve_command(context, [*context._protected_args, *context.args])
    except click.exceptions.Exit:
        pass  # --version
    except click.MissingParameter:
        if not is_mention:
            raise
        return False
    return True


def test_every_command_of_ours_in_documents_runs(tmp_path: Path) -> None:
    named = {normal(command): page.name for page in PAGES for command in commands(page) if command.startswith(OURS)}
    environ = surroundings(tmp_path)
    assert len(named) > 25
    assert set(NOT_RUN) <= set(named)
    wrong, ran = [], 0
    # `install` comes first, which creates the configuration, then the drivers, which create the logs.
    for command in sorted(named, key=lambda each: ("install NAME" not in each, each.startswith("one-provider"), each)):
        try:
            is_whole = not command.startswith("one-provider ") or understand(command)
        except click.ClickException as error:
            wrong.append(f"{named[command]}: {command}: {error.format_message()}")
            continue
        if is_whole and command not in NOT_RUN:
            run(environ, command.replace("NAME", "provider_name"))
            ran += 1
    assert not wrong, "\n".join(wrong)
    assert ran > 20


@pytest.mark.parametrize(
    "command",
    [
        "one-provider chekc ec2",
        "one-provider tail ec2 --since yesterday",
        "one-provider oned-conf ec2 --release 3.8",
        "one-provider journal accept ec2 --force",
        "one-provider install --dry-run",
    ],
)
def test_the_check_of_documented_commands_rejects_unknown_commands_and_options(command: str) -> None:
    with pytest.raises(click.ClickException):
        understand(command)


# The page on costs

BILLED = """
provider = "simulated"
owner = "one-test"
[budget]
{limit}
[simulated]
latency = 0
boot_time = 0
[simulated.instance_types.odd]
cpu = 1
memory = 1024
"""


def vm_that_costs(**asked: str) -> Template:
    """A VM of the type medium_1gb with a disk of 10 GiB."""
    section = {"TYPE": "simulated", **asked}
    disk = {"DISK_ID": "0", "SIZE": "10240"}
    return Template(values={"CPU": ("1",), "MEMORY": ("1024",), "DISK": (disk,), "PUBLIC_CLOUD": (section,)})


def test_each_limit_of_the_budget_refuses_with_the_sentence_on_the_page(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(.+? = .+?)` \| .+? \| `(.+?)` \|$", text_of(ROOT / "docs" / "costs.md"), re.MULTILINE)
    limits = {limit.split(" ")[0] for limit, _ in rows}
    assert limits == {*Limits.__struct_fields__, "users", "groups"}
    place = Place(tmp_path)
    place.configure(BILLED.format(limit=""), name="simulated")
    with Driver(place, "-t 15 -r 0 simulated") as driver:
        driver.send(oned_lines.line("DEPLOY", 1, template=vm_that_costs()))
        assert driver.wait_for(lambda line: line.startswith("DEPLOY SUCCESS 1 "))
        for vm_id, (limit, quoted) in enumerate(rows, 2):
            place.configure(BILLED.format(limit=limit), name="simulated")
            asked = {"SPOT": "YES"} if "spot" in limit else {}
            asked |= {"PROVIDER_INSTANCE_TYPE": "odd"} if "instance odd" in quoted else {}
            driver.send(oned_lines.line("DEPLOY", vm_id, template=vm_that_costs(**asked)))
            reply = driver.wait_for(lambda line: line.startswith("DEPLOY "))
            told = reply.removeprefix(f"DEPLOY FAILURE {vm_id} ")
            if limit.startswith("max_per_month"):  # what is left of the month is another amount each day
                assert plain(told) == plain(quoted)
            else:
                assert told == quoted


def test_the_page_on_costs_bounds_the_bill_of_ec2(tmp_path: Path) -> None:
    page = ROOT / "docs" / "costs.md"
    environ = surroundings(tmp_path)
    typed = [command for command in commands(page) if command.split()[2:3] == ["ec2"]]
    assert typed[0] == COSTS_EC2
    with ec2_here(tmp_path / "lab") as here:
        within(environ, shlex.split(typed[0])[1:], given="")
        written = tmp_path / "etc" / "one_provider_mad" / "ec2.toml"
        assert (
            tomllib.loads(written.read_text())["budget"].items()
            >= {"max_per_month": 500, "max_price_per_vm": 1}.items()
        )
        written.write_text(here.file.read_text() + next(block for block in blocks(page, "toml") if "[budget]" in block))
        for command in typed[1:]:
            run(environ, command)


def test_the_example_scripts_work(tmp_path: Path) -> None:
    cloud = tmp_path / "my-cloud"
    cloud.write_text('#!/bin/sh\necho "$*" >> "$0.calls"\n[ "$5" != nowhere ] && echo id-1\n')
    cloud.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    deploy, shutdown = [block for block in blocks(ROOT / "docs" / "scripts.md", "sh") if block.startswith("#!")]

    def ended(script: str, *arguments: str) -> tuple[int, str, str]:
        command = ["/bin/sh", "-euc", script, "script", *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HANG)
        return done.returncode, done.stdout, done.stderr

    assert ended(deploy, "deployment.0", "here", "7") == (0, "id-1\n", "")
    assert ended(deploy, "deployment.0", "nowhere", "7") == (1, "", "the cloud refused VM 7\n")
    assert ended(shutdown, "id-1", "here")[0] == 0
    assert (tmp_path / "my-cloud.calls").read_text().splitlines()[-1] == "destroy --region here id-1"


# Settings and sections


def test_every_toml_block_has_valid_settings() -> None:
    seen = 0
    for page in PAGES:
        for block in blocks(page, "toml"):
            data = tomllib.loads(block)
            if "project" in data:
                continue
            kind = data.setdefault("provider", next((name for name in BUILT_IN if name in data), "simulated"))
            table = {**({"region": "eu-west-1"} if kind == "ec2" else {}), **data.pop(kind, {})}
            settings = convert(data, Settings, path=page)
            configuration = Configuration(name="docs", path=page, settings=settings, table=table)
            settings_of(configuration)
            read_tables(configuration)
            seen += 1
    assert seen >= 7


def test_every_mad_section_has_an_existing_executable_and_valid_arguments() -> None:
    seen = 0
    for page in PAGES:
        for block in blocks(page, "", "console"):
            for section in re.findall(r"^[VI]M_MAD = \[.*?\]$|^[VI]M_MAD = \[[^]]*\]", block, re.DOTALL | re.MULTILINE):
                values = dict(re.findall(r'(\w+)\s*= "([^"]*)"', section))
                if "EXECUTABLE" not in values:
                    continue  # the rest of it is left out
                options = parse_arguments([values["ARGUMENTS"]])
                assert (ROOT / "bin" / Path(values["EXECUTABLE"]).name).exists(), page.name
                assert (options.warnings, options.name) == ((), values["NAME"]), page.name
                seen += 1
    assert seen >= 3


def test_the_python_example_starts_the_simulated_ec2_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(ROOT / "docs" / "ec2.md", "python")
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    exec(compile(block.replace("4566", "0"), "ec2.md", "exec"), {"input": asked.append})
    assert re.fullmatch(r"EC2, STS, CloudWatch and the price list are at http://\S+:\d+/?, Enter ends them ", asked[0])


def test_the_page_on_providers_names_every_capability() -> None:
    capabilities = {
        name for name, value in vars(interface).items() if getattr(value, "_is_runtime_protocol", False)
    } - {"VerbatimDriver"}
    named = set(re.findall(r"`(\w+)`", text_of(ROOT / "docs" / "providers.md")))
    assert len(capabilities) > 10
    assert capabilities <= named


# Sentences


AMAZONS = "You are not authorized to perform this operation"
"""A message of EC2, which the driver passes on."""


@cache
def sentences() -> str:
    """All string literals of the package but docstrings, and its shell scripts, with … in place of values."""
    scripts = [*sorted((ROOT / "one_provider_mad").rglob("*.sh")), *sorted((ROOT / "bin").iterdir())]
    found = [re.sub(r"\$\(.*?\)|\$\w+|%s|\{\}", "…", script.read_text()) for script in scripts]
    for path in sorted((ROOT / "one_provider_mad").rglob("*.py")):
        tree = ast.parse(path.read_text())
        explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained:
                found.append(node.value)
    return "\n".join(found)


def quoted_sentences() -> Iterator[tuple[str, str]]:
    """All messages that pages quote: in tables of symptoms, and as quotations."""
    for page in PAGES:
        for table in re.findall(
            r"^\| what (?:it|the VM's ERROR) says \|.*?(?=^$|\Z)", text_of(page), re.DOTALL | re.MULTILINE
        ):
            yield from ((page.name, sentence) for sentence in re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE))
        yield from (
            (page.name, sentence) for sentence in re.findall(r"^> (.+)$", BLOCK.sub("", text_of(page)), re.MULTILINE)
        )


def test_every_quoted_message_exists_in_the_package() -> None:
    quoted = list(quoted_sentences())
    assert len(quoted) > 45
    said = sentences()
    assert [sentence for _, sentence in quoted if sentence not in said] == [AMAZONS]
