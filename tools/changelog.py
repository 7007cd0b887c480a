"""Reads the sections of CHANGELOG.md, turns [Unreleased] into that of a version, and begins the next one.

The format is that of Keep a Changelog. Works on texts alone; tools/release.py reads and writes the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNRELEASED = "Unreleased"
_HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?\n", re.MULTILINE)
_LINK = re.compile(r"^\[[^\]]+\]: \S+\n?", re.MULTILINE)
_COMPARISON = re.compile(r"^\[Unreleased\]: (?P<base>\S+/)(?P<since>[^/\s]+)\.\.\.HEAD$", re.MULTILINE)
_PROMISE = re.compile(r"(?<=^## \[Unreleased\]\n\n)To be \S+\.\n+", re.MULTILINE)
"""The line under [Unreleased] that names the version it is to be."""


@dataclass(frozen=True)
class Section:
    """One version's part of the changelog.

    Attributes:
        date: of the release, YYYY-MM-DD; None for a section without one.
        body: the text between this heading and the next one, without definitions of links.
    """

    date: str | None
    body: str

    def has_entries(self) -> bool:
        """Return whether there is any entry."""
        return re.search(r"^- ", self.body, re.MULTILINE) is not None


def sections(text: str) -> dict[str, Section]:
    """Return all sections by their names, in the order of the file."""
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return {
        heading["name"]: Section(date=heading["date"], body=_LINK.sub("", text[heading.end() : end]).strip())
        for heading, end in zip(headings, ends, strict=True)
    }


def close(text: str, version: str, date: str) -> str:
    """Return the changelog with the section [Unreleased] as that of the version; links between versions follow."""
    text = _PROMISE.sub("", text, count=1)
    text = text.replace(f"## [{UNRELEASED}]\n", f"## [{version}] - {date}\n", 1)
    return _COMPARISON.sub(rf"[{version}]: \g<base>\g<since>...v{version}", text)


def begin(text: str, version: str) -> str:
    """Return the changelog with a section [Unreleased] that is to be the version, a new one if needed."""
    if f"## [{UNRELEASED}]\n" in text:
        return _PROMISE.sub(f"To be {version}.\n\n", text)
    latest = next(_HEADING.finditer(text))
    text = f"{text[: latest.start()]}## [{UNRELEASED}]\n\nTo be {version}.\n\n{text[latest.start() :]}"
    compared = re.search(rf"^\[{re.escape(latest['name'])}\]: (\S+/)\S+\.\.\.(\S+)$", text, re.MULTILINE)
    if compared is None:
        return text
    return f"{text[: compared.start()]}[{UNRELEASED}]: {compared[1]}{compared[2]}...HEAD\n{text[compared.start() :]}"
