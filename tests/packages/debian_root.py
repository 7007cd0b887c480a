"""A fresh Debian in a folder, made by debootstrap: its own processes, its own files, the machine's network."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until

MADS = "/usr/lib/one/mads"
BASE = "/usr/lib/one-provider-mad"

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def archive(suite: str, folder: Path) -> Path:
    """Return the archive of a root of that suite with what a front-end has of its own; make it if it is missing."""
    ready = folder / f"{suite}-front-end.tar"
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        plain, root = folder / f"{suite}.tar", folder / f"{suite}.making"
        if plain.exists():
            root.mkdir()
            subprocess.run(["tar", "-xpf", plain, "--numeric-owner", "-C", root], check=True)
        else:
            subprocess.run(["debootstrap", "--variant=minbase", suite, root], check=True, stdout=subprocess.DEVNULL)
        with started(root) as debian:
            debian.run("apt-get", "update", "-q")
            debian.run("apt-get", "install", "-qy", "--no-install-recommends", "logrotate")
        subprocess.run(["tar", "-cpf", f"{ready}.new", "--numeric-owner", "-C", root, "."], check=True)
        subprocess.run(["rm", "-rf", "--one-file-system", root], check=True)
        Path(f"{ready}.new").rename(ready)
    return ready


@contextmanager
def unpacked(suite: str, folder: Path, roots: Path) -> Iterator[Root]:
    """Yield a fresh root in that folder, with oneadmin and OpenNebula's folders as its packages make them."""
    with tarfile.open(archive(suite, roots)) as tar:
        tar.extractall(folder, numeric_owner=True, filter="fully_trusted")
    with started(folder) as root:
        root.run("useradd", "--system", "--create-home", "--home-dir=/var/lib/one", "--shell=/bin/bash", "oneadmin")
        root.run("install", "-d", "-o", "oneadmin", "-g", "oneadmin", "/var/log/one")
        root.run("install", "-d", "-g", "oneadmin", "-m", "750", "/etc/one")
        yield root


@contextmanager
def started(folder: Path) -> Iterator[Root]:
    """Yield the root with a process namespace of its own, which ends with all its processes."""
    space = ["unshare", "--pid", "--mount", "--fork", "--kill-child", f"--mount-proc={folder}/proc"]
    with subprocess.Popen([*space, "chroot", folder, "sleep", "infinity"]) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            first = until(lambda: children.read_text().strip())
            until(
                lambda: "sleep" in Path(f"/proc/{first}/cmdline").read_text()
            )  # /proc is mounted, and it has changed its root
            yield Root(folder, int(first))
        finally:
            process.kill()


class Root:
    """A root with running processes."""

    def __init__(self, path: Path, first: int) -> None:
        """Take the folder, and the process that keeps its namespace."""
        self.path = path
        self._space = ["nsenter", f"--target={first}", "--pid", "--mount"]
        self._enter = [*self._space, "chroot", os.fspath(path)]

    def run(self, *command: str, check: bool = True, text: str = "") -> str:
        """Run a command as root, and return what it printed, stderr included."""
        return self._run([*self._enter, *command], check=check, text=text)

    def run_from_outside(self, *command: str) -> str:
        """Run a program of this machine that changes its root by itself, with the root's processes."""
        return self._run([*self._space, *command], check=True, text="")

    def _run(self, command: list[str], *, check: bool, text: str) -> str:
        done = subprocess.run(
            command,
            env={"PATH": _PATH, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def as_oneadmin(self, *command: str, check: bool = True, text: str = "") -> str:
        """Run a command as OpenNebula's user."""
        return self.run("runuser", "-u", "oneadmin", "--", *command, check=check, text=text)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program as OpenNebula's user, with pipes for stdin and stdout."""
        return subprocess.Popen(
            [*self._enter, "runuser", "-u", "oneadmin", "--", *command],
            env={"PATH": _PATH, "HOME": "/var/lib/one"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def install(self, package: Path) -> str:
        """Install a package, older ones too, with what it depends on; return what was printed."""
        here = self.path / "tmp" / package.name
        here.write_bytes(package.read_bytes())
        printed = self.run(
            "apt-get", "install", "-qy", "--no-install-recommends", "--allow-downgrades", f"/tmp/{package.name}"
        )
        here.unlink()
        return printed

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.path / name.lstrip("/")

    def releases(self) -> set[str]:
        """Return the releases of the drivers that are there, without their digests."""
        return {path.name.rpartition("-")[0] for path in self.file(f"{BASE}/releases").glob("*")}
