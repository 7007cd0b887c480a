"""EC2's own plans for instances: DescribeInstanceStatus, DescribeSpotInstanceRequests."""

from __future__ import annotations

from collections.abc import Callable

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.lab.ec2 import forms, shown
from one_provider_mad.lab.ec2.answers import Answer, moment
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.instances import Instances
from one_provider_mad.lab.ec2.resources import Event, Resources, events_planned, plan_event
from one_provider_mad.providers.simulated import table
from one_provider_mad.providers.simulated.cloud import NOTICE_SECONDS

INTERRUPTIONS = ("marked-for-termination", "marked-for-stop")
"""Plans that are part of the spot request, not of the instance."""


TAKEN_BACK = "Server.SpotInstanceTermination"
"""The state reason of a spot instance that EC2 has taken back."""


async def interrupt(resources: Resources, instance_id: str, *, notice: float = NOTICE_SECONDS) -> None:
    """Take back a running spot instance: its request is marked now, and the instance ends after the notice.

    Args:
        resources: the account; any process may open it.
        instance_id: the instance.
        notice: seconds until it ends; EC2 gives two minutes.

    Raises:
        ProviderError: there is no such instance, or it does not run.
    """
    await resources.cloud.interrupt(DeployId(instance_id), notice=notice, reason=TAKEN_BACK)
    description = "Your Spot instance has been marked for termination."
    event = Event(
        number=0, instance_id=instance_id, code=INTERRUPTIONS[0], description=description, not_before=resources.clock()
    )
    await resources.write(lambda db: plan_event(db, event))


class Plans:
    """The plans in one account.

    Args:
        resources: the account.
        instances: its instances.
    """

    def __init__(self, resources: Resources, instances: Instances) -> None:
        self._resources = resources
        self._instances = instances

    async def status(self, form: Form) -> Answer:
        """Carry out DescribeInstanceStatus: running instances, with scheduled events."""
        page = forms.Page.of(form, named="InstanceId")
        view = await self._instances.read_named(form)
        planned = await self._resources.read(events_planned)
        events = {
            instance_id: [event for event in each if event.code not in INTERRUPTIONS]
            for instance_id, each in planned.items()
        }
        is_all = forms.is_true(form, "IncludeAllInstances")
        candidates = [row for row in view.rows if is_all or row.state_at(view.now) is InstanceState.RUNNING]
        fields: dict[str, Callable[[table.Row], str]] = {
            **shown.fields(view, self._resources),
            "event.code": lambda row: next((event.code for event in events.get(row.id, ())), ""),
        }
        wanted = forms.matching(candidates, forms.filters(form), tags=shown.tags, fields=fields)
        rows, more = page.cut(wanted, lambda row: row.number)
        answered = [shown.status(row, view.now, events.get(row.id, ()), self._resources) for row in rows]
        return {"instanceStatusSet": answered, **more}

    async def spot_requests(self, form: Form) -> Answer:
        """Carry out DescribeSpotInstanceRequests: each spot instance has one request, of the type one-time."""
        view = await self._resources.view()
        planned = await self._resources.read(events_planned)
        spot = [row for row in view.rows if shown.details(row).get("InstanceMarketOptions.MarketType") == "spot"]
        interruptions = {
            row.id: event for row in spot for event in planned.get(row.id, ()) if event.code in INTERRUPTIONS
        }
        codes = {row.id: _code(row, view.now, interruptions.get(row.id)) for row in spot}
        asked = forms.listed(form, "SpotInstanceRequestId")
        wanted = forms.matching(
            [row for row in spot if not asked or shown.spot_request(row) in asked],
            forms.filters(form),
            tags=shown.tags,
            fields={
                "status-code": lambda row: codes[row.id],
                "instance-id": lambda row: row.id,
                "spot-instance-request-id": shown.spot_request,
            },
        )
        rows, more = forms.Page.of(form).cut(wanted, lambda row: row.number)
        answered = [
            {
                "spotInstanceRequestId": shown.spot_request(row),
                "instanceId": row.id,
                "type": "one-time",
                "state": "closed" if row.state_at(view.now).is_gone else "active",
                "status": {
                    "code": codes[row.id],
                    "message": interruptions[row.id].description if row.id in interruptions else codes[row.id],
                    "updateTime": moment(
                        interruptions[row.id].not_before if row.id in interruptions else row.created_at
                    ),
                },
                "createTime": moment(row.created_at),
            }
            for row in rows
        ]
        return {"spotInstanceRequestSet": answered, **more}


def _code(row: table.Row, now: float, interruption: Event | None) -> str:
    if row.state_at(now).is_gone:
        return "instance-terminated-no-capacity" if row.reason == TAKEN_BACK else "instance-terminated-by-user"
    return interruption.code if interruption else "fulfilled"
