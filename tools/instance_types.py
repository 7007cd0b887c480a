"""Writes the tables of EC2's instance types and their prices that ship with the package.

    python tools/instance_types.py TYPES DATE PRICES...

TYPES is a JSON file of `InstanceType`s by name, as DescribeInstanceTypes has them (moto ships one,
`moto/ec2/resources/instance_types.json.gz`), and DATE its day. Each of PRICES is a file of Karpenter's repository,
`pkg/providers/pricing/zz_generated.pricing_*.go`, which its maintainers generate from AWS's price list: on-demand
prices of Linux an hour by region, with the time when they were read.

Amounts scraped from AWS's web pages are no source: of libcloud 3.9.1's, 140 of 736 in us-east-1 are another product's.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "one_provider_mad" / "providers" / "ec2" / "data"

_REGION = re.compile(r'\t"([a-z0-9-]+)": \{')
_PRICE = re.compile(r'"([a-z0-9-]+\.[a-z0-9-]+)": ?([0-9.]+)')
_DATE = re.compile(r"// generated at (\d{4}-\d\d-\d\d)T")


def main(arguments: list[str]) -> int:
    """Write both tables."""
    if len(arguments) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    types, date, *prices = arguments
    _write("instance_types.tsv", types_table(_read(Path(types)), date=date))
    _write("instance_prices.tsv", prices_table([Path(each).read_text() for each in prices]))
    return 0


def _read(path: Path) -> Mapping[str, Any]:
    content = path.read_bytes()
    read: Mapping[str, Any] = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    return read


def _write(name: str, lines: Iterator[str]) -> None:
    (DATA / name).write_text("".join(f"{line}\n" for line in lines))


def types_table(types: Mapping[str, Any], *, date: str) -> Iterator[str]:
    """Yield the lines of the table of types: name, vCPUs, MiB, GPUs, GPU, architectures, whether it is current."""
    yield "# Written by tools/instance_types.py."
    yield f"# {date} DescribeInstanceTypes, as in moto's instance_types.json"
    for name, facts in sorted(types.items()):
        gpus = facts.get("GpuInfo", {}).get("Gpus", [])
        fields = (
            name,
            facts["VCpuInfo"]["DefaultVCpus"],
            facts["MemoryInfo"]["SizeInMiB"],
            sum(each.get("LogicalGpuCount") or each["Count"] for each in gpus),
            " + ".join(f"{each['Manufacturer']} {each['Name']}" for each in gpus),
            ",".join(facts["ProcessorInfo"]["SupportedArchitectures"]),
            int(facts["CurrentGeneration"]),
        )
        yield "\t".join(map(str, fields))


def prices_table(sources: list[str]) -> Iterator[str]:
    """Yield the lines of the table of prices: a line for each region, then name and a price for each, "" for none."""
    regions: dict[str, dict[str, str]] = {}
    yield "# Written by tools/instance_types.py."
    for text in sources:
        date = _found(_DATE, text)
        for region, prices in _by_region(text).items():
            currency = "CNY" if region.startswith("cn-") else "USD"
            yield f"# {date} {currency} {region}"
            regions[region] = prices
    for name in sorted({each for prices in regions.values() for each in prices}):
        yield "\t".join([name, *(prices.get(name, "") for prices in regions.values())])


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    if found is None:
        raise SystemExit(f"no line like {pattern.pattern} in the prices")
    return found[1]


def _by_region(text: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    region = ""
    for line in text.splitlines():
        if begin := _REGION.match(line):
            region = begin[1]
        elif region:
            found.setdefault(region, {}).update((name, f"{float(price):.10g}") for name, price in _PRICE.findall(line))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
