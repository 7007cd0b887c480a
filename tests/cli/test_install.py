"""`one-provider install`: links and a first configuration, without replacing existing files."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import one_provider_mad
from one_provider_mad.cli.install import configuration_of, lasting
from one_provider_mad.providers.registry import BUILT_IN, build
from one_provider_mad.settings import Places, load
from tests.cli.running import json_of, on_a_terminal, output_of, ran, surroundings
from tests.waiting import HANG

PROGRAMS = ("one_vmm_provider", "one_im_provider")
BIN = Path(one_provider_mad.__file__).resolve().parent.parent / "bin"
USER, GROUP = 4711, 4712


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The directories of an installed OpenNebula."""
    (tmp_path / "lib" / "mads").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "var").mkdir()
    return tmp_path


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_install_dry_run_lists_every_step_and_changes_nothing(one: Path) -> None:
    before = everything(one)
    path, mads = one / "etc" / "one_provider_mad" / "aws.toml", one / "lib" / "mads"
    assert ran(one, "install", "aws", "--provider", "ec2", "--dry-run") == (
        0,
        "".join(f"would be linked: {mads / each} -> {BIN / each}\n" for each in PROGRAMS)
        + f"would be written: {path}\nnext: one-provider check aws, then one-provider oned-conf aws --release ...\n",
        "",
    )
    assert everything(one) == before


def test_install_links_the_drivers_and_writes_a_private_configuration(one: Path) -> None:
    code, printed, errors = ran(one, "install", "cloud")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[-2] == f"written: {one / 'etc' / 'one_provider_mad' / 'cloud.toml'}"
    for program in PROGRAMS:
        assert (one / "lib" / "mads" / program).resolve() == (BIN / program).resolve()
    path = one / "etc" / "one_provider_mad" / "cloud.toml"
    assert (mode(path), mode(path.parent)) == (0o600, 0o750)


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy of this checkout, with an OpenNebula of another user in it; all users may enter it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away, and become another user")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        root.chmod(0o755)
        shutil.copytree(BIN, root / "bin")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(BIN.parent / "one_provider_mad", root / "one_provider_mad", ignore=ignored)
        (root / ".venv").symlink_to(BIN.parent / ".venv")
        for name in ("lib/mads", "etc", "var"):
            (root / "one" / name).mkdir(parents=True)
        os.chown(root / "one" / "etc", 0, GROUP)  # as OpenNebula's packages create it
        os.chown(root / "one" / "var", USER, GROUP)
        yield root


def install_from(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the copy's `install cloud` as root."""
    command = [str(checkout / "bin" / "one-provider"), "install", "cloud", *arguments]
    environ = surroundings(checkout / "one")
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HANG)


def test_install_changes_nothing_if_opennebulas_user_cannot_start_the_drivers(checkout: Path) -> None:
    """The interpreter is in a private home, as one of pyenv's in /root."""
    one, closed = checkout / "one", checkout / "home"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to(BIN.parent / ".venv" / "bin" / "python")
    (checkout / ".venv").unlink()
    shutil.copytree(BIN.parent / ".venv", checkout / ".venv", symlinks=True, ignore=lambda _, names: {*names} & {"lib"})
    (checkout / ".venv" / "lib").symlink_to(BIN.parent / ".venv" / "lib")
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(closed / "python")
    before = everything(one)
    for arguments in ([], ["--dry-run"], ["--json"]):
        done = install_from(checkout, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        sentence = f"{closed} is closed to 4711, and {python} leads there: "
        assert done.stderr.startswith(f"one-provider install: OpenNebula's user cannot start the drivers: {sentence}")
        assert everything(one) == before


def test_install_gives_its_files_to_opennebulas_user(checkout: Path) -> None:
    for program in PROGRAMS:  # the real ones need an interpreter that this user may run
        (checkout / "bin" / program).write_text(f"#!/bin/sh\necho one-provider-mad {one_provider_mad.__version__}\n")
    done = install_from(checkout)
    if done.returncode:
        assert "is closed to 4711" in done.stderr
        pytest.skip("this checkout's environment is closed to other users")
    path = checkout / "one" / "etc" / "one_provider_mad" / "cloud.toml"
    assert {(each.stat().st_uid, each.stat().st_gid) for each in (path, path.parent)} == {(USER, GROUP)}


def test_install_replaces_links_that_lead_nowhere(one: Path) -> None:
    for program in PROGRAMS:
        (one / "lib" / "mads" / program).symlink_to(f"/opt/removed/bin/{program}")
    assert [step["is_there"] for step in json_of(one, "install", "cloud")] == [False, False, False]
    for program in PROGRAMS:
        assert (one / "lib" / "mads" / program).resolve() == BIN / program


def test_install_says_if_it_could_not_try_the_drivers(one: Path) -> None:
    (one / "var").rmdir()
    *_, note, _ = output_of(one, "install", "cloud", "--dry-run").splitlines()
    assert note == "not tested: whether OpenNebula's user can start the drivers; run one-provider check as root"


def test_second_install_changes_nothing_and_each_name_gets_its_own_owner(one: Path) -> None:
    first = json_of(one, "install", "cloud")
    assert [step["is_there"] for step in first] == [False, False, False]
    path = one / "etc" / "one_provider_mad" / "cloud.toml"
    path.write_text("# mine\n")
    again = json_of(one, "install", "cloud", "--provider", "ec2")
    assert [step["is_there"] for step in again] == [True, True, True]
    assert path.read_text() == "# mine\n"
    assert output_of(one, "install", "cloud").splitlines()[2] == f"exists: {path}"
    output_of(one, "install", "other")
    output_of(one, "install", "third")
    owners = {tomllib.loads(path.with_name(f"{name}.toml").read_text())["owner"] for name in ("other", "third")}
    assert len(owners) == 2


def test_install_fails_and_changes_nothing_if_a_driver_file_exists(one: Path, tmp_path: Path) -> None:
    theirs = one / "lib" / "mads" / "one_im_provider"
    theirs.write_text("#!/bin/sh\n")
    sentence = output_of(one, "install", "cloud", code=1)
    assert sentence == (
        f"one-provider install: {theirs} exists and is no link to this driver: move it away, or use --mads\n"
    )
    assert not (one / "lib" / "mads" / "one_vmm_provider").exists()
    assert not (one / "etc" / "one_provider_mad").exists()
    elsewhere = tmp_path / "mads"
    elsewhere.mkdir()
    output_of(one, "install", "cloud", "--mads", str(elsewhere))
    assert sorted(each.name for each in elsewhere.iterdir()) == sorted(PROGRAMS)
    assert theirs.read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("../x",),
            "one-provider install: '../x' is no NAME: use up to 64 letters, digits and `_.-`, and do not begin with",
        ),
        (
            ("x", "--mads", "/nowhere/mads"),
            "one-provider install: /nowhere/mads does not exist: name OpenNebula's drivers folder",
        ),
    ],
)
def test_invalid_arguments_of_install_give_one_sentence_and_change_nothing(
    one: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    before = everything(one)
    complaint = output_of(one, "install", *arguments, code=1)
    assert complaint.startswith(sentence)
    assert complaint.count("\n") == 1
    assert everything(one) == before


def sets(*assignments: str) -> list[str]:
    return [argument for text in assignments for argument in ("--set", text)]


def content(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def comments_of(text: str) -> list[str]:
    """The explanations in a written configuration; a setting that has a value is not called required any more."""
    found = [line.removesuffix(" Required.") for line in text.splitlines() if re.match("# [A-Z]", line)]
    assert len(found) > 50
    return found[1:]


def test_set_writes_settings_into_the_new_configuration_between_the_comments(one: Path) -> None:
    path = one / "etc" / "one_provider_mad" / "aws.toml"
    output_of(one, "install", "plain", "--provider", "ec2")
    plain = path.with_name("plain.toml").read_text()
    output_of(
        *(one, "install", "aws", "--provider", "ec2"),
        *sets("ec2.region=eu-west-1", "owner=one-prod", "orphans.interval=600", "ec2.defaults.INSTANCETYPE=t3.small"),
        *sets("ec2.defaults.TAGS=a=b", 'policy.forbidden_attributes=["USERDATA"]', 'call_timeout = 30 # "slow"'),
    )
    assert content(path) == {
        "provider": "ec2",
        "owner": "one-prod",
        "call_timeout": 30,
        "ec2": {"region": "eu-west-1", "defaults": {"INSTANCETYPE": "t3.small", "TAGS": "a=b"}},
        "capacity": {},
        "monitor": {},
        "policy": {"forbidden_attributes": ["USERDATA"]},
        "orphans": {"interval": 600},
        "spot": {},
        "prices": {},
        "budget": {},
        "idle": {},
        "metrics": {},
        "context": {"guest": "auto"},
        "security_groups": {},
    }
    assert comments_of(path.read_text()) == comments_of(plain)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "with blanks and 'quotes' and \"double\" ones",
        "back\\slash",
        "DEL \x7f, tab \t, line\nfeed",
        "größer 🙂",
        "# no comment",
        'x"\nowner = "other',
    ],
)
def test_a_text_of_set_arrives_character_by_character(one: Path, text: str) -> None:
    output_of(one, "install", "cloud", *sets(f"simulated.api_key={text}"))
    assert content(one / "etc" / "one_provider_mad" / "cloud.toml")["simulated"] == {
        "api_key": text,
        "prices": {},
        "faults": {},
    }


def test_set_writes_nested_tables_and_quoted_keys(one: Path) -> None:
    output_of(
        *(one, "install", "cloud"),
        *sets('simulated.instance_types."t 1".cpu=1', 'simulated.instance_types."t 1".memory=64'),
        *sets("simulated.faults.transient.rate=0.5", "simulated.faults.outage=true"),
    )
    assert content(one / "etc" / "one_provider_mad" / "cloud.toml")["simulated"] == {
        "instance_types": {"t 1": {"cpu": 1, "memory": 64}},
        "prices": {},
        "faults": {"transient": {"rate": 0.5}, "outage": True},
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            sets("simulated.latensy=1"),
            "cloud.toml: simulated.latensy is no setting of this release; check the spelling ({path})",
        ),
        (sets("simulated.latency=soon"), "cloud.toml: simulated.latency: expected `float`, got `str` ({path})"),
        (sets("orphans.interval=-1"), "cloud.toml: orphans.interval: expected `float` >= 1.0 ({path})"),
        (
            sets("capacity.instance_types=1"),
            "cloud.toml: capacity.instance_types: expected `object`, got `int` ({path})",
        ),
        (sets("owner=a b"), "cloud.toml: owner: expected up to 64 letters, digits, `_.:@-`, got 'a b'"),
        (["--provider", "ec2", *sets("call_timeout=9")], "cloud.toml: ec2.region is missing ({path})"),
        (sets("latency"), "--set expects KEY=VALUE with a key such as ec2.region, got 'latency'"),
        (sets("=1"), "--set expects KEY=VALUE with a key such as ec2.region, got '=1'"),
        (sets("a b=1"), "--set expects KEY=VALUE with a key such as ec2.region, got 'a b=1'"),
        (sets("owner=a", "owner=b"), "--set gives owner two values"),
        (sets("simulated=1", "simulated.latency=1"), "--set gives simulated.latency two values"),
        (sets("provider=ec2"), "name the provider with --provider"),
        (
            sets("simulated.faults={outage=true}"),
            "--set cannot write all these settings: write {path} without it, and edit that file",
        ),
    ],
)
def test_settings_that_the_drivers_could_not_use_are_refused_and_nothing_is_installed(
    one: Path, arguments: list[str], sentence: str
) -> None:
    before = everything(one)
    path = one / "etc" / "one_provider_mad" / "cloud.toml"
    expected = f"one-provider install: {sentence.format(path=path)}\n"
    assert output_of(one, "install", "cloud", *arguments, code=1) == expected
    assert everything(one) == before


def test_set_accepts_an_existing_file_with_these_settings_and_refuses_any_other(one: Path) -> None:
    path = one / "etc" / "one_provider_mad" / "cloud.toml"
    output_of(one, "install", "cloud", *sets("simulated.latency=0.5", "owner=mine"))
    before = path.read_text()
    assert f"exists: {path}" in output_of(one, "install", "cloud", *sets("simulated.latency=0.5", "owner=mine"))
    sentence = output_of(one, "install", "cloud", *sets("simulated.latency=1", "owner=mine", "call_timeout=9"), code=1)
    assert sentence == (
        f"one-provider install: {path} exists with other values of simulated.latency, call_timeout, and install changes"
        " no existing file: edit it\n"
    )
    assert path.read_text() == before
    path.write_text("no TOML")
    assert f"{path} exists and cannot be read: " in output_of(one, "install", "cloud", *sets("owner=mine"), code=1)


@pytest.mark.parametrize("kind", [kind for kind in BUILT_IN if kind != "scripts"])
def test_installed_configuration_is_valid_once_required_settings_are_set(kind: str, tmp_path: Path) -> None:
    text = configuration_of("cloud", kind, given={})
    assert text.count("# # ") == 0
    assert max(map(len, text.splitlines())) < 200
    places = Places(conf=tmp_path, var=tmp_path, log=tmp_path)
    given = text.replace("# region =\n", 'region = "eu-west-1"\n')
    defaults = re.sub(r"^# (\w+ = )", r"\1", given, flags=re.MULTILINE)
    assert defaults.count("\n# ") < given.count("\n# ") - 20
    for written in (given, defaults):
        (tmp_path / "cloud.toml").write_text(written)
        (tmp_path / "cloud.toml").chmod(0o600)
        assert build(load("cloud", places), places, print).name == kind


def test_links_to_a_packages_programs_lead_to_the_next_release_after_an_upgrade(tmp_path: Path) -> None:
    old, new = (tmp_path / "releases" / release / "bin" for release in ("0.1.0-5f", "0.2.0-7a"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/0.2.0-7a")
    assert lasting(new) == tmp_path / "current" / "bin"
    assert lasting(old) == old
    assert lasting(tmp_path / "checkout" / "bin") == tmp_path / "checkout" / "bin"


# The question


def policy_of(one: Path, name: str) -> str:
    return load(name, Places.from_environment(surroundings(one))).settings.orphans.policy


@pytest.mark.parametrize(
    ("typed", "policy"),
    [
        pytest.param("\n", "terminate-done", id="recommended"),
        pytest.param("destroy\nreport\n", "report", id="asked-again"),
    ],
)
def test_install_at_a_terminal_asks_what_may_become_of_instances_without_a_vm(
    one: Path, typed: str, policy: str
) -> None:
    code, printed = on_a_terminal(one, "install", "aws", "--provider", "ec2", typed=typed)
    assert code == 0, printed
    assert "terminates the instance of a VM that is certainly DONE, ten minutes later (recommended)" in printed
    assert policy_of(one, "aws") == policy
    code, printed = on_a_terminal(one, "install", "aws", "--provider", "ec2")
    assert (code, "recommended" in printed) == (0, False), printed


def test_install_without_an_answer_does_nothing(one: Path) -> None:
    before = everything(one)
    code, printed = on_a_terminal(one, "install", "aws", "--provider", "ec2", typed="\x04")
    assert code != 0, printed
    assert everything(one) == before


def test_an_answer_joins_the_settings_that_are_given(one: Path) -> None:
    given = ("--set", "orphans.interval=600", "--set", "ec2.region=eu-west-1")
    code, printed = on_a_terminal(one, "install", "aws", "--provider", "ec2", *given, typed="\n")
    assert code == 0, printed
    settings = load("aws", Places.from_environment(surroundings(one))).settings
    assert (settings.orphans.policy, settings.orphans.interval) == ("terminate-done", 600)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--provider", "simulated"), id="free-of-charge"),
        pytest.param(("--provider", "ec2", "--dry-run"), id="dry-run"),
        pytest.param(("--provider", "ec2", "--json"), id="json"),
        pytest.param(("--provider", "ec2", "--set", "orphans.policy=report", "--set", "ec2.region=x-1"), id="given"),
    ],
)
def test_install_does_not_ask_where_there_is_nothing_to_choose(one: Path, arguments: tuple[str, ...]) -> None:
    code, printed = on_a_terminal(one, "install", "aws", *arguments)
    assert (code, "recommended" in printed) == (0, False), printed
