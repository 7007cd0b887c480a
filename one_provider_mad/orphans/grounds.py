"""PURE: on what grounds an orphan may be destroyed, and when these grounds are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal.records import ORPHAN, Attempt, AttemptState, Debt
from one_provider_mad.orphans.verdicts import DONE_STATE, Finding, Verdict, VmDocument

_ABOUT_THEN = 900.0
"""Seconds that a cloud's clock and ours may differ by, with the time that a create takes."""


def made_at(finding: Finding, attempts: Iterable[Attempt]) -> float | None:
    """When the instance was made, seconds since the epoch; None when the journal does not account for it."""
    own = [each for each in attempts if finding.identity.is_same_life(each.identity)]
    called = {"", "-", f"one-{finding.identity.vm_id}", finding.deploy_id, *(each.deploy_id for each in own)}
    if finding.verdict is Verdict.DONE and finding.named not in called:
        return None  # a VM of that number and STIME whose instance was never made here: of another OpenNebula
    times = [max(each.sent_at, each.answered_at) for each in own if _accounts_for(each, finding)]
    return max(times, default=None)


def _accounts_for(attempt: Attempt, finding: Finding) -> bool:
    """True when this attempt has made the instance.

    One whose answer was lost has no id. Then its tags tell, which hold the identity; but somebody may have copied an
    instance, tags and all, so OpenNebula has to know it by its id, or it is the only one and was made about then.
    """
    if attempt.deploy_id:
        return attempt.deploy_id == finding.deploy_id
    if attempt.state is AttemptState.REFUSED or attempt.identity.seq != finding.identity.seq:
        return False
    is_about_then = abs(finding.created_at - attempt.sent_at) <= _ABOUT_THEN
    return finding.named == finding.deploy_id or (finding.is_alone and is_about_then)


def is_back(debt: Debt, vm: VmDocument | None) -> bool:
    """True when the VM that was over is there again, or calls the instance of this debt its own."""
    if vm is None or vm.stime != debt.identity.stime:
        return False
    return vm.deploy_id == debt.deploy_id or debt.reason.startswith(f"{ORPHAN}{Verdict.DONE.value}")


def may_live_on(vm: VmDocument | None, debt: Debt, deploy_id: DeployId) -> bool:
    """True when the VM of a debt calls that instance its own: another front-end may have taken it over since."""
    is_same = vm is not None and vm.stime == debt.identity.stime and vm.deploy_id == deploy_id
    return vm is not None and is_same and not vm.is_without


def lives_on(vm: VmDocument | None, debt: Debt, deploy_id: DeployId) -> bool:
    """True when the VM of a debt is at rest with that instance, so that it has been taken over for certain."""
    return vm is not None and may_live_on(vm, debt, deploy_id) and vm.is_at_rest


def is_over(who: Identity, documents: Mapping[VmId, VmDocument | None]) -> bool:
    """True when the VM that a part belongs to is no more; not when nobody could be asked."""
    if who.vm_id not in documents:
        return False
    vm = documents[who.vm_id]
    return vm is None or vm.stime != who.stime or vm.state == DONE_STATE


def is_needed(who: Identity, living: Mapping[VmId, VmDocument]) -> bool:
    """True when the VM that a part belongs to is there."""
    vm = living.get(who.vm_id)
    return vm is not None and vm.stime == who.stime
