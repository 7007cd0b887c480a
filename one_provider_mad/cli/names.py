"""NAME on the command line, before anything is made of it: a file, a link, a line of oned.conf."""

from __future__ import annotations

from one_provider_mad.errors import SettingsError
from one_provider_mad.settings import NAME


def check_name(name: str) -> None:
    """Raise SettingsError for what no drivers can be called."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is no NAME: take up to 64 letters, digits, `_.-`, and begin with none of `.-`")
