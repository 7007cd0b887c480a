"""Replaces a process whose modules cannot be imported by `cannot_start.sh`, which tells OpenNebula why."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

_SCRIPT = "cannot_start.sh"


def answer_instead(error: Exception, *, is_initialised: bool, requests: Sequence[str] = ()) -> NoReturn:
    """Run the script in this process's place: with the same pid, ARGUMENTS, input and output.

    Args:
        error: why the modules cannot be imported.
        is_initialised: INIT was answered.
        requests: line of each request that was read and has no answer, cut after the VM's id.
    """
    script = os.path.join(os.path.dirname(__file__), _SCRIPT)
    if isinstance(error, ModuleNotFoundError):
        reason = f"{error}; is it installed for {sys.executable}?"
    else:
        reason = f"{type(error).__name__}: {error} ({sys.executable})"
    for descriptor in (0, 1):
        os.set_blocking(descriptor, True)
    state = ["INIT" if is_initialised else "", reason, "\n".join(requests)]
    os.execv("/bin/sh", ["sh", script, os.path.realpath(sys.argv[0]), *state, *sys.argv[1:]])  # noqa: S606 - the script is the package's own
