"""XML-RPC calls and answers as bytes: encoding calls, decoding answers, and refusing malformed ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from one_provider_mad.errors import BadParameter, ProviderUnavailable
from one_provider_mad.safe_xml import Element, parse_document, text_of
from one_provider_mad.xmlrpc.envelope import Failure, Success, decode_answer, encode_call, read_entries


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
def test_an_xmlrpc_answer_is_decoded_as_success_or_failure(
    values: tuple[str, ...], expected: Success | Failure
) -> None:
    assert decode_answer("one.vm.info", answer(*values)) == expected


MALFORMED_ANSWERS = {
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


@pytest.mark.parametrize("name", MALFORMED_ANSWERS)
def test_after_a_malformed_answer_the_call_may_have_been_carried_out(name: str) -> None:
    with pytest.raises(ProviderUnavailable, match=r"the answer to one\.vm\.action") as caught:
        decode_answer("one.vm.action", MALFORMED_ANSWERS[name])
    assert not caught.value.definite
    assert len(str(caught.value)) < 400


def test_an_external_entity_in_an_answer_is_not_read() -> None:
    document = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><methodResponse>&x;</methodResponse>'
    with pytest.raises(ProviderUnavailable) as caught:
        decode_answer("one.vm.info", document)
    assert "root:" not in str(caught.value)


def test_an_answer_of_more_than_ten_million_bytes_is_decoded() -> None:
    document = "&lt;VM&gt;" * 1_200_000
    found = decode_answer("one.vmpool.info", answer("<boolean>1</boolean>", f"<string>{document}</string>"))
    assert isinstance(found, Success)
    assert len(str(found.result)) == 4 * 1_200_000


def test_each_thread_has_its_own_xml_parser() -> None:
    """An lxml parser reads one document at a time: a pool of 3 MB would delay the event loop's own parsing."""

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
def test_an_argument_that_xmlrpc_cannot_encode_is_refused(argument: str | int) -> None:
    with pytest.raises(BadParameter, match=r"one\.vm\.update cannot be sent"):
        encode_call("one.vm.update", "user:password", (argument,))


def test_markup_and_line_feeds_in_an_argument_are_encoded_without_loss() -> None:
    import xmlrpc.client

    text = 'A="<b> & ]]>"\n\tB="é"'
    (session, sent), method = xmlrpc.client.loads(encode_call("one.vm.update", "user:pass<&", (text,)))
    assert (session, sent, method) == ("user:pass<&", text, "one.vm.update")


def test_entries_of_a_pool_are_read_one_by_one() -> None:
    pool = "<CLUSTER_POOL><CLUSTER><ID>0</ID></CLUSTER><CLUSTER><ID>100</ID></CLUSTER></CLUSTER_POOL>"
    found = read_entries("one.clusterpool.info", pool, name="CLUSTER")
    assert [text_of(each) for each in found] == ["0", "100"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (7, "the answer to one.clusterpool.info is not a document"),
        ("<html><CLUSTER/></html>", "the answer to one.clusterpool.info is not <CLUSTER_POOL>, it begins with <html>"),
        ("<CLUSTER_POOL><CLUSTER>", "the document in the answer to one.clusterpool.info is no XML"),
    ],
    ids=["a-number", "another-root", "cut"],
)
def test_entries_of_anything_but_the_pool_are_refused(answer: str | int, reason: str) -> None:
    with pytest.raises(ProviderUnavailable) as caught:
        list(read_entries("one.clusterpool.info", answer, name="CLUSTER"))
    assert str(caught.value) == reason
