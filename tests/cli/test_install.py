"""`one-provider install`: links and a first configuration, without replacing existing files."""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
from pathlib import Path

import pytest

from one_provider_mad.cli.install import configuration_of
from one_provider_mad.providers.registry import BUILT_IN, build
from one_provider_mad.settings import Places, load
from tests.cli.running import json_of, output_of, ran

PROGRAMS = ("one_vmm_provider", "one_im_provider")
BIN = Path(sys.executable).parent


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
    if os.geteuid() == 0:
        os.chown(one / "etc", 0, 4712)  # as OpenNebula's packages create it
        os.chown(one / "var", 4711, 4712)
    code, printed, errors = ran(one, "install", "cloud")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[-2] == f"written: {one / 'etc' / 'one_provider_mad' / 'cloud.toml'}"
    for program in PROGRAMS:
        assert (one / "lib" / "mads" / program).resolve() == (BIN / program).resolve()
    path = one / "etc" / "one_provider_mad" / "cloud.toml"
    assert (mode(path), mode(path.parent)) == (0o600, 0o750)
    if os.geteuid() == 0:
        owners = {(each.stat().st_uid, each.stat().st_gid) for each in (path, path.parent)}
        assert owners == {(4711, 4712)}


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
            ("x", "--mads", "/nowhere"),
            "one-provider install: /nowhere does not exist: name OpenNebula's drivers folder",
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


@pytest.mark.parametrize("kind", [kind for kind in BUILT_IN if kind != "scripts"])
def test_installed_configuration_is_valid_once_required_settings_are_set(kind: str, tmp_path: Path) -> None:
    text = configuration_of("cloud", kind)
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
