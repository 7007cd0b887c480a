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
