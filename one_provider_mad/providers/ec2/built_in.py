"""The tables of types and prices that ship with the package, for accounts without the right to read EC2's own.

`tools/instance_types.py` writes them. They are read when they are needed, in a thread: as modules they would make each
start slower and each process larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from one_provider_mad.providers.ec2.price_list import PriceList
from one_provider_mad.providers.interface import InstanceType

_DATA = Path(__file__).parent / "data"

SOURCE = "table of this release"
"""Source of prices of the table, for a person; they come from AWS's price list, on the day that they name."""


def built_in_types() -> dict[str, InstanceType]:
    """Return the types of the table by name. Blocks."""
    return {each.name: each for each in map(_type, _rows("instance_types.tsv"))}


def _type(row: list[str]) -> InstanceType:
    name, cpu, memory, gpus, gpu, architectures, is_current = row
    return InstanceType(
        name=name,
        cpu=float(cpu),
        memory=int(memory),
        gpus=int(gpus),
        gpu=gpu,
        architectures=tuple(architectures.split(",")),
        family=name.partition(".")[0],
        is_current=is_current == "1",
    )


def built_in_prices(region: str) -> PriceList | None:
    """Return the on-demand prices of Linux in a region; None for a region that the table lacks. Blocks."""
    heads = list(_heads("instance_prices.tsv"))
    column = next((at for at, head in enumerate(heads, 1) if head[-1] == region), None)
    if column is None:
        return None
    date, currency, _ = heads[column - 1]
    prices = {row[0]: float(row[column]) for row in _rows("instance_prices.tsv") if row[column]}
    return PriceList(region=region, compute={"": prices}, currency=currency, date=date, source=SOURCE)


def _heads(name: str) -> Iterator[list[str]]:
    """Yield the words of each comment line that begins with a date."""
    with (_DATA / name).open(encoding="ascii") as file:
        for line in file:
            words = line.removeprefix("#").split()
            if line.startswith("#") and words and words[0][:1].isdigit():
                yield words


def _rows(name: str) -> Iterator[list[str]]:
    with (_DATA / name).open(encoding="ascii") as file:
        for line in file:
            if not line.startswith("#"):
                yield line.rstrip("\n").split("\t")
