"""Facts of the volumes of instances, read beside the sweeps for their prices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from one_provider_mad.providers.ec2.client import MOST_VALUES, Client
from one_provider_mad.providers.ec2.query import filtered
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts, read_facts
from one_provider_mad.safe_xml import Element, elements_at, text_of

PERIOD = 300.0
"""Seconds after which a volume is asked for again."""

SOON = 30.0
"""Seconds after which one is asked for again that EC2 has not listed."""

KEPT = 3600.0
"""Fewest seconds for which a volume is remembered after it was last asked for."""

_FEW = 5 * MOST_VALUES
"""Volumes up to which they are asked for by id; beyond, all attached ones of the region are listed."""


def read_volume_facts(root: Element) -> dict[str, VolumeFacts]:
    """Return the facts in a DescribeVolumes answer by the volume's id."""
    return {
        text_of(item.find("volumeId")): read_facts(item, size="size") for item in elements_at(root, "volumeSet/item")
    }


class Volumes:
    """The facts of volumes, each asked for again after some minutes.

    A call names the volumes of a whole listing, or of the one instance that is about to be started: what is known of
    others stays.

    Args:
        client: the connection to EC2.
        clock: seconds of a clock that never goes back.

    Attributes:
        facts: by the volume's id.
    """

    def __init__(self, client: Client, *, clock: Callable[[], float]) -> None:
        self.facts: dict[str, VolumeFacts] = {}
        self._client = client
        self._clock = clock
        self._due: dict[str, float] = {}

    async def learn(self, wanted: Collection[str]) -> bool:
        """Ask for those of these volumes that are due; return True when a fact has changed.

        Raises:
            ProviderError: EC2 refused, or did not answer; what was known before stays.
        """
        now = self._clock()
        due = [each for each in wanted if now >= self._due.get(each, now)]
        if not due:
            return False
        self._due.update(dict.fromkeys(due, now + SOON))
        found = await volumes_of(self._client, due)
        self._due.update(dict.fromkeys(found, now + PERIOD))
        is_change = any(self.facts.get(each) != facts for each, facts in found.items())
        self.facts.update(found)
        self._forget(now, most=2 * len(wanted) + _FEW)
        return is_change

    def _forget(self, now: float, *, most: int) -> None:
        """Drop volumes that were not asked for during an hour, if there are many."""
        if len(self._due) > most:
            old = [each for each, at in self._due.items() if at < now - KEPT]
            for each in old:
                del self._due[each]
                self.facts.pop(each, None)


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
