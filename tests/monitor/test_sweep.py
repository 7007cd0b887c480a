"""A sweep, which lists the cloud and infers the VMs' states: sharing, memory, failures, and its speed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from one_provider_mad.domain import DeployId, Instance, InstanceState, Usage
from one_provider_mad.errors import JournalError, ProviderUnavailable
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.journal.writer import Journal
from one_provider_mad.monitor.cloud_source import OpenCloud
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.reports import Wild
from one_provider_mad.providers.interface import Figures, ImportHints, Size
from tests.actions.fakes import FakeCloud, pass_time, until, virtual_clock
from tests.monitor.builders import identity_of, words
from tests.monitor.virtual_driver import VirtualDriver


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[VirtualDriver]:
    """A running driver on a fake cloud, in virtual time."""
    driver = VirtualDriver(tmp_path)
    yield driver
    await driver.handler.stop()


@pytest.mark.looptime
async def test_simultaneous_callers_share_one_listing(one: VirtualDriver) -> None:
    one.add(7)
    sweeps = await asyncio.gather(*(one.sweeper.sweep() for _ in range(9)))
    assert one.cloud.count("list") == 1
    assert all(words(sweep.inference) == {7: "RUNNING"} for sweep in sweeps)


@pytest.mark.looptime
async def test_a_cancelled_caller_does_not_cancel_the_sweep_of_others(one: VirtualDriver) -> None:
    gate = asyncio.Event()
    one.cloud.before["list"].append(gate)
    first, second = asyncio.create_task(one.sweeper.sweep()), asyncio.create_task(one.sweeper.sweep())
    await pass_time(1)
    first.cancel()
    gate.set()
    assert words((await second).inference) == {}


@pytest.mark.looptime
async def test_a_listing_that_takes_longer_than_the_time_limit_fails(one: VirtualDriver) -> None:
    one.cloud.always["list"] = asyncio.Event()
    with pytest.raises(ProviderUnavailable, match="fake did not answer within 60 s"):
        await one.sweeper.sweep()
    assert (one.sweeper.error, one.sweeper.failing_since) == ("fake did not answer within 60 s", 60.0)


@pytest.mark.looptime
async def test_an_exception_of_the_provider_fails_the_sweep_and_is_logged(one: VirtualDriver) -> None:
    one.cloud.always["list"] = KeyError("reservations")
    with pytest.raises(ProviderUnavailable, match=r"internal error \(KeyError\)"), capture_logs() as logged:
        await one.sweeper.sweep()
    assert logged[0]["event"] == "listing failed unexpectedly"


@pytest.mark.looptime
async def test_a_listing_cancelled_by_the_provider_fails_the_sweep(one: VirtualDriver) -> None:
    one.cloud.always["list"] = asyncio.CancelledError()
    with pytest.raises(ProviderUnavailable, match="the listing was cancelled before it was complete"):
        await one.sweeper.sweep()


@pytest.mark.looptime
async def test_a_listing_with_two_states_of_one_instance_fails_the_sweep(one: VirtualDriver) -> None:
    one.cloud.doubles[one.add(7)] = InstanceState.RUNNING
    assert words((await one.sweeper.sweep()).inference) == {7: "RUNNING"}, "two equal rows"
    await pass_time(60)
    one.cloud.doubles[DeployId("i-7")] = InstanceState.STOPPED
    with pytest.raises(ProviderUnavailable, match="contradicts itself: it has two different rows for instance 'i-7'"):
        await one.sweeper.sweep()
    assert one.sweeper.error.startswith("the cloud's listing contradicts itself")


@pytest.mark.looptime
async def test_a_duplicate_with_an_unusable_id_causes_a_short_warning_and_sets_no_state(one: VirtualDriver) -> None:
    one.add(7)
    for deploy_id in ("-rf", "i" * 100_000):
        one.cloud.add(identity_of(7), deploy_id=deploy_id)
    sweep = await one.sweeper.sweep()
    assert sweep.warning == "instance '-rf' is a second live instance of VM 7, beside i-7"
    assert len(sweep.warning) + sum(map(len, sweep.inference.anomalies.values())) < 500
    assert words(sweep.inference) == {7: "RUNNING"}


@pytest.mark.looptime
async def test_a_sweep_fails_while_the_journal_cannot_be_read(one: VirtualDriver, tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"this is no database" * 99)
    one.add(7)
    with pytest.raises(JournalError, match="the journal cannot be read"):
        await one.sweeper.sweep()
    (tmp_path / "journal").unlink()
    assert words((await one.sweeper.sweep()).inference) == {7: "RUNNING"}
    assert one.sweeper.error == ""


async def test_states_are_inferred_anew_from_a_cached_listing_with_the_present_activity(tmp_path: Path) -> None:
    """The same listing: first without a request, then with one that came later."""
    driver = VirtualDriver(tmp_path, min_list_interval=60)
    deploy_id = driver.add(7, InstanceState.STOPPED)
    journal = Journal(tmp_path / "journal", clock=driver.clock, on_lost=pytest.fail)
    await journal.open()
    try:
        assert words((await driver.sweeper.sweep()).inference) == {7: "POWEROFF"}
        vm_id = identity_of(7).vm_id
        number = journal.open_request(action="DEPLOY", vm_id=vm_id, dialect=Dialect.SINCE_6_0, payload=b"")
        await journal.sync()
        assert words((await driver.sweeper.sweep()).inference) == {7: "UNKNOWN"}
        journal.close_request(number)
        await journal.sync()
        assert words((await driver.sweeper.sweep()).inference) == {7: "UNKNOWN"}, "the listing is older than the answer"
        await journal.park(deploy_id, vm_id)
        assert words((await driver.sweeper.sweep()).inference) == {}
        assert driver.cloud.count("list") == 1
    finally:
        await journal.close()


@pytest.mark.looptime
async def test_an_exception_outside_the_listing_fails_the_sweep_but_does_not_put_the_host_into_error(
    one: VirtualDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumble() -> OpenCloud:
        raise KeyError("region")

    monkeypatch.setattr(one.source, "current", stumble)
    one.ask()
    with capture_logs() as logged:
        await pass_time(1)
    assert [line.status for line in one.lines("MONITOR")] == ["SUCCESS"], "the host is not put into ERROR"
    assert one.sweeper.error == "internal error (KeyError), the driver's log has the details"
    assert one.sweeper.failing_since == 0.0
    assert "sweep failed unexpectedly" in [line["event"] for line in logged]


@pytest.fixture
async def journal(one: VirtualDriver, tmp_path: Path) -> AsyncIterator[Journal]:
    """The action driver's journal, on the same clock."""
    journal = Journal(tmp_path / "journal", clock=one.clock, on_lost=pytest.fail)
    await journal.open()
    yield journal
    await journal.close()


def attempt_at(at: float, state: AttemptState) -> Attempt:
    deploy_id = DeployId("i-8" if state is AttemptState.CREATED else "")
    new = Attempt.new(identity_of(8), 1, {})
    return msgspec.structs.replace(new, state=state, deploy_id=deploy_id, sent_at=at)


async def test_an_attempt_within_the_visibility_grace_is_read_from_the_journal(
    one: VirtualDriver, journal: Journal
) -> None:
    one.cloud.visibility_grace = 300
    await journal.save_attempt(attempt_at(one.clock() - 200, AttemptState.CREATED))
    assert words((await one.sweeper.sweep()).inference) == {8: "UNKNOWN"}


async def test_an_attempt_since_the_previous_listing_is_read_from_the_journal(
    one: VirtualDriver, journal: Journal
) -> None:
    one.set(min_list_interval=0)
    await one.sweeper.sweep()
    await journal.save_attempt(attempt_at(one.clock(), AttemptState.CREATED))
    assert words((await one.sweeper.sweep()).inference) == {8: "UNKNOWN"}


@pytest.mark.looptime
@pytest.mark.parametrize("step", [-5000.0, 5000.0], ids=["back", "ahead"])
async def test_the_hold_lasts_no_longer_when_the_clock_is_set_back_or_ahead(tmp_path: Path, step: float) -> None:
    now, loop = virtual_clock(), asyncio.get_running_loop()
    set_by = 0.0
    one = VirtualDriver(tmp_path, clock=lambda: now() + set_by, min_list_interval=1, unusual_hold=600, missing_after=1)
    for vm_id in range(10):
        one.add(vm_id)
    await one.sweeper.sweep()
    for vm_id in range(8):
        del one.cloud.instances[DeployId(f"i-{vm_id}")]
    vanished_at = loop.time()
    held = []
    while loop.time() - vanished_at < 700:
        await pass_time(50)
        set_by = step if loop.time() - vanished_at > 300 else 0.0
        held.append((loop.time() - vanished_at, len((await one.sweeper.sweep()).inference.held)))
    assert {count for at, count in held if at < (600 if step < 0 else 300)} == {8}
    assert {count for at, count in held if at > 660} == {0}


@pytest.mark.looptime
async def test_a_new_vm_is_not_missing_when_the_clock_is_set_back(tmp_path: Path, journal: Journal) -> None:
    """Its create is answered right after the clock was set back, and the listing lacks its instance."""
    real, set_by = virtual_clock(), 0.0
    one = VirtualDriver(tmp_path, clock=lambda: real() + set_by)
    await one.sweeper.sweep()
    await pass_time(30)
    set_by = -3600.0
    await journal.save_attempt(attempt_at(real() + set_by, AttemptState.CREATED))
    assert words((await one.sweeper.sweep()).inference) == {8: "UNKNOWN"}


async def test_a_host_is_not_synced_while_a_create_on_it_has_no_id(one: VirtualDriver, journal: Journal) -> None:
    one.set(min_list_interval=0)
    one.cloud.visibility_grace = 300
    one.add(7)
    await journal.save_attempt(attempt_at(one.clock(), AttemptState.OPEN))
    one.start(STATE_VM=1, SYNC_STATE_VM=1, BEACON_HOST=1)
    await until(lambda: bool(one.changes()), "a report of what has changed")
    assert one.syncs() == []
    await journal.save_attempt(attempt_at(one.clock(), AttemptState.CREATED))
    await until(lambda: bool(one.syncs()), "a report of all")
    assert one.syncs()[0][1] == {7: "RUNNING", 8: "UNKNOWN"}


@pytest.mark.looptime
async def test_after_an_outage_states_are_not_inferred_from_the_listing_before_it(one: VirtualDriver) -> None:
    one.add(7)
    await one.sweeper.sweep()
    await pass_time(10)
    one.cloud.before["list"].append(ProviderUnavailable("no route"))
    for _ in range(2):
        with pytest.raises(ProviderUnavailable, match="no route"):
            await one.sweeper.sweep()
        await pass_time(1)
    one.set_state(7, InstanceState.STOPPED)
    await pass_time(10)
    assert words((await one.sweeper.sweep()).inference) == {7: "POWEROFF"}


class AbleCloud(FakeCloud):
    """Pretends to be a cloud with a known capacity and with import hints."""

    def instance_sizes(self) -> dict[str, Size]:
        return {"small": Size(cpu=2, memory=1024)}

    async def capacity(self) -> Size | None:
        await self._travel("capacity", None)
        return Size(cpu=20, memory=10240)

    def import_hints(self, instance: Instance) -> ImportHints:
        return ImportHints(size=Size(cpu=2, memory=1024), public_cloud={"PROVIDER_INSTANCE_TYPE": "small"})


@pytest.mark.looptime
async def test_capacity_is_read_once_a_minute_and_no_sweep_waits_for_a_read_that_hangs(tmp_path: Path) -> None:
    cloud = AbleCloud()
    driver = VirtualDriver(tmp_path, cloud)
    cloud.before["capacity"].append(asyncio.Event())
    driver.sweeper.hosts = frozenset({3})
    assert (await driver.sweeper.sweep()).capacities == {}, "no capacity is reported while it is unknown"
    await pass_time(120)
    await driver.sweeper.sweep()
    await pass_time(10)
    assert (await driver.sweeper.sweep()).capacities == {3: Size(cpu=20, memory=10240)}
    for _ in range(20):
        await pass_time(10)
        await driver.sweeper.sweep()
    assert cloud.count("capacity") == 2 + 200 // 60, "one call that hung, and then one a minute"


class CountingCloud(AbleCloud):
    """Pretends to be a cloud with figures, and counts the calls that it has not answered."""

    figures_period = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.under_way = 0

    async def _travel(self, operation: str, subject: object) -> None:
        self.under_way += 1
        try:
            await super()._travel(operation, subject)
        finally:
            self.under_way -= 1

    async def figures(self, _instances: Collection[Instance]) -> Mapping[DeployId, Figures]:
        await self._travel("figures", None)
        return {}


@pytest.mark.looptime
@pytest.mark.parametrize("operation", ["list", "describe", "capacity", "figures"])
async def test_no_call_to_the_cloud_outlives_a_stopped_driver(tmp_path: Path, operation: str) -> None:
    cloud = CountingCloud()
    driver = VirtualDriver(tmp_path, cloud, min_list_interval=1.0)
    driver.add(7)
    if operation == "describe":  # only a known instance that a listing lacks is looked up
        await driver.sweeper.sweep()
        del cloud.instances[DeployId("i-7")]
        await pass_time(2)
    cloud.before[operation].append(asyncio.Event())
    driver.start()
    await until(lambda: cloud.under_way == 1)
    with capture_logs() as logs:
        await driver.handler.stop()
        assert cloud.under_way == 0
    assert not logs


@pytest.mark.looptime
async def test_wild_instances_have_the_providers_import_hints(tmp_path: Path) -> None:
    driver = VirtualDriver(tmp_path, AbleCloud())
    driver.cloud.add(deploy_id="i-web")
    [found] = (await driver.sweeper.sweep()).wilds
    assert found == Wild(
        deploy_id=found.deploy_id,
        name="i-web",
        cpu=200,
        memory=1024 * 1024,
        public_cloud={"PROVIDER_INSTANCE_TYPE": "small"},
        state_letter="a",
    )


@pytest.mark.looptime
async def test_an_exception_in_import_hints_of_one_wild_instance_affects_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = VirtualDriver(tmp_path, AbleCloud())
    driver.add(7)
    for deploy_id in ("i-odd", "i-web"):
        driver.cloud.add(deploy_id=deploy_id)

    def hints(_cloud: AbleCloud, instance: Instance) -> ImportHints:
        if instance.deploy_id == "i-odd":
            raise KeyError("flavor")
        return ImportHints(size=Size(cpu=2, memory=1024))

    monkeypatch.setattr(AbleCloud, "import_hints", hints)
    with capture_logs():
        sweep = await driver.sweeper.sweep()
    assert words(sweep.inference) == {7: "RUNNING"}
    assert [(wild.deploy_id, wild.cpu) for wild in sweep.wilds] == [("i-odd", 0), ("i-web", 200)]


# Size, in real time

MANY = 10_000


class Fleet(FakeCloud):
    """Pretends to be a cloud with very many instances; listing them takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = [
            Instance(
                deploy_id=self.add(deploy_id=f"i-{number:08x}"),
                state=InstanceState.RUNNING,
                raw_state="running",
                identity=identity_of(number),
                usage=Usage(cpu=12.5, memory=262_144, net_rx=number, net_tx=number),
                attributes={"PRIVATE_IP": f"10.0.{number >> 8 & 255}.{number & 255}"},
            )
            for number in range(MANY)
        ]

    async def list_instances(self) -> Sequence[Instance]:
        return self.fleet


async def test_ten_thousand_vms_are_reported_in_one_sync_message(tmp_path: Path) -> None:
    driver = VirtualDriver(tmp_path, Fleet())
    lines: list[bytes] = []
    is_over = asyncio.Event()

    def take(data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        lines.append(data)
        if on_written is not None:
            on_written()
        if data.startswith(b"MONITOR_VM"):
            is_over.set()

    driver.send = take  # type: ignore[method-assign]
    driver.start()
    await is_over.wait()
    await driver.handler.stop()
    [sync] = [line for line in lines if line.startswith(b"STATE_VM")]
    assert len(sync) > MANY
