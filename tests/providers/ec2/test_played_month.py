"""A month of a VM in EC2, from the cloud's listings and prices through the ledger to `one-provider cost`.

The lab's EC2 has the instance and its prices; the moments at which it is listed are those of a December.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from one_provider_mad.cli.main import main
from one_provider_mad.costs.periods import DAY, read_moment
from one_provider_mad.costs.showback import showback_costs
from one_provider_mad.domain import DeployId, VmOwner
from one_provider_mad.ledger.booking import Book
from one_provider_mad.ledger.sighting import Sighting
from one_provider_mad.ledger.writer import LedgerFile
from one_provider_mad.pricing.values import MONTH_HOURS, ON_DEMAND
from one_provider_mad.providers.ec2.provider import Ec2Provider
from tests.end_to_end.oned import aside
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.vms import a_vm, launched

DECEMBER = read_moment("2026-12", now=0.0)
LISTED_EVERY = 300
ADA = VmOwner(user_id=3, user="ada", group_id=1, group="users")

SMALL, ROOT, ADDRESS = 0.0208, 8 * 0.08 / MONTH_HOURS, 0.005
"""Dollars an hour of a t3.small, its root volume of 8 GiB gp3, and its public address."""

RUNNING_DAYS, STOPPED_DAYS = 15, 10
"""It runs for ten days, is stopped for ten, runs for five more, and is terminated then."""

EXPECTED = 24 * (RUNNING_DAYS * (SMALL + ROOT + ADDRESS) + STOPPED_DAYS * ROOT)


async def sighting_of(provider: Ec2Provider, deploy_id: DeployId) -> Sighting:
    instance = (await provider.describe([deploy_id]))[deploy_id]
    await provider.read_prices([instance])
    type_name, market = provider.kind_of(instance)
    return Sighting(
        deploy_id, provider.price_of(instance), state=instance.state.value, type_name=type_name, market=market, vm_id=7,
        stime=50, owner=ADA,
    )  # fmt: skip


def booked(path: Path, seen: list[tuple[int, Sighting]]) -> None:
    """Book each sighting for so many days, as often as the information driver lists; then three empty listings."""
    book, now = Book("aws"), DECEMBER
    for days, sighting in seen:
        for _ in range(days * int(DAY) // LISTED_EVERY):
            book.observe([sighting], now=now, price_as=lambda each, _: each.price)
            now += LISTED_EVERY
    for _ in range(3):
        book.observe([], now=now, price_as=lambda each, _: each.price)
        now += LISTED_EVERY
    file = LedgerFile(path, "aws")
    file.load()
    file.write(list(book.rows.values()), (), as_of=now)
    file.close()


def shown(root: Path, *arguments: str) -> Any:
    done = CliRunner().invoke(main, ["cost", "aws", "--json", *arguments], env={"ONE_LOCATION": str(root)})
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


async def test_a_month_costs_what_ec2_charges_for_it(
    ec2: FaultyEc2, connect: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await connect(pricing_endpoint_url=ec2.url)
    deploy_id = await launched(provider, a_vm())
    running = await sighting_of(provider, deploy_id)
    await provider.stop(deploy_id, hard=False)
    stopped = await sighting_of(provider, deploy_id)
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (conf / "aws.toml").write_text('provider = "ec2"\nowner = "me"\n[ec2]\nregion = "eu-west-1"\n')
    (conf / "aws.toml").chmod(0o600)
    path = tmp_path / "var" / "one_provider_mad_aws.ledger"
    aside(lambda: booked(path, [(10, running), (10, stopped), (5, running)]))
    monkeypatch.setattr("one_provider_mad.cli.cost.time.time", lambda: DECEMBER + 25 * DAY + 3 * LISTED_EVERY)
    (vm,) = aside(lambda: shown(tmp_path, "--by", "vm"))["rows"]
    minute = (SMALL + ROOT + ADDRESS) / 60
    assert (vm["vm"], vm["user"], vm["hour"], vm["currency"]) == ("7", "ada", 0, "USD")
    assert vm["month"] == vm["forecast"] == vm["total"]
    assert vm["month"] == pytest.approx(EXPECTED, abs=LISTED_EVERY / 60 * minute)
    days = aside(lambda: shown(tmp_path, "--by", "day"))["rows"]
    assert [day["total"] for day in days[1:9]] == pytest.approx([24 * (SMALL + ROOT + ADDRESS)] * 8)
    assert [day["total"] for day in days[11:19]] == pytest.approx([24 * ROOT] * 8)
    # Showback, of the days on which it ran, for the type alone:
    price = provider.price_of_type("t3.small", market=ON_DEMAND).amount
    assert price is not None
    cost = float(showback_costs(price, cpu=2, disk_hour=None)["CPU_COST"]) * 2 * 24 * RUNNING_DAYS
    assert cost == pytest.approx(EXPECTED - 24 * (RUNNING_DAYS * (ROOT + ADDRESS) + STOPPED_DAYS * ROOT))
