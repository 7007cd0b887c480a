"""Writes parts of user data as one MIME message (cloud-init's "MIME multi-part archive"), and reads a user's own."""

from __future__ import annotations

import email
import zlib
from collections.abc import Sequence
from email import encoders
from email.message import Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart

CONFIG, SHELL_SCRIPT = "text/cloud-config", "text/x-shellscript"

_BEGINNINGS = {
    "## template: jinja": "text/jinja2",
    "#cloud-config-archive": "text/cloud-config-archive",
    "#cloud-config-jsonp": "text/cloud-config-jsonp",
    "#cloud-boothook": "text/cloud-boothook",
    "#include-once": "text/x-include-once-url",
    "#part-handler": "text/part-handler",
    "#cloud-config": CONFIG,
    "#include": "text/x-include-url",
    "#!": SHELL_SCRIPT,
}
"""MIME type of user data by its first line, longer lines first (cloud-init's cloudinit/handlers/__init__.py)."""

_GZIP = b"\x1f\x8b"
_LONGEST_UNPACKED = 1024 * 1024
_BOUNDARY = "===============one-provider"


def unpacked(data: bytes) -> bytes:
    """Return user data without gzip; other data, and more than 1 MiB, as they are."""
    if not data.startswith(_GZIP):
        return data
    reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = reader.decompress(data, _LONGEST_UNPACKED)
    except zlib.error:
        return data
    return plain if reader.eof else data


def packed(data: bytes) -> bytes:
    """Return the data in gzip, always the same for the same data."""
    writer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return writer.compress(data) + writer.flush()


def part(kind: str, body: bytes, *, name: str = "", merge: str = "") -> Message:
    """Return one part.

    Args:
        kind: its MIME type.
        body: what the guest gets, unchanged.
        name: name of its file in the guest; scripts run in the order of their names.
        merge: how cloud-init joins it with earlier parts of its kind.
    """
    made = MIMEBase(*kind.split("/", 1))
    if _is_plain(body):
        made.set_payload(body.decode("ascii"))
        made["Content-Transfer-Encoding"] = "7bit"
    else:
        made.set_payload(body)
        encoders.encode_base64(made)
    if kind.startswith("text/"):
        made.set_param("charset", "us-ascii" if body.isascii() else "utf-8")
    if name:
        made.add_header("Content-Disposition", "attachment", filename=name)
    if merge:
        made["Merge-Type"] = merge
    return made


def given_part(data: bytes) -> Message | None:
    """Return a user's own user data as a part; None for data that no guest would recognize.

    Args:
        data: not empty, and without gzip.
    """
    if b"mime-version:" in data[:4096].lower():
        return email.message_from_bytes(data)
    text = data.lstrip().lower()
    kind = next((kind for start, kind in _BEGINNINGS.items() if text.startswith(start.encode())), "")
    return part(kind, data) if kind else None


def message(parts: Sequence[Message]) -> bytes:
    """Return one message of all parts, always the same for the same parts."""
    bodies = b"".join(each.as_bytes() for each in parts)
    boundary, number = _BOUNDARY, 0
    while boundary.encode() in bodies:
        number += 1
        boundary = f"{_BOUNDARY}-{number}"
    whole = MIMEMultipart(boundary=boundary)
    for each in parts:
        whole.attach(each)
    return whole.as_bytes()


def _is_plain(body: bytes) -> bool:
    """Return True for text that no mail library changes."""
    return body.isascii() and b"\r" not in body and b"\0" not in body and not body.startswith(b"\n")
