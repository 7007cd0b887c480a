"""Turns listed instances and loose resources into what the ledger books; calls no cloud."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmOwner
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.reader import read_ends
from one_provider_mad.ledger.booking import Entry, PriceAs
from one_provider_mad.ledger.records import INSTANCE
from one_provider_mad.ledger.sighting import NOBODY, Sighting, Thing
from one_provider_mad.pricing.values import UNKNOWN, Price
from one_provider_mad.providers.interface import PriceSource, UnusedResource

LOOSE_KINDS = frozenset({"volume", "address", "snapshot"})
"""Kinds of `UnusedResource` that cost money."""

Owners = Mapping[tuple[int, int], VmOwner]
"""User and group by VM ID and STIME."""


Kept = dict[str, tuple[Identity, InstanceState, Sighting]]
"""What the latest listing showed of each instance, by its id."""


def instance_sightings(
    instances: Collection[Instance], provider: PriceSource, *, owner: str, owners: Owners, kept: Kept | None = None
) -> list[Sighting]:
    """Return what the ledger books of a listing: the instances with tags of this owner.

    Args:
        instances: the listing.
        provider: knows the prices.
        owner: the owner that the tags of our instances name.
        owners: users and groups of VMs.
        kept: what the listing before showed, brought up to date here; what has not changed keeps its object.
    """
    price_of, kind_of, kept = provider.price_of, provider.kind_of, {} if kept is None else kept
    if len(kept) > 2 * len(instances):
        kept.clear()
    found = []
    for each in instances:
        identity = each.identity
        if identity is None or identity.owner != owner:
            continue
        price, (type_name, market) = price_of(each), kind_of(each)
        vm_owner = owners.get((identity.vm_id, identity.stime), NOBODY) if owners else NOBODY
        before = kept.get(each.deploy_id)
        if before is not None:
            known_identity, state, seen = before
            if (
                seen.price is price
                and state is each.state
                and seen.state_since == each.state_since
                and seen.created_at == each.created_at
                and seen.type_name == type_name
                and seen.market == market
                and (known_identity is identity or known_identity == identity)
                and (seen.owner is vm_owner or seen.owner == vm_owner)
            ):
                found.append(seen)
                continue
        seen = _sighting(each, identity, price, (type_name, market), vm_owner)
        kept[each.deploy_id] = identity, each.state, seen
        found.append(seen)
    return found


def _sighting(each: Instance, identity: Identity, price: Price, kind: tuple[str, str], owner: VmOwner) -> Sighting:
    type_name, market = kind
    return Sighting(
        thing=each.deploy_id,
        price=price,
        state=each.state.value,
        type_name=type_name,
        market=market,
        vm_id=identity.vm_id,
        stime=identity.stime,
        host_id=identity.host_id,
        owner=owner,
        created_at=each.created_at,
        state_since=each.state_since,
        has_ended=each.state is InstanceState.TERMINATED,
    )


def loose_sightings(resources: Iterable[UnusedResource], *, owners: Owners) -> list[Sighting]:
    """Return what the ledger books of volumes, addresses and snapshots that no instance uses."""
    return [_loose(each, owners) for each in resources if each.kind in LOOSE_KINDS]


def _loose(resource: UnusedResource, owners: Owners) -> Sighting:
    identity: Identity | None = resource.identity
    vm_id, stime = (identity.vm_id, identity.stime) if identity is not None else (-1, 0)
    return Sighting(
        thing=resource.part_id,
        kind=resource.kind,
        price=resource.price or UNKNOWN,
        vm_id=vm_id,
        stime=stime,
        owner=owners.get((vm_id, stime), NOBODY),
    )


def prices_as(instances: Iterable[Instance], provider: PriceSource) -> PriceAs:
    """Return a function that says what an instance of the listing would cost in another state."""
    by_id: dict[str, Instance] = {}

    def price_as(seen: Sighting, state: InstanceState) -> Price:
        if not by_id:  # most listings have no new instance
            by_id.update((each.deploy_id, each) for each in instances)
        instance = by_id.get(seen.thing)
        return UNKNOWN if instance is None else provider.price_of(instance, state=state)

    return price_as


def ends_in(journal: Path, missing: Collection[Entry]) -> Mapping[Thing, float]:
    """Return when the action driver ended missing instances; none while its journal cannot be read."""
    try:
        ends = read_ends(journal, [DeployId(entry.span.thing) for entry in missing if entry.span.kind == INSTANCE])
    except JournalError:
        return {}  # sweeps fail of it, and say so
    return {(INSTANCE, str(deploy_id)): at for deploy_id, at in ends.items()}
