"""Decodes lines between oned or monitord and an information driver."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable, Iterator

from one_provider_mad.cli.decoded import PROBLEM, DecodedLine, control, is_from_a_driver, moment, unreadable, vector
from one_provider_mad.protocol.framing import Oversized
from one_provider_mad.protocol.im import parse_line, parse_oversized
from one_provider_mad.protocol.im_messages import ImLine, Kind, Monitor, StartMonitor, StopMonitor, Unreadable
from one_provider_mad.protocol.im_payload import DOCUMENT_LIMIT
from one_provider_mad.protocol.messages import Control, Severity
from one_provider_mad.template_text.lenient_reader import pairs_of, split_attributes

_ASKED = frozenset({b"START_MONITOR", b"STOP_MONITOR", b"MONITOR", b"STOPMONITOR"})
_KINDS = frozenset(kind.value for kind in Kind)
_MODERN = re.compile(rb"([A-Z_]+) ([A-Z]+) (-?[0-9]{1,19}) (-?[0-9]{1,19})(?: +(\S+))?\s*")
_LEGACY = re.compile(rb"(MONITOR|STOPMONITOR) (SUCCESS|FAILURE) ([0-9]{1,19})(?: (.*))?", re.DOTALL)
_LEGACY_NOTE, _MODERN_NOTE = "up to 5.10", "5.12 and later"
_IN_BASE64 = frozenset({"MONITOR", "IMPORT_TEMPLATE"})
"""Attributes of a VM whose value is template text once more (protocol/reports.py)."""


def decode_monitor_line(line: bytes | Oversized) -> DecodedLine | None:
    """Decode a line from or to an information driver; None for any other line. Never raises."""
    head = line.head if isinstance(line, Oversized) else line
    if not is_from_a_driver(head):
        word = head.split(None, 1)[:1]
        if not word or word[0].upper() not in _ASKED:
            return None
        return _asked(parse_oversized(line) if isinstance(line, Oversized) else parse_line(line), head)
    if isinstance(line, Oversized):
        return None
    return _modern(line) or _legacy(line)


# Requests of the core


def _asked(message: ImLine, line: bytes) -> DecodedLine:
    if isinstance(message, Unreadable):
        return unreadable(message.reason, line)
    if isinstance(message, Control):
        return control(message)
    if isinstance(message, StartMonitor):
        return _asks("START_MONITOR", message.host_id, _MODERN_NOTE, _start(message), message.document)
    if isinstance(message, StopMonitor):
        is_modern = line.split(None, 1)[0].upper() == b"STOP_MONITOR"
        word, note = ("STOP_MONITOR", _MODERN_NOTE) if is_modern else ("STOPMONITOR", _LEGACY_NOTE)
        return _asks(word, message.host_id, note)
    return _asks("MONITOR", message.host_id, _LEGACY_NOTE, _monitor(message))


def _asks(
    word: str, host_id: int, note: str, fields: Iterable[tuple[str, str]] = (), document: bytes = b""
) -> DecodedLine:
    shown = tuple((label, text) for label, text in fields if text)
    return DecodedLine(
        sender="core", word=word, host_id=host_id, text=f"host {host_id}", note=note, fields=shown, document=document
    )


def _monitor(message: Monitor) -> Iterator[tuple[str, str]]:
    yield "name", message.host
    yield "datastores", message.datastore_location
    yield "first time", "yes" if message.is_first else ""


def _start(message: StartMonitor) -> Iterator[tuple[str, str]]:
    periods = message.periods
    yield "name", message.host
    yield "STATE", "" if message.state is None else str(message.state)
    yield (
        "drivers",
        " ".join(f"{label} {name}" for label, name in (("IM_MAD", message.im_mad), ("VM_MAD", message.vm_mad)) if name),
    )
    yield "cluster", message.cluster
    yield "datastores", message.datastore_location
    yield "seconds", "  ".join(f"{name.upper()} {getattr(periods, name)}" for name in periods.__struct_fields__)


# Lines of a driver


def _modern(line: bytes) -> DecodedLine | None:
    match = _MODERN.fullmatch(line)
    if match is None:
        return None
    word, status, host_id, timestamp = match[1].decode(), match[2].decode(), int(match[3]), int(match[4])
    text = _inflated(match[5] or b"")
    if word == "LOG":
        # A LOG line of a virtualization driver may have the same form.
        return None if text is None or not match[5] else _log(status, host_id, text)
    if word not in _KINDS:
        return None
    problem = "it is not base64 of zlib data" if text is None else ""
    return _reported(word, status, host_id, text or "", problem=problem, when=moment(timestamp))


def _legacy(line: bytes) -> DecodedLine | None:
    match = _LEGACY.fullmatch(line.rstrip())
    if match is None:
        return None
    word, status, host_id, info = match[1].decode(), match[2].decode(), int(match[3]), match[4] or b""
    if word == "STOPMONITOR":
        return _reported(word, status, host_id, "" if info == b"-" else info.decode("utf-8", "replace"))
    try:
        text, problem = base64.b64decode(info, validate=True).decode("utf-8", "replace"), ""
    except ValueError:
        text, problem = "", "it is not base64"
    return _reported(word, status, host_id, text, problem=problem)


def _log(letter: str, host_id: int, text: str) -> DecodedLine:
    severity = next((each for each in Severity if each.value == letter[:1]), Severity.INFO)
    log = "monitord's log" if host_id < 0 else f"monitord's log, of host {host_id}"
    about = None if host_id < 0 else host_id
    return DecodedLine(sender="driver", word="LOG", status=severity.name.lower(), host_id=about, text=f"{log}: {text}")


def _reported(word: str, status: str, host_id: int, text: str, *, problem: str = "", when: str = "") -> DecodedLine:
    is_report = status == "SUCCESS" and not problem
    fields = tuple(_attributes(text)) if is_report else ((PROBLEM, problem),) if problem else ()
    sentence = "" if is_report or not text else f": {text}"
    about = f"host {host_id}{when}{sentence}"
    return DecodedLine(sender="driver", word=word, status=status, host_id=host_id, text=about, fields=fields)


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    attributes = split_attributes(text)
    if isinstance(attributes, str):
        yield PROBLEM, f"OpenNebula cannot read the text from here on: {attributes}"
        return
    for name, attribute in attributes:
        pairs = pairs_of(attribute)
        yield name, pairs[0][1] if [pair[0] for pair in pairs] == [name] else vector(dict(map(_opened, pairs)))


def _opened(pair: tuple[str, str]) -> tuple[str, str]:
    """Return name and value; a value in base64 of template text is decoded."""
    name, value = pair
    if name not in _IN_BASE64:
        return pair
    try:
        return name, "(" + " ".join(base64.b64decode(value, validate=True).decode().split()) + ")"
    except ValueError:
        return pair


def _inflated(payload: bytes) -> str | None:
    """Return the decompressed text of a payload, None for an unreadable one."""
    if not payload:
        return ""
    inflater = zlib.decompressobj()
    try:
        return inflater.decompress(base64.b64decode(payload, validate=True), DOCUMENT_LIMIT).decode("utf-8", "replace")
    except (ValueError, zlib.error):
        return None
