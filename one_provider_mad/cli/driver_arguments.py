"""Reads the sections of oned.conf and monitord.conf that start these drivers, and checks their ARGUMENTS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from one_provider_mad.cli.running_drivers import PROGRAMS
from one_provider_mad.domain import Value
from one_provider_mad.options import parse_arguments
from one_provider_mad.settings import Places

_SECTION = re.compile(r"^[ \t]*(VM_MAD|IM_MAD)\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_ATTRIBUTE = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)


class Section(Value, frozen=True, kw_only=True):
    """A section that starts one of the drivers.

    Attributes:
        path: the file.
        line: the section's first line.
        kind: VM_MAD or IM_MAD.
        name: NAME in its ARGUMENTS, "" without one.
        arguments: its ARGUMENTS.
        warnings: what this release does not understand in them.
    """

    path: Path
    line: int
    kind: str
    name: str
    arguments: str
    warnings: tuple[str, ...]


def sections(places: Places) -> Iterator[Section]:
    """Yield the sections of both files; files that cannot be read have none."""
    for path in (places.etc / "oned.conf", places.etc / "monitord.conf"):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        text = _COMMENT.sub("", text)
        for match in _SECTION.finditer(text):
            attributes = dict(_ATTRIBUTE.findall(match[2]))
            if Path(attributes.get("EXECUTABLE", "")).name in PROGRAMS:
                options = parse_arguments([attributes.get("ARGUMENTS", "")])
                yield Section(
                    path=path,
                    line=text.count("\n", 0, match.start(1)) + 1,
                    kind=match[1],
                    name=options.name,
                    arguments=attributes.get("ARGUMENTS", ""),
                    warnings=options.warnings,
                )
