"""A partner OpenNebula as a provider: the calls it makes, the instances it returns, and failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, Template, VmId, VmRequest
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    NotReached,
    ProviderUnavailable,
    QuotaExceeded,
    Throttled,
    WrongState,
)
from one_provider_mad.providers.interface import CapacitySource, ImportSource
from one_provider_mad.providers.opennebula.provider import OpenNebulaProvider
from one_provider_mad.testing.conformance import OWNER, a_call, describe_one, reach
from tests.providers.opennebula.partner_provider import a_vm, connect
from tests.waiting import until
from tests.xmlrpc.partner import RELEASES, Partner

S = InstanceState
Open = Callable[..., Awaitable[OpenNebulaProvider]]


@pytest.fixture
def partner() -> Iterator[Partner]:
    with Partner(delay=0.002) as partner:
        yield partner


@pytest.fixture
async def opened(tmp_path: Path, partner: Partner) -> AsyncIterator[Open]:
    """Opens providers on the partner, and closes them in the end."""
    async with AsyncExitStack() as stack:

        async def opened(**options: Any) -> OpenNebulaProvider:
            provider = connect(options.pop("at", partner), tmp_path, **options)
            stack.push_async_callback(provider.close)
            await provider.open()
            return provider

        yield opened


async def launch(provider: OpenNebulaProvider, request: VmRequest | None = None) -> DeployId:
    deploy_id = await provider.create(a_call(provider, request or a_vm()))
    await reach(provider, deploy_id, S.RUNNING)
    return deploy_id


async def seen(provider: OpenNebulaProvider, deploy_id: DeployId) -> Instance:
    instance = await describe_one(provider, deploy_id)
    assert instance is not None
    return instance


def sent(partner: Partner, method: str) -> list[tuple[Any, ...]]:
    return [arguments for called, arguments in partner.calls if called == method]


# Creating


@pytest.mark.parametrize("release", RELEASES)
async def test_a_create_is_one_call_that_carries_the_identity(tmp_path: Path, opened: Open, release: Any) -> None:
    with Partner(release) as partner:
        provider = await opened(at=partner)
        request = a_vm(23, CPU="0.5")
        assert await provider.create(a_call(provider, request)) == "opennebula-hybrid-0"
        text = (
            'CPU="0.5"\nMEMORY="256"\nREMOTE_OPENNEBULA="YES"\nREMOTE_OPENNEBULA_VM_ID="23"\n'
            f'ONE_PROVIDER_SCHEMA="1"\nONE_PROVIDER_OWNER="{OWNER}"\nONE_PROVIDER_VM_ID="23"\n'
            'ONE_PROVIDER_STIME="1700000000"\nONE_PROVIDER_SEQ="0"\nONE_PROVIDER_HOST_ID="3"'
        )
        assert partner.calls == [
            ("one.system.version", ()),
            ("one.template.instantiate", (0, "remote-opennebula-23", False, text, False)),
        ]
        assert partner.vms[0].template["CPU"] == ["0.5"]
        await provider.close()


async def test_a_template_name_is_looked_up_once_for_several_creates(partner: Partner, opened: Open) -> None:
    provider = await opened()
    for vm_id in range(3):
        await provider.create(a_call(provider, a_vm(vm_id, TEMPLATE_ID="", TEMPLATE_NAME="ubuntu server")))
    assert [arguments[0] for arguments in sent(partner, "one.template.instantiate")] == [7, 7, 7]
    assert partner.count("one.templatepool.info") == 1


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"TEMPLATE_ID": "", "TEMPLATE_NAME": "debian"}, "the partner has no template 'debian'"),
        ({"TEMPLATE_ID": "", "TEMPLATE_NAME": "same"}, "several templates 'same': choose one with TEMPLATE_ID, 8, 9"),
        ({"TEMPLATE_ID": "99999"}, r"Error getting virtual machine template \[99999\]"),
    ],
)
async def test_a_create_with_an_unusable_template_is_refused_and_creates_nothing(
    partner: Partner, opened: Open, section: dict[str, str], sentence: str
) -> None:
    partner.templates |= {8: ("same", "CPU=1"), 9: ("same", "CPU=1")}
    provider = await opened()
    with pytest.raises(BadParameter, match=sentence):
        await provider.create(a_call(provider, a_vm(asking=section)))
    assert not partner.vms


async def test_the_vms_context_is_merged_into_that_of_the_remote_template(partner: Partner, opened: Open) -> None:
    provider = await opened()
    request = a_vm(TEMPLATE_ID="3", context={"USERNAME": "us", "START_SCRIPT": "echo $HOME", "ETH0_IP": "10.0.0.1"})
    await provider.create(a_call(provider, request))
    assert partner.vms[0].sections("CONTEXT") == [
        {
            "DISK_ID": "0",
            "TARGET": "hda",
            "SSH_PUBLIC_KEY": "$USER[SSH_PUBLIC_KEY]",
            "USERNAME": "us",
            "START_SCRIPT_BASE64": "ZWNobyAkSE9NRQ==",
        }
    ]


async def test_with_context_replace_the_templates_context_is_replaced(partner: Partner, opened: Open) -> None:
    provider = await opened(context="replace")
    await provider.create(a_call(provider, a_vm(TEMPLATE_ID="3", context={"USERNAME": "us"})))
    assert partner.vms[0].sections("CONTEXT") == [{"DISK_ID": "0", "TARGET": "hda", "USERNAME": "us"}]
    assert not partner.count("one.template.info")


async def test_a_vm_is_created_from_its_template_text_if_the_settings_allow_it(partner: Partner, opened: Open) -> None:
    provider = await opened(allow_template_text=True)
    request = a_vm(4, TEMPLATE_ID="", TEMPLATE_TEXT='CPU="9"\nNIC=[ NETWORK="public" ]')
    deploy_id = await launch(provider, request)
    [(text, is_held)] = sent(partner, "one.vm.allocate")
    assert text.startswith('NAME="remote-opennebula-4"\nCPU="1"\n')
    assert is_held is False
    assert (await seen(provider, deploy_id)).identity == request.identity(owner=OWNER)
    assert partner.vms[0].sections("NIC") == [{"NETWORK": "public", "NIC_ID": "0"}]


async def test_a_vm_created_on_hold_is_released_by_a_start(partner: Partner, opened: Open) -> None:
    provider = await opened(hold=True)
    deploy_id = await provider.create(a_call(provider, a_vm()))
    instance = await seen(provider, deploy_id)
    assert (instance.state, instance.raw_state) == (S.PENDING, "HOLD")
    await provider.start(deploy_id)
    await reach(provider, deploy_id, S.RUNNING)


@pytest.mark.parametrize("group", ["partners", "100"])
async def test_a_created_vm_is_given_to_the_configured_group(partner: Partner, opened: Open, group: str) -> None:
    provider = await opened(group=group)
    await provider.create(a_call(provider, a_vm()))
    assert sent(partner, "one.vm.chown") == [(0, -1, 100)]


async def test_a_create_with_an_unknown_group_succeeds_with_a_warning(partner: Partner, opened: Open) -> None:
    warnings: list[str] = []
    provider = await opened(warn=warnings.append)
    assert await provider.create(a_call(provider, a_vm(GROUP="unknown"))) == "opennebula-hybrid-0"
    assert ["'unknown'" in sentence for sentence in warnings] == [True]


@pytest.mark.parametrize(
    ("options", "asking", "size"),
    [
        pytest.param({}, {}, ["2", "512"], id="size-of-the-vm"),
        pytest.param({}, {"CPU": "4"}, ["4", "512"], id="cpu-of-the-section-stays"),
        pytest.param({"capacity_from": "template"}, {}, None, id="size-of-the-remote-template"),
        pytest.param({}, {"CPU": "4", "VCPU": "4", "MEMORY": "4096"}, None, id="size-of-the-section"),
    ],
)
async def test_a_resize_changes_only_values_that_section_and_settings_leave_to_the_vm(
    partner: Partner, opened: Open, options: dict[str, str], asking: dict[str, str], size: list[str] | None
) -> None:
    provider = await opened(**options)
    deploy_id = await launch(provider, a_vm(asking=asking))
    before = [partner.vms[0].template[name] for name in ("CPU", "MEMORY")]
    request = msgspec.structs.replace(
        a_vm(asking=asking), template=Template(values={"CPU": ("2",), "MEMORY": ("512",)})
    )
    if size is None:
        with pytest.raises(BadParameter, match="the VM's own size has no effect"):
            await provider.resize(deploy_id, request)
    else:
        await provider.resize(deploy_id, request)
    after = [partner.vms[0].template[name] for name in ("CPU", "MEMORY")]
    assert after == (before if size is None else [[each] for each in size])


async def test_with_context_none_a_changed_context_is_not_sent(partner: Partner, opened: Open) -> None:
    """A context may have passwords."""
    provider = await opened(context="none")
    deploy_id = await launch(provider)
    await provider.update_context(deploy_id, a_vm(context={"PASSWORD": "secret"}))
    assert not partner.count("one.vm.updateconf")


async def test_a_create_beyond_the_quota_raises_quota_exceeded(partner: Partner, opened: Open) -> None:
    partner.users["burst:secret"].quota = {"VMS": "1", "CPU": "-2", "MEMORY": "-2"}
    provider = await opened(session="burst:secret")
    await provider.create(a_call(provider, a_vm(1)))
    with pytest.raises(QuotaExceeded, match="limit of 1 reached for VMS quota"):
        await provider.create(a_call(provider, a_vm(2)))


async def test_the_instance_of_a_create_with_a_lost_answer_is_found_by_its_tags(partner: Partner, opened: Open) -> None:
    provider = await opened()
    partner.order("lost-answer", "one.template.instantiate")
    with pytest.raises(ProviderUnavailable) as caught:
        await provider.create(a_call(provider, a_vm(5)))
    assert not caught.value.definite
    found = await provider.find(owner=OWNER, vm_id=VmId(5))
    assert [each.deploy_id for each in found] == ["opennebula-hybrid-0"]
    assert len(partner.vms) == 1


@pytest.mark.parametrize("method", ["one.templatepool.info", "one.template.info"])
async def test_a_failure_before_the_create_call_means_nothing_was_created(
    partner: Partner, opened: Open, method: str
) -> None:
    provider = await opened()
    partner.order("dropped", method)
    request = a_vm(5, TEMPLATE_ID="", TEMPLATE_NAME="with key", context={"USERNAME": "us"})
    with pytest.raises(ProviderUnavailable, match="nothing was created: ") as caught:
        await provider.create(a_call(provider, request))
    assert caught.value.definite
    assert not partner.vms


def test_a_create_at_a_partner_is_not_repeatable() -> None:
    assert not OpenNebulaProvider.is_create_repeatable


# Actions


async def test_a_partner_of_4_14_gets_the_methods_and_actions_of_its_release(opened: Open) -> None:
    with Partner("4.14.2") as partner:
        provider = await opened(at=partner)
        deploy_id = await launch(provider)
        [arguments] = sent(partner, "one.template.instantiate")
        assert len(arguments) == 4, "persistent copies came with 5.0"
        assert [each.deploy_id for each in await provider.find(owner=OWNER, vm_id=VmId(1))] == [deploy_id]
        assert not partner.count("one.vmpool.infoextended")
        await provider.shut_down(deploy_id)
        await reach(provider, deploy_id, S.TERMINATED)
        other = await launch(provider, a_vm(2))
        await provider.destroy(other)
        assert [arguments[0] for arguments in sent(partner, "one.vm.action")] == ["shutdown", "delete"]
        await provider.close()


async def test_vms_of_a_partner_are_not_missed_while_it_is_upgraded(opened: Open) -> None:
    with Partner("4.14.2") as partner:
        provider = await opened(at=partner)
        ids = [await launch(provider, a_vm(vm_id)) for vm_id in (1, 2)]
        partner.release = "5.10.5"
        with pytest.raises(ProviderUnavailable, match="as if it had just been upgraded"):
            await provider.find(owner=OWNER, vm_id=VmId(1))
        found = [await provider.find(owner=OWNER, vm_id=VmId(vm_id)) for vm_id in (1, 2)]
        assert [[each.deploy_id for each in several] for several in found] == [[ids[0]], [ids[1]]]
        partner.release = "4.14.2"
        await provider.close()


@pytest.mark.parametrize("action", ["suspend", "stop", "undeploy", "poweroff"])
async def test_a_start_resumes_a_vm_that_was_suspended_or_switched_off_at_the_partner(
    partner: Partner, opened: Open, action: str
) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    partner.do_vm_action(partner.users["oneadmin:secret"], action, 0)
    await reach(provider, deploy_id, S.STOPPED, S.SUSPENDED)
    await provider.start(deploy_id)
    await reach(provider, deploy_id, S.RUNNING)


async def test_a_vm_in_state_unknown_is_started_again(partner: Partner, opened: Open) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    partner.vms[0].go((3, 16), delay=0)
    assert (await seen(provider, deploy_id)).state is S.UNKNOWN
    await provider.start(deploy_id)
    await reach(provider, deploy_id, S.RUNNING)


async def test_a_vm_that_failed_at_the_partner_refuses_a_start_with_the_reason_and_can_be_destroyed(
    partner: Partner, opened: Open
) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    partner.vms[0].user_template["ERROR"] = ["Sun Nov 22 10:00:00 2026: DEPLOY: no such bridge"]
    partner.vms[0].go((3, 36), delay=0)
    instance = await seen(provider, deploy_id)
    assert (instance.state, instance.raw_state) == (S.UNKNOWN, "BOOT_FAILURE")
    assert instance.reason == "Sun Nov 22 10:00:00 2026: DEPLOY: no such bridge"
    with pytest.raises(WrongState, match=r"is BOOT_FAILURE \(Sun Nov 22 .*no such bridge\)"):
        await provider.start(deploy_id)
    await provider.destroy(deploy_id)
    await reach(provider, deploy_id, S.TERMINATED)


async def test_a_reboot_waits_until_the_vm_has_booted(partner: Partner, opened: Open) -> None:
    partner.delay = 0.05
    provider = await opened()
    deploy_id = await provider.create(a_call(provider, a_vm()))
    await provider.reboot(deploy_id, hard=False)
    assert (await seen(provider, deploy_id)).state is S.RUNNING
    assert {word for word, _ in sent(partner, "one.vm.action")} == {"reboot"}


async def test_a_stop_that_waits_for_booting_beyond_patience_is_throttled(partner: Partner, opened: Open) -> None:
    partner.delay = 60
    provider = await opened(patience=0.05)
    deploy_id = await provider.create(a_call(provider, a_vm()))
    with pytest.raises(Throttled, match=f"instance {deploy_id} is PENDING and refuses") as caught:
        await provider.stop(deploy_id, hard=False)
    assert caught.value.retry_after


async def test_a_destroy_terminates_hard_and_ends_a_soft_termination_at_once(partner: Partner, opened: Open) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    partner.delay = 60
    await provider.shut_down(deploy_id)
    assert (await seen(provider, deploy_id)).state is S.TERMINATING
    partner.delay = 0.002
    await provider.destroy(deploy_id)
    await reach(provider, deploy_id, S.TERMINATED)
    assert [word for word, _ in sent(partner, "one.vm.action")] == ["terminate", "terminate-hard"]


@pytest.mark.parametrize(
    ("hard", "keeps_memory", "action", "word"),
    [
        pytest.param(False, False, "undeploy", "UNDEPLOYED", id="undeploy"),
        pytest.param(True, False, "undeploy-hard", "UNDEPLOYED", id="undeploy-hard"),
        pytest.param(False, True, "stop", "STOPPED", id="stop"),
    ],
)
async def test_parking_a_vm_undeploys_or_stops_it_at_the_partner(
    partner: Partner, opened: Open, action: str, word: str, *, hard: bool, keeps_memory: bool
) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    for _ in range(2):
        await provider.park(deploy_id, hard=hard, keeps_memory=keeps_memory)
        assert (await reach(provider, deploy_id, S.STOPPED, S.SUSPENDED)).raw_state == word
    assert {sent_word for sent_word, _ in sent(partner, "one.vm.action")} == {action}
    await provider.start(deploy_id)
    await reach(provider, deploy_id, S.RUNNING)


async def test_with_terminate_hard_a_shut_down_terminates_hard(partner: Partner, opened: Open) -> None:
    provider = await opened(terminate="hard")
    deploy_id = await launch(provider)
    await provider.shut_down(deploy_id)
    assert [word for word, _ in sent(partner, "one.vm.action")] == ["terminate-hard"]


async def test_a_retag_is_one_call_that_keeps_other_attributes(partner: Partner, opened: Open) -> None:
    provider = await opened()
    deploy_id = await launch(provider, a_vm(TAGS="role=web"))
    moved = a_vm(9).identity(owner=OWNER)
    await provider.retag(deploy_id, moved)
    [(number, text, is_merged)] = sent(partner, "one.vm.update")
    assert (number, is_merged) == (0, 1)
    assert text.count("\n") == 5
    assert (await seen(provider, deploy_id)).identity == moved
    assert partner.vms[0].user_template["TAG_ROLE"] == ["web"]


# Listing and lookups


async def test_vms_with_close_ids_are_described_by_one_call(partner: Partner, opened: Open) -> None:
    provider = await opened()
    ids = await asyncio.gather(*(provider.create(a_call(provider, a_vm(vm_id))) for vm_id in range(20)))
    partner.calls.clear()
    assert set(await provider.describe([*ids, DeployId("opennebula-hybrid-900")])) == set(ids)
    assert partner.calls == [
        ("one.vmpool.infoextended", (-3, 0, 19, -2, "")),
        ("one.vm.info", (900,)),
    ]


async def test_an_answer_about_another_vm_or_with_two_states_of_one_vm_is_refused(
    partner: Partner, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await opened()
    ids = [await launch(provider), await launch(provider)]
    user = partner.users["oneadmin:secret"]
    monkeypatch.setattr(partner, "do_vm_info", lambda _user, _number, _info=partner.do_vm_info: _info(user, 1))
    with pytest.raises(ProviderUnavailable, match="answers with VM 1 when it is asked for VM 0"):
        await provider.describe(ids[:1])
    rows = "".join(partner.do_vm_info(user, 1).replace("<STATE>3<", f"<STATE>{state}<", 1) for state in (3, 8))
    monkeypatch.setattr(partner, "do_vmpool_infoextended", lambda *_: f"<VM_POOL>{rows}</VM_POOL>")
    for look_at in (provider.describe(ids), provider.list_instances()):
        with pytest.raises(ProviderUnavailable, match="contradicts itself"):
            await look_at


async def test_simultaneous_finds_share_a_listing_that_began_after_they_were_called(
    partner: Partner, opened: Open
) -> None:
    provider = await opened()
    await asyncio.gather(*(provider.create(a_call(provider, a_vm(vm_id))) for vm_id in range(10)))
    partner.calls.clear()
    first = asyncio.create_task(provider.find(owner=OWNER, vm_id=VmId(0)))
    await asyncio.to_thread(until, lambda: partner.count("one.vmpool.infoextended"))
    await provider.create(a_call(provider, a_vm(77)))
    found = await asyncio.gather(*(provider.find(owner=OWNER, vm_id=VmId(77)) for _ in range(50)))
    assert [len(each) for each in found] == [1] * 50
    assert len(await first) == 1
    assert partner.count("one.vmpool.infoextended") <= 3


async def test_a_failed_listing_fails_all_waiting_finds_and_the_next_listing_succeeds(
    partner: Partner, opened: Open
) -> None:
    provider = await opened()
    partner.order("http-500", "one.vmpool.infoextended")
    waiting = [asyncio.create_task(provider.find(owner=OWNER, vm_id=VmId(1))) for _ in range(3)]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ProviderUnavailable] * 3
    assert await provider.list_instances() == []


async def test_a_cancelled_find_does_not_cancel_others_that_share_its_listing(partner: Partner, opened: Open) -> None:
    provider = await opened()
    await launch(provider)
    given_up, kept = (asyncio.create_task(provider.find(owner=OWNER, vm_id=VmId(1))) for _ in range(2))
    await asyncio.sleep(0)
    given_up.cancel()
    assert len(await kept) == 1


async def test_a_vm_with_damaged_tags_is_still_found(partner: Partner, opened: Open) -> None:
    provider = await opened()
    await launch(provider, a_vm(5))
    partner.vms[0].user_template["ONE_PROVIDER_SEQ"] = ["x"]
    assert [each.identity for each in await provider.find(owner=OWNER, vm_id=VmId(5))] == [None]


async def test_a_vm_given_to_another_user_is_described_as_unknown_with_a_warning(
    partner: Partner, opened: Open
) -> None:
    warnings: list[str] = []
    provider = await opened(session="burst:secret", warn=warnings.append)
    request = a_vm(5)
    deploy_id = await launch(provider, request)
    partner.vms[0].uid = 0
    instance = await seen(provider, deploy_id)
    assert (instance.state, instance.raw_state) == (S.UNKNOWN, "NOT_AUTHORIZED")
    assert instance.identity == request.identity(owner=OWNER)
    await seen(provider, deploy_id)
    given = "remote VM 0 of VM 5 was given to another remote user: ask for it back, else it cannot be terminated"
    assert warnings == list(provider.listing_warnings()) == [given]
    partner.vms[0].uid = 2
    assert (await seen(provider, deploy_id)).state is S.RUNNING
    assert provider.listing_warnings() == []


async def test_a_vm_given_to_another_user_stays_in_listings_with_a_warning(partner: Partner, opened: Open) -> None:
    warnings: list[str] = []
    provider = await opened(session="burst:secret", warn=warnings.append)
    await provider.account()
    kept, given, ended = [await launch(provider, a_vm(vm_id)) for vm_id in (5, 6, 7)]
    await provider.list_instances()
    partner.vms[1].uid = 0
    await provider.destroy(ended)
    await reach(provider, ended, S.TERMINATED)
    for _ in range(2):
        listed = {each.deploy_id: each for each in await provider.list_instances()}
        assert (set(listed), listed[given].raw_state) == ({kept, given}, "NOT_AUTHORIZED")
        assert listed[given].identity == a_vm(6).identity(owner=OWNER)
    assert warnings == list(provider.listing_warnings())
    assert warnings[0].startswith("remote VM 1 of VM 6 was given to another remote user")


async def test_a_still_visible_vm_given_to_another_user_is_reported_with_that_users_name(
    partner: Partner, opened: Open
) -> None:
    admin, provider = await opened(), await opened(session="burst:secret", visible="all")
    await provider.account()
    await admin.account()
    await launch(admin, a_vm(5))
    partner.vms[0].is_open = True
    assert [each.raw_state for each in await provider.list_instances()] == ["RUNNING"]
    assert [sentence.partition(":")[0] for sentence in provider.listing_warnings()] == [
        "remote VM 0 of VM 5 was given to remote user oneadmin (0)"
    ]
    assert admin.listing_warnings() == [], "oneadmin may manage every VM"


async def test_only_vms_of_the_login_user_are_listed_unless_visible_is_all(partner: Partner, opened: Open) -> None:
    admin, burst = await opened(), await opened(session="burst:secret")
    theirs, ours = await launch(burst, a_vm(1)), await launch(admin, a_vm(2))
    assert {each.deploy_id for each in await burst.list_instances()} == {theirs}
    assert {each.deploy_id for each in await admin.list_instances()} == {ours}
    everything = await opened(visible="all")
    assert {each.deploy_id for each in await everything.list_instances()} == {theirs, ours}


async def test_an_unmapped_lcm_state_is_unknown_with_one_warning(partner: Partner, opened: Open) -> None:
    warnings: list[str] = []
    provider = await opened(warn=warnings.append)
    deploy_id = await launch(provider)
    partner.vms[0].go((3, 99), delay=0)
    assert (await seen(provider, deploy_id)).state is S.UNKNOWN
    await provider.list_instances()
    assert warnings == ["remote VMs are in LCM_STATE 99, an unknown state, which counts as UNKNOWN"]


# Account and capacity


async def test_the_account_is_user_endpoint_and_zone(partner: Partner, opened: Open) -> None:
    provider = await opened(session="burst:secret")
    assert await provider.account() == f"burst (2) at {partner.urls[0]}, zone OpenNebula (0)"


async def test_opening_with_wrong_credentials_fails_and_names_user_and_setting(partner: Partner, opened: Open) -> None:
    with pytest.raises(AuthenticationRefused) as caught:
        await opened(session="oneadmin:wrong")
    assert str(caught.value) == (
        f"the partner's OpenNebula at {partner.place} refuses the login of oneadmin:"
        " see credentials_file in [opennebula]"
    )


async def test_opening_an_unreachable_partner_fails_and_names_endpoint_and_setting(tmp_path: Path) -> None:
    with Partner() as down:
        provider = connect(down, tmp_path)
    with pytest.raises(NotReached) as caught:
        await provider.open()
    await provider.close()
    assert str(caught.value) == (
        f"the partner's OpenNebula at {down.place} cannot be reached: connection refused; see endpoints in [opennebula]"
    )


async def test_capacity_is_that_of_the_enabled_hosts_or_of_the_quotas(partner: Partner, opened: Open) -> None:
    provider = await opened(session="burst:secret")
    assert isinstance(provider, CapacitySource)
    assert isinstance(provider, ImportSource)
    hosts = await provider.capacity()
    assert hosts is not None
    assert (hosts.cpu, hosts.memory) == (3 * 800, 3 * 167772160 // 1024)
    for off in (4, 7):  # disabled, and while a disabled one is monitored
        partner.hosts[0] = off
        fewer = await provider.capacity()
        assert fewer is not None
        assert fewer.cpu == 2 * 800
    partner.may_see_hosts = False
    assert await provider.capacity() is None
    partner.users["burst:secret"].quota = {"CPU": "8", "MEMORY": "4096", "VMS": "-1"}
    limited = await provider.capacity()
    assert limited is not None
    assert (limited.cpu, limited.memory) == (8, 4096)


# Devices


async def test_an_attach_that_fails_at_the_partner_has_the_partners_error(partner: Partner, opened: Open) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    with pytest.raises(BadParameter, match=r"disk 5 was not attached: .*ATTACHDISK: no such target"):
        await provider.attach_disk(deploy_id, {"DISK_ID": "5", "SIZE": "10", "TARGET": "broken"})


async def test_an_attached_disk_is_a_new_one_or_an_image_of_the_partners(partner: Partner, opened: Open) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    await provider.attach_disk(deploy_id, {"DISK_ID": "1", "SIZE": "1024", "FORMAT": "qcow2", "SOURCE": "/var/x"})
    await provider.attach_disk(deploy_id, {"DISK_ID": "2", "IMAGE_ID": "4", "REMOTE_IMAGE_ID": "9", "TARGET": "vdb"})
    with pytest.raises(BadParameter, match="image 4 is not at the partner's: name one of theirs with REMOTE_IMAGE_ID"):
        await provider.attach_disk(deploy_id, {"DISK_ID": "3", "IMAGE_ID": "4"})
    assert partner.vms[0].sections("DISK") == [
        {"TYPE": "fs", "SIZE": "1024", "FORMAT": "qcow2", "ONE_PROVIDER_DISK_ID": "1", "DISK_ID": "1"},
        {"IMAGE_ID": "9", "TARGET": "vdb", "ONE_PROVIDER_DISK_ID": "2", "DISK_ID": "2"},
    ]


@pytest.mark.parametrize("method", ["detach", "detachnic", "snapshotdelete"])
async def test_a_repeated_removal_after_a_lost_answer_succeeds_without_a_second_call(opened: Open, method: str) -> None:
    with Partner(front_ends=2, delay=0.05) as partner:
        provider = await opened(at=partner)
        deploy_id = await launch(provider)
        if method == "detach":
            await provider.attach_disk(deploy_id, {"DISK_ID": "1", "SIZE": "10"})
            remove = partial(provider.detach_disk, deploy_id, {"DISK_ID": "1"})
        elif method == "detachnic":
            await provider.attach_nic(deploy_id, {"NIC_ID": "1", "NETWORK": "shared"})
            remove = partial(provider.detach_nic, deploy_id, {"NIC_ID": "1"})
        else:
            taken = await provider.create_snapshot(deploy_id, {"NAME": "before"})
            remove = partial(provider.delete_snapshot, deploy_id, {"HYPERVISOR_ID": taken})
        partner.order("lost-answer", f"one.vm.{method}")
        with pytest.raises(ProviderUnavailable):
            await remove()
        await remove()
        assert partner.count(f"one.vm.{method}") == 1
        await provider.close()


@pytest.mark.parametrize("text", ["first", "9" * 5000])
@pytest.mark.parametrize("method", ["revert_snapshot", "delete_snapshot"])
async def test_snapshot_id_of_a_partner_that_is_no_number_is_refused(
    partner: Partner, opened: Open, method: str, text: str
) -> None:
    provider = await opened()
    deploy_id = await launch(provider)
    partner.vms[0].template["SNAPSHOT"] = [{"SNAPSHOT_ID": text, "NAME": "odd"}]
    with pytest.raises(BadParameter, match=f"the partner names a snapshot '{text[:40]}', which is not a number"):
        await getattr(provider, method)(deploy_id, {"HYPERVISOR_ID": text})
    assert partner.count("one.vm.snapshotrevert") + partner.count("one.vm.snapshotdelete") == 0


async def test_a_nic_is_attached_to_the_partners_network_that_the_settings_map_it_to(
    partner: Partner, opened: Open
) -> None:
    provider = await opened(networks={"cloud": "partner-public", "storage": "oneadmin/san"})
    deploy_id = await launch(provider)
    nic = {"NETWORK": "cloud", "MAC": "02:00:0a:00:00:05", "IP": "10.0.0.5", "MODEL": "virtio", "BRIDGE": "br0"}
    await provider.attach_nic(deploy_id, {"NIC_ID": "1", **nic})
    await provider.attach_nic(deploy_id, {"NIC_ID": "2", **nic, "NETWORK": "shared"})
    await provider.attach_nic(deploy_id, {"NIC_ID": "3", **nic, "REMOTE_NETWORK_ID": "12"})
    await provider.attach_nic(deploy_id, {"NIC_ID": "4", "NETWORK": "storage"})
    assert partner.vms[0].sections("NIC") == [
        {"NETWORK": "partner-public", "MODEL": "virtio", "ONE_PROVIDER_NIC_ID": "1", "NIC_ID": "1"},
        {**{name: nic[name] for name in ("MODEL", "MAC", "IP")}, "NETWORK": "shared"}
        | {"ONE_PROVIDER_NIC_ID": "2", "NIC_ID": "2"},
        {"NETWORK_ID": "12", "ONE_PROVIDER_NIC_ID": "3", "NIC_ID": "3"},
        {"NETWORK": "san", "NETWORK_UNAME": "oneadmin", "ONE_PROVIDER_NIC_ID": "4", "NIC_ID": "4"},
    ]
    with pytest.raises(BadParameter, match="does not own a network with name: nowhere"):
        await provider.attach_nic(deploy_id, {"NIC_ID": "5", "NETWORK": "nowhere"})


async def test_a_nic_of_an_ordinary_user_is_attached_without_its_mac(partner: Partner, opened: Open) -> None:
    provider = await opened(session="burst:secret")
    deploy_id = await launch(provider)
    await provider.attach_nic(
        deploy_id, {"NIC_ID": "1", "NETWORK": "shared", "MAC": "02:00:0a:00:00:05", "IP": "10.0.0.5"}
    )
    assert partner.vms[0].sections("NIC") == [
        {"NETWORK": "shared", "IP": "10.0.0.5", "ONE_PROVIDER_NIC_ID": "1", "NIC_ID": "1"}
    ]


async def test_a_changed_context_keeps_the_partners_own_context_attributes(partner: Partner, opened: Open) -> None:
    provider = await opened()
    deploy_id = await launch(provider, a_vm(TEMPLATE_ID="3"))
    partner.vms[0].template["GRAPHICS"] = [{"TYPE": "VNC"}]
    theirs = {"USERNAME": "root", "TOKEN": "YES", "FILES_DS": "/var/lib/one/datastores/2/1f:'init.sh' "}
    partner.vms[0].template["CONTEXT"] = [{**theirs, "SSH_PUBLIC_KEY": "ssh-rsa OLD", "ETH0_IP": "10.8.0.1"}]
    ours = {"SSH_PUBLIC_KEY": "ssh-rsa NEW", "ETH0_IP": "10.0.0.1", "FILES_DS": "ours"}
    context = Template(values={"CONTEXT": (ours,)})
    await provider.update_context(deploy_id, VmRequest(vm_id=VmId(1), template=context))
    assert partner.vms[0].sections("CONTEXT") == [{**theirs, "SSH_PUBLIC_KEY": "ssh-rsa NEW"}]
    assert partner.vms[0].sections("GRAPHICS") == [{"TYPE": "VNC"}]
    assert sent(partner, "one.vm.updateconf")[0][2] == 1


async def test_changing_the_context_of_a_stopped_vm_of_5_10_keeps_its_other_sections(opened: Open) -> None:
    with Partner("5.10.5") as partner:
        provider = await opened(at=partner)
        deploy_id = await launch(provider)
        partner.vms[0].template["GRAPHICS"] = [{"TYPE": "VNC"}]
        await provider.stop(deploy_id, hard=True)
        await reach(provider, deploy_id, S.STOPPED)
        context = Template(values={"CONTEXT": ({"SSH_PUBLIC_KEY": "ssh-rsa NEW"},)})
        await provider.update_context(deploy_id, VmRequest(vm_id=VmId(1), template=context))
        assert partner.vms[0].sections("GRAPHICS") == [{"TYPE": "VNC"}]
        assert len(sent(partner, "one.vm.updateconf")[0]) == 2, "this release knows no third argument"
        await provider.close()


# Instances of upstream's driver


@pytest.mark.parametrize(
    ("attributes", "does_count", "vm_id"),
    [
        pytest.param("REMOTE_OPENNEBULA_VM_ID=42", True, 42, id="attribute-alone"),
        pytest.param("REMOTE_OPENNEBULA_VM_ID=42", False, None, id="adopt-upstream-not-set"),
        pytest.param("REMOTE_OPENNEBULA_VM_ID=x", True, None, id="no-number"),
        pytest.param("", True, None, id="none"),
        pytest.param('REMOTE_OPENNEBULA_VM_ID=42\nONE_PROVIDER_OWNER="b"', True, None, id="with-one-of-our-tags"),
    ],
)
async def test_the_vm_id_of_upstreams_attribute_is_read_if_adopt_upstream_is_set(
    partner: Partner, opened: Open, attributes: str, vm_id: int | None, *, does_count: bool
) -> None:
    provider = await opened(adopt_upstream=does_count)
    partner.do_template_instantiate(partner.users["oneadmin:secret"], 0, "theirs", False, attributes)  # noqa: FBT003
    [instance] = await provider.list_instances()
    assert provider.upstream_vm_id(instance) == vm_id


async def test_an_instance_with_our_tags_does_not_count_as_the_upstream_drivers_any_more(
    partner: Partner, opened: Open
) -> None:
    provider = await opened(adopt_upstream=True)
    as_upstream = "REMOTE_OPENNEBULA_VM_ID=42"
    partner.do_template_instantiate(partner.users["oneadmin:secret"], 0, "theirs", False, as_upstream)  # noqa: FBT003
    [instance] = await provider.list_instances()
    await provider.retag(instance.deploy_id, a_vm(42).identity(owner=OWNER))
    [instance] = await provider.find(owner=OWNER, vm_id=VmId(42))
    assert provider.upstream_vm_id(instance) is None
