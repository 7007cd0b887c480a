"""Tables: plain columns for a script, ruled ones on a terminal, and no control characters in either."""

from __future__ import annotations

import io
import sys

import pytest

from one_provider_mad.cli.tables import show_table

HEAD = ("VM", "DEPLOY ID", "DETAIL")
ROWS = (("7", "sim-51c0e1a2b9d4", "-"), ("4711", "i-1", "\x1b[2Jred"))


class Terminal(io.StringIO):
    """Pretends to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_and_control_characters_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(HEAD, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "VM    DEPLOY ID         DETAIL",
        "7     sim-51c0e1a2b9d4  -",
        "4711  i-1               \\x1b[2Jred",
    ]


def test_ids_stay_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    name = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20250821.1"
    row = ("ami-0bb0000000002404b", name, "account 123456789012", "2025-08-21", "x86_64")
    show_table(("IMAGE", "NAME", "BY", "DATE", "ARCH"), [row])
    lines = [line.split() for line in terminal.getvalue().splitlines() if line.strip()][2:]
    assert (lines[0][0], lines[0][-2:]) == (row[0], list(row[3:]))
    assert "".join(words[1] if words is lines[0] else words[0] for words in lines) == name


def test_a_table_on_a_terminal_is_ruled_and_keeps_ids_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "dumb")
    show_table(HEAD, ROWS)
    head, rule, first, second = [line.strip() for line in terminal.getvalue().splitlines() if line.strip()]
    assert head.split() == ["VM", "DEPLOY", "ID", "DETAIL"]
    assert set(rule) == {"─"}
    assert first.split() == list(ROWS[0])
    assert second.split() == ["4711", "i-1", "\\x1b[2Jred"]
