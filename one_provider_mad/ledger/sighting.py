"""One thing that may cost, as one listing shows it."""

from __future__ import annotations

from typing import NamedTuple

from one_provider_mad.domain import VmOwner
from one_provider_mad.ledger.records import INSTANCE
from one_provider_mad.pricing.values import Price

Thing = tuple[str, str]
"""Kind and id of an instance or a loose resource."""

NOBODY = VmOwner()
"""The owner of a VM of which the journal has none."""


class Sighting(NamedTuple):
    """One thing in one listing; a tuple, since there are 10,000 in each.

    Attributes:
        thing: the cloud's id.
        price: what it costs an hour.
        kind: INSTANCE, `volume`, `address`, `snapshot`.
        state: the instance's state, as InstanceState's value; "" for other things.
        type_name: the instance's type, "" when unknown.
        market: its market, "" for other things.
        vm_id: its VM's number, -1 for none.
        stime: STIME of the VM.
        host_id: number of its OpenNebula host, -1 for none.
        owner: user and group of the VM, NOBODY while unknown.
        created_at: when it was created, by the cloud, seconds since the epoch; 0 when unknown.
        state_since: since when it is in this state, by the cloud, seconds since the epoch; 0 when unknown.
        has_ended: it is terminated, and costs nothing any more.
    """

    thing: str
    price: Price
    kind: str = INSTANCE
    state: str = ""
    type_name: str = ""
    market: str = ""
    vm_id: int = -1
    stime: int = 0
    host_id: int = -1
    owner: VmOwner = NOBODY
    created_at: float = 0.0
    state_since: float = 0.0
    has_ended: bool = False

    @property
    def key(self) -> Thing:
        """Return kind and id."""
        return self.kind, self.thing
