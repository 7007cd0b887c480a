"""`one-provider cost`, from ledgers as the information driver writes them, at a time of our own."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from one_provider_mad.cli.main import main
from one_provider_mad.costs.periods import DAY, read_moment
from one_provider_mad.domain import VmOwner
from one_provider_mad.journal.writer import Journal
from one_provider_mad.ledger.records import Span
from one_provider_mad.ledger.writer import write_spans
from one_provider_mad.orphans.reconciler import ORPHANS
from tests.end_to_end.oned import aside

HOUR = 3600.0
DECEMBER = read_moment("2026-12", now=0.0)
NOW = DECEMBER + 10 * DAY
ADA = VmOwner(user_id=3, user="ada", group_id=1, group="users")
BOB = VmOwner(user_id=4, user="bob", group_id=100, group="students")

WEB = Span(
    name="sky", thing="i-1", vm_id=7, stime=50, owner=ADA, type_name="m5.large", market="on-demand", state="running",
    begin=DECEMBER - 2 * DAY, end=DECEMBER + 5 * DAY, amount=0.1, known=0.1, currency="USD",
)  # fmt: skip
SPANS = (
    WEB,
    replace(WEB, state="stopped", begin=WEB.end, end=NOW, is_open=True, amount=0.01, known=0.01),
    replace(
        WEB, thing="i-2", vm_id=8, owner=BOB, type_name="p9.huge", market="spot", begin=DECEMBER + 9 * DAY, end=NOW,
        is_open=True, amount=None, known=0.005,
    ),
    replace(
        WEB, thing="i-3", vm_id=9, owner=BOB, begin=DECEMBER + DAY, end=DECEMBER + 2 * DAY, is_seen=False,
    ),
    replace(
        WEB, thing="vol-1", kind="volume", vm_id=-1, stime=0, owner=VmOwner(), type_name="", market="", state="",
        begin=DECEMBER, end=NOW, is_open=True, amount=0.002, known=0.002,
    ),
)  # fmt: skip

Shown = Callable[..., str]


@pytest.fixture
def var(tmp_path: Path) -> Path:
    folder = tmp_path / "var"
    folder.mkdir()
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    for name in ("sky", "two"):
        (conf / f"{name}.toml").write_text('provider = "simulated"\nowner = "me"\n')
    return folder


@pytest.fixture
def shown(var: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """The output of the command at NOW."""
    monkeypatch.setattr("one_provider_mad.cli.cost.time.time", lambda: NOW)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["cost", *arguments], env={"ONE_LOCATION": str(var.parent)})
        assert done.exit_code == code, done.output
        return done.output

    return run


@pytest.fixture
def booked(var: Path) -> None:
    write_spans(var / "one_provider_mad_sky.ledger", "sky", SPANS, as_of=NOW)


REMARKS = """
Where a ? stands, a part of the price is unknown, and the figure before it is the known part: a price in [prices] of\
 the configuration closes this gap from then on (p9.huge).

2.40 USD of it is assumed: for some time the information driver saw nothing, and the state and price from before are\
 taken to have lasted.
"""
TITLE = "Costs at 2026-12-11 00:00:00 UTC, month 2026-12 of UTC, total from the ledger's begin, in USD\n\n"

TABLES = {
    "what": """\
WHAT                    NOW/HOUR  THIS MONTH  FORECAST  TOTAL
running instances       0.0050+?     14.52+?   17.04+?  19.32+?
stopped instances       0.0100        1.20      6.24     1.20
volumes in no instance  0.0020        0.48      1.49     0.48
all                     0.0170+?     16.20+?   24.77+?  21.00+?
""",
    "vm": """\
VM   USER  GROUP     NOW/HOUR  THIS MONTH  FORECAST  TOTAL
7    ada   users     0.0100       13.20     18.24    18.00
8    bob   students  0.0050+?      0.12+?    2.64+?   0.12+?
9    bob   students  0.0000        2.40      2.40     2.40
-    -     -         0.0020        0.48      1.49     0.48
all                  0.0170+?     16.20+?   24.77+?  21.00+?
""",
    "user": """\
USER  NOW/HOUR  THIS MONTH  FORECAST  TOTAL
ada   0.0100       13.20     18.24    18.00
bob   0.0050+?      2.52+?    5.04+?   2.52+?
-     0.0020        0.48      1.49     0.48
all   0.0170+?     16.20+?   24.77+?  21.00+?
""",
    "group": """\
GROUP     NOW/HOUR  THIS MONTH  FORECAST  TOTAL
users     0.0100       13.20     18.24    18.00
students  0.0050+?      2.52+?    5.04+?   2.52+?
-         0.0020        0.48      1.49     0.48
all       0.0170+?     16.20+?   24.77+?  21.00+?
""",
    "type": """\
TYPE            NOW/HOUR  THIS MONTH  FORECAST  TOTAL
m5.large        0.0100       15.60     20.64    20.40
p9.huge (spot)  0.0050+?      0.12+?    2.64+?   0.12+?
volume          0.0020        0.48      1.49     0.48
all             0.0170+?     16.20+?   24.77+?  21.00+?
""",
    "name": """\
NAME  NOW/HOUR  THIS MONTH  FORECAST  TOTAL
sky   0.0170+?     16.20+?   24.77+?  21.00+?
""",
    "day": """\
DAY         TOTAL
2026-12-01   2.45
2026-12-02   4.85
2026-12-03   2.45
2026-12-04   2.45
2026-12-05   2.45
2026-12-06   0.29
2026-12-07   0.29
2026-12-08   0.29
2026-12-09   0.29
2026-12-10   0.41+?
all         16.20+?
""",
}


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize("by", list(TABLES))
def test_the_tables_of_a_month(shown: Shown, by: str) -> None:
    title = TITLE if by != "day" else "Costs by day of UTC, total from 2026-12-01 00:00:00 UTC, in USD\n\n"
    assert shown("sky", "--by", by) == title + TABLES[by] + REMARKS


NAMES = (
    *("vm", "user", "group", "currency", "hour", "hour_known", "month", "month_known", "month_assumed"),
    *("forecast", "forecast_known", "total", "total_known", "total_assumed"),
)


@pytest.mark.usefixtures("booked")
def test_csv_has_the_amounts_of_each_row_and_nothing_for_an_unknown_one(shown: Shown) -> None:
    assert shown("sky", "--by", "vm", "--csv").splitlines() == [
        ",".join(NAMES),
        "7,ada,users,USD,0.01,0.01,13.2,13.2,0.0,18.24,18.24,18.0,18.0,0.0",
        "8,bob,students,USD,,0.005,,0.12,0.0,,2.64,,0.12,0.0",
        "9,bob,students,USD,0.0,0.0,2.4,2.4,2.4,2.4,2.4,2.4,2.4,2.4",
        "-,-,-,USD,0.002,0.002,0.48,0.48,0.0,1.488,1.488,0.48,0.48,0.0",
    ]


@pytest.mark.usefixtures("booked")
def test_json_has_rows_sums_and_remarks(shown: Shown) -> None:
    found = json.loads(shown("sky", "--by", "user", "--json"))
    assert (found["now"], found["month"], found["since"], found["until"], found["by"]) == (
        NOW,
        "2026-12",
        0,
        NOW,
        "user",
    )
    assert [(row["user"], row["hour"], row["month"]) for row in found["rows"]] == [
        ("ada", 0.01, 13.2),
        ("bob", None, None),
        ("-", 0.002, 0.48),
    ]
    assert [(row["currency"], row["hour"], row["hour_known"]) for row in found["sums"]] == [("USD", None, 0.017)]
    assert len(found["remarks"]) == 2


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize(
    ("arguments", "total"),
    [
        pytest.param(["--since", "2026-11", "--until", "2026-12"], 4.8, id="last-month"),
        pytest.param(["--since", "2026-12-05", "--until", "2026-12-06T12:00"], 2.4 + 0.12, id="hours"),
        pytest.param(["--since", "6d", "--until", "5d"], 2.4, id="ago"),
        pytest.param(["--since", "2027-01"], 0.0, id="the-future"),
    ],
)
def test_the_total_is_of_the_time_asked_for(shown: Shown, arguments: list[str], total: float) -> None:
    found = json.loads(shown("sky", "--by", "vm", "--json", *arguments))
    assert next(row["total"] for row in found["rows"] if row["vm"] == "7") == pytest.approx(total)


def months_of_vms(text: str) -> dict[str, str]:
    return {row["vm"]: row["month"] for row in csv.DictReader(io.StringIO(text))}


@pytest.mark.usefixtures("booked")
def test_ledgers_of_two_front_ends_count_what_both_saw_once(shown: Shown, var: Path) -> None:
    """The other front-end saw VM 9, which this one assumed, and VM 10, which this one never saw."""
    seen, own = replace(SPANS[3], is_seen=True, end=SPANS[3].end - 12 * HOUR), replace(WEB, thing="i-4", vm_id=10)
    other = var / "of-the-other.ledger"
    write_spans(other, "sky", [WEB, seen, own], as_of=DECEMBER + 2 * DAY)
    found = shown("sky", "--by", "vm", "--csv", "--ledger", str(other))
    assert months_of_vms(found) == {"7": "13.2", "8": "", "9": "2.4", "10": "12.0", "-": "0.48"}
    assert {row["vm"]: row["month_assumed"] for row in csv.DictReader(io.StringIO(found))}["9"] == "1.2"


@pytest.mark.usefixtures("booked")
def test_costs_of_two_currencies_have_a_row_and_a_sum_each(shown: Shown, var: Path) -> None:
    paid_in_euros = replace(WEB, name="two", thing="12", vm_id=11, currency="EUR")
    write_spans(var / "one_provider_mad_two.ledger", "two", [paid_in_euros], as_of=NOW)
    lines = shown("sky", "two", "--by", "user").splitlines()
    assert lines[0].endswith("ledger's begin")
    assert lines[2:8] == [
        "USER  CURRENCY  NOW/HOUR  THIS MONTH  FORECAST  TOTAL",
        "ada   EUR       0.0000       12.00     12.00    16.80",
        "ada   USD       0.0100       13.20     18.24    18.00",
        "bob   USD       0.0050+?      2.52+?    5.04+?   2.52+?",
        "-     USD       0.0020        0.48      1.49     0.48",
        "all   EUR       0.0000       12.00     12.00    16.80",
    ]


def test_instances_of_a_silent_ledger_go_on_costing_and_it_says_so(shown: Shown, var: Path) -> None:
    running = replace(WEB, end=DECEMBER + DAY, is_open=True)
    write_spans(var / "one_provider_mad_sky.ledger", "sky", [running], as_of=running.end)
    found = json.loads(shown("sky", "--json"))
    (row,) = found["rows"]
    assert (row["hour"], row["month"], row["month_assumed"]) == (0.1, 24.0, 21.6)
    assert found["remarks"][0].startswith("The latest listing in the ledger of sky is of 2026-12-02 00:00:00 UTC: its")


def test_a_name_without_a_ledger_has_no_rows_and_says_why(shown: Shown) -> None:
    assert shown("sky").splitlines()[-1] == (
        "Nothing is booked of sky yet: its information driver does so from its first listing on."
    )
    assert shown("sky", "--csv").count("\n") == 1
    assert json.loads(shown("sky", "--json"))["rows"] == []


@pytest.mark.usefixtures("booked")
def test_orphans_that_the_last_search_found_have_a_row(shown: Shown, var: Path) -> None:
    async def write() -> None:
        journal = Journal(var / "one_provider_mad_sky.journal", clock=lambda: NOW, on_lost=print)
        await journal.open()
        await journal.set_fact(ORPHANS, json.dumps({"at": NOW, "orphans": [{"deploy_id": "i-1"}], "parts": []}))
        await journal.close()

    aside(lambda: asyncio.run(write()))
    (line,) = (line for line in shown("sky").splitlines() if line.startswith("orphans"))
    assert line.split() == ["orphans", "0.0100", "13.20", "18.24", "18.00"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param([], "name at least one NAME, or a file with --ledger", id="nothing-named"),
        pytest.param(["sky", "--csv", "--json"], "--csv and --json exclude each other", id="two-forms"),
        pytest.param(["sky", "--since", "12h", "--until", "13h"], "--until must be later than --since", id="reversed"),
        pytest.param(["sky", "--since", "soon"], "--since 'soon' is no time: write 2026-11, 2026-11-03,", id="no-time"),
        pytest.param(["--ledger", "/no/such"], "File '/no/such' does not exist", id="no-file"),
    ],
)
def test_wrong_usage_is_one_sentence(shown: Shown, arguments: list[str], sentence: str) -> None:
    assert sentence in shown(*arguments, code=2)


def test_a_file_that_is_no_ledger_is_one_sentence(shown: Shown, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("these are no costs, and there are too many of them for an empty database")
    assert "the ledger cannot be read: file is not a database" in shown("--ledger", str(other), code=1)
