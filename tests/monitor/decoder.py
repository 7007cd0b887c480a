"""Reads an information driver's lines as oned and monitord do, and writes theirs; it shares no code with the driver.

The grammar is that of OpenNebula's src/parsers/template_parser.l and template_syntax.y (src/template/template_parser.l
up to 4.12); the lines are those of include/Message.h and src/im/InformationManagerDriver.cc.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

Values = dict[str, list[str | dict[str, str]]]
"""Every name of a template with all its values; a vector is a dict."""


class TemplateSyntaxError(Exception):
    """OpenNebula would discard the whole message."""


class LineError(Exception):
    """OpenNebula would refuse this line, or misread it."""


@dataclass(frozen=True)
class Line:
    """A line as OpenNebula reads it.

    Attributes:
        word: its type.
        status: SUCCESS, FAILURE, or a LOG line's letter.
        host_id: the host.
        timestamp: seconds; None in the legacy era.
        text: the payload, decoded.
    """

    word: str
    status: str
    host_id: int
    timestamp: int | None
    text: str

    @property
    def values(self) -> Values:
        """The payload as a template."""
        return read_template(self.text, is_old=False)


# Lines

_MODERN = re.compile(rb"([A-Z_]+|[!-;=?-~]+) ([A-Z]+) (-?[0-9]+) ([0-9]+) ([A-Za-z0-9+/]*={0,2})\n")
_LEGACY = re.compile(rb"([!-;=?-~]+) ([A-Z]+) (-?[0-9]+) ([^\n]*)\n")


def read_modern(line: bytes) -> Line:
    """A line as monitord reads it: type, status, number, timestamp, base64 of zlib or nothing at all."""
    match = _MODERN.fullmatch(line)
    if match is None:
        raise LineError(line)
    word, status, host_id, timestamp, payload = match.groups()
    text = zlib.decompress(_from_base64(payload)) if payload else b""
    return Line(word.decode(), status.decode(), int(host_id), int(timestamp), _as_text(text))


def read_legacy(line: bytes) -> Line:
    """A line as oned 4.0 to 5.10 reads it: base64 for MONITOR, plain text for anything else."""
    match = _LEGACY.fullmatch(line)
    if match is None:
        raise LineError(line)
    word, status, host_id, payload = match.groups()
    text = _from_base64(payload) if word == b"MONITOR" else payload
    return Line(word.decode(), status.decode(), int(host_id), None, _as_text(text))


def _from_base64(payload: bytes) -> bytes:
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise LineError(payload) from error


def _as_text(data: bytes) -> str:
    text = data.decode()
    if "\0" in text:
        raise LineError("a NUL hides what follows")
    return text


# Lines of oned and monitord

CONFIGURATION = (
    "<DATASTORE_LOCATION><![CDATA[/srv/one/datastores]]></DATASTORE_LOCATION>"
    "<DB><CONNECTIONS><![CDATA[15]]></CONNECTIONS></DB>"
    "<HOST_MONITORING_EXPIRATION_TIME><![CDATA[43200]]></HOST_MONITORING_EXPIRATION_TIME>"
    "<IM_MAD><ARGUMENTS><![CDATA[-t 15 harbour]]></ARGUMENTS><NAME><![CDATA[kvm]]></NAME></IM_MAD>"
    "<IM_MAD><ARGUMENTS><![CDATA[-t 15 sea]]></ARGUMENTS><NAME><![CDATA[sea]]></NAME></IM_MAD>"
    "<MANAGER_TIMER><![CDATA[15]]></MANAGER_TIMER>"
    "<MONITORING_INTERVAL_HOST><![CDATA[{interval}]]></MONITORING_INTERVAL_HOST>"
    "<NETWORK><ADDRESS><![CDATA[::]]></ADDRESS><PRIKEY><![CDATA[]]></PRIKEY></NETWORK>"
    "<PROBES_PERIOD>{periods}</PROBES_PERIOD>"
)

SHIPPED = {
    "BEACON_HOST": 30,
    "EXEC_VM": 5,
    "MONITOR_HOST": 120,
    "MONITOR_VM": 30,
    "STATE_VM": 5,
    "SYNC_STATE_VM": 180,
    "SYSTEM_HOST": 600,
}
"""PROBES_PERIOD of the shipped monitord.conf, in seconds."""


def configuration(*, interval: int = 180, **periods: int) -> str:
    """The configuration in START_MONITOR; periods are given as SYSTEM_HOST=600."""
    written = "".join(f"<{key}><![CDATA[{value}]]></{key}>" for key, value in {**SHIPPED, **periods}.items())
    return f"<MONITOR_CONFIGURATION>{CONFIGURATION.format(interval=interval, periods=written)}</MONITOR_CONFIGURATION>"


def start_document(host_id: int, name: str = "harbour", *, interval: int = 180, **periods: int) -> str:
    """The document of START_MONITOR; periods are given as SYSTEM_HOST=600."""
    return (
        f"<MONITOR_DRIVER_ACTION><HOST><ID>{host_id}</ID><NAME>{name}</NAME><STATE>2</STATE><PREV_STATE>2</PREV_STATE>"
        f"<IM_MAD><![CDATA[sea]]></IM_MAD><VM_MAD><![CDATA[sea_vmm]]></VM_MAD><CLUSTER_ID>100</CLUSTER_ID>"
        f"<CLUSTER>east</CLUSTER></HOST>{configuration(interval=interval, **periods)}</MONITOR_DRIVER_ACTION>"
    )


def packed(document: str | bytes) -> bytes:
    """A payload as monitord packs it."""
    data = document.encode() if isinstance(document, str) else document
    return base64.b64encode(zlib.compress(data))


def start_monitor(host_id: int, name: str = "harbour", *, interval: int = 180, **periods: int) -> bytes:
    """monitord's START_MONITOR (src/monitor/src/monitor/HostMonitorManager.cc)."""
    document = start_document(host_id, name, interval=interval, **periods)
    return b"START_MONITOR - %d 0 %b\n" % (host_id, packed(document))


def stop_monitor(host_id: int, name: str = "harbour") -> bytes:
    """monitord's STOP_MONITOR."""
    return b"STOP_MONITOR - %d 0 %b\n" % (host_id, packed(start_document(host_id, name)))


def monitor(host_id: int, name: str = "harbour", *, is_first: bool = False) -> bytes:
    """MONITOR of 4.4 to 5.10 (src/im/InformationManagerDriver.cc)."""
    return f"MONITOR {host_id} {name} /srv/one/datastores {int(is_first)}\n".encode()


def stopmonitor(host_id: int, name: str = "harbour") -> bytes:
    """STOPMONITOR of 4.4 to 5.10, with the blank at its end."""
    return f"STOPMONITOR {host_id} {name} \n".encode()


# Template text

_Rules = tuple[tuple[str, str], ...]

_SKIPPED = (("skip", r"[ \t]*#.*\n"), ("skip", r"[ \t\n]+"))
_OUTSIDE: _Rules = (
    *_SKIPPED,
    ("name", r"[A-Za-z0-9_]+"),
    ("equal", r"[ \t]*=[ \t]*"),
    ("equal-empty", r"[ \t]*=[ \t]*\n"),
    ("comma", r"[ \t\n]*,[ \t\n]*"),
    ("close", r"[ \t\n]*\][ \t\n]*"),
)
_OPEN = ("open", r"[ \t]*\[[ \t\n]*")
_BAREWORD = ("bareword", r"[^=# \t\n,\[\]]+")
_IN_VALUE: _Rules = (_OPEN, ("cdata-end", r"[^\n]*\]\]>[^\n]*"), ("quoted", r'"(?:\\"|[^"])*"'), _BAREWORD)
_IN_OLD_VALUE: _Rules = (_OPEN, ("quoted", r'"(?:\\"|[^"])+"'), _BAREWORD)
"""Up to 4.12 a quoted value cannot be empty, and `]]>` has no meaning."""

_ELEMENT = re.compile(r"(?!XML)[A-Z_][A-Z0-9_]*")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def read_template(text: str, *, is_old: bool = False) -> Values:
    """Read a whole template, as strictly as any release does, and more strictly where one would misread a value.

    The scanner takes the longest match and, among equals, the rule that stands first; it has a state of its own for
    values. Text that no rule matches is an error (the original prints and skips it). So are quotes in
    a bareword, names that would be stored under another, values that XML cannot hold, and two values of one key in a
    vector, of which the first would count.

    Args:
        text: the template.
        is_old: by the rules of 4.12 and before.

    Raises:
        TemplateSyntaxError: OpenNebula would refuse it.
    """
    tokens = list(_scan(text, _IN_OLD_VALUE if is_old else _IN_VALUE))
    values: Values = {}
    while tokens:
        name = _name(_take(tokens, "name"))
        if tokens and tokens[0][0] == "equal-empty":
            tokens.pop(0)
            values.setdefault(name, []).append("")
            continue
        _take(tokens, "equal")
        is_vector = bool(tokens) and tokens[0][0] == "open"
        values.setdefault(name, []).append(_vector(tokens, is_old=is_old) if is_vector else _string(tokens))
    return values


def _scan(text: str, in_value: _Rules) -> Iterator[tuple[str, str]]:
    at = 0
    rules = _OUTSIDE
    while at < len(text):
        matches = [(kind, found) for kind, rule in rules if (found := re.compile(rule).match(text, at))]
        if not matches:
            raise TemplateSyntaxError(f"no rule for {text[at : at + 20]!r}")
        kind, found = max(matches, key=lambda match: match[1].end())  # max keeps the first among equals
        at = found.end()
        rules = in_value if kind == "equal" else _OUTSIDE
        if kind != "skip":
            yield kind, found.group()


def _take(tokens: list[tuple[str, str]], *kinds: str) -> str:
    if not tokens or tokens[0][0] not in kinds:
        raise TemplateSyntaxError(f"expected {kinds}, got {tokens[:1]}")
    return tokens.pop(0)[1]


def _name(text: str) -> str:
    name = text.upper()
    if not _ELEMENT.fullmatch(name):
        raise TemplateSyntaxError(f"{name} would be stored under another name, or void the document")
    return name


def _string(tokens: list[tuple[str, str]]) -> str:
    kind = tokens[0][0] if tokens else ""
    text = _take(tokens, "quoted", "bareword")
    if kind == "bareword" and '"' in text:
        raise TemplateSyntaxError(f"the quotes of {text} would be part of the value")
    value = (text[1:-1] if kind == "quoted" else text).replace('\\"', '"')
    if _NOT_IN_XML.search(value) or "]]>" in value:
        raise TemplateSyntaxError(f"XML cannot hold {value!r}")
    return value


def _vector(tokens: list[tuple[str, str]], *, is_old: bool) -> dict[str, str]:
    _take(tokens, "open")
    values: dict[str, str] = {}
    if tokens and tokens[0][0] == "close" and not is_old:
        tokens.pop(0)
        return values  # OpenNebula then removes the attribute of that name
    while True:
        name = _name(_take(tokens, "name"))
        _take(tokens, "equal")
        if name in values:
            raise TemplateSyntaxError(f"{name} stands twice in one vector")
        values[name] = _string(tokens)
        if _take(tokens, "comma", "close").strip() == "]":
            return values


def plain(values: Values, name: str) -> str:
    """The one plain value of a name."""
    (value,) = values[name]
    assert isinstance(value, str)
    return value


def vectors(values: Values, name: str) -> list[dict[str, str]]:
    """All vectors of a name."""
    found = values.get(name, [])
    assert all(isinstance(value, dict) for value in found)
    return [value for value in found if isinstance(value, dict)]


def unpacked(text: str) -> str:
    """A value that is base64 of text."""
    return _as_text(_from_base64(text.encode()))
