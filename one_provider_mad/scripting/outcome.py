"""What a script's end means: the reply's payload, and what the VM's log is told (src/mad/ruby/CommandManager.rb)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from one_provider_mad.scripting.runner import Finished

LOGGED_LINES = 200
"""Lines of stderr that go to the VM's log, the last ones; the rest is one line that says how many there were. As many,
the first ones, make up the reason of a failure."""

_LONGEST_COMMAND = 1000
_LONGEST_ARGUMENT = 80
"""Letters shown of one argument: some are a whole message in base64, or what a user wants to keep to himself."""

_BEGIN, _END = "ERROR MESSAGE --8<------", "ERROR MESSAGE ------>8--"
_PREFIX = re.compile(r"(ERROR|WARN|WARNING|INFO|DEBUG):\s?(.*)")
_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_WORD = re.compile("[^ \t\n\v\f\r]+")
_EXIT_CODE = re.compile(r"ExitCode: [0-9]+")


def described(command: Sequence[str]) -> str:
    """The command as a person could repeat it, cut where it becomes tedious."""
    path, *arguments = command
    text = shlex.join([path, *(_cut(argument, _LONGEST_ARGUMENT) for argument in arguments)])
    return _cut(text, _LONGEST_COMMAND)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def payload(finished: Finished) -> str:
    """The reply's payload after a success."""
    return _CONTROLS.sub(" ", finished.stdout).strip(" ") or "-"


def first_word(finished: Finished) -> str | None:
    """Return the first word that was printed, byte for byte: what is not UTF-8 is in it as surrogates.

    A script that prints nothing at all has said `-`, as upstream's drivers take it; None for blanks and nothing else,
    which they pass on as an empty payload (src/mad/ruby/DriverExecHelper.rb, get_info_from_execution).
    """
    text = finished.raw.decode("utf-8", "surrogateescape") if finished.raw else finished.stdout
    if not text:
        return "-"
    word = _WORD.search(text)
    return word and word[0]


def reason(finished: Finished, command: Sequence[str]) -> str:
    """Why it failed, as the script tells it: between the markers, else all that has no prefix, else all."""
    lines = finished.stderr.splitlines()
    if marked := _marked(lines):
        return marked
    told = [line.strip() for line in lines if line.strip() and not _EXIT_CODE.fullmatch(line.strip())]
    plain = [line for line in told if not _PREFIX.fullmatch(line)]
    if found := " ".join((plain or told)[:LOGGED_LINES]):
        return found
    return f"{command[0]} ended with exit code {finished.code} and said nothing"


def complaints(finished: Finished, command: Sequence[str]) -> list[str]:
    """Return the lines of its error output, at most LOGGED_LINES; first the first one that gives a cause.

    run_probes of upstream writes the cause before its markers, and between them only which probe has failed.
    """
    lines = [line.strip() for line in finished.stderr.splitlines()]
    told = [line for line in lines if line and line not in (_BEGIN, _END) and not _EXIT_CODE.fullmatch(line)]
    first = next((line for line in told if not _PREFIX.fullmatch(line)), told[0] if told else "")
    if not first:
        return [reason(finished, command)]
    told.remove(first)
    return [first, *told[: LOGGED_LINES - 1]]


def log_lines(finished: Finished) -> Iterator[tuple[str, str]]:
    """Letter and text of the lines for the VM's log; after a success, of those that ask for it by a prefix."""
    is_failure = bool(finished.code) or finished.is_timeout
    lines = [line for line in finished.stderr.splitlines() if line.strip() and line.strip() not in (_BEGIN, _END)]
    found = [(letter, text) for line in lines if (letter := _letter(line, is_failure=is_failure)) for text in [line]]
    if len(found) > LOGGED_LINES:
        yield "W", f"{len(found) - LOGGED_LINES} lines of its error output are left out"
    for letter, line in found[-LOGGED_LINES:]:
        match = _PREFIX.fullmatch(line.strip())
        yield letter, match[2] if match else line


def _letter(line: str, *, is_failure: bool) -> str:
    match = _PREFIX.fullmatch(line.strip())
    if match:
        return match[1][0]
    return "E" if is_failure else ""


def _marked(lines: Sequence[str]) -> str:
    stripped = [line.strip() for line in lines]
    if _BEGIN not in stripped:
        return ""
    after = stripped[stripped.index(_BEGIN) + 1 :]
    inside = after[: after.index(_END)] if _END in after else after
    return " ".join([line for line in inside if line][:LOGGED_LINES])
