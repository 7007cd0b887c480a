"""Makes a release, up to the steps that others see: nothing is tagged, pushed or uploaded.

`make version` runs `version`, which writes the version and its changelog section, for a person to read and commit.
`make release` runs the others, from the clean tree of that commit: `check` refuses what must not be released; `build`
makes the sdist and the wheel, twice in different folders, and compares them byte for byte; `install` tries the wheel in
an environment of its own; `finish` writes checksums and, with a key, signs them. CONTRIBUTING.md has the steps,
decision 35 how a version is chosen.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import changelog

ROOT = Path(__file__).resolve().parent.parent
NAME = "one-provider-mad"
PACKAGE = NAME.replace("-", "_")
VERSION_FILE = f"{PACKAGE}/__init__.py"
CHANGELOG = "CHANGELOG.md"
RUNTIME = "requirements/runtime.txt"
TOOLS = "requirements/release.txt"
SUMS = "SHA256SUMS"
RELEASED = re.compile(rf"{NAME.replace('-', '[-_]')}[-_].*|{SUMS}(\.asc)?")
"""Names in dist/ that a release writes: its own, and those of `make packages` and `make sbom`."""

NOT_IN_SDIST = re.compile(r"\.(ci/.*|gitignore|pre-commit-config\.yaml)")
MADE_BY_SETUPTOOLS = re.compile(rf"PKG-INFO|setup\.cfg|{PACKAGE}\.egg-info/.*")

_ASSIGNMENT = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)
_VERSION = re.compile(r"(?P<number>\d+\.\d+\.\d+)(?P<dev>\.dev0)?")


class ReleaseError(Exception):
    """The release cannot go on; the message is one sentence, with the remedy."""


class Checkout:
    """The git checkout that is released.

    Args:
        root: its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> str:
        """Return what git prints.

        Raises:
            ReleaseError: git fails, or this is no checkout.
        """
        return run(["git", "-C", str(self.root), *arguments]).decode().strip()

    def version(self) -> str:
        """Return the version, from the one place that has it."""
        match = _ASSIGNMENT.search((self.root / VERSION_FILE).read_text())
        if match is None:
            raise ReleaseError(f'{VERSION_FILE} has no line `__version__ = "..."`')
        return match["version"]

    def changelog(self) -> str:
        """Return the text of the changelog."""
        return (self.root / CHANGELOG).read_text()

    def epoch(self) -> int:
        """Return the time of everything that is built: SOURCE_DATE_EPOCH, or that of the commit; seconds since 1970."""
        return int(os.environ.get("SOURCE_DATE_EPOCH") or self.git("log", "-1", "--format=%ct"))

    def refuse_changes(self) -> None:
        """Refuse a tree that is not the commit's."""
        if changed := self.git("status", "--porcelain").splitlines():
            names = ", ".join(line.strip().partition(" ")[2].strip() for line in changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise ReleaseError(f"the tree differs from its commit: commit or remove {names}{more}")

    def refuse_tag(self, version: str) -> None:
        """Refuse a version that was released."""
        if self.git("tag", "--list", f"v{version}"):
            commit = self.git("rev-parse", "--short", f"v{version}^{{commit}}")
            raise ReleaseError(
                f"the tag v{version} exists, at {commit}: a version names one commit, choose a higher one"
            )


# The version and its changelog section


def set_version(checkout: Checkout, version: str) -> None:
    """Write the version: a release's turns the section [Unreleased] into its own, one with .dev0 begins the next.

    Raises:
        ReleaseError: the version is malformed, not above the tree's, or released; or the changelog has nothing new; or
            the tree has changes, which would be committed with it.
    """
    checkout.refuse_changes()
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ReleaseError(f"VERSION={version} is no version: 0.2.0 is a release's, 0.2.0.dev0 the tree's before it")
    if _order(version) <= _order(checkout.version()):
        raise ReleaseError(f"{version} is not above {checkout.version()}, which {VERSION_FILE} has")
    checkout.refuse_tag(match["number"])
    text = checkout.changelog()
    found = changelog.sections(text)
    unreleased = found.get(changelog.UNRELEASED)
    if match["dev"]:
        text = changelog.begin(text, match["number"])
    elif version in found:
        raise ReleaseError(f"{CHANGELOG} has a section [{version}]: merge it with [{changelog.UNRELEASED}]")
    elif unreleased is None or not unreleased.has_entries():
        raise ReleaseError(f"{CHANGELOG} has no entry under [{changelog.UNRELEASED}]: say what is new for operators")
    else:
        text = changelog.close(text, version, _date(checkout.epoch()))
    (checkout.root / CHANGELOG).write_text(text)
    file = checkout.root / VERSION_FILE
    file.write_text(_ASSIGNMENT.sub(f'__version__ = "{version}"', file.read_text()))
    subject = f"Begin {match['number']}" if match["dev"] else f"Release {version}"
    print(f"Wrote {version} into {VERSION_FILE} and {CHANGELOG}. Read `git diff`, then:\n  git commit -am '{subject}'")


def _order(version: str) -> tuple[tuple[int, ...], bool]:
    """Return a key by which versions sort: 0.2.0.dev0 before 0.2.0."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ReleaseError(f"{VERSION_FILE} has {version}, which is neither a release's version nor one with .dev0")
    return tuple(map(int, match["number"].split("."))), match["dev"] is None


def _date(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).date().isoformat()


# What must not be released


def check(checkout: Checkout, key: str | None) -> None:
    """Refuse what must not be released.

    Raises:
        ReleaseError: the reason.
    """
    checkout.refuse_changes()
    version = checkout.version()
    _, is_release = _order(version)
    if not is_release:
        number = version.removesuffix(".dev0")
        raise ReleaseError(f"{version} is no release: run `make version VERSION={number}`, and commit what it writes")
    found = changelog.sections(checkout.changelog())
    section = found.get(version)
    if section is None or section.date is None:
        raise ReleaseError(f"{CHANGELOG} has no section `## [{version}] - YYYY-MM-DD`: write one, with its date")
    if not section.has_entries():
        raise ReleaseError(f"{CHANGELOG} has no entry under [{version}]: say what is new for operators")
    if changelog.UNRELEASED in found:
        raise ReleaseError(f"{CHANGELOG} has a section [{changelog.UNRELEASED}] beside [{version}]: merge them")
    checkout.refuse_tag(version)
    if key:
        _check_key(key)
    print(f"{NAME} {version}, commit {checkout.git('rev-parse', '--short', 'HEAD')}")


def _check_key(key: str) -> None:
    if shutil.which("gpg") is None:
        raise ReleaseError("KEY is given, and there is no gpg: install it, on Debian from gnupg")
    if subprocess.run(["gpg", "--batch", "--list-secret-keys", "--", key], capture_output=True, check=False).returncode:
        raise ReleaseError(f"gpg has no secret key {key}: `gpg --list-secret-keys` shows those that it has")


# The sdist and the wheel


def build(checkout: Checkout, dist: Path) -> None:
    """Build both from the commit, twice, into dist/; nothing of the tree but the commit is used.

    Raises:
        ReleaseError: the tree differs from the commit, a build fails, the two differ, or a check of them fails.
    """
    checkout.refuse_changes()
    with step("tools"):
        python = tools(checkout.root)
    with tempfile.TemporaryDirectory(prefix="one-provider-release-") as folder:
        # What may differ between two machines: the path, the order of files, the time zone, the order of sets.
        first, second = Path(folder) / "a", Path(folder) / "another folder"
        with step("built twice, the same bytes"):
            with ThreadPoolExecutor(2) as pool:
                one_build = pool.submit(_build_once, checkout, python, first, {"TZ": "UTC", "PYTHONHASHSEED": "1"})
                elsewhere = {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}
                other_build = pool.submit(_build_once, checkout, python, second, elsewhere, backwards=True)
                sdist, wheel = one_build.result()
            for one, other in zip((sdist, wheel), other_build.result(), strict=True):
                if found := differences(one, other):
                    raise ReleaseError(f"two builds of {one.name} differ: {'; '.join(found[:5])}")
        with step("checked: every file in the sdist, twine, check-wheel-contents"):
            check_files(sdist, checkout.git("ls-files").splitlines())
            run([str(python), "-m", "twine", "check", "--strict", str(sdist), str(wheel)])
            package = first / "tree" / PACKAGE
            run([str(python), "-m", "check_wheel_contents", "--package", str(package), str(wheel)])
        dist.mkdir(exist_ok=True)
        for path in dist.iterdir():
            if path.is_file() and RELEASED.fullmatch(path.name):
                path.unlink()
        for path in (sdist, wheel):
            made = Path(shutil.copy(path, dist))
            print(f"{checksum(made)}  {os.path.relpath(made)}  {made.stat().st_size / 1e3:.0f} kB")


def _build_once(
    checkout: Checkout, python: Path, folder: Path, surroundings: dict[str, str], *, backwards: bool = False
) -> tuple[Path, Path]:
    """Build the sdist, and from it the wheel; return both."""
    tree, made = folder / "tree", folder / "made"
    # A wheel keeps the files' modes. git's own default of 0002 lets the group write.
    archive = run(["git", "-C", str(checkout.root), "-c", "tar.umask=0022", "archive", "--format=tar", "HEAD"])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4; Debian 12 has 3.11.2
        members = tar.getmembers()
        tar.extractall(tree, members=reversed(members) if backwards else members)
    epoch = checkout.epoch()
    settings = {"SOURCE_DATE_EPOCH": str(epoch), "PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    command = [str(python), "-m", "build", "--no-isolation", "--outdir", str(made), str(tree)]
    run(command, environment=settings | surroundings, umask=0o022)
    (sdist,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    sdist.write_bytes(normalised(sdist.read_bytes(), epoch))
    return sdist, wheel


def normalised(sdist: bytes, epoch: int) -> bytes:
    """Return the .tar.gz with the same files, in order of their names, all of one time, of root, and of two modes.

    setuptools writes the time of the build, the files' own times and modes, and the user's name into an sdist, and does
    not read SOURCE_DATE_EPOCH for it; for wheels it does.
    """
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(sdist)) as old,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            clean = tarfile.TarInfo(member.name)
            clean.type, clean.linkname, clean.size, clean.mtime = member.type, member.linkname, member.size, epoch
            clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(clean, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), 9, mtime=epoch)


def differences(one: Path, other: Path) -> list[str]:
    """Return which members of two archives differ, and how; [] if the files are the same, byte for byte."""
    if one.read_bytes() == other.read_bytes():
        return []
    first, second = _members(one), _members(other)
    found = [f"{name} is in one only" for name in sorted(first.keys() ^ second.keys())]
    for name in sorted(first.keys() & second.keys()):
        changed = [field for field, value in first[name].items() if value != second[name][field]]
        found += [f"{name}: {', '.join(changed)}"] if changed else []
    return found or ["the same members, in another order or packed otherwise"]


def _members(path: Path) -> dict[str, dict[str, object]]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {
                each.filename: {"content": archive.read(each), "time": each.date_time, "mode": each.external_attr}
                for each in archive.infolist()
            }
    with tarfile.open(path) as tar:
        return {
            each.name: {
                "content": (file := tar.extractfile(each)) and file.read(),
                "time": each.mtime,
                "mode": each.mode,
                "owner": (each.uid, each.gid, each.uname, each.gname),
            }
            for each in tar.getmembers()
        }


def check_files(sdist: Path, tracked: Sequence[str]) -> None:
    """Refuse an sdist without a file that git tracks, or with one that it does not: MANIFEST.in lists what goes in."""
    with tarfile.open(sdist) as tar:
        packed = {member.name.partition("/")[2] for member in tar.getmembers() if not member.isdir()}
    wanted = {name for name in tracked if not NOT_IN_SDIST.fullmatch(name)}
    if missing := sorted(wanted - packed):
        raise ReleaseError(f"the sdist lacks {', '.join(missing[:5])}: name it in MANIFEST.in")
    if surplus := sorted(name for name in packed - wanted if not MADE_BY_SETUPTOOLS.fullmatch(name)):
        raise ReleaseError(f"the sdist has {', '.join(surplus[:5])}, which git does not track: see MANIFEST.in")


# Environments


def tools(root: Path) -> Path:
    """Return the Python of an environment with the tools of requirements/release.txt; make it if needed."""
    locked = root / TOOLS
    wanted = hashlib.sha256(locked.read_bytes() + sys.version.encode()).hexdigest()
    folder = root / "build" / "release-tools"
    stamp = folder / "made-from"
    if not stamp.exists() or stamp.read_text() != wanted:
        _install_into(folder, ["--require-hashes", "--requirement", str(locked)])
        stamp.write_text(wanted)
    return folder / "bin" / "python"


def _install_into(folder: Path, *installs: Sequence[str]) -> None:
    """Make an environment there, replacing what was there, and install into it with the pip of this Python."""
    venv.EnvBuilder(with_pip=False, symlinks=True, clear=True).create(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    for install in installs:
        run([*pip, *install])


def install(checkout: Checkout, dist: Path) -> None:
    """Install the wheel into a fresh environment, with the locked packages if there is a lock, and play a DEPLOY there.

    The environment stays: build/released has exactly what the wheel and the lock install.

    Raises:
        ReleaseError: it cannot be installed, or a program does not answer as it must.
    """
    version = checkout.version()
    (wheel,) = dist.glob(f"{PACKAGE}-{version}-*.whl")
    folder = checkout.root / "build" / "released"
    lock = checkout.root / RUNTIME
    with step("installed into a fresh environment"):
        if lock.exists():
            locked = ["--require-hashes", "--requirement", str(lock)]
            _install_into(folder, locked, ["--no-deps", str(wheel)])
        else:
            _install_into(folder, [f"{wheel}[ec2,metrics]"])
        run([sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "check"])
    with step("tried: --version, INIT, DEPLOY"), tempfile.TemporaryDirectory() as one:
        try_programs(folder / "bin", version, Path(one))


def try_programs(programs: Path, version: str, one: Path) -> None:
    """Run the three programs in an empty ONE_LOCATION; refuse answers other than OpenNebula expects."""
    for name in ("etc", "var"):
        (one / name).mkdir()
    environment = {"PATH": os.defpath, "HOME": str(one), "ONE_LOCATION": str(one), "LC_ALL": "C.UTF-8"}

    def ask(*command: str, text: bytes = b"") -> str:
        path, *arguments = command
        return run([str(programs / path), *arguments], environment=environment, text=text, folder=one).decode()

    for program in ("one-provider", "one_vmm_provider", "one_im_provider"):
        _expect(f"{program} --version", ask(program, "--version"), f"{NAME} {re.escape(version)}\n")
    line = ask("one-provider", "encode", "DEPLOY", "--vm-id", "7")
    answers = ask("one_vmm_provider", "-t 15 -r 0 simulated", text=b"INIT\n" + line.encode())
    _expect("one_vmm_provider", answers, r"INIT SUCCESS\n(LOG .*\n)*DEPLOY SUCCESS 7 sim-\w+\n(LOG .*\n)*")


def _expect(program: str, answer: str, pattern: str) -> None:
    if re.fullmatch(pattern, answer) is None:
        raise ReleaseError(f"{program} of the wheel answered {answer!r}")


# Checksums and signature


def finish(checkout: Checkout, dist: Path, key: str | None) -> None:
    """Write the checksums of all that is released, sign them with the key, and say what is left for a person to do."""
    version = checkout.version()
    names = sorted(path.name for path in dist.iterdir() if path.is_file() and RELEASED.fullmatch(path.name))
    released = [name for name in names if not name.startswith(SUMS)]
    sums = dist / SUMS
    sums.write_text("".join(f"{checksum(dist / name)}  {name}\n" for name in released))
    if key:
        signature = dist / f"{SUMS}.asc"
        command = ["gpg", "--batch", "--yes", "--local-user", key, "--detach-sign", "--armor"]
        run([*command, "--output", str(signature), str(sums)])
        run(["gpg", "--batch", "--verify", str(signature), str(sums)])
    major, minor, *_ = version.split(".")
    commit = checkout.git("rev-parse", "--short", "HEAD")
    tag = f"--sign --local-user={key}" if key else "--annotate"
    print(sums.read_text(), end="")
    print(
        f"{NAME} {version} is in dist/, {f'signed by {key}' if key else 'unsigned (KEY=... signs it)'}. "
        "Nothing was tagged, pushed or uploaded:\n"
        f"  git tag {tag} -m '{NAME} {version}' v{version} {commit}\n"
        f"  git push origin HEAD v{version}\n"
        f"  twine upload dist/{PACKAGE}-{version}*\n"
        f"  offer the files of {SUMS} and that file itself for download, with the section [{version}] of {CHANGELOG}\n"
        f"  make version VERSION={major}.{int(minor) + 1}.0.dev0, and commit what it writes"
    )


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Commands


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    text: bytes = b"",
    folder: Path | None = None,
    umask: int = -1,
) -> bytes:
    """Return what a command prints.

    Raises:
        ReleaseError: it fails; with its last lines.
    """
    done = subprocess.run(
        command, input=text, capture_output=True, check=False, env=environment, cwd=folder, umask=umask
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-15:]
        raise ReleaseError("\n  ".join([f"{' '.join(command)} failed:", *said]))
    return done.stdout


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print what was done, and its seconds, once it is done."""
    begun = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


def main(argv: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="release.py", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    checkout, dist = Checkout(ROOT), ROOT / "dist"
    for name in ("version", "check", "build", "install", "finish"):
        command = commands.add_parser(name)
        command.set_defaults(command=name)
        if name == "version":
            command.add_argument("version")
        if name in {"check", "finish"}:
            command.add_argument("--key", help="the key of gpg that signs")
    given = parser.parse_args(argv)
    try:
        match given.command:
            case "version":
                set_version(checkout, given.version)
            case "check":
                check(checkout, given.key)
            case "build":
                build(checkout, dist)
            case "install":
                install(checkout, dist)
            case "finish":
                finish(checkout, dist, given.key)
    except ReleaseError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
