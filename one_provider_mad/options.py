"""Parses ARGUMENTS of `VM_MAD` or `IM_MAD`: the options of upstream's drivers, and the NAME to serve.

oned passes all of ARGUMENTS as one element of argv (OpenNebula src/mad/Mad.cc, include/Driver.h), and its shell
wrappers split that on blanks. Nothing here raises an error: oned does not start when a driver does not, so an invalid
word becomes a warning, and the rest applies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DEFAULT_THREADS = 15
DEFAULT_RETRIES = 0

_FIELDS = {
    "threads": "threads",
    "retries": "retries",
    "timeout": "timeout",
    "local": "local_actions",
    "delegate": "delegate",
    "default-snapshots": "delegate",  # meaning of `-d` in 4.14
    "shell": "shell",
    "proxy": "proxy",
    "parallel": "is_parallel",
    "live-snapshots": "is_live_snapshots",
    "force-copy": "is_force_copy",
}
_FLAGS = ("parallel", "live-snapshots", "force-copy")
_NUMBERS = ("threads", "retries", "timeout")
_SHORT = {
    "t": "threads",
    "r": "retries",
    "w": "timeout",
    "l": "local",
    "d": "delegate",
    "s": "shell",
    "p": "parallel",
    "i": "live-snapshots",
    "c": "force-copy",
}
_LONGEST_NUMBER = 9


@dataclass(frozen=True, kw_only=True)
class Options:
    """The parsed ARGUMENTS.

    Attributes:
        name: the NAME to serve, the last word of ARGUMENTS that is not an option; "" when there is none.
        threads: `-t`, number of actions that run at once; at least 1.
        retries: `-r`, number of retries of a call that failed for a temporary reason; 0 is none.
        timeout: `-w`, seconds an action may take; 0 is no limit, None is the default of each action.
        local_actions: `-l`, the unparsed list; None is upstream's own list.
        delegate: `-d`, the unparsed list.
        shell: `-s`, the remote shell.
        is_parallel: `-p`.
        is_live_snapshots: `-i`.
        is_force_copy: `-c` of upstream's information driver; there is nothing to copy here.
        proxy: `--proxy`, the unparsed address.
        warnings: one sentence for each ignored word.
    """

    name: str = ""
    threads: int = DEFAULT_THREADS
    retries: int = DEFAULT_RETRIES
    timeout: float | None = None
    local_actions: str | None = None
    delegate: str | None = None
    shell: str | None = None
    is_parallel: bool = False
    is_live_snapshots: bool = False
    is_force_copy: bool = False
    proxy: str | None = None
    warnings: tuple[str, ...] = ()


def parse_arguments(argv: Sequence[str]) -> Options:
    """Read argv without the program's name, packed or split, in any order. Never raises."""
    return _Reader(words=deque(split_words(argv))).read()


def split_words(argv: Sequence[str]) -> list[str]:
    """Split on blanks, tabs and newlines as an unquoted `$*` does; quotes mean nothing."""
    text = " ".join(argv).replace("\t", " ").replace("\n", " ")
    return [word for word in text.split(" ") if word]


@dataclass(kw_only=True)
class _Reader:
    """Reads the words one by one, as Ruby's GetoptLong, and collects options, names and warnings."""

    words: deque[str]
    names: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def read(self) -> Options:
        while self.words:
            word = self.words.popleft()
            if word == "--":
                self.names.extend(self.words)
                break
            self._take(word)
        name = self._name()
        return Options(name=name, warnings=tuple(self.warnings), **self.found)

    def _name(self) -> str:
        """Return the last name: upstream's wrapper names its log file after the last word (madcommon.sh)."""
        if not self.names:
            self._warn("ARGUMENTS have no NAME; expected, for example, -t 15 -r 0 NAME")
            return ""
        if len(self.names) > 1:
            others = ", ".join(ascii(name) for name in self.names[:-1])
            self._warn(f"ARGUMENTS hold more than one name: {self.names[-1]!a} is served, {others} is not")
        return self.names[-1]

    def _warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def _take(self, word: str) -> None:
        if word.startswith("--"):
            self._take_long(word)
        elif word.startswith("-") and word != "-":
            self._take_bundle(word[1:])
        else:
            self.names.append(word)

    def _take_long(self, word: str) -> None:
        written, has_value, value = word.partition("=")
        found = _long_options(written[2:])
        if not found:
            self._warn(f"option {written!a} is unknown: ignored")
        elif len(set(map(_FIELDS.get, found))) > 1:
            self._warn(f"option {written!a} may mean {' or '.join('--' + option for option in found)}: ignored")
        else:
            self._apply(found[0], written=written, value=value if has_value else None)

    def _take_bundle(self, letters: str) -> None:
        """Read `-p`, `-pi`, `-t15`, `-pt15`: the rest after a letter with a value is its value."""
        for place, letter in enumerate(letters, start=1):
            option = _SHORT.get(letter)
            if option is None:
                self._warn(f"option {'-' + letter!a} is unknown: ignored")
            elif option in _FLAGS:
                self._apply(option, written=f"-{letter}", value=None)
            else:
                self._apply(option, written=f"-{letter}", value=letters[place:] or None)
                return

    def _apply(self, option: str, *, written: str, value: str | None) -> None:
        if option in _FLAGS:
            if value is not None:
                self._warn(f"option {written!a} takes no value: {value!a} is ignored")
            self.found[_FIELDS[option]] = True
        elif option in _NUMBERS:
            self._set_number(option, written=written, value=value)
        elif value is not None or self.words:
            self.found[_FIELDS[option]] = self.words.popleft() if value is None else value
        else:
            self._warn(f"option {written!a} needs a value: ignored")

    def _set_number(self, option: str, *, written: str, value: str | None) -> None:
        """Set an option's number; a following word that is not a number is not taken, as it may be the NAME."""
        if value is None and self.words and _number(self.words[0]) is not None:
            value = self.words.popleft()
        number = None if value is None else _number(value)
        if number is None:
            got = "nothing" if value is None else ascii(value)
            self._warn(f"option {written!a} needs a number, got {got}: ignored")
        elif option != "timeout" and not number.is_integer():
            self._warn(f"option {written!a} needs a whole number, got {value!a}: ignored")
        elif option == "threads" and number < 1:
            self._warn(f"option {written!a} must be at least 1, got {value!a}: ignored")
        else:
            self.found[option] = number if option == "timeout" else int(number)


def _long_options(written: str) -> list[str]:
    """Return the long option of that name, else all long options with that prefix."""
    if written in _FIELDS:
        return [written]
    return [option for option in _FIELDS if written and option.startswith(written)]


def _number(text: str) -> float | None:
    """Return a plain decimal number of at least 0; None for any other text."""
    whole, _, part = text.partition(".")
    digits = whole + (part or "0")
    is_number = whole != "" and digits.isascii() and digits.isdigit() and len(text) <= _LONGEST_NUMBER
    return float(text) if is_number else None
