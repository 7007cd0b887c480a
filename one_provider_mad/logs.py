"""The driver's own log: one JSON object per line, in OpenNebula's log directory.

Standard output belongs to the protocol. Messages for the operator in OpenNebula's own logs are sent as LOG lines
(actions/log_lines.py, LogLines.write).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TextIO, cast

import msgspec

from one_provider_mad.characters import escaped
from one_provider_mad.file_owner import open_file
from one_provider_mad.masking import masked
from one_provider_mad.settings import Places


def configure(program: str, name: str, places: Places, *, has_stderr: bool, is_verbose: bool) -> str | None:
    """Send the log to `<program>_<NAME>.log`, or to stderr when the file cannot be written and a person reads stderr.

    Args:
        program: `one_vmm_provider`.
        name: NAME from ARGUMENTS.
        places: holds the log directory.
        has_stderr: stderr was open at the start, so a person may be reading it.
        is_verbose: debug lines too (ONE_MAD_DEBUG).

    Returns:
        A sentence when there is no log file, else None.
    """
    structlog = import_structlog()
    # An invalid NAME, such as a path, must not choose the file.
    fit = "".join(character if character.isalnum() or character in "._-" else "_" for character in name) or "unnamed"
    path = places.log / f"{program}_{fit}.log"
    problem = None
    file: LogFile | TextIO = LogFile(path)
    try:
        cast("LogFile", file).reopen()
    except OSError as error:
        problem = f"there is no driver log: {error.strerror} ({path})"
        file = sys.stderr if has_stderr and is_verbose else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_encode),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug" if is_verbose else "info"),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", file)),
        cache_logger_on_first_use=True,
    )
    return problem


_LONGEST = 12_000
"""Characters of one value that are logged, the rest is cut: a script's output may be megabytes. EC2's encoded messages,
which are useless when cut, have up to 10,240 (docs.aws.amazon.com, API_DecodeAuthorizationMessage)."""


def _encode(event: dict[str, object], *, default: Callable[[object], object]) -> str:
    """Return an event as JSON; three times as fast as the standard library, which counts as every action logs one."""
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST:
            event[key] = f"{masked(value)[:_LONGEST]}… ({len(value)} characters)"
    try:
        return escaped(masked(msgspec.json.encode(event, enc_hook=default).decode()))
    except (UnicodeEncodeError, TypeError):  # half a surrogate pair, a key that is not text
        return masked(json.dumps(event, default=default))


def import_structlog() -> ModuleType:
    """Import structlog without rich, which it would load whenever it is installed: 40 ms of the start."""
    missing = object()
    before = sys.modules.get("rich", missing)
    if before is missing:
        sys.modules["rich"] = cast("ModuleType", None)
    try:
        import structlog
    finally:
        if before is missing:
            del sys.modules["rich"]
    return structlog


_CHECK_SECONDS = 0.2
"""Seconds between two checks whether logrotate moved the file; lines until then go to the moved file."""


class LogFile:
    """A log file that is reopened at its path after logrotate has moved it.

    Args:
        path: the file; created with mode 0640.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._inode = -1
        self._looked_at = -math.inf

    def reopen(self) -> None:
        """Open the file at the path.

        Raises:
            OSError: the file cannot be created or written.
        """
        descriptor = open_file(self._path, os.O_WRONLY | os.O_APPEND, 0o640)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino

    def write(self, text: str) -> int:
        """Append a text; a failed write loses it, since a full disk must not stop the driver."""
        try:
            if self._is_moved():
                self.reopen()
            return os.write(self._descriptor, text.encode(errors="backslashreplace"))
        except OSError:
            return 0

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def _is_moved(self) -> bool:
        now = time.monotonic()
        if now < self._looked_at + _CHECK_SECONDS:
            return False
        self._looked_at = now
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True
