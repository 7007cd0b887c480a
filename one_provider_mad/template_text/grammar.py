"""The tokens of OpenNebula's template text: `NAME = value`, `NAME = [ KEY = value, … ]`, `# comment`.

The strings are regular expressions, from which the two readers are composed. In a group that is repeated possessively,
no alternative fails after its first character: up to 3.11.4, Python would take that character as matched
(python/cpython#106052), and Debian 12 has 3.11.2.

Source: OpenNebula's src/parsers/template_parser.l and template_syntax.y, before 4.14 src/template/template_parser.l.
"""

from __future__ import annotations

import re

NAME = r"[A-Za-z0-9_]+"

ELEMENT = r"[A-Z_][A-Z0-9_]*"
"""A name in upper case that is valid for an XML element."""

KEPT_NAME = re.compile(rf"(?!XML){ELEMENT}")
"""A name in upper case that OpenNebula keeps; it stores any other as `ONE_<name>` (include/Attribute.h)."""

BLANKS = r"[ \t]*"

SPACE = r"[ \t\r\n]"
"""A blank or line end between attributes and inside vectors. A carriage return counts as one, although
OpenNebula would read it as part of a value without quotes."""

COMMENT = r"#[^\n]*+"
"""A comment, without the line end that OpenNebula requires after it."""

BAREWORD = r'[^=# \t\r\n,\[\]"]+'
"""A value without quotes. OpenNebula would also accept quotes inside it, as a part of the value."""

QUOTED = r'"(?:[^"\\]++|\\"?+)*+"'
"""A value in quotes. The only escape is a backslash before a quote; any other backslash stands for itself."""

CDATA_END = "]]>"
"""These characters are a syntax error anywhere in a value, even in quotes."""

FORBIDDEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f\ud800-\udfff\ufffe\uffff]")
"""Characters that no template may have: DEL, and those that XML cannot hold. Tab and line feed are allowed."""


def quoted(value: str) -> str:
    """Return the value in quotes; it must not end in a backslash."""
    return '"' + value.replace('"', '\\"') + '"'


def unquoted(text: str) -> str:
    """Return the value that text stands for, with or without quotes."""
    return text[1:-1].replace('\\"', '"') if text.startswith('"') else text
