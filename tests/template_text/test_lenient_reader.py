from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.template_text.lenient_reader import pairs_of, split_attributes
from tests.monitor.decoder import TemplateSyntaxError, Values, read_template

READABLE = [
    pytest.param("", [], id="nothing"),
    pytest.param("A=1", [("A", "A=1")], id="bareword"),
    pytest.param("a = 1 B=two\nC=3\n", [("A", "a = 1"), ("B", "B=two"), ("C", "C=3")], id="blanks-and-lines"),
    pytest.param('A="x, [y]=#\n\\"z\\" \\n"\n', [("A", 'A="x, [y]=#\n\\"z\\" \\n"')], id="quoted"),
    pytest.param("# what follows\nA=1 # and why\n", [("A", "A=1")], id="comments"),
    pytest.param(
        'VM=[ ID=1,\n  POLL="STATE=a" ]\nA=\n', [("VM", 'VM=[ ID=1,\n  POLL="STATE=a" ]'), ("A", "A=")], id="vector"
    ),
    pytest.param("VM=[]\nA=1", [("VM", "VM=[]"), ("A", "A=1")], id="empty-vector"),
    pytest.param("V=[ # one\nA=1, # B=2\n C=3 ]", [("V", "V=[ # one\nA=1, # B=2\n C=3 ]")], id="comments-in-a-vector"),
    pytest.param("A=1\r\nB=2\r\n", [("A", "A=1"), ("B", "B=2")], id="lines-of-windows"),
]


@pytest.mark.parametrize(("text", "attributes"), READABLE)
def test_a_template_is_split_into_its_attributes(text: str, attributes: list[tuple[str, str]]) -> None:
    assert split_attributes(text) == attributes


@pytest.mark.parametrize(
    ("attribute", "pairs"),
    [
        pytest.param("A = x", [("A", "x")], id="bareword"),
        pytest.param('A="x \\"=\\" y"', [("A", 'x "=" y')], id="quotes"),
        pytest.param("A=", [("A", "")], id="empty"),
        pytest.param("V=[]", [], id="empty-vector"),
        pytest.param('V=[ # one\nA="# 1", # B=2\n C=3 ]', [("A", "# 1"), ("C", "3")], id="comments-in-a-vector"),
    ],
)
def test_the_pairs_of_a_single_or_vector_attribute_are_returned(attribute: str, pairs: list[tuple[str, str]]) -> None:
    assert pairs_of(attribute) == pairs


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param(
            "A=1\nTraceback (most recent call last):\n", "Traceback (most recent call last):\n", id="traceback"
        ),
        pytest.param('A="open', 'A="open', id="quote-without-end"),
        pytest.param('A="x\\"', 'A="x\\"', id="quote-escaped-away"),
        pytest.param("VM=[ID=1", "VM=[ID=1", id="vector-without-end"),
        pytest.param("VM=[ID=[1]]", "VM=[ID=[1]]", id="vector-in-a-vector"),
        pytest.param("VM=[ID=1 # and its end ]", "VM=[ID=1 # and its end ]", id="comment-over-the-end-of-a-vector"),
        pytest.param("A=1 # the end", "# the end", id="comment-without-line-end"),
        pytest.param("#", "#", id="comment-of-nothing"),
        pytest.param("A=b=c", "=c", id="sign-in-a-bareword"),
        pytest.param('A="]]>"', ']]>"', id="end-of-cdata"),
        pytest.param("A=1\0", "\0", id="nul"),
    ],
)
def test_at_a_syntax_error_the_text_from_the_error_on_is_returned(text: str, place: str) -> None:
    assert split_attributes(text) == place


@given(st.text(alphabet='AB1 =\n",[]#\\x]>', max_size=40))
def test_opennebula_reads_every_text_that_is_split_into_attributes(text: str) -> None:
    found = split_attributes(text)
    if isinstance(found, str):
        return
    refused = ""
    values: Values = {}
    try:
        values = read_template(text)
    except TemplateSyntaxError as error:
        refused = str(error)
    # The tests' reader is stricter than OpenNebula, which renames such attributes, and takes the first of two values.
    assert "stored under another name" in refused or "twice in one vector" in refused or not refused
    assert refused or sum(map(len, values.values())) == len(found)
