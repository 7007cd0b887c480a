"""Variables that a shell file sets, read without a shell; compared with a real shell wherever that is possible."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.scripting.assignments import Assignment, NeedsShell, read_assignments

KNOWN = {"HOME": "/home/one", "PATH": "/usr/bin:/bin", "OTHER": "o 'o"}


def read(text: str) -> tuple[dict[str, str], list[int]]:
    """The variables with their final values, and the numbers of the lines that need a shell."""
    entries = list(read_assignments(text, KNOWN))
    found = {entry.name: entry.value for entry in entries if isinstance(entry, Assignment)}
    return found, [entry.line for entry in entries if isinstance(entry, NeedsShell)]


def sourced(text: str, names: Mapping[str, str]) -> dict[str, str]:
    """The values of these variables after a real shell has sourced the text."""
    script = f"{text}\n" + "".join(f'printf "%s\\0" "${name}"\n' for name in names)
    shown = subprocess.run(["/bin/sh", "-c", script], env=KNOWN, capture_output=True).stdout
    return dict(zip(names, shown.decode().split("\0"), strict=False))


TEXTS = {
    "plain": "A=1\nB=two\n",
    "empty": "A=\nB=''\nC=\"\"\n",
    "quotes": "A='two words' B=\"three more words\"\n",
    "glued": "A=one' two'\" three\"\\ four\n",
    "escapes": 'A="a \\"b\\" \\$HOME \\\\ \\n" B=\\$HOME C=a\\#b\n',
    "single-quotes-are-literal": "A='$HOME `x` \\'\n",
    "variables": 'A=$HOME/x B=${PATH}:/y C="$OTHER" D=$NOT_SET- E=$A\n',
    "path": "PATH=/opt/x/bin:$PATH\n",
    "comment": "A=1 # B=2\n  # C=3\n#D=4\nE=abc#def\n",
    "lines-in-quotes": "A=\"one\ntwo\" B='three\nfour'\n",
    "continued": "A=one\\\ntwo\n",
    "exported": "export A=1\nexport A B=2\n\texport\tC=3\n",
    "several": "A=1; B=2;C=3\n",
    "tilde": "A=~/x B=~ C='~' D=x~\n",
    "dollar-alone": 'A=$ B="$ x" C=a$\n',
    "no-line-feed": "A=1",
    "windows": "A=1\r\n",
    "for-a-command": "A=1 true\nB=2\n",
    "no-assignments": "true\n: A=1\nB=2\n",
    "overwritten": "A=1\nA=${A}2\n",
    "equals": "A=b=c D==\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_assignments_are_read_as_a_real_shell_sets_them(text: str) -> None:
    found, unread = read(text)
    assert not unread
    assert found == sourced(text, found)
    assert set(found) >= {name for name in "ABCDE" if sourced(text, {name: ""})[name]}


UNREAD = {
    "command": "A=$(echo 1)\nB=2\n",
    "backquotes": "A=`echo 1`\nB=2\n",
    "in-quotes": 'A="x $(echo 1)"\nB=2\n',
    "default": "A=${A:-1}\nB=2\n",
    "arithmetic": "A=$((1 + 1))\nB=2\n",
    "process": "A=$$\nB=2\n",
    "open-quote": "A='1\nB=2\n",
    "open-double-quote": 'A="1\nB=2\n',
}


@pytest.mark.parametrize("text", UNREAD.values(), ids=UNREAD)
def test_a_line_that_needs_a_shell_is_reported_and_skipped(text: str) -> None:
    assert read(f"C=3\n{text}") == ({"B": "2", "C": "3"}, [2])


def test_a_nul_is_removed_from_a_value() -> None:
    assert read("A=a\0b\n") == ({"A": "ab"}, [])


@given(st.text(alphabet="AB=$ {}'\"\\\n#;x~`(/", max_size=40))
def test_any_text_is_read_without_an_error(text: str) -> None:
    found, _ = read(text)
    assert all(name.isidentifier() for name in found)
