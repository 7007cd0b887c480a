"""Figures of instances from CloudWatch: many metrics a call, and bytes added up to OpenNebula's counters.

From docs.aws.amazon.com: API_GetMetricData (500 metrics and 100,800 points a call, further ones in pages; points of
five minutes are kept for 63 days, of an hour and more for 455) and "CloudWatch metrics that are available for your
instances". CloudWatch gives the bytes of each five minutes, OpenNebula's counters never go back: so the sum of all days
before is read once, and each further point is added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from one_provider_mad.domain import DeployId, Instance, Usage, Value, whole_number
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.providers.ec2.batches import in_batches
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.interface import Figures, Size
from one_provider_mad.safe_xml import Element, elements_at, text_of

MOST_METRICS = 500
"""Limit of metrics in one call."""

PERIOD = 300
"""Seconds of one point: basic monitoring, which costs nothing by itself."""

SETTLING = 300
"""Seconds after a point's five minutes from which on its value is final; on Nitro it exists, and grows, during them."""

DAY = 86400
LONGEST_KEPT = 455 * DAY

CPU = "CPUUtilization"
RECEIVED, SENT = "NetworkIn", "NetworkOut"
READ, WRITTEN = ("EBSReadBytes", "DiskReadBytes"), ("EBSWriteBytes", "DiskWriteBytes")
"""Metrics of bytes read and written: on EBS volumes (Nitro), on instance store volumes; an instance has one or both."""

DISK_NAMES = {"DISKRDBYTES": READ, "DISKWRBYTES": WRITTEN}
"""Attributes of volumes, and the metrics that are added up for each."""

STILL_TRUE = 3 * PERIOD
"""Seconds for which the last CPU figure counts; after that the instance shows none."""


class Series(Value, frozen=True, kw_only=True):
    """The values of one metric in an answer.

    Attributes:
        total: sum of the points that count.
        last: value of the latest point, counted in `total` or not.
        last_at: beginning of that point, seconds since the epoch, 0 for none.
    """

    total: float = 0.0
    last: float = 0.0
    last_at: float = 0.0

    def __add__(self, later: Series) -> Series:
        """Return these values together with the same metric's on a further page."""
        latest = max(self, later, key=lambda each: each.last_at)
        return Series(total=self.total + later.total, last=latest.last, last_at=latest.last_at)


class Counted(Value, frozen=True, kw_only=True):
    """The figures of one instance so far.

    Attributes:
        until: end of the time whose bytes are counted, seconds since the epoch.
        totals: metric to bytes.
        cpu: percent of all its cores; None while CloudWatch has no recent figure.
    """

    until: float
    totals: Mapping[str, float]
    cpu: float | None = None


class CloudWatch:
    """The figures of instances.

    Args:
        client: the connection to CloudWatch.
        sizes: cores of each instance type.
        with_disks: ask for reads and writes of volumes as well; each metric costs.
        clock: seconds since the epoch.
    """

    def __init__(
        self, client: Client, sizes: Mapping[str, Size], *, with_disks: bool, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._sizes = sizes
        self._clock = clock
        self._bytes = (RECEIVED, SENT, *(READ + WRITTEN if with_disks else ()))
        self._counted: dict[DeployId, Counted] = {}

    async def learn(self, instances: Sequence[Instance]) -> None:
        """Read the figures of running instances from CloudWatch.

        Raises:
            ProviderError: the figures are not available; those learnt before stay.
        """
        now = self._clock()
        settled = (now - SETTLING) // PERIOD * PERIOD
        new = await in_batches(instances, lambda part: [each for each in part if self._is_new(each, now)])
        for part in _parts(new, MOST_METRICS // len(self._bytes)):
            await self._count_days(part, until=(now - 2 * SETTLING) // DAY * DAY)
        ready = sorted(instances, key=lambda each: self._counted[each.deploy_id].until)
        for part in _parts(ready, MOST_METRICS // (1 + len(self._bytes))):
            await self._count_on(part, now=now, until=settled)

    def _is_new(self, instance: Instance, now: float) -> bool:
        """Return True for an instance without figures, or stopped for so long that a whole day of them is missing."""
        counted = self._counted.get(instance.deploy_id)
        return counted is None or counted.until < now - DAY - 2 * SETTLING

    async def _count_days(self, instances: Sequence[Instance], *, until: float) -> None:
        requested = [(each.deploy_id, name) for each in instances for name in self._bytes]
        found = await self._ask(requested, period=DAY, start=until - LONGEST_KEPT, end=until, counts=lambda *_: True)
        for each in instances:
            totals = {name: found.get((each.deploy_id, name), Series()).total for name in self._bytes}
            self._counted[each.deploy_id] = Counted(until=until, totals=totals)

    async def _count_on(self, instances: Sequence[Instance], *, now: float, until: float) -> None:
        requested = [(each.deploy_id, name) for each in instances for name in (CPU, *self._bytes)]
        before = {each.deploy_id: self._counted[each.deploy_id] for each in instances}
        start = min(now // PERIOD * PERIOD - STILL_TRUE, *(each.until for each in before.values()))

        def counts(deploy_id: DeployId, at: float) -> bool:
            return before[deploy_id].until <= at < until

        found = await self._ask(requested, period=PERIOD, start=start, end=now, counts=counts)
        for deploy_id, counted in before.items():
            cpu = found.get((deploy_id, CPU), Series())
            self._counted[deploy_id] = Counted(
                until=max(until, counted.until),
                totals={
                    name: counted.totals[name] + found.get((deploy_id, name), Series()).total for name in self._bytes
                },
                cpu=cpu.last if cpu.last_at > now - STILL_TRUE - PERIOD else None,
            )

    async def _ask(
        self,
        requested: Sequence[tuple[DeployId, str]],
        *,
        period: int,
        start: float,
        end: float,
        counts: Callable[[DeployId, float], bool],
    ) -> dict[tuple[DeployId, str], Series]:
        call = {
            "StartTime": _moment(start),
            "EndTime": _moment(end),
            "ScanBy": "TimestampAscending",
            **{key: value for number, each in enumerate(requested, 1) for key, value in _query(number, *each, period)},
        }
        found: dict[tuple[DeployId, str], Series] = {}
        read = partial(read_series, requested=requested, counts=counts)
        async for page in self._client.pages("GetMetricData", call, read=read):
            for key, series in page.items():
                found[key] = found.get(key, Series()) + series
        return found

    def keep(self, instances: Sequence[Instance]) -> None:
        """Drop the figures of all other instances, since these are all that exist."""
        kept = {each.deploy_id for each in instances}
        self._counted = {deploy_id: counted for deploy_id, counted in self._counted.items() if deploy_id in kept}

    def of(self, instance: Instance, *, is_running: bool) -> Figures | None:
        """Return an instance's figures in OpenNebula's units, with its type's memory; None while there are none."""
        counted = self._counted.get(instance.deploy_id)
        if counted is None:
            return None
        size = self._sizes.get(instance.attributes.get("AWS_INSTANCE_TYPE", ""))
        usage = Usage(
            cpu=_of_cores(counted.cpu, size) if is_running else 0.0,
            memory=1024 * size.memory if size else 0,
            net_rx=round(counted.totals[RECEIVED]),
            net_tx=round(counted.totals[SENT]),
        )
        attributes = {
            attribute: str(round(sum(counted.totals[name] for name in names)))
            for attribute, names in DISK_NAMES.items()
            if names[0] in counted.totals
        }
        return Figures(usage=usage, attributes=attributes)


def _of_cores(cpu: float | None, size: Size | None) -> float | None:
    """Return per cent of one core, as OpenNebula counts; CloudWatch's 100 is all cores. None when either is unknown."""
    return None if cpu is None or size is None else round(cpu * size.cpu, 2)


def read_series(
    root: Element, *, requested: Sequence[tuple[DeployId, str]], counts: Callable[[DeployId, float], bool]
) -> dict[tuple[DeployId, str], Series]:
    """Return the sums of one page of a GetMetricData answer, by instance and metric.

    Args:
        root: the answer.
        requested: instance and metric of `m1`, `m2`...
        counts: whether a point of an instance, by its time, is to be added.

    Raises:
        ProviderUnavailable: CloudWatch could not read a metric.
    """
    found = {}
    for member in elements_at(root, "GetMetricDataResult/MetricDataResults/member"):
        if (status := text_of(member.find("StatusCode"))) not in ("Complete", "PartialData"):
            raise ProviderUnavailable(f"CloudWatch could not read a metric: {status[:40] or 'no StatusCode'}")
        key = _requested_as(text_of(member.find("Id")), requested)
        points = _points(member)
        last_at = max(points, default=0.0)
        found[key] = Series(
            total=sum(value for at, value in points.items() if counts(key[0], at)),
            last=points.get(last_at, 0.0),
            last_at=last_at,
        )
    return found


def _requested_as(query: str, requested: Sequence[tuple[DeployId, str]]) -> tuple[DeployId, str]:
    number = whole_number(query.removeprefix("m"))
    if number is None or not 1 <= number <= len(requested):
        raise ProviderUnavailable(f"CloudWatch answers for a metric that was not requested: {query[:40]!r}")
    return requested[number - 1]


def _points(member: Element) -> dict[float, float]:
    """Return the values of a metric by their times."""
    try:
        times = [_seconds(text_of(each)) for each in elements_at(member, "Timestamps/member")]
        values = [float(text_of(each)) for each in elements_at(member, "Values/member")]
        return dict(zip(times, values, strict=True))
    except (ValueError, OverflowError) as error:
        raise ProviderUnavailable("CloudWatch answers with a metric whose times or values cannot be read") from error


def _query(number: int, deploy_id: DeployId, name: str, period: int) -> Iterator[tuple[str, str]]:
    prefix = f"MetricDataQueries.member.{number}"
    yield f"{prefix}.Id", f"m{number}"
    yield f"{prefix}.MetricStat.Metric.Namespace", "AWS/EC2"
    yield f"{prefix}.MetricStat.Metric.MetricName", name
    yield f"{prefix}.MetricStat.Metric.Dimensions.member.1.Name", "InstanceId"
    yield f"{prefix}.MetricStat.Metric.Dimensions.member.1.Value", deploy_id
    yield f"{prefix}.MetricStat.Period", str(period)
    yield f"{prefix}.MetricStat.Stat", "Average" if name == CPU else "Sum"


def _parts(instances: Sequence[Instance], size: int) -> Iterator[Sequence[Instance]]:
    for at in range(0, len(instances), size):
        yield instances[at : at + size]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
