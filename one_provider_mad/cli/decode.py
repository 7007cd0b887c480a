"""`one-provider decode`: shows protocol lines, of both directions and both drivers, as readable text."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import click
from lxml import etree

from one_provider_mad.cli.decoded import PROBLEM, DecodedLine, decode_line
from one_provider_mad.cli.decoded_monitor import decode_monitor_line
from one_provider_mad.protocol.framing import LineBuffer, Oversized

_PIECE = 65536
_LABEL = 14
_ARROWS = {"core": ">", "driver": "<", "": "?"}
_COLOURS = {
    "SUCCESS": "green", "FAILURE": "red", "error": "red", "warning": "yellow", "info": "cyan", "debug": "bright_black"
}  # fmt: skip


_HELP = """\
Decode lines between oned or monitord and a driver, from FILEs or stdin (-), as they arrive.

\b
  one-provider encode DEPLOY --vm-id 7 | one-provider decode --xml
"""


@click.command("decode", help=_HELP, short_help="Decode lines between OpenNebula and a driver.")
@click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]...")
@click.option("--xml", "is_xml", is_flag=True, help="Print the document of each request as well.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")
def command(files: tuple[str, ...], is_xml: bool, is_json: bool) -> None:
    """Decode lines between oned or monitord and a driver, from FILEs or stdin (-), as they arrive."""
    for file in files or ("-",):
        for line in _lines(file):
            for text in [entry(line, is_xml=is_xml)] if is_json else explain(line, is_xml=is_xml):
                click.echo(text)  # click flushes each line


def _lines(file: str) -> Iterator[bytes | Oversized]:
    """Yield the lines of a file as they arrive."""
    buffer = LineBuffer()
    for piece in _pieces(file):
        yield from buffer.feed(piece)
    yield from buffer.close()


def _pieces(file: str) -> Iterator[bytes]:
    try:
        with _opened(file) as stream:
            while piece := stream.read1(_PIECE):
                yield piece
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read: {error.strerror}") from error


def _opened(file: str) -> AbstractContextManager[io.BufferedReader]:
    if file != "-":
        return Path(file).open("rb")
    if sys.stdin is None:
        raise click.ClickException("stdin is closed")
    stream = cast("io.BufferedReader", sys.stdin.buffer)
    return nullcontext(stream)


def explain(line: bytes | Oversized, *, is_xml: bool = False) -> Iterator[str]:
    """Yield the explanation of a protocol line, as lines of text with terminal colours. Never raises."""
    read = _read(line)
    note = click.style(f"({printable(read.note)})", fg=None if read.sender else "red", dim=bool(read.sender))
    said = printable(read.text) + ("  " if read.text and read.note else "") + (note if read.note else "")
    status = click.style(read.status, fg=_COLOURS.get(read.status)) if read.status else ""
    word = click.style(printable(read.word), bold=True) if read.word else ""
    arrow = click.style(_ARROWS[read.sender], dim=True)
    yield " ".join(part for part in (arrow, word, status, said) if part)
    yield from (_field(label, text) for label, text in read.fields)
    if is_xml and read.document:
        yield from (f"    {printable(each)}" for each in _pretty(read.document))


def entry(line: bytes | Oversized, *, is_xml: bool = False) -> str:
    """Return the explanation of a protocol line, as a JSON object on one line. Never raises."""
    read = _read(line)
    facts = {
        "from": read.sender or None,
        "word": read.word,
        "status": read.status or None,
        "vm_id": read.vm_id,
        "host_id": read.host_id,
        "text": read.text,
        "note": read.note or None,
        "fields": [{"name": name, "text": text} for name, text in read.fields],
    }
    if is_xml:
        facts["xml"] = "\n".join(_pretty(read.document)) if read.document else None
    return json.dumps(facts)


def _read(line: bytes | Oversized) -> DecodedLine:
    return decode_monitor_line(line) or decode_line(line)


def _field(label: str, text: str) -> str:
    shown = printable(text)
    return f"    {click.style(printable(label).ljust(_LABEL), dim=True)} " + (
        click.style(shown, fg="red") if label == PROBLEM else shown
    )


def _pretty(document: bytes) -> Iterable[str]:
    """Return an XML document with one element a line."""
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, remove_blank_text=True, huge_tree=True
    )
    return etree.tostring(etree.fromstring(document, parser), pretty_print=True, encoding="unicode").splitlines()


def printable(text: str) -> str:
    """Return the text with every character escaped that could break the line or control the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
