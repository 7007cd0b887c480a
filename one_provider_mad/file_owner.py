"""Creates files and directories, and gives them the owner of their directory.

A tool that runs as root must not leave files that OpenNebula's own user cannot open. That user may have planted links
where root is about to create files: so root follows no link out of the directories of the link's owner, opens no link
in the place of a file, and changes the owner of the open file, never of a name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags of open(2) for one part of a path: no link is followed, and search permission suffices."""

_LINKS_IN_A_ROW = 40
"""Links followed in one path before it is refused with ELOOP, as in the kernel (path_resolution(7))."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def open_file(path: Path, flags: int, mode: int = 0o600, *, owner_of: Path | None = None) -> int:
    """Open a file, creating it when it is missing, and return its descriptor, which children do not inherit.

    Args:
        path: the file.
        flags: as for open(2), without O_CREAT, which is implied, and O_TRUNC, which would truncate before any check.
        mode: mode of a new file.
        owner_of: the directory whose owner a new file gets; None for the file's own directory.

    Raises:
        OSError: the file cannot be opened, or another user has planted a file in its place for root to open.
    """
    with _opened(path.parent) as directory:
        owner = _owner(directory, owner_of)
        try:
            return _make(path.name, flags | os.O_CLOEXEC, mode, directory, owner)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
        return _open_existing(path, flags | os.O_CLOEXEC, mode, directory)


def replace_file(path: Path, content: bytes, *, beside: str, mode: int = 0o600, is_lasting: bool = False) -> None:
    """Replace a file's content atomically.

    Args:
        path: the file.
        content: the new content.
        beside: name of the temporary file in the same directory.
        mode: mode of the new file, regardless of the umask.
        is_lasting: sync the file before the rename, so that a power cut does not leave an empty file.

    Raises:
        OSError: the file cannot be written; it is unchanged.
    """
    with _opened(path.parent) as directory:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=directory)  # left by a killed process
        flags = os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = _make(beside, flags, mode, directory, _owner(directory, None))
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                if is_lasting:
                    os.fsync(descriptor)
            os.replace(beside, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with suppress(OSError):
                os.unlink(beside, dir_fd=directory)
            raise


def make_link(path: Path, target: str) -> None:
    """Create a symbolic link at a free path."""
    with _opened(path.parent) as directory:
        os.symlink(target, path.name, dir_fd=directory)


def remove_file(path: Path) -> None:
    """Remove a file or link.

    Raises:
        OSError: it cannot be removed, or another user has planted a link in the place of its directory.
    """
    with _opened(path.parent) as directory:
        os.unlink(path.name, dir_fd=directory)


def make_directory(path: Path, mode: int = 0o777, *, owner_of: Path | None = None) -> None:
    """Create a directory and its missing parents; an existing one stays as it is.

    Args:
        path: the directory.
        mode: mode of each new directory.
        owner_of: the directory whose owner they get; None for the parent of each.

    Raises:
        OSError: the directory cannot be created, or another user has planted a link in its place.
    """
    try:
        with _opened(path):
            return
    except FileNotFoundError:
        pass
    make_directory(path.parent, mode, owner_of=owner_of)
    with _opened(path.parent) as parent:
        try:
            os.mkdir(path.name, mode, dir_fd=parent)
        except FileExistsError:
            return
        owner = _owner(parent, owner_of)
        if owner is not None:
            _give_empty(path.name, parent, owner)


@contextmanager
def folder(path: Path) -> Iterator[int]:
    """Open a private directory for calls that take `dir_fd`, creating it when it is missing.

    Raises:
        OSError: the directory cannot be opened, or another user has planted a link in its place.
    """
    make_directory(path, 0o700)
    with _opened(path) as directory:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    with _closing(descriptor):
        yield descriptor


def check_file(path: Path) -> os.stat_result | None:
    """Return the status of the file at a path, None when there is none; for SQLite, which opens its files itself.

    Raises:
        OSError: another user has planted a file in its place for root to open.
    """
    with _opened(path.parent) as directory:
        try:
            status = os.stat(path.name, dir_fd=directory, follow_symlinks=not _is_open_to_others(directory))
        except FileNotFoundError:
            return None
        if _is_open_to_others(directory):
            _refuse_planted(path, status)
        return status


# Files


def _make(name: str, flags: int, mode: int, directory: int, owner: tuple[int, int] | None) -> int:
    """Create a new file; O_EXCL follows no link (open(2))."""
    descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
    if owner is not None:
        with suppress(OSError):  # a network file system may refuse this to root
            os.fchown(descriptor, *owner)
    return descriptor


def _open_existing(path: Path, flags: int, mode: int, directory: int) -> int:
    if not _is_open_to_others(directory):
        return os.open(path.name, flags | os.O_CREAT, mode, dir_fd=directory)  # a link's target may be missing
    _refuse_planted(path, os.stat(path.name, dir_fd=directory, follow_symlinks=False))
    # Non-blocking: a FIFO that has taken its place would block until its other end is opened.
    descriptor = os.open(path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        _refuse_planted(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_planted(path: Path, status: os.stat_result) -> None:
    kind = "a link" if stat.S_ISLNK(status.st_mode) else "" if stat.S_ISREG(status.st_mode) else "not a file"
    if not kind and status.st_nlink > 1:
        kind = "a file with several names"
    if kind:
        raise OSError(errno.ELOOP, f"it is {kind} in a directory of another user, and root does not open it", str(path))


def _give_empty(name: str, parent: int, owner: tuple[int, int]) -> None:
    """Give a new directory its owner, unless it is not root's or not empty, as one planted by another user is."""
    with suppress(OSError):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with _closing(os.open(name, flags, dir_fd=parent)) as made:
            with os.scandir(made) as entries:
                is_empty = not any(entries)
            if os.fstat(made).st_uid == 0 and is_empty:
                os.fchown(made, *owner)


# Directories


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a directory to create files in it; the descriptor stays valid when the name changes."""
    if os.geteuid() == 0:
        with _closing(os.open(".", _DIRECTORY)) as start:
            descriptor = _enter(start, str(path), _LINKS_IN_A_ROW)
    else:
        descriptor = os.open(path, _DIRECTORY)
    with _closing(descriptor):
        yield descriptor


def _enter(start: int, path: str, links: int) -> int:
    """Follow a path from a directory, part by part, and return the descriptor at its end."""
    here = os.open("/" if path.startswith("/") else ".", _DIRECTORY, dir_fd=start)
    for part in filter(None, path.split("/")):
        with _closing(here):
            here = _step(here, part, path, links)
    return here


def _step(here: int, part: str, path: str, links: int) -> int:
    """Open one part of a path; a link that a user made is followed only to directories of the same user."""
    step = os.open(part, _STEP, dir_fd=here)
    status = os.fstat(step)
    if stat.S_ISDIR(status.st_mode):
        return step
    with _closing(step):
        if not stat.S_ISLNK(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if not links:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        # The open link is read, since another link may have its name now.
        target = _enter(here, os.readlink("", dir_fd=step), links - 1)
    if status.st_uid not in (0, os.fstat(target).st_uid):
        os.close(target)
        reason = f"{part} is a link of user {status.st_uid} to a directory of another user, which root does not follow"
        raise OSError(errno.ELOOP, reason, path)
    return target


def _is_open_to_others(directory: int) -> bool:
    """Return True when this process is root and another user may create files in the directory."""
    status = os.fstat(directory)
    return os.geteuid() == 0 and bool(status.st_uid or status.st_mode & _OTHERS_WRITE)


def _owner(directory: int, owner_of: Path | None) -> tuple[int, int] | None:
    """Return the owner of new files in a directory; None when this process is not root, and so cannot set one."""
    if os.geteuid() != 0:
        return None
    with suppress(OSError):
        status = os.fstat(directory) if owner_of is None else owner_of.stat()
        return status.st_uid, status.st_gid
    return None
