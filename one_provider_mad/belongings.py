"""Whose the files are that this project makes: the owner's of the directory they are in.

A person who looks into things as root must not leave files behind that OpenNebula's own user cannot open.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def give_to_directory_owner(path: Path) -> None:
    """Hand a file just made to whoever owns its directory; only root can, and needs to."""
    give_to_owner_of(path.parent, path)


def give_to_owner_of(directory: Path, path: Path) -> None:
    """Hand a file just made to the user and the group that a directory has; only root can, and needs to."""
    if os.geteuid() == 0:
        with suppress(OSError):
            status = directory.stat()
            os.chown(path, status.st_uid, status.st_gid)
