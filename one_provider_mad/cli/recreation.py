"""Decides whether a VM is recreated, and recreates it: one that its cloud refused, or whose instance it took back.

The driver's journal says which VMs qualify, and has the count. OpenNebula's hooks call this, several at once where many
VMs fail together; a person may, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from one_provider_mad.cli.recreate_interrupted import interruption_of
from one_provider_mad.cli.recreate_vm import BOOT_FAILURE, POWEROFF, UNDEPLOYED, UNKNOWN, ShownVm, read_vm
from one_provider_mad.domain import Identity, Value, VmId
from one_provider_mad.errors import MadError, ProviderError, SettingsError, WrongState
from one_provider_mad.journal.records import Recreation
from one_provider_mad.journal.recreations import give_back, read_recreation, undertake, undertake_interrupted
from one_provider_mad.settings import Places, load
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import release_of

MOST_TRIES = 3
"""Most recreations in a row of a VM that does not run in between."""

_PAUSES = (0.0, 20.0, 60.0)
"""Seconds from a refusal until the hook recreates the VM for the first, second and third time in a row: the host of a
cloud that is full shows no room with its next report, and the scheduler leaves it out then."""

_DELETE_RECREATE = 4
"""The operation of `onevm recover --recreate` (OpenNebula src/rm, VirtualMachineRecover; from 5.0 on)."""

_PATIENCE = (0.0, 1.0, 4.0)
"""Seconds before each try to recreate a VM, while OpenNebula does not answer, or elects a leader."""

_MONITOR_ACTION = 44
"""HISTORY/ACTION of a VM that monitoring has powered off (OpenNebula include/VMActions.h, MONITOR_ACTION)."""

_UNDEPLOY_SECONDS = 60.0

_RECREATES_POWEROFF = (6, 10)
"""First release that recreates a VM in POWEROFF (OpenNebula src/dm/DispatchManagerActions.cc, delete_recreate)."""


class Outcome(Value, frozen=True, kw_only=True):
    """What was done, and why.

    Attributes:
        sentence: for a person.
        is_recreated: the VM was recreated, or would be in a dry run.
        wait: seconds after which a hook tries again, 0 for never.
    """

    sentence: str
    is_recreated: bool = False
    wait: float = 0.0


def recreate(vm_id: VmId, environ: Mapping[str, str], *, is_dry: bool = False, is_paced: bool = False) -> Outcome:
    """Recreate a VM if it qualifies, and return what was done and why.

    Args:
        vm_id: the VM.
        environ: environment variables, for OpenNebula's directories, address and login.
        is_dry: do nothing.
        is_paced: leave the host of a full cloud time to show that, before a second and third try.

    Raises:
        MadError: OpenNebula, the journal or the cloud cannot be asked.
    """
    core = LocalCore(environ)
    if not core.raft_state().may_act:
        return Outcome(
            sentence=f"VM {vm_id} is left alone: this front-end does not lead, and the hook of the leader acts"
        )
    vm = read_vm(core, vm_id)
    if vm.state not in (BOOT_FAILURE, UNKNOWN, POWEROFF):
        return Outcome(sentence=f"VM {vm_id} is left alone: it is {vm.state_name}, and its last start has not failed")
    places = Places.from_environment(environ)
    path = _journal_of(vm.driver, places)
    if path is None:
        driver = vm.driver or "none"
        return Outcome(sentence=f"VM {vm_id} is left alone: no driver of ours serves its host (VM_MAD: {driver})")
    if vm.state == BOOT_FAILURE:
        return _after_refusal(core, vm, path, places, is_dry=is_dry, is_paced=is_paced)
    return _after_interruption(core, vm, path, environ, is_dry=is_dry)


def _journal_of(name: str, places: Places) -> Path | None:
    """Return the journal of the drivers that VM_MAD names; None when they are not ours."""
    if not name or not ((places.conf / f"{name}.toml").exists() or places.default_journal(name).exists()):
        return None
    try:
        return places.journal(load(name, places))
    except SettingsError:
        return places.default_journal(name)  # a mistake in the file is no reason to leave a VM without a host


def _after_refusal(
    core: LocalCore, vm: ShownVm, path: Path, places: Places, *, is_dry: bool, is_paced: bool
) -> Outcome:
    refused = read_recreation(path, vm.vm_id)
    if refused is None or (refused.stime, refused.seq) != (vm.stime, vm.seq):
        return Outcome(
            sentence=f"VM {vm.vm_id} is left in BOOT_FAILURE: its cloud did not refuse it for want of room;"
            " onevm show has the reason"
        )
    now, tries = time.time(), _tries_before(refused, vm, places)
    if refused.is_undertaken(now):
        return Outcome(sentence=f"VM {vm.vm_id} is being recreated by another hook already")
    if tries >= MOST_TRIES:
        return Outcome(
            sentence=f"VM {vm.vm_id} is left in BOOT_FAILURE: it was recreated {tries} times in a row, and found no"
            f" room: {refused.reason}"
        )
    wait = _PAUSES[tries] - max(0.0, now - refused.at) if is_paced else 0.0
    if wait > 0:
        sentence = f"VM {vm.vm_id} is recreated in {wait:.0f} s, for the {_ORDINALS[tries]} time: {refused.reason}"
        return Outcome(sentence=sentence, wait=wait)
    count = f"for the {_ORDINALS[tries]} time of {MOST_TRIES}"
    done = Outcome(sentence=f"VM {vm.vm_id} was recreated, {count}: {refused.reason}", is_recreated=True)
    if is_dry:
        return Outcome(sentence=f"VM {vm.vm_id} would be recreated, {count}: {refused.reason}", is_recreated=True)
    if not undertake(path, refused, tries=tries + 1, now=now):
        return Outcome(sentence=f"VM {vm.vm_id} is being recreated by another hook already")
    return _carried_out(core, vm, path, done)


_ORDINALS = ("first", "second", "third")


def _tries_before(refused: Recreation, vm: ShownVm, places: Places) -> int:
    """Return how often in a row the VM was recreated, also from hosts of other drivers of ours.

    In a row: each recreation has led to the next record of the VM's history. A VM that ran, or that a person has
    deployed or recreated in between, begins anew.
    """
    if refused.recreated_seq == refused.seq:
        return refused.tries - 1  # a process that had undertaken it has failed
    found = [refused]
    for name in {*vm.earlier} - {vm.driver}:
        other = _journal_of(name, places)
        record = read_recreation(other, vm.vm_id) if other is not None else None
        found += [record] if record is not None and record.stime == vm.stime else []
    return max((each.tries for each in found if each.recreated_seq == vm.seq - 1), default=0)


def _after_interruption(
    core: LocalCore, vm: ShownVm, path: Path, environ: Mapping[str, str], *, is_dry: bool
) -> Outcome:
    if vm.state == POWEROFF and vm.action != _MONITOR_ACTION:
        return Outcome(sentence=f"VM {vm.vm_id} is left alone: it was powered off on request")
    interruption = interruption_of(vm, environ)
    if isinstance(interruption, str):
        return Outcome(sentence=f"VM {vm.vm_id} is left alone: {interruption}")
    if is_dry:
        return Outcome(sentence=f"VM {vm.vm_id} would be recreated: {interruption.reason}", is_recreated=True)
    who = Identity(owner="", vm_id=vm.vm_id, stime=vm.stime, seq=vm.seq, host_id=vm.host_id)
    if not undertake_interrupted(path, who, at=interruption.at, reason=interruption.reason, now=time.time()):
        return Outcome(sentence=f"VM {vm.vm_id} is being recreated by another hook already")
    done = Outcome(sentence=f"VM {vm.vm_id} was recreated: {interruption.reason}", is_recreated=True)
    return _carried_out(core, vm, path, done)


def _carried_out(core: LocalCore, vm: ShownVm, path: Path, done: Outcome) -> Outcome:
    """Recreate the VM, unless it has moved on; without success give it back, so that another may try."""
    try:
        for number, pause in enumerate(_PATIENCE, 1):
            time.sleep(pause)
            try:
                return _recovered(core, vm, done)
            except WrongState:
                raise
            except ProviderError as error:
                if number == len(_PATIENCE) or not (error.retryable or error.is_paced):
                    raise
        raise AssertionError("the last try returns or raises")
    except MadError:
        give_back(path, vm.vm_id)
        raise


def _recovered(core: LocalCore, vm: ShownVm, done: Outcome) -> Outcome:
    """Ask OpenNebula once. The VM is looked at just before: one that runs meanwhile would be recreated, too."""
    by_now = read_vm(core, vm.vm_id)
    if not by_now.is_still(vm):
        return Outcome(sentence=f"VM {vm.vm_id} is left alone: it has moved on meanwhile, and is {by_now.state_name}")
    if vm.state == POWEROFF and release_of(core.call("one.system.version")) < _RECREATES_POWEROFF:
        _undeploy(core, vm)
    core.call("one.vm.recover", vm.vm_id, _DELETE_RECREATE)
    return done


def _undeploy(core: LocalCore, vm: ShownVm) -> None:
    """Bring a VM from POWEROFF, in which earlier releases recreate no VM, to UNDEPLOYED."""
    core.call("one.vm.action", "undeploy", vm.vm_id)
    until = time.monotonic() + _UNDEPLOY_SECONDS
    while read_vm(core, vm.vm_id).state != UNDEPLOYED:
        if time.monotonic() > until:
            raise WrongState(f"VM {vm.vm_id} was powered off, and is not UNDEPLOYED within {_UNDEPLOY_SECONDS:.0f} s")
        time.sleep(0.5)
