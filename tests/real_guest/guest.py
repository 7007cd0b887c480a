"""A guest without a virtual machine: a Debian in namespaces of its own, beside a metadata service as EC2's."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until

BOOT = Path(__file__).with_name("boot.sh")
SUITE = "bookworm"
PACKAGES = (
    *("cloud-init", "cloud-guest-utils", "e2fsprogs", "fdisk"),
    *("openssh-server", "openssh-client", "sudo", "tzdata", "locales"),
    *("iproute2", "curl", "bind9-host", "ruby", "jq"),
)
"""What Debian's cloud images have of it, and what one-context needs."""

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MISSING = "bookworm-guest"


def why_not() -> str:
    """Return why no guest can be started here, "" if one can."""
    if os.geteuid():
        return "only root may make namespaces and mount: run make test-guest as root"
    missing = [program for program in ("debootstrap", "unshare", "nsenter", "ip") if not shutil.which(program)]
    return f"{', '.join(missing)} missing: apt-get install debootstrap util-linux iproute2" if missing else ""


def image(folder: Path) -> Path:
    """Return the folder with the guest's files; make it if it is missing."""
    ready = folder / _MISSING
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        making = folder / f"{_MISSING}.making"
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, making], check=True, stdout=subprocess.DEVNULL)
        (making / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (making / "usr/sbin/policy-rc.d").chmod(0o755)
        install = f"apt-get update -q && apt-get install -qy --no-install-recommends {' '.join(PACKAGES)}"
        environ = {"PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["chroot", making, "sh", "-c", install], check=True, stdout=subprocess.DEVNULL, env=environ)
        # As in the images of a cloud, whose instances make their own.
        for key in (making / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
        making.rename(ready)
    return ready


def disk(root: Path, path: Path, *, size: int, part: int) -> Path:
    """Make a disk of so many MiB whose only partition has fewer, with a copy of the root.

    Args:
        root: the guest's files.
        path: the disk's file.
        size: MiB of the disk.
        part: MiB of its partition.
    """
    entry = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", 2048, part * 2048)
    with path.open("wb") as file:
        file.write(bytes(440) + b"one!" + bytes(2) + entry + bytes(48) + b"\x55\xaa")
        file.truncate(size * 2**20)
    copying = ["mkfs.ext4", "-q", "-F", "-d", str(root), "-E", f"offset={2**20}", str(path), f"{part}M"]
    subprocess.run(copying, check=True)
    return path


class Guest:
    """A started guest.

    Args:
        first: its first process, by which its namespaces are entered.
        root: its root, within its mount namespace.
        address: its interface's.
    """

    def __init__(self, first: str, root: Path, address: str) -> None:
        self.first = first
        self.address = address
        spaces = ("--net", "--uts", "--mount", "--pid", "--ipc")
        self._enter = ["nsenter", f"--target={first}", *spaces, "chroot", str(root)]

    def run(self, *command: str, check: bool = True, text: str = "") -> str:
        """Run a command as root, and return what it printed, stderr included."""
        done = subprocess.run(
            [*self._enter, *command],
            input=text,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "HOME": "/root"},
            timeout=280,
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}"
        return done.stdout

    def read(self, path: str) -> str:
        """Return a file's text, "" for none."""
        return self.run("sh", "-c", f"cat {path} 2>/dev/null || :")

    def write(self, path: str, text: str) -> None:
        """Write a file, for root only."""
        self.run("sh", "-c", f"umask 077; mkdir -p $(dirname {path}); cat > {path}", text=text)

    def install(self, folder: Path) -> None:
        """Copy the files of a folder into the root."""
        with subprocess.Popen(
            ["tar", "-c", "--owner=0", "--group=0", "-C", folder, "."], stdout=subprocess.PIPE
        ) as tar:
            subprocess.run([*self._enter, "tar", "-x", "-C", "/", "--no-overwrite-dir"], stdin=tar.stdout, check=True)


@contextmanager
def started(
    root: Path, folder: Path, user_data: bytes, *, tokens: str, instance_id: str = "i-0abc", address: str = "10.0.0.9"
) -> Iterator[Guest]:
    """Yield a guest of this root, a folder or a disk, with its metadata service; nothing in it has run yet."""
    told, place = folder / "told", folder / "place"
    told.mkdir(parents=True)
    place.mkdir()
    (told / "instance-id").write_text(instance_id)
    if user_data:
        (told / "user-data").write_bytes(user_data)
    spaces = ["unshare", "--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]
    with subprocess.Popen([*spaces, "sh", str(BOOT), str(root), str(place), str(told), tokens, address]) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            first = until(lambda: children.read_text().strip())
            until(lambda: "sleep" in Path(f"/proc/{first}/cmdline").read_text())
            guest = Guest(first, place / "root", address)
            until(lambda: "000" not in guest.run("curl", "-so/dev/null", "-w%{http_code}", IMDS, check=False))
            yield guest
        finally:
            process.kill()


IMDS = "http://169.254.169.254/latest/"
