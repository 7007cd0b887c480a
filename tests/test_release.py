"""tools/release.py in small checkouts: what it refuses, writes and compares; a whole release in a clone of this one."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from one_provider_mad import __version__
from tests.waiting import HANG

ROOT = Path(__file__).parent.parent
COMMITTED = 1_700_000_000  # 14 November 2023

UNRELEASED = """\
# Changelog

## [Unreleased]

To be 0.2.0.

### Added

- A second cloud.

## [0.1.0] - 2023-10-01

### Added

- A cloud.

[Unreleased]: https://example.org/compare/v0.1.0...HEAD
[0.1.0]: https://example.org/releases/tag/v0.1.0
"""
RELEASED = UNRELEASED.replace("[Unreleased]\n\nTo be 0.2.0.", "[0.2.0] - 2023-11-14").replace(
    "[Unreleased]: https://example.org/compare/v0.1.0...HEAD", "[0.2.0]: https://example.org/compare/v0.1.0...v0.2.0"
)
BEGUN = RELEASED.replace("## [0.2.0]", "## [Unreleased]\n\nTo be 0.3.0.\n\n## [0.2.0]").replace(
    "[0.2.0]: ", "[Unreleased]: https://example.org/compare/v0.2.0...HEAD\n[0.2.0]: "
)


@dataclass(frozen=True)
class Done:
    """How one command of the tool ended."""

    code: int
    stdout: str
    stderr: str


class Checkout:
    """A git checkout with a version and a changelog."""

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root = root
        self.tool = tool

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, version: str, changelog: str) -> None:
        self.write(".gitignore", "dist/\n")
        self.write("one_provider_mad/__init__.py", f'"""Drivers."""\n\n__version__ = "{version}"\n')
        self.write("CHANGELOG.md", changelog)
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Change something")

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, timeout=HANG)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def release(self, *arguments: str) -> Done:
        """Run the tool as if it were in this checkout."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
            patch.setattr(self.tool, "ROOT", self.root)
            code = self.tool.main(arguments)
        return Done(code, stdout.getvalue(), stderr.getvalue())

    def refusal(self, *arguments: str) -> str:
        """The sentence with which the tool refuses."""
        done = self.release(*arguments)
        assert (done.code, done.stdout) == (1, "")
        assert re.fullmatch(r"make: .+\n", done.stderr), "one sentence, on one line"
        return done.stderr.removeprefix("make: ").strip()

    def text(self, name: str) -> str:
        return (self.root / name).read_text()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools")
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    for name in [name for name in os.environ if name.startswith(("GIT_", "SOURCE_DATE_EPOCH"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for whose in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{whose}_DATE", f"@{COMMITTED} +0000")
    return Checkout(tmp_path / "a checkout", tool)


# What must not be released


@pytest.mark.parametrize(
    ("version", "changelog", "sentence"),
    [
        pytest.param(
            "0.2.0.dev0",
            UNRELEASED,
            "0.2.0.dev0 is no release: run `make version VERSION=0.2.0`, and commit what it writes",
            id="a-version-between-releases",
        ),
        pytest.param(
            "0.2",
            RELEASED,
            "one_provider_mad/__init__.py has 0.2, which is neither a release's version nor one with .dev0",
            id="no-version",
        ),
        pytest.param(
            "0.3.0",
            RELEASED,
            "CHANGELOG.md has no section `## [0.3.0] - YYYY-MM-DD`: write one, with its date",
            id="a-version-without-a-section",
        ),
        pytest.param(
            "0.2.0",
            RELEASED.replace(" - 2023-11-14", ""),
            "CHANGELOG.md has no section `## [0.2.0] - YYYY-MM-DD`: write one, with its date",
            id="a-section-without-a-date",
        ),
        pytest.param(
            "0.2.0",
            RELEASED.replace("- A second cloud.", ""),
            "CHANGELOG.md has no entry under [0.2.0]: say what is new for operators",
            id="an-empty-section",
        ),
        pytest.param(
            "0.2.0",
            BEGUN,
            "CHANGELOG.md has a section [Unreleased] beside [0.2.0]: merge them",
            id="a-section-that-would-be-left-out",
        ),
    ],
)
def test_a_release_is_refused_with_one_sentence(
    checkout: Checkout, version: str, changelog: str, sentence: str
) -> None:
    checkout.commit(version, changelog)
    assert checkout.refusal("check") == sentence


def test_a_tree_with_changes_is_refused_with_their_names(checkout: Checkout) -> None:
    checkout.commit("0.2.0", RELEASED)
    assert checkout.release("check").code == 0
    checkout.write("CHANGELOG.md", RELEASED + "\n")
    checkout.write("notes", "")
    for command in (["check"], ["build"], ["version", "0.3.0.dev0"]):
        assert checkout.refusal(*command) == "the tree differs from its commit: commit or remove CHANGELOG.md, notes"


def test_a_version_that_has_a_tag_is_refused(checkout: Checkout) -> None:
    checkout.commit("0.2.0", RELEASED)
    checkout.git("tag", "v0.2.0")
    commit = checkout.git("rev-parse", "--short", "HEAD").strip()
    sentence = f"the tag v0.2.0 exists, at {commit}: a version names one commit, choose a higher one"
    assert checkout.refusal("check") == sentence


def test_a_folder_without_git_is_refused(checkout: Checkout) -> None:
    checkout.commit("0.2.0", RELEASED)
    shutil.rmtree(checkout.root / ".git")
    done = checkout.release("check")
    assert done.code == 1
    assert "not a git repository" in done.stderr


# The version and its section


def test_a_release_gets_the_section_unreleased_and_the_date_of_the_commit(checkout: Checkout) -> None:
    checkout.commit("0.2.0.dev0", UNRELEASED)
    done = checkout.release("version", "0.2.0")
    assert (done.code, done.stderr) == (0, "")
    assert "git commit -am 'Release 0.2.0'" in done.stdout
    assert checkout.text("CHANGELOG.md") == RELEASED
    assert checkout.text("one_provider_mad/__init__.py") == '"""Drivers."""\n\n__version__ = "0.2.0"\n'

    checkout.git("commit", "--quiet", "--all", "--message", "Release 0.2.0")
    assert checkout.release("check").stdout.startswith("one-provider-mad 0.2.0, commit ")


def test_source_date_epoch_takes_precedence_over_the_time_of_the_commit(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.commit("0.2.0.dev0", UNRELEASED)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1704067199")
    assert checkout.release("version", "0.2.0").code == 0
    assert checkout.text("CHANGELOG.md") == RELEASED.replace("2023-11-14", "2023-12-31")


def test_after_a_release_the_next_section_begins(checkout: Checkout) -> None:
    checkout.commit("0.2.0", RELEASED)
    done = checkout.release("version", "0.3.0.dev0")
    assert (done.code, done.stderr) == (0, "")
    assert "git commit -am 'Begin 0.3.0'" in done.stdout
    assert checkout.text("CHANGELOG.md") == BEGUN


def test_the_version_to_come_can_be_raised(checkout: Checkout) -> None:
    checkout.commit("0.2.0.dev0", UNRELEASED)
    assert checkout.release("version", "1.0.0.dev0").code == 0
    assert checkout.text("CHANGELOG.md") == UNRELEASED.replace("To be 0.2.0.", "To be 1.0.0.")


def test_a_changelog_without_links_gets_none(checkout: Checkout) -> None:
    def without_links(text: str) -> str:
        return re.sub(r"^\[.+\]: .+\n", "", text, flags=re.MULTILINE)

    checkout.commit("0.2.0.dev0", without_links(UNRELEASED))
    assert checkout.release("version", "0.2.0").code == 0
    assert checkout.text("CHANGELOG.md") == without_links(RELEASED)
    checkout.git("commit", "--quiet", "--all", "--message", "Release 0.2.0")
    assert checkout.release("version", "0.3.0.dev0").code == 0
    assert checkout.text("CHANGELOG.md") == without_links(BEGUN)


@pytest.mark.parametrize(
    ("version", "changelog", "sentence"),
    [
        pytest.param("", UNRELEASED, "VERSION= is no version: 0.2.0 is a release's, ", id="none"),
        pytest.param("v0.2.0", UNRELEASED, "VERSION=v0.2.0 is no version: ", id="a-tag"),
        pytest.param("0.2.0.dev0", UNRELEASED, "0.2.0.dev0 is not above 0.2.0.dev0, which ", id="the-same"),
        pytest.param("0.1.9", UNRELEASED, "0.1.9 is not above 0.2.0.dev0, which ", id="an-earlier-one"),
        pytest.param("0.4.0", UNRELEASED, "the tag v0.4.0 exists, at ", id="a-released-one"),
        pytest.param("0.3.0", RELEASED, "CHANGELOG.md has no entry under [Unreleased]: ", id="without-a-section"),
        pytest.param(
            "0.2.0",
            UNRELEASED.replace("- A second cloud.\n", ""),
            "CHANGELOG.md has no entry under [Unreleased]: ",
            id="without-an-entry",
        ),
        pytest.param("0.2.0", BEGUN, "CHANGELOG.md has a section [0.2.0]: ", id="a-section-that-exists"),
    ],
)
def test_a_version_that_cannot_be_is_refused_and_nothing_is_written(
    checkout: Checkout, version: str, changelog: str, sentence: str
) -> None:
    checkout.commit("0.2.0.dev0", changelog)
    checkout.git("tag", "v0.4.0")
    assert checkout.refusal("version", version).startswith(sentence)
    assert checkout.git("status", "--porcelain") == ""


def test_the_changelog_of_this_tree_goes_with_its_version(tool: ModuleType) -> None:
    latest, section = next(iter(tool.changelog.sections((ROOT / "CHANGELOG.md").read_text()).items()))
    if __version__.endswith(".dev0"):
        promised = f"To be {__version__.removesuffix('.dev0')}.\n"
        assert (latest, section.body[: len(promised)]) == ("Unreleased", promised)
    else:
        assert (latest, section.has_entries()) == (__version__, True)


# Reproducible


TREE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "tiny"
version = "1"
""",
    "MANIFEST.in": "include run\n",
    "tiny.py": "",
    "run": "#!/bin/sh\n",
}


def sdist_of(folder: Path, *, umask: int, modified: int) -> Path:
    """The sdist that setuptools makes of the tree, as of a checkout of another time and user."""
    for name, text in TREE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod((0o777 if name == "run" else 0o666) & ~umask)
        os.utime(path, (modified, modified))
    build = "from setuptools.build_meta import build_sdist; print(build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=folder, capture_output=True, check=True, timeout=HANG)
    return folder / "dist" / "tiny-1.tar.gz"


def contents(sdist: Path) -> dict[str, bytes]:
    with tarfile.open(sdist) as tar:
        files = {each.name: tar.extractfile(each) for each in tar.getmembers()}
        return {name: file.read() if file else b"" for name, file in files.items()}


def test_normalised_sdists_of_two_checkouts_are_the_same_bytes(tool: ModuleType, tmp_path: Path) -> None:
    one = sdist_of(tmp_path / "one", umask=0o022, modified=COMMITTED)
    other = sdist_of(tmp_path / "the other", umask=0o002, modified=COMMITTED + 5)
    assert any("time" in difference for difference in tool.differences(one, other)), "setuptools' are not the same"
    before = contents(one)

    for sdist in (one, other):
        sdist.write_bytes(tool.normalised(sdist.read_bytes(), COMMITTED))

    assert tool.differences(one, other) == []
    assert one.read_bytes() == other.read_bytes()
    assert contents(one) == before
    with tarfile.open(one) as tar:
        members = tar.getmembers()
    assert [each.name for each in members] == sorted(before)
    assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in members} == {(COMMITTED, 0, 0, "", "")}
    modes = {each.name: each.mode for each in members}
    assert (modes["tiny-1"], modes["tiny-1/run"], modes["tiny-1/tiny.py"]) == (0o755, 0o755, 0o644)


def wheel_of(path: Path, content: str, **written: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in written.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content if name == "tiny" else "")
    return path


@pytest.mark.parametrize(
    ("content", "written", "expected"),
    [
        pytest.param("1", {"tiny": 0o644, "more": 0o644}, [], id="the-same"),
        pytest.param("2", {"tiny": 0o644, "more": 0o644}, ["tiny: content"], id="content"),
        pytest.param("1", {"tiny": 0o664, "more": 0o644}, ["tiny: mode"], id="mode"),
        pytest.param("1", {"tiny": 0o644}, ["more is in one only"], id="missing"),
        pytest.param(
            "1",
            {"more": 0o644, "tiny": 0o644},
            ["the same members, in another order or packed otherwise"],
            id="order",
        ),
    ],
)
def test_what_differs_between_two_builds_is_named(
    tool: ModuleType, tmp_path: Path, content: str, written: dict[str, int], expected: list[str]
) -> None:
    one = wheel_of(tmp_path / "one.whl", "1", tiny=0o644, more=0o644)
    assert tool.differences(one, wheel_of(tmp_path / "other.whl", content, **written)) == expected


BUILD = '''\
#!{python}
"""Pretends to be a Python with the module build, of a project with the time of the build in its wheel."""
import io, os, sys, tarfile, zipfile
from pathlib import Path
made = Path(sys.argv[sys.argv.index("--outdir") + 1])
made.mkdir()
with tarfile.open(made / "tiny-1.tar.gz", "w:gz"):
    pass
with zipfile.ZipFile(made / "tiny-1-py3-none-any.whl", "w") as wheel:
    wheel.writestr(zipfile.ZipInfo("tiny.py"), os.environ["TZ"])
'''


def test_builds_that_differ_are_not_released(
    tool: ModuleType, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.commit("0.2.0", RELEASED)
    python = tmp_path / "python"
    python.write_text(BUILD.format(python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr(tool, "tools", lambda root: python)
    dist = tmp_path / "dist"
    with pytest.raises(tool.ReleaseError, match=r"^two builds of tiny-1-py3-none-any.whl differ: tiny.py: content$"):
        tool.build(tool.Checkout(checkout.root), dist)
    assert not dist.exists()


def test_an_sdist_has_the_files_that_git_tracks_and_no_others(tool: ModuleType, tmp_path: Path) -> None:
    sdist = tmp_path / "tiny-1.tar.gz"
    with tarfile.open(sdist, "w:gz") as tar:
        for name in ("PKG-INFO", "one_provider_mad.egg-info/SOURCES.txt", "tiny.py"):
            tar.addfile(tarfile.TarInfo(f"tiny-1/{name}"), io.BytesIO())
    tool.check_files(sdist, ["tiny.py", ".gitignore", ".ci/run"])
    with pytest.raises(tool.ReleaseError, match=r"^the sdist lacks docs/page.md: name it in MANIFEST.in$"):
        tool.check_files(sdist, ["tiny.py", "docs/page.md"])
    with pytest.raises(tool.ReleaseError, match=r"^the sdist has tiny.py, which git does not track: see MANIFEST.in$"):
        tool.check_files(sdist, [])


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_manifest_names_every_folder_that_git_tracks(tool: ModuleType) -> None:
    """`make dist` compares each file; this says it before a release."""
    named = set(re.findall(r"^graft (\S+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE))
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=HANG)
    tracked = [name for name in listed.stdout.splitlines() if not tool.NOT_IN_SDIST.fullmatch(name)]
    assert named == {name.partition("/")[0] for name in tracked if "/" in name}


# Checksums and signature


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key of a gpg of its own, in a short path: a socket's may have 107 bytes."""
    if shutil.which("gpg") is None:
        pytest.skip("there is no gpg")
    with tempfile.TemporaryDirectory(prefix="gpg-") as folder:
        monkeypatch.setenv("GNUPGHOME", folder)
        name = "release@example.org"
        made = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "1d"]
        subprocess.run(made, capture_output=True, check=True, timeout=HANG)
        yield name
        subprocess.run(["gpgconf", "--kill", "all"], check=True, timeout=HANG)


def test_all_that_is_released_has_a_signed_checksum_and_nothing_is_tagged(checkout: Checkout, key: str) -> None:
    checkout.commit("0.2.0", RELEASED)
    released = (
        "one_provider_mad-0.2.0.tar.gz",
        "one-provider-mad_0.2.0-1_amd64.deb",
        "one-provider-mad-0.2.0.cdx.json",
    )
    for name in (*released, "notes", "SHA256SUMS.asc", "roots/bookworm"):
        checkout.write(f"dist/{name}", name)
    assert checkout.release("check", "--key", key).code == 0

    done = checkout.release("finish", "--key", key)

    assert (done.code, done.stderr) == (0, "")
    assert f"signed by {key}" in done.stdout
    dist = checkout.root / "dist"
    listed = checkout.text("dist/SHA256SUMS").splitlines()
    assert [line.split("  ")[1] for line in listed] == sorted(released)
    for command in (["sha256sum", "--check", "--strict", "SHA256SUMS"], ["gpg", "--verify", "SHA256SUMS.asc"]):
        subprocess.run(command, cwd=dist, capture_output=True, check=True, timeout=HANG)
    assert checkout.git("tag") == ""
    for command_to_run in re.findall(r"^  (git tag .+)$", done.stdout, re.MULTILINE):
        assert f"--local-user={key}" in command_to_run
        assert command_to_run.endswith(f"v0.2.0 {checkout.git('rev-parse', '--short', 'HEAD').strip()}")


def test_a_key_that_gpg_has_not_is_refused_before_anything_is_built(checkout: Checkout, key: str) -> None:
    checkout.commit("0.2.0", RELEASED)
    sentence = "gpg has no secret key other@example.org: `gpg --list-secret-keys` shows those that it has"
    assert checkout.refusal("check", "--key", f"other@{key.partition('@')[2]}") == sentence


def test_without_a_key_there_is_no_signature(checkout: Checkout) -> None:
    checkout.commit("0.2.0", RELEASED)
    checkout.write("dist/one_provider_mad-0.2.0.tar.gz", "")
    done = checkout.release("finish")
    assert "unsigned (KEY=... signs it)" in done.stdout
    assert not (checkout.root / "dist/SHA256SUMS.asc").exists()


# The whole


@pytest.mark.soak  # installs the tools and the drivers' packages, and builds twice: a minute
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_release_of_this_commit_is_built_tried_and_signed(checkout: Checkout, key: str) -> None:
    clone = checkout
    subprocess.run(["git", "clone", "--quiet", ROOT, clone.root], check=True, timeout=HANG)
    assert clone.release("version", "999.0.0.dev0").code == 0
    text = clone.text("CHANGELOG.md").replace("To be 999.0.0.\n", "- A release.\n", 1)
    clone.write("CHANGELOG.md", text)
    clone.git("commit", "--quiet", "--all", "--message", "Add an entry")
    assert clone.release("version", "999.0.0").code == 0
    clone.git("commit", "--quiet", "--all", "--message", "Release 999.0.0")

    for command in (["check", "--key", key], ["build"], ["install"], ["finish", "--key", key]):
        done = clone.release(*command)
        assert (done.code, done.stderr) == (0, ""), done.stdout

    assert sorted(path.name for path in (clone.root / "dist").iterdir()) == [
        "SHA256SUMS",
        "SHA256SUMS.asc",
        "one_provider_mad-999.0.0-py3-none-any.whl",
        "one_provider_mad-999.0.0.tar.gz",
    ]
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("tag", "--list", "v999*") == ""
