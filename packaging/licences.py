"""Writes the licences of all that a package ships, in Debian's format, from the metadata of the distributions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

APACHE = " On Debian systems the text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0."

_FORMAT = "https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
_HOLDER = re.compile(r"\W*copyright \D{0,6}\d{4}", re.IGNORECASE)
_LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice|authors", re.IGNORECASE)


def copyright_of(site: Path, project: str) -> str:
    """Return the text of a copyright file for all distributions of a site-packages folder.

    Args:
        site: the folder.
        project: name of this project, whose licence covers all other files.
    """
    lines = [f"Format: {_FORMAT}", f"Upstream-Name: {project}", ""]
    lines += ["Files: *", f"Copyright: the authors of {project}", "License: Apache-2.0", APACHE, ""]
    for info in sorted(site.glob("*.dist-info")):
        metadata = HeaderParser().parsestr((info / "METADATA").read_text())
        if metadata["Name"] != project:
            lines += _stanza(info, metadata)
    return "\n".join(lines)


def _stanza(info: Path, metadata: Message) -> Iterator[str]:
    """Yield the lines about one distribution: its files, their holders, and the whole of its licences."""
    name = metadata["Name"]
    texts = [path.read_text(errors="replace") for path in sorted(info.rglob("*")) if _is_licence(path)]
    lines = [line for text in texts for line in text.splitlines()]
    holders = sorted({line.strip(" #*") for line in lines if _HOLDER.match(line)})
    yield "Files: " + "\n ".join(f"usr/lib/*/site-packages/{module}*" for module in sorted(_modules(info)))
    yield "Copyright: " + "\n ".join(holders or [f"the authors of {name}"])
    yield f"License: {name}-{metadata['Version']}"
    yield f" {_licence(metadata)}"
    if any("TERMS AND CONDITIONS FOR USE, REPRODUCTION" in line for line in lines):  # Debian has it once for all
        yield APACHE
    else:
        yield from (f" {line.rstrip()}" if line.strip() else " ." for line in lines)
    yield ""


def _is_licence(path: Path) -> bool:
    return path.is_file() and _LICENCE_FILE.match(path.name) is not None


def _modules(info: Path) -> set[str]:
    """Return the modules and folders that a distribution's RECORD names."""
    names = {line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()}
    return {name.split("/")[0] for name in names if ".data/" not in name}


def _licence(metadata: Message) -> str:
    """Return the licence's name as the metadata of a distribution has it."""
    classifiers = metadata.get_all("Classifier", [])
    named = ", ".join(line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License"))
    return metadata["License-Expression"] or " ".join((metadata["License"] or named).split())[:80]
