"""Lists that are read once a day, kept in the state directory: a new process, or the other driver, need not ask again.

Both drivers of a NAME write the same files, each whole: the one that replaces the other's is no older.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from one_provider_mad.file_owner import replace_file

_Kept = TypeVar("_Kept", bound=msgspec.Struct)

_LARGEST = 8 * 1024 * 1024
"""Most bytes of a file that is read."""


def load(path: Path, kind: type[_Kept]) -> _Kept | None:
    """Return what the file holds; None without one, or when it is damaged or of another release. Blocks."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            return msgspec.json.decode(file.read(_LARGEST), type=kind)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def save(path: Path, content: msgspec.Struct) -> None:
    """Replace the file. Blocks. Raises OSError when it cannot be written."""
    replace_file(path, msgspec.json.encode(content), beside=f"{path.name}.{os.getpid()}.new")
