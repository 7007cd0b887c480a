"""`one-provider types`: ranks the cloud's instance types that hold a VM by price."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from one_provider_mad.cli.asked_cloud import Cloud, ask
from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.tables import show_table
from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.pricing.selection import candidates, is_usual, obstacle
from one_provider_mad.pricing.values import MONTH_HOURS, ON_DEMAND, SPOT, Price
from one_provider_mad.providers.interface import InstanceType, PriceSource, TypeChooser, TypeSource, TypeWish
from one_provider_mad.providers.public_cloud import SECTION, read_section
from one_provider_mad.providers.type_wishes import wish_of

_COLUMNS = ("TYPE", "CPU", "MEMORY", "GPU", "ARCH", "HOUR", "SPOT", "MONTH")

MOST_CALLS = 10
"""Slow calls for which the command waits: EC2 lists its types and prices on several pages."""

_UNITS = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
_MEMORY = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?) ?(?P<unit>[MGT]?)(?:i?B)?", re.IGNORECASE)


class Ranking(NamedTuple):
    """The types that hold a VM, the cheapest first.

    Attributes:
        rows: each type with its price on demand and its spot price.
        reason: why there is none, "" when there are some.
        wish: what was asked.
    """

    rows: Sequence[tuple[InstanceType, Price, Price]]
    reason: str
    wish: TypeWish


def _memory(_context: click.Context, _parameter: click.Parameter, text: str) -> float:
    """Return MiB."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is no size of memory: write 16G, or 16384 for as many MiB")
    return float(match["number"]) * _UNITS[match["unit"].upper()]


@click.command("types", short_help="Rank the cloud's instance types by price.")
@click.argument("name", shell_complete=complete_name)
@click.option("--cpu", type=click.FloatRange(min=0), default=0.0, metavar="CORES", help="At least so many cores.")
@click.option("--memory", callback=_memory, default="0", metavar="SIZE", help="At least so much: 16G, or MiB.")
@click.option("--gpu", default="", metavar="GPU", help="GPUs: a number, a model, or both, as 2 T4.")
@click.option("--arch", default="", metavar="ARCH", help="Of the machine: x86_64, arm64.")
@click.option("--allow", default="", metavar="PATTERNS", help="Only these types and families, as m5,c6*.")
@click.option("--exclude", default="", metavar="PATTERNS", help="Without these types and families.")
@click.option("--spot", "is_spot", is_flag=True, help="By the price of spot instances.")
@click.option("--most", type=click.IntRange(min=0), default=20, metavar="N", help="Print so many; 0 for all.")
@click.option("--json", "is_json", is_flag=True, help="One JSON array, of all types.")
def command(  # click passes each option
    name: str,
    cpu: float,
    memory: float,
    gpu: str,
    arch: str,
    allow: str,
    exclude: str,
    is_spot: bool,
    most: int,
    is_json: bool,
) -> None:
    """Rank the instance types of the cloud of NAME that hold a VM, the cheapest first.

    A VM whose template leaves its type to the driver (auto) gets the first that has room. Prices are those of instances
    that run, without disks and addresses; ? is unknown. The options count beside the configuration's defaults.
    """
    filters = {"GPU": gpu, "ARCH": arch, "ALLOWEDTYPES": allow, "EXCLUDEDTYPES": exclude}

    async def rank(cloud: Cloud) -> Ranking:
        return await ranking_of(cloud, _request(cloud, cpu, memory, filters), market=SPOT if is_spot else ON_DEMAND)

    found = ask(name, os.environ, rank, calls=MOST_CALLS, is_quiet=is_json)
    if is_json:
        click.echo(json.dumps([entry(*row) for row in found.rows], indent=2))
        return
    if not found.rows:
        raise click.ClickException(f"no instance type of the cloud of {name} has {found.wish.text}: {found.reason}")
    shown = found.rows[:most] if most else found.rows
    show_table(_COLUMNS, [_row(*row) for row in shown])
    for line in remarks(found.rows, shown=len(shown)):
        click.echo(line)


def _request(cloud: Cloud, cpu: float, memory: float, filters: Mapping[str, str]) -> VmRequest:
    """Return a VM that leaves its type to the driver, with these filters."""
    chooser = cloud.provider
    automatic = chooser.choice_attributes() if isinstance(chooser, TypeChooser) else {}
    own = {name: text.strip() for name, text in filters.items() if text.strip()}
    section = {"TYPE": cloud.configuration.settings.hypervisor, **automatic, **own}
    return VmRequest(
        vm_id=VmId(0),
        template=Template(values={"CPU": (f"{cpu:g}",), "MEMORY": (f"{memory:g}",)}),
        user_template=Template(values={SECTION: (section,)}),
    )


async def ranking_of(cloud: Cloud, request: VmRequest, *, market: str) -> Ranking:
    """Read types and prices, and return the types that hold a VM. Raises NotSupported, BadParameter."""
    provider = cloud.provider
    if not isinstance(provider, TypeSource):
        raise cloud.lacks("a list of its instance types")
    await provider.read_types()
    if isinstance(provider, PriceSource):
        await provider.read_prices(())
    wish, usual = _wish(cloud, request)
    types = provider.instance_types()
    price_of = _prices(provider)
    found = candidates(types, wish, price_of, markets=(market,), usual=usual)
    rows = [(each.type, price_of(each.type.name, ON_DEMAND), price_of(each.type.name, SPOT)) for each in found]
    return Ranking(rows, obstacle(types, wish, usual=usual), wish)


def _prices(provider: TypeSource) -> Callable[[str, str], Price]:
    return lambda name, market: provider.price_of_type(name, market=market)


def _wish(cloud: Cloud, request: VmRequest) -> tuple[TypeWish, Callable[[InstanceType], bool]]:
    if isinstance(cloud.provider, TypeChooser):
        return cloud.provider.wish_of(request), cloud.provider.is_usual_type
    section = read_section(request, hypervisor=cloud.configuration.settings.hypervisor)
    return wish_of(request, section), is_usual


def _row(kind: InstanceType, price: Price, spot: Price) -> tuple[str, ...]:
    gpu = f"{kind.gpus} {kind.gpu}".strip() if kind.gpus else "-"
    month = "?" if price.amount is None else f"{price.amount * MONTH_HOURS:.2f}"
    size = (f"{kind.cpu:g}", f"{kind.memory / 1024:g}G", gpu, ",".join(kind.architectures))
    return (kind.name, *size, price.text, spot.text, month)


def entry(kind: InstanceType, price: Price, spot: Price) -> Mapping[str, Any]:
    """Return a type for --json; an unknown price is null."""
    return {
        "type": kind.name,
        "family": kind.family or None,
        "cpu": kind.cpu,
        "memory": kind.memory,
        "gpus": kind.gpus,
        "gpu": kind.gpu or None,
        "architectures": list(kind.architectures),
        "is_current": kind.is_current,
        "price": _price_entry(price),
        "spot": _price_entry(spot),
    }


def _price_entry(price: Price) -> Mapping[str, Any] | None:
    if price.amount is None:
        return None
    source, date = _source(price)
    return {"amount": price.amount, "currency": price.currency or None, "source": source or None, "date": date or None}


def _source(price: Price) -> tuple[str, str]:
    return next(((part.source, part.date) for part in price.parts), ("", ""))


def remarks(rows: Sequence[tuple[InstanceType, Price, Price]], *, shown: int) -> Iterator[str]:
    """Yield the lines below the table: currency and sources of the prices, and what is not shown."""
    yield ""
    known = [price for _, *prices in rows for price in prices if price.amount is not None]
    if known:
        currency = next((price.currency for price in known if price.currency), "units of currency")
        yield f"{currency} an hour, and a month of {MONTH_HOURS:g} hours, without disks and addresses"
    if sources := ", ".join(dict.fromkeys(filter(None, map(_sourced, known)))):
        yield f"prices: {sources}"
    if unknown := sum(price.amount is None for _, price, _ in rows):
        yield f"the price of {unknown} of {len(rows)} types is unknown (?): they come last, the smallest first"
        yield "one-provider check tells which right to prices is missing; [prices] may have your own"
    if more := len(rows) - shown:
        yield f"{more} more: --most 0"


def _sourced(price: Price) -> str:
    return " of ".join(filter(None, _source(price)))
