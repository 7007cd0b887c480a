"""Reads an OpenNebula's release from its answer to `one.system.version`; no I/O."""

from __future__ import annotations

import re

Release = tuple[int, ...]
"""Major, minor and further numbers; comparisons order releases."""

_NUMBERS = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})*)")


def release_of(answer: object) -> Release:
    """Return the numbers at the beginning of the answer, (7, 4, 0) for `7.4.0`; () when there are none."""
    found = _NUMBERS.match(str(answer))
    return tuple(map(int, found[1].split("."))) if found else ()
