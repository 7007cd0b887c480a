"""The characters of foreign text that are never written: removed from replies, escaped in logs.

- Control characters of both sets (Cc), the Unicode line ends (Zl, Zp), and characters that XML 1.0 cannot hold: they
  end lines, move a terminal's cursor, and make OpenNebula's database refuse a VM's update.
- Format characters (Cf) that "Unicode in XML" (UTR #20, section 3) calls unsuitable in markup, which this text becomes:
  embeddings, overrides and their end, the deprecated ones, BOM, interlinear annotation, musical controls and tags. Also
  the isolates, which are newer and reorder text in the same way (UAX #9, section 2): a line with U+202E in it displays
  another text than it holds (CVE-2021-42574).

All other characters stay: joiners and non-joiners, which Persian, the scripts of India and emoji need, zero-width
blanks, soft hyphens, and the marks U+200E, U+200F and U+061C, which reorder no more than a letter does.
"""

from __future__ import annotations

import re

from one_provider_mad.masking import masked

_BREAKS = "\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff"
_HIDDEN = "\u202a-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f"

BREAKS = re.compile(f"[{_BREAKS}]+")
"""Line ends and control characters: `clean` replaces each run of them by one blank."""

HIDDEN = re.compile(f"[{_HIDDEN}]+")
"""Invisible format characters, some of which reorder the visible text: `clean` drops them."""

UNWRITTEN = re.compile(f"[{_BREAKS}{_HIDDEN}]")

_UNWRITTEN_IN_LINES = re.compile(f"[\x7f-\x9f\u2028\u2029\ufffe\uffff{_HIDDEN}]+")


def clean(text: str) -> str:
    """Return a text fit for one line and for XML: without secrets and unsafe characters, trimmed.

    Known secrets are masked: every text from a cloud or a partner passes through this function.

    oned stores replies inside CDATA: a control character, broken UTF-8 or `]]>` makes its database refuse the VM's
    update, and a NUL hides the rest of the stream (include/StringBuffer.h).
    """
    if not (text.isascii() and text.isprintable()):
        valid = HIDDEN.sub("", text.encode("utf-8", "replace").decode())
        pieces = (piece.strip(" ") for piece in BREAKS.split(valid))
        text = " ".join(piece for piece in pieces if piece)
    return masked(text).replace("]]>", "]] >").strip(" ")


def without_unwritten(text: str) -> str:
    """Return a text of many lines without BREAKS and HIDDEN; line ends and other ASCII control characters stay."""
    return text if text.isascii() else _UNWRITTEN_IN_LINES.sub("", text)


def escaped(text: str) -> str:
    r"""Return the text with each character of BREAKS and HIDDEN escaped as in JSON, such as `\u202e`."""
    return text if text.isascii() and text.isprintable() else UNWRITTEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
