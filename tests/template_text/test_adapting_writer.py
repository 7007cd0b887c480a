from __future__ import annotations

import base64
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.template_text.adapting_writer import attribute, fit_name, fit_value, in_base64, lines, vector
from tests.monitor.decoder import TemplateSyntaxError, Values, read_template
from tests.protocol.cases import any_text, awkward_text

# The tests' own reader


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param('A=1 B="x y"\n', {"A": ["1"], "B": ["x y"]}, id="plain"),
        pytest.param('a = "say \\"hi\\""', {"A": ['say "hi"']}, id="escaped-quotes-and-lower-case"),
        pytest.param(
            'V=[ID=0,SIZE=10]\nV=[\n  ID = "1" ]', {"V": [{"ID": "0", "SIZE": "10"}, {"ID": "1"}]}, id="vector"
        ),
        pytest.param('A="= # , [ ]"', {"A": ["= # , [ ]"]}, id="anything-between-quotes"),
        pytest.param("A=1\n# a comment\nA=2", {"A": ["1", "2"]}, id="comment"),
        pytest.param("A=\nB=i-0f3a", {"A": [""], "B": ["i-0f3a"]}, id="empty-and-bareword"),
        pytest.param("", {}, id="nothing"),
    ],
)
@pytest.mark.parametrize("is_old", [False, True], ids=["4.14", "4.12"])
def test_the_tests_reader_accepts_templates_that_opennebula_accepts(text: str, values: Values, *, is_old: bool) -> None:
    assert read_template(text, is_old=is_old) == values


@pytest.mark.parametrize(
    "text",
    [
        *('A="x\\" B="y"', "A=a=b", "A=x y", "A=", 'A="x y', "A=[B=1", "=1", "A=1,", "A=a,b", "A=[B=[C=1]]"),
        *('A="]]>"', 'A="x\x00"', "1A=1", "XML=1", "A=[B=1,B=2]", "A=[B=1]]>"),
    ],
)
def test_the_tests_reader_refuses_templates_that_opennebula_refuses(text: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        read_template(text)


def test_the_tests_reader_refuses_empty_values_as_old_releases_do() -> None:
    assert read_template('A="" B=[]') == {"A": [""], "B": [{}]}
    with pytest.raises(TemplateSyntaxError):
        read_template("B=[]", is_old=True)
    with pytest.raises(TemplateSyntaxError):
        read_template('A=""', is_old=True)


# Names


@pytest.mark.parametrize(
    ("name", "fit"),
    [("CPU", "CPU"), ("cpu", "CPU"), ("_x", "_X"), ("A1_2", "A1_2")],
)
def test_an_attribute_name_is_written_in_upper_case(name: str, fit: str) -> None:
    assert fit_name(name) == fit


@pytest.mark.parametrize(
    "name", ["", "1ST", "A B", "A-B", "A=B", "A\n", "A]", "A\x00", "Ü", "ß", "ſ", "XMLNS", "xml", "aws:name"]
)
def test_an_invalid_attribute_name_is_left_out(name: str) -> None:
    assert fit_name(name) == ""
    assert attribute(name, "x") == ""
    assert vector(name, {"A": "x"}) == ""
    assert vector("V", {name: "x", "B": "y"}) == 'V=[B="y"]'


# Values


@pytest.mark.parametrize(
    ("value", "fit"),
    [
        pytest.param("two words", "two words", id="blank"),
        pytest.param("a=b,c[d]#e", "a=b,c[d]#e", id="characters-that-need-quotes"),
        pytest.param('say "hi"', "say 'hi'", id="double-quotes"),
        pytest.param("C:\\temp", "C:\\temp", id="backslashes"),
        pytest.param("C:\\temp\\", "C:\\temp\\ ", id="backslash-before-the-quote"),
        pytest.param('\\"', "\\'", id="an-escape"),
        pytest.param("a]]>b", "a]] >b", id="cdata-end"),
        pytest.param("a]]\\>b", "a]]\\>b", id="no-cdata-end"),
        pytest.param("a\tb\x00c\r\n", "a b c", id="controls"),
        pytest.param(" two\r\n\nlines \n", "two\n\nlines", id="lines"),
        pytest.param("grüße\ud800", "grüße?", id="surrogate"),
        pytest.param("  x  ", "x", id="blanks-around"),
        pytest.param(" \n\x00\n", "", id="nothing-left"),
    ],
)
def test_a_value_is_changed_into_one_that_the_template_grammar_can_hold(value: str, fit: str) -> None:
    assert fit_value(value) == fit
    assert attribute("NOTE", value) == (f'NOTE="{fit}"' if fit else "")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param(0, 'N="0"', id="zero-is-a-value"),
        pytest.param(-1, 'N="-1"', id="negative"),
        pytest.param(2**40, 'N="1099511627776"', id="large"),
        pytest.param(1.5, 'N="1.5"', id="fraction"),
        pytest.param(0.1 + 0.2, 'N="0.3"', id="rounded"),
        pytest.param(2.0, 'N="2"', id="whole"),
        pytest.param(100.0, 'N="100"', id="zeros-before-the-dot-stay"),
        pytest.param(1e20, 'N="100000000000000000000"', id="no-exponent"),
        pytest.param(float("nan"), "", id="not-a-number"),
        pytest.param(float("inf"), "", id="infinite"),
    ],
)
def test_a_number_is_written_without_exponent_or_rounding_errors(value: float, written: str) -> None:
    assert attribute("N", value) == written


def test_empty_values_are_left_out_of_a_vector_and_an_empty_vector_is_not_written() -> None:
    assert vector("VM", {"ID": 42, "NOTE": "", "STATE": "RUNNING"}) == 'VM=[ID="42",STATE="RUNNING"]'
    assert vector("VM", {"NOTE": ""}) == ""
    assert vector("VM", {}) == ""


def test_a_key_of_a_vector_is_written_once_regardless_of_case() -> None:
    assert read_template(vector("V", {"ip": "1", "IP": "2"})) == {"V": [{"IP": "1"}]}


def test_attributes_are_written_one_per_line() -> None:
    assert lines(attribute("A", 1), attribute("B", ""), vector("V", {"C": "x"})) == 'A="1"\nV=[C="x"]\n'
    assert lines() == ""


@pytest.mark.parametrize("text", ["", 'NAME="x"\n', "grüße", "x" * 300])
def test_a_text_in_base64_decodes_to_itself(text: str) -> None:
    encoded = in_base64(text)
    assert base64.b64decode(encoded, validate=True).decode() == text


names = any_text | st.sampled_from(["A", "a", "B", "_", "X1", "XMLA", "KEY"])
values = (
    st.lists(st.sampled_from(["\\", '"', "]]", ">", "=", "#", ",", "[", "]", " ", "\n", "'"]) | any_text).map("".join)
    | awkward_text
    | st.integers()
    | st.floats()
)


@pytest.mark.parametrize("is_old", [False, True], ids=["4.14", "4.12"])
@given(plain=st.lists(st.tuples(names, values), max_size=5), keys=st.dictionaries(names, values, max_size=5))
def test_any_written_template_is_read_back_with_the_same_values(
    plain: list[tuple[str, str | float]], keys: dict[str, str | float], *, is_old: bool
) -> None:
    text = lines(*(attribute(name, value) for name, value in plain), vector("THE_VECTOR", keys))
    found = read_template(text, is_old=is_old)
    vectors = found.pop("THE_VECTOR", [])
    assert found == expected_values(plain)
    assert vectors == (
        [{name: several[0] for name, several in expected.items()}]
        if (expected := expected_values(keys.items()))
        else []
    )


def expected_values(pairs: Iterable[tuple[str, str | float]]) -> dict[str, list[str]]:
    """Every valid name with its values that are not empty, as written."""
    expected: dict[str, list[str]] = {}
    for name, value in pairs:
        text = (
            fit_value(value) if isinstance(value, str) else attribute("N", value).removeprefix('N="').removesuffix('"')
        )
        if fit_name(name) and text:
            expected.setdefault(fit_name(name), []).append(text)
    return expected
