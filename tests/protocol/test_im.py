from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from one_provider_mad.protocol.framing import HEAD, LineBuffer, Oversized
from one_provider_mad.protocol.im import (
    MAX_HOST_ID,
    SENTENCE_LIMIT,
    format_legacy_reply,
    format_log,
    format_message,
    parse_line,
    parse_oversized,
    refuse,
)
from one_provider_mad.protocol.im_messages import (
    Era,
    HostLog,
    ImLine,
    Kind,
    LegacyReply,
    Message,
    Monitor,
    StartMonitor,
    StopMonitor,
    Unreadable,
)
from one_provider_mad.protocol.messages import Control, Severity
from one_provider_mad.protocol.vmm import NO_REASON
from tests.monitor import decoder
from tests.protocol.cases import any_text, awkward_text

NOW = 1760000000

STARTED = StartMonitor(
    host_id=5,
    host="harbour",
    state=2,
    im_mad="sea",
    vm_mad="sea_vmm",
    cluster_id=100,
    cluster="east",
    datastore_location="/srv/one/datastores",
    document=decoder.configuration().encode(),
)
"""The value of monitord's line for host 5."""

FROM_CORE = [
    pytest.param(Control.INIT, b"INIT\n", id="init"),
    pytest.param(Control.FINALIZE, b"FINALIZE\n", id="finalize"),
    pytest.param(
        Monitor(host_id=5, host="harbour", datastore_location="/srv/one/datastores", is_first=True),
        b"MONITOR 5 harbour /srv/one/datastores 1\n",
        id="monitor-first",
    ),
    pytest.param(
        Monitor(host_id=0, host="harbour", datastore_location="/srv/one//datastores"),
        b"MONITOR 0 harbour /srv/one//datastores 0\n",
        id="monitor-again",
    ),
    pytest.param(Monitor(host_id=5, host="harbour", is_first=True), b"MONITOR 5 harbour 1\n", id="monitor-4.2-first"),
    pytest.param(Monitor(host_id=5, host="harbour"), b"MONITOR 5 harbour 0\n", id="monitor-4.2"),
    pytest.param(Monitor(host_id=5, host="harbour"), b"MONITOR 5 harbour\n", id="monitor-without-flag"),
    pytest.param(Monitor(host_id=5), b"MONITOR 5\n", id="monitor-without-name"),
    pytest.param(Monitor(host_id=5, host="a", is_first=True), b"MONITOR - 5 a 1\n", id="dash"),
    pytest.param(Monitor(host_id=5, host="1"), b"MONITOR 5 1\n", id="a-name-that-looks-like-a-flag"),
    pytest.param(
        Monitor(host_id=5, host="a", datastore_location="/srv/two words"),
        b"MONITOR 5 a /srv/two words 0\n",
        id="blanks",
    ),
    pytest.param(StopMonitor(host_id=5, era=Era.LEGACY), b"STOPMONITOR 5 harbour \n", id="stop-5.10"),
    pytest.param(StopMonitor(host_id=5, era=Era.LEGACY), b"STOPMONITOR 5\n", id="stop-5.10-without-name"),
    pytest.param(STARTED, decoder.start_monitor(5), id="start"),
    pytest.param(StopMonitor(host_id=5, era=Era.MODERN), decoder.stop_monitor(5), id="stop"),
]
"""Values, and the lines that oned and monitord write for them."""


@pytest.mark.parametrize(("value", "line"), FROM_CORE)
def test_a_line_of_oned_or_monitord_is_parsed(value: ImLine, line: bytes) -> None:
    assert parse_line(line.removesuffix(b"\n")) == value


@pytest.mark.parametrize(("value", "line"), FROM_CORE)
def test_a_line_of_oned_or_monitord_is_parsed_with_any_blanks_around_it(value: ImLine, line: bytes) -> None:
    assert parse_line(b"  " + line.removesuffix(b"\n") + b"\t \r\n") == value


@pytest.mark.parametrize(("value", "line"), FROM_CORE)
def test_a_line_of_oned_or_monitord_is_parsed_in_any_letter_case(value: ImLine, line: bytes) -> None:
    word, blank, rest = line.partition(b" ")
    assert parse_line(word.swapcase() + blank + rest) == value


@pytest.mark.parametrize(("value", "line"), FROM_CORE)
def test_a_line_of_oned_or_monitord_that_is_read_byte_by_byte_is_parsed(value: ImLine, line: bytes) -> None:
    buffer = LineBuffer()
    lines = [parse_line(found) for byte in line for found in buffer.feed(bytes([byte])) if isinstance(found, bytes)]
    assert lines == [value]


def test_the_tests_write_lines_as_oned_and_monitord_do() -> None:
    assert decoder.monitor(5, is_first=True) == b"MONITOR 5 harbour /srv/one/datastores 1\n"
    assert decoder.stopmonitor(5) == b"STOPMONITOR 5 harbour \n"
    assert decoder.start_monitor(5).startswith(b"START_MONITOR - 5 0 eJ")


PAYLOAD = decoder.packed(decoder.start_document(5))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"START_MONITOR  5 0 " + PAYLOAD, id="empty-status"),
        pytest.param(b"START_MONITOR 5 0 " + PAYLOAD, id="no-status"),
        pytest.param(b"START_MONITOR - 5 " + PAYLOAD, id="no-timestamp"),
        pytest.param(b"START_MONITOR 5 " + PAYLOAD, id="no-status-and-no-timestamp"),
        pytest.param(b"START_MONITOR - 5 1760000000 " + PAYLOAD, id="a-timestamp"),
        pytest.param(b"START_MONITOR - 5 -1 " + PAYLOAD, id="a-negative-timestamp"),
        pytest.param(b"START_MONITOR SUCCESS 5 0 " + PAYLOAD, id="success"),
        pytest.param(b"START_MONITOR FAILURE 5 0 " + PAYLOAD, id="failure"),
        pytest.param(b"START_MONITOR\t-\t5\t0\t" + PAYLOAD, id="tabs"),
        pytest.param(b"START_MONITOR - 0005 0 " + PAYLOAD, id="zeros-before-the-id"),
        pytest.param(b"START_MONITOR - 5 0 " + PAYLOAD[:40] + b" " + PAYLOAD[40:], id="a-wrapped-payload"),
    ],
)
def test_start_monitor_is_parsed_with_missing_or_other_status_and_timestamp(line: bytes) -> None:
    assert parse_line(line) == STARTED


@pytest.mark.parametrize(
    "line", [b"START_MONITOR - 5 0 ", b"START_MONITOR - 5 0", b"START_MONITOR - 5", b"START_MONITOR 5"]
)
def test_start_monitor_without_a_payload_has_default_periods(line: bytes) -> None:
    assert parse_line(line) == StartMonitor(host_id=5)


@pytest.mark.parametrize(
    "line", [b"STOP_MONITOR - 5 0 !!!", b"STOP_MONITOR 5", b"STOP_MONITOR  5 0 ", b"STOP_MONITOR - 5 0 " + PAYLOAD[:9]]
)
def test_stop_monitor_is_parsed_with_any_payload(line: bytes) -> None:
    assert parse_line(line) == StopMonitor(host_id=5, era=Era.MODERN)


def test_bytes_of_a_host_name_that_are_not_utf_8_are_replaced() -> None:
    assert parse_line(b"MONITOR 5 caf\xe9 /srv 0") == Monitor(host_id=5, host="caf\ufffd", datastore_location="/srv")


@pytest.mark.parametrize("number", [0, 1, MAX_HOST_ID])
def test_the_smallest_and_the_largest_host_id_are_parsed(number: int) -> None:
    assert parse_line(b"STOP_MONITOR - %d 0 " % number) == StopMonitor(host_id=number, era=Era.MODERN)
    assert parse_line(b"STOPMONITOR %d x" % number) == StopMonitor(host_id=number, era=Era.LEGACY)


# Lines that are no requests


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(b"", Unreadable(reason="empty line"), id="empty"),
        pytest.param(b" \t\r", Unreadable(reason="empty line"), id="blanks"),
        pytest.param(
            b"FROBNICATE - 5 0 eJw=",
            Unreadable(reason="Action FROBNICATE not supported", word="FROBNICATE", host_id=5, era=Era.MODERN),
            id="unknown-modern",
        ),
        pytest.param(
            b"FROBNICATE  5 0 ",
            Unreadable(reason="Action FROBNICATE not supported", word="FROBNICATE", host_id=5, era=Era.MODERN),
            id="unknown-two-blanks",
        ),
        pytest.param(
            b"frobnicate 5 harbour",
            Unreadable(reason="Action FROBNICATE not supported", word="FROBNICATE", host_id=5, era=Era.LEGACY),
            id="unknown-legacy",
        ),
        pytest.param(
            b"POLL 5", Unreadable(reason="Action POLL not supported", word="POLL", host_id=5, era=Era.LEGACY), id="poll"
        ),
        pytest.param(
            b"FR\xff<B",
            Unreadable(reason="Action FR??B not supported", word="FR??B", era=Era.LEGACY),
            id="word-with-unprintable-bytes",
        ),
        pytest.param(
            b"MONITOR",
            Unreadable(reason="MONITOR came without a host id", word="MONITOR", era=Era.LEGACY),
            id="monitor-alone",
        ),
        pytest.param(
            b"START_MONITOR -",
            Unreadable(reason="START_MONITOR came without a host id", word="START_MONITOR", era=Era.MODERN),
            id="start-alone",
        ),
        pytest.param(
            b"MONITOR harbour 1",
            Unreadable(
                reason="MONITOR came with HARBOUR in place of a host id (0 to 2147483647)",
                word="MONITOR",
                era=Era.LEGACY,
            ),
            id="no-number",
        ),
        pytest.param(
            b"START_MONITOR x29 0 " + PAYLOAD,
            Unreadable(
                reason="START_MONITOR came with X29 in place of a host id (0 to 2147483647)",
                word="START_MONITOR",
                era=Era.MODERN,
            ),
            id="another-word-is-no-status",
        ),
        pytest.param(
            b"STOP_MONITOR - 2147483648 0 ",
            Unreadable(
                reason="STOP_MONITOR came with 2147483648 in place of a host id (0 to 2147483647)",
                word="STOP_MONITOR",
                era=Era.MODERN,
            ),
            id="number-too-large",
        ),
        pytest.param(
            b"START_MONITOR - -1 0 ",
            Unreadable(
                reason="START_MONITOR came with -1 in place of a host id (0 to 2147483647)",
                word="START_MONITOR",
                era=Era.MODERN,
            ),
            id="negative",
        ),
    ],
)
def test_a_malformed_line_is_returned_with_the_reason(line: bytes, expected: Unreadable) -> None:
    assert parse_line(line) == expected


@pytest.mark.parametrize(
    ("line", "word", "host_id", "era"),
    [
        pytest.param(b"START_MONITOR - 5 0 " + b"e" * 999, "START_MONITOR", 5, Era.MODERN, id="start"),
        pytest.param(b"STOP_MONITOR - 7 0 " + b"e" * 999, "STOP_MONITOR", 7, Era.MODERN, id="stop"),
        pytest.param(b"FROBNICATE  7 0 " + b"e" * 999, "FROBNICATE", 7, Era.MODERN, id="unknown"),
        pytest.param(b"START_MONITOR\t-\t7\t" + b"e" * 999, "START_MONITOR", 7, Era.MODERN, id="tabs"),
        pytest.param(b"MONITOR 5 " + b"h" * 999, "MONITOR", 5, Era.LEGACY, id="monitor"),
        pytest.param(b"STOPMONITOR 5 " + b"h" * 999, "STOPMONITOR", 5, Era.LEGACY, id="stopmonitor"),
        pytest.param(b"START_MONITOR - " + b"5" * 999, "START_MONITOR", None, Era.MODERN, id="half-an-id"),
        pytest.param(b"INIT " + b"x" * 999, "INIT", None, Era.MODERN, id="control"),
        pytest.param(b"x" * 999, "", None, Era.MODERN, id="half-a-word"),
    ],
)
def test_an_oversized_line_is_refused_by_its_action_host_id_and_whether_monitord_sent_it(
    line: bytes, word: str, host_id: int | None, era: Era
) -> None:
    found = parse_oversized(Oversized(head=line[:HEAD], limit=300))
    assert found == Unreadable(reason="the request line is longer than 300 bytes", word=word, host_id=host_id, era=era)


# Messages to monitord


@pytest.mark.parametrize(
    ("message", "head"),
    [
        (Message(kind=Kind.START_MONITOR, host_id=5, timestamp=NOW), b"START_MONITOR SUCCESS 5 1760000000 \n"),
        (Message(kind=Kind.STOP_MONITOR, host_id=0, timestamp=0), b"STOP_MONITOR SUCCESS 0 0 \n"),
        (Message(kind=Kind.BEACON_HOST, host_id=5, timestamp=-3), b"BEACON_HOST SUCCESS 5 0 \n"),
    ],
)
def test_a_message_without_text_ends_after_its_timestamp(message: Message, head: bytes) -> None:
    assert format_message(message) == head


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("text", ["HYPERVISOR=sea\n", 'A="grüße"\nB=1\n', "x" * 300000], ids=["short", "utf-8", "long"])
def test_a_message_carries_its_text_compressed(kind: Kind, text: str) -> None:
    line = decoder.read_modern(format_message(Message(kind=kind, host_id=5, timestamp=NOW, text=text)))
    assert line == decoder.Line(kind.value, "SUCCESS", 5, NOW, text)


@pytest.mark.parametrize(
    ("text", "written"), [("A=1\n\0B=2\n", "A=1\nB=2\n"), ("A=\ud800\n", "A=?\n")], ids=["nul", "surrogate"]
)
def test_nuls_and_surrogates_are_removed_from_a_report(text: str, written: str) -> None:
    message = Message(kind=Kind.STATE_VM, host_id=5, timestamp=NOW, text=text)
    assert decoder.read_modern(format_message(message)).text == written
    assert decoder.read_legacy(format_legacy_reply(LegacyReply(word="MONITOR", host_id=5, text=text))).text == written


FAILURES = [
    pytest.param("cannot sign in", "cannot sign in", id="a-sentence"),
    pytest.param("", NO_REASON, id="nothing"),
    pytest.param(" \n ", NO_REASON, id="blanks"),
    pytest.param("two\nlines\x00", "two lines", id="lines"),
    pytest.param("a ]]> b", "a ]] > b", id="cdata-end"),
    pytest.param('quotes " and < & > stay', 'quotes " and < & > stay', id="markup"),
    pytest.param("broken \ud800", "broken ?", id="surrogate"),
    pytest.param("x" * SENTENCE_LIMIT, "x" * SENTENCE_LIMIT, id="just-fits"),
    pytest.param("x" * 5000, "x" * (SENTENCE_LIMIT - 3) + "...", id="too-long"),
    pytest.param("é" * 5000, "é" * ((SENTENCE_LIMIT - 3) // 2) + "...", id="too-long-in-utf-8"),
]


@pytest.mark.parametrize(("text", "written"), FAILURES)
def test_a_failed_message_carries_its_reason_in_one_clean_line(text: str, written: str) -> None:
    message = Message(kind=Kind.MONITOR_HOST, host_id=5, timestamp=NOW, text=text, is_success=False)
    assert decoder.read_modern(format_message(message)) == decoder.Line("MONITOR_HOST", "FAILURE", 5, NOW, written)


# Replies to oned


def test_a_report_to_oned_is_plain_base64() -> None:
    reply = LegacyReply(word="MONITOR", host_id=5, text="HYPERVISOR=ec2\nTOTALCPU=100\n")
    assert format_legacy_reply(reply) == b"MONITOR SUCCESS 5 SFlQRVJWSVNPUj1lYzIKVE9UQUxDUFU9MTAwCg==\n"


@pytest.mark.parametrize(("text", "written"), FAILURES)
def test_a_failed_report_to_oned_is_base64_of_its_reason_in_one_clean_line(text: str, written: str) -> None:
    reply = LegacyReply(word="MONITOR", host_id=5, text=text, is_success=False)
    assert decoder.read_legacy(format_legacy_reply(reply)) == decoder.Line("MONITOR", "FAILURE", 5, None, written)


def test_stopmonitor_is_answered_in_plain_text() -> None:
    assert format_legacy_reply(LegacyReply(word="STOPMONITOR", host_id=5)) == b"STOPMONITOR SUCCESS 5 -\n"
    failed = LegacyReply(word="STOPMONITOR", host_id=5, text="no such\nhost", is_success=False)
    assert format_legacy_reply(failed) == b"STOPMONITOR FAILURE 5 no such host\n"


# LOG lines


@pytest.mark.parametrize("host_id", [5, None])
def test_a_log_line_to_oned_is_plain_text_with_the_host_id(host_id: int | None) -> None:
    line = format_log(
        HostLog(severity=Severity.WARNING, text="slow\ncloud", host_id=host_id), era=Era.LEGACY, timestamp=NOW
    )
    assert line == b"LOG W %d slow cloud\n" % (-1 if host_id is None else host_id)


@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize("host_id", [5, None])
def test_a_log_line_to_monitord_is_compressed_and_has_a_timestamp(severity: Severity, host_id: int | None) -> None:
    line = format_log(HostLog(severity=severity, text="slow\ncloud", host_id=host_id), era=Era.MODERN, timestamp=NOW)
    number = -1 if host_id is None else host_id
    assert decoder.read_modern(line) == decoder.Line("LOG", severity.value, number, NOW, "slow cloud")


@pytest.mark.parametrize("era", list(Era))
def test_an_empty_log_line_has_a_dash(era: Era) -> None:
    line = format_log(HostLog(severity=Severity.INFO, text="\n"), era=era, timestamp=NOW)
    read = decoder.read_modern if era is Era.MODERN else decoder.read_legacy
    assert read(line).text == "-"


# Answers to lines that cannot be carried out


def test_an_unknown_action_of_monitord_is_answered_with_failure() -> None:
    (line,) = refuse(unreadable(b"FROBNICATE - 5 0 "), timestamp=NOW)
    assert decoder.read_modern(line) == decoder.Line("FROBNICATE", "FAILURE", 5, NOW, "Action FROBNICATE not supported")


def test_an_unknown_action_of_oned_is_answered_with_failure() -> None:
    (line,) = refuse(unreadable(b"FROBNICATE 5 harbour"), timestamp=NOW)
    assert line == b"FROBNICATE FAILURE 5 Action FROBNICATE not supported\n"


def test_an_oversized_monitor_line_is_answered_with_failure_in_base64() -> None:
    (line,) = refuse(parse_oversized(Oversized(head=b"MONITOR 5 hhhh", limit=300)), timestamp=NOW)
    answer = decoder.read_legacy(line)
    assert (answer.status, answer.text) == ("FAILURE", "the request line is longer than 300 bytes")


@pytest.mark.parametrize("line", [b"", b"MONITOR", b"START_MONITOR - x 0", b"FROBNICATE", b"FROBNICATE x"])
def test_a_malformed_line_without_a_host_id_is_not_answered(line: bytes) -> None:
    assert refuse(unreadable(line), timestamp=NOW) == ()


def test_an_answer_to_a_line_without_a_word_has_a_question_mark_in_its_place() -> None:
    (line,) = refuse(Unreadable(reason="strange", host_id=5), timestamp=NOW)
    assert decoder.read_modern(line).word == "?"


def unreadable(line: bytes) -> Unreadable:
    found = parse_line(line)
    assert isinstance(found, Unreadable)
    return found


# Arbitrary input

WORDS = [b"INIT", b"FINALIZE", b"MONITOR", b"STOPMONITOR", b"START_MONITOR", b"STOP_MONITOR", b"POLL", b"\xff\x00"]
pieces = st.sampled_from(
    [*WORDS, b" ", b"  ", b"\t", b"-", b"-1", b"5", b"0", b"99999999999", b"SUCCESS", b"eJw=", b"PHg+", PAYLOAD]
)
any_line = st.binary(max_size=200) | st.lists(pieces | st.binary(max_size=8), max_size=10).map(b"".join)
shaped_line = st.lists(pieces | st.binary(max_size=40), max_size=7).map(b" ".join)


@given(line=any_line | shaped_line)
@example(line=b"MONITOR \xc2\xb2")  # a digit to str.isdigit, none to int
def test_any_line_is_parsed_and_any_malformed_one_with_a_host_gets_a_readable_answer(line: bytes) -> None:
    assert_is_answerable(parse_line(line))


@given(head=any_line | shaped_line)
def test_any_oversized_line_is_parsed_and_gets_a_readable_answer_if_it_names_a_host(head: bytes) -> None:
    assert_is_answerable(parse_oversized(Oversized(head=head[:HEAD], limit=HEAD)))


def assert_is_answerable(found: ImLine) -> None:
    if not isinstance(found, Unreadable):
        assert isinstance(found, Control) or 0 <= found.host_id <= MAX_HOST_ID
        return
    assert found.reason
    lines = refuse(found, timestamp=NOW)
    assert bool(lines) == (found.host_id is not None)
    for line in lines:
        read = decoder.read_modern if found.era is Era.MODERN else decoder.read_legacy
        assert read(line).host_id == found.host_id


any_kind = st.sampled_from(list(Kind))
any_host_id = st.integers(0, MAX_HOST_ID)


@given(
    kind=any_kind, host_id=any_host_id, timestamp=st.integers(-5, 2**62), text=awkward_text, is_success=st.booleans()
)
def test_any_message_is_written_as_one_line_that_monitord_reads(
    kind: Kind, host_id: int, timestamp: int, text: str, *, is_success: bool
) -> None:
    message = Message(kind=kind, host_id=host_id, timestamp=timestamp, text=text, is_success=is_success)
    found = decoder.read_modern(format_message(message))
    assert (found.word, found.host_id, found.timestamp) == (kind.value, host_id, max(0, timestamp))
    assert found.status == ("SUCCESS" if is_success else "FAILURE")
    if not is_success:
        assert found.text.strip(" ")
        assert len(found.text.splitlines()) == 1


@given(word=st.sampled_from(["MONITOR", "STOPMONITOR"]) | any_text, text=awkward_text, is_success=st.booleans())
def test_any_reply_is_written_as_one_line_that_oned_reads(word: str, text: str, *, is_success: bool) -> None:
    reply = LegacyReply(word=word, host_id=5, text=text, is_success=is_success)
    found = decoder.read_legacy(format_legacy_reply(reply))
    assert (found.host_id, found.status) == (5, "SUCCESS" if is_success else "FAILURE")
    if not is_success:
        assert found.text.strip(" ")


@given(severity=st.sampled_from(list(Severity)), text=awkward_text, era=st.sampled_from(list(Era)))
def test_any_log_entry_is_written_as_one_line_that_oned_or_monitord_reads(
    severity: Severity, text: str, era: Era
) -> None:
    line = format_log(HostLog(severity=severity, text=text), era=era, timestamp=NOW)
    found = decoder.read_modern(line) if era is Era.MODERN else decoder.read_legacy(line)
    assert (found.word, found.status, found.host_id) == ("LOG", severity.value, -1)
    assert found.text.strip(" ")
