"""OpenNebula's user, which runs the drivers: what it may read, write and run is tried as that user."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from one_provider_mad.domain import Value

_SECONDS = 60.0
"""Seconds that a trial may take; a program that starts on a busy machine needs a few."""

_LINKS_IN_A_ROW = 40
"""Links followed in one path, as in the kernel (path_resolution(7))."""

_FIRST_CLOSED = """
for path; do
    if [ -n "$after" ] && ! [ -x "$after" ]; then echo "$after"; exit; fi
    after=$path
done
if ! [ "$operator" "$after" ]; then echo "$after"; fi
"""
"""Prints the first folder of a path that may not be entered, or the last part if it fails the test(1) `$operator`."""


class CoreUser(Value, frozen=True, kw_only=True):
    """The user that OpenNebula runs as.

    Attributes:
        uid: its number.
        gid: its group.
        name: its name; the number where it has none.
        home: its home; HOME of this process where it has none.
        groups: all its groups.
    """

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> CoreUser | None:
        """Return the owner of OpenNebula's var directory; None without one."""
        location = environ.get("ONE_LOCATION")
        try:
            status = (Path(location) / "var" if location else Path("/var/lib/one")).stat()
        except OSError:
            return None
        name, home, groups = str(status.st_uid), environ.get("HOME", "/"), [status.st_gid]
        with suppress(KeyError):
            entry = pwd.getpwuid(status.st_uid)
            name, groups = entry.pw_name, os.getgrouplist(entry.pw_name, status.st_gid)
            home = home if status.st_uid == os.geteuid() else entry.pw_dir
        return cls(uid=status.st_uid, gid=status.st_gid, name=name, home=home, groups=tuple(groups))

    def can_be_tried(self) -> bool:
        """Return True if this process is that user, or root that can become it."""
        return os.geteuid() == self.uid or self.run(["/bin/sh", "-c", ":"]) is not None

    def run(
        self, command: Sequence[str], *, environ: Mapping[str, str] | None = None, stdin: str = ""
    ) -> tuple[int, str, str] | None:
        """Run a command as that user; return exit code, stdout and stderr, None if this process cannot become it."""
        is_same = os.geteuid() == self.uid
        try:
            done = subprocess.run(  # noqa: S603 - programs of every system, and this project's
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
                cwd="/",
                input=stdin,
                env=environ,
                user=None if is_same else self.uid,
                group=None if is_same else self.gid,
                extra_groups=None if is_same else self.groups,
            )
        except subprocess.TimeoutExpired:
            return 124, "", f"it did not end within {_SECONDS:g} s"
        except (OSError, subprocess.SubprocessError):
            return None
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def first_closed(self, path: Path, operator: str) -> Path | None:
        """Return the first folder on a path, links followed, that the user may not enter, or the end of the path.

        Args:
            path: an absolute path.
            operator: what the user has to do with the end of the path, as for test(1): `-r`, `-w` or `-x`.

        Returns:
            None if nothing is closed, or if that cannot be tried.
        """
        stations = [os.fspath(each) for each in _stations(path)]
        tried = self.run(["/bin/sh", "-c", _FIRST_CLOSED, "sh", *stations], environ={"operator": operator})
        return Path(tried[1]) if tried is not None and tried[1] else None

    def first_unreadable(self, *folders: Path) -> Path | None:
        """Return the first file or folder below these that the user may not read, None if there is none."""
        unreadable = ["(", "!", "-readable", "-o", "-type", "d", "!", "-executable", ")"]
        names = [os.fspath(folder) for folder in folders]
        tried = self.run(["find", "-L", *names, "-name", "__pycache__", "-prune", "-o", *unreadable, "-print", "-quit"])
        return Path(tried[1].splitlines()[0]) if tried is not None and tried[1] else None


def _stations(path: Path) -> Iterator[Path]:
    """Yield each folder that the kernel enters on the way along a path, and then its end; links are followed."""
    at, parts, links = Path("/"), list(reversed(path.parts[1:])), 0
    yield at
    while parts:
        part = parts.pop()
        if part == "..":
            at = at.parent
            continue
        try:
            target = Path(os.readlink(at / part))
        except OSError:
            at /= part
            yield at
            continue
        links += 1
        if links > _LINKS_IN_A_ROW:
            return
        at = Path("/") if target.is_absolute() else at
        parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
