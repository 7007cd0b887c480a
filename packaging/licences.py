"""Writes the licences of all that a package ships, in Debian's format, from what tools/sbom.py reads of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from packaging.utils import canonicalize_name
from sbom import PROJECT, Rules, expression_of, shipped, texts_of

APACHE = " On Debian systems the text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0."

_FORMAT = "https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
_HOLDER = re.compile(r"\W*copyright \D{0,6}\d{4}", re.IGNORECASE)


def copyright_of(site: Path, rules: Rules) -> str:
    """Return the text of a copyright file for all distributions of a site-packages folder.

    Raises:
        SbomError: the licence of one is not understood.
    """
    lines = [f"Format: {_FORMAT}", f"Upstream-Name: {PROJECT}", ""]
    lines += ["Files: *", f"Copyright: the authors of {PROJECT}", "License: Apache-2.0", APACHE, ""]
    for each in shipped(site, {}, all_of_them=True):
        if canonicalize_name(each.name) != PROJECT:
            lines += _stanza(each, rules)
    return "\n".join(lines)


def _stanza(distribution: Distribution, rules: Rules) -> Iterator[str]:
    """Yield the lines about one distribution: its files, their holders, and the whole of its licences."""
    lines = [line for text in texts_of(distribution).values() for line in text.splitlines()]
    holders = sorted({line.strip(" #*") for line in lines if _HOLDER.match(line)})
    modules = {file.parts[0] for file in distribution.files or [] if not file.parts[0].endswith(".data")}
    yield "Files: " + "\n ".join(f"usr/lib/*/site-packages/{module}*" for module in sorted(modules))
    yield "Copyright: " + "\n ".join(holders or [f"the authors of {distribution.name}"])
    yield f"License: {distribution.name}-{distribution.version}"
    yield f" {expression_of(distribution, rules)}"
    if any("TERMS AND CONDITIONS FOR USE, REPRODUCTION" in line for line in lines):  # Debian has it once for all
        yield APACHE
    else:
        yield from (f" {line.rstrip()}" if line.strip() else " ." for line in lines)
    yield ""
