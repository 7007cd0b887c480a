from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.protocol.im import parse_line
from one_provider_mad.protocol.im_messages import Periods, StartMonitor, Unreadable
from one_provider_mad.protocol.im_payload import DOCUMENT_LIMIT
from tests.monitor.decoder import configuration, packed, start_document
from tests.protocol.cases import any_text


def started(document: str | bytes) -> StartMonitor:
    found = parse_line(b"START_MONITOR - 5 0 " + packed(document))
    assert isinstance(found, StartMonitor), found
    return found


def refusal(payload: bytes) -> str:
    found = parse_line(b"START_MONITOR - 5 0 " + payload)
    assert isinstance(found, Unreadable), found
    assert (found.word, found.host_id) == ("START_MONITOR", 5)
    return found.reason


def with_periods(text: str) -> str:
    return (
        f"<MONITOR_DRIVER_ACTION><HOST><ID>5</ID></HOST><MONITOR_CONFIGURATION><PROBES_PERIOD>{text}</PROBES_PERIOD>"
        f"</MONITOR_CONFIGURATION></MONITOR_DRIVER_ACTION>"
    )


def test_every_period_is_read_from_the_payload_of_start_monitor() -> None:
    document = start_document(
        5,
        BEACON_HOST=1,
        SYSTEM_HOST=2,
        MONITOR_HOST=3,
        STATE_VM=4,
        SYNC_STATE_VM=5,
        MONITOR_VM=6,
        EXEC_VM=7,
        interval=8,
    )
    found = started(document)
    assert found.periods == Periods(
        beacon_host=1, system_host=2, monitor_host=3, state_vm=4, sync_state_vm=5, monitor_vm=6, exec_vm=7
    )
    assert (found.interval, found.timer) == (8, 15)


def test_periods_that_are_not_sent_have_defaults() -> None:
    assert started("<MONITOR_DRIVER_ACTION/>") == StartMonitor(host_id=5)
    assert started(start_document(5)).periods == Periods()


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "soon", "1.5", "1e3", "٣", str(2**31), "9" * 10, "9" * 30, "<X>5</X>0x"]
)
def test_a_period_that_is_no_positive_number_has_its_default(text: str) -> None:
    assert started(with_periods(f"<STATE_VM>{text}</STATE_VM>")).periods == Periods()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("<STATUS_VM>10</STATUS_VM>", 10, id="name-in-the-defaults-of-5.12"),
        pytest.param("<STATUS_VM>10</STATUS_VM><STATE_VM>7</STATE_VM>", 7, id="state-vm-has-precedence"),
        pytest.param("<STATE_VM> 7\n</STATE_VM>", 7, id="blanks"),
    ],
)
def test_the_period_of_vm_states_is_read_from_state_vm_or_status_vm(text: str, seconds: int) -> None:
    assert started(with_periods(text)).periods.state_vm == seconds


def test_the_monitor_configuration_is_kept_verbatim() -> None:
    assert started(start_document(5, STATE_VM=7)).document.decode() == configuration(STATE_VM=7)


@pytest.mark.parametrize("text", ["", "<MONITOR_CONFIGURATION/>", "<HOST/>"])
def test_a_message_without_a_configuration_has_an_empty_one(text: str) -> None:
    assert started(f"<MONITOR_DRIVER_ACTION>{text}</MONITOR_DRIVER_ACTION>").document == b""


def test_a_host_without_a_cluster_is_read() -> None:
    found = started(
        start_document(5).replace("<CLUSTER_ID>100<", "<CLUSTER_ID>-1<").replace("<CLUSTER>east<", "<CLUSTER><")
    )
    assert (found.cluster_id, found.cluster) == (-1, "")


def test_unknown_elements_are_ignored() -> None:
    document = start_document(5).replace("<HOST>", "<NEW><ID>9</ID></NEW><HOST><FUTURE>1</FUTURE>", 1)
    assert started(document) == started(start_document(5))


@pytest.mark.parametrize(
    "document",
    [
        pytest.param('<?xml version="1.0"?>\n' + start_document(5), id="declaration"),
        pytest.param("<!-- a --> <!-- b -->" + start_document(5), id="comments"),
    ],
)
def test_a_document_with_a_declaration_or_comments_before_its_root_is_read(document: str) -> None:
    assert started(document).host == "harbour"


def test_an_uncompressed_document_is_read() -> None:
    line = b"START_MONITOR - 5 0 " + base64.b64encode(start_document(5).encode())
    assert parse_line(line) == started(start_document(5))


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        pytest.param(b"!!!", "payload is not base64", id="no-base64"),
        pytest.param(b"-", "payload is not base64", id="dash"),
        pytest.param(b"QUJD", "payload is not compressed with zlib", id="no-zlib"),
        pytest.param(
            base64.b64encode(zlib.compress(b"<MONITOR_DRIVER_ACTION/>")[:-6]),
            "payload is not compressed with zlib: its end is missing",
            id="half-of-it",
        ),
        pytest.param(packed(b"\xff\xfe"), "payload is not UTF-8", id="no-utf-8"),
        pytest.param(packed("<MONITOR_DRIVER_ACTION>\0"), "it holds a NUL", id="nul"),
        pytest.param(packed("-"), "it does not begin with <MONITOR_DRIVER_ACTION>", id="no-xml"),
        pytest.param(packed("<HOST/>"), "it does not begin with <MONITOR_DRIVER_ACTION>", id="another-root"),
        pytest.param(packed("<MONITOR_DRIVER_ACTION>"), "payload is not the XML of a monitor message", id="no-end"),
        pytest.param(
            packed('<!DOCTYPE x [<!ENTITY a "b">]><MONITOR_DRIVER_ACTION/>'), "it does not begin with", id="dtd"
        ),
        pytest.param(
            packed(start_document(6)), "the message is about host 6, the line about host 5", id="another-host"
        ),
        pytest.param(packed(start_document(-5)), "the message is about host -5", id="a-negative-host"),
    ],
)
def test_a_malformed_payload_is_refused_with_the_reason(payload: bytes, complaint: str) -> None:
    assert complaint in refusal(payload)


def test_a_small_payload_that_decompresses_beyond_the_limit_is_refused() -> None:
    bomb = packed(b"<MONITOR_DRIVER_ACTION>" + b" " * (DOCUMENT_LIMIT + 1))
    assert len(bomb) < 100_000
    assert f"longer than {DOCUMENT_LIMIT} bytes" in refusal(bomb)


def test_a_payload_that_decompresses_to_exactly_the_limit_is_read() -> None:
    start, end = b"<MONITOR_DRIVER_ACTION>", b"</MONITOR_DRIVER_ACTION>"
    assert started(start + b" " * (DOCUMENT_LIMIT - len(start) - len(end)) + end) == StartMonitor(host_id=5)


fragments = st.sampled_from(
    [
        "<HOST>",
        "</HOST>",
        "<ID>5</ID>",
        "<ID>",
        "</ID>",
        "<PROBES_PERIOD>",
        "<STATE_VM>",
        "9",
        "<![CDATA[",
        "]]>",
        "&lt;",
    ]
)


@given(text=st.lists(fragments | any_text, max_size=8).map("".join))
def test_any_document_is_read_or_refused_without_an_exception(text: str) -> None:
    document = f"<MONITOR_DRIVER_ACTION>{text}</MONITOR_DRIVER_ACTION>".encode("utf-8", "replace")
    found = parse_line(b"START_MONITOR - 5 0 " + packed(document))
    assert isinstance(found, StartMonitor | Unreadable)
    assert found.host_id == 5


@given(data=st.binary(max_size=200))
def test_arbitrary_compressed_bytes_are_refused(data: bytes) -> None:
    assert refusal(packed(data))
