"""The conformance suite: tests that every provider must pass whose instances are tagged with their VM.

To test a new provider: in its own test module, derive from `OwnedCloudConformance` and give it a fixture

    class TestMyCloudConforms(OwnedCloudConformance):
        @pytest.fixture
        def cloud(self, ...) -> CloudUnderTest:
            return CloudUnderTest(connect=..., console=..., ...)

`connect` returns a further provider for the same cloud, as another process would have; `console` acts like a user of
the cloud's console. Each test gets an empty cloud of its own. A capability that the provider lacks must be named in
`lacks` with the reason; the tests of all others run, so nothing is skipped by accident. States should be reached in
well under a second.

The suite calls the provider by `providers/interface.py`; one test runs actions, which check the owner of an instance.
Every wait has a deadline.
"""

# mypy: disable-error-code="type-abstract"
# The suite passes capabilities, which are protocols, to isinstance.

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import msgspec
import pytest
from blockbuster import blockbuster_ctx

from one_provider_mad.actions.intents import Intent
from one_provider_mad.actions.lifecycle import perform_intent, reboot, stop
from one_provider_mad.actions.terminating import destroy
from one_provider_mad.actions.work import Work
from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, Template, VmId, VmRequest
from one_provider_mad.errors import (
    BadParameter,
    InstanceNotFound,
    NotOurs,
    ProviderError,
    TokenMismatch,
    TokenSpent,
    WrongState,
)
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.journal.writer import Journal
from one_provider_mad.pricing.values import ON_DEMAND, SPOT, Kind
from one_provider_mad.providers.interface import (
    Attached,
    ContextUpdate,
    CreateCall,
    DeviceListing,
    DiskHotplug,
    DiskResize,
    DiskSnapshots,
    ImportSource,
    NetworkRules,
    NicHotplug,
    NicUpdates,
    PriceSource,
    Provider,
    Resizable,
    Snapshots,
    Suspendable,
    TypeSource,
    UsualPrice,
)
from one_provider_mad.settings import Policy

OWNER = "conformance"
PATIENCE = 60.0
"""Seconds that a test waits for a condition, such as a state, before it fails."""

Capability = TypeVar("Capability")
Result = TypeVar("Result")

numbers = count(1)


class Console(Protocol):
    """A user of the cloud's own console."""

    async def launch(self) -> DeployId:
        """Create an instance without ONE_PROVIDER_ tags, and return its id."""

    async def terminate(self, deploy_id: DeployId) -> None:
        """Terminate an instance."""


@dataclass(frozen=True, kw_only=True)
class CloudUnderTest:
    """A cloud for the tests of a provider.

    Attributes:
        connect: returns a new provider for the cloud, not opened yet.
        console: acts on the cloud without the provider.
        section: valid PUBLIC_CLOUD attributes of a VM.
        other_section: valid PUBLIC_CLOUD attributes of a VM with another size.
        unknown_deploy_id: a valid id that the cloud has never given.
        lacks: capabilities that the provider does not have, each with the reason.
    """

    connect: Callable[[], Provider]
    console: Console
    section: Mapping[str, str]
    other_section: Mapping[str, str]
    unknown_deploy_id: DeployId
    lacks: Mapping[type, str] = field(default_factory=dict)

    def request(self, attributes: Mapping[str, str] | None = None, *, vm_id: int | None = None) -> VmRequest:
        """Return a DEPLOY of a new VM; `attributes` are added to `section`."""
        number = VmId(next(numbers) if vm_id is None else vm_id)
        section = {**self.section, **(attributes or {})}
        return VmRequest(
            vm_id=number,
            name=f"vm-{number}",
            host="cloud",
            host_id=3,
            stime=1_700_000_000,
            template=Template(values={"CPU": ("1",), "MEMORY": ("256",), "CONTEXT": ({"START_SCRIPT": "echo hi"},)}),
            user_template=Template(values={"PUBLIC_CLOUD": (section,)}),
        )


def a_call(provider: Provider, request: VmRequest, *, token: str | None = None) -> CreateCall:
    """Return the create call that the action driver would make for a DEPLOY."""
    return CreateCall(
        identity=request.identity(owner=OWNER),
        token=f"token-{request.vm_id}" if token is None else token,
        parameters=provider.plan(request).alternatives[0],
    )


async def describe_one(provider: Provider, deploy_id: DeployId) -> Instance | None:
    """Return one instance as the cloud describes it now, None if it is unknown."""
    return (await provider.describe([deploy_id])).get(deploy_id)


async def listed(provider: Provider, priced: PriceSource, deploy_id: DeployId) -> Instance:
    """Return one instance of a listing, after the prices that the listing calls for have been read."""
    instances = await provider.list_instances()
    await priced.read_prices(instances)
    return next(each for each in instances if each.deploy_id == deploy_id)


async def until(condition: Callable[[], Awaitable[Result]], what: str) -> Result:
    """Evaluate the condition until its result is true, and return that result; fail the test after PATIENCE."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not (answer := await condition()):
                pass
            return answer
    except TimeoutError:
        pytest.fail(f"did not happen within {PATIENCE:g} s: {what}")


async def reach(provider: Provider, deploy_id: DeployId, *states: InstanceState) -> Instance:
    """Wait until the instance is in one of the states, and return it."""

    async def in_state() -> Instance | None:
        instance = await describe_one(provider, deploy_id)
        return instance if instance is not None and instance.state in states else None

    instance = await until(in_state, f"{deploy_id} {' or '.join(state.value for state in states)}")
    assert instance is not None
    return instance


async def iterate_loop(number: int) -> None:
    """Let the event loop run `number` iterations."""
    for _ in range(number):
        iterated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(iterated.set_result, None)
        await iterated


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError, ProviderError):
        await task


@asynccontextmanager
async def a_worker(provider: Provider, directory: Path) -> AsyncIterator[tuple[Callable[[VmRequest], Work], Journal]]:
    """Yield a function that returns the Work of an action for a request, and the journal that it uses."""
    journal = await asyncio.to_thread(Journal, directory / "journal", clock=time.time, on_lost=pytest.fail)
    await journal.open()
    shared = SharedCloud(provider, owner=OWNER, retries=0, call_timeout=PATIENCE)

    def work(request: VmRequest) -> Work:
        return Work(
            cloud=shared.for_action(Waiting()),
            journal=journal,
            policy=Policy(),
            request=request,
            deadline=math.inf,
            clock=time.time,
            warn=pytest.fail,
        )

    try:
        yield work, journal
    finally:
        await journal.close()


class OwnedCloudConformance:
    """The tests of the suite; derive a `Test...` class from it and give that the fixture `cloud`."""

    @pytest.fixture
    def cloud(self) -> CloudUnderTest:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def nothing_blocks(self) -> Iterator[None]:
        """Make the test fail if the provider blocks the event loop."""
        with blockbuster_ctx("one_provider_mad", excluded_modules=["one_provider_mad.testing"]) as watcher:
            # Coverage takes a lock when it first traces a file.
            for function in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
                watcher.functions[function].can_block_in("coverage/collector.py", "lock_data")
            yield

    @pytest.fixture
    async def provider(self, cloud: CloudUnderTest) -> AsyncIterator[Provider]:
        provider = cloud.connect()
        await provider.open()
        yield provider
        await provider.close()

    @pytest.fixture
    async def running(self, cloud: CloudUnderTest, provider: Provider) -> DeployId:
        """Return a running instance of a VM."""
        return await self.launch(cloud, provider)

    async def launch(self, cloud: CloudUnderTest, provider: Provider, request: VmRequest | None = None) -> DeployId:
        deploy_id = await provider.create(a_call(provider, request or cloud.request()))
        await reach(provider, deploy_id, InstanceState.RUNNING)
        return deploy_id

    async def stopped(self, provider: Provider, deploy_id: DeployId) -> DeployId:
        await provider.stop(deploy_id, hard=False)
        await reach(provider, deploy_id, InstanceState.STOPPED)
        return deploy_id

    async def terminated(self, provider: Provider, deploy_id: DeployId) -> DeployId:
        await provider.destroy(deploy_id)
        await reach(provider, deploy_id, InstanceState.TERMINATED)
        return deploy_id

    def capable(self, cloud: CloudUnderTest, provider: Provider, capability: type[Capability]) -> Capability:
        """Return the provider, typed as one with the capability; skip the test if `lacks` names the capability."""
        if capability in cloud.lacks:
            assert not isinstance(provider, capability), (
                f"{provider.name} has {capability.__name__}: remove it from `lacks`"
            )
            pytest.skip(cloud.lacks[capability])
        assert isinstance(provider, capability), (
            f"{provider.name} lacks {capability.__name__}: add it to `lacks`, with the reason"
        )
        return cast("Capability", provider)

    # Name and account

    async def test_name_visibility_grace_and_watch_interval_are_valid(self, provider: Provider) -> None:
        assert provider.name.isascii()
        assert provider.name
        assert provider.visibility_grace >= 0
        assert provider.watch_interval > 0

    async def test_account_is_short_printable_and_stable(self, provider: Provider) -> None:
        account = await provider.account()
        assert account
        assert account.isprintable()
        assert len(account) < 200
        assert await provider.account() == account

    # Plans

    def test_plan_is_deterministic_and_needs_no_connection(self, cloud: CloudUnderTest) -> None:
        request = cloud.request()
        plan = cloud.connect().plan(request)
        assert plan == cloud.connect().plan(request)
        assert plan.alternatives
        assert plan.warnings == ()

    def test_parameters_survive_json_unchanged(self, cloud: CloudUnderTest) -> None:
        for parameters in cloud.connect().plan(cloud.request({"TAGS": "role=web,café=ja"})).alternatives:
            assert msgspec.json.decode(msgspec.json.encode(parameters)) == parameters

    def test_parameters_do_not_contain_the_identity(self, cloud: CloudUnderTest) -> None:
        for parameters in cloud.connect().plan(cloud.request()).alternatives:
            assert b"ONE_PROVIDER_" not in msgspec.json.encode(parameters)

    @pytest.mark.parametrize("name", ["CLIENTTOKEN", "CLIENT_TOKEN", "ClientToken"])
    def test_token_in_the_template_is_ignored_with_a_warning(self, cloud: CloudUnderTest, name: str) -> None:
        request = cloud.request()
        plan = cloud.connect().plan(request)
        with_token = cloud.connect().plan(cloud.request({name: "mine"}, vm_id=request.vm_id))
        assert with_token.alternatives == plan.alternatives
        assert [name.upper() in warning for warning in with_token.warnings] == [True]

    @pytest.mark.parametrize(
        "attributes",
        [
            pytest.param({"TAGS": "role=web,ONE_PROVIDER_OWNER=me"}, id="tag"),
            pytest.param({"TAGS": " one_provider_vm_id = 7"}, id="tag-in-lower-case"),
            pytest.param({"TAGS": "ONE_PROVIDER_SOMETHING=new"}, id="unknown-reserved-tag"),
            pytest.param({"ONE_PROVIDER_SEQ": "0"}, id="attribute"),
            pytest.param({"One_Provider_Seq": "0"}, id="attribute-in-another-case"),
        ],
    )
    def test_reserved_tags_in_the_template_raise_bad_parameter(
        self, cloud: CloudUnderTest, attributes: Mapping[str, str]
    ) -> None:
        with pytest.raises(BadParameter, match=r"(?i)one_provider_"):
            cloud.connect().plan(cloud.request(attributes))

    # Creating

    async def test_deploy_id_is_one_ascii_word(self, running: DeployId) -> None:
        assert running.replace("-", "").isalnum()
        assert running.isascii()

    async def test_created_instance_has_the_given_identity(self, cloud: CloudUnderTest, provider: Provider) -> None:
        request = cloud.request({"TAGS": "role=web"})
        deploy_id = await self.launch(cloud, provider, request)
        instance = await describe_one(provider, deploy_id)
        assert instance is not None
        assert instance.identity == request.identity(owner=OWNER)
        assert instance.created_at > 0

    async def test_repeated_create_returns_the_same_instance(self, cloud: CloudUnderTest, provider: Provider) -> None:
        if not provider.is_create_repeatable:
            pytest.skip("the cloud has no idempotency tokens")
        call = a_call(provider, cloud.request())
        deploy_id = await provider.create(call)
        assert await provider.create(call) == deploy_id
        assert set(await asyncio.gather(*(provider.create(call) for _ in range(5)))) == {deploy_id}

    async def test_repeated_create_returns_a_running_or_stopped_instance(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        if not provider.is_create_repeatable:
            pytest.skip("the cloud has no idempotency tokens")
        request = cloud.request()
        deploy_id = await self.launch(cloud, provider, request)
        assert await provider.create(a_call(provider, request)) == deploy_id
        await self.stopped(provider, deploy_id)
        assert await provider.create(a_call(provider, request)) == deploy_id

    async def test_token_with_other_parameters_raises_token_mismatch(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        if not provider.is_create_repeatable:
            pytest.skip("the cloud has no idempotency tokens")
        request = cloud.request()
        call = a_call(provider, request)
        await provider.create(call)
        other = provider.plan(cloud.request(cloud.other_section, vm_id=request.vm_id)).alternatives[0]
        with pytest.raises(TokenMismatch):
            await provider.create(CreateCall(identity=call.identity, token=call.token, parameters=other))

    async def test_token_of_a_terminated_instance_raises_token_spent(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        if not provider.is_create_repeatable:
            pytest.skip("the cloud has no idempotency tokens")
        request = cloud.request()
        await self.terminated(provider, await self.launch(cloud, provider, request))
        with pytest.raises(TokenSpent):
            await provider.create(a_call(provider, request))

    async def test_new_token_creates_a_new_instance(self, cloud: CloudUnderTest, provider: Provider) -> None:
        request = cloud.request()
        first = await provider.create(a_call(provider, request))
        second = await provider.create(a_call(provider, request, token=f"token-{request.vm_id}-again"))
        assert first != second

    @pytest.mark.parametrize("iterations", range(8))
    async def test_create_cancelled_after_some_loop_iterations_leaves_no_untagged_instance(
        self, cloud: CloudUnderTest, provider: Provider, iterations: int
    ) -> None:
        request = cloud.request()
        task = asyncio.create_task(provider.create(a_call(provider, request)))
        await iterate_loop(iterations)
        await cancel(task)
        await self.assert_all_is_tagged(provider, request)

    @pytest.mark.parametrize("delay", [0.0005, 0.002, 0.01])
    async def test_create_cancelled_after_some_time_leaves_no_untagged_instance(
        self, cloud: CloudUnderTest, provider: Provider, delay: float
    ) -> None:
        request = cloud.request()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await provider.create(a_call(provider, request))
        await self.assert_all_is_tagged(provider, request)

    async def assert_all_is_tagged(self, provider: Provider, request: VmRequest) -> None:
        """Assert that every instance has its tags, and that a repeated create returns the only instance."""
        identity = request.identity(owner=OWNER)
        assert all(instance.identity == identity for instance in await provider.list_instances())
        if not provider.is_create_repeatable:
            return
        deploy_id = await provider.create(a_call(provider, request))
        await reach(provider, deploy_id, InstanceState.RUNNING)
        assert [found.deploy_id for found in await provider.find(owner=OWNER, vm_id=request.vm_id)] == [deploy_id]
        assert all(instance.identity == identity for instance in await provider.list_instances())

    # Starting, stopping, rebooting

    async def test_start_and_stop_can_be_repeated(self, provider: Provider, running: DeployId) -> None:
        await provider.start(running)
        await provider.stop(running, hard=False)
        await provider.stop(running, hard=False)
        await reach(provider, running, InstanceState.STOPPED)
        await provider.stop(running, hard=False)
        await provider.start(running)
        await provider.start(running)
        await reach(provider, running, InstanceState.RUNNING)

    async def test_hard_stop_stops_the_instance_and_can_be_repeated(
        self, provider: Provider, running: DeployId
    ) -> None:
        await provider.stop(running, hard=True)
        await provider.stop(running, hard=True)
        await reach(provider, running, InstanceState.STOPPED)

    @pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
    async def test_reboot_leaves_the_instance_running_and_can_be_repeated(
        self, provider: Provider, running: DeployId, *, hard: bool
    ) -> None:
        await provider.reboot(running, hard=hard)
        await provider.reboot(running, hard=hard)
        await reach(provider, running, InstanceState.RUNNING)

    async def test_reboot_of_a_stopped_instance_raises_wrong_state(self, provider: Provider, running: DeployId) -> None:
        await self.stopped(provider, running)
        with pytest.raises(WrongState):
            await provider.reboot(running, hard=False)

    async def test_instance_keeps_its_identity_when_it_stops_and_starts(
        self, provider: Provider, running: DeployId
    ) -> None:
        before = await describe_one(provider, running)
        await self.stopped(provider, running)
        await provider.start(running)
        after = await reach(provider, running, InstanceState.RUNNING)
        assert before is not None
        assert after.identity == before.identity

    async def test_start_stop_and_reboot_of_a_terminated_instance_raise_wrong_state(
        self, provider: Provider, running: DeployId
    ) -> None:
        await self.terminated(provider, running)
        with pytest.raises(WrongState):
            await provider.start(running)
        with pytest.raises(WrongState):
            await provider.stop(running, hard=False)
        with pytest.raises(WrongState):
            await provider.reboot(running, hard=False)

    async def test_every_call_about_an_unknown_id_raises_instance_not_found(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        unknown = cloud.unknown_deploy_id
        identity = cloud.request().identity(owner=OWNER)
        for attempt in (
            provider.start(unknown),
            provider.stop(unknown, hard=False),
            provider.stop(unknown, hard=True),
            provider.reboot(unknown, hard=False),
            provider.destroy(unknown),
            provider.retag(unknown, identity),
        ):
            with pytest.raises(InstanceNotFound):
                await attempt

    # Destroying

    async def test_destroy_can_be_repeated(self, provider: Provider, running: DeployId) -> None:
        await provider.destroy(running)
        await provider.destroy(running)
        await reach(provider, running, InstanceState.TERMINATED)
        await provider.destroy(running)

    async def test_stopped_instance_can_be_destroyed(self, provider: Provider, running: DeployId) -> None:
        await self.terminated(provider, await self.stopped(provider, running))

    async def test_new_instance_can_be_destroyed_at_once(self, cloud: CloudUnderTest, provider: Provider) -> None:
        await self.terminated(provider, await provider.create(a_call(provider, cloud.request())))

    async def test_instance_terminated_in_the_console_can_be_destroyed(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        await cloud.console.terminate(running)
        await provider.destroy(running)
        await reach(provider, running, InstanceState.TERMINATED)

    # Lookups

    async def test_describe_leaves_out_unknown_ids(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        assert set(await provider.describe([cloud.unknown_deploy_id, running])) == {running}
        assert not await provider.describe([cloud.unknown_deploy_id])
        assert not await provider.describe([])

    async def test_describe_returns_many_instances_at_once(self, cloud: CloudUnderTest, provider: Provider) -> None:
        calls = [a_call(provider, cloud.request()) for _ in range(5)]
        deploy_ids = await asyncio.gather(*(provider.create(call) for call in calls))

        async def all_visible() -> Mapping[DeployId, Instance] | None:
            described = await provider.describe(deploy_ids)
            return described if len(described) == len(calls) else None

        described = await until(all_visible, "all instances described")
        assert described is not None
        assert [described[deploy_id].identity for deploy_id in deploy_ids] == [call.identity for call in calls]

    async def test_find_returns_the_instances_of_one_vm_only(self, cloud: CloudUnderTest, provider: Provider) -> None:
        request = cloud.request()
        deploy_id = await self.launch(cloud, provider, request)
        await self.launch(cloud, provider)
        found = await provider.find(owner=OWNER, vm_id=request.vm_id)
        assert [(each.deploy_id, each.identity) for each in found] == [(deploy_id, request.identity(owner=OWNER))]
        assert not await provider.find(owner="another-owner", vm_id=request.vm_id)
        assert not await provider.find(owner=OWNER, vm_id=VmId(999_999))

    async def test_find_returns_terminated_and_running_instances_of_a_vm(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        request = cloud.request()
        first = await self.terminated(provider, await self.launch(cloud, provider, request))
        again = a_call(provider, msgspec.structs.replace(request, seq=1), token=f"token-{request.vm_id}-1")
        second = await provider.create(again)
        await reach(provider, second, InstanceState.RUNNING)
        found = {each.deploy_id: each for each in await provider.find(owner=OWNER, vm_id=request.vm_id)}
        assert set(found) == {first, second}
        assert found[first].state.is_gone
        assert found[second].identity == again.identity

    async def test_listing_has_tagged_and_untagged_instances_once_each(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        foreign = await cloud.console.launch()
        await reach(provider, foreign, InstanceState.RUNNING)
        rows = await provider.list_instances()
        listed = {instance.deploy_id: instance for instance in rows}
        assert set(listed) == {running, foreign}
        assert len(rows) == 2, "each instance is listed once"
        assert listed[foreign].identity is None
        assert listed[running].identity is not None

    async def test_describe_find_and_listing_return_the_same_instance(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        request = cloud.request()
        deploy_id = await self.launch(cloud, provider, request)
        described = await describe_one(provider, deploy_id)
        views = [described, *await provider.find(owner=OWNER, vm_id=request.vm_id), *await provider.list_instances()]
        still = [msgspec.structs.replace(view, usage=None) for view in views if view is not None]
        assert len(still) == 3
        assert still == [still[0]] * 3

    async def test_attribute_names_are_valid_in_opennebula(self, provider: Provider, running: DeployId) -> None:
        instance = await describe_one(provider, running)
        assert instance is not None
        for name in instance.attributes:
            assert name.isascii()
            assert name.replace("_", "A").isalnum()
            assert name == name.upper()
            assert not name[0].isdigit()

    # Tags

    async def test_retag_replaces_the_identity(self, cloud: CloudUnderTest, provider: Provider) -> None:
        request = cloud.request({"TAGS": "role=web"})
        deploy_id = await self.launch(cloud, provider, request)
        moved = Identity(owner=OWNER, vm_id=VmId(request.vm_id + 100_000), stime=5, seq=2, host_id=9)
        await provider.retag(deploy_id, moved)
        await provider.retag(deploy_id, moved)

        async def has_new_identity() -> bool:
            instance = await describe_one(provider, deploy_id)
            return instance is not None and instance.identity == moved

        await until(has_new_identity, "the new identity")
        assert [found.deploy_id for found in await provider.find(owner=OWNER, vm_id=moved.vm_id)] == [deploy_id]
        assert not await provider.find(owner=OWNER, vm_id=request.vm_id)

    async def test_retag_imports_an_untagged_instance(self, cloud: CloudUnderTest, provider: Provider) -> None:
        foreign = await cloud.console.launch()
        await reach(provider, foreign, InstanceState.RUNNING)
        request = cloud.request()
        await provider.retag(foreign, request.identity(owner=OWNER))

        async def is_found() -> bool:
            return [each.deploy_id for each in await provider.find(owner=OWNER, vm_id=request.vm_id)] == [foreign]

        await until(is_found, "the imported instance among those of its VM")

    @pytest.mark.parametrize("is_tagged", [True, False], ids=["another-vm", "untagged"])
    async def test_actions_on_an_instance_of_another_vm_raise_not_ours(
        self, cloud: CloudUnderTest, provider: Provider, tmp_path: Path, *, is_tagged: bool
    ) -> None:
        """The other VM's instance comes from the request's deploy id, or from the response to the VM's own create."""
        foreign = await (self.launch(cloud, provider) if is_tagged else cloud.console.launch())
        await reach(provider, foreign, InstanceState.RUNNING)
        other = cloud.request()
        request = msgspec.structs.replace(other, deploy_id=foreign)
        async with a_worker(provider, tmp_path) as (work, journal):
            for act in (partial(reboot, is_hard=False), partial(reboot, is_hard=True), stop, destroy):
                with pytest.raises(NotOurs):
                    await act(work(request))
            answered = Attempt.new(other.identity(owner=OWNER), 1, {})
            await journal.save_attempt(
                msgspec.structs.replace(answered, state=AttemptState.CREATED, deploy_id=foreign, sent_at=1.0)
            )
            with pytest.raises(NotOurs):
                await destroy(work(other))
        instance = await describe_one(provider, foreign)
        assert instance is not None
        assert instance.state is InstanceState.RUNNING

    # Two processes

    async def test_two_providers_on_one_cloud_see_the_same_instances(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        other = cloud.connect()
        await other.open()
        try:
            assert await other.account() == await provider.account()
            request = cloud.request()
            call = a_call(provider, request)
            deploy_id = await provider.create(call)
            await reach(other, deploy_id, InstanceState.RUNNING)
            if provider.is_create_repeatable:
                assert await other.create(call) == deploy_id
            await other.destroy(deploy_id)
            await reach(provider, deploy_id, InstanceState.TERMINATED)
        finally:
            await other.close()

    # Capabilities

    async def test_suspend_can_be_repeated_and_start_resumes(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        suspendable = self.capable(cloud, provider, Suspendable)
        await suspendable.suspend(running)
        await suspendable.suspend(running)
        await reach(provider, running, InstanceState.SUSPENDED)
        await suspendable.suspend(running)
        await provider.start(running)
        await reach(provider, running, InstanceState.RUNNING)

    async def test_suspend_of_a_stopped_instance_raises_wrong_state(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        suspendable = self.capable(cloud, provider, Suspendable)
        await self.stopped(provider, running)
        with pytest.raises(WrongState):
            await suspendable.suspend(running)
        with pytest.raises(InstanceNotFound):
            await suspendable.suspend(cloud.unknown_deploy_id)

    async def test_snapshot_can_be_created_reverted_and_deleted(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        snapshots = self.capable(cloud, provider, Snapshots)
        snapshot_id = await snapshots.create_snapshot(running, {"SNAPSHOT_ID": "0", "NAME": "before"})
        assert snapshot_id
        assert not any(character.isspace() for character in snapshot_id)
        taken = {"SNAPSHOT_ID": "0", "NAME": "before", "HYPERVISOR_ID": snapshot_id}
        await snapshots.revert_snapshot(running, taken)
        await snapshots.revert_snapshot(running, taken)
        await snapshots.delete_snapshot(running, taken)
        await snapshots.delete_snapshot(running, taken)
        with pytest.raises(BadParameter):
            await snapshots.revert_snapshot(running, taken)

    async def test_disk_can_be_attached_and_detached_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        hotplug = self.capable(cloud, provider, DiskHotplug)
        disk = {"DISK_ID": "5", "SIZE": "1024", "TARGET": "vdf"}
        for _ in range(2):
            await hotplug.attach_disk(running, disk)
        for _ in range(2):
            await hotplug.detach_disk(running, disk)

    async def test_disk_snapshot_can_be_created_and_reverted(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        snapshots = self.capable(cloud, provider, DiskSnapshots)
        disk = {"DISK_ID": "5", "SIZE": "1024", "TARGET": "vdf"}
        await self.capable(cloud, provider, DiskHotplug).attach_disk(running, disk)
        await snapshots.create_disk_snapshot(running, disk)
        await snapshots.revert_disk_snapshot(running, disk)
        await snapshots.revert_disk_snapshot(running, disk)

    async def test_disk_can_be_enlarged_repeatedly_but_not_shrunk(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        growing = self.capable(cloud, provider, DiskResize)
        await self.capable(cloud, provider, DiskHotplug).attach_disk(running, {"DISK_ID": "5", "SIZE": "1024"})
        await growing.resize_disk(running, {"DISK_ID": "5", "SIZE": "2048"})
        await growing.resize_disk(running, {"DISK_ID": "5", "SIZE": "2048"})
        with pytest.raises(BadParameter):
            await growing.resize_disk(running, {"DISK_ID": "5", "SIZE": "512"})

    async def test_nic_can_be_attached_and_detached_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        hotplug = self.capable(cloud, provider, NicHotplug)
        nic = {"NIC_ID": "2", "NETWORK": "cloud", "MAC": "02:00:0a:00:00:05"}
        for _ in range(2):
            await hotplug.attach_nic(running, nic)
        for _ in range(2):
            await hotplug.detach_nic(running, nic)

    async def test_instance_can_be_resized_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        resizable = self.capable(cloud, provider, Resizable)
        larger = Template(values={"CPU": ("2",), "VCPU": ("2",), "MEMORY": ("2048",)})
        for _ in range(2):
            await resizable.resize(running, VmRequest(vm_id=VmId(1), template=larger))

    async def test_resize_to_an_impossible_size_raises_bad_parameter(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        resizable = self.capable(cloud, provider, Resizable)
        giant = Template(values={"CPU": ("1000000",), "MEMORY": ("1000000000",)})
        with pytest.raises(BadParameter):
            await resizable.resize(running, VmRequest(vm_id=VmId(1), template=giant))

    async def test_context_can_be_updated_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        updating = self.capable(cloud, provider, ContextUpdate)
        context = Template(values={"CONTEXT": ({"SSH_PUBLIC_KEY": "ssh-rsa AAAA"},)})
        for _ in range(2):
            await updating.update_context(running, VmRequest(vm_id=VmId(1), template=context))

    async def test_attached_returns_only_devices_that_the_provider_attached(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        listing = self.capable(cloud, provider, DeviceListing)
        assert await listing.attached(running) == Attached()
        await self.capable(cloud, provider, DiskHotplug).attach_disk(running, {"DISK_ID": "5", "SIZE": "1024"})
        await self.capable(cloud, provider, NicHotplug).attach_nic(running, {"NIC_ID": "2", "NETWORK": "cloud"})
        assert await listing.attached(running) == Attached(disks=frozenset({"5"}), nics=frozenset({"2"}))

    async def test_a_disk_made_with_the_instance_is_the_one_that_attach_and_detach_mean(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        listing = self.capable(cloud, provider, DeviceListing)
        plugging = self.capable(cloud, provider, DiskHotplug)
        request, disk = cloud.request(), {"DISK_ID": "1", "TYPE": "fs", "SIZE": "1024"}
        template = Template(values={**request.template.values, "DISK": (disk,)})
        running = await self.launch(cloud, provider, msgspec.structs.replace(request, template=template))
        await plugging.attach_disk(running, disk)
        assert await listing.attached(running) == Attached(disks=frozenset({"1"}))
        await plugging.detach_disk(running, disk)
        assert await listing.attached(running) == Attached()

    async def test_resume_applies_template_changes_made_while_the_vm_was_off(
        self, cloud: CloudUnderTest, provider: Provider, tmp_path: Path
    ) -> None:
        listing = self.capable(cloud, provider, DeviceListing)
        sized = self.capable(cloud, provider, ImportSource)
        request = cloud.request()
        values: Any = {"CPU": ("2",), "MEMORY": ("4096",), "DISK": ({"DISK_ID": "5", "SIZE": "1024"},)}
        larger = Template(values={**request.template.values, **values, "CONTEXT": ({"START_SCRIPT": "echo ho"},)})
        async with a_worker(provider, tmp_path) as (work, _):
            deploy_id = DeployId(await perform_intent(work(request), Intent.CREATE))
            request = msgspec.structs.replace(request, deploy_id=deploy_id)
            for template, disks in ((larger, {"5"}), (request.template, set[str]())):
                await perform_intent(work(request), Intent.STOP)
                request = msgspec.structs.replace(request, template=template)
                assert await perform_intent(work(request), Intent.START) == deploy_id
                assert (await listing.attached(deploy_id)).disks == disks
                instance = await reach(provider, deploy_id, InstanceState.RUNNING)
                assert (sized.import_hints(instance).size.memory >= 4096) is bool(disks)

    async def test_security_groups_can_be_updated_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        rules = self.capable(cloud, provider, NetworkRules)
        request = VmRequest(
            vm_id=VmId(1),
            security_group_id="7",
            template=Template(
                values={
                    "SECURITY_GROUP_RULE": ({"SECURITY_GROUP_ID": "7", "PROTOCOL": "TCP", "RANGE": "22"},),
                    "NIC": ({"NIC_ID": "0", "NETWORK_ID": "4", "SECURITY_GROUPS": "7"},),
                }
            ),
        )
        for _ in range(2):
            await rules.update_security_group(running, request)

    async def test_interfaces_can_be_updated_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        updating = self.capable(cloud, provider, NicUpdates)
        nic = {"NIC_ID": "0", "NETWORK_ID": "4", "INBOUND_AVG_BW": "100"}
        request = VmRequest(vm_id=VmId(1), virtual_network_id="4", template=Template(values={"NIC": (nic,)}))
        for _ in range(2):
            await updating.update_nic(running, request)

    # Prices

    async def test_a_new_instance_costs_what_its_create_was_said_to_cost(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        priced = self.capable(cloud, provider, PriceSource)
        await priced.read_prices([])
        call = a_call(provider, cloud.request())
        announced = priced.price_of_create(call.parameters)
        deploy_id = await provider.create(call)
        await reach(provider, deploy_id, InstanceState.RUNNING)
        running = await listed(provider, priced, deploy_id)
        assert (announced.text, announced.currency) == (
            priced.price_of(running).text,
            priced.price_of(running).currency,
        )
        assert priced.kind_of(running)[1] in (ON_DEMAND, SPOT)
        if isinstance(provider, TypeSource):
            assert priced.type_of_create(call.parameters) == priced.kind_of(running)[0]
        assert (size := priced.disk_size(call.parameters)) is None or size >= 0

    async def test_prices_follow_the_state_and_stay_the_same_object_while_nothing_changes(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        priced = self.capable(cloud, provider, PriceSource)
        instance = await listed(provider, priced, running)
        assert priced.price_of(instance) is priced.price_of(await listed(provider, priced, running))
        expected = priced.price_of(instance, state=InstanceState.STOPPED)
        await self.stopped(provider, running)
        stopped = await listed(provider, priced, running)
        assert priced.price_of(stopped).text == expected.text
        assert all(not part.item.is_running for part in expected.parts if part.item.kind is Kind.COMPUTE)
        assert priced.price_of(instance, state=InstanceState.TERMINATED).amount == 0

    async def test_no_price_is_negative_and_each_part_has_a_source(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        priced = self.capable(cloud, provider, PriceSource)
        price = priced.price_of(await listed(provider, priced, running))
        disk = priced.price_of_disk({"DISK_ID": "9", "SIZE": "1024"})
        for part in (*price.parts, *disk.parts):
            assert part.amount is None or (part.amount >= 0 and part.source)
        assert not price.parts or any(part.item.kind is Kind.COMPUTE for part in price.parts)

    async def test_types_have_sizes_and_prices_by_name(self, cloud: CloudUnderTest, provider: Provider) -> None:
        source = self.capable(cloud, provider, TypeSource)
        await source.read_types()
        types = source.instance_types()
        assert types
        for name, kind in types.items():
            assert (kind.name, kind.cpu > 0, kind.memory > 0) == (name, True, True)
            assert bool(kind.gpus) == bool(kind.gpu)
            assert kind.architectures
        price = source.price_of_type(next(iter(types)), market=ON_DEMAND)
        assert price.amount is None or price.amount >= 0
        assert source.price_of_type("no-such-type", market=ON_DEMAND).amount is None

    async def test_the_usual_price_is_that_of_the_cheapest_type_that_is_named(
        self, cloud: CloudUnderTest, provider: Provider
    ) -> None:
        usual, source = self.capable(cloud, provider, UsualPrice), self.capable(cloud, provider, TypeSource)
        await source.read_types()
        await self.capable(cloud, provider, PriceSource).read_prices([])
        names = sorted(source.instance_types())[:5]
        prices = [source.price_of_type(name, market=ON_DEMAND).amount for name in names]
        known = [each for each in prices if each is not None]
        assert usual.usual_price(names).amount == (min(known) if known else None)

    async def test_capabilities_raise_for_terminated_and_unknown_instances(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        await self.terminated(provider, running)
        for attempt in _capability_calls(provider, running):
            with pytest.raises((WrongState, InstanceNotFound)):
                await attempt
        for attempt in _capability_calls(provider, cloud.unknown_deploy_id):
            with pytest.raises(InstanceNotFound):
                await attempt


def _capability_calls(provider: Provider, deploy_id: DeployId) -> list[Awaitable[object]]:
    """Return one call of each capability of the provider."""
    disk, nic = {"DISK_ID": "5", "SIZE": "1024"}, {"NIC_ID": "2"}
    size = Template(values={"CPU": ("1",), "MEMORY": ("512",)})
    request = VmRequest(vm_id=VmId(1), template=size, security_group_id="7", virtual_network_id="4")
    extras: list[Awaitable[object]] = []
    if isinstance(provider, Suspendable):
        extras += [provider.suspend(deploy_id)]
    if isinstance(provider, Snapshots):
        extras += [
            provider.create_snapshot(deploy_id, {"SNAPSHOT_ID": "0", "NAME": "before"}),
            provider.revert_snapshot(deploy_id, {"HYPERVISOR_ID": "snap-0"}),
        ]
    if isinstance(provider, DiskHotplug):
        extras += [provider.attach_disk(deploy_id, disk)]
    if isinstance(provider, DiskSnapshots):
        extras += [provider.create_disk_snapshot(deploy_id, disk), provider.revert_disk_snapshot(deploy_id, disk)]
    if isinstance(provider, DiskResize):
        extras += [provider.resize_disk(deploy_id, disk)]
    if isinstance(provider, NicHotplug):
        extras += [provider.attach_nic(deploy_id, nic)]
    if isinstance(provider, Resizable):
        extras += [provider.resize(deploy_id, request)]
    if isinstance(provider, ContextUpdate):
        extras += [provider.update_context(deploy_id, request)]
    if isinstance(provider, NetworkRules):
        extras += [provider.update_security_group(deploy_id, request)]
    if isinstance(provider, NicUpdates):
        extras += [provider.update_nic(deploy_id, request)]
    return extras
