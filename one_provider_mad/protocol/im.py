"""The lines between an information driver and oned (up to 5.10) or monitord (from 5.12 on), in both directions.

oned up to 5.10 to driver:      MONITOR ID HOST DATASTORES FLAG
                                STOPMONITOR ID HOST
driver to oned:                 MONITOR SUCCESS|FAILURE ID BASE64
monitord (5.12) to driver:      START_MONITOR - ID 0 BASE64(ZLIB)
                                STOP_MONITOR - ID 0 BASE64(ZLIB)
driver to monitord:             KIND SUCCESS|FAILURE ID TIMESTAMP BASE64(ZLIB)

Source: OpenNebula's src/im/InformationManagerDriver.cc (legacy), include/Message.h and src/monitor (modern).
"""

from __future__ import annotations

import base64
import re
import zlib

import msgspec

from one_provider_mad.characters import clean, without_unwritten
from one_provider_mad.domain import VmId
from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol import vmm
from one_provider_mad.protocol.dialect import Dialect, has_empty_status
from one_provider_mad.protocol.framing import Oversized
from one_provider_mad.protocol.im_messages import (
    Era,
    HostLog,
    ImLine,
    ImRequest,
    Kind,
    LegacyReply,
    Message,
    Monitor,
    StartMonitor,
    StopMonitor,
    Unreadable,
)
from one_provider_mad.protocol.im_payload import read_start
from one_provider_mad.protocol.messages import Control, LogLine, Reply

MAX_HOST_ID = vmm.MAX_VM_ID
"""Greatest host ID: oned and monitord read it into an int, like a VM ID."""

SENTENCE_LIMIT = 1000
"""Longest text of a FAILURE or LOG line in bytes, as `onehost show` displays it; a longer one is cut."""

NO_HOST = -1
"""The host ID of a LOG line that is about no host: oned and monitord read a number there, and ignore it."""

_CONTROLS = {control.value.encode(): control for control in Control}
_STATUSES = frozenset({b"-", b"SUCCESS", b"FAILURE"})
_LEGACY_WORDS = frozenset({b"MONITOR", b"STOPMONITOR"})
_MODERN_WORDS = frozenset({b"START_MONITOR", b"STOP_MONITOR"})
_UNFIT_IN_WORD = re.compile(r"[^!-~]|[<>]")


def parse_line(line: bytes) -> ImLine:
    """Read one line from oned or monitord, lenient in letter case, blanks and missing words. Never raises."""
    given, *rest = line.split(None, 1) or [b""]
    if not given:
        return Unreadable(reason="empty line")
    word = given.upper()
    control = _CONTROLS.get(word)
    if control is not None:
        return control
    fields = rest[0].split() if rest else []
    has_status = bool(fields) and fields[0].upper() in _STATUSES
    era = _era(word, has_status=has_status or has_empty_status(line, given))
    if has_status:
        del fields[0]
    host_id = _host_id(fields[0]) if fields else None
    complaint = _complaint(word, fields, host_id)
    if complaint or host_id is None:
        return Unreadable(reason=complaint, word=_fit(word), host_id=host_id, era=era)
    if era is Era.LEGACY:
        return _legacy_request(word, host_id, fields[1:])
    return _modern_request(word, host_id, fields[1:])


def parse_oversized(line: Oversized) -> Unreadable:
    """Read first word and host ID of a line that was too long, so that it can be answered. Never raises."""
    # The head may end within the host ID, whose digits so far would be another host's ID.
    parsed = parse_line(line.head[: max(line.head.rfind(b" "), line.head.rfind(b"\t")) + 1])
    if isinstance(parsed, Unreadable):
        return msgspec.structs.replace(parsed, reason=line.reason)
    if isinstance(parsed, Control):
        return Unreadable(reason=line.reason, word=parsed.value)
    word, era = word_and_era(parsed)
    return Unreadable(reason=line.reason, word=word, host_id=parsed.host_id, era=era)


def format_message(message: Message) -> bytes:
    """Return the message as exactly one line that monitord accepts, for any text."""
    text = message.text if message.is_success else _sentence(message.text)
    status = "SUCCESS" if message.is_success else "FAILURE"
    return _modern_line(message.kind.value, status, message.host_id, message.timestamp, text)


def format_legacy_reply(reply: LegacyReply) -> bytes:
    """Return the reply as exactly one line that oned of 4.0 to 5.10 accepts, for any text.

    Only the text of MONITOR is base64; oned writes the text of a failed STOPMONITOR to its log as it is.
    """
    text = reply.text if reply.is_success else _sentence(reply.text)
    if reply.word.upper() == "MONITOR":
        text = base64.b64encode(_bytes(text)).decode()
        # oned ignores a MONITOR without text, and would read `-` as base64.
        status = "SUCCESS" if reply.is_success else "FAILURE"
        return f"MONITOR {status} {reply.host_id} {text}\n".encode()
    return vmm.format_reply(Reply(word=reply.word, vm_id=VmId(reply.host_id), is_success=reply.is_success, info=text))


def format_log(line: HostLog, *, era: Era, timestamp: int) -> bytes:
    """Return a LOG line in the form that oned or monitord reads.

    Args:
        line: severity, text and host.
        era: the reader: oned up to 5.10, or monitord.
        timestamp: seconds since the epoch; monitord expects one here too.
    """
    host_id = NO_HOST if line.host_id is None else line.host_id
    text = _cut(clean(line.text)) or vmm.NOTHING
    if era is Era.LEGACY:
        return vmm.format_log(LogLine(severity=line.severity, text=text, vm_id=VmId(host_id)), Dialect.UP_TO_5_12)
    return _modern_line("LOG", line.severity.value, host_id, timestamp, text)


def refuse(line: Unreadable, *, timestamp: int) -> tuple[bytes, ...]:
    """Return the FAILURE that answers an unreadable line, () if the line names no host."""
    if line.host_id is None:
        return ()
    if line.era is Era.LEGACY:
        reply = LegacyReply(word=line.word, host_id=line.host_id, text=line.reason, is_success=False)
        return (format_legacy_reply(reply),)
    return (_modern_line(_fit(line.word), "FAILURE", line.host_id, timestamp, _sentence(line.reason)),)


def _era(word: bytes, *, has_status: bool) -> Era:
    if word in _LEGACY_WORDS:
        return Era.LEGACY
    return Era.MODERN if word in _MODERN_WORDS or has_status else Era.LEGACY


def _host_id(digits: bytes) -> int | None:
    significant = digits.lstrip(b"0")
    if not digits.isdigit() or len(significant) > len(str(MAX_HOST_ID)):
        return None
    number = int(significant or b"0")
    return number if number <= MAX_HOST_ID else None


def _complaint(word: bytes, fields: list[bytes], host_id: int | None) -> str:
    if word not in _LEGACY_WORDS | _MODERN_WORDS:
        return f"Action {_fit(word)} not supported"
    if not fields:
        return f"{_fit(word)} came without a host id"
    if host_id is None:
        return f"{_fit(word)} came with {_fit(fields[0])} in place of a host id (0 to {MAX_HOST_ID})"
    return ""


def _legacy_request(word: bytes, host_id: int, fields: list[bytes]) -> Monitor | StopMonitor:
    if word == b"STOPMONITOR":
        return StopMonitor(host_id=host_id, era=Era.LEGACY)
    names = [field.decode("utf-8", "replace") for field in fields]
    host, *rest = names or [""]
    # Up to 4.2 the line has no datastore location between host name and flag.
    is_first = rest[-1:] == ["1"]
    if rest[-1:] in (["0"], ["1"]):
        del rest[-1]
    return Monitor(host_id=host_id, host=host, datastore_location=" ".join(rest), is_first=is_first)


def _modern_request(word: bytes, host_id: int, fields: list[bytes]) -> StartMonitor | StopMonitor | Unreadable:
    if word == b"STOP_MONITOR":
        # A payload, even an unreadable one, changes nothing: monitoring of the host ends.
        return StopMonitor(host_id=host_id, era=Era.MODERN)
    has_timestamp = bool(fields) and fields[0].removeprefix(b"-").isdigit()
    try:
        return read_start(host_id, b"".join(fields[1:] if has_timestamp else fields))
    except RequestRefused as refusal:
        return Unreadable(reason=str(refusal), word=_fit(word), host_id=host_id, era=Era.MODERN)


def word_and_era(request: ImRequest) -> tuple[str, Era]:
    """Return a request's first word, and whether oned up to 5.10 or monitord sent it."""
    if isinstance(request, Monitor):
        return "MONITOR", Era.LEGACY
    if isinstance(request, StartMonitor):
        return Kind.START_MONITOR.value, Era.MODERN
    return ("STOPMONITOR" if request.era is Era.LEGACY else Kind.STOP_MONITOR.value), request.era


def _modern_line(word: str, status: str, host_id: int, timestamp: int, text: str) -> bytes:
    payload = base64.b64encode(zlib.compress(_bytes(text))) if text else b""
    return f"{word} {status} {host_id} {max(0, timestamp)} ".encode() + payload + b"\n"


def _bytes(text: str) -> bytes:
    # oned and monitord stop reading at a NUL.
    return without_unwritten(text).replace("\0", "").encode("utf-8", "replace")


def _fit(word: bytes | str) -> str:
    """Return the word in a form that fits into an answer: upper case, printable ASCII, no blanks, short, not empty."""
    text = word[: vmm.WORD_LIMIT].decode("latin-1") if isinstance(word, bytes) else word[: vmm.WORD_LIMIT]
    return _UNFIT_IN_WORD.sub("?", text).upper() or "?"


def _sentence(text: str) -> str:
    return _cut(clean(text)) or vmm.NO_REASON


def _cut(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= SENTENCE_LIMIT:
        return text
    return encoded[: SENTENCE_LIMIT - 3].decode("utf-8", "ignore").rstrip(" ") + "..."
