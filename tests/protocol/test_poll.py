from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.characters import clean
from one_provider_mad.domain import Usage
from one_provider_mad.protocol.poll import format_poll
from one_provider_mad.protocol.vmm import format_reply, parse_reply
from tests.protocol.cases import any_text, awkward_text, success

USAGE = Usage(cpu=3.0, memory=1048576, net_rx=10, net_tx=20)


class TemplateSyntaxError(Exception):
    """OpenNebula would discard the whole answer."""


class TemplateReader:
    """OpenNebula's template grammar, from 4.14 on, as its scanner and parser define it.

    The scanner has two states, takes the longest match and, among equals, the rule that stands first
    (src/parsers/template_parser.l); the parser knows plain values and flat vectors (template_syntax.y).
    Stricter than the original in one thing: what no rule matches is an error here, there it is skipped.
    """

    OUTSIDE: tuple[tuple[str, str], ...] = (
        ("skip", r"[ \t]*#.*\n"),
        ("skip", r"[ \t\n]+"),
        ("name", r"[A-Za-z0-9_]+"),
        ("equal", r"[ \t]*=[ \t]*"),
        ("equal-empty", r"[ \t]*=[ \t]*\n"),
        ("comma", r"[ \t\n]*,[ \t\n]*"),
        ("close", r"[ \t\n]*\][ \t\n]*"),
    )
    IN_VALUE: tuple[tuple[str, str], ...] = (
        ("open", r"[ \t]*\[[ \t\n]*"),
        ("cdata-end", r".*\]\]>.*"),
        ("quoted", r'"(?:\\"|[^"])*"'),
        ("bareword", r"[^=#\s,\[\]]+"),
    )

    def __init__(self, text: str) -> None:
        self.tokens = list(self.scan(text))
        self.values: dict[str, list[str | dict[str, str]]] = {}

    def scan(self, text: str) -> Any:
        """Yield the tokens."""
        at, rules = 0, self.OUTSIDE
        while at < len(text):
            matches = [(kind, found) for kind, rule in rules if (found := re.compile(rule).match(text, at))]
            if not matches:
                raise TemplateSyntaxError(text[at:])
            kind, found = max(matches, key=lambda match: match[1].end())  # max keeps the first among equals
            at = found.end()
            rules = self.IN_VALUE if kind == "equal" else self.OUTSIDE
            if kind != "skip":
                yield kind, found.group()

    def read(self) -> dict[str, list[str | dict[str, str]]]:
        """Return every name with all its values."""
        while self.tokens:
            name = self.take("name").upper()
            self.take("equal")
            self.values.setdefault(name, []).append(self.value())
        return self.values

    def take(self, *kinds: str) -> str:
        """Take the next token, which must be of one of these kinds."""
        if not self.tokens or self.tokens[0][0] not in kinds:
            raise TemplateSyntaxError(self.tokens[:1])
        return str(self.tokens.pop(0)[1])

    def value(self) -> str | dict[str, str]:
        """Take a value."""
        if self.tokens and self.tokens[0][0] == "open":
            self.take("open")
            vector: dict[str, str] = {}
            while True:
                name = self.take("name").upper()
                self.take("equal")
                vector.setdefault(name, self.plain())
                if self.take("comma", "close").strip() == "]":
                    return vector
        return self.plain()

    def plain(self) -> str:
        """Take a plain value."""
        text = self.take("quoted", "bareword")
        return (text[1:-1] if text.startswith('"') else text).replace('\\"', '"')


def read_modern(text: str) -> dict[str, str]:
    """Read an answer as 4.14 to 5.12 do; it must be plain values, each name once."""
    values = TemplateReader(text).read()
    assert all(len(found) == 1 for found in values.values()), values
    return {name: value for name, (value,) in values.items() if isinstance(value, str)}


def read_legacy(text: str) -> dict[str, str]:
    """Read an answer as releases up to 4.12 do: words `K=V`; one malformed word voids the whole answer."""
    values: dict[str, str] = {}
    for word in re.split("[ \t\n\v\f\r]+", text):
        name, equal, value = word.partition("=")
        if not (name and equal and value):
            raise TemplateSyntaxError(word)
        assert name not in values
        values[name] = value
    return values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('A=1 B="x y" C=""', {"A": ["1"], "B": ["x y"], "C": [""]}),
        ('A = "say \\"hi\\""', {"A": ['say "hi"']}),
        ('V=[ID=0,SIZE=10] a="="', {"V": [{"ID": "0", "SIZE": "10"}], "A": ["="]}),
        ("A=1\n# a comment\nA=2", {"A": ["1", "2"]}),
    ],
)
def test_the_tests_reader_accepts_answers_that_opennebula_accepts(text: str, values: dict[str, Any]) -> None:
    assert TemplateReader(text).read() == values


@pytest.mark.parametrize("text", ['A="x\\" B="y"', 'A="]]>"', "A=a=b", "A=x y", "A=", 'A="x y', "A=[B=1", "=1", "A=1,"])
def test_the_tests_reader_refuses_answers_that_opennebula_refuses(text: str) -> None:
    with pytest.raises(TemplateSyntaxError):
        TemplateReader(text).read()


# Answers


def test_a_poll_answer_from_4_14_on_has_quoted_attributes() -> None:
    text = format_poll("a", USAGE, {"AWS_PUBLIC_IP_ADDRESS": "203.0.113.9"}, is_legacy=False)
    assert text == 'STATE=a CPU=3.0 MEMORY=1048576 NETRX=10 NETTX=20 AWS_PUBLIC_IP_ADDRESS="203.0.113.9"'


def test_a_poll_answer_up_to_4_12_has_plain_words() -> None:
    text = format_poll("a", USAGE, {"IPADDRESS": "203.0.113.9", "NAMED": "two words"}, is_legacy=True)
    assert text == "STATE=a USEDCPU=3 USEDMEMORY=1048576 NETRX=10 NETTX=20 IPADDRESS=203.0.113.9"


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_poll_answer_without_usage_figures_has_only_the_state(*, is_legacy: bool) -> None:
    assert format_poll("d", None, {}, is_legacy=is_legacy) == "STATE=d"


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize(
    ("letter", "written"),
    [("a", "a"), ("p", "p"), ("e", "e"), ("d", "d"), ("-", "-"), ("", "-"), ("x", "-"), ("A", "-"), ('a B="', "-")],
)
def test_an_unknown_state_letter_is_written_as_a_dash(letter: str, written: str, *, is_legacy: bool) -> None:
    assert format_poll(letter, None, {}, is_legacy=is_legacy) == f"STATE={written}"


@pytest.mark.parametrize(
    ("usage", "modern", "legacy"),
    [
        pytest.param(Usage(), "CPU=0.0 MEMORY=0", "USEDCPU=0 USEDMEMORY=0", id="idle"),
        pytest.param(Usage(cpu=150.256), "CPU=150.26 MEMORY=0", "USEDCPU=150 USEDMEMORY=0", id="fraction"),
        pytest.param(Usage(cpu=7), "CPU=7.0 MEMORY=0", "USEDCPU=7 USEDMEMORY=0", id="whole-number"),
        pytest.param(Usage(cpu=-1.0, memory=-5), "CPU=0.0 MEMORY=0", "USEDCPU=0 USEDMEMORY=0", id="negative"),
        pytest.param(Usage(cpu=float("nan")), "CPU=0.0 MEMORY=0", "USEDCPU=0 USEDMEMORY=0", id="not-a-number"),
        pytest.param(Usage(cpu=float("inf")), "CPU=0.0 MEMORY=0", "USEDCPU=0 USEDMEMORY=0", id="infinite"),
        pytest.param(
            Usage(memory=2**40), "CPU=0.0 MEMORY=1099511627776", "USEDCPU=0 USEDMEMORY=1099511627776", id="large"
        ),
    ],
)
def test_usage_figures_are_written_as_finite_numbers_of_at_least_zero(usage: Usage, modern: str, legacy: str) -> None:
    assert format_poll("a", usage, {}, is_legacy=False) == f"STATE=a {modern} NETRX=0 NETTX=0"
    assert format_poll("a", usage, {}, is_legacy=True) == f"STATE=a {legacy} NETRX=0 NETTX=0"


@pytest.mark.parametrize(
    ("value", "written"),
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
    ],
)
def test_an_attribute_value_is_quoted_so_that_opennebula_reads_it(value: str, written: str) -> None:
    text = format_poll("a", None, {"NOTE": value}, is_legacy=False)
    assert text == f'STATE=a NOTE="{written}"'
    assert read_modern(text) == {"STATE": "a", "NOTE": written}


def test_up_to_4_12_commas_of_a_list_are_written_as_plus_signs() -> None:
    volumes = "/dev/xvda:vol-0a1,/dev/sdf:vol-0b2"
    assert format_poll("a", None, {"AWS_VOLUMES": volumes}, is_legacy=False) == f'STATE=a AWS_VOLUMES="{volumes}"'
    assert format_poll("a", None, {"AWS_VOLUMES": volumes}, is_legacy=True) == (
        "STATE=a AWS_VOLUMES=/dev/xvda:vol-0a1+/dev/sdf:vol-0b2"
    )


def test_an_attribute_of_several_lines_is_joined_into_one_in_the_reply() -> None:
    info = format_poll("a", None, {"NOTE": "one\ntwo", "PATH": "C:\\"}, is_legacy=False)
    line = format_reply(success("POLL", 1, info))
    assert line == b'POLL SUCCESS 1 STATE=a NOTE="one two" PATH="C:\\ "\n'


@pytest.mark.parametrize("value", ["", " ", "\n", "\x00"])
@pytest.mark.parametrize("is_legacy", [False, True])
def test_an_attribute_with_an_empty_value_is_left_out(value: str, *, is_legacy: bool) -> None:
    assert format_poll("a", None, {"NOTE": value}, is_legacy=is_legacy) == "STATE=a"


@pytest.mark.parametrize("value", ["a b", 'a"b', "a=b", "a#b", "a[b", "a]b", "a\\b", "a\tb", "é", "a'b", "a\n"])
def test_up_to_4_12_an_attribute_that_is_no_plain_word_is_left_out(value: str) -> None:
    assert format_poll("a", None, {"NOTE": value, "IP": "10.0.0.1"}, is_legacy=True) == "STATE=a IP=10.0.0.1"


@pytest.mark.parametrize(
    "value", ["10.0.0.1", "fe80::1", "i-0f3a", "t2.micro", "http://x/y?".rstrip("?"), "a_b~c+d@e%f"]
)
def test_up_to_4_12_an_attribute_that_is_a_plain_word_is_written(value: str) -> None:
    assert format_poll("a", None, {"NOTE": value}, is_legacy=True) == f"STATE=a NOTE={value}"


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("name", ["", "1ST", "TWO WORDS", "A-B", "A=B", "A\n", "Ü", "ß", "ſ", "A\x00", "A]"])
def test_an_attribute_with_an_invalid_name_is_left_out(name: str, *, is_legacy: bool) -> None:
    assert format_poll("a", None, {name: "x"}, is_legacy=is_legacy) == "STATE=a"


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        *("STATE", "CPU", "MEMORY", "NETRX", "NETTX", "USEDCPU", "USEDMEMORY", "USED_ANYTHING", "state", "cpu"),
        *("ID", "DEPLOY_ID", "NAME", "VMID", "TEMPLATE_ID", "UID", "CONTEXT", "DISK", "NIC", "OS", "VCPU", "ERROR"),
        *("AUTOMATIC_REQUIREMENTS", "SCHED_RANK", "TM_MAD_SYSTEM", "PUBLIC_CLOUD"),
    ],
)
def test_an_attribute_with_a_name_that_opennebula_uses_is_left_out(name: str, *, is_legacy: bool) -> None:
    assert format_poll("a", None, {name: "x"}, is_legacy=is_legacy) == "STATE=a"


@pytest.mark.parametrize(("is_legacy", "written"), [(False, 'IP="1"'), (True, "IP=1")])
def test_an_attribute_name_is_written_once_in_upper_case(written: str, *, is_legacy: bool) -> None:
    assert format_poll("a", None, {"ip": "1", "IP": "2", "Ip": "3"}, is_legacy=is_legacy) == f"STATE=a {written}"


figures = st.none() | st.builds(
    Usage,
    cpu=st.floats(),
    memory=st.integers(),
    net_rx=st.integers(),
    net_tx=st.integers(),
)
names = st.sampled_from(["IP", "ip", "AWS_TYPE", "STATE", "_X", "X1"]) | any_text
syntax_text = st.lists(st.sampled_from(["\\", '"', "]]", ">", "=", "#", ",", "[", "]", " ", "\n", "'"]) | any_text).map(
    "".join
)
any_attributes = st.dictionaries(
    names, syntax_text | awkward_text | st.from_regex(r"[a-z0-9.:-]+", fullmatch=True), max_size=6
)


@given(letter=st.sampled_from("aped-"), usage=figures, attributes=any_attributes)
def test_any_poll_answer_from_4_14_on_is_readable_and_has_only_given_attributes(
    letter: str, usage: Usage | None, attributes: dict[str, str]
) -> None:
    text = format_poll(letter, usage, attributes, is_legacy=False)
    values = read_modern(text)
    assert values.pop("STATE") == letter
    if usage is not None:
        assert all(float(values.pop(name)) >= 0 for name in ("CPU", "MEMORY", "NETRX", "NETTX"))
    assert values.keys() <= {name.upper() for name in attributes}
    assert all(value and not re.search('"|]]>', value) for value in values.values())


@given(letter=st.sampled_from("aped-"), usage=figures, attributes=any_attributes)
def test_any_poll_answer_up_to_4_12_is_readable_and_has_only_given_attributes(
    letter: str, usage: Usage | None, attributes: dict[str, str]
) -> None:
    values = read_legacy(format_poll(letter, usage, attributes, is_legacy=True))
    assert values.pop("STATE") == letter
    if usage is not None:
        assert all(int(values.pop(name)) >= 0 for name in ("USEDCPU", "USEDMEMORY", "NETRX", "NETTX"))
    assert set(values.values()) <= {value.replace(",", "+") for value in attributes.values()}
    assert values.keys() <= {name.upper() for name in attributes}


@given(letter=any_text, usage=figures, attributes=any_attributes, is_legacy=st.booleans())
def test_any_poll_answer_is_unchanged_in_the_reply_but_for_its_joined_lines(
    letter: str, usage: Usage | None, attributes: dict[str, str], *, is_legacy: bool
) -> None:
    text = format_poll(letter, usage, attributes, is_legacy=is_legacy)
    line = clean(text)
    assert line == text or "\n" in text
    assert parse_reply(format_reply(success("POLL", 42, text))) == success("POLL", 42, line)
    if not is_legacy:
        written, kept = read_modern(line), read_modern(text)
        assert {name: value.split() for name, value in written.items()} == {
            name: value.split() for name, value in kept.items()
        }
