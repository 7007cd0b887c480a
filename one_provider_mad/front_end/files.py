"""Reads the configuration files of this front-end: oned.conf, monitord.conf, sched.conf and schedulers/rank.conf."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from one_provider_mad.domain import Template, Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.template_text.lenient_reader import pairs_of, split_attributes

ONED, MONITORD, SCHED, RANK = "oned.conf", "monitord.conf", "sched.conf", "schedulers/rank.conf"
"""The files, relative to OpenNebula's configuration folder. mm_sched reads sched.conf up to 6.10, the scheduler `rank`
schedulers/rank.conf from 7.0 on; monitord.conf is there from 5.12 on."""


class FrontEnd(Value, frozen=True, kw_only=True):
    """The settings of a front-end.

    Attributes:
        etc: OpenNebula's configuration folder.
        settings: the settings in each file that is there, by the file's name.
    """

    etc: Path = Path("/etc/one")
    settings: Mapping[str, Template] = {}

    @property
    def is_there(self) -> bool:
        """True on a front-end, False on a machine without oned.conf."""
        return ONED in self.settings

    def of(self, file: str) -> Template:
        """Return the settings in a file; none when it is missing."""
        return self.settings.get(file, Template())


def read_front_end(etc: Path) -> FrontEnd:
    """Read the files in OpenNebula's configuration folder.

    Raises:
        SettingsError: a file cannot be read, or not by OpenNebula's grammar.
    """
    found = {file: _settings_in(etc / file) for file in (ONED, MONITORD, SCHED, RANK)}
    return FrontEnd(etc=etc, settings={file: settings for file, settings in found.items() if settings is not None})


def _settings_in(path: Path) -> Template | None:
    try:
        text = path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}; run this as root or as oneadmin") from error
    attributes = split_attributes(text if text.endswith("\n") else f"{text}\n")
    if isinstance(attributes, str):
        raise SettingsError(f"OpenNebula cannot read {path} from {attributes.splitlines()[0]!r} on: correct it there")
    values: dict[str, tuple[str | Mapping[str, str], ...]] = {}
    for name, written in attributes:
        values[name] = (*values.get(name, ()), _value(written))
    return Template(values=values)


def _value(written: str) -> str | Mapping[str, str]:
    pairs = pairs_of(written)
    if written.partition("=")[2].lstrip().startswith("["):
        return {name.upper(): value for name, value in pairs}
    return pairs[0][1]
