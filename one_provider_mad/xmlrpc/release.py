"""PURE: which release an OpenNebula is, by its answer to `one.system.version`."""

from __future__ import annotations

import re

Release = tuple[int, ...]
"""Major, minor and further numbers; compares as releases do."""

_NUMBERS = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})*)")


def release_of(answer: object) -> Release:
    """The numbers that the answer begins with, (7, 4, 0) for `7.4.0`; () for one that begins with none."""
    found = _NUMBERS.match(str(answer))
    return tuple(map(int, found[1].split("."))) if found else ()
