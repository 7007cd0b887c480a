"""Facts of the volumes of instances, read beside the sweeps for their prices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from one_provider_mad.providers.ec2.client import MOST_VALUES, Client
from one_provider_mad.providers.ec2.query import filtered
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts, read_facts
from one_provider_mad.safe_xml import Element, elements_at, text_of

_FEW = 5 * MOST_VALUES
"""Volumes up to which they are asked for by id; beyond, all attached ones of the region are listed."""


def read_volume_facts(root: Element) -> dict[str, VolumeFacts]:
    """Return the facts in a DescribeVolumes answer by the volume's id."""
    return {
        text_of(item.find("volumeId")): read_facts(item, size="size") for item in elements_at(root, "volumeSet/item")
    }


async def volumes_of(client: Client, volume_ids: Collection[str]) -> Mapping[str, VolumeFacts]:
    """Return the facts of these volumes by id; those that EC2 does not list are left out.

    Raises:
        ProviderError: EC2 refused, or did not answer.
    """
    wanted = sorted(set(volume_ids))
    if len(wanted) > _FEW:
        listed = await _volumes(client, {"attachment.status": ["attached", "attaching", "detaching", "busy"]})
        return {each: listed[each] for each in wanted if each in listed}
    found: dict[str, VolumeFacts] = {}
    for at in range(0, len(wanted), MOST_VALUES):
        # By filter: a call with ids is refused for one that is gone.
        found |= await _volumes(client, {"volume-id": wanted[at : at + MOST_VALUES]})
    return found


async def _volumes(client: Client, filters: Mapping[str, Sequence[str]]) -> dict[str, VolumeFacts]:
    pages = client.pages("DescribeVolumes", {**filtered(filters), "MaxResults": "500"}, read=read_volume_facts)
    return {volume_id: facts async for page in pages for volume_id, facts in page.items()}
