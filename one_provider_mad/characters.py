"""Which characters of foreign text are written nowhere: into no reply, and into no log as they are.

- Control characters of both sets (Cc), the Unicode line ends (Zl, Zp), and what XML 1.0 has no way to write: they end
  lines, move a terminal's cursor, and make OpenNebula's database refuse a VM's update.
- Format characters (Cf) that "Unicode in XML" (UTR #20, section 3) calls unsuitable in markup, which this text becomes:
  embeddings, overrides and their end, the deprecated ones, BOM, interlinear annotation, musical controls and tags. With
  them the isolates, which came later and order text anew just so (UAX #9, section 2): a line with U+202E in it shows
  what it does not say (CVE-2021-42574).

Everything else of every script stays: joiners and non-joiners, which Persian, the scripts of India and emoji need,
blanks of no width, soft hyphens, and the marks U+200E, U+200F and U+061C, which order no more than a letter does.
"""

from __future__ import annotations

import re

_BREAKS = "\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff"
_HIDDEN = "\u202a-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f"

BREAKS = re.compile(f"[{_BREAKS}]+")
"""What stands between two words at most."""

HIDDEN = re.compile(f"[{_HIDDEN}]+")
"""What a reader does not see, though it may change what else is seen."""

UNWRITTEN = re.compile(f"[{_BREAKS}{_HIDDEN}]")

_UNWRITTEN_IN_LINES = re.compile(f"[\x7f-\x9f\u2028\u2029\ufffe\uffff{_HIDDEN}]+")


def without_unwritten(text: str) -> str:
    """The text of many lines, without what is written nowhere; ASCII, which scripts may print as they like, stays."""
    return text if text.isascii() else _UNWRITTEN_IN_LINES.sub("", text)


def escaped(text: str) -> str:
    r"""The text with `\u202e` in the place of each such character, as JSON has it."""
    return text if text.isascii() and text.isprintable() else UNWRITTEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
