"""What `check` and `orphans` say of the costs of orphans, unused parts and parked instances."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.cli.orphan_checks import check_orphans
from one_provider_mad.cli.orphan_costs import price_text, together
from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal.records import Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.orphans.reconciler import ORPHANS
from tests.cli.running import output_of


def costing(amount: float | None, *, known: float | None = None, currency: str = "USD") -> dict[str, Any]:
    """An entry with a price; None for an unknown part."""
    total = (amount or 0.0) if known is None else known
    text = "?" if amount is None and not total else f"{total:.4f}{'' if amount is not None else '+?'}"
    return {"price": {"amount": amount, "known": total, "currency": currency, "text": text}}


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        pytest.param([costing(0.1), costing(0.2)], "0.3000 USD an hour, 219.00 USD in a month of 730 hours", id="sum"),
        pytest.param([costing(0.0)], "0.0000 USD an hour, 0.00 USD in a month of 730 hours", id="free"),
        pytest.param(
            [costing(0.1, currency="")], "0.1000 an hour, 73.00 in a month of 730 hours", id="without-currency"
        ),
        pytest.param(
            [costing(0.1), costing(None), {}],
            "at least 0.1000 USD an hour, 73.00 USD in a month of 730 hours (2 of 3 without a whole price)",
            id="some-unknown",
        ),
        pytest.param(
            [costing(None, known=0.1)],
            "at least 0.1000 USD an hour, 73.00 USD in a month of 730 hours (1 of 1 without a whole price)",
            id="part-unknown",
        ),
        pytest.param([costing(None), {"price": None}], "? an hour: their prices are unknown", id="all-unknown"),
    ],
)
def test_a_sum_is_never_more_certain_than_its_parts(entries: list[dict[str, Any]], sentence: str) -> None:
    assert together(entries) == sentence


def test_an_entry_without_price_costs_a_question_mark() -> None:
    assert [price_text(each) for each in ({}, {"price": None}, costing(0.5))] == ["?", "?", "0.5000"]


def an_orphan(vm_id: int, **more: Any) -> dict[str, Any]:
    fixed = {"deploy_id": f"i-{vm_id}", "vm_id": vm_id, "verdict": "done", "evidence": "because", "looks": 2}
    return {**fixed, **costing(0.1), **more}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "var").mkdir()
    return tmp_path


def search(
    root: Path,
    *orphans: dict[str, Any],
    owed: str = "",
    parts: Sequence[dict[str, Any]] = (),
    parked: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write the findings of a search into the journal of `simulated`; return its path."""
    path = root / "var" / "one_provider_mad_simulated.journal"

    async def write() -> None:
        journal = Journal(path, clock=time.time, on_lost=pytest.fail)
        await journal.open()
        found = {"at": time.time() - 9, "orphans": orphans, "parts": parts, "parked": parked}
        await journal.set_fact(ORPHANS, json.dumps(found))
        if owed:
            who = Identity(owner="simulated", vm_id=VmId(1), stime=1, seq=0, host_id=3)
            await journal.add_debt(Debt(deploy_id=DeployId(owed), identity=who, reason="orphan (done)", since=0))
        await journal.close()

    asyncio.run(write())
    return path


A_MONTH = "0.1000 USD an hour, 73.00 USD in a month of 730 hours"
PARKED = [{"deploy_id": "i-5", "vm_id": 5, **costing(0.1)}]


def test_check_says_what_the_policy_report_costs(root: Path) -> None:
    (result,) = check_orphans("x", "report", search(root, an_orphan(1), an_orphan(2, is_busy=True), parked=PARKED))
    assert result.is_well is None
    assert result.found == (
        f"policy report keeps 1 possible orphan ({A_MONTH}); 1 instance of an undeployed or stopped VM ({A_MONTH})"
    )
    assert result.remedy == (
        'one-provider orphans x lists them; policy = "terminate-done" in [orphans] terminates those of VMs that are'
        " certainly DONE"
    )


def test_check_is_content_without_orphans_and_names_what_parked_instances_cost(root: Path) -> None:
    (result,) = check_orphans("x", "report", search(root, an_orphan(1), owed="i-1", parked=PARKED))
    assert (result.is_well, result.remedy) == (True, "")
    assert result.found == (
        f"policy report: every instance belongs to a VM; 1 instance of an undeployed or stopped VM ({A_MONTH})"
    )


def test_check_says_nothing_of_orphans_before_the_first_search_or_without_a_journal(root: Path, tmp_path: Path) -> None:
    assert list(check_orphans("x", "report", tmp_path / "none")) == []
    search(root)
    (result,) = check_orphans("x", "report", search(root))
    assert result.is_well


def test_orphans_shows_each_price_and_the_sums(root: Path) -> None:
    parts = [{"id": "vol-1", "kind": "volume", "vm_id": None, "detail": "8 GiB", **costing(0.001)}]
    search(root, an_orphan(1), an_orphan(2, price=None), parts=parts, parked=PARKED)
    head, one, two, volume, _, *sums, _ = output_of(root, "orphans", "simulated").splitlines()
    assert head.split() == ["VM", "DEPLOY", "ID", "VERDICT", "PRICE/H", "SEARCHES", "EVIDENCE"]
    assert (one.split()[3], two.split()[3]) == ("0.1000", "?")
    assert volume == "volume vol-1 is not in use: 8 GiB, 0.0010 an hour"
    assert sums == [
        f"They cost at least {A_MONTH} (1 of 2 without a whole price).",
        "What is not in use costs 0.0010 USD an hour, 0.73 USD in a month of 730 hours.",
        f"Instances of undeployed and stopped VMs cost {A_MONTH}.",
    ]


def test_findings_of_an_earlier_release_have_no_price(root: Path) -> None:
    earlier = {name: value for name, value in an_orphan(1).items() if name != "price"}
    search(root, earlier, parts=[{"id": "v", "kind": "volume", "vm_id": None, "detail": "8 GiB"}])
    assert "cost" not in output_of(root, "orphans", "simulated")
    printed = json.loads(output_of(root, "orphans", "simulated", "--json"))
    assert (printed["orphans"][0]["price"], printed["parts"][0]["price"], printed["parked"]) == (None, None, [])
