"""A server that answers each action as a test scripts it, for features that the embedded endpoint does not have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from aiohttp import web

Form = dict[str, str]
Answer = Callable[[Form], str]
"""Makes the elements of an answer, or raises PermissionError."""


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass
class Scripted:
    """Scripted answers, and the calls received.

    Attributes:
        answers: by action, the function that makes the elements of its answer.
        calls: action and form of every call, in order.
        scopes: the scope of each call's signature, such as `eu-west-1/monitoring`.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    calls: list[tuple[str, Form]] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    url: str = ""

    def asked(self, action: str) -> list[Form]:
        return [form for name, form in self.calls if name == action]

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Scripted]:
        application = web.Application(client_max_size=2**24)
        application.router.add_post("/", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        form = dict(parse_qsl((await request.read()).decode(), keep_blank_values=True))
        action = form["Action"]
        self.calls.append((action, form))
        self.scopes.append("/".join(request.headers["Authorization"].split("/")[2:4]))
        try:
            text = f"<{action}Response>{self.answers[action](form)}</{action}Response>"
        except PermissionError as refused:
            error = f"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>{refused}</Message>"
            return web.Response(text=f"{error}</Error></Errors></Response>", status=403)
        return web.Response(text=text)


@dataclass
class Meter:
    """A CloudWatch: `points[instance, metric]` holds value by time; one page has so many points of a metric at most.

    As API_GetMetricData says: points from StartTime on and before EndTime, summed up by Period; a metric that
    continues on the next page is PartialData.
    """

    points: dict[tuple[str, str], dict[float, float]] = field(default_factory=dict)
    page: int = 100_800
    status: str = "Complete"

    def add(self, instance: str, metric: str, at: float, value: float) -> None:
        self.points.setdefault((instance, metric), {})[at] = value

    def __call__(self, form: Form) -> str:
        numbers = sorted(int(name.split(".")[2]) for name in form if name.endswith(".Id"))
        assert len(numbers) <= 500, "the limit of API_GetMetricData"
        at = int(form.get("NextToken", "0"))
        shown = [self._shown(form, f"MetricDataQueries.member.{number}", at) for number in numbers]
        token = f"<NextToken>{at + self.page}</NextToken>" if any("PartialData" in each for each in shown) else ""
        results = f"<MetricDataResults>{''.join(shown)}</MetricDataResults>"
        return f"<GetMetricDataResult>{results}{token}</GetMetricDataResult>"

    def _shown(self, form: Form, prefix: str, begin: int) -> str:
        stat = f"{prefix}.MetricStat"
        assert form[f"{stat}.Metric.Namespace"] == "AWS/EC2"
        assert form[f"{stat}.Metric.Dimensions.member.1.Name"] == "InstanceId"
        instance, metric = form[f"{stat}.Metric.Dimensions.member.1.Value"], form[f"{stat}.Metric.MetricName"]
        period, start, end = int(form[f"{stat}.Period"]), seconds(form["StartTime"]), seconds(form["EndTime"])
        assert form[f"{stat}.Stat"] == ("Average" if metric == "CPUUtilization" else "Sum")
        summed: dict[float, float] = {}
        for at, value in self.points.get((instance, metric), {}).items():
            if start <= at < end:
                summed[at // period * period] = summed.get(at // period * period, 0.0) + value
        page = sorted(summed)[begin : begin + self.page]
        status = "PartialData" if begin + self.page < len(summed) else self.status
        times = "".join(f"<member>{moment(at)}</member>" for at in page)
        values = "".join(f"<member>{summed[at]}</member>" for at in page)
        return (
            f"<member><Id>{form[f'{prefix}.Id']}</Id><Label>{metric}</Label><StatusCode>{status}</StatusCode>"
            f"<Timestamps>{times}</Timestamps><Values>{values}</Values></member>"
        )


def events(**codes: str) -> Answer:
    """Instances, `i_1` for `i-1`, with a scheduled event each: `code|from|text`."""

    def answer(form: Form) -> str:
        assert form["Filter.1.Name"] == "event.code"
        items = ""
        for name, event in codes.items():
            code, at, text = event.split("|")
            items += (
                f"<item><instanceId>{name.replace('_', '-')}</instanceId><eventsSet><item><code>{code}</code>"
                f"<description>{text}</description><notBefore>{at}</notBefore></item></eventsSet></item>"
            )
        return f"<instanceStatusSet>{items}</instanceStatusSet>"

    return answer


def interruptions(**codes: str) -> Answer:
    """Instances and the status of their spot requests: `code|since`."""

    def answer(form: Form) -> str:
        assert form["Filter.1.Name"] == "status-code"
        items = ""
        for name, status in codes.items():
            code, at = status.split("|")
            items += (
                f"<item><instanceId>{name.replace('_', '-')}</instanceId>"
                f"<status><code>{code}</code><updateTime>{at}</updateTime></status></item>"
            )
        return f"<spotInstanceRequestSet>{items}</spotInstanceRequestSet>"

    return answer
