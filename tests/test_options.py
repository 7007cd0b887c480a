from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.options import Options, parse_arguments

PACKED = "-t 15 -r 0 provider_name"

UNDERSTOOD = [
    pytest.param([PACKED], Options(name="provider_name"), id="packed"),
    pytest.param(["-t", "15", "-r", "0", "provider_name"], Options(name="provider_name"), id="split"),
    pytest.param(["-t 15", "-r 0 ec2"], Options(name="ec2"), id="half-packed"),
    pytest.param(["  -t\t7 \n ec2  "], Options(name="ec2", threads=7), id="all-blanks"),
    pytest.param(["ec2 -t 7"], Options(name="ec2", threads=7), id="name-first"),
    pytest.param(["-t 7 ec2 -r 2"], Options(name="ec2", threads=7, retries=2), id="name-between"),
    pytest.param(["-t7 -r2 -w9 ec2"], Options(name="ec2", threads=7, retries=2, timeout=9.0), id="attached"),
    pytest.param(["--threads 7 --retries 2 ec2"], Options(name="ec2", threads=7, retries=2), id="long"),
    pytest.param(["--threads=7 --timeout=2.5 ec2"], Options(name="ec2", threads=7, timeout=2.5), id="long-equals"),
    pytest.param(["--thr 7 --ret=2 --ti 9 ec2"], Options(name="ec2", threads=7, retries=2, timeout=9.0), id="prefix"),
    pytest.param(["-w 0 ec2"], Options(name="ec2", timeout=0.0), id="no-timeout"),
    pytest.param(["-w 600 -p ec2"], Options(name="ec2", timeout=600.0, is_parallel=True), id="upstream-ec2"),
    pytest.param(["-pi ec2"], Options(name="ec2", is_parallel=True, is_live_snapshots=True), id="bundled"),
    pytest.param(["-pt7 ec2"], Options(name="ec2", is_parallel=True, threads=7), id="bundled-with-number"),
    pytest.param(["-pt 7 ec2"], Options(name="ec2", is_parallel=True, threads=7), id="bundled-then-number"),
    pytest.param(["--par --live ec2"], Options(name="ec2", is_parallel=True, is_live_snapshots=True), id="flag-prefix"),
    pytest.param(["-c -t 1 -r 0 ec2"], Options(name="ec2", threads=1, is_force_copy=True), id="upstream-information"),
    pytest.param(["-l deploy,poll=x ec2"], Options(name="ec2", local_actions="deploy,poll=x"), id="local"),
    pytest.param(["--local=a --loc b ec2"], Options(name="ec2", local_actions="b"), id="last-list-wins"),
    pytest.param(["-l -p ec2"], Options(name="ec2", local_actions="-p"), id="required-value-takes-anything"),
    pytest.param(["-d migrate ec2"], Options(name="ec2", delegate="migrate"), id="delegate"),
    pytest.param(["--default-snapshots detach ec2"], Options(name="ec2", delegate="detach"), id="default-snapshots"),
    pytest.param(["--de=migrate ec2"], Options(name="ec2", delegate="migrate"), id="prefix-of-two-names-of-one-option"),
    pytest.param(["-s bash ec2"], Options(name="ec2", shell="bash"), id="shell"),
    pytest.param(["--proxy http://p:1 ec2"], Options(name="ec2", proxy="http://p:1"), id="proxy"),
    pytest.param(["--proxy=http://p:1/?a=b ec2"], Options(name="ec2", proxy="http://p:1/?a=b"), id="proxy-equals"),
    pytest.param(["-t 7 -- -ec2"], Options(name="-ec2", threads=7), id="end-of-options"),
    pytest.param(["-"], Options(name="-"), id="lone-dash-is-a-word"),
    pytest.param(["-r 3 'ec2'"], Options(name="'ec2'", retries=3), id="quotes-are-kept"),
    pytest.param(["*"], Options(name="*"), id="no-file-name-expansion"),
]

ODD = [
    pytest.param([], Options(), "have no NAME", id="absent"),
    pytest.param([""], Options(), "have no NAME", id="empty"),
    pytest.param(["  \t "], Options(), "have no NAME", id="blank"),
    pytest.param(["-t ec2"], Options(name="ec2"), "'-t' needs a number, got nothing", id="name-is-not-swallowed"),
    pytest.param(["-t -p ec2"], Options(name="ec2", is_parallel=True), "'-t' needs a number", id="option-follows"),
    pytest.param(["ec2 -r"], Options(name="ec2"), "'-r' needs a number, got nothing", id="number-missing-at-the-end"),
    pytest.param(["-tmany ec2"], Options(name="ec2"), "'-t' needs a number, got 'many'", id="no-number"),
    pytest.param(["--retries=-1 ec2"], Options(name="ec2"), "'--retries' needs a number, got '-1'", id="below-zero"),
    pytest.param(["-t 0 ec2"], Options(name="ec2"), "'-t' must be at least 1, got '0'", id="no-threads"),
    pytest.param(["-t 1.5 ec2"], Options(name="ec2"), "needs a whole number, got '1.5'", id="half-a-thread"),
    pytest.param(["-t" + "9" * 5000 + " ec2"], Options(name="ec2"), "needs a number", id="endless-number"),
    pytest.param(["-t\u0661 ec2"], Options(name="ec2"), r"got '\u0661'", id="digits-of-another-script"),
    pytest.param(["-x ec2"], Options(name="ec2"), "'-x' is unknown", id="unknown-letter"),
    pytest.param(["-xp ec2"], Options(name="ec2", is_parallel=True), "'-x' is unknown", id="unknown-letter-bundled"),
    pytest.param(["--unheard=of ec2"], Options(name="ec2"), "'--unheard' is unknown", id="unknown-word"),
    pytest.param(["--=5 ec2"], Options(name="ec2"), "'--' is unknown", id="no-word"),
    pytest.param(["--t 5 --p ec2"], Options(name="ec2"), "may mean --threads or --timeout", id="ambiguous"),
    pytest.param(["--parallel=no ec2"], Options(name="ec2", is_parallel=True), "takes no value", id="flag-with-value"),
    pytest.param(["ec2 -l"], Options(name="ec2"), "'-l' needs a value", id="value-missing"),
    pytest.param(["other ec2"], Options(name="ec2"), "'ec2' is served, 'other' is not", id="two-names"),
    pytest.param(["--unheard of ec2"], Options(name="ec2"), "'of' is not", id="value-of-an-unknown-option"),
    pytest.param(["\udcff ec2"], Options(name="ec2"), r"'\udcff' is not", id="bytes-that-are-no-text"),
]


@pytest.mark.parametrize(("argv", "expected"), UNDERSTOOD)
def test_upstream_arguments_are_parsed(argv: list[str], expected: Options) -> None:
    assert parse_arguments(argv) == expected


@pytest.mark.parametrize(("argv", "expected", "words"), ODD)
def test_an_invalid_argument_causes_a_warning_and_the_other_arguments_are_parsed(
    argv: list[str], expected: Options, words: str
) -> None:
    options = parse_arguments(argv)
    assert words in " | ".join(options.warnings)
    assert [*map(str.isascii, options.warnings)] == [True] * len(options.warnings)
    plain = {**vars(options), "warnings": ()}
    assert Options(**plain) == expected


WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["-t", "-r", "-w", "-l", "-d", "-s", "-p", "-i", "-c", "-pt", "--", "--thr", "--ti=3", "--lo", "15", "x"]
    ),
)


@given(st.lists(WORDS, max_size=8))
def test_random_arguments_never_raise(argv: list[str]) -> None:
    options = parse_arguments(argv)
    assert options.threads >= 1
    assert options.retries >= 0
    assert options.timeout is None or options.timeout >= 0
    assert not set(options.name) & set(" \t\n")
    assert all(warning and warning.isascii() and "\n" not in warning for warning in options.warnings)
    assert options.name or options.warnings


@given(st.lists(WORDS, max_size=8))
def test_packed_and_split_arguments_mean_the_same(argv: list[str]) -> None:
    assert parse_arguments([" ".join(argv)]) == parse_arguments(argv)
