"""Lookups of many VMs at the same time share calls, and each VM gets what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.masking import keep_vm_secret, masked
from one_provider_mad.providers.ec2.client import MOST_VALUES
from one_provider_mad.providers.ec2.gathered import AT_ONCE, LONGEST_TURN, Gathered
from tests.actions.fakes import pass_time, turns
from tests.providers.ec2.conftest import OWNER, Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.vms import a_vm, launched


class Calls:
    """The calls of a `Gathered`: each is answered when the test says so."""

    def __init__(self) -> None:
        self.sent: list[set[int]] = []
        self.answers: list[asyncio.Future[Mapping[int, str]]] = []
        self.gathered = Gathered(self._send, name="test")

    async def _send(self, keys: set[int]) -> Mapping[int, str]:
        self.sent.append(keys)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def ask(self, *keys: int) -> list[asyncio.Task[Mapping[int, str]]]:
        tasks = [asyncio.create_task(self.gathered.ask(key)) for key in keys]
        await turns()
        return tasks

    def answer(self, place: int) -> None:
        self.answers[place].set_result({key: f"about {key}" for key in self.sent[place]})

    async def occupy(self) -> list[asyncio.Task[Mapping[int, str]]]:
        """Have as many calls under way as are allowed."""
        return [task for number in range(AT_ONCE) for task in await self.ask(1000 + number)]


async def test_those_who_ask_in_the_same_turn_share_a_call() -> None:
    calls = Calls()
    asked = await calls.ask(1, 2, 3)
    assert calls.sent == [{1, 2, 3}]
    calls.answer(0)
    assert [(await task)[key] for key, task in zip((1, 2, 3), asked, strict=True)] == ["about 1", "about 2", "about 3"]


async def test_an_answer_is_never_older_than_its_question() -> None:
    calls = Calls()
    (first,) = await calls.ask(1)
    (second,) = await calls.ask(1)
    calls.answer(0)
    await first
    await turns()
    assert not second.done()
    calls.answer(1)
    assert (await second)[1] == "about 1"


async def test_those_who_ask_while_all_calls_are_under_way_share_the_next_one() -> None:
    calls = Calls()
    early = await calls.occupy()
    late = [task for key in (1, 2, 3) for task in await calls.ask(key)]
    assert len(calls.sent) == AT_ONCE
    calls.answer(0)
    await early[0]
    await turns()
    assert calls.sent[AT_ONCE:] == [{1, 2, 3}]
    for place in range(1, AT_ONCE + 1):
        calls.answer(place)
    await asyncio.gather(*early, *late)


async def test_a_call_has_no_more_keys_than_a_filter_takes() -> None:
    calls = Calls()
    asked = await calls.ask(*range(2 * MOST_VALUES + 1))
    assert [len(keys) for keys in calls.sent] == [MOST_VALUES, MOST_VALUES, 1]
    for place in range(3):
        calls.answer(place)
    await asyncio.gather(*asked)


async def test_an_error_is_raised_for_all_who_wait_and_for_nobody_later() -> None:
    calls = Calls()
    asked = await calls.ask(1, 2)
    calls.answers[0].set_exception(ProviderUnavailable("no"))
    for task in asked:
        with pytest.raises(ProviderUnavailable):
            await task
    (again,) = await calls.ask(1)
    calls.answer(1)
    assert (await again)[1] == "about 1"


async def test_a_call_that_hangs_ends_with_the_last_who_waits_for_it() -> None:
    calls = Calls()
    hanging = await calls.occupy()
    (waiting,) = await calls.ask(1)
    hanging[0].cancel()
    await turns()
    assert calls.answers[0].cancelled()
    assert calls.sent[AT_ONCE:] == [{1}]
    calls.answer(AT_ONCE)
    assert (await waiting)[1] == "about 1"
    for task in hanging:
        task.cancel()
    await turns()


async def test_a_call_goes_on_for_the_others_when_one_gives_up() -> None:
    calls = Calls()
    one, other = await calls.ask(1, 2)
    one.cancel()
    await turns()
    calls.answer(0)
    assert (await other)[2] == "about 2"


async def test_who_gives_up_while_the_call_waits_for_its_turn_leaves_no_call() -> None:
    calls = Calls()
    early = await calls.occupy()
    (late,) = await calls.ask(1)
    late.cancel()
    await turns()
    for place in range(AT_ONCE):
        calls.answer(place)
    await asyncio.gather(*early)
    await turns()
    assert len(calls.sent) == AT_ONCE


async def test_what_one_vm_keeps_secret_is_not_masked_for_the_others() -> None:
    """Users choose passwords, and one could hide an id in another VM's log."""

    async def send(keys: set[int]) -> str:
        return masked(f"instance i-0abc of {sorted(keys)} ended")

    async def ask(key: int, *, secret: str = "") -> str:
        keep_vm_secret(secret)
        return await gathered.ask(key)

    gathered = Gathered(send, name="test")
    for said in await asyncio.gather(ask(1, secret="i-0abc of"), ask(2)):
        assert said == "instance i-0abc of [1, 2] ended"


@pytest.mark.looptime
async def test_slow_calls_delay_a_further_one_by_a_moment_only() -> None:
    """The further one's caller has a time limit, which the slow ones would use up."""
    calls = Calls()
    slow = await calls.occupy()
    late = [task for key in (1, 2) for task in await calls.ask(key)]
    await pass_time(0.9 * LONGEST_TURN)
    assert len(calls.sent) == AT_ONCE
    await pass_time(0.2 * LONGEST_TURN)
    assert calls.sent[AT_ONCE:] == [{1, 2}]
    for place in range(AT_ONCE + 1):
        calls.answer(place)
    await asyncio.gather(*slow, *late)
    calls.sent.clear()
    calls.answers.clear()
    again = [*await calls.occupy(), *await calls.ask(1)]
    assert len(calls.sent) == AT_ONCE  # the further one has taken no place, and has given none back
    for task in again:
        task.cancel()
    await turns()


# With EC2

DISK = {"DISK_ID": "2", "SIZE": "1500", "TARGET": "vdf"}


async def test_instances_that_end_together_share_the_calls_that_look_for_their_volumes(
    ec2: FaultyEc2, connect: Open
) -> None:
    """One of them has a volume that is detached, as after an attach that was cut short: it must not outlive it."""
    provider = await connect()
    ids = [await launched(provider, a_vm(number)) for number in range(5)]
    ec2.order("AttachVolume", drop=True)
    with pytest.raises(ProviderUnavailable):
        await provider.attach_disk(ids[3], DISK)
    ec2.account.calls.clear()
    await asyncio.gather(*(provider.destroy(each) for each in ids))
    assert ec2.account.count("DescribeVolumes") - 1 <= 2  # and one for the state of the volume that is left over
    assert ec2.account.count("DescribeNetworkInterfaces") <= 2
    assert [volume.state for volume in ec2.account.volumes.values()] == ["deleted"]
    assert not ec2.account.alive


async def test_vms_that_are_looked_for_together_each_get_their_own_instances(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    ids = [await launched(provider, a_vm(number)) for number in range(5)]
    ec2.account.calls.clear()
    found = await asyncio.gather(*(provider.find(owner=OWNER, vm_id=VmId(number)) for number in range(6)))
    assert [[each.deploy_id for each in some] for some in found] == [[each] for each in ids] + [[]]
    assert ec2.account.count("DescribeInstances") == 1


async def test_more_vms_are_looked_for_together_than_a_call_of_ec2_takes_filter_values(
    ec2: FaultyEc2, connect: Open
) -> None:
    """EC2 counts the values of all filters of a call, the owner's too."""
    provider = await connect()
    deploy_id = await launched(provider, a_vm(MOST_VALUES))
    ec2.account.calls.clear()
    numbers = range(1, MOST_VALUES + 1)
    found = await asyncio.gather(*(provider.find(owner=OWNER, vm_id=VmId(number)) for number in numbers))
    assert [each.deploy_id for some in found for each in some] == [deploy_id]
    assert ec2.account.count("DescribeInstances") == 2


async def test_an_instance_with_damaged_tags_is_found_for_its_own_vm_alone(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    ids = [await launched(provider, a_vm(number)) for number in range(2)]
    ec2.account.act("DeleteTags", {"ResourceId.1": ids[1], "Tag.1.Key": "ONE_PROVIDER_STIME"})
    first, second = await asyncio.gather(*(provider.find(owner=OWNER, vm_id=VmId(number)) for number in range(2)))
    assert [each.deploy_id for each in first] == [DeployId(ids[0])]
    assert [(each.deploy_id, each.identity) for each in second] == [(ids[1], None)]
