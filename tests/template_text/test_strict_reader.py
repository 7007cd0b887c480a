"""Template text as users write it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from one_provider_mad.template_text.strict_reader import TemplateError, read_template

GUIDE = """\
# The guide's template
CPU    = 1   # one core
MEMORY = "256"

PUBLIC_CLOUD = [
  TYPE = "provider_name",          # which cloud
  PROVIDER_IMAGE_ID = id-141234, PROVIDER_INSTANCE_TYPE = "small_256mb"
]
DISK=[IMAGE_ID=1] DISK=[IMAGE_ID=2]
description="two
lines, [with] = # \\"everything\\" and a \\ in them"
"""


def test_template_with_comments_vectors_and_quotes_is_parsed() -> None:
    template = read_template(GUIDE)
    assert template.text("CPU") == "1"
    assert template.text("MEMORY") == "256"
    section = {"TYPE": "provider_name", "PROVIDER_IMAGE_ID": "id-141234", "PROVIDER_INSTANCE_TYPE": "small_256mb"}
    assert template.vectors("PUBLIC_CLOUD") == (section,)
    assert template.vectors("DISK") == ({"IMAGE_ID": "1"}, {"IMAGE_ID": "2"})
    assert template.text("DESCRIPTION") == 'two\nlines, [with] = # "everything" and a \\ in them'


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param(" \n\t# only this\n", {}, id="comment only"),
        pytest.param("A=1 B=2", {"A": ("1",), "B": ("2",)}, id="two on a line"),
        pytest.param("A=\nB=2", {"A": ("",), "B": ("2",)}, id="empty to the end of the line"),
        pytest.param("A=", {"A": ("",)}, id="empty to the end of the text"),
        pytest.param("A= # none\nB=2", {"A": ("",), "B": ("2",)}, id="empty before a comment"),
        pytest.param('A=""', {"A": ("",)}, id="empty quotes"),
        pytest.param("A=1\r\nB=[C=2,\r\nD=3]\r\n", {"A": ("1",), "B": ({"C": "2", "D": "3"},)}, id="line ends of DOS"),
        pytest.param("A=[]", {"A": ({},)}, id="empty vector"),
        pytest.param("A=[B=1,b=2]", {"A": ({"B": "1"},)}, id="the first of two keys wins"),
        pytest.param("A=1 a=2", {"A": ("1", "2")}, id="both of two attributes stay"),
        pytest.param("1ST=1 XMLA=2", {"ONE_1ST": ("1",), "ONE_XMLA": ("2",)}, id="names that XML cannot have"),
        pytest.param("A=10.0.0.1/24:i-0f3a", {"A": ("10.0.0.1/24:i-0f3a",)}, id="a bare word"),
        pytest.param('A="é–\U0001f600"', {"A": ("é–\U0001f600",)}, id="any letters"),
    ],
)
def test_template_text_is_parsed_as_opennebula_does(text: str, values: Mapping[str, tuple[object, ...]]) -> None:
    assert read_template(text).values == values


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("CPU=1\nMEMORY 256", "line 2: MEMORY has no = after it; a value with blanks needs quotes"),
        ("A=one two", "line 1: two has no = after it; a value with blanks needs quotes"),
        ("A=[B=one two]", "line 1: expected , or ] in A, got 'two]'"),
        ("\n\n=1", "line 3: expected a name, got '=1'"),
        ("A=[\n B=1,\n]", "line 3: expected a name in A, got ']'"),
        ("A=[B=1", "line 1: the [ of A is never closed"),
        ("A=[B=1,", "line 1: expected a name in A, got the end of the text"),
        ("A=[\nB=[C=1]]", 'line 2: B has no value; write B="" for an empty one'),
        ('A="x\ny', 'line 1: the quotes of A are never closed (\\" is a quote inside them)'),
        ('A="x\\"', 'line 1: the quotes of A are never closed (\\" is a quote inside them)'),
        ('A="x"B=1', "line 1: the value of A is followed by 'B=1': put the whole value in quotes"),
        ("A=b=c", "line 1: the value of A is followed by '=c': put the whole value in quotes"),
        ("K=$USER[SSH]", "line 1: the value of K is followed by '[SSH]': put the whole value in quotes"),
        ("A=[B=\nC=1]", 'line 1: B has no value; write B="" for an empty one'),
        ("A=,", 'line 1: A has no value; write A="" for an empty one'),
        ("A=[1B=2]", "line 1: the name 1B must begin with a letter or _, and not with XML"),
        ("1V=[B=2]", "line 1: the name 1V must begin with a letter or _, and not with XML"),
        ("A=1\nB=\x07", "line 2: the character '\\x07' cannot stand in a template"),
        ('A=1\nB="]]>"', "line 2: OpenNebula's parser refuses the characters ]]> even in quotes"),
        ("A.B=1", "line 1: A has no = after it; a value with blanks needs quotes"),
    ],
)
def test_syntax_error_is_one_sentence_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(TemplateError) as caught:
        read_template(text)
    assert str(caught.value) == sentence


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet='AB=[]",# \n\\1]>')))
def test_any_text_is_parsed_or_refused_with_a_line(text: str) -> None:
    try:
        template = read_template(text)
    except TemplateError as error:
        assert 1 <= error.line <= text.count("\n") + 1  # noqa: PT017 - both ends are fine
    else:
        assert all(isinstance(value, (str, Mapping)) for values in template.values.values() for value in values)


_names = st.text("ABMZ_", min_size=1, max_size=6)
_forbidden = [*map(chr, range(32)), "\x7f", "\ufffe", "\uffff"]
_characters = st.characters(codec="utf-8", exclude_characters=_forbidden)
_texts = st.text(_characters | st.sampled_from('\n\t"[]=,#\\')).filter(
    lambda text: not text.endswith("\\") and "]]>" not in text
)
_vectors = st.dictionaries(_names, _texts, max_size=4)
_templates = st.dictionaries(_names, st.lists(_texts | _vectors, min_size=1, max_size=3).map(tuple), max_size=5)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def written(values: Mapping[str, tuple[str | Mapping[str, str], ...]]) -> str:
    """Template text in which every value is quoted."""
    lines = []
    for name, several in values.items():
        for value in several:
            if isinstance(value, str):
                lines.append(f"{name} = {quoted(value)}")
            else:
                pairs = ", ".join(f"{key}={quoted(text)}" for key, text in value.items())
                lines.append(f"{name} = [ {pairs} ]  # a vector")
    return "\n".join(lines)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_templates)
def test_quoted_values_are_parsed_unchanged(values: dict[str, tuple[str | Mapping[str, str], ...]]) -> None:
    assert read_template(written(values)).values == values
