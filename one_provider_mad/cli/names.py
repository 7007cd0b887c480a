"""NAME on the command line, before anything is made of it: a file, a link, a line of oned.conf."""

from __future__ import annotations

import re

from one_provider_mad.errors import SettingsError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""As settings.load has it."""


def check_name(name: str) -> None:
    """Raise SettingsError for what no drivers can be called."""
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is no NAME: take up to 64 letters, digits, `_.-`, and begin with none of `.-`")
