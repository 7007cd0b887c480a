"""Checks NAME on the command line, before it becomes part of a path or of oned.conf."""

from __future__ import annotations

from one_provider_mad.errors import SettingsError
from one_provider_mad.settings import NAME


def check_name(name: str) -> None:
    """Raise SettingsError for an invalid NAME."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is no NAME: use up to 64 letters, digits and `_.-`, and do not begin with `.-`")
