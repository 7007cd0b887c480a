"""Verdicts on single instances, as pure functions: without cloud, journal and clock."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.orphans.verdicts import (
    DONE_STATE,
    Finding,
    Rules,
    Sighting,
    Verdict,
    VmDocument,
    judge,
    suspects,
    to_destroy,
)
from tests.actions.fakes import OWNER, STIME, identity_of

RULES = Rules(grace=100, at_most=9)


def instance(deploy_id: str, *, state: InstanceState = InstanceState.STOPPED, vm_id: int = 7, **tags: Any) -> Instance:
    return Instance(
        deploy_id=DeployId(deploy_id), state=state, raw_state=state.value, identity=identity_of(vm_id, **tags)
    )


def vm(deploy_id: str = "i-7", **details: Any) -> VmDocument:
    fields = {"state": 8, "stime": STIME, "hosts": (3,), **details}
    return VmDocument(vm_id=VmId(7), deploy_id=DeployId(deploy_id), **fields)


DONE_VM = vm(state=DONE_STATE, etime=STIME + 5)


def verdicts(*instances: Instance, of: VmDocument | None) -> dict[str, Verdict]:
    found = judge(instances, {VmId(7): of}, owner=OWNER, busy=())
    return {each.deploy_id: each.verdict for each in found}


# Instances whose VM is looked up


def test_vms_are_looked_up_only_for_live_instances_of_this_owner() -> None:
    bare = msgspec.structs.replace(instance("i-9"), identity=None)
    others = [bare, instance("i-1", owner="another"), instance("i-2", state=InstanceState.TERMINATED)]
    mine = instance("i-7")
    assert suspects([*others, mine], {}, owner=OWNER) == [mine]


@pytest.mark.parametrize(
    ("document", "is_suspect"),
    [
        pytest.param(vm(), False, id="named-by-its-vm"),
        pytest.param(vm("i-8"), True, id="another-id"),
        pytest.param(vm(stime=STIME + 1), True, id="another-life"),
        pytest.param(DONE_VM, True, id="done"),
        pytest.param(vm(hosts=(3, 12)), True, id="on-another-host"),
    ],
)
def test_no_lookup_for_an_instance_named_by_a_live_vm(document: VmDocument, *, is_suspect: bool) -> None:
    assert bool(suspects([instance("i-7")], {VmId(7): document}, owner=OWNER)) is is_suspect


# Verdicts


def test_only_live_instances_of_this_owner_are_judged() -> None:
    others = [instance("i-1", owner="another"), instance("i-2", state=InstanceState.TERMINATING)]
    assert verdicts(*others, instance("i-7"), of=DONE_VM) == {"i-7": Verdict.DONE}


def test_a_failed_vm_lookup_and_a_missing_vm_have_different_evidence() -> None:
    (unasked,) = judge([instance("i-7")], {}, owner=OWNER, busy=())
    (unknown,) = judge([instance("i-7")], {VmId(7): None}, owner=OWNER, busy=())
    assert (unasked.verdict, unasked.evidence) == (Verdict.UNKNOWN, "OpenNebula could not be asked about VM 7")
    assert (unknown.verdict, unknown.evidence) == (Verdict.UNKNOWN, "OpenNebula has no VM 7")


@pytest.mark.parametrize("stime", [0, STIME + 1])
def test_the_verdict_is_unknown_if_vm_and_instance_differ_in_stime(stime: int) -> None:
    tagged = instance("i-7", stime=0 if stime == 0 else STIME)
    assert verdicts(tagged, of=msgspec.structs.replace(DONE_VM, stime=stime)) == {"i-7": Verdict.UNKNOWN}


@pytest.mark.parametrize("hosts", [(), (12,)])
def test_the_verdict_is_unknown_if_the_vm_was_never_on_the_instances_host(hosts: tuple[int, ...]) -> None:
    assert verdicts(instance("i-7"), of=msgspec.structs.replace(DONE_VM, hosts=hosts)) == {"i-7": Verdict.UNKNOWN}


def test_the_verdict_is_done_if_the_done_vm_was_on_the_instances_host_among_others() -> None:
    assert verdicts(instance("i-7"), of=msgspec.structs.replace(DONE_VM, hosts=(3, 12))) == {"i-7": Verdict.DONE}


@pytest.mark.parametrize("state", [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11])
def test_the_verdict_is_current_in_every_vm_state_but_done(state: int) -> None:
    assert verdicts(instance("i-7"), of=vm(state=state, etime=STIME + 5)) == {"i-7": Verdict.CURRENT}


def test_the_verdict_is_unknown_if_the_instance_the_vm_names_is_terminated() -> None:
    """The VM's own instance is terminated, so the other one may be the only one left."""
    gone = instance("i-8", seq=1, state=InstanceState.TERMINATED)
    assert verdicts(instance("i-7"), gone, of=vm("i-8")) == {"i-7": Verdict.UNKNOWN}


def test_the_verdict_is_unknown_if_the_instance_the_vm_names_has_another_stime() -> None:
    assert verdicts(instance("i-7"), instance("i-8", seq=1, stime=STIME - 9), of=vm("i-8"))["i-7"] is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("seq", "verdict"),
    [(0, Verdict.LEFTOVER), (1, Verdict.DUPLICATE), (2, Verdict.UNKNOWN)],
    ids=["lower", "same", "newer"],
)
def test_seq_decides_the_verdict_on_an_instance_beside_the_one_the_vm_names(seq: int, verdict: Verdict) -> None:
    found = verdicts(instance("i-7", seq=seq), instance("i-8", seq=1), instance("i-9", seq=3), of=vm("i-8"))
    assert found == {"i-7": verdict, "i-8": Verdict.CURRENT, "i-9": Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("document", "evidence"),
    [
        (vm(""), "VM 7 has no DEPLOY_ID"),
        (vm("one-7"), "VM 7 is one-7, which the cloud does not show as its instance"),
        (vm("one-7", hosts=(3, 12)), "VM 7 is POWEROFF on host 12, with DEPLOY_ID one-7"),
        (
            vm("one-7", hosts=(3, 12), drivers=("ec2", "kvm"), host_names=("aws", "h-0"), state=3),
            "VM 7 is ACTIVE on host h-0 of driver kvm, with DEPLOY_ID one-7",
        ),
    ],
)
def test_no_instance_is_an_orphan_if_the_vm_names_none_of_its_instances(document: VmDocument, evidence: str) -> None:
    found = judge([instance("i-7"), instance("i-8", seq=1)], {VmId(7): document}, owner=OWNER, busy=())
    assert {each.evidence for each in found} == {evidence}
    assert not any(each.verdict.is_orphan for each in found)


@pytest.mark.parametrize(
    ("drivers", "verdict", "evidence"),
    [
        (
            ("ec2", "kvm"),
            Verdict.MOVED,
            "VM 7 has this DEPLOY_ID and is POWEROFF on host 12 of driver kvm",
        ),
        (("ec2", "ec2"), Verdict.CURRENT, "VM 7 has this DEPLOY_ID"),
        (("", ""), Verdict.CURRENT, "VM 7 has this DEPLOY_ID"),
    ],
    ids=["another-driver", "the-same-driver", "a-release-without-vm-mad"],
)
def test_the_verdict_is_moved_if_the_vm_was_migrated_to_another_driver(
    drivers: tuple[str, ...], verdict: Verdict, evidence: str
) -> None:
    """Seen on 7.4.0: `onevm resched` moves the VM with its DEPLOY_ID, without a request to the old host's driver."""
    (found,) = judge([instance("i-7")], {VmId(7): vm(hosts=(3, 12), drivers=drivers)}, owner=OWNER, busy=())
    assert (found.verdict, found.evidence, found.verdict.is_orphan) == (verdict, evidence, False)


def test_the_evidence_on_a_vm_that_ended_at_home_names_its_last_host() -> None:
    document = msgspec.structs.replace(DONE_VM, hosts=(3, 12), drivers=("ec2", "kvm"), host_names=("aws", "h-0"))
    (found,) = judge([instance("i-7")], {VmId(7): document}, owner=OWNER, busy=())
    assert (found.verdict, found.has_left) == (Verdict.DONE, True)
    assert found.evidence.endswith(" UTC, it ended on host h-0 of driver kvm")


# When an orphan may be terminated


def sighting(verdict: Verdict = Verdict.DONE, **times: Any) -> Sighting:
    finding = Finding(deploy_id=DeployId("i-7"), identity=identity_of(), verdict=verdict, evidence="", **times)
    return Sighting(finding=finding, count=2, since=0)


@pytest.mark.parametrize("verdict", Verdict)
def test_only_orphans_are_terminated(verdict: Verdict) -> None:
    due = to_destroy([sighting(verdict)], made={DeployId("i-7"): 0.0}, rules=RULES, now=1e9)
    assert bool(due) is (verdict in (Verdict.DONE, Verdict.LEFTOVER, Verdict.DUPLICATE))


@pytest.mark.parametrize("latest", ["ended_at", "created_at", "made"])
def test_the_grace_counts_from_the_latest_of_end_creation_and_attempt(latest: str) -> None:
    times: dict[str, Any] = {"ended_at": 10.0, "created_at": 10.0, "made": 10.0, latest: 500.0}
    made = {DeployId("i-7"): times.pop("made")}
    assert not to_destroy([sighting(**times)], made=made, rules=RULES, now=599.0)
    assert to_destroy([sighting(**times)], made=made, rules=RULES, now=600.0)
    assert not to_destroy([sighting(**times)], made=made, rules=RULES, now=-1e9), "the clock was set back"
