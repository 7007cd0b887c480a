from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from one_provider_mad.characters import HIDDEN, clean
from one_provider_mad.domain import VmId
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.framing import HEAD, LineBuffer, Oversized
from one_provider_mad.protocol.handshake import INIT_SUCCESS
from one_provider_mad.protocol.messages import Action, Control, LogLine, Malformed, Reply, Request, Severity
from one_provider_mad.protocol.vmm import (
    NO_REASON,
    TEXT_LIMIT,
    deploy_id_problem,
    format_log,
    format_reply,
    parse_line,
    parse_oversized,
    parse_reply,
)
from tests.protocol.cases import (
    FROM_DRIVER,
    FROM_ONED,
    HELLO,
    any_reply,
    any_text,
    awkward_text,
    failure,
    log,
    oned_line,
    request,
    success,
)

PIPE_BUF = 4096


def is_fit(text: str) -> bool:
    """True if a text fits in one line and oned can store it, as Python and an XML parser decide."""
    if (
        text.splitlines() not in ([], [text])
        or "]]>" in text
        or any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text)
        or HIDDEN.search(text)
    ):
        return False
    return etree.fromstring(f"<ERROR><![CDATA[{text}]]></ERROR>".encode()).text in (text, None)


def text_of(line: bytes) -> str:
    """The text of a driver's line, after checks that it is one whole line of valid UTF-8."""
    assert line.endswith(b"\n")
    text = line.removesuffix(b"\n").decode()
    assert is_fit(text), line
    return text


# Lines of oned


@pytest.mark.parametrize(("value", "line"), FROM_ONED)
def test_a_line_of_oned_is_parsed(value: Request | Control, line: bytes) -> None:
    assert parse_line(line.removesuffix(b"\n")) == value


@pytest.mark.parametrize(("value", "line"), FROM_ONED)
def test_a_line_of_oned_is_parsed_with_any_line_end_and_blanks_around_it(value: Request | Control, line: bytes) -> None:
    assert parse_line(b"  " + line.removesuffix(b"\n") + b"\t \r\n") == value


@pytest.mark.parametrize(("value", "line"), FROM_ONED)
def test_a_line_of_oned_is_parsed_in_any_letter_case(value: Request | Control, line: bytes) -> None:
    word, blank, rest = line.partition(b" ")
    assert parse_line(word.swapcase() + blank + rest) == value


@pytest.mark.parametrize(("value", "line"), FROM_ONED)
def test_a_line_of_oned_that_is_read_byte_by_byte_is_parsed(value: Request | Control, line: bytes) -> None:
    buffer = LineBuffer()
    lines = [parse_line(found) for byte in line for found in buffer.feed(bytes([byte])) if isinstance(found, bytes)]
    assert lines == [value]


@pytest.mark.parametrize(("value", "line"), [case for case in FROM_ONED if isinstance(case.values[0], Request)])
def test_the_tests_write_request_lines_as_oned_does(value: Request, line: bytes) -> None:
    assert oned_line(value) == line


@pytest.mark.parametrize(
    ("line", "dialect"),
    [
        pytest.param(b"DEPLOY 42 QQ==", Dialect.UP_TO_5_12, id="one-blank"),
        pytest.param(b"DEPLOY\t42 QQ==", Dialect.UP_TO_5_12, id="one-tab"),
        pytest.param(b"DEPLOY 42   QQ==", Dialect.UP_TO_5_12, id="several-blanks-elsewhere"),
        pytest.param(b"  DEPLOY 42 QQ==", Dialect.UP_TO_5_12, id="blanks-before"),
        pytest.param(b"DEPLOY  42 QQ==", Dialect.SINCE_6_0, id="two-blanks"),
        pytest.param(b"DEPLOY \t 42 \t QQ==", Dialect.SINCE_6_0, id="blanks-and-tabs"),
        pytest.param(b"DEPLOY - 42 QQ==", Dialect.SINCE_6_0, id="dash-as-status"),
        pytest.param(b"DEPLOY  -  42  QQ==", Dialect.SINCE_6_0, id="dash-as-status-among-blanks"),
        pytest.param(b"DEPLOY 0000000000042 QQ==", Dialect.UP_TO_5_12, id="zeros-before-the-id"),
    ],
)
def test_the_status_field_of_a_request_may_be_absent_empty_or_a_dash(line: bytes, dialect: Dialect) -> None:
    assert parse_line(line) == request(payload=b"QQ==", dialect=dialect)


@pytest.mark.parametrize("separator", [b" ", b"\r", b"  \t"])
def test_a_wrapped_payload_is_joined(separator: bytes) -> None:
    wrapped = separator.join([HELLO[:60], HELLO[60:76], HELLO[76:]])
    assert parse_line(b"DEPLOY 42 " + wrapped + b"\r") == request(payload=HELLO)


def test_a_request_without_a_payload_is_parsed() -> None:
    assert [parse_line(action.value.encode() + b" 42") for action in Action] == [request(action) for action in Action]


@pytest.mark.parametrize("line", [b"FINALIZE now", b"finalize - 1 2 3", b" Finalize\t"])
def test_words_after_a_control_word_are_ignored(line: bytes) -> None:
    assert parse_line(line) is Control.FINALIZE


@pytest.mark.parametrize("line", [b"", b" ", b"\t \r", b"\r\n"])
def test_an_empty_line_is_malformed_and_has_no_vm_id(line: bytes) -> None:
    assert parse_line(line) == Malformed(reason="empty line")


@pytest.mark.parametrize(
    "vm_id",
    [
        pytest.param(b"", id="absent"),
        pytest.param(b"x29", id="letters"),
        pytest.param(b"-1", id="negative"),
        pytest.param(b"+1", id="plus-sign"),
        pytest.param(b"1_0", id="underscore"),
        pytest.param(b"4.2", id="dot"),
        pytest.param("٤٢".encode(), id="digits-of-another-script"),
        pytest.param(b"\xb2", id="superscript-in-latin-1"),
        pytest.param(b"2147483648", id="one-above-oneds-int"),
        pytest.param(b"9" * 5000, id="more-digits-than-int-takes"),
        pytest.param(b"SUCCESS 42", id="a-status-word"),
    ],
)
def test_a_vm_id_that_oned_could_not_read_back_is_refused(vm_id: bytes) -> None:
    malformed = parse_line(b"DEPLOY " + vm_id + b" QQ==" if vm_id else b"DEPLOY")
    assert isinstance(malformed, Malformed)
    assert (malformed.word, malformed.vm_id) == ("DEPLOY", None)
    assert "VM id" in malformed.reason


def test_an_unknown_action_keeps_its_word_and_vm_id_so_that_it_can_be_answered() -> None:
    assert parse_line(b"frobnicate  42 QQ==") == Malformed(
        reason="Action FROBNICATE not supported", word="FROBNICATE", vm_id=VmId(42), dialect=Dialect.SINCE_6_0
    )


@pytest.mark.parametrize(
    ("line", "word", "vm_id"),
    [
        pytest.param(b"D\x00PLOY 42", "D?PLOY", 42, id="nul"),
        pytest.param(b"\x1b[2J 42", "?[2J", 42, id="control-character"),
        pytest.param("DÉPLOY 42".encode(), "D??PLOY", 42, id="beyond-ascii"),
        pytest.param(b"\xff\xfe 42", "??", 42, id="no-utf-8"),
        pytest.param(b"X" * 1000 + b" 42", "X" * 64, 42, id="too-long"),
        pytest.param(b"- 42", "-", 42, id="a-dash"),
    ],
)
def test_an_action_word_is_reduced_to_short_printable_ascii(line: bytes, word: str, vm_id: int) -> None:
    assert parse_line(line) == Malformed(
        reason=f"Action {word} not supported", word=word, vm_id=VmId(vm_id), dialect=Dialect.UP_TO_5_12
    )


@pytest.mark.parametrize(
    ("head", "word", "vm_id", "dialect"),
    [
        pytest.param(b"DEPLOY 42 ", "DEPLOY", 42, Dialect.UP_TO_5_12, id="5.10"),
        pytest.param(b"deploy  42 ", "DEPLOY", 42, Dialect.SINCE_6_0, id="7.4"),
        pytest.param(b"FROBNICATE  42 ", "FROBNICATE", 42, Dialect.SINCE_6_0, id="unknown-action"),
        pytest.param(b"DEPLOY x42 ", "DEPLOY", None, Dialect.UP_TO_5_12, id="unreadable-id"),
        pytest.param(b"FINALIZE ", "FINALIZE", None, Dialect.SINCE_6_0, id="control-word"),
        pytest.param(b"", "", None, Dialect.SINCE_6_0, id="one-endless-word"),
        pytest.param(b" " * 300, "", None, Dialect.SINCE_6_0, id="blanks-only"),
    ],
)
def test_an_oversized_line_is_malformed_with_its_word_and_vm_id(
    head: bytes, word: str, vm_id: int | None, dialect: Dialect
) -> None:
    malformed = parse_oversized(Oversized(head=(head + b"A" * HEAD)[:HEAD], limit=1000))
    assert malformed == Malformed(
        reason="the request line is longer than 1000 bytes",
        word=word,
        vm_id=None if vm_id is None else VmId(vm_id),
        dialect=dialect,
    )


def test_a_vm_id_that_the_end_of_the_head_may_have_cut_is_not_used() -> None:
    head = (b"DEPLOY" + b" " * HEAD)[: HEAD - 2] + b"42"  # the beginning of a longer id
    assert parse_oversized(Oversized(head=head)).vm_id is None


words = st.sampled_from([action.value.encode() for action in Action] + [b"INIT", b"-", b"LOG"]) | st.binary(max_size=5)
blanks = st.sampled_from([b"", b" ", b"  ", b"\t", b" \r"])
numbers = st.integers(-3, 2**33).map(lambda number: str(number).encode()) | st.binary(max_size=12)


@given(line=st.binary() | st.tuples(blanks, words, blanks, numbers, blanks, st.binary()).map(b"".join))
@example(line=b"DEPLOY -")
@example(line=b"\x00")
def test_any_bytes_are_parsed_without_an_exception(line: bytes) -> None:
    parsed = parse_line(line)
    if not isinstance(parsed, Control):
        assert parsed.vm_id is None or 0 <= parsed.vm_id <= 2147483647
    if isinstance(parsed, Malformed):
        assert parsed.reason
        assert parsed.word.isascii()
        assert parsed.word.isprintable()
        assert len(parsed.word.split()) <= 1


@given(head=st.binary(max_size=HEAD))
def test_any_head_of_an_oversized_line_is_parsed_without_an_exception(head: bytes) -> None:
    assert "longer than" in parse_oversized(Oversized(head=head)).reason


@given(
    action=st.sampled_from(Action),
    vm_id=st.integers(0, 2147483647),
    payload=st.from_regex(rb"[A-Za-z0-9+/=]*", fullmatch=True),
    dialect=st.sampled_from(Dialect),
)
def test_a_written_request_is_parsed_back_to_itself(
    action: Action, vm_id: int, payload: bytes, dialect: Dialect
) -> None:
    value = request(action, vm_id, payload, dialect=dialect)
    assert parse_line(oned_line(value)) == value


# Lines of the driver


def test_init_is_answered_with_one_short_line() -> None:
    assert INIT_SUCCESS == b"INIT SUCCESS\n"


def written(value: Reply | LogLine | Control) -> bytes:
    """The line that the driver writes for this value."""
    match value:
        case Control():
            return INIT_SUCCESS
        case LogLine():
            return format_log(value, Dialect.SINCE_6_0)
        case Reply():
            return format_reply(value)


@pytest.mark.parametrize(("value", "line"), FROM_DRIVER)
def test_a_reply_or_log_entry_is_written_as_its_line(value: Reply | LogLine | Control, line: bytes) -> None:
    assert written(value) == line


@pytest.mark.parametrize(("value", "line"), FROM_DRIVER)
def test_a_line_of_the_driver_is_parsed_back_to_its_value(value: Reply | LogLine | Control, line: bytes) -> None:
    assert parse_reply(line) == value
    assert parse_reply(line.removesuffix(b"\n") + b"\r") == value


@pytest.mark.parametrize(
    ("dialect", "line"),
    [(Dialect.UP_TO_5_12, b"LOG W - no cloud\n"), (Dialect.SINCE_6_0, b"LOG W -1 no cloud\n")],
)
def test_a_log_line_without_a_vm_has_the_id_that_its_release_expects(dialect: Dialect, line: bytes) -> None:
    value = log(Severity.WARNING, "no cloud")
    assert format_log(value, dialect) == line
    assert parse_reply(line) == value


@pytest.mark.parametrize(
    ("line", "value"),
    [
        pytest.param(b"INIT SUCCESS - -", Control.INIT, id="init-as-upstream-writes-it"),
        pytest.param(b"FINALIZE SUCCESS - -", Control.FINALIZE, id="finalize"),
        pytest.param(b"LOG WARNING 3 slow", log(Severity.WARNING, "slow", 3), id="only-the-first-letter-counts"),
        pytest.param(b"LOG Q 3 slow", log(Severity.INFO, "slow", 3), id="unknown-severity"),
        pytest.param(b"  REBOOT  SUCCESS  3", success("REBOOT", 3, ""), id="no-text"),
        pytest.param(b"REBOOT success 3 -", failure("REBOOT", 3, "-"), id="success-in-lower-case-is-failure"),
        pytest.param(b"REBOOT FAILURE 3 \xff", failure("REBOOT", 3, "\ufffd"), id="no-utf-8"),
    ],
)
def test_a_line_of_another_driver_is_parsed_as_oned_parses_it(line: bytes, value: Reply | LogLine | Control) -> None:
    assert parse_reply(line) == value


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"", "empty line", id="empty"),
        pytest.param(b"REBOOT SUCCESS", "a reply has at least three words", id="too-short"),
        pytest.param(b"DEPLOY SUCCESS x29 abc", "X29 is not a VM id", id="no-number"),
        pytest.param(b"DEPLOY SUCCESS 2147483648 abc", "2147483648 is not a VM id", id="too-large"),
        pytest.param(b"LOG I x29 abc", "X29 is not a VM id", id="log-without-a-vm-id"),
        pytest.param(b"INIT FAILURE no key", "INIT was not answered with SUCCESS", id="init-refused"),
        pytest.param(b"INIT", "INIT was not answered with SUCCESS", id="init-without-status"),
    ],
)
def test_a_reply_that_oned_would_ignore_or_misread_is_malformed(line: bytes, reason: str) -> None:
    malformed = parse_reply(line)
    assert isinstance(malformed, Malformed)
    assert malformed.reason == reason


@given(line=st.binary() | st.tuples(words, blanks, words, blanks, numbers, blanks, st.binary()).map(b"".join))
def test_any_bytes_as_a_drivers_line_are_parsed_without_an_exception(line: bytes) -> None:
    assert isinstance(parse_reply(line), Reply | LogLine | Control | Malformed)


@pytest.mark.parametrize(
    ("info", "text"),
    [
        pytest.param("two\nlines\r\nor three", "two lines or three", id="newlines"),
        pytest.param("indented:\n    the cause\n", "indented: the cause", id="blanks-around-a-newline"),
        pytest.param("a  b", "a  b", id="blanks-of-the-text-itself"),
        pytest.param("tab\there", "tab here", id="tab"),
        pytest.param("nul\x00\x00in it", "nul in it", id="nul"),
        pytest.param("\x1b[31mred\x1b[0m", "[31mred [0m", id="escape-sequences"),
        pytest.param("del\x7fc1\x9bnel\x85end", "del c1 nel end", id="delete-and-c1-controls"),
        pytest.param("line\u2028paragraph\u2029end", "line paragraph end", id="unicode-line-ends"),
        pytest.param("i-\u202egpj.exe\u202c\u2066x\u2069", "i-gpj.exex", id="bidirectional-overrides"),
        pytest.param("\ufeffbom \U000e0041tag\u206a", "bom tag", id="invisible-characters"),
        pytest.param("]]\u202e>", "]] >", id="cdata-end-behind-an-override"),
        pytest.param("non\ufffecharacters\uffff", "non characters", id="noncharacters"),
        pytest.param("half \ud83d emoji", "half ? emoji", id="lone-surrogate"),
        pytest.param("whole 😀 emoji", "whole 😀 emoji", id="astral"),
        pytest.param("<![CDATA[x]]>", "<![CDATA[x]] >", id="cdata-end"),
        pytest.param("]]]>>", "]]] >>", id="cdata-end-inside-brackets"),
        pytest.param("]]\x00>", "]] >", id="cdata-end-behind-a-control"),
        pytest.param("  \n trimmed \n  ", "trimmed", id="trimmed"),
    ],
)
def test_a_text_is_cleaned_for_one_line_and_for_xml(info: str, text: str) -> None:
    assert clean(info) == text
    assert format_reply(failure("SAVE", 1, info)) == f"SAVE FAILURE 1 {text}\n".encode()


@pytest.mark.parametrize(
    ("info", "text"),
    [
        pytest.param("", NO_REASON, id="empty"),
        pytest.param("-", NO_REASON, id="dash"),
        pytest.param(" \n", NO_REASON, id="blank"),
        pytest.param("--- -", NO_REASON, id="nothing-but-dashes"),
        pytest.param("-1 is no size", "error: -1 is no size", id="begins-with-a-dash"),
        pytest.param("\n- one\n- two", "error: - one - two", id="a-list"),
    ],
)
def test_a_failure_text_never_begins_with_a_dash_since_oned_would_drop_it(info: str, text: str) -> None:
    assert format_reply(failure("SAVE", 1, info)) == f"SAVE FAILURE 1 {text}\n".encode()


@pytest.mark.parametrize("info", ["", "-", " \n ", "\x00"])
def test_a_success_without_text_has_a_dash(info: str) -> None:
    assert format_reply(success("SAVE", 1, info)) == b"SAVE SUCCESS 1 -\n"


def test_a_log_line_without_text_has_a_dash() -> None:
    assert format_log(log(Severity.INFO, "\n", 3), Dialect.SINCE_6_0) == b"LOG I 3 -\n"


def test_an_action_word_is_written_in_upper_case_and_without_blanks() -> None:
    assert format_reply(success("save me\n", 1)) == b"SAVE?ME? SUCCESS 1 -\n"
    assert format_reply(success("]]>", 1)) == b"]]? SUCCESS 1 -\n"
    assert format_reply(success("", 1)) == b"? SUCCESS 1 -\n"


@pytest.mark.parametrize("letter", ["x", "é", "東", "😀"])
def test_a_long_text_is_cut_so_that_its_line_is_written_atomically_to_a_pipe(letter: str) -> None:
    text = letter * 5000
    for line in [
        format_log(log(Severity.ERROR, text, 2147483647), Dialect.SINCE_6_0),
        format_reply(failure("X" * 99, 2147483647, text)),
    ]:
        assert PIPE_BUF - 200 < len(line) <= PIPE_BUF
        assert text_of(line).endswith(f"{letter}...")


def test_a_text_of_exactly_the_limit_is_not_cut() -> None:
    line = format_log(log(Severity.INFO, "x" * TEXT_LIMIT), Dialect.UP_TO_5_12)
    assert line == b"LOG I - " + b"x" * TEXT_LIMIT + b"\n"


def test_a_long_success_is_not_cut() -> None:
    info = 'STATE=a NOTE="' + "x" * 100_000 + '"'
    assert format_reply(success("POLL", 1, info)) == f"POLL SUCCESS 1 {info}\n".encode()


def stored_error(line: bytes) -> bytes:
    """The part of a failure that oned stores from 6.6 on: VirtualMachine::set_template_error_message, in bytes."""
    word, _, _, text = line.rstrip(b"\n").split(b" ", 3)
    return (word + b": " + text)[:100]


@pytest.mark.parametrize("word", ["SAVE", "DEPLOY", "DISKSNAPSHOTCREATE"])
@pytest.mark.parametrize(
    "info",
    [
        pytest.param("Größe " * 40, id="words"),
        pytest.param("x" * 60 + "ä" * 60, id="one-word"),
        pytest.param("101 " + "東" * 60, id="first-word-kept"),
        pytest.param("😀" * 40, id="four-bytes"),
    ],
)
def test_a_failure_text_has_no_character_across_the_byte_at_which_oned_cuts_it(word: str, info: str) -> None:
    for shift in range(4):
        line = format_reply(failure(word, 1, "-" * shift + info))
        assert len(stored_error(line)) == 100
        stored_error(line).decode()


@pytest.mark.parametrize(
    ("before", "written"),
    [
        pytest.param("x" * 88 + " grü", "x" * 88 + "  grü", id="halved"),
        pytest.param("x" * 87 + " grü", "x" * 87 + " grü", id="ends-at-the-cut"),
        pytest.param("x" * 89 + " grü", "x" * 89 + " grü", id="begins-at-the-cut"),
        pytest.param("x" * 91 + "ü", "x" * 91 + " ü", id="no-blank-to-widen"),
        pytest.param("ü" * 46, "ü" * 46, id="short"),
    ],
)
def test_a_blank_is_added_before_a_character_that_oned_would_cut_in_half(before: str, written: str) -> None:
    assert format_reply(failure("DEPLOY", 1, before)) == f"DEPLOY FAILURE 1 {written}\n".encode()


@given(reply=any_reply)
@example(reply=failure("SAVE", 1, "]]\x00>"))
@example(reply=success("SAVE", 1, "]\ud800]>"))
def test_any_reply_is_written_as_one_line_that_is_parsed_back(reply: Reply) -> None:
    line = format_reply(reply)
    text = text_of(line)
    read = parse_reply(line)
    assert isinstance(read, Reply)
    assert (read.word, read.vm_id, read.is_success) == (reply.word, reply.vm_id, reply.is_success)
    assert read.info == text.split(" ", 3)[3]
    assert read.info
    if reply.is_success:
        assert read.info == (clean(reply.info) or "-")
    else:
        assert not read.info.startswith("-")
    assert format_reply(read) == line


@given(
    text=awkward_text,
    severity=st.sampled_from(Severity),
    vm_id=st.none() | st.integers(0, 2147483647),
    dialect=st.sampled_from(Dialect),
)
def test_any_log_entry_is_written_as_one_line_that_is_parsed_back(
    text: str, severity: Severity, vm_id: int | None, dialect: Dialect
) -> None:
    line = format_log(log(severity, text, vm_id), dialect)
    text_of(line)
    read = parse_reply(line)
    assert isinstance(read, LogLine)
    assert (read.severity, read.vm_id) == (severity, vm_id)
    assert read.text == (clean(text) or "-")


@given(word=any_text)
def test_any_action_word_is_written_without_blanks(word: str) -> None:
    assert len(text_of(format_reply(success(word, 1))).split()) == 4


@given(text=awkward_text)
def test_cleaning_a_text_twice_gives_the_same_as_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(text=st.text())
def test_a_text_that_fits_is_not_changed_by_cleaning(text: str) -> None:
    if is_fit(text):
        assert clean(text) == text.strip(" ")


# Deploy ids


@pytest.mark.parametrize(
    "deploy_id", ["i-0f3a", "one-x", "42", "x-", "a/b:c@d", "/a/b..c", "7f3a,eu-1", "x" * 300, "a>b", "]]"]
)
def test_an_ordinary_deploy_id_is_accepted(deploy_id: str) -> None:
    assert deploy_id_problem(deploy_id) is None


@pytest.mark.parametrize(
    "deploy_id",
    [
        "",
        "-",
        "a b",
        "a<b",
        "a&b",
        "a\n",
        "\x00",
        "a\x7f",
        "a\x85",
        "é",
        "\u2028",
        "\ud800",
        "\xa0",
        "\t",
        "]]>",
        "one-7",
        "-x",
        "..",
        "../x",
        "a/./b",
        "x" * 1025,
    ],
)
def test_a_deploy_id_that_oned_could_not_store_is_refused(deploy_id: str) -> None:
    problem = deploy_id_problem(deploy_id)
    assert problem is not None
    assert problem.isascii()
    assert problem.isprintable()


@given(deploy_id=any_text | st.text(st.characters(max_codepoint=127)))
def test_any_accepted_deploy_id_is_stored_by_oned_unchanged(deploy_id: str) -> None:
    if deploy_id_problem(deploy_id) is None:
        line = format_reply(success("DEPLOY", 1, deploy_id))
        assert line.split() == [b"DEPLOY", b"SUCCESS", b"1", deploy_id.encode()]
        assert etree.fromstring(f"<DEPLOY_ID>{deploy_id}</DEPLOY_ID>").text == deploy_id
