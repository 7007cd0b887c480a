"""The release of OpenNebula that sent a message: upstream's drivers run scripts differently in nearly every release.

The line and its message tell 4.x, 5.x and later releases apart; `remotes/VERSION`, which every release installs
(install.sh, IM_PROBES_VERSION), tells the rest.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from one_provider_mad.protocol.dialect import Dialect

Release = tuple[int, ...]
"""Major, minor and patch number; compares as releases do."""

_VERSION = re.compile(r"\s*([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?")

_OLD, _MIDDLE, _NEW = (4, 14, 2), (5, 10, 5), (7, 4, 0)
"""The most widespread release of each form of message (4.x, 5.x, 6.0 or later), for a missing or unfit VERSION."""


def read_version(path: Path) -> Release | None:
    """Return the installed release; None without a readable file."""
    try:
        match = _VERSION.match(path.read_text(encoding="ascii", errors="replace")[:100])
    except OSError:
        return None
    return tuple(int(number) for number in match.groups(default="0")) if match else None


def release_of(fields: Container[str], *, dialect: Dialect, installed: Release | None) -> Release:
    """Return the release that sent a message.

    Args:
        fields: names of the plain children of its document.
        dialect: OpenNebula's, as its line shows.
        installed: the release in VERSION; ignored if it does not write such messages.
    """
    if dialect is Dialect.SINCE_6_0:
        return installed if installed is not None and Dialect.of_release(installed) is dialect else _NEW
    assumed = _OLD if "NET_DRV" in fields else _MIDDLE
    return installed if installed is not None and installed[0] == assumed[0] else assumed
