"""Long documents are read entry by entry, and each entry is freed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from one_provider_mad.safe_xml import MOST_MARKS, UnexpectedRootError, children_of, text_of

NESTED = b"<P><H><ID>1</ID><T><H>inner</H></T></H>\n <X/><H><ID>2</ID></H></P>"


def ids(document: bytes) -> list[str]:
    return [text_of(each.find("ID")) for each in children_of(document, root="P", name="H")]


def test_children_are_read_in_order_and_inner_elements_of_their_name_are_none() -> None:
    assert ids(NESTED) == ["1", "2"]
    assert ids(b"<P/>") == []


@pytest.mark.parametrize(
    "document", [b"", b"<P><H>", b"<P><H></P>", b"no XML", NESTED[:-1]], ids=["empty", "cut", "wrong", "text", "open"]
)
def test_a_document_that_is_no_xml_is_refused(document: bytes) -> None:
    with pytest.raises(etree.XMLSyntaxError):
        ids(document)


def test_another_root_is_refused_also_if_it_has_such_children() -> None:
    with pytest.raises(UnexpectedRootError, match="Q"):
        ids(NESTED.replace(b"P>", b"Q>"))


def test_entities_are_not_resolved() -> None:
    bomb = b'<!DOCTYPE P [<!ENTITY a "aaaa">]><P><H><ID>&a;</ID></H></P>'
    assert ids(bomb) == ["&a;"]


def test_a_pool_with_more_elements_than_one_document_may_have_is_read_whole() -> None:
    host = b"<H><ID>7</ID>" + b"<CORE><ID>0</ID></CORE>" * 200 + b"</H>\n"
    count = MOST_MARKS // host.count(b"<") + 50
    assert len(ids(b"<P>" + host * count + b"</P>")) == count


@given(st.lists(st.text(alphabet="ab<&é ", max_size=9), max_size=9), st.integers(min_value=1, max_value=40))
def test_every_text_arrives_however_the_document_is_cut(texts: list[str], size: int) -> None:
    root = etree.Element("P")
    for text in texts:
        etree.SubElement(etree.SubElement(root, "H"), "ID").text = text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("one_provider_mad.safe_xml._COUNTED_AT_ONCE", size)
        assert ids(etree.tostring(root, encoding="utf-8")) == texts
