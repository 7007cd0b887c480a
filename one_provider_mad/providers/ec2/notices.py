"""EC2's own plans for instances: scheduled events, and spot instances that it takes back.

From docs.aws.amazon.com: API_DescribeInstanceStatus, "Scheduled events for your instances" (the description of one that
is over begins with a word in brackets), and "Get the status of a Spot Instance request".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from one_provider_mad.domain import DeployId, Instance, Value
from one_provider_mad.providers.ec2.batches import in_batches
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.instances import STATE_REASON
from one_provider_mad.providers.ec2.query import filtered
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

EVENTS = ("instance-reboot", "system-reboot", "system-maintenance", "instance-retirement", "instance-stop")
"""Every code of a scheduled event; as a filter they leave out all instances without one."""

MARKED = ("marked-for-termination", "marked-for-stop")
"""States of a spot request whose instance has two minutes left."""

ENDED = (
    "instance-terminated-by-price",
    "instance-terminated-no-capacity",
    "instance-terminated-capacity-oversubscribed",
    "instance-stopped-by-price",
    "instance-stopped-no-capacity",
    "instance-stopped-capacity-oversubscribed",
)
"""States of a spot request whose instance EC2 has taken back."""

TAKEN_BACK = "Server.Spot"
"""Prefix of the state reason of an instance that EC2 ended for lack of capacity, or of a high enough price
(`Server.SpotInstanceTermination`)."""

LIFECYCLE = "AWS_INSTANCE_LIFECYCLE"
EVENT, EVENT_FROM, EVENT_TEXT = "AWS_SCHEDULED_EVENT", "AWS_SCHEDULED_EVENT_FROM", "AWS_SCHEDULED_EVENT_TEXT"
INTERRUPTION, INTERRUPTION_SINCE = "AWS_SPOT_INTERRUPTION", "AWS_SPOT_INTERRUPTION_SINCE"
NOTICE_NAMES = (EVENT, EVENT_FROM, EVENT_TEXT, INTERRUPTION, INTERRUPTION_SINCE)
"""Every attribute for EC2's plans."""

_MOST_SAID = 10_000


class Notice(Value, frozen=True, kw_only=True):
    """One plan of EC2 for one instance.

    Attributes:
        deploy_id: the instance.
        code: EC2's word.
        at: when it begins, or was decided, as EC2 writes it.
        text: EC2's sentence, "" for none.
    """

    deploy_id: DeployId
    code: str
    at: str
    text: str = ""


class Notices:
    """EC2's plans for instances.

    Args:
        client: the connection to the cloud.
        warn: sends the operator one sentence.
    """

    def __init__(self, client: Client, *, warn: Callable[[str], None]) -> None:
        self._client = client
        self._warn = warn
        self._said: set[tuple[DeployId, str, str]] = set()
        self._scheduled: dict[DeployId, dict[str, str]] = {}
        self._interrupted: dict[DeployId, dict[str, str]] = {}

    async def learn_events(self, instances: Sequence[Instance]) -> None:
        """Ask EC2 for scheduled events, and warn of each once.

        Raises:
            ProviderError: EC2 did not answer; the events learnt before stay.
        """
        ours = await _by_id(instances)
        found: dict[DeployId, dict[str, str]] = {}
        for notice in await self._events():
            if notice.deploy_id in ours:
                found.setdefault(notice.deploy_id, _event_attributes(notice))
                sentence = f"has a scheduled event, {notice.code} from {notice.at} on: {notice.text}"
                self._report(ours[notice.deploy_id], notice.code, notice.at, sentence)
        self._scheduled = found

    async def learn_interruptions(self, instances: Sequence[Instance]) -> None:
        """Ask EC2 which spot instances it takes back or has taken back, and warn of each once.

        EC2 is asked while there are spot instances, also of ended ones, for an hour: they keep their attributes.

        Raises:
            ProviderError: EC2 did not answer; the interruptions learnt before stay.
        """
        taken = await in_batches(instances, _taken_back)
        for each in taken:
            reason = each.attributes[STATE_REASON]
            self._report(each, reason, "", f"was taken back by EC2: {each.reason or reason}")
        # EC2 forgets requests, but tells an instance's own reason as long as it lists the instance.
        found = {each.deploy_id: {INTERRUPTION: each.attributes[STATE_REASON]} for each in taken}
        if await in_batches(instances, _spot_instances) or taken:
            ours = await _by_id(instances)
            for notice in await self._interruptions():
                if notice.deploy_id in ours:
                    found[notice.deploy_id] = _interruption_attributes(notice)
                    if notice.code in MARKED:
                        sentence = f"is being taken back by EC2 within two minutes, {notice.code} since {notice.at}"
                        self._report(ours[notice.deploy_id], notice.code, notice.at, sentence)
        self._interrupted = found

    def of(self, instance: Instance) -> Mapping[str, str]:
        """Return the attributes for EC2's plans for an instance."""
        scheduled = self._scheduled.get(instance.deploy_id, {})
        return {**scheduled, **self._interrupted.get(instance.deploy_id, {})}

    async def _events(self) -> list[Notice]:
        """Return scheduled events, the next of each instance first."""
        requested = {**filtered({"event.code": EVENTS}), "MaxResults": "1000"}
        pages = self._client.pages("DescribeInstanceStatus", requested, read=read_events)
        return sorted([each async for page in pages for each in page], key=lambda each: each.at)

    async def _interruptions(self) -> list[Notice]:
        requested = {**filtered({"status-code": (*MARKED, *ENDED)}), "MaxResults": "1000"}
        pages = self._client.pages("DescribeSpotInstanceRequests", requested, read=read_interruptions)
        return [each async for page in pages for each in page]

    def _report(self, instance: Instance, code: str, at: str, sentence: str) -> None:
        said = (instance.deploy_id, code, at)
        if len(self._said) >= _MOST_SAID:
            self._said.clear()  # better a warning twice than endless memory
        if said not in self._said:
            self._said.add(said)
            vm = f" of VM {instance.identity.vm_id}" if instance.identity else ""
            self._warn(f"instance {instance.deploy_id}{vm} {sentence}")


async def _by_id(instances: Sequence[Instance]) -> dict[DeployId, Instance]:
    return dict(await in_batches(instances, lambda part: [(each.deploy_id, each) for each in part]))


def is_taken_back(instance: Instance) -> bool:
    """Return True for an instance that EC2 itself ended, to have its room or for its price."""
    return instance.attributes.get(STATE_REASON, "").startswith(TAKEN_BACK)


def _taken_back(instances: Sequence[Instance]) -> list[Instance]:
    return [each for each in instances if is_taken_back(each)]


def _spot_instances(instances: Sequence[Instance]) -> list[Instance]:
    return [each for each in instances if is_spot_instance(each)]


def is_spot_instance(instance: Instance) -> bool:
    """Return True for a spot instance that has not ended."""
    return instance.attributes.get(LIFECYCLE) == "spot" and not instance.state.is_gone


def read_events(root: Element) -> list[Notice]:
    """Return the future events of a DescribeInstanceStatus answer."""
    return [
        Notice(
            deploy_id=DeployId(text_of(item.find("instanceId"))),
            code=text_of(event.find("code")),
            at=text_of(event.find("notBefore")),
            text=text,
        )
        for item in elements_at(root, "instanceStatusSet/item")
        for event in elements_at(item, "eventsSet/item")
        if not (text := text_of(event.find("description"))).startswith(("[Completed]", "[Canceled]"))
    ]


def read_interruptions(root: Element) -> list[Notice]:
    """Return the spot requests of a DescribeSpotInstanceRequests answer whose instances EC2 takes or took back."""
    return [
        Notice(
            deploy_id=DeployId(text_of(item.find("instanceId"))),
            code=code,
            at=text_of(element_at(item, "status/updateTime")),
            text=text_of(element_at(item, "status/message")),
        )
        for item in elements_at(root, "spotInstanceRequestSet/item")
        if (code := text_of(element_at(item, "status/code"))) in (*MARKED, *ENDED)
    ]


def _event_attributes(notice: Notice) -> dict[str, str]:
    return {EVENT: notice.code, EVENT_FROM: notice.at, EVENT_TEXT: notice.text}


def _interruption_attributes(notice: Notice) -> dict[str, str]:
    return {INTERRUPTION: notice.code, INTERRUPTION_SINCE: notice.at}
