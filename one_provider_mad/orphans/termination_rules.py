"""Decide, without calling anything, whether an orphan may be terminated, and whether its debt still holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal.records import ORPHAN, Attempt, AttemptState, Debt
from one_provider_mad.orphans.verdicts import DONE_STATE, Finding, Verdict, VmDocument

_ABOUT_THEN = 900.0
"""Most seconds between sending a create and its instance's creation time by the cloud's clock, which may be wrong."""


def created_by_us_at(finding: Finding, attempts: Iterable[Attempt]) -> float | None:
    """Return when this driver created the instance, seconds since the epoch; None when no attempt has created it."""
    own = [each for each in attempts if finding.identity.is_same_life(each.identity)]
    called = {"", "-", f"one-{finding.identity.vm_id}", finding.deploy_id, *(each.deploy_id for each in own)}
    if finding.verdict is Verdict.DONE and finding.named not in called and not finding.has_left:
        return None  # same ID and STIME, but its instance was not created here: another OpenNebula's VM
    times = [max(each.sent_at, each.answered_at) for each in own if _accounts_for(each, finding)]
    return max(times, default=None)


def _accounts_for(attempt: Attempt, finding: Finding) -> bool:
    """True when this attempt created the instance.

    An attempt whose answer was lost has no id. Then the identity in the tags decides. A person may have copied an
    instance with its tags, so OpenNebula must name this id, or it must be the only one and as old as the attempt.
    """
    if attempt.deploy_id:
        return attempt.deploy_id == finding.deploy_id
    if attempt.state is AttemptState.REFUSED or attempt.identity.seq != finding.identity.seq:
        return False
    is_about_then = abs(finding.created_at - attempt.sent_at) <= _ABOUT_THEN
    return finding.named == finding.deploy_id or (finding.is_alone and is_about_then)


def is_back(debt: Debt, vm: VmDocument | None) -> bool:
    """True when the VM of an orphan's debt exists again, or names the debt's instance as its DEPLOY_ID."""
    if vm is None or vm.stime != debt.identity.stime:
        return False
    return vm.deploy_id == debt.deploy_id or debt.reason.startswith(f"{ORPHAN}{Verdict.DONE.value}")


def may_be_in_use(vm: VmDocument | None, debt: Debt, deploy_id: DeployId) -> bool:
    """True when the VM of a debt names this DEPLOY_ID: another front-end may have adopted the instance since."""
    is_same = vm is not None and vm.stime == debt.identity.stime and vm.deploy_id == deploy_id
    return vm is not None and is_same and not vm.is_without


def is_in_use(vm: VmDocument | None, debt: Debt, deploy_id: DeployId) -> bool:
    """True when the VM of a debt is at rest with this instance, so that it was certainly adopted."""
    return vm is not None and may_be_in_use(vm, debt, deploy_id) and vm.is_at_rest


def is_vm_gone(who: Identity, documents: Mapping[VmId, VmDocument | None]) -> bool:
    """True when the VM of a volume, snapshot or address is gone; False when OpenNebula did not answer."""
    if who.vm_id not in documents:
        return False
    vm = documents[who.vm_id]
    return vm is None or vm.stime != who.stime or vm.state == DONE_STATE


def is_vm_alive(who: Identity, living: Mapping[VmId, VmDocument]) -> bool:
    """True when the VM of a volume, snapshot or address exists."""
    vm = living.get(who.vm_id)
    return vm is not None and vm.stime == who.stime
