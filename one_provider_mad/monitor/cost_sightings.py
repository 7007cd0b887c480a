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


def instance_sightings(
    instances: Iterable[Instance], provider: PriceSource, *, owner: str, owners: Owners
) -> list[Sighting]:
    """Return what the ledger books of a listing: the instances with tags of this owner.

    Args:
        instances: the listing.
        provider: knows the prices.
        owner: the owner that the tags of our instances name.
        owners: users and groups of VMs.
    """
    price_of, kind_of, terminated = provider.price_of, provider.kind_of, InstanceState.TERMINATED
    found = []
    for each in instances:
        identity = each.identity
        if identity is None or identity.owner != owner:
            continue
        type_name, market = kind_of(each)
        found.append(
            Sighting(
                each.deploy_id,
                price_of(each),
                INSTANCE,
                each.state.value,
                type_name,
                market,
                identity.vm_id,
                identity.stime,
                identity.host_id,
                owners.get((identity.vm_id, identity.stime), NOBODY),
                each.created_at,
                each.state_since,
                each.state is terminated,
            )
        )
    return found


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
