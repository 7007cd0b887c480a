"""Whether OpenNebula's user can start a driver, tried as that user through the program's own wrapper."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import one_provider_mad
from one_provider_mad import __version__
from one_provider_mad.cli.core_user import CoreUser
from one_provider_mad.domain import Value

_ELSEWHERE = "let that user into it, or install one-provider-mad where all users may read, as in /opt"
_AGAIN = "install one-provider-mad again, or run make setup in its checkout"
_LINK = "run one-provider install, which makes the link anew"
_REMEDIES = ("make ", "install ")
"""First words of the remedies that cannot_start.sh puts at the end of its sentence."""


class Obstacle(Value, frozen=True, kw_only=True):
    """Why the user cannot start a program.

    Attributes:
        found: what is wrong.
        remedy: what to do.
        is_fatal: False for a program that starts, but is another release than this one.
    """

    found: str
    remedy: str
    is_fatal: bool = True


def obstacle_to(program: Path, user: CoreUser, environ: Mapping[str, str]) -> Obstacle | None:
    """Start a driver with `--version`, which imports all that its start imports.

    Args:
        program: its absolute path, as OpenNebula starts it.
        user: who starts it.
        environ: the environment of the process.

    Returns:
        None if it starts; only for a user that can be tried.
    """
    if (closed := user.first_closed(program, "-x")) is not None:
        if not os.path.lexists(closed):
            return Obstacle(found=f"{program} leads to {closed}, which does not exist", remedy=_LINK)
        return Obstacle(
            found=f"{closed} is closed to {user.name}, and {program} leads there",
            remedy=_ELSEWHERE,
        )
    tried = user.run([os.fspath(program), "--version"], environ=environ)
    if tried is None:
        return Obstacle(found=f"{program} is no program that {user.name} can run", remedy=_AGAIN)
    code, version, errors = tried
    if code:
        sentence = (errors.splitlines() or [f"{program} --version ended with {code}"])[-1]
        found, _, remedy = sentence.removeprefix(f"{program.name}: ").rpartition(": ")
        if found and remedy.startswith(_REMEDIES):
            return Obstacle(found=found, remedy=remedy)
        return Obstacle(found=sentence.removeprefix(f"{program.name}: "), remedy=_AGAIN)
    if version != f"one-provider-mad {__version__}":
        return Obstacle(
            found=f"{program} is {version}, and this command is of {__version__}",
            remedy="move the link away, run one-provider install, and restart OpenNebula",
            is_fatal=False,
        )
    return None


def obstacle_in_files(user: CoreUser) -> Obstacle | None:
    """Look for a file of this package or of its libraries that the user may not read; None if there is none.

    Providers and their libraries are imported late, so a driver that starts may still fail with one.
    """
    folders = (Path(one_provider_mad.__file__).parent, Path(sysconfig.get_path("purelib")))
    for folder in folders:
        if (closed := user.first_closed(folder, "-r")) is not None:
            return Obstacle(found=f"{closed} is closed to {user.name}, and {folder} is in it", remedy=_ELSEWHERE)
    if (file := user.first_unreadable(*folders)) is None:
        return None
    top = next(folder for folder in folders if file.is_relative_to(folder))
    return Obstacle(found=f"{file} is closed to {user.name}", remedy=f"chmod -R go+rX {top}")
