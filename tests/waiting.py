"""Waits for conditions that a test checks, never for time to pass: the only file here that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")


def until(look: Callable[[], _Found], *, seconds: float = 10.0, pause: float = 0.02) -> _Found:
    """Call `look` until it returns a true value, and return that; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s, last seen: {found!r}"
        time.sleep(pause)
    return found
