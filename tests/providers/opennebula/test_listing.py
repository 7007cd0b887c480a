"""What is remembered of VMs that no listing shows any more."""

from __future__ import annotations

import gc

from lxml import etree

from one_provider_mad.domain import Identity, VmId
from one_provider_mad.providers.opennebula import listing
from one_provider_mad.providers.opennebula.listing import Remembered
from one_provider_mad.providers.opennebula.machine import read_seen


def who(vm_id: int, *, seq: int = 0) -> Identity:
    return Identity(owner="tests", vm_id=VmId(vm_id), stime=5, seq=seq, host_id=1)


def test_a_vm_is_remembered_under_whom_it_was_seen_to_be_last() -> None:
    remembered = Remembered()
    remembered.note(7, who(1))
    remembered.note(8, who(1, seq=1))
    assert remembered.numbers("tests", VmId(1)) == {7, 8}
    remembered.note(7, who(2))
    assert remembered.numbers("tests", VmId(1)) == {8}
    assert remembered.numbers("tests", VmId(2)) == {7}
    assert remembered.identity(7) == who(2)
    assert remembered.identity(9) is None


def test_only_so_many_are_remembered() -> None:
    remembered = Remembered()
    limit = listing._MOST_REMEMBERED
    for number in range(limit + 10):
        remembered.note(number, who(number))
    assert remembered.identity(9) is None
    assert remembered.identity(10) == who(10)
    assert not remembered.numbers("tests", VmId(9))


def test_what_is_kept_of_ten_thousand_vms_is_not_walked_through_by_each_garbage_collection() -> None:
    """A full one holds up the event loop for as long as it takes to visit what it tracks."""
    vm = etree.fromstring("<VM><ID>1</ID><STATE>3</STATE><LCM_STATE>3</LCM_STATE></VM>")
    first, second = read_seen(vm), read_seen(vm)
    assert not gc.is_tracked(first)
    assert first.state is second.state
