"""What is remembered of VMs that no listing shows any more."""

from __future__ import annotations

from one_provider_mad.domain import Identity, VmId
from one_provider_mad.providers.opennebula import listing
from one_provider_mad.providers.opennebula.listing import Remembered


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
