"""The files of the transfer driver `one_provider`, with which OpenNebula 7.x copies no disk of a VM in a cloud.

Up to 6.10 no transfer driver runs for a host that reports PUBLIC_CLOUD=YES. 7.x runs the driver of the system
datastore, and for a disk with an image that of the image's datastore: `clone.one_provider`, or `clone` where that is
missing (src/tm_mad/one_tm.rb). The files are copies: `remotes` may be copied to other front-ends and hosts, without
this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.file_owner import make_directory, remove_file, replace_file

DRIVER = "one_provider"
"""Name of the transfer driver, and TM_MAD of a system datastore with it."""

MADE = "clusters.json"
"""File in the driver's folder that records which image datastores were added to which clusters."""

SEEN = ".seen"
"""Folder in the driver's folder in which it remembers system datastores."""

_OF_DISKS = (
    "clone",
    "cpds",
    "delete",
    "ln",
    "mv",
    "mvds",
    "resize",
    "snap_create",
    "snap_create_live",
    "snap_delete",
    "snap_revert",
)
"""Actions for which one_tm looks for `<action>.one_provider` beside the driver of an image's datastore, up to 7.4.0."""

_OF_SYSTEM = (
    "context",
    "failmigrate",
    "mkimage",
    "mkswap",
    "monitor",
    "postbackup",
    "postbackup_live",
    "postmigrate",
    "prebackup",
    "prebackup_live",
    "premigrate",
    "restore",
)
"""Further actions of a system datastore's driver, up to 7.4.0."""

_MODE = 0o755


class DriverFile(Value, frozen=True, kw_only=True):
    """A file of the transfer driver.

    Attributes:
        path: where it belongs.
        text: its content.
    """

    path: Path
    text: str

    def is_missing(self) -> bool:
        """True if there is nothing at its path."""
        return not self.path.exists()

    def is_there(self) -> bool:
        """True if it is as this release writes it, and can be run."""
        try:
            return self.path.read_text(encoding="utf-8") == self.text and os.access(self.path, os.X_OK)
        except (OSError, ValueError):
            return False

    def write(self, owner_of: Path) -> None:
        """Write it, and its folder; both get the owner of a directory. Raises SettingsError."""
        try:
            make_directory(self.path.parent, _MODE, owner_of=owner_of)
            replace_file(self.path, self.text.encode(), beside=f".{self.path.name}.new", mode=_MODE)
        except OSError as error:
            raise _refused(self.path, "written", error) from error


def is_possible(remotes: Path) -> bool:
    """Return True if OpenNebula's transfer drivers are here."""
    return (remotes / "tm").is_dir()


def own_files(remotes: Path) -> list[DriverFile]:
    """Return the files of the driver's own folder."""
    folder = remotes / "tm" / DRIVER
    answer = DriverFile(path=folder / "answer", text=_text("answer.sh"))
    actions = sorted((*_OF_DISKS, *_OF_SYSTEM))
    return [answer, *(DriverFile(path=folder / action, text=_text("call.sh")) for action in actions)]


def files_beside(remotes: Path, tm_mad: str) -> list[DriverFile]:
    """Return the files beside the transfer driver of an image datastore."""
    folder = remotes / "tm" / tm_mad
    return [DriverFile(path=folder / f"{action}.{DRIVER}", text=_text("call.sh")) for action in _OF_DISKS]


def drivers_beside(remotes: Path) -> set[str]:
    """Return the names of the other transfer drivers that have files of this one."""
    return {path.parent.name for path in (remotes / "tm").glob(f"*/*.{DRIVER}")}


def files_to_remove(remotes: Path, tm_mad: str) -> Iterator[Path]:
    """Yield the existing files of this driver in the folder of a transfer driver, its own included; no other files."""
    if tm_mad == DRIVER:
        files = [each.path for each in own_files(remotes)]
        folder = files[0].parent
        yield from sorted(path for path in (folder / SEEN).glob("*") if path.name.isdecimal())
        files.append(folder / MADE)
    else:
        files = [each.path for each in files_beside(remotes, tm_mad)]
    yield from sorted(path for path in files if os.path.lexists(path))


def remove(path: Path) -> None:
    """Remove a file, and the driver's own folders when they are empty then. Raises SettingsError."""
    try:
        remove_file(path)
        if path.parent.name == SEEN:
            _remove_if_empty(path.parent)
        if path.parent.name == DRIVER:
            _remove_if_empty(path.parent / SEEN)
            _remove_if_empty(path.parent)
    except OSError as error:
        raise _refused(path, "removed", error) from error


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _text(name: str) -> str:
    return resources.files("one_provider_mad").joinpath("transfer", name).read_text(encoding="utf-8")


def _refused(path: Path, done: str, error: OSError) -> SettingsError:
    return SettingsError(f"{path} cannot be {done}: {error.strerror}; run this as root or oneadmin")
