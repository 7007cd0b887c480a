"""Identities remembered of VMs that listings no longer show."""

from __future__ import annotations

import gc

from lxml import etree

from one_provider_mad.domain import Identity, VmId
from one_provider_mad.providers.opennebula import listing
from one_provider_mad.providers.opennebula.listing import Remembered
from one_provider_mad.providers.opennebula.machine import read_listed_vm


def who(vm_id: int, *, seq: int = 0) -> Identity:
    return Identity(owner="tests", vm_id=VmId(vm_id), stime=5, seq=seq, host_id=1)


def test_a_vm_is_remembered_with_the_identity_it_was_last_listed_with() -> None:
    remembered = Remembered()
    remembered.note(7, who(1))
    remembered.note(8, who(1, seq=1))
    assert remembered.numbers("tests", VmId(1)) == {7, 8}
    remembered.note(7, who(2))
    assert remembered.numbers("tests", VmId(1)) == {8}
    assert remembered.numbers("tests", VmId(2)) == {7}
    assert remembered.identity(7) == who(2)
    assert remembered.identity(9) is None


def test_beyond_a_limit_the_oldest_remembered_vm_is_forgotten() -> None:
    remembered = Remembered()
    limit = listing._MOST_REMEMBERED
    for number in range(limit + 10):
        remembered.note(number, who(number))
    assert remembered.identity(9) is None
    assert remembered.identity(10) == who(10)
    assert not remembered.numbers("tests", VmId(9))


def test_listed_vms_are_not_tracked_by_the_garbage_collector() -> None:
    """A full collection blocks the event loop until it has visited every tracked object."""
    vm = etree.fromstring("<VM><ID>1</ID><STATE>3</STATE><LCM_STATE>3</LCM_STATE></VM>")
    first, second = read_listed_vm(vm), read_listed_vm(vm)
    assert not gc.is_tracked(first)
    assert first.state is second.state
