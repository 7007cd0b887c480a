"""Calls and answers as bytes: what is written, what is read, and what is no answer at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from one_provider_mad.documents import Element, parse_document
from one_provider_mad.errors import BadParameter, ProviderUnavailable
from one_provider_mad.xmlrpc.envelope import Failure, Success, decode_answer, encode_call


def answer(*values: str) -> bytes:
    inner = "".join(f"<value>{value}</value>" for value in values)
    return (
        f"<methodResponse><params><param><value><array><data>{inner}</data></array></value></param></params>"
        "</methodResponse>"
    ).encode()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(("<boolean>1</boolean>", "<i4>7</i4>", "<i4>0</i4>"), Success(result=7), id="id"),
        pytest.param(("<boolean>1</boolean>", "<i8>7</i8>"), Success(result=7), id="wide-id"),
        pytest.param(("<boolean>1</boolean>", "<int>-1</int>"), Success(result=-1), id="negative"),
        pytest.param(("<boolean>1</boolean>", "<string>7.4.0</string>"), Success(result="7.4.0"), id="text"),
        pytest.param(("<boolean>1</boolean>", "7.4.0"), Success(result="7.4.0"), id="bare-text"),
        pytest.param(("<boolean>1</boolean>", "<string/>"), Success(result=""), id="empty"),
        pytest.param(("<boolean>1</boolean>", "<string>&lt;VM&gt;</string>"), Success(result="<VM>"), id="escaped"),
        pytest.param(
            ("<boolean>0</boolean>", "<string>no</string>", "<i4>256</i4>"), Failure(text="no", code=256), id="refusal"
        ),
        pytest.param(("<boolean>0</boolean>", "<string>no</string>"), Failure(text="no", code=0), id="no-code"),
    ],
)
def test_an_answer_is_read(values: tuple[str, ...], expected: Success | Failure) -> None:
    assert decode_answer("one.vm.info", answer(*values)) == expected


NO_ANSWERS = {
    "empty": b"",
    "a-proxy's-page": b"<html><body>502 Bad Gateway</body></html>",
    "half": answer("<boolean>1</boolean>", "<i4>7</i4>")[:-20],
    "not-xml": b"upstream connect error",
    "no-result": b"<methodResponse><params/></methodResponse>",
    "one-value": answer("<boolean>1</boolean>"),
    "no-flag": answer("<i4>1</i4>", "<i4>1</i4>"),
    "a-struct": answer("<boolean>1</boolean>", "<struct/>"),
    "a-word-for-a-number": answer("<boolean>1</boolean>", "<i4>seven</i4>"),
    "5000-digits": answer("<boolean>1</boolean>", f"<i8>{'9' * 5000}</i8>"),
    "digits-of-another-script": answer("<boolean>1</boolean>", "<i4>&#1639;</i4>"),
    "entities": b'<!DOCTYPE a [<!ENTITY x "y">]><methodResponse>&x;</methodResponse>',
    "a-dtd": b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><methodResponse/>',
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_leaves_open_what_was_done(name: str) -> None:
    with pytest.raises(ProviderUnavailable, match=r"the answer to one\.vm\.action") as caught:
        decode_answer("one.vm.action", NO_ANSWERS[name])
    assert not caught.value.definite
    assert len(str(caught.value)) < 400


def test_a_file_is_not_read_for_whoever_answers() -> None:
    document = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><methodResponse>&x;</methodResponse>'
    with pytest.raises(ProviderUnavailable) as caught:
        decode_answer("one.vm.info", document)
    assert "root:" not in str(caught.value)


def test_a_document_of_more_than_ten_million_bytes_is_read() -> None:
    document = "&lt;VM&gt;" * 1_200_000
    found = decode_answer("one.vmpool.info", answer("<boolean>1</boolean>", f"<string>{document}</string>"))
    assert isinstance(found, Success)
    assert len(str(found.result)) == 4 * 1_200_000


def test_nobody_waits_for_the_parser_of_another_thread() -> None:
    """One of lxml's reads one document at a time: a pool of 3 MB would hold up the requests that the loop reads."""

    def parsed() -> Element:
        return parse_document(b"<VM/>")

    with ThreadPoolExecutor(1) as thread:
        theirs, again = thread.submit(parsed).result(), thread.submit(parsed).result()
    assert theirs.getroottree().parser is again.getroottree().parser
    assert theirs.getroottree().parser is not parsed().getroottree().parser


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param("a\0b", id="nul"),
        pytest.param("\x1b[1m", id="escape"),
        pytest.param("\udc80", id="surrogate"),
        pytest.param(2**31, id="wide-number"),
    ],
)
def test_what_xml_rpc_cannot_carry_is_not_sent(argument: str | int) -> None:
    with pytest.raises(BadParameter, match=r"one\.vm\.update cannot be sent"):
        encode_call("one.vm.update", "user:password", (argument,))


def test_markup_and_line_feeds_arrive_as_they_were() -> None:
    import xmlrpc.client

    text = 'A="<b> & ]]>"\n\tB="é"'
    (session, sent), method = xmlrpc.client.loads(encode_call("one.vm.update", "user:pass<&", (text,)))
    assert (session, sent, method) == ("user:pass<&", text, "one.vm.update")
