"""The values that the ledger holds; neither files nor SQL, so that pure code may import them."""

from __future__ import annotations

from one_provider_mad.domain import Value, VmOwner

INSTANCE = "instance"
"""`kind` of a span of an instance; others are the kinds of `UnusedResource` (providers/interface.py)."""


class Span(Value, frozen=True, kw_only=True, gc=False):
    """A stretch of time in which one thing cost the same.

    Attributes:
        name: NAME of the driver whose ledger has it.
        thing: the cloud's id of the instance, volume, address or snapshot.
        kind: INSTANCE, `volume`, `address`, `snapshot`.
        vm_id: its VM's number, -1 for none.
        stime: STIME of the VM, 0 when unknown.
        owner: user and group of the VM.
        type_name: the instance's type, "" when unknown or for other things.
        market: market of the instance (pricing/values.py), "" for other things.
        state: the instance's state, as InstanceState's value; "" for other things.
        begin: seconds since the epoch.
        end: seconds since the epoch; of an open span the time when the thing was last seen.
        is_open: the thing is still as it was when it was last seen.
        is_seen: False: nobody looked during this time, and `state` and price are those from before: an assumption.
        amount: units of currency an hour; None when a part of the price was unknown.
        known: sum of the known parts of the price, units of currency an hour; the same as `amount` unless that is None.
        currency: ISO 4217 code, "" where the cloud names none.
    """

    name: str
    thing: str
    kind: str = INSTANCE
    vm_id: int = -1
    stime: int = 0
    owner: VmOwner = VmOwner()
    type_name: str = ""
    market: str = ""
    state: str = ""
    begin: float
    end: float
    is_open: bool = False
    is_seen: bool = True
    amount: float | None
    known: float = 0.0
    currency: str = ""


class Total(Value, frozen=True, kw_only=True):
    """What some spans cost within some time.

    Attributes:
        booked: units of currency, of the known parts of what was seen.
        assumed: units of currency of times that nobody saw, at the price from before.
        unpriced_seconds: seconds, seen or not, in which a part of the price was unknown.
        seconds: seconds of all spans together.
        unseen_seconds: seconds of them that nobody saw.
        currency: ISO 4217 code; "" where there is none.
    """

    booked: float = 0.0
    assumed: float = 0.0
    unpriced_seconds: float = 0.0
    seconds: float = 0.0
    unseen_seconds: float = 0.0
    currency: str = ""
