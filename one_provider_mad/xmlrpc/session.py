"""Reads the credentials for an OpenNebula, `user:password` or `user:token`, from a file.

OpenNebula's own tools read the file in ONE_AUTH, else ~/.one/one_auth (src/oca/ruby/opennebula/client.rb).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from one_provider_mad.errors import SettingsError
from one_provider_mad.masking import keep_login_secret

USUAL_PLACE = Path(".one/one_auth")


def read_session(*, file: str, environ: Mapping[str, str]) -> str:
    """Return the session string of every call. Reads a file: not for the event loop.

    Args:
        file: path of the file; "" for the one in ONE_AUTH, else the default one in the home directory.
        environ: environment variables.

    Raises:
        SettingsError: the file is missing, unreadable, open to other users, or holds no session.
    """
    path, source = _place(file, environ)
    try:
        with path.open("rb") as opened:
            status, content = os.fstat(opened.fileno()), opened.read(_LONGEST + 1)
    except FileNotFoundError as error:
        raise SettingsError(f"{path.name} does not exist: write user:password into {path} ({source})") from error
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise SettingsError(f"{path.name} cannot be read: {reason} ({path}, {source})") from error
    if status.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SettingsError(f"{path.name} holds a password and is open to all users: run chmod 600 {path} ({source})")
    return check_session(content, where=f"{path.name} ({path}, {source})")


_LONGEST = 4096


def check_session(content: bytes, *, where: str) -> str:
    """Return the session in a text's first line. Raises SettingsError when there is none."""
    first, _, _ = content.partition(b"\n")
    try:
        session = first.decode().strip()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{where} is not a text file: expected user:password") from error
    user, colon, secret = session.partition(":")
    if len(content) > _LONGEST or not (user and colon and secret and session.isprintable()):
        raise SettingsError(f"{where} holds no user:password or user:token in its first line")
    keep_login_secret(session)
    return session


def _place(file: str, environ: Mapping[str, str]) -> tuple[Path, str]:
    if file:
        return Path(file), "from the configuration"
    if named := environ.get("ONE_AUTH"):
        return Path(named), "from ONE_AUTH"
    home = environ.get("HOME")
    if not home:
        raise SettingsError("no user and password for OpenNebula: set ONE_AUTH to a file that holds user:password")
    return Path(home) / USUAL_PLACE, "OpenNebula's usual place, ONE_AUTH is not set"
