"""`one-provider cost`: what the clouds cost, from the ledgers of the information drivers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path

import click

from one_provider_mad.budget.months import month_of
from one_provider_mad.cli.cost_report import Period, report_on, show, show_csv, show_json
from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.progress import progress
from one_provider_mad.costs.grouping import GROUPINGS, Grouping
from one_provider_mad.costs.merging import Ledger, continued, merged
from one_provider_mad.costs.periods import moment_name, read_moment
from one_provider_mad.errors import MadError
from one_provider_mad.journal.reader import read_fact
from one_provider_mad.ledger.booking import LOOSE_UNSEEN_AFTER, UNSEEN_AFTER
from one_provider_mad.ledger.reader import read_ledger
from one_provider_mad.ledger.records import INSTANCE, Span
from one_provider_mad.orphans.reconciler import ORPHANS
from one_provider_mad.settings import Configuration, Places, load


@click.command("cost", short_help="Show what the clouds cost, by VM, user, group, type or day.")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_name)
@click.option("--by", type=click.Choice(GROUPINGS), default="what", show_default=True, help="What a row is about.")
@click.option("--since", default="", metavar="TIME", help="Begin of the total: 2026-11, 2026-11-03, 30d, 12h.")
@click.option("--until", default="", metavar="TIME", help="End of the total, as --since.")
@click.option(
    "--ledger",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A ledger of another front-end; give it once for each.",
)
@click.option("--csv", "is_csv", is_flag=True, help="Comma-separated values, with a line of names.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(
    names: tuple[str, ...],
    by: Grouping,
    since: str,
    until: str,
    files: tuple[Path, ...],
    is_csv: bool,
    is_json: bool,
) -> None:
    """Show what the clouds of these NAMEs cost: an hour at present, this month, at the month's end, and in all.

    The information drivers book what they see in ledgers, at the prices of that time; this command reads the ledgers,
    and asks no cloud. Months and days are those of UTC. The forecast is this month's cost if all stays as it is. The
    total begins with the ledger; by day, with this month.
    """
    if not names and not files:
        raise click.UsageError("name at least one NAME, or a file with --ledger")
    if is_csv and is_json:
        raise click.UsageError("--csv and --json exclude each other")
    now = time.time()
    month = month_of(now)
    period = Period(
        now=now,
        month=month,
        since=_moment("--since", since, now=now, default=month.begin if by == "day" else 0.0),
        until=_moment("--until", until, now=now, default=inf),
    )
    if period.until <= period.since:
        raise click.UsageError("--until must be later than --since")
    with progress("reading the ledgers", is_wanted=not (is_csv or is_json)):
        places = Places.from_environment(os.environ, may_create=False)
        configurations = [load(name, places) for name in dict.fromkeys(names)]
        ledgers = [*(_ledger_of(each, places, period) for each in configurations)]
        ledgers += [_read(str(file), file, period) for file in files]
        orphans = {thing for each in configurations for thing in _orphans(places.journal(each))}
        spans = list(_with_rests(merged(ledgers), now))
        remarks = [sentence for each in ledgers for sentence in _remarks(each, now)]
        report = report_on(spans, by=by, period=period, orphans=orphans, remarks=remarks)
    (show_csv if is_csv else show_json if is_json else show)(report)


def _moment(option: str, text: str, *, now: float, default: float) -> float:
    if not text:
        return default
    try:
        return read_moment(text, now=now)
    except (ValueError, OverflowError) as error:
        raise click.UsageError(
            f"{option} {text!r} is no time: write 2026-11, 2026-11-03, 2026-11-03T18:30 (of UTC), 12h, 30d or 4w"
        ) from error


def _ledger_of(configuration: Configuration, places: Places, period: Period) -> Ledger:
    if configuration.settings.provider == "scripts":
        raise click.ClickException(f"{configuration.name} is served by scripts, for which no costs are booked")
    return _read(configuration.name, places.ledger(configuration), period)


def _read(label: str, path: Path, period: Period) -> Ledger:
    as_of, spans = read_ledger(path, since=min(period.month.begin, period.since))
    return Ledger(label=label, as_of=as_of, spans=spans)


def _with_rests(spans: Sequence[Span], now: float) -> Iterator[Span]:
    """Yield the spans, those of silent ledgers with an assumed rest until now."""
    instances = [span for span in spans if span.kind == INSTANCE]
    others = [span for span in spans if span.kind != INSTANCE]
    yield from continued(instances, until=now, patience=UNSEEN_AFTER)
    yield from continued(others, until=now, patience=LOOSE_UNSEEN_AFTER)


def _orphans(journal: Path) -> Iterator[str]:
    """Yield the deploy ids of the orphans that the action driver's last search found."""
    try:
        text = read_fact(journal, ORPHANS)
    except MadError as error:
        click.echo(f"note: {error}; orphans are among the other instances", err=True)
        return
    found: Mapping[str, Sequence[Mapping[str, str]]] = json.loads(text) if text else {}
    yield from (each["deploy_id"] for each in found.get("orphans", ()))


def _remarks(ledger: Ledger, now: float) -> Iterator[str]:
    if not ledger.as_of:
        yield f"Nothing is booked of {ledger.label} yet: its information driver does so from its first listing on."
    elif now - ledger.as_of > UNSEEN_AFTER:
        yield (
            f"The latest listing in the ledger of {ledger.label} is of {moment_name(ledger.as_of)}: its information"
            " driver does not run, or the cloud does not answer it. What was there then is taken to be there still."
        )
