"""`one-provider decode`: lines of either direction, for people."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import click
import msgspec
from lxml import etree

from one_provider_mad.actions.intents import INTENTS, LCM_STATES, intent_of
from one_provider_mad.domain import Template, VmRequest
from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol.framing import LineBuffer, Oversized
from one_provider_mad.protocol.messages import Action, Control, LogLine, Malformed, Reply, Request, Severity
from one_provider_mad.protocol.payload import read_payload
from one_provider_mad.protocol.vmm import parse_line, parse_oversized, parse_reply

_PIECE = 65536
_STATUS = (b"SUCCESS", b"FAILURE")
_LABEL = 14
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan", Severity.DEBUG: "bright_black"}


_HELP = """\
Show what lines between oned and a driver say, from FILEs or stdin (-), as they arrive.

\b
  one-provider encode DEPLOY --vm-id 7 | one-provider decode --xml
"""


@click.command("decode", help=_HELP, short_help="Show lines of either direction readably.")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--xml", "is_xml", is_flag=True, help="Print the document of each request as well.")
def command(files: tuple[str, ...], is_xml: bool) -> None:
    """Show what lines between oned and a driver say, from FILEs or stdin (-), as they arrive."""
    for file in files or ("-",):
        for line in _lines(file):
            for text in explain(line, is_xml=is_xml):
                click.echo(text)  # flushes each


def _lines(file: str) -> Iterator[bytes | Oversized]:
    """The lines of a file as they arrive."""
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
    """Say what a line means, in one or more lines of text with terminal colours. Never raises."""
    if isinstance(line, Oversized):
        yield from _malformed(parse_oversized(line), line.head)
    elif _is_from_a_driver(line):
        yield from _from_driver(parse_reply(line), line)
    else:
        yield from _from_oned(parse_line(line), line, is_xml=is_xml)


def _is_from_a_driver(line: bytes) -> bool:
    word, *rest = line.split(None, 2) or [b""]
    return word == b"LOG" or (bool(rest) and rest[0].upper() in _STATUS)


# What a driver says


def _from_driver(message: Reply | LogLine | Control | Malformed, line: bytes) -> Iterator[str]:
    if isinstance(message, Malformed):
        yield from _malformed(message, line)
    elif isinstance(message, Control):
        yield _head("<", message.value, click.style("SUCCESS", fg="green"), "the driver is ready")
    elif isinstance(message, LogLine):
        target = "oned's log" if message.vm_id is None else f"log of VM {message.vm_id}"
        severity = click.style(message.severity.name.lower(), fg=_COLOURS[message.severity])
        yield _head("<", "LOG", severity, f"{target}: {printable(message.text)}")
    else:
        status = click.style("SUCCESS", fg="green") if message.is_success else click.style("FAILURE", fg="red")
        yield _head("<", message.word, status, f"VM {message.vm_id}{_info(message)}")


def _info(reply: Reply) -> str:
    if reply.info in ("", "-"):
        return ""
    label = "deploy id " if reply.word == Action.DEPLOY.value and reply.is_success else ""
    return f": {label}{printable(reply.info)}"


# What oned says


def _from_oned(message: Request | Control | Malformed, line: bytes, *, is_xml: bool) -> Iterator[str]:
    if isinstance(message, Malformed):
        yield from _malformed(message, line)
    elif isinstance(message, Control):
        what = {Control.INIT: "are you ready?", Control.FINALIZE: "come to an end"}[message]
        yield _head(">", message.value, "", what)
    else:
        era = "6.0 and later" if message.is_two_blank else "up to 5.12"
        yield _head(">", message.action.value, "", f"VM {message.vm_id}  {click.style(f'({era})', dim=True)}")
        if message.action is not Action.DRIVER_CANCEL or message.payload:
            yield from _payload(message, is_xml=is_xml)


def _payload(request: Request, *, is_xml: bool) -> Iterator[str]:
    content = read_payload(request)
    if isinstance(content, Malformed):
        yield _field("payload", click.style(printable(content.reason), fg="red"))
        return
    vm, document = content
    yield from (_field(label, text) for label, text in _facts(request, vm) if text)
    if is_xml:
        yield from _pretty(document)


def _facts(request: Request, vm: VmRequest) -> Iterator[tuple[str, str]]:
    """The fields that matter, with a label each; "" where there is nothing to say."""
    yield "name", printable(vm.name)
    yield "host", printable(f"{vm.host} (id {vm.host_id})" if vm.host_id >= 0 else vm.host)
    yield "deploy id", printable(vm.deploy_id) or "none"
    yield "LCM_STATE", _lcm_state(vm)
    yield "asks for", _intent(request.action, vm)
    yield "identity", f"STIME {vm.stime}{_moment(vm.stime)}, SEQ {vm.seq}"
    yield "operand", _vector(vm.operand)
    yield "sec. group", printable(vm.security_group_id)
    yield "network", printable(vm.virtual_network_id)
    template, user_template = _templates(request)
    yield "capacity", "  ".join(f"{name} {printable(text)}" for name in _CAPACITY if (text := template.text(name)))
    for section in user_template.vectors("PUBLIC_CLOUD"):
        yield "PUBLIC_CLOUD", _vector(section)


_CAPACITY = ("CPU", "VCPU", "MEMORY")


def _lcm_state(vm: VmRequest) -> str:
    if vm.lcm_state is None:
        return "none"
    return f"{vm.lcm_state} {LCM_STATES.get(vm.lcm_state, '(unknown)')}"


def _intent(action: Action, vm: VmRequest) -> str:
    """What the driver takes it for, where that depends on the state."""
    if action not in INTENTS:
        return ""
    try:
        return intent_of(action, vm.lcm_state, has_deploy_id=bool(vm.deploy_id)).value
    except RequestRefused as refusal:
        return f"nothing that can be done: {refusal}"


def _templates(request: Request) -> tuple[Template, Template]:
    """Both templates; they are read for few actions only, DEPLOY among them."""
    content = read_payload(msgspec.structs.replace(request, action=Action.DEPLOY))
    if isinstance(content, Malformed):
        return Template(), Template()
    return content[0].template, content[0].user_template


def _moment(seconds: int) -> str:
    try:
        return time.strftime(" (%Y-%m-%d %H:%M:%S UTC)", time.gmtime(seconds)) if seconds else ""
    except (OverflowError, ValueError, OSError):
        return ""


def _vector(values: Mapping[str, str]) -> str:
    return "  ".join(f"{name}={printable(text)}" for name, text in values.items())


def _pretty(document: bytes) -> Iterable[str]:
    """The document, one element a line; its text stays escaped so far as it could steer a terminal."""
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, remove_blank_text=True, huge_tree=True
    )
    text = etree.tostring(etree.fromstring(document, parser), pretty_print=True, encoding="unicode")
    return (f"    {printable(line)}" for line in text.splitlines())


# How it looks


def _malformed(message: Malformed, line: bytes) -> Iterator[str]:
    start = printable(line[:60].decode("utf-8", "backslashreplace"))
    more = "…" if len(line) > 60 else ""
    yield _head(
        "?",
        start + more if line else "",
        "",
        click.style(f"(neither request nor reply: {printable(message.reason)})", fg="red"),
    )


def _head(direction: str, word: str, status: str, text: str) -> str:
    arrow = click.style(direction, dim=True)
    return " ".join(part for part in (arrow, click.style(printable(word), bold=True), status, text) if part)


def _field(label: str, text: str) -> str:
    return f"    {click.style(label.ljust(_LABEL), dim=True)} {text}"


def printable(text: str) -> str:
    """The text with everything escaped that could break the line or steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
