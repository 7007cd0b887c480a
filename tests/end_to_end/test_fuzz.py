"""Fuzzed input: the driver survives every line and answers it exactly as the protocol demands (decision 6).

The expected replies are derived here from the rules of the protocol, without the driver's own parser.
"""

from __future__ import annotations

import base64
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import oned_lines
from tests.end_to_end.oned import Driver, Place

SEED = 20260101

CANCELLED_IDS = range(1_000_000, 1_001_000)
"""VMs that only DRIVER_CANCEL names, since it revokes the replies to other requests of its VM."""

DEPLOYED_IDS = range(1, 40)
"""VMs that DEPLOY and all other actions name."""

OTHER_IDS = range(1000, 1_000_000)

MAX_ID = 2**31 - 1
TOO_LONG = 17 * 1024 * 1024


# Expected replies, by the rules of the protocol


class Due(NamedTuple):
    """The reply that a line has to get.

    Attributes:
        word: the reply's first word, "" for a line that names no VM and gets none.
        vm_id: its id.
        is_cancel: the line is a DRIVER_CANCEL, which gets no reply.
    """

    word: str = ""
    vm_id: int = -1
    is_cancel: bool = False


ID = re.compile(rb"0*([0-9]{1,10})")

FIT_IN_WORD = set(map(chr, range(0x21, 0x7F))) - set("<>")
"""Characters of an action's word that the reply repeats; oned puts it into XML."""


def due_to(line: bytes) -> Due | None:
    """The expected reply to a line without its line end; None for INIT and FINALIZE.

    A line is `ACTION ID PAYLOAD`, or `ACTION STATUS ID PAYLOAD` with an empty or `-` STATUS; blanks may be repeated.
    """
    words = line.split()
    if not words:
        return Due()
    if words[0].upper() in (b"INIT", b"FINALIZE"):
        return None
    del words[1 : 2 if words[1:2] == [b"-"] else 1]
    number = ID.fullmatch(words[1]) if len(words) > 1 else None
    if number is None or int(number[1]) > MAX_ID:
        return Due()
    word = "".join(chr(byte) if chr(byte) in FIT_IN_WORD else "?" for byte in words[0][:64]).upper()
    return Due(word, int(number[1]), is_cancel=word == "DRIVER_CANCEL")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(b"POLL 7 eA==", Due("POLL", 7), id="one-blank"),
        pytest.param(b"REBOOT  7 eA==", Due("REBOOT", 7), id="two-blanks"),
        pytest.param(b"reboot - 7", Due("REBOOT", 7), id="dash-and-lower-case"),
        pytest.param(b"\tFROB\xff 0042\r", Due("FROB?", 42), id="unknown-word"),
        pytest.param(b"DEPLOY 2147483648 eA==", Due(), id="id-too-large"),
        pytest.param(b"DEPLOY -1 eA==", Due(), id="negative-id"),
        pytest.param(b"DEPLOY DEPLOY 7 eA==", Due(), id="doubled-action"),
        pytest.param(b"DEPLOY", Due(), id="no-id"),
        pytest.param(b"  ", Due(), id="blanks"),
        pytest.param(b"DRIVER_CANCEL  7 ", Due("DRIVER_CANCEL", 7, is_cancel=True), id="cancel"),
        pytest.param(b"Finalize 7", None, id="control"),
    ],
)
def test_expected_reply_of_a_line_is_derived_correctly(line: bytes, expected: Due | None) -> None:
    assert due_to(line) == expected


# Lines

CHEAP = [action for action in oned_lines.ACTIONS if action not in ("DEPLOY", "RESTORE", "DRIVER_CANCEL")]

HOSTILE = [
    b"",
    b"x",
    b"<VMM_DRIVER_ACTION_DATA/>",
    b"<VMM_DRIVER_ACTION_DATA><VM><ID>7</ID></VM>",
    b"<!DOCTYPE x [<!ENTITY a 'b'>]><VMM_DRIVER_ACTION_DATA>&a;</VMM_DRIVER_ACTION_DATA>",
    b"<!DOCTYPE x SYSTEM 'file:///etc/passwd'><VMM_DRIVER_ACTION_DATA/>",
    b"<VMM_DRIVER_ACTION_DATA>" + b"<a>" * 3000 + b"</a>" * 3000 + b"</VMM_DRIVER_ACTION_DATA>",
    b"<VMM_DRIVER_ACTION_DATA><VM><ID>1</ID><LCM_STATE>99999999999999999999</LCM_STATE></VM></VMM_DRIVER_ACTION_DATA>",
    b"<VMM_DRIVER_ACTION_DATA><DEPLOY_ID>-]]&gt;\nFINALIZE\n</DEPLOY_ID></VMM_DRIVER_ACTION_DATA>",
    b"<VMM_DRIVER_ACTION_DATA><HOST>\x00</HOST></VMM_DRIVER_ACTION_DATA>",
    b"<VMM_DRIVER_ACTION_DATA><HOST>\xff\xfe</HOST></VMM_DRIVER_ACTION_DATA>",
    b'<?xml version="1.0" encoding="utf-16"?><VMM_DRIVER_ACTION_DATA/>',
    b"<!--" + b"-" * 5000 + b"--><VMM_DRIVER_ACTION_DATA/>",
    b"\xef\xbb\xbf<VMM_DRIVER_ACTION_DATA/>",
    b"<VMM_DRIVER_ACTION_DATA " + b" ".join(b"a%d='1'" % number for number in range(2000)) + b"/>",
]

ODD_IDS = [b"-1", b"-", b"+7", b"7.0", b"0x7", b"00007", b"2147483647", b"2147483648", b"9" * 5000, b"\xd9\xa7", b"7,8"]

ODD_BYTES = [b"\x00", b"\xff", b"\xc3\x28", b"\xe2\x80\xa8", b"\x1b[2J", b"\r", b"\xc2\x85", b"]]>"]

BLANKS = [b" ", b"  ", b"\t", b"   ", b"\x0b", b"\x0c", b" - "]


class Lines:
    """Makes lines by mutating those that the releases of oned send.

    Args:
        seed: the same seed makes the same lines.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._valid: dict[tuple[str, oned_lines.Release, str], tuple[bytes, bytes]] = {}
        self._mutations: Sequence[Callable[[bytes], bytes]] = (
            self._truncated,
            self._flipped,
            self._with_odd_byte,
            self._with_other_blanks,
            self._in_other_case,
            self._with_doubled_field,
            self._with_odd_id,
            self._with_broken_payload,
            self._with_hostile_payload,
            self._with_line_end,
            self._spliced,
            self._random_line,
        )

    def some(self, count: int) -> list[bytes]:
        """As many lines; some are valid, most are mutated once or several times."""
        lines: list[bytes] = []
        while len(lines) < count:
            lines += [line for line in self._next().split(b"\n") if self._is_testable(line)]
        return lines[:count]

    def _is_testable(self, line: bytes) -> bool:
        """False for a line that would end the driver, or revoke the replies to other lines."""
        due = due_to(line)
        return due is not None and (due.vm_id in CANCELLED_IDS) == due.is_cancel

    def _next(self) -> bytes:
        line = self._valid_line()
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            line = self._random.choice(self._mutations)(line)
        return line

    def _valid_line(self) -> bytes:
        chance = self._random.random()
        release = self._random.choice(oned_lines.RELEASES)
        if chance < 0.01:
            return self._about("DEPLOY", release, self._random.choice(DEPLOYED_IDS))
        if chance < 0.03:
            return self._about("DRIVER_CANCEL", release, self._random.choice(CANCELLED_IDS))
        ids = DEPLOYED_IDS if chance < 0.1 else OTHER_IDS
        return self._about(self._random.choice(CHEAP), release, self._random.choice(ids))

    def _about(self, action: str, release: oned_lines.Release, vm_id: int) -> bytes:
        """A line for this VM, made from one for VM 7: encoding each would take longer than answering it."""
        if action == "DRIVER_CANCEL":
            return oned_lines.line(action, vm_id, release=release)[:-1]
        deploy_id = "" if vm_id in DEPLOYED_IDS else "sim-0123456789ab"
        form = (action, release, deploy_id)
        if form not in self._valid:
            start, _, _ = oned_lines.line(action, 7, release=release).partition(b"7")
            self._valid[form] = (start, oned_lines.document(action, 7, release=release, deploy_id=deploy_id))
        start, document = self._valid[form]
        document = document.replace(b"<ID>7</ID>", b"<ID>%d</ID>" % vm_id, 1)
        return b"%b%d %b" % (start, vm_id, base64.b64encode(document))

    def _place(self, line: bytes) -> int:
        """A random position, more often before the payload."""
        return self._random.randrange(min(len(line), 20) if self._random.random() < 0.5 else len(line)) if line else 0

    def _truncated(self, line: bytes) -> bytes:
        return line[: self._place(line)]

    def _flipped(self, line: bytes) -> bytes:
        flipped = bytearray(line)
        for _ in range(self._random.randint(1, 4) if line else 0):
            flipped[self._place(line)] ^= 1 << self._random.randrange(8)
        return bytes(flipped)

    def _with_odd_byte(self, line: bytes) -> bytes:
        at = self._place(line)
        odd = self._random.choice(
            (b"\x00", b"\xff", b"\xc3\x28", b"\xe2\x80\xa8", b"\x1b[2J", b"\r", b"\xc2\x85", b"]]>")
        )
        return line[:at] + odd + line[at:]

    def _with_other_blanks(self, line: bytes) -> bytes:
        words = line.split()
        return (
            self._random.choice((b"", b" "))
            + self._random.choice(BLANKS).join(words)
            + self._random.choice((b"", b"  "))
        )

    def _in_other_case(self, line: bytes) -> bytes:
        word, blank, rest = line.partition(b" ")
        return self._random.choice((word.lower(), word.capitalize(), word.swapcase())) + blank + rest

    def _with_doubled_field(self, line: bytes) -> bytes:
        words = line.split()
        at = self._random.randrange(len(words)) if words else 0
        return b" ".join(words[: at + 1] + words[at:])

    def _with_odd_id(self, line: bytes) -> bytes:
        words = line.split()
        words[1:2] = [self._random.choice(ODD_IDS)]
        return b" ".join(words)

    def _with_broken_payload(self, line: bytes) -> bytes:
        return line + self._random.choice((b"=", b"*", b" !", b"====", b"A", b"\xff"))

    def _with_hostile_payload(self, line: bytes) -> bytes:
        words = line.split()
        words[2:] = [base64.b64encode(self._random.choice(HOSTILE))]
        return b"  ".join(words)

    def _with_line_end(self, line: bytes) -> bytes:
        return line + self._random.choice((b"\r", b"\r\r", b"\n", b"\r\n", b"\n\n"))

    def _spliced(self, line: bytes) -> bytes:
        other = self._valid_line()
        return line[: self._place(line)] + other[self._place(other) :]

    def _random_line(self, _line: bytes) -> bytes:
        return self._random.randbytes(self._random.choice((1, 3, 20, 200)))


def large_lines() -> list[bytes]:
    """Lines longer than the limit, and large ones that a thread reads."""
    padding = b"<!--" + b" " * 300_000 + b"-->"
    document = oned_lines.document("POLL", 500, release="5.10")
    return [
        b"POLL 501 " + b"A" * TOO_LONG,
        b"A" * TOO_LONG,
        b"POLL " + b"9" * TOO_LONG,
        b"POLL 500 " + base64.b64encode(padding + document),
        b"REBOOT  502 " + base64.b64encode(padding + document),
        b"FROB  503 " + base64.b64encode(padding),
    ]


# Answers

CLEAN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+")
REPLY = re.compile(r"(?P<word>[!-~]{1,64}) (?:SUCCESS|FAILURE) (?P<vm_id>[0-9]{1,10}) (?P<text>.+)")
LOG = re.compile(r"LOG [IWED] (?P<vm_id>-1?|[0-9]{1,10}) (?P<text>.+)")
DROPPED = re.compile(r"(?P<count>[0-9]+) log lines were dropped because OpenNebula did not read them")
IGNORED = "ignored a line that is no request: "
REPLACED = re.compile(r"(?P<newer>[A-Z]+) came while (?P<older>[A-Z]+) was unanswered, and is answered for both")


BESIDE = ("POLL", "DRIVER_CANCEL", "REBOOT", "RESET", "UPDATESG", "UPDATENIC", "BACKUPCANCEL", "EXEC", "EXEC_CANCEL")
MOVING = frozenset(oned_lines.ACTIONS) - frozenset(BESIDE)
"""Actions that change a VM's state: of several open ones only the newest is answered."""


class Heard:
    """The driver's lines, counted; every line has to be one that every release of oned accepts."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.replies: Counter[tuple[str, int]] = Counter()
        self.replaced: Counter[tuple[str, int]] = Counter()
        self.polls_of_starts: Counter[tuple[str, int]] = Counter()
        self.ignored = 0
        self.dropped = 0
        for line in lines:
            assert CLEAN.fullmatch(line), ascii(line)
            assert "]]>" not in line, line
            log, reply = LOG.fullmatch(line), REPLY.fullmatch(line)
            if log is not None:
                self._take_log(log)
            else:
                assert reply is not None, line
                assert "internal error" not in line
                word, vm_id = reply["word"], int(reply["vm_id"])
                self.replies[word, vm_id] += 1
                self.polls_of_starts["POLL", vm_id] += word in ("DEPLOY", "RESTORE")

    def _take_log(self, log: re.Match[str]) -> None:
        dropped = DROPPED.fullmatch(log["text"])
        if dropped is not None:
            self.dropped += int(dropped["count"])
        elif log["text"].startswith(IGNORED):
            assert log["vm_id"] in ("-", "-1")
            self.ignored += 1
        elif replaced := REPLACED.match(log["text"]):
            self.replaced[replaced["older"], int(log["vm_id"])] += 1


def feed(driver: Driver, lines: Sequence[bytes], seed: int) -> list[str]:
    """Send the lines in pieces of random size, end the driver with FINALIZE and end of input, return its lines."""
    cuts = random.Random(seed)
    stream = b"".join(line + b"\n" for line in lines)
    at = 0
    while at < len(stream):
        size = cuts.choice((1, 7, 4096, 65536, 1_000_000))
        driver.write(stream[at : at + size])
        at += size
    assert driver.finalize(120) == 0
    return driver.rest()


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        pytest.param(10_000, SEED, id="ten-thousand"),
        *(pytest.param(50_000, SEED + 1 + n, id=f"many-{n}", marks=pytest.mark.soak) for n in range(4)),
    ],
)
def test_every_fuzzed_line_gets_exactly_its_expected_replies(tmp_path: Path, count: int, seed: int) -> None:
    place = Place(tmp_path)
    place.simulate(boot_time=0, stop_time=0, suspend_time=0, destroy_time=0, visibility_grace=0, watch_interval=0.001)
    lines = Lines(seed).some(count)
    lines[1000:1000] = large_lines()
    with Driver(place, "-t 200 -r 0 simulated") as driver:
        heard = Heard(feed(driver, lines, seed))
    due = [due for line in lines if (due := due_to(line)) is not None]
    wanted = Counter((each.word, each.vm_id) for each in due if each.word and not each.is_cancel)
    without_id = sum(not each.word for each in due)
    print(f"\nseed {seed}: {len(lines)} lines, {wanted.total()} replies, {without_id} without an id")  # noqa: T201
    assert len(due) == len(lines)
    settled = heard.replies + heard.replaced
    unexpected = settled - wanted - heard.polls_of_starts  # up to 5.12 a start has one (actions/unrequested_poll.py)
    assert (wanted - settled, unexpected) == ({}, {}), "missing replies, and unexpected ones"
    last = {each.vm_id: each.word for each in due if each.word in MOVING}
    unanswered = {vm_id: word for vm_id, word in last.items() if not heard.replies[word, vm_id]}
    assert not unanswered, "the newest request of a VM was not answered"
    assert heard.ignored <= without_id <= heard.ignored + heard.dropped
    assert not [event for event in place.events() if event["level"] == "error"]
