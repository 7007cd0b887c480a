"""EC2: POLLs, a sweep, and how often the API is asked. `python -m benchmarks.ec2_measures` measures these alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec

from benchmarks import ec2_server
from benchmarks.figures import Figure, Series, megabytes, per_second, seconds, table
from benchmarks.started import HERE, Starter, longest_stall
from one_provider_mad.cli.driver_message import wire_line
from one_provider_mad.monitor.settings import MonitorSettings
from one_provider_mad.providers.ec2.cloudwatch import MOST_METRICS
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import ProviderContext

NAME = "ec2"
VMS = 1000
FLEETS = (10, VMS, 10_000)
ROUNDS = 5
SCRIPTS = 15
"""Scripts at once: as many as ARGUMENTS usually allow."""


class Endpoint:
    """The other process.

    Args:
        url: where it is.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def fleet(self, count: int) -> str:
        """The endpoint of a region with so many instances."""
        return f"{self._url}/{count}/"

    def calls(self) -> dict[str, int]:
        """How often each action was asked for since this was last asked."""
        with urlopen(f"{self._url}/calls", timeout=10) as answer:
            told: dict[str, int] = json.load(answer)
            return told


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """Serve every fleet."""
    command = [sys.executable, "-m", "benchmarks.ec2_server", *map(str, FLEETS)]
    with subprocess.Popen(
        command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None or process.stdin is None:
            raise AssertionError("both are pipes")
        yield Endpoint(process.stdout.readline().strip())
        process.stdin.close()


def ec2(starter: Starter) -> Iterator[Figure]:
    """Everything about EC2."""
    with endpoint() as served:
        yield from polls(starter, served)
        yield from sweep(served)
        yield from calls_a_minute(served)


# POLLs


def polls(starter: Starter, served: Endpoint) -> Iterator[Figure]:
    """A thousand POLLs in flight for a thousand instances, beside a script an action."""
    starter.place.configure(
        f'provider = "ec2"\nowner = "{ec2_server.OWNER}"\n[ec2]\nregion = "eu-west-1"\n'
        f'endpoint_url = "{served.fleet(VMS)}"\naccess_key_id = "A"\nsecret_access_key = "s"\n',
        name=NAME,
    )
    lines = b"".join(
        wire_line("POLL", vm_id=number, release="5.10", deploy_id=ec2_server.deploy_id(number)) for number in range(VMS)
    )
    rates, scripted, calls, stalls = [], [], [], []
    arguments = f"-t 15 -r 0 {NAME}"
    with starter.ours(arguments) as driver, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stalls"
        with starter.ours(arguments, stalls=file) as watched:
            for program in (driver, watched):  # connections, credentials, imports
                program.exchange(lines, count=VMS)
            for _ in range(ROUNDS):
                served.calls()
                exchange = driver.exchange(lines, count=VMS)
                if not all(answer.startswith(b"POLL SUCCESS ") for answer in exchange.answers):
                    raise RuntimeError(f"a POLL failed: {exchange.answers[:3]!r}")
                rates.append(VMS / exchange.seconds)
                calls.append(float(sum(served.calls().values())))
                stalls.append(longest_stall(file, watched.exchange(lines, count=VMS)))
                scripted.append(_scripts(served.fleet(VMS)))
            memory = driver.memory("VmHWM")
    yield Figure(
        work=f"EC2: {VMS:,} POLLs in flight, {VMS:,} instances (baseline: {SCRIPTS} botocore scripts at once)",
        show=per_second,
        baseline=Series(values=tuple(scripted), is_larger_better=True),
        ours=Series(values=tuple(rates), is_larger_better=True),
        limit=1000.0,
        upstream="3–4 a second (boto3)",
    )
    work = f"EC2: {VMS:,} POLLs"
    yield Figure(
        work=work,
        part="API calls (a script: one each)",
        show=_calls,
        baseline=Series(values=(float(VMS),)),
        ours=Series(values=tuple(calls)),
    )
    yield Figure(
        work=work, part="longest stall of the loop", show=seconds, baseline=None, ours=Series(values=tuple(stalls))
    )
    yield Figure(work=work, part="peak memory", show=megabytes, baseline=None, ours=Series(values=(memory,)))


def _scripts(url: str) -> float:
    """Actions a second of a script an action, so many at once."""
    begun = time.monotonic()
    command = [sys.executable, str(HERE / "ec2_script.py"), url]
    started = [
        subprocess.Popen([*command, ec2_server.deploy_id(number)], stdout=subprocess.PIPE) for number in range(SCRIPTS)
    ]
    for process in started:
        printed, _ = process.communicate()
        if not printed.startswith(b"STATE=a "):
            raise RuntimeError(f"a script printed {printed!r}")
    return SCRIPTS / (time.monotonic() - begun)


# A sweep


def sweep(served: Endpoint) -> Iterator[Figure]:
    """Listing a thousand instances, beside botocore's client in a thread."""
    taken = asyncio.run(_sweeps(served.fleet(VMS)))
    work = f"EC2: list {VMS:,} instances (baseline: botocore in a thread)"
    for part, at, limit in (("", 0, None), ("longest stall of the loop", 1, 0.03)):
        yield Figure(
            work=work,
            part=part,
            show=seconds,
            baseline=Series(values=tuple(each[at] for each in taken["botocore"])),
            ours=Series(values=tuple(each[at] for each in taken["ours"])),
            limit=limit,
        )


async def _sweeps(url: str) -> dict[str, list[tuple[float, float]]]:
    from botocore.session import Session

    client: Any = Session().create_client(
        "ec2", region_name="eu-west-1", endpoint_url=url, aws_access_key_id="A", aws_secret_access_key="s"
    )

    def by_botocore() -> int:
        pages = client.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 1000})
        return sum(len(each["Instances"]) for page in pages for each in page["Reservations"])

    async def ours() -> int:
        return len(await provider.list_instances())

    provider = _provider(url)
    await provider.open()
    works: dict[str, Callable[[], Awaitable[int]]] = {"ours": ours, "botocore": lambda: asyncio.to_thread(by_botocore)}
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            spent = await _timed(work)
            if number:  # the first finds its connections and credentials
                taken[name].append(spent)
    await provider.close()
    return taken


async def _timed(work: Callable[[], Awaitable[int]]) -> tuple[float, float]:
    """Seconds it took, and the longest that the loop was late meanwhile."""
    loop, latest = asyncio.get_running_loop(), 0.0

    async def beat() -> None:
        nonlocal latest
        while True:
            due = loop.time() + 0.001
            await asyncio.sleep(0.001)
            latest = max(latest, loop.time() - due)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    begun = time.monotonic()
    found = await work()
    took = time.monotonic() - begun
    await asyncio.sleep(0.002)
    beating.cancel()
    if found != VMS:
        raise RuntimeError(f"{found} instances were listed")
    return took, latest


# Calls a minute


def calls_a_minute(served: Endpoint) -> Iterator[Figure]:
    """Counted for one listing and one question for figures, and multiplied by how often these come."""
    listings = 60 / MonitorSettings().min_list_interval
    for count in FLEETS:
        counted = asyncio.run(_count_calls(served, count))
        figures_too = counted["cloudwatch"] * 60 / Ec2Settings(region="eu-west-1").cloudwatch_period
        total = listings * counted["listing"] + counted["events"] + figures_too
        yield Figure(
            work=f"EC2: API calls a minute, monitoring {count:,} VMs at the shortest periods",
            show=_calls,
            # Upstream asks for each VM by itself: its state every 60 s at best, and three metrics every 360 s.
            baseline=Series(values=(count * (1 + 3 / 6),)),
            ours=Series(values=(total,)),
            upstream="baseline: worked out, one VM at a time",
        )


async def _count_calls(served: Endpoint, count: int) -> dict[str, int]:
    provider = _provider(served.fleet(count), cloudwatch=True)
    await provider.open()
    served.calls()
    instances = await provider.list_instances()
    listing = sum(served.calls().values())
    await provider.figures(instances)
    asked = served.calls()
    await provider.close()
    # The first question asks for the days before as well, two metrics each; only what comes every time is counted.
    days = -(-count // (MOST_METRICS // 2))
    return {
        "listing": listing,
        "events": sum(number for action, number in asked.items() if action != "GetMetricData"),
        "cloudwatch": asked["GetMetricData"] - days,
    }


def _provider(url: str, **settings: Any) -> Ec2Provider:
    context = ProviderContext(
        name=NAME, hypervisor=NAME, owner=ec2_server.OWNER, state_directory=Path("/nonexistent"), warn=print
    )
    table = {"region": "eu-west-1", "endpoint_url": url, "access_key_id": "A", "secret_access_key": "s", **settings}
    return Ec2Provider(context, msgspec.convert(table, Ec2Settings))


def _calls(count: float) -> str:
    return f"{count:,.0f}"


def main() -> None:
    """Measure these alone."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as root:
        print(table(list(ec2(Starter(Path(root))))))


if __name__ == "__main__":
    main()
