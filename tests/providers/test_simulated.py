"""The simulated cloud: its conformance, its settings, states, limits and faults, and its use by several processes."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from one_provider_mad import database
from one_provider_mad.domain import DeployId, Instance, InstanceState, Template, VmId, VmRequest
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    InstanceNotFound,
    NoCapacity,
    NotReached,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    SettingsError,
    Throttled,
    TokenMismatch,
    TokenSpent,
    WrongState,
)
from one_provider_mad.mappings import ContextSettings, Mappings
from one_provider_mad.providers.interface import Capacity, CreateCall, CreatePlan, Interruption, ProviderContext
from one_provider_mad.providers.simulated.cloud import Extras, Launch
from one_provider_mad.providers.simulated.provider import SimulatedProvider, factory
from one_provider_mad.providers.simulated.settings import CALLS, FaultSettings, SimulatedSettings
from one_provider_mad.providers.simulated.traffic import Traffic
from one_provider_mad.settings import convert
from one_provider_mad.testing.conformance import (
    CloudUnderTest,
    OwnedCloudConformance,
    a_call,
    cancel,
    describe_one,
    iterate_loop,
    reach,
)
from tests.end_to_end.oned import ROOT
from tests.waiting import HANG

QUICK = {"boot_time": 0.004, "stop_time": 0.004, "suspend_time": 0.004, "destroy_time": 0.004}
"""Transitions that take a few milliseconds."""

Open = Callable[..., Awaitable[SimulatedProvider]]


class Clock:
    """A clock that moves only by `advance`."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def place(directory: Path) -> ProviderContext:
    return ProviderContext(
        name="embedded", hypervisor="provider_name", owner="tests", state_directory=directory, warn=print
    )


def make(directory: Path, **settings: Any) -> SimulatedProvider:
    """A provider as the composition root makes it from a table of the configuration."""
    provider = factory(place(directory), msgspec.convert(settings, factory.settings_type))
    assert isinstance(provider, SimulatedProvider)
    return provider


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens providers on one cloud, with quick transitions by default, and closes them in the end."""
    async with AsyncExitStack() as stack:

        async def connect(*, clock: Clock | None = None, **settings: Any) -> SimulatedProvider:
            provider = make(tmp_path, **{**QUICK, **settings})
            if clock is not None:
                table = msgspec.convert({**QUICK, **settings}, SimulatedSettings)
                provider = SimulatedProvider(place(tmp_path), table, clock=clock)
            await provider.open()
            stack.push_async_callback(provider.close)
            return provider

        yield connect


def a_vm(vm_id: int = 1, *, cpu: str = "1", memory: str = "256", **section: str) -> VmRequest:
    """A VM with this section, if it has any attributes."""
    return VmRequest(
        vm_id=VmId(vm_id),
        name=f"vm-{vm_id}",
        host="remote_provider",
        stime=1_700_000_000,
        template=Template(values={"CPU": (cpu,), "MEMORY": (memory,)}),
        user_template=Template(values={"PUBLIC_CLOUD": (section,)} if section else {}),
    )


async def launch(provider: SimulatedProvider, request: VmRequest | None = None) -> DeployId:
    """Create a VM's instance, and wait until it runs."""
    deploy_id = await provider.create(a_call(provider, request or a_vm()))
    await reach(provider, deploy_id, InstanceState.RUNNING)
    return deploy_id


async def test_an_interrupted_instance_runs_until_its_notice_is_over_and_says_why_it_ended(
    connect: Open, clock: Clock
) -> None:
    provider = await connect(clock=clock)
    deploy_id = await provider.create(a_call(provider, a_vm()))
    with pytest.raises(WrongState, match="is pending and cannot be taken back"):
        await provider.cloud.interrupt(deploy_id)
    clock.advance(1)
    await provider.cloud.interrupt(deploy_id, notice=120)
    shown = (await provider.describe([deploy_id]))[deploy_id]
    assert (shown.state, provider.interruption(shown)) == (InstanceState.RUNNING, None)
    assert shown.attributes["SIM_INTERRUPTION_SINCE"] == "2023-11-14T22:13:21Z"
    clock.advance(121)
    shown = (await provider.describe([deploy_id]))[deploy_id]
    assert shown.state is InstanceState.TERMINATED
    reason = "taken back by the cloud since 2023-11-14T22:13:21Z"
    assert provider.interruption(shown) == Interruption(reason=reason, at=1_700_000_001)


async def test_an_instance_that_was_terminated_was_not_interrupted(connect: Open, clock: Clock) -> None:
    provider = await connect(clock=clock)
    deploy_id = await provider.create(a_call(provider, a_vm()))
    clock.advance(1)
    await provider.cloud.interrupt(deploy_id, notice=120)
    await provider.destroy(deploy_id)  # by a person, while the notice lasts
    clock.advance(121)
    assert provider.interruption((await provider.describe([deploy_id]))[deploy_id]) is None


async def seen(provider: SimulatedProvider, deploy_id: DeployId) -> Instance:
    """An instance that must be visible."""
    instance = await describe_one(provider, deploy_id)
    assert instance is not None
    return instance


async def fact(provider: SimulatedProvider, deploy_id: DeployId, name: str) -> str | None:
    """An attribute of an instance, as monitoring reports it."""
    return (await seen(provider, deploy_id)).attributes.get(name)


class SimulatedConsole:
    """Another client of the simulated cloud, which does not set our tags."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def launch(self) -> DeployId:
        provider = make(self._directory, **QUICK)
        await provider.open()
        try:
            return await provider.cloud.launch(Launch(type="small_512mb", image="any"), tags={"who": "another client"})
        finally:
            await provider.close()

    async def terminate(self, deploy_id: DeployId) -> None:
        provider = make(self._directory, **QUICK)
        await provider.open()
        try:
            await provider.cloud.terminate(deploy_id)
        finally:
            await provider.close()


class TestSimulatedConforms(OwnedCloudConformance):
    """It has every capability, so no test is skipped."""

    @pytest.fixture
    def cloud(self, tmp_path: Path) -> CloudUnderTest:
        return CloudUnderTest(
            connect=lambda: make(tmp_path, **QUICK),
            console=SimulatedConsole(tmp_path),
            section={
                "TYPE": "provider_name",
                "PROVIDER_INSTANCE_TYPE": "small_256mb",
                "PROVIDER_IMAGE_ID": "id-141234",
            },
            other_section={"PROVIDER_INSTANCE_TYPE": "medium_2gb"},
            unknown_deploy_id=DeployId("sim-000000000000"),
        )


class TestLaggingSimulatedConforms(TestSimulatedConforms):
    """The same cloud with latency."""

    @pytest.fixture
    def cloud(self, tmp_path: Path) -> CloudUnderTest:
        return CloudUnderTest(
            connect=lambda: make(tmp_path, **QUICK, latency=0.001, jitter=0.002),
            console=SimulatedConsole(tmp_path),
            section={"TYPE": "provider_name"},
            other_section={"PROVIDER_INSTANCE_TYPE": "medium_2gb"},
            unknown_deploy_id=DeployId("sim-000000000000"),
        )


class TestPlan:
    @pytest.fixture
    def plan(self, tmp_path: Path) -> Callable[..., CreatePlan]:
        def plan(request: VmRequest, **settings: Any) -> CreatePlan:
            return make(tmp_path, **settings).plan(request)

        return plan

    def test_the_template_of_the_guide_becomes_parameters_without_warnings(
        self, plan: Callable[..., CreatePlan]
    ) -> None:
        request = a_vm(TYPE="provider_name", PROVIDER_IMAGE_ID="id-141234", PROVIDER_INSTANCE_TYPE="small_256mb")
        (parameters,) = plan(request).alternatives
        assert {name: parameters[name] for name in ("type", "image", "name", "cpu", "memory")} == {
            "type": "small_256mb",
            "image": "id-141234",
            "name": "vm-1",
            "cpu": 1,
            "memory": 256,
        }
        assert plan(request).warnings == ()

    def test_a_list_of_types_becomes_alternatives_in_that_order(self, plan: Callable[..., CreatePlan]) -> None:
        request = a_vm(PROVIDER_INSTANCE_TYPE="large_4gb, small_256mb ,large_4gb")
        assert [each["type"] for each in plan(request).alternatives] == ["large_4gb", "small_256mb"]

    @pytest.mark.parametrize(
        ("cpu", "memory", "expected"),
        [
            ("1", "256", "small_256mb"),
            ("0.5", "100", "small_256mb"),
            ("1", "257", "small_512mb"),
            ("2", "256", "medium_2gb"),
            ("", "", "small_256mb"),
            ("8", "16384", "xlarge_16gb"),
        ],
    )
    def test_without_a_type_the_smallest_instance_type_that_fits_is_chosen(
        self, plan: Callable[..., CreatePlan], cpu: str, memory: str, expected: str
    ) -> None:
        assert [each["type"] for each in plan(a_vm(cpu=cpu, memory=memory)).alternatives] == [expected]

    def test_instance_types_of_the_configuration_can_be_chosen(self, plan: Callable[..., CreatePlan]) -> None:
        request = a_vm(PROVIDER_INSTANCE_TYPE="tiny")
        (parameters,) = plan(request, instance_types={"tiny": {"cpu": 0.25, "memory": 64}}).alternatives
        assert (parameters["cpu"], parameters["memory"]) == (0.25, 64)

    @pytest.mark.parametrize(
        ("request_", "settings", "sentence"),
        [
            (a_vm(PROVIDER_INSTANCE_TYPE="m1.huge"), {}, "instance type m1.huge is not known .* known are small_256mb"),
            (a_vm(PROVIDER_IMAGE_ID="win"), {"images": ["debian", "alma"]}, "image win is not .* debian, alma"),
            (a_vm(cpu="64"), {}, "no instance type .* CPU=64 and MEMORY=256"),
            (a_vm(cpu="many"), {}, "CPU=many .* is not a number"),
            (a_vm(memory="nan"), {}, "MEMORY=nan .* is not a number"),
            (a_vm(memory="-1"), {}, "MEMORY=-1 .* is not a number"),
        ],
        ids=["type", "image", "too-large", "text", "nan", "negative"],
    )
    def test_an_unknown_type_or_image_or_an_impossible_size_is_refused_with_the_reason(
        self, plan: Callable[..., CreatePlan], request_: VmRequest, settings: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(BadParameter, match=sentence):
            plan(request_, **settings)

    def test_without_an_image_the_first_configured_one_is_chosen(self, plan: Callable[..., CreatePlan]) -> None:
        (parameters,) = plan(a_vm(), images=["debian", "alma"]).alternatives
        assert parameters["image"] == "debian"

    def test_unknown_attributes_get_one_warning(self, plan: Callable[..., CreatePlan]) -> None:
        request = a_vm(TYPE="provider_name", NAME="web", HOST="h", CLOUD="c", TAGS="a=b", AMI="ami-1", KEYPAIR="k")
        (warning,) = plan(request).warnings
        assert warning.startswith("PUBLIC_CLOUD attributes AMI, KEYPAIR are not known")

    def test_context_disks_and_nics_of_the_template_become_parameters(self, plan: Callable[..., CreatePlan]) -> None:
        template = Template(
            values={
                "CONTEXT": ({"START_SCRIPT": "echo it's me"},),
                "DISK": ({"DISK_ID": "0", "SIZE": "2048", "TARGET": "vda"},),
                "NIC": ({"NIC_ID": "0", "MAC": "02:00:0a:00:00:05"},),
            }
        )
        (parameters,) = plan(VmRequest(vm_id=VmId(1), template=template)).alternatives
        assert parameters["context"] == """START_SCRIPT='echo it'"'"'s me'"""
        assert parameters["disks"] == {"0": {"size": 2048, "target": "vda"}}
        assert parameters["nics"] == {"0": {"NIC_ID": "0", "MAC": "02:00:0a:00:00:05"}}

    def test_with_a_guest_the_context_is_what_that_guest_would_read(self, tmp_path: Path) -> None:
        mappings = Mappings(context=ContextSettings(guest="auto"))
        provider = SimulatedProvider(msgspec.structs.replace(place(tmp_path), mappings=mappings), SimulatedSettings())
        context = {"SET_HOSTNAME": "web", "GROW_FS": "/data"}
        plan = provider.plan(msgspec.structs.replace(a_vm(), template=Template(values={"CONTEXT": (context,)})))
        assert "#cloud-config" in plan.alternatives[0]["context"]
        assert [warning for warning in plan.warnings if "GROW_FS has no effect" in warning]


class TestSettings:
    @pytest.mark.parametrize(
        "table",
        [
            {"latencey": 1},
            {"latency": -1},
            {"time_scale": 0},
            {"account": ""},
            {"capacity": {"small_256mb": -1}},
            {"capacity": {"nothing": 1}},
            {"instance_types": {"tiny": {"cpu": 1, "memory": 64, "disk": 1}}},
            {"instance_types": {"tiny": {"cpu": 0, "memory": 64}}},
        ],
    )
    def test_invalid_settings_are_refused(self, table: dict[str, Any]) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(table, SimulatedSettings)

    def test_the_visibility_grace_is_derived_from_the_listing_lag(self, tmp_path: Path) -> None:
        assert make(tmp_path, listing_lag=60, time_scale=60).visibility_grace == pytest.approx(1.1)
        assert make(tmp_path, listing_lag=60, visibility_grace=3).visibility_grace == 3

    async def test_the_account_is_named_by_account_and_region_of_the_settings(self, connect: Open) -> None:
        assert await (await connect()).account() == "simulated/embedded"
        assert await (await connect(account="me", region="here")).account() == "me/here"


class TestFile:
    async def test_the_database_is_created_in_the_state_directory_for_its_owner_only(self, tmp_path: Path) -> None:
        provider = make(tmp_path / "var" / "one")
        await provider.open()
        await launch(provider)
        files = sorted((tmp_path / "var" / "one").iterdir())
        assert files[0].name == "embedded.db"
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        await provider.close()

    async def test_the_database_is_created_at_the_configured_path(self, tmp_path: Path) -> None:
        provider = make(tmp_path, database=str(tmp_path / "elsewhere" / "cloud.sqlite"))
        await provider.open()
        await provider.close()
        assert (tmp_path / "elsewhere" / "cloud.sqlite").exists()

    async def test_instances_persist_after_the_provider_is_closed(self, tmp_path: Path) -> None:
        provider = make(tmp_path, **QUICK)
        await provider.open()
        deploy_id = await launch(provider)
        await provider.close()
        provider = make(tmp_path, **QUICK)
        await provider.open()
        assert [each.deploy_id for each in await provider.list_instances()] == [deploy_id]
        await provider.close()

    async def test_an_api_key_that_differs_from_the_first_is_refused_and_none_is_stored(
        self, connect: Open, tmp_path: Path
    ) -> None:
        await connect(api_key="right")
        await connect(api_key="right")
        for key in ("wrong", ""):
            with pytest.raises(AuthenticationRefused, match="api_key"):
                await make(tmp_path, api_key=key).open()
        assert b"right" not in (tmp_path / "embedded.db").read_bytes()

    async def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "embedded.db").write_text("no database at all, however long one reads in it" * 100)
        provider = make(tmp_path)
        with pytest.raises(ProviderUnavailable, match=r"database cannot be used: .*not a database"):
            await provider.open()
        await provider.close()

    async def test_a_database_path_that_cannot_be_created_is_named_in_the_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        provider = make(tmp_path, database=str(tmp_path / "file" / "cloud.db"))
        with pytest.raises(ProviderUnavailable, match=r"database cannot be used: .*cloud\.db"):
            await provider.open()

    async def test_a_database_with_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "embedded.db") as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        with pytest.raises(ProviderUnavailable, match="schema 99"):
            await make(tmp_path).open()

    async def test_a_call_after_closing_fails_with_a_sentence(self, tmp_path: Path) -> None:
        provider = make(tmp_path)
        await provider.open()
        await provider.close()
        await provider.close()
        with pytest.raises(ProviderUnavailable, match="is closed"):
            await provider.list_instances()

    @pytest.mark.parametrize("blocked", [False, True], ids=["usable-path", "unusable-path"])
    async def test_a_provider_whose_opening_was_cancelled_can_be_closed(self, tmp_path: Path, *, blocked: bool) -> None:
        (tmp_path / "file").touch()
        provider = make(tmp_path / "file" if blocked else tmp_path)
        opening = asyncio.create_task(provider.open())
        await iterate_loop(1)
        await cancel(opening)
        async with asyncio.timeout(HANG):
            await provider.close()

    async def test_closing_waits_for_creates_that_were_already_called(self, tmp_path: Path) -> None:
        provider = make(tmp_path)
        await provider.open()
        creates = [asyncio.ensure_future(provider.create(a_call(provider, a_vm(number)))) for number in range(20)]
        await iterate_loop(1)
        await provider.close()
        assert len(set(await asyncio.gather(*creates))) == 20


class TestTime:
    async def test_states_change_when_the_clock_passes_their_transition_times(
        self, connect: Open, clock: Clock
    ) -> None:
        provider = await connect(clock=clock, boot_time=60, stop_time=20, destroy_time=30)
        deploy_id = await provider.create(a_call(provider, a_vm()))
        clock.advance(59)
        assert (await seen(provider, deploy_id)).state is InstanceState.PENDING
        with pytest.raises(WrongState, match=f"instance {deploy_id} is pending and cannot be rebooted"):
            await provider.reboot(deploy_id, hard=False)
        clock.advance(1)
        assert (await seen(provider, deploy_id)).state is InstanceState.RUNNING
        await provider.stop(deploy_id, hard=False)
        assert (await seen(provider, deploy_id)).state is InstanceState.STOPPING
        with pytest.raises(WrongState, match="is stopping and cannot be started"):
            await provider.start(deploy_id)
        clock.advance(20)
        assert (await seen(provider, deploy_id)).state is InstanceState.STOPPED
        await provider.destroy(deploy_id)
        assert (await seen(provider, deploy_id)).state is InstanceState.TERMINATING
        clock.advance(30)
        instance = await seen(provider, deploy_id)
        assert instance.state is InstanceState.TERMINATED
        assert instance.reason == "terminated on request"
        assert instance.created_at == 1_700_000_000.25

    async def test_repeating_a_call_does_not_restart_its_transition(self, connect: Open, clock: Clock) -> None:
        provider = await connect(clock=clock, boot_time=60, stop_time=60, suspend_time=60, destroy_time=60)
        deploy_id = await provider.create(a_call(provider, a_vm()))
        clock.advance(60)
        calls: list[tuple[Callable[[DeployId], Awaitable[None]], InstanceState]] = [
            (partial(provider.stop, hard=False), InstanceState.STOPPED),
            (provider.start, InstanceState.RUNNING),
            (provider.suspend, InstanceState.SUSPENDED),
            (provider.destroy, InstanceState.TERMINATED),
        ]
        for call, state in calls:
            for _ in range(2):
                await call(deploy_id)
                clock.advance(30)
            assert (await seen(provider, deploy_id)).state is state

    async def test_a_hard_stop_ends_a_soft_stop_at_once(self, connect: Open) -> None:
        provider = await connect(stop_time=3600)
        deploy_id = await launch(provider)
        await provider.stop(deploy_id, hard=False)
        assert (await seen(provider, deploy_id)).state is InstanceState.STOPPING
        await provider.stop(deploy_id, hard=True)
        assert (await seen(provider, deploy_id)).state is InstanceState.STOPPED

    async def test_a_new_instance_is_invisible_during_the_listing_lag(self, connect: Open, clock: Clock) -> None:
        provider = await connect(clock=clock, listing_lag=60)
        call = a_call(provider, a_vm())
        deploy_id = await provider.create(call)
        clock.advance(59)
        assert await provider.describe([deploy_id]) == {}
        assert await provider.find(owner=call.identity.owner, vm_id=VmId(1)) == []
        assert await provider.list_instances() == []
        assert await provider.create(call) == deploy_id
        clock.advance(1)
        assert [each.identity for each in await provider.list_instances()] == [call.identity]
        assert len(await provider.find(owner=call.identity.owner, vm_id=VmId(1))) == 1
        assert set(await provider.describe([deploy_id])) == {deploy_id}

    async def test_without_a_listing_lag_a_new_instance_is_visible_at_once(self, connect: Open, clock: Clock) -> None:
        provider = await connect(clock=clock)
        for number in range(20):
            clock.advance(0.123456789)
            await provider.create(a_call(provider, a_vm(number)))
            assert len(await provider.list_instances()) == number + 1

    async def test_time_scale_shortens_boot_time_and_listing_lag(self, connect: Open) -> None:
        provider = await connect(boot_time=36_000, listing_lag=36_000, time_scale=360_000)
        began = time.monotonic()
        deploy_id = await provider.create(a_call(provider, a_vm()))
        await reach(provider, deploy_id, InstanceState.RUNNING)
        assert time.monotonic() - began >= 0.09

    async def test_a_terminated_instance_disappears_after_an_hour_and_its_token_stays_spent(
        self, connect: Open, clock: Clock
    ) -> None:
        provider = await connect(clock=clock, destroy_time=10)
        call = a_call(provider, a_vm())
        deploy_id = await provider.create(call)
        await provider.destroy(deploy_id)
        clock.advance(3609)
        assert (await seen(provider, deploy_id)).state is InstanceState.TERMINATED
        clock.advance(1)
        assert await describe_one(provider, deploy_id) is None
        assert await provider.list_instances() == []
        with pytest.raises(InstanceNotFound):
            await provider.destroy(deploy_id)
        with pytest.raises(TokenSpent):
            await provider.create(call)
        await provider.create(a_call(provider, a_vm(2)))
        with pytest.raises(TokenSpent):
            await provider.create(call)

    async def test_usage_changes_with_time_and_is_the_same_for_all_clients(self, connect: Open, clock: Clock) -> None:
        provider, other = await connect(clock=clock), await connect(clock=clock)
        deploy_id = await provider.create(a_call(provider, a_vm()))
        series = []
        for _ in range(30):
            clock.advance(10)
            usage = (await seen(provider, deploy_id)).usage
            assert usage is not None
            assert (await seen(other, deploy_id)).usage == usage
            series.append(usage)
        received, sent = [usage.net_rx for usage in series], [usage.net_tx for usage in series]
        assert received == sorted(set(received))
        assert sent == sorted(set(sent))
        assert len({usage.cpu for usage in series}) > 20
        assert all(0 < (usage.cpu or 0) < 100 and 0 < usage.memory < 256 * 1024 for usage in series)

    async def test_a_stopped_instance_has_no_usage(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launch(provider)
        await provider.stop(deploy_id, hard=True)
        assert (await seen(provider, deploy_id)).usage is None

    @pytest.mark.looptime
    async def test_the_latencies_of_simultaneous_calls_overlap(self) -> None:
        traffic = Traffic(
            SimulatedSettings(latency=60, jitter=5), crashes=Path("/nonexistent"), clock=time.time, warn=pytest.fail
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(2):
            await asyncio.gather(*(traffic.call("find", partial(asyncio.sleep, 0)) for _ in range(100)))
        assert 120 <= loop.time() - began <= 130

    async def test_the_account_is_returned_without_latency(self, connect: Open) -> None:
        """It is asked for after each change of the settings, and actions use the old settings until then."""
        provider = await connect(latency=3600)
        async with asyncio.timeout(HANG):
            assert await provider.account()


class TestLimits:
    async def test_a_create_of_a_full_type_is_refused_and_one_of_another_type_is_not(self, connect: Open) -> None:
        provider = await connect(capacity={"small_256mb": 1, "large_4gb": 0})
        first = await launch(provider)
        call = a_call(provider, a_vm(2))
        with pytest.raises(NoCapacity, match="small_256mb"):
            await provider.create(call)
        with pytest.raises(NoCapacity, match="large_4gb"):
            await provider.create(a_call(provider, a_vm(2, PROVIDER_INSTANCE_TYPE="large_4gb")))
        await launch(provider, a_vm(3, PROVIDER_INSTANCE_TYPE="small_512mb"))
        await provider.destroy(first)
        await provider.create(call)

    async def test_a_refused_create_leaves_its_token_free(self, connect: Open) -> None:
        provider = await connect(max_instances=1)
        first = await launch(provider)
        with pytest.raises(QuotaExceeded, match="may have 1 instances"):
            await provider.create(a_call(provider, a_vm(2)))
        assert len(await provider.list_instances()) == 1
        await provider.destroy(first)
        await provider.create(a_call(provider, a_vm(2)))

    async def test_max_instances_holds_for_twenty_simultaneous_creates_of_two_clients(self, connect: Open) -> None:
        providers = [await connect(max_instances=5), await connect(max_instances=5)]
        calls = [a_call(providers[0], a_vm(number)) for number in range(20)]
        results = await asyncio.gather(
            *(providers[n % 2].create(call) for n, call in enumerate(calls)), return_exceptions=True
        )
        assert sum(isinstance(result, str) for result in results) == 5
        assert sum(isinstance(result, QuotaExceeded) for result in results) == 15

    @pytest.mark.parametrize(
        "parameters",
        [
            {"type": "m1.huge", "image": "any"},
            {"type": "small_256mb"},
            {"type": "small_256mb", "image": "any", "colour": "blue"},
            {"type": "small_256mb", "image": 7},
        ],
        ids=["unknown-type", "no-image", "unknown-parameter", "number-for-text"],
    )
    async def test_invalid_create_parameters_are_refused(self, connect: Open, parameters: dict[str, Any]) -> None:
        identity = a_vm().identity(owner="tests")
        with pytest.raises(BadParameter):
            await (await connect()).create(CreateCall(identity=identity, token="t", parameters=parameters))

    @pytest.mark.parametrize("token", ["", "t" * 65, "jeton-é"])
    async def test_an_empty_too_long_or_non_ascii_token_is_refused(self, connect: Open, token: str) -> None:
        provider = await connect()
        with pytest.raises(BadParameter, match="token"):
            await provider.create(a_call(provider, a_vm(), token=token))


class TestParts:
    async def test_disks_of_the_template_exist_and_disks_are_attached_resized_and_detached(self, connect: Open) -> None:
        provider = await connect()
        request = msgspec.structs.replace(a_vm(), template=Template(values={"DISK": ({"DISK_ID": "0", "SIZE": "8"},)}))
        deploy_id = await launch(provider, request)
        await provider.attach_disk(deploy_id, {"DISK_ID": "3", "SIZE": "1024", "TARGET": "vdd"})
        await provider.resize_disk(deploy_id, {"DISK_ID": "0", "SIZE": "16"})
        assert await fact(provider, deploy_id, "SIM_DISKS") == "0:16,3:1024"
        await provider.detach_disk(deploy_id, {"DISK_ID": "0"})
        assert await fact(provider, deploy_id, "SIM_DISKS") == "3:1024"

    async def test_reverting_a_snapshot_restores_disks_and_their_sizes(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launch(provider)
        disk = {"DISK_ID": "3", "SIZE": "1024"}
        await provider.attach_disk(deploy_id, disk)
        snapshot_id = await provider.create_snapshot(deploy_id, {"SNAPSHOT_ID": "0", "NAME": "before"})
        await provider.create_disk_snapshot(deploy_id, disk)
        await provider.resize_disk(deploy_id, {"DISK_ID": "3", "SIZE": "4096"})
        await provider.revert_disk_snapshot(deploy_id, disk)
        assert await fact(provider, deploy_id, "SIM_DISKS") == "3:1024"
        await provider.detach_disk(deploy_id, disk)
        assert await provider.create_snapshot(deploy_id, {"SNAPSHOT_ID": "0"}) == snapshot_id
        await provider.revert_snapshot(deploy_id, {"HYPERVISOR_ID": snapshot_id})
        assert await fact(provider, deploy_id, "SIM_DISKS") == "3:1024"
        assert await fact(provider, deploy_id, "SIM_SNAPSHOTS") == snapshot_id

    async def test_nics_are_attached_and_detached(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launch(provider)
        await provider.attach_nic(deploy_id, {"NIC_ID": "1", "NETWORK": "cloud"})
        assert await fact(provider, deploy_id, "SIM_NICS") == "1"
        await provider.detach_nic(deploy_id, {"NIC_ID": "1"})
        assert await fact(provider, deploy_id, "SIM_NICS") is None

    async def test_a_resized_instance_has_the_requested_cpu_and_memory(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launch(provider)
        size = Template(values={"CPU": ("1.5",), "VCPU": ("3",), "MEMORY": ("700",)})
        await provider.resize(deploy_id, VmRequest(vm_id=VmId(1), template=size))
        assert await fact(provider, deploy_id, "SIM_CPU") == "3"
        assert await fact(provider, deploy_id, "SIM_MEMORY") == "700"

    async def test_a_nic_is_attached_to_a_stopped_instance_and_refused_by_a_booting_one(self, connect: Open) -> None:
        provider = await connect(boot_time=0.01)
        deploy_id = await launch(provider)
        await provider.stop(deploy_id, hard=True)
        await provider.attach_nic(deploy_id, {"NIC_ID": "1"})
        other = await connect(boot_time=3600)
        await other.start(deploy_id)
        with pytest.raises(WrongState, match="is pending and cannot be changed, it must be running or stopped"):
            await provider.attach_nic(deploy_id, {"NIC_ID": "2"})

    async def test_a_terminated_instance_has_no_disks_nics_or_snapshots(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launch(provider)
        await provider.attach_disk(deploy_id, {"DISK_ID": "3", "SIZE": "1024"})
        await provider.attach_nic(deploy_id, {"NIC_ID": "1"})
        await provider.create_snapshot(deploy_id, {"SNAPSHOT_ID": "0"})
        await provider.destroy(deploy_id)
        attributes = (await seen(provider, deploy_id)).attributes
        assert not {"SIM_DISKS", "SIM_NICS", "SIM_SNAPSHOTS"} & set(attributes)

    async def test_a_missing_or_unknown_disk_or_snapshot_is_refused_with_the_reason(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launch(provider)
        with pytest.raises(BadParameter, match="DISK_ID is missing"):
            await provider.attach_disk(deploy_id, {"SIZE": "1"})
        with pytest.raises(
            BadParameter, match=f"instance {deploy_id} cannot be changed: there is no disk 9, there are"
        ):
            await provider.resize_disk(deploy_id, {"DISK_ID": "9", "SIZE": "1"})
        with pytest.raises(BadParameter, match="there is no snapshot snap-7"):
            await provider.revert_snapshot(deploy_id, {"HYPERVISOR_ID": "snap-7"})
        await provider.attach_disk(deploy_id, {"DISK_ID": "9", "SIZE": "1"})
        with pytest.raises(BadParameter, match="disk 9 has no snapshot"):
            await provider.revert_disk_snapshot(deploy_id, {"DISK_ID": "9"})

    async def test_each_of_many_simultaneous_reboots_is_counted(self, connect: Open) -> None:
        provider = await connect()
        deploy_ids = [await launch(provider, a_vm(number)) for number in range(3)]
        stopped = deploy_ids.pop()
        await provider.stop(stopped, hard=True)
        asked = [*deploy_ids * 4, stopped, DeployId("sim-unknown")]
        results = await asyncio.gather(*(provider.reboot(each, hard=True) for each in asked), return_exceptions=True)
        assert results[:8] == [None] * 8
        assert isinstance(results[8], WrongState)
        assert isinstance(results[9], InstanceNotFound)
        assert [await fact(provider, each, "SIM_REBOOTS") for each in (*deploy_ids, stopped)] == ["4", "4", "0"]


class TestConsole:
    async def test_an_instance_with_dropped_tags_has_no_identity_until_it_is_tagged_again(self, connect: Open) -> None:
        provider = await connect()
        request = a_vm(TAGS="role=web")
        deploy_id = await launch(provider, request)
        await provider.cloud.drop_tags(deploy_id)
        assert (await seen(provider, deploy_id)).identity is None
        assert await provider.find(owner="conformance", vm_id=VmId(1)) == []
        await provider.retag(deploy_id, request.identity(owner="tests"))
        assert (await seen(provider, deploy_id)).identity == request.identity(owner="tests")

    async def test_an_instance_terminated_from_the_console_has_that_reason(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launch(provider)
        await provider.cloud.terminate(deploy_id)
        instance = await reach(provider, deploy_id, InstanceState.TERMINATED)
        assert instance.reason == "terminated from the console"


class TestInterfaces:
    """Parts of the cloud that other APIs on it need, such as EC2's."""

    LAUNCH = Launch(type="small_256mb", image="default")

    async def test_rows_that_ec2s_api_adds_to_an_instance_are_written_in_the_transaction_of_its_create(
        self, connect: Open
    ) -> None:
        cloud = (await connect()).cloud

        def create(db: sqlite3.Connection) -> None:
            db.execute("CREATE TABLE of_mine (id TEXT)")

        def add(db: sqlite3.Connection, deploy_id: DeployId) -> None:
            db.execute("INSERT INTO of_mine VALUES (?)", (deploy_id,))

        def fail(db: sqlite3.Connection, deploy_id: DeployId) -> None:
            add(db, deploy_id)
            raise BadParameter("no")

        await cloud.database.write(create)
        extras = Extras(details={"a": "1"}, new_id=lambda: "i-1", add=add)
        assert await cloud.launch(self.LAUNCH, tags={}, token="t", extras=extras) == "i-1"
        with pytest.raises(BadParameter):
            await cloud.launch(self.LAUNCH, tags={}, token="u", extras=extras._replace(add=fail, new_id=lambda: "i-2"))
        assert [instance.deploy_id for instance in await cloud.list_instances()] == ["i-1"]
        made = await cloud.database.read(lambda db: db.execute("SELECT id FROM of_mine").fetchall())
        assert made == [("i-1",)]

    async def test_a_token_repeated_with_other_ec2_parameters_is_a_mismatch(self, connect: Open) -> None:
        cloud = (await connect()).cloud
        made = await cloud.launch(self.LAUNCH, tags={}, token="t", extras=Extras(details={"a": "1"}))
        assert await cloud.launch(self.LAUNCH, tags={}, token="t", extras=Extras(details={"a": "1"})) == made
        for extras in (None, Extras(details={"a": "2"})):
            with pytest.raises(TokenMismatch):
                await cloud.launch(self.LAUNCH, tags={}, token="t", extras=extras)

    async def test_the_fingerprint_of_a_create_is_that_of_earlier_releases(self, connect: Open) -> None:
        """The fingerprint of a create as this cloud's own provider sends it never changes."""
        cloud = (await connect()).cloud
        await cloud.launch(self.LAUNCH, tags={"a": "b"}, token="t")
        [(call,)] = await cloud.database.read(lambda db: db.execute("SELECT call FROM token").fetchall())
        before = {name: value for name, value in msgspec.structs.asdict(self.LAUNCH).items() if name != "market"}
        assert call == hashlib.sha256(msgspec.json.encode((before, {"a": "b"}), order="sorted")).hexdigest()

    async def test_the_type_of_a_stopped_instance_can_be_changed(self, connect: Open) -> None:
        provider = await connect(boot_time=0, stop_time=0)
        deploy_id = await provider.cloud.launch(self.LAUNCH, tags={})
        with pytest.raises(WrongState, match="running and cannot be given another type"):
            await provider.cloud.change_type(deploy_id, "large_8gb")
        await provider.stop(deploy_id, hard=True)
        with pytest.raises(BadParameter, match="instance type huge is not known"):
            await provider.cloud.change_type(deploy_id, "huge")
        await provider.cloud.change_type(deploy_id, "large_8gb")
        instance = await describe_one(provider, deploy_id)
        assert instance is not None
        assert (instance.attributes["SIM_INSTANCE_TYPE"], instance.attributes["SIM_MEMORY"]) == ("large_8gb", "8192")

    def test_importing_the_simulated_provider_does_not_import_a_web_server_or_ec2(self) -> None:
        code = (
            "import sys, one_provider_mad.providers.simulated.provider;"
            "print([name for name in sys.modules if name.partition('.')[0] == 'aiohttp' or '.simulated.ec2' in name])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == ("[]", "")


class TestFaults:
    """Faults as a client meets them; end_to_end/test_faults.py tests the drivers with them."""

    def test_faults_can_be_configured_for_every_call_of_the_provider(self) -> None:
        methods = {name for name, _ in inspect.getmembers(SimulatedProvider, inspect.iscoroutinefunction)}
        # They make no call of their own to the cloud.
        without_own_call = {
            *("open", "close", "capacity", "check", "attached", "reconfigure"),
            *("images", "networks", "obstacles", "login_place", "console_text", "read_prices", "read_types"),
        }
        assert {name for name in methods if not name.startswith("_")} - without_own_call == set(CALLS)

    @pytest.mark.parametrize("name", CALLS)
    async def test_a_fault_configured_for_a_call_strikes_that_call_and_no_other(self, connect: Open, name: str) -> None:
        call = partial(getattr(SimulatedProvider, name), **arguments_of(name))
        provider = await connect(faults={"transient": {"calls": [name]}})
        with pytest.raises(ProviderUnavailable, match=f"simulated did not answer {name}, by order of `transient`"):
            await call(provider)
        others = await connect(faults={"transient": {"calls": [each for each in CALLS if each != name]}})
        with suppress(InstanceNotFound, BadParameter):  # what the cloud itself answers
            await call(others)

    async def test_calls_beyond_calls_a_second_are_throttled_until_the_second_has_passed(
        self, connect: Open, clock: Clock
    ) -> None:
        provider = await connect(clock=clock, faults={"calls_a_second": 3})
        for _ in range(2):
            await provider.list_instances()
        clock.advance(0.75)
        await provider.list_instances()
        with pytest.raises(Throttled) as refused:
            await provider.list_instances()
        assert refused.value.retry_after == 0.25
        await provider.account()
        clock.advance(0.25)
        for _ in range(2):
            await provider.list_instances()
        with pytest.raises(Throttled, match="more than 3 calls a second"):
            await provider.list_instances()

    async def test_a_clock_set_back_by_an_hour_does_not_throttle_the_next_call(
        self, connect: Open, clock: Clock
    ) -> None:
        provider = await connect(clock=clock, faults={"calls_a_second": 1})
        await provider.list_instances()
        clock.advance(-3600)
        await provider.list_instances()

    async def test_a_throttled_call_was_not_carried_out(self, connect: Open, clock: Clock) -> None:
        provider = await connect(clock=clock, faults={"calls_a_second": 1})
        await provider.find(owner="tests", vm_id=VmId(1))
        with pytest.raises(Throttled):
            await provider.create(a_call(provider, a_vm()))
        assert await provider.cloud.list_instances() == []

    async def test_a_fault_strikes_the_configured_number_of_times(self, connect: Open) -> None:
        provider = await connect(faults={"transient": {"calls": ["find", "describe"], "times": 3}})
        fates = []
        for _ in range(3):
            fates += [await fate(provider.describe([])), await fate(provider.find(owner="tests", vm_id=VmId(1)))]
        assert fates == [ProviderUnavailable] * 3 + [None] * 3

    @pytest.mark.parametrize(("rate", "least", "most"), [(0, 0, 0), (0.3, 100, 200), (1, 500, 500)])
    async def test_a_fault_strikes_the_configured_share_of_calls(
        self, connect: Open, rate: float, least: int, most: int
    ) -> None:
        provider = await connect(faults={"seed": 1, "transient": {"rate": rate}})
        fates = [await fate(provider.describe([])) for _ in range(500)]
        assert least <= fates.count(ProviderUnavailable) <= most

    async def test_a_seed_decides_which_calls_fail_independently_of_other_calls(self, connect: Open) -> None:
        runs = []
        for others in (0, 3):
            provider = await connect(faults={"seed": "any", "transient": {"rate": 0.5}})
            run = []
            for _ in range(30):
                run.append(await fate(provider.describe([])))
                for _ in range(others):
                    await fate(provider.list_instances())
            runs.append(run)
        assert runs[0] == runs[1]

    async def test_without_a_seed_each_run_has_other_failing_calls(self, connect: Open) -> None:
        runs = []
        for _ in range(2):
            provider = await connect(faults={"transient": {"rate": 0.5}})
            runs.append([await fate(provider.describe([])) for _ in range(100)])
        assert runs[0] != runs[1]

    async def test_a_create_with_a_lost_answer_has_created_the_instance(self, connect: Open) -> None:
        provider = await connect(faults={"lost_answers": {}})
        call = a_call(provider, a_vm())
        with pytest.raises(ProviderUnavailable, match="did not answer create, by order of `lost_answers`"):
            await provider.create(call)
        [instance] = await provider.cloud.list_instances()
        assert await (await connect()).create(call) == instance.deploy_id

    async def test_a_late_listing_shows_the_state_at_the_time_of_the_call(self, connect: Open) -> None:
        slow = await connect(faults={"late_answers": {"calls": ["list_instances"], "seconds": 0.05}})
        begun = time.monotonic()
        with capture_logs() as logged:
            listing = asyncio.create_task(slow.list_instances())
            while not logged:  # the fault is logged once the cloud has taken the call
                await iterate_loop(1)
        await launch(await connect())
        assert await listing == []
        assert time.monotonic() - begun >= 0.05

    async def test_a_create_that_hangs_can_be_cancelled_and_has_no_effect(self, connect: Open) -> None:
        provider = await connect(faults={"hangs": {"calls": ["create"]}})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await provider.create(a_call(provider, a_vm()))
        assert await provider.list_instances() == []

    @pytest.mark.parametrize("name", ["PermissionDenied", "QuotaExceeded", "InstanceNotFound", "WrongState"])
    async def test_a_permanent_fault_raises_the_configured_error_class(self, connect: Open, name: str) -> None:
        provider = await connect(faults={"permanent": {"calls": ["create"], "error": name}})
        with pytest.raises(ProviderError, match="simulated refused create, by order of `permanent`") as refused:
            await provider.create(a_call(provider, a_vm()))
        assert (type(refused.value).__name__, refused.value.definite) == (name, True)
        assert await provider.list_instances() == []

    async def test_a_repeated_create_returns_its_instance_even_if_the_type_has_no_capacity_now(
        self, connect: Open
    ) -> None:
        call = a_call(await connect(), a_vm())
        deploy_id = await (await connect()).create(call)
        provider = await connect(faults={"no_capacity": ["small_256mb"]})
        assert await provider.create(call) == deploy_id
        with pytest.raises(NoCapacity, match="no room for instances of type small_256mb"):
            await provider.create(a_call(provider, a_vm(2)))

    @pytest.mark.parametrize(
        ("name", "capacity"), [("NoCapacity", None), ("QuotaExceeded", Capacity(left=0))], ids=["capacity", "quota"]
    )
    async def test_a_full_cloud_refuses_every_type_and_shows_a_quota_in_its_capacity(
        self, connect: Open, name: str, capacity: Capacity | None
    ) -> None:
        call = a_call(await connect(), a_vm())
        provider = await connect(faults={"full": name})
        with pytest.raises(ProviderError, match="is full just now") as refused:
            await provider.create(call)
        assert isinstance(refused.value, NoCapacity | QuotaExceeded)
        assert (type(refused.value).__name__, refused.value.is_general) == (name, True)
        assert await provider.capacity() == capacity
        assert await (await connect()).create(call)

    async def test_the_usual_rooms_are_the_types_of_capacity_or_all_and_a_creates_room_is_its_type(
        self, connect: Open
    ) -> None:
        provider = await connect()
        assert provider.usual_rooms(["small_256mb"]) == ["small_256mb"]
        (parameters,) = provider.plan(a_vm()).alternatives
        assert provider.room_of(a_vm(), parameters) in provider.usual_rooms([])

    async def test_during_an_outage_every_call_but_account_fails(self, connect: Open) -> None:
        provider = await connect(faults={"outage": True})
        assert await provider.account() == "simulated/embedded"
        for call in (provider.list_instances(), provider.describe([]), provider.destroy(DeployId("sim-x"))):
            assert await fate(call) is NotReached

    @pytest.mark.parametrize(
        ("begin", "end", "is_out"),
        [
            pytest.param(-60, 60, True, id="within"),
            pytest.param(60, 120, False, id="before"),
            pytest.param(-120, -60, False, id="after"),
            pytest.param(0, 60, True, id="at-its-beginning"),
            pytest.param(-60, 0, False, id="at-its-end"),
            pytest.param(-60, -120, True, id="past-midnight-and-within"),
            pytest.param(120, 60, True, id="since-yesterday"),
            pytest.param(60, -60, False, id="between-two-days"),
        ],
    )
    async def test_an_outage_takes_place_at_the_configured_time_of_day(
        self, connect: Open, clock: Clock, begin: int, end: int, *, is_out: bool
    ) -> None:
        noon = datetime.fromtimestamp(clock.now, tz=UTC).astimezone().replace(hour=12)
        clock.now = noon.timestamp()
        window = {name: (noon + timedelta(seconds=after)).time() for name, after in (("from", begin), ("to", end))}
        provider = await connect(clock=clock, faults={"outages": [window]})
        assert (await fate(provider.list_instances()) is NotReached) is is_out

    @pytest.mark.parametrize("name", ["describe", "find", "list_instances"])
    async def test_a_broken_listing_fails_instead_of_returning_a_part(self, connect: Open, name: str) -> None:
        deploy_id = await launch(await connect())
        provider = await connect(faults={"broken_listings": {"calls": [name]}})
        listings: dict[str, Awaitable[Any]] = {
            "describe": provider.describe([deploy_id]),
            "find": provider.find(owner="tests", vm_id=VmId(1)),
            "list_instances": provider.list_instances(),
        }
        fates = {each: await fate(listing) for each, listing in listings.items()}
        assert fates == {each: ProviderUnavailable if each == name else None for each in listings}

    async def test_every_listing_of_every_client_leaves_out_the_same_share_of_instances(self, connect: Open) -> None:
        well = await connect()
        ids = [await well.create(a_call(well, a_vm(number))) for number in range(60)]
        providers = [await connect(faults={"unseen": {"share": 0.5}}) for _ in range(2)]
        seen_by_all = [{each.deploy_id for each in await provider.list_instances()} for provider in providers * 2]
        assert seen_by_all == [seen_by_all[0]] * 4
        assert set(await providers[0].describe(ids)) == seen_by_all[0]
        assert 15 <= len(seen_by_all[0]) <= 45
        other_seed = await connect(faults={"seed": 2, "unseen": {"share": 0.5}})
        assert {each.deploy_id for each in await other_seed.list_instances()} != seen_by_all[0]

    async def test_only_the_configured_listing_calls_leave_instances_out(self, connect: Open) -> None:
        deploy_id = await launch(await connect())
        provider = await connect(faults={"unseen": {"calls": ["describe"]}})
        assert await provider.describe([deploy_id]) == {}
        assert [each.deploy_id for each in await provider.find(owner="conformance", vm_id=VmId(1))] == [deploy_id]

    async def test_a_configured_crash_is_left_out_with_a_warning_if_it_cannot_be_counted(self, tmp_path: Path) -> None:
        warnings: list[str] = []
        (tmp_path / "embedded.db.crashes").mkdir()
        settings = msgspec.convert({"faults": {"crash": {"at": "before-list_instances"}}}, SimulatedSettings)
        context = msgspec.structs.replace(place(tmp_path), warn=warnings.append)
        provider = SimulatedProvider(context, settings)
        await provider.open()
        assert await provider.list_instances() == []
        await provider.close()
        assert [sentence.partition(":")[0] for sentence in warnings] == [
            "crash before-list_instances left out, since it cannot be counted"
        ]

    async def test_a_configured_crash_takes_place_the_configured_number_of_times(self, tmp_path: Path) -> None:
        codes = []
        for _ in range(4):
            victim = await child(tmp_path, 0, 1, faults="{'crash': {'at': 'before-create', 'times': 2}}")
            await victim.communicate()
            codes.append(victim.returncode)
        assert codes == [-signal.SIGKILL] * 2 + [0] * 2

    @pytest.mark.parametrize(
        ("faults", "sentence"),
        [
            (
                {"transient": {"calls": ["rebot"]}},
                "simulated.faults.transient: there is no call rebot, known are account",
            ),
            ({"unseen": {"calls": ["create"]}}, "simulated.faults.unseen: there is no call create, known are describe"),
            (
                {"broken_listings": {"calls": ["stop"]}},
                "simulated.faults.broken_listings: there is no call stop, known",
            ),
            ({"hangs": {"rate": 2}}, "simulated.faults.hangs.rate: expected `float` <= 1.0"),
            ({"hang": {}}, "simulated.faults.hang is no setting of this release; check the spelling"),
            ({"permanent": {"error": "Throttled"}}, "simulated.faults.permanent.error: invalid enum value 'Throttled'"),
            ({"no_capacity": ["huge"]}, "simulated: faults.no_capacity names the instance type huge, which is not"),
            ({"outages": [{"from": "soon"}]}, "simulated.faults.outages[0].from: "),
            ({"crash": {"at": "create"}}, "simulated.faults.crash: at: expected before- or after- and the name of a"),
            ({"crash": {"at": "after-crate"}}, "simulated.faults.crash: there is no call crate, known are account"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_a_fault_configuration_that_could_never_take_effect_is_refused(
        self, faults: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(SettingsError, match=re.escape(sentence)):
            convert({"faults": faults}, SimulatedSettings, path=None, prefix="simulated.")

    def test_the_example_configuration_and_its_page_name_every_fault(self) -> None:
        root = Path(__file__).parents[2]
        table = (root / "etc" / "simulated.toml").read_text().partition("[simulated.faults]\n")[2].partition("\n[")[0]
        example = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", table, flags=re.MULTILINE))
        assert set(example) == set(FaultSettings.__struct_fields__)
        assert msgspec.convert(example, FaultSettings).outages
        page = (root / "docs" / "providers.md").read_text()
        assert {name for name in FaultSettings.__struct_fields__ if f"`{name}`" not in page} == set()


def arguments_of(name: str) -> dict[str, Any]:
    """A value for each parameter of a call."""
    operand = {"DISK_ID": "1", "SIZE": "1", "NIC_ID": "1", "SNAPSHOT_ID": "1", "HYPERVISOR_ID": "1"}
    identity = a_vm().identity(owner="tests")
    values: dict[str, Any] = {
        "call": CreateCall(identity=identity, token="t", parameters={}),
        "deploy_id": DeployId("sim-unknown"),
        "deploy_ids": [],
        "identity": identity,
        "hard": False,
        "tags": {"cost": "students"},
        "owner": "tests",
        "vm_id": VmId(1),
        "request": a_vm(),
        **dict.fromkeys(("disk", "nic", "snapshot"), operand),
    }
    parameters = inspect.signature(getattr(SimulatedProvider, name)).parameters
    return {parameter: values[parameter] for parameter in parameters if parameter != "self"}


async def fate(call: Awaitable[Any]) -> type[Exception] | None:
    """The class of the error that a call raises, if any."""
    try:
        await call
    except ProviderError as error:
        return type(error)
    return None


class TestManyAtOnce:
    async def test_a_thousand_simultaneous_reboots_take_at_most_ten_transactions(
        self, connect: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each transaction waits for the disk, so a thousand of them would take seconds."""
        statements: list[str] = []
        untraced = database.connect

        def traced(*arguments: Any, **keys: Any) -> sqlite3.Connection:
            connection = untraced(*arguments, **keys)
            connection.set_trace_callback(statements.append)
            return connection

        monkeypatch.setattr(database, "connect", traced)
        provider = await connect(boot_time=0)
        calls = [a_call(provider, a_vm(number)) for number in range(1000)]
        deploy_ids = await asyncio.gather(*(provider.create(call) for call in calls))
        statements.clear()
        await asyncio.gather(*(provider.reboot(each, hard=False) for each in deploy_ids))
        described = await provider.describe(deploy_ids)
        assert 1 <= statements.count("COMMIT") <= 10
        assert {instance.attributes["SIM_REBOOTS"] for instance in described.values()} == {"1"}


CHILD = """
import ast, asyncio, msgspec, sys
from pathlib import Path
from one_provider_mad.domain import VmId, VmRequest
from one_provider_mad.mappings import ContextSettings, Mappings
from one_provider_mad.providers.interface import CreateCall, ProviderContext
from one_provider_mad.providers.simulated.provider import factory
from one_provider_mad.providers.simulated.settings import SimulatedSettings

async def main(directory, first, count, faults):
    context = ProviderContext(
        name="embedded", hypervisor="any", owner="child", state_directory=Path(directory), warn=print
    )
    for _ in range(5):  # open and close: the last to close removes files that another process may be opening
        provider = factory(context, SimulatedSettings())
        await provider.open()
        await provider.close()
    provider = factory(context, msgspec.convert({"faults": faults}, SimulatedSettings))
    await provider.open()
    number = first
    while not count or number < first + count:
        request = VmRequest(vm_id=VmId(number))
        call = CreateCall(
            identity=request.identity(owner="child"),
            token=str(number),
            parameters=provider.plan(request).alternatives[0],
        )
        print(await provider.create(call), flush=True)
        number += 1
    await provider.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), ast.literal_eval(sys.argv[4])))
"""


async def child(directory: Path, first: int, count: int, *, faults: str = "{}") -> asyncio.subprocess.Process:
    """Another process that creates instances in the same cloud, for ever if the count is 0."""
    arguments = (str(directory), str(first), str(count), faults)
    return await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, *arguments, stdout=asyncio.subprocess.PIPE)


class TestProcesses:
    async def test_four_processes_can_create_the_database_at_the_same_time(self, tmp_path: Path, connect: Open) -> None:
        children = [await child(tmp_path, 100 * number, 10) for number in range(4)]
        printed = [(await each.communicate())[0] for each in children]
        assert [each.returncode for each in children] == [0] * 4
        provider = await connect()
        listed = {instance.deploy_id for instance in await provider.list_instances()}
        assert listed == {line.decode() for text in printed for line in text.split()}
        assert len(listed) == 40

    async def test_a_killed_process_leaves_every_reported_instance_and_no_lock(
        self, tmp_path: Path, connect: Open
    ) -> None:
        provider = await connect()
        victim = await child(tmp_path, 0, 0)
        assert victim.stdout is not None
        printed = [(await victim.stdout.readline()).decode().strip() for _ in range(20)]
        victim.send_signal(signal.SIGKILL)
        printed += (await victim.communicate())[0].decode().split("\n")[:-1]
        assert victim.returncode == -signal.SIGKILL

        await launch(provider, a_vm(5000))
        instances = await provider.list_instances()
        assert set(printed) <= {instance.deploy_id for instance in instances}
        assert all(instance.identity is not None for instance in instances)
        vm_ids = [instance.identity.vm_id for instance in instances if instance.identity]
        assert len(vm_ids) == len(set(vm_ids))

    async def test_closing_a_provider_closes_all_file_descriptors(self, tmp_path: Path) -> None:
        def descriptors() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        before = descriptors()
        for _ in range(3):
            provider = make(tmp_path)
            await provider.open()
            await provider.list_instances()
            await provider.close()
        assert descriptors() == before
