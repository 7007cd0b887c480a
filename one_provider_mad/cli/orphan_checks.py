"""Says in `one-provider check` what orphans, unused parts and parked instances cost at present."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from one_provider_mad.cli.orphan_costs import Entry, together
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.reader import read_debts, read_fact
from one_provider_mad.orphans.reconciler import ORPHANS
from one_provider_mad.providers.interface import CheckResult


def check_orphans(name: str, policy: str, journal: Path) -> Iterator[CheckResult]:
    """Yield one result on the latest search for orphans, a warning where it has found some; none without a search.

    Args:
        name: NAME of the drivers.
        policy: `policy` of `[orphans]`.
        journal: the journal, which has the search's findings.
    """
    try:
        text = read_fact(journal, ORPHANS)
        owed = {debt.deploy_id for debt in read_debts(journal)}
    except JournalError:
        return  # the check of the journal tells it
    if text is None:
        return
    found: dict[str, Any] = json.loads(text)
    kept = [each for each in found["orphans"] if not each.get("is_busy") and each["deploy_id"] not in owed]
    costs = [
        _part(kept, "possible orphan"),
        _part(found["parts"], "unused volume, snapshot or address", "unused volumes, snapshots or addresses"),
        _part(
            found.get("parked", []), "instance of an undeployed or stopped VM", "instances of undeployed or stopped VMs"
        ),
    ]
    told = "; ".join(filter(None, costs))
    if not kept and not found["parts"]:
        sentence = f"policy {policy}: every instance belongs to a VM" + (f"; {told}" if told else "")
        yield CheckResult(what="orphans", is_well=True, found=sentence)
        return
    remedy = f"one-provider orphans {name} lists them"
    if policy == "report" and kept:
        remedy += '; policy = "terminate-done" in [orphans] terminates those of VMs that are certainly DONE'
    yield CheckResult(what="orphans", is_well=None, found=f"policy {policy} keeps {told}", remedy=remedy)


def _part(entries: Sequence[Entry], one: str, several: str = "") -> str:
    """Return `2 possible orphans (0.1042 USD an hour, ...)`, "" for none."""
    if not entries:
        return ""
    count = f"1 {one}" if len(entries) == 1 else f"{len(entries)} {several or f'{one}s'}"
    return f"{count} ({together(entries)})"
