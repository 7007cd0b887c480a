"""A script's result as the reply's payload and as lines for the VM's log (src/mad/ruby/CommandManager.rb)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from one_provider_mad.scripting.runner import Finished

LOGGED_LINES = 200
"""Most lines of stderr for the VM's log, the last ones; one more line gives the number of the others. The reason of a
failure has as many, the first ones."""

_LONGEST_COMMAND = 1000
_LONGEST_ARGUMENT = 80
"""Characters shown of one argument: some are a whole message in base64, or private to a user."""

_BEGIN, _END = "ERROR MESSAGE --8<------", "ERROR MESSAGE ------>8--"
_PREFIX = re.compile(r"(ERROR|WARN|WARNING|INFO|DEBUG):\s?(.*)")
_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_WORD = re.compile("[^ \t\n\v\f\r]+")
_EXIT_CODE = re.compile(r"ExitCode: [0-9]+")


def described(command: Sequence[str]) -> str:
    """Return the command in a form that a person could repeat, with long arguments cut."""
    path, *arguments = command
    text = shlex.join([path, *(_cut(argument, _LONGEST_ARGUMENT) for argument in arguments)])
    return _cut(text, _LONGEST_COMMAND)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def payload(finished: Finished) -> str:
    """Return the payload of the reply SUCCESS: the script's output."""
    return _CONTROLS.sub(" ", finished.stdout).strip(" ") or "-"


def first_word(finished: Finished) -> str | None:
    """Return the first printed word, byte for byte: bytes that are not UTF-8 become surrogates.

    An empty output counts as `-`, as in upstream's drivers; None for an output of blanks, which they pass on as an
    empty payload (src/mad/ruby/DriverExecHelper.rb, get_info_from_execution).
    """
    text = finished.raw.decode("utf-8", "surrogateescape") if finished.raw else finished.stdout
    if not text:
        return "-"
    word = _WORD.search(text)
    return word and word[0]


def reason(finished: Finished, command: Sequence[str]) -> str:
    """Return why a script failed: the text between upstream's markers, else lines without a severity, else all."""
    lines = finished.stderr.splitlines()
    if marked := _marked(lines):
        return marked
    texts = [line.strip() for line in lines if line.strip() and not _EXIT_CODE.fullmatch(line.strip())]
    plain = [line for line in texts if not _PREFIX.fullmatch(line)]
    if found := " ".join((plain or texts)[:LOGGED_LINES]):
        return found
    return f"{command[0]} ended with exit code {finished.code} and without an error message"


def complaints(finished: Finished, command: Sequence[str]) -> list[str]:
    """Return the lines of the error output, at most LOGGED_LINES, with the first cause in front.

    Upstream's run_probes writes the cause before its markers, and between them only the name of the failed probe.
    """
    lines = [line.strip() for line in finished.stderr.splitlines()]
    texts = [line for line in lines if line and line not in (_BEGIN, _END) and not _EXIT_CODE.fullmatch(line)]
    first = next((line for line in texts if not _PREFIX.fullmatch(line)), texts[0] if texts else "")
    if not first:
        return [reason(finished, command)]
    texts.remove(first)
    return [first, *texts[: LOGGED_LINES - 1]]


def log_lines(finished: Finished) -> Iterator[tuple[str, str]]:
    """Yield severity letter and text of the lines for the VM's log; after a success only lines with a prefix."""
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
