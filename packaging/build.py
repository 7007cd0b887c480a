"""Builds the packages: each .deb and .rpm of packaging/targets.toml, from the lock and one description.

Each package has an environment of its own: the wheels of the lock for the distribution's Python, unpacked as they were
published (their hashes are in the lock, those of their files in each RECORD), and the project, compiled to bytecode.
The same commit and lock give the same bytes: files have the commit's time, and no path of the machine is in them.

Needs dpkg-deb for a .deb, rpmbuild for an .rpm, and a Python of the package's version, which compiles.
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
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "packaging"
sys.path.insert(0, str(ROOT / "tools"))
from licences import copyright_of  # noqa: E402
from pythons import find_pythons  # noqa: E402
from sbom import SbomError, rules_of  # noqa: E402

NAME = "one-provider-mad"
MAINTAINER = "maintainers@one-provider-mad.example.org"
BASE = f"/usr/lib/{NAME}"
"""Where the package's environment is; packaging/releases.sh says why it is there more than once."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""The machine's name as wheels and rpm have it, and as dpkg has it."""

OLDEST_GLIBC = (2, 28)
"""That of EL 8, the oldest front-end; wheels that need a newer one are not taken."""

CONFFILES = ("etc/logrotate.d/one-provider-mad",)


class BuildError(Exception):
    """A package cannot be built; the message is one sentence."""


@dataclass(frozen=True)
class Target:
    """One table of targets.toml."""

    name: str
    format: str
    python: str
    revision: str


@dataclass(frozen=True)
class Tree:
    """The sources of one release.

    Attributes:
        path: a folder with the files of the commit or working tree, and no others.
        version: of the project, as Python writes it: 0.2.0.dev0.
        epoch: the commit's time, in seconds since 1970, which all files get.
    """

    path: Path
    version: str
    epoch: int

    def project(self) -> dict[str, Any]:
        """Return the table [project] of pyproject.toml."""
        return dict(self._pyproject()["project"])

    def generated(self) -> dict[str, str]:
        """Return the entry points of which packaging/program.sh makes programs: 0.1.0's, by name."""
        return dict(self.project().get("scripts", {}))

    def shipped(self) -> list[Path]:
        """Return the programs that are shipped as they are, by every release after 0.1.0."""
        return [self.path / name for name in self._pyproject()["tool"]["setuptools"].get("script-files", [])]

    def programs(self) -> list[str]:
        """Return the names of the programs."""
        return [*self.generated(), *(path.name for path in self.shipped())]

    def _pyproject(self) -> dict[str, Any]:
        return tomllib.loads((self.path / "pyproject.toml").read_text())

    def package_version(self) -> str:
        """Return the version as dpkg and rpm order it: ~ makes a pre-release older than the release."""
        return re.sub(r"\.?(dev|a|b|rc)(\d+)", r"~\1\2", self.version)


def main() -> int:
    """Build the packages that the arguments name; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="names of targets.toml; all by default")
    parser.add_argument("--rev", help="a commit to package, instead of the working tree")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements" / "runtime.txt")
    parser.add_argument("--quick", action="store_true", help="compress less: for tests")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="one-provider-packages-") as folder:
            build_all(arguments, Path(folder))
    except (BuildError, SbomError) as error:
        print(f"make packages: {error}", file=sys.stderr)
        return 1
    return 0


def build_all(arguments: argparse.Namespace, work: Path) -> None:
    """Build each package that was asked for, and print its size and the seconds that it took."""
    tables = tomllib.loads((HERE / "targets.toml").read_text())
    wanted = arguments.targets or list(tables)
    if unknown := sorted(set(wanted) - set(tables)):
        raise BuildError(f"{', '.join(unknown)}: not in packaging/targets.toml, which has {', '.join(tables)}")
    tree = read_tree(arguments.rev, work / "tree")
    arguments.out.mkdir(exist_ok=True)
    for name in wanted:
        begun = time.monotonic()
        package = build(Target(name=name, **tables[name]), tree, arguments, work / name)
        print(f"{package}  {package.stat().st_size / 1e6:.1f} MB  {time.monotonic() - begun:.0f} s", flush=True)


def read_tree(rev: str | None, folder: Path) -> Tree:
    """Copy the files of a commit, or those of the working tree that git tracks or would track."""
    folder.mkdir(parents=True)
    if rev:
        archive = run(["git", "-C", str(ROOT), "archive", rev])
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
    else:
        listed = run(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    epoch = int(
        os.environ.get("SOURCE_DATE_EPOCH") or run(["git", "-C", str(ROOT), "log", "-1", "--format=%ct", rev or "HEAD"])
    )
    match = re.search(r'^__version__ = "(.+)"$', (folder / "one_provider_mad/__init__.py").read_text(), re.MULTILINE)
    if match is None:
        raise BuildError("one_provider_mad/__init__.py has no __version__")
    return Tree(path=folder, version=match[1], epoch=epoch)


def build(target: Target, tree: Tree, arguments: argparse.Namespace, work: Path) -> Path:
    """Build one package; return its path."""
    python = python_of(target.python)
    root, payload = work / "root", work / "root" / BASE[1:] / "payload"
    site = payload / "lib" / f"python{target.python}" / "site-packages"
    site.mkdir(parents=True)
    glibc = unpack_wheels(python, arguments.lock, work / "wheels", site)
    install_project(tree, site)
    lay_out_environment(payload, target, tree)
    lay_out_system(root, tree)
    lay_out_manual(root, tree, python, target.format)
    lay_out_sbom(root, tree, python)
    set_times(root, tree.epoch)
    compile_all(python, payload, release_of(payload))
    set_times(root, tree.epoch)
    make = build_deb if target.format == "deb" else build_rpm
    return make(target, tree, root, glibc, arguments)


def python_of(version: str) -> Path:
    """Return an interpreter of that version, which compiles; bytecode is the same in all its patch releases."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for python in find_pythons(os.environ.get("PATH", os.defpath), pyenv):
        if python.name == f"python{version}":
            return python
    raise BuildError(f"Python {version} is needed to compile, and neither on PATH nor in pyenv's folder")


# The environment


def unpack_wheels(python: Path, lock: Path, folder: Path, site: Path) -> tuple[int, int]:
    """Fetch the wheels of the lock, each by its hash, and unpack them; return the glibc that they need."""
    machine = os.uname().machine
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(OLDEST_GLIBC[1], 4, -1)]
    tags += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    # --python, since markers in the lock are judged by the Python that pip runs with.
    command = [*pip(), "--python", str(python), "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--implementation", "cp", "--dest", str(folder)]
    command += [f"--platform={tag}" for tag in tags]
    run([*command, "--requirement", str(lock)])
    glibc = (2, 17)
    for wheel in sorted(folder.glob("*.whl")):
        glibc = max(glibc, glibc_of(wheel.name))
        unpack(wheel, site)
    return glibc


def glibc_of(wheel: str) -> tuple[int, int]:
    """Return the oldest glibc that a wheel's tags name: any of them suffices."""
    named = [(int(major), int(minor)) for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_", wheel)]
    return min(named, default=(2, 17))


def unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel's libraries, without its programs and headers, which belong to developers."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = re.sub(r"^[^/]+\.data/(?:purelib|platlib)/", "", member.filename)
            if member.is_dir() or re.match(r"[^/]+\.data/", name):
                continue
            path = site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))
            path.chmod(0o644)


def pip() -> list[str]:
    """Return a pip that can fetch wheels for another Python."""
    for command in ([sys.executable, "-m", "pip"], ["python3", "-m", "pip"], ["pip3"]):
        try:
            subprocess.run([*command, "--version"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    raise BuildError("there is no pip; on Debian it is in python3-pip")


def install_project(tree: Tree, site: Path) -> None:
    """Install the project as a wheel would: its files, and the metadata by which it finds its entry points."""
    shutil.copytree(tree.path / "one_provider_mad", site / "one_provider_mad")
    project = tree.project()
    info = site / f"{NAME.replace('-', '_')}-{tree.version}.dist-info"
    (info / "licenses").mkdir(parents=True)
    shutil.copy(tree.path / "LICENSE", info / "licenses")
    lines = ["Metadata-Version: 2.4", f"Name: {NAME}", f"Version: {tree.version}", f"Summary: {project['description']}"]
    lines += ["License-Expression: Apache-2.0", f"Requires-Python: {project['requires-python']}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in project["dependencies"]]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    groups = project["entry-points"]
    if scripts := tree.generated():
        groups = {"console_scripts": scripts, **groups}
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in groups.items()
        )
    )
    (info / "INSTALLER").write_text(f"{NAME} package\n")


def lay_out_environment(payload: Path, target: Target, tree: Tree) -> None:
    """Complete the virtual environment: its Python, its programs, and the name of its folder among the releases."""
    (payload / "bin").mkdir()
    (payload / "bin" / "python").symlink_to(f"/usr/bin/python{target.python}")
    (payload / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.python}\n"
    )
    for path in tree.shipped():
        put(payload / "bin" / path.name, path.read_bytes(), 0o755)
    text = (HERE / "program.sh").read_text()
    (payload / "RELEASE").write_text(f"{tree.version}-{digest(payload, text)}\n")
    for name, value in tree.generated().items():
        module, function = value.split(":")
        program = fill(text, release=release_of(payload), module=module, function=function)
        put(payload / "bin" / name, program.encode(), 0o755)


def digest(folder: Path, text: str) -> str:
    """Return eight digits that tell this content from any other of the same version."""
    hashed = hashlib.sha256(text.encode())
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        hashed.update(f"{path.relative_to(folder)}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return hashed.hexdigest()[:8]


def release_of(payload: Path) -> str:
    """Return the folder from which this release runs."""
    return f"{BASE}/releases/{(payload / 'RELEASE').read_text().strip()}"


def compile_all(python: Path, payload: Path, release: str) -> None:
    """Compile to bytecode: the user that runs the drivers may not write there."""
    # A fixed seed orders sets of constants; one process, since what it compiled before changes shared references.
    environment = {"PYTHONHASHSEED": "0", "PATH": os.defpath}
    command = [str(python), "-I", "-m", "compileall", "-q", "-s", str(payload), "-p", release]
    command += ["--invalidation-mode", "timestamp", str(payload / "lib")]
    run(command, environment)


# The rest of the system


def lay_out_system(root: Path, tree: Tree) -> None:
    """Lay out what is outside the environment: links to the programs, conffiles, documentation."""
    for program in tree.programs():
        link(root / "usr/bin" / program, f"../lib/{NAME}/current/bin/{program}")
    for program in ("one_vmm_provider", "one_im_provider"):
        link(root / "usr/lib/one/mads" / program, f"../../{NAME}/current/bin/{program}")
    put(root / CONFFILES[0], (tree.path / "etc/one_provider_mad.logrotate").read_bytes())
    documents = root / "usr/share/doc" / NAME
    for name in ("README.md", "SECURITY.md"):
        put(documents / name, (tree.path / name).read_bytes())
    for path in sorted((tree.path / "docs").glob("*.md")):
        put(documents / "docs" / path.name, path.read_bytes())
    for path in sorted((tree.path / "etc").glob("*.toml")):
        put(documents / "examples" / path.name, path.read_bytes())
    put(documents / "changelog.gz", zipped((tree.path / "CHANGELOG.md").read_bytes()))
    site = next((root / BASE[1:] / "payload/lib").glob("*/site-packages"))
    put(documents / "copyright", copyright_of(site, rules_of(ROOT / "pyproject.toml")).encode())


def lay_out_manual(root: Path, tree: Tree, python: Path, package_format: str) -> None:
    """Write man pages and completions, with the program that is packaged; 0.1.0 had neither."""
    tool = tree.path / "tools" / "manual.py"
    if not tool.exists():
        return
    site = next((root / BASE[1:] / "payload/lib").glob("*/site-packages"))
    environment = {"PATH": os.defpath, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"SOURCE_DATE_EPOCH": str(tree.epoch)}
    pages = root.parent / "man"
    run([str(python), str(tool), str(pages)], environment)
    for page in pages.iterdir():
        put(root / "usr/share/man/man1" / f"{page.name}.gz", zipped(page.read_bytes()))
    zsh = "usr/share/zsh/vendor-completions" if package_format == "deb" else "usr/share/zsh/site-functions"
    for shell, path in (
        ("bash", "usr/share/bash-completion/completions/one-provider"),
        ("zsh", f"{zsh}/_one-provider"),
    ):
        ask = f"from one_provider_mad.cli.main import main; main(['completion', '{shell}'])"
        put(root / path, run([str(python), "-c", ask], environment))


def lay_out_sbom(root: Path, tree: Tree, python: Path) -> None:
    """Write what is shipped, and under which licences; 0.1.0 had no tool for that."""
    tool = tree.path / "tools" / "sbom.py"
    if not tool.exists():
        return
    site = next((root / BASE[1:] / "payload/lib").glob("*/site-packages"))
    # The package's Python runs the tool, since it judges the lock's markers; the tool's libraries are this Python's.
    environment = {"PATH": os.defpath, "PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"SOURCE_DATE_EPOCH": str(tree.epoch)}
    found = root.parent / "sbom"
    run([str(python), str(tool), "--packages", str(site), str(found)], environment)
    documents = root / "usr/share/doc" / NAME
    put(documents / "sbom.cdx.json", next(found.glob("*.cdx.json")).read_bytes())
    put(documents / "licences.txt.gz", zipped(next(found.glob("*.licences.txt")).read_bytes()))


def link(path: Path, target: str) -> None:
    """Make a link, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def put(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file, and make the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def zipped(content: bytes) -> bytes:
    """Return it as gzip -9n makes it, without a name and a time."""
    return gzip.compress(content, 9, mtime=0)


def fill(text: str, **values: object) -> str:
    """Replace @name@ by its value."""
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    if left := re.search(r"@[a-z]+@", text):
        raise BuildError(f"{left[0]} has no value")
    return text


def set_times(root: Path, epoch: int) -> None:
    """Give all files the commit's time, and all directories the same mode under any umask."""
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


# Formats


def build_deb(target: Target, tree: Tree, root: Path, glibc: tuple[int, int], arguments: argparse.Namespace) -> Path:
    """Build a .deb of the staged files."""
    version = f"{tree.package_version()}-{target.revision}"
    architecture = ARCHITECTURES[os.uname().machine]
    when = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(tree.epoch))
    changelog = f"{NAME} ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n"
    changelog += f" -- {NAME} maintainers <{MAINTAINER}>  {when}\n"
    put(root / "usr/share/doc" / NAME / "changelog.Debian.gz", zipped(changelog.encode()))
    put(root / "usr/share/lintian/overrides" / NAME, (HERE / "deb/lintian-overrides").read_bytes())
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    sizes = sum(-(-path.stat().st_size // 1024) for path in files)
    values = {"version": version, "architecture": architecture, "maintainer": MAINTAINER, "size": sizes}
    values |= {"python": target.python, "glibc": ".".join(map(str, glibc))}
    control = root / "DEBIAN"
    put(control / "control", fill((HERE / "deb/control").read_text(), **values).encode())
    put(control / "conffiles", "".join(f"/{name}\n" for name in CONFFILES).encode())
    named = {path: str(path.relative_to(root)) for path in files if str(path.relative_to(root)) not in CONFFILES}
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {name}\n" for path, name in named.items())
    put(control / "md5sums", "".join(sums).encode())
    shell = {"releases": (HERE / "releases.sh").read_text(), "purge": (HERE / "deb/purge.py").read_text()}
    shell["python"] = target.python
    for script in ("preinst", "postinst", "prerm", "postrm"):
        text = fill((HERE / "deb" / script).read_text(), **shell)
        put(control / script, text.encode(), 0o755)
    set_times(root, tree.epoch)
    package = arguments.out / f"{NAME}_{version}_{architecture}.deb"
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(tree.epoch)}
    compressed = ["-Zxz", f"-z{level(arguments)}"]
    run(["dpkg-deb", "--root-owner-group", *compressed, "--build", str(root), str(package)], environment)
    return package


def build_rpm(target: Target, tree: Tree, root: Path, glibc: tuple[int, int], arguments: argparse.Namespace) -> Path:
    """Build an .rpm of the staged files."""
    machine = os.uname().machine
    releases = (HERE / "releases.sh").read_text().replace("%", "%%")  # rpm expands macros in its scripts
    values = {"version": tree.package_version(), "revision": target.revision, "python": target.python}
    values |= {"glibc": ".".join(map(str, glibc)), "releases": releases, "files": "\n".join(rpm_files(root))}
    spec = root.parent / "package.spec"
    spec.write_text(fill((HERE / "rpm/one-provider-mad.spec").read_text(), **values))
    command = ["rpmbuild", "-bb", "--quiet", "--target", machine, "--buildroot", str(root)]
    command += ["--define", f"_topdir {root.parent / 'rpm'}"]
    command += ["--define", f"_binary_payload w{level(arguments)}.xzdio"]
    command += ["--define", f"_rpmdir {root.parent}", "--define", "_rpmfilename package.rpm"]
    command += ["--define", f"_builddir {root.parent}", "--noclean", "--nocheck", str(spec)]
    run(command, os.environ | {"SOURCE_DATE_EPOCH": str(tree.epoch)})
    package = arguments.out / f"{NAME}-{values['version']}-{target.revision}.{machine}.rpm"
    return Path(shutil.copy(root.parent / "package.rpm", package))


def level(arguments: argparse.Namespace) -> int:
    """Return xz's level."""
    return 0 if arguments.quick else 6


def rpm_files(root: Path) -> Iterator[str]:
    """Yield the lines of %files: each file, and the directories that are the package's alone."""
    own = (root / BASE[1:], root / "usr/share/doc" / NAME)
    for path in sorted(root.rglob("*")):
        name = f'"/{path.relative_to(root)}"'
        if not path.is_dir() or path.is_symlink():
            yield f"%config(noreplace) {name}" if name[2:-1] in CONFFILES else name
        elif any(path.is_relative_to(folder) for folder in own):
            yield f"%dir {name}"


def run(command: list[str], environment: dict[str, str] | None = None) -> bytes:
    """Run a command and return its output; show all that it wrote if it fails."""
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is needed and not there") from None
    if done.returncode:
        sys.stderr.buffer.write(done.stdout + done.stderr)
        raise BuildError(f"{' '.join(command[:3])} … failed, see above")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
