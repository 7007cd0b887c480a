"""The payload of START_MONITOR: base64 of zlib of a `<MONITOR_DRIVER_ACTION>` document -> StartMonitor.

OpenNebula's src/monitor (HostBase::to_xml, MonitorConfigTemplate) writes the document. Elements are found by name,
unknown ones are skipped, and missing ones have the values of the shipped monitord.conf.
"""

from __future__ import annotations

import binascii
import re
import zlib

from lxml import etree

from one_provider_mad.domain import whole_number
from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol.im_messages import Periods, StartMonitor
from one_provider_mad.safe_xml import Element, parse_document, text_of

DOCUMENT_LIMIT = 16 * 1024 * 1024
"""Longest document in bytes once it is decompressed; the usual one has 3 KB, and zlib could inflate a line to 16 GB. A
longer one is refused."""

_ROOT = "MONITOR_DRIVER_ACTION"
_CONFIGURATION, _CONFIGURATION_END = b"<MONITOR_CONFIGURATION>", b"</MONITOR_CONFIGURATION>"

# Before the root only an XML declaration, blanks and comments are accepted. No DTD, so no entities either.
_BEGINNING = re.compile(
    rb"(?:<\?xml[ \t\r\n][^>]*\?>)?(?>(?:[ \t\r\n]+|<!--(?>.*?-->))*)<MONITOR_DRIVER_ACTION[ \t\r\n/>]", re.DOTALL
)
_EXCERPT = 200  # libxml2 quotes names of any length
_MOST_SECONDS = 2**31 - 1
_NOT_A_MESSAGE = "payload is not the XML of a monitor message: "

_PERIODS = {
    "beacon_host": ("BEACON_HOST",),
    "system_host": ("SYSTEM_HOST",),
    "monitor_host": ("MONITOR_HOST",),
    "state_vm": ("STATE_VM", "STATUS_VM"),  # the second is its name in the defaults of 5.12 to 7.0
    "sync_state_vm": ("SYNC_STATE_VM",),
    "monitor_vm": ("MONITOR_VM",),
    "exec_vm": ("EXEC_VM",),
}


def read_start(host_id: int, payload: bytes) -> StartMonitor:
    """Read the payload of a START_MONITOR; without one, all values are those of the shipped monitord.conf.

    Raises:
        RequestRefused: the payload cannot be read, or is about another host.
    """
    if not payload:
        return StartMonitor(host_id=host_id)
    document = _inflate(_decode(payload))
    root = _parse(document)
    host = _child(root, "HOST")
    _check_id(_text(host, "ID"), host_id)
    configuration = _child(root, "MONITOR_CONFIGURATION")
    plain = StartMonitor(host_id=host_id)
    return StartMonitor(
        host_id=host_id,
        host=_text(host, "NAME"),
        state=_number(host, "STATE"),
        im_mad=_text(host, "IM_MAD"),
        vm_mad=_text(host, "VM_MAD"),
        cluster_id=_number(host, "CLUSTER_ID"),
        cluster=_text(host, "CLUSTER"),
        datastore_location=_text(configuration, "DATASTORE_LOCATION"),
        periods=_periods(_child(configuration, "PROBES_PERIOD")),
        interval=_seconds(configuration, "MONITORING_INTERVAL_HOST") or plain.interval,
        timer=_seconds(configuration, "MANAGER_TIMER") or plain.timer,
        document=b"" if configuration is None else _as_it_came(document),
    )


def _decode(payload: bytes) -> bytes:
    try:
        return binascii.a2b_base64(payload, strict_mode=True)
    except ValueError as error:
        raise RequestRefused(f"payload is not base64: {error}") from error


def _inflate(data: bytes) -> bytes:
    if data.lstrip()[:1] == b"<":
        return data  # a person who tests the driver by hand need not compress
    inflater = zlib.decompressobj()
    try:
        document = inflater.decompress(data, DOCUMENT_LIMIT + 1)
    except zlib.error as error:
        raise RequestRefused(f"payload is not compressed with zlib: {error}") from error
    if len(document) > DOCUMENT_LIMIT:
        raise RequestRefused(f"payload is longer than {DOCUMENT_LIMIT} bytes once it is decompressed")
    if not inflater.eof:
        raise RequestRefused("payload is not compressed with zlib: its end is missing")
    return document


def _parse(document: bytes) -> Element:
    try:
        document.decode()
    except UnicodeDecodeError as error:
        raise RequestRefused(f"payload is not UTF-8: {error.reason} at byte {error.start}") from error
    if b"\0" in document:
        raise RequestRefused(_NOT_A_MESSAGE + "it holds a NUL")
    if not _BEGINNING.match(document):
        raise RequestRefused(_NOT_A_MESSAGE + f"it does not begin with <{_ROOT}>")
    try:
        return parse_document(document)
    except etree.XMLSyntaxError as error:
        raise RequestRefused(_NOT_A_MESSAGE + (error.msg or "it is not well formed")[:_EXCERPT]) from error


def _as_it_came(document: bytes) -> bytes:
    """Return the element MONITOR_CONFIGURATION as it was sent, with CDATA sections; monitord writes it once, last."""
    start, end = document.find(_CONFIGURATION), document.rfind(_CONFIGURATION_END)
    return document[start : end + len(_CONFIGURATION_END)] if 0 <= start < end else b""


def _check_id(text: str, host_id: int) -> None:
    if text and not (text.isascii() and text.isdigit() and text.lstrip("0") == str(host_id).lstrip("0")):
        raise RequestRefused(f"the message is about host {text[:20]}, the line about host {host_id}")


def _periods(element: Element | None) -> Periods:
    found = {
        field: seconds
        for field, names in _PERIODS.items()
        if (seconds := next(filter(None, (_seconds(element, name) for name in names)), None))
    }
    return Periods(**found)


def _child(parent: Element | None, name: str) -> Element | None:
    return None if parent is None else next(parent.iterchildren(name), None)


def _text(parent: Element | None, name: str) -> str:
    return text_of(_child(parent, name)).strip()


def _number(parent: Element | None, name: str) -> int | None:
    return whole_number(_text(parent, name))


def _seconds(parent: Element | None, name: str) -> int | None:
    """Return a period in seconds; None when it is missing, not positive, or too large for monitord's int."""
    seconds = _number(parent, name)
    return seconds if seconds is not None and 0 < seconds <= _MOST_SECONDS else None
