from __future__ import annotations

import asyncio
from typing import Any

import pytest

from one_provider_mad.actions.polling import NO_NEWS, STATE_LETTERS, poll
from one_provider_mad.domain import InstanceState, Usage, VmRequest
from one_provider_mad.errors import MadError, PermissionDenied, ProviderUnavailable, SettingsError
from tests.actions.fakes import STIME, Desk, World, identity_of, large, pass_time, request_of, until

pytestmark = pytest.mark.looptime


async def answers(world: World, *requests: VmRequest, is_certain: bool = True) -> list[str]:
    """The replies, in order of arrival; `! ` marks a failure."""
    found = []
    async for request, reply in poll(world.cloud, requests, is_certain=is_certain):
        assert (reply.word, reply.vm_id) == ("POLL", request.vm_id)
        found.append(reply.info if reply.is_success else f"! {reply.info}")
    return found


@pytest.mark.parametrize(
    ("state", "letter"),
    [
        (InstanceState.RUNNING, "a"),
        (InstanceState.STOPPED, "d"),
        (InstanceState.SUSPENDED, "p"),
        (InstanceState.PENDING, "-"),
        (InstanceState.STOPPING, "-"),
        (InstanceState.SUSPENDING, "-"),
        (InstanceState.UNKNOWN, "-"),
    ],
)
async def test_a_poll_reports_stable_states_but_no_transitional_ones(
    world: World, state: InstanceState, letter: str
) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await answers(world, request_of(deploy_id=deploy_id)) == [f"STATE={letter}"]


@pytest.mark.parametrize("state", [InstanceState.TERMINATED, InstanceState.TERMINATING])
async def test_a_poll_of_a_terminated_instance_fails_and_names_recreate(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    expected = f"! instance {deploy_id} is {state.value} for good: onevm recover --recreate makes a new one"
    assert await answers(world, request_of(deploy_id=deploy_id)) == [expected]


async def test_without_a_journal_polls_report_found_instances_and_declare_none_gone(world: World) -> None:
    """The journal records the account of the credentials; in another account every instance seems to be gone."""
    running, ended = (
        world.provider.add(identity_of()),
        world.provider.add(identity_of(vm_id=8), InstanceState.TERMINATED),
    )
    requests = [
        request_of(deploy_id=running),
        request_of(vm_id=8, deploy_id=ended),
        request_of(vm_id=9, deploy_id="i-nowhere"),
        request_of(vm_id=10, deploy_id=running),
    ]
    assert await answers(world, *requests, is_certain=False) == [
        "STATE=a",
        "STATE=-",
        "STATE=-",
        f"! instance {running} is not VM 10's, so no state is reported",
    ]


def test_every_instance_state_has_a_poll_letter_or_counts_as_gone() -> None:
    assert {state for state in InstanceState if state not in STATE_LETTERS} == {
        state for state in InstanceState if state.is_gone
    }


def test_the_poll_answer_for_no_change_is_a_dash_as_state() -> None:
    assert NO_NEWS == "STATE=-"


async def test_a_poll_reports_usage_under_the_names_of_the_release(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.instances[deploy_id].usage = Usage(cpu=12.5, memory=1024, net_rx=7, net_tx=8)
    request = request_of(deploy_id=deploy_id)
    legacy = request_of(deploy_id=deploy_id, is_legacy_poll=True)
    assert await answers(world, request, legacy) == [
        "STATE=a CPU=12.5 MEMORY=1024 NETRX=7 NETTX=8",
        "STATE=a USEDCPU=12 USEDMEMORY=1024 NETRX=7 NETTX=8",
    ]


async def test_any_number_of_polls_due_together_makes_one_describe_call(world: World) -> None:
    ids = [world.provider.add(identity_of(vm_id)) for vm_id in range(200)]
    requests = [request_of(vm_id, deploy_id=deploy_id) for vm_id, deploy_id in enumerate(ids)]
    assert await answers(world, *requests) == ["STATE=a"] * 200
    assert world.provider.calls == [("describe", sorted(ids))]


@pytest.mark.parametrize("named", ["", "i-404"], ids=["no-id", "unknown-id"])
async def test_a_poll_finds_an_instance_by_tags_if_its_id_is_missing_or_unknown(world: World, named: str) -> None:
    world.provider.add(identity_of(), InstanceState.TERMINATED)
    world.provider.add(identity_of(stime=STIME - 1))
    world.provider.add(identity_of(owner="quay"))
    world.provider.add(identity_of(), InstanceState.SUSPENDED)
    assert await answers(world, request_of(deploy_id=named)) == ["STATE=p"]


async def test_any_number_of_polls_with_unknown_deploy_ids_adds_one_list_call(world: World) -> None:
    for vm_id in range(50):
        world.provider.add(identity_of(vm_id))
    world.provider.add(None)
    requests = [request_of(vm_id, deploy_id=f"i-404-{vm_id}") for vm_id in range(60)]
    found = await answers(world, *requests)
    assert found[:50] == ["STATE=a"] * 50
    assert found[50] == "! instance i-404-50 of VM 50 does not exist"
    assert [name for name, _ in world.provider.calls] == ["describe", "list"]


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        pytest.param("i-404", "! instance i-404 of VM 7 does not exist", id="named"),
        pytest.param("", "! VM 7 has no instance", id="unnamed"),
    ],
)
async def test_a_poll_fails_if_the_vm_has_no_instance(world: World, named: str, sentence: str) -> None:
    assert await answers(world, request_of(deploy_id=named)) == [sentence]


@pytest.mark.parametrize("error", [ProviderUnavailable("no answer"), PermissionDenied("no")])
async def test_polls_report_no_change_after_a_failed_describe(world: World, error: MadError) -> None:
    ids = [world.provider.add(identity_of(vm_id)) for vm_id in range(3)]
    world.provider.before["describe"].append(error)
    requests = [request_of(vm_id, deploy_id=deploy_id) for vm_id, deploy_id in enumerate(ids)]
    assert await answers(world, *requests) == ["STATE=-"] * 3


@pytest.mark.parametrize(("operation", "lost"), [("find", 1), ("list", 3)])
async def test_polls_with_unknown_ids_report_no_change_after_a_failed_lookup_by_tags(
    world: World, operation: str, lost: int
) -> None:
    deploy_id = world.provider.add(identity_of(100))
    world.provider.always[operation] = ProviderUnavailable("no answer")
    requests = [request_of(vm_id, deploy_id=f"i-404-{vm_id}") for vm_id in range(lost)]
    found = await answers(world, *requests, request_of(100, deploy_id=deploy_id))
    assert found == ["STATE=-"] * lost + ["STATE=a"]


@pytest.mark.parametrize(
    "identity", [identity_of(8), identity_of(stime=STIME - 1), identity_of(owner="quay")], ids=["vm", "life", "owner"]
)
async def test_a_poll_fails_if_the_named_instance_is_another_vms(world: World, identity: object) -> None:
    deploy_id = world.provider.add(identity)  # type: ignore[arg-type]
    assert await answers(world, request_of(deploy_id=deploy_id)) == [
        f"! instance {deploy_id} is not VM 7's, so no state is reported"
    ]


async def test_a_poll_reports_the_state_of_an_untagged_instance_named_by_its_vm(world: World) -> None:
    """An import whose tags could not be written."""
    deploy_id = world.provider.add(None, InstanceState.STOPPED)
    assert await answers(world, request_of(deploy_id=deploy_id)) == ["STATE=d"]


async def test_two_polls_of_one_vm_get_two_answers(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    assert await answers(world, request_of(deploy_id=deploy_id), request_of(deploy_id=deploy_id)) == ["STATE=a"] * 2


@pytest.mark.parametrize("end", ["terminated", "missing"])
async def test_a_poll_removes_a_gone_instance_from_those_known_to_be_visible(world: World, end: str) -> None:
    deploy_id = world.provider.add(identity_of(), InstanceState.RUNNING)
    asked = request_of(deploy_id=deploy_id)
    assert await answers(world, asked) == ["STATE=a"]
    assert world.cloud.knowledge.shown == {deploy_id}
    if end == "terminated":
        world.provider.instances[deploy_id].state = InstanceState.TERMINATED
    else:
        del world.provider.instances[deploy_id]
    [reply] = await answers(world, asked)
    assert reply.startswith("! ")
    assert world.cloud.knowledge.shown == set()


async def test_a_poll_clears_a_vanished_attribute_once(world: World) -> None:
    """IM reports hold single words only: attributes with blanks are reported by POLLs alone."""
    deploy_id = world.provider.add(identity_of(), InstanceState.RUNNING)
    instance, asked = world.provider.instances[deploy_id], request_of(deploy_id=deploy_id)
    instance.attributes = {"AWS_SCHEDULED_EVENT_TEXT": "The instance is to be retired"}
    await answers(world, asked)
    instance.attributes = {}
    assert [await answers(world, asked) for _ in range(2)] == [["STATE=a AWS_SCHEDULED_EVENT_TEXT=[]"], ["STATE=a"]]


# Batches, answered by the driver


async def test_polls_report_no_change_if_a_listing_contradicts_itself(desk: Desk) -> None:
    cloud = desk.world.provider
    for vm_id in (7, 8):
        cloud.doubles[cloud.add(identity_of(vm_id))] = InstanceState.STOPPED
        desk.ask("POLL", vm_id, deploy_id=f"old-{vm_id}", release="5.10")
    await desk.settled()
    assert sorted(desk.replies("POLL")) == ["POLL SUCCESS 7 STATE=-", "POLL SUCCESS 8 STATE=-"]
    assert cloud.count("list") == 1


async def test_a_poll_with_a_large_message_is_answered(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    details: dict[str, Any] = {"release": "5.10", "template": large()}
    assert await desk.answer("POLL", deploy_id=deploy_id, **details) == "SUCCESS STATE=a"
    assert await desk.answer("POLL", deploy_id="i-404", **details) == "SUCCESS STATE=a", "by its tags"
    desk.world.provider.instances.clear()
    expected = "FAILURE instance i-404 of VM 7 does not exist"
    assert await desk.answer("POLL", deploy_id="i-404", **details) == expected


async def test_many_polls_are_answered_with_few_describe_calls(desk: Desk) -> None:
    ids = [desk.world.provider.add(identity_of(vm_id)) for vm_id in range(500)]
    for vm_id, deploy_id in enumerate(ids):
        desk.ask("POLL", vm_id, release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert sorted(desk.replies()) == sorted(f"POLL SUCCESS {vm_id} STATE=a" for vm_id in range(500))
    assert desk.world.provider.count("describe") <= 3


async def test_a_poll_reports_no_change_if_an_action_arrives_during_its_listing(desk: Desk) -> None:
    is_answered = asyncio.Event()
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before["describe"].append(is_answered)
    desk.ask("POLL", release="5.10", deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("describe") == 1)
    desk.ask("REBOOT", release="5.10", deploy_id=deploy_id)
    is_answered.set()
    await desk.settled()
    assert desk.replies() == ["POLL SUCCESS 7 STATE=-", "REBOOT SUCCESS 7 -"]


async def test_a_poll_after_a_shutdown_reports_the_state_after_it(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", release="5.10", lcm_state=18, deploy_id=deploy_id)
    desk.ask("POLL", release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert desk.replies() == ["SHUTDOWN SUCCESS 7 -", "POLL SUCCESS 7 STATE=d"]


async def test_a_cancelled_poll_is_not_answered(desk: Desk) -> None:
    desk.world.provider.before["describe"].append(asyncio.Event())
    desk.ask("POLL", 7, release="5.10", deploy_id=desk.world.provider.add(identity_of(7)))
    await until(lambda: desk.world.provider.count("describe") == 1)
    desk.ask("DRIVER_CANCEL", 7, release="5.10")
    await pass_time(1000)
    assert desk.replies() == []


@pytest.mark.parametrize("count", [1, 3])
async def test_every_poll_is_answered_after_an_unexpected_exception_in_a_lookup(desk: Desk, count: int) -> None:
    deploy_id = desk.world.provider.add(identity_of(100))
    desk.world.provider.always["find"] = desk.world.provider.always["list"] = KeyError("reservations")
    for vm_id in range(count):
        desk.ask("POLL", vm_id, release="5.10", deploy_id="i-404")
    desk.ask("POLL", 100, release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert len(desk.replies()) == count + 1


async def test_queued_polls_report_no_change_while_the_configuration_is_unusable(desk: Desk) -> None:
    desk.engines.error = SettingsError("x.toml: owner is missing")
    for vm_id in range(3):
        desk.ask("POLL", vm_id, release="5.10", deploy_id="i-1")
    await desk.settled()
    assert desk.replies() == [f"POLL SUCCESS {vm_id} STATE=-" for vm_id in range(3)]
