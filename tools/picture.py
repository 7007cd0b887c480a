"""Writes docs/demo.svg: what `one-provider demo` shows on a terminal, recorded from a run of it.

`python tools/picture.py` (`make picture`) plays the demonstration and draws it. Times and ids are those of that run; a
picture that shows the same but for them is left as it is. tests/test_documents.py holds it against a run of today.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from xml.etree import ElementTree as ET

import click
from rich.console import Console
from rich.text import Text

from one_provider_mad.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "demo.svg"

COLUMNS = 88
"""Columns: all lines but two fit, whose ends do not matter; more columns would make the letters small."""

_SVG = "{http://www.w3.org/2000/svg}"

_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>What make demo shows: a full home, both drivers, and nine actions of a VM in the cloud</title>
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""As rich's own, but with fonts that are there: a picture that fetches something shows nothing on most pages."""

_VARYING = (
    (r"(?<=\[)\d+\.\d+(?= s\])", "0.0"),
    (r"\bsim-[0-9a-f]{12}", "sim-0"),
    (r"(?<=\()\d+(?= bytes\))", "0"),
    (r"\b(CPU|MEMORY|NETRX|NETTX)=[\d.]+", r"\1=0"),
    (r"[\w+/=]{20,}(?=…)", ""),  # what a payload begins with
)


def masked(line: str) -> str:
    """A line of the demonstration without what differs from one run to the next."""
    for pattern, stead in _VARYING:
        line = re.sub(pattern, stead, line)
    return line.rstrip()


def play() -> list[str]:
    """Play the demonstration; what it writes, with colours, and with `…` for where the programs are."""
    written = io.StringIO()
    with redirect_stdout(written):
        main(["demo"], standalone_mode=False, color=True)
    return re.sub(r"\S+(?=/bin/one_)", "…", written.getvalue()).splitlines()


def drawn(lines: Sequence[str]) -> str:
    """The picture of lines with colours."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        _environ={},
    )
    for line in lines:
        console.print(_cut(Text.from_ansi(line)), highlight=False)
    svg = console.export_svg(title="make demo", code_format=_FORMAT, unique_id="demo")
    without_line_ends = re.sub(r"<text [^>]*>\n</text>", "\n", svg)
    return "\n".join(line.strip() for line in without_line_ends.splitlines() if line.strip()) + "\n"


def _cut(text: Text) -> Text:
    """The words that fit in: figures of different lengths are not to change which ones these are."""
    if len(text) <= COLUMNS:
        return text
    return text[: text.plain.rindex(" ", 0, COLUMNS - 1) + 1].append("…")


def shown(svg: str) -> list[str]:
    """The lines that a picture shows, from top to bottom."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for matrix in ET.fromstring(svg).iter(f"{_SVG}g"):
        if matrix.get("class") == "demo-matrix":
            for text in matrix.iter(f"{_SVG}text"):
                place = float(text.get("x", "0")), "".join(text.itertext()).replace("\N{NO-BREAK SPACE}", " ")
                rows.setdefault(float(text.get("y", "0")), []).append(place)
    return ["".join(part for _, part in sorted(parts)) for _, parts in sorted(rows.items())]


def _is_same(before: Sequence[str], now: Sequence[str]) -> bool:
    return [*map(masked, before)] == [*map(masked, now)]


if __name__ == "__main__":
    picture = drawn(play())
    if PICTURE.exists() and _is_same(shown(PICTURE.read_text()), shown(picture)):
        click.echo(f"{PICTURE} shows that already: left as it is")
    else:
        PICTURE.write_text(picture)
