"""Finds the settings of a configuration file that this release does not know, with their lines and what to write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

import msgspec

from one_provider_mad.cli.reference import keys_of, tables
from one_provider_mad.domain import Value
from one_provider_mad.errors import UnknownSetting
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.providers.registry import settings_of, settings_type_of
from one_provider_mad.settings import Configuration, Places, Settings, load
from one_provider_mad.unknown_keys import KeyPath, dotted

_ALIKE = 0.75
"""Similarity from which a known key is suggested for an unknown one; difflib's default of 0.6 suggests too much."""


class UnknownLine(Value, frozen=True, kw_only=True):
    """A setting that this release does not know.

    Attributes:
        key: its keys, dotted.
        line: its line in the file, 0 if it cannot be told.
        alike: the known setting of the same table with the most similar name, "" for none.
    """

    key: str
    line: int
    alike: str


def load_without_unknown(name: str, places: Places) -> tuple[Configuration, list[KeyPath]]:
    """Return the configuration without its unknown keys, and those.

    Raises:
        SettingsError: the configuration cannot be used even so.
    """
    left_out: list[KeyPath] = []
    while True:
        try:
            configuration = load(name, places, left_out=left_out)
            for check in (settings_of, read_tables):
                check(configuration)
        except UnknownSetting as error:
            left_out += error.paths
        else:
            return configuration, left_out


def describe(configuration: Configuration, unknown: Sequence[KeyPath]) -> list[UnknownLine]:
    """Return the lines of the file with these keys."""
    text = configuration.path.read_text() if configuration.path is not None else ""
    known = list(_known(configuration))
    return [
        UnknownLine(
            key=dotted(path),
            line=_line_of(text, path),
            alike=_alike(path, known),
        )
        for path in unknown
    ]


def _alike(path: KeyPath, known: Sequence[str]) -> str:
    table, key = dotted(path[:-1]), str(path[-1])
    siblings = [name for prefix, _, name in (each.rpartition(".") for each in known) if prefix == table]
    found = next(iter(difflib.get_close_matches(key, siblings, n=1, cutoff=_ALIKE)), "")
    return f"{table}.{found}".lstrip(".") if found else ""


def _known(configuration: Configuration) -> Iterator[str]:
    typed: dict[str, type[msgspec.Struct]] = {
        "": Settings,
        configuration.settings.provider: settings_type_of(configuration),
        **tables(),
    }
    for table, settings_type in typed.items():
        for key in keys_of(settings_type, table=table):
            yield f"{key.table}.{key.name}".lstrip(".")


_HEADER = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def _line_of(text: str, path: KeyPath) -> int:
    """Return the line of a key, or of the innermost table around it that has a line of its own; 0 for none."""
    wanted = [str(part) for part in path if not isinstance(part, int)]
    table: list[str] = []
    best, depth = 0, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            written = table = _parts(header[1])
        elif key := _KEY.match(line):
            written = [*table, *_parts(key[1])]
        else:
            continue
        if len(written) > depth and written == wanted[: len(written)]:
            best, depth = number, len(written)
    return best


def _parts(text: str) -> list[str]:
    return [part.strip().strip("\"'") for part in re.findall(r'"[^"]*"|\'[^\']*\'|[^.\s]+', text)]
