"""Requests are completed with what the local core knows: decrypted attributes, and the token for OneGate."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pytest

from one_provider_mad import core_values
from one_provider_mad.core_values import CoreValues
from one_provider_mad.domain import EarlierHost, Template, VmId, VmRequest
from one_provider_mad.errors import RequestRefused
from one_provider_mad.masking import forget_vm_secrets, masked
from tests.xmlrpc.local_core import LocalCore, User, decrypted, encrypted, environment, local_core

PASSWORD = "correct horse/battery"
CIPHERTEXT = encrypted(PASSWORD)
TOKEN_PASSWORD = "a47ac9d5b0c2e0a1" * 4
SHIPPED = "VM_ENCRYPTED_ATTR=CONTEXT/PASSWORD"

Values = Mapping[str, str | Mapping[str, str]]


@pytest.fixture
def core() -> Iterator[LocalCore]:
    with local_core() as core:
        core.users[3] = User("ada", template={"TOKEN_PASSWORD": TOKEN_PASSWORD})
        yield core


@pytest.fixture
def environ(core: LocalCore, tmp_path: Path) -> dict[str, str]:
    return environment(core, tmp_path, SHIPPED)


def values_of(environ: Mapping[str, str]) -> CoreValues:
    is_up = asyncio.Event()
    is_up.set()
    return CoreValues(environ, core_is_up=is_up)


def a_vm(core: LocalCore, template: Values, user_template: Mapping[str, Mapping[str, str]] = {}) -> VmRequest:
    """A request for VM 7, which the core has with the same attributes."""
    core.vms[7] = (template, user_template)
    return VmRequest(
        vm_id=VmId(7),
        stime=1_700_000_000,
        template=Template(values={name: (value,) for name, value in template.items()}),
        user_template=Template(values={name: (value,) for name, value in user_template.items()}),
    )


def a_vm_with(core: LocalCore, **context: str) -> VmRequest:
    return a_vm(core, {"CREATED_BY": "3", "CONTEXT": context})


async def refusal(environ: Mapping[str, str], request: VmRequest) -> str:
    with pytest.raises(RequestRefused) as caught:
        await values_of(environ).complete(request)
    return str(caught.value)


async def test_encrypted_attribute_is_replaced_and_the_others_are_kept(
    core: LocalCore, environ: dict[str, str]
) -> None:
    request = a_vm_with(core, PASSWORD=CIPHERTEXT, USERNAME="ada", SCRIPT=CIPHERTEXT)
    completed = await values_of(environ).complete(request)
    assert completed.template.vectors("CONTEXT") == (
        {"PASSWORD": PASSWORD, "USERNAME": "ada", "SCRIPT": CIPHERTEXT},
    ), "SCRIPT is not in VM_ENCRYPTED_ATTR"
    assert request.template.vectors("CONTEXT")[0]["PASSWORD"] == CIPHERTEXT
    assert core.calls == [("one.vm.info", 7, True)]


async def test_attributes_of_both_templates_are_decrypted_at_any_depth(core: LocalCore, tmp_path: Path) -> None:
    attributes = ("PACKET_TOKEN", "provision/Packet_Token", "PUBLIC_CLOUD/SECRET", "MISSING", "CONTEXT/MISSING")
    environ = environment(core, tmp_path, *(f'VM_ENCRYPTED_ATTR = "{each}"' for each in attributes))
    names = ("one", "two", "three")
    one, two, three = (encrypted(f"{each} is secret") for each in names)
    request = a_vm(
        core,
        {"CONTEXT": {"PASSWORD": CIPHERTEXT}, "PACKET_TOKEN": one},
        {"PROVISION": {"PACKET_TOKEN": two, "HOST": "h"}, "PUBLIC_CLOUD": {"TYPE": "x", "SECRET": three}},
    )
    completed = await values_of(environ).complete(request)
    assert completed.template.values == {
        "CONTEXT": ({"PASSWORD": CIPHERTEXT},),
        "PACKET_TOKEN": ("one is secret",),
    }, "this core encrypts no CONTEXT/PASSWORD"
    assert completed.user_template.values == {
        "PROVISION": ({"PACKET_TOKEN": "two is secret", "HOST": "h"},),
        "PUBLIC_CLOUD": ({"TYPE": "x", "SECRET": "three is secret"},),
    }


@pytest.mark.parametrize(
    "context",
    [
        {"USERNAME": "ada"},
        {"PASSWORD": ""},
        {"PASSWORD": "plain text"},
        {"PASSWORD": "c2hvcnQ="},  # base64, but no whole AES block
        {"TOKEN": "NO"},
        {"TOKEN": ""},
        {"USERNAME": CIPHERTEXT},
    ],
)
async def test_core_is_not_asked_for_a_vm_without_encrypted_attributes_and_token(
    core: LocalCore, environ: dict[str, str], context: dict[str, str]
) -> None:
    request = a_vm_with(core, **context)
    assert await values_of(environ).complete(request) is request
    assert core.calls == []


async def test_core_without_readable_settings_counts_as_one_with_those_shipped(
    core: LocalCore, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "var" / "config").unlink()
    completed = await values_of(environ).complete(a_vm_with(core, PASSWORD=CIPHERTEXT))
    assert completed.template.vectors("CONTEXT")[0]["PASSWORD"] == PASSWORD


async def test_value_that_only_looks_encrypted_stays_as_it_is(core: LocalCore, environ: dict[str, str]) -> None:
    looks = encrypted(PASSWORD, "another key of another OpenNebula")
    request = a_vm_with(core, PASSWORD=looks)
    completed = await values_of(environ).complete(request)
    assert completed.template.vectors("CONTEXT") == ({"PASSWORD": looks},)


async def test_user_outside_the_group_oneadmin_is_named_with_the_remedy(
    core: LocalCore, environ: dict[str, str]
) -> None:
    core.users[4], core.session_user = User("serveradmin", (1, 100)), 4
    assert await refusal(environ, a_vm_with(core, PASSWORD=CIPHERTEXT)) == (
        "CONTEXT/PASSWORD cannot be decrypted by the local OpenNebula: it decrypts for the group oneadmin only, and"
        " serveradmin, the user in ONE_AUTH, is not in it: run oneuser addgroup serveradmin oneadmin; nothing was sent"
        " to the cloud"
    )


async def test_missing_login_and_unreachable_core_are_named(
    core: LocalCore, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_values, "_PAUSE", 0.0)
    request = a_vm_with(core, PASSWORD=CIPHERTEXT)
    said = await refusal({**environ, "ONE_AUTH": str(tmp_path / "none")}, request)
    assert said.startswith(
        "CONTEXT/PASSWORD cannot be decrypted by the local OpenNebula: none does not exist: write user:password into"
    )
    said = await refusal({**environ, "ONE_XMLRPC": "http://127.0.0.1:1/RPC2"}, request)
    assert "OpenNebula at 127.0.0.1:1 cannot be asked: Connection refused; nothing was sent to the cloud" in said


async def test_core_that_fails_to_answer_is_asked_three_times(
    core: LocalCore, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_values, "_PAUSE", 0.0)
    request = a_vm_with(core, PASSWORD=CIPHERTEXT)
    core.unanswered = 2
    completed = await values_of(environ).complete(request)
    assert completed.template.vectors("CONTEXT")[0]["PASSWORD"] == PASSWORD
    core.unanswered = 3
    assert "answers with HTTP 500" in await refusal(environ, request)


async def test_vm_changed_between_request_and_answer_is_refused(core: LocalCore, environ: dict[str, str]) -> None:
    request = a_vm_with(core, PASSWORD=CIPHERTEXT)
    core.vms[7] = ({"CONTEXT": {"USERNAME": "ada"}}, {})
    assert "the VM was changed meanwhile, repeat the action" in await refusal(environ, request)
    del core.vms[7]
    assert "Error getting virtual machine [7]" in await refusal(environ, request)


@pytest.mark.parametrize("yes", ["YES", "yes"])
async def test_token_is_added_to_the_context(core: LocalCore, environ: dict[str, str], yes: str) -> None:
    request = a_vm_with(core, TOKEN=yes, VMID="7", ONEGATE_ENDPOINT="http://192.0.2.1:5030")
    (context,) = (await values_of(environ).complete(request)).template.vectors("CONTEXT")
    assert decrypted(context["ONEGATE_TOKEN"], TOKEN_PASSWORD) == "7:1700000000"
    assert {**context, "ONEGATE_TOKEN": ""} == {**request.template.vectors("CONTEXT")[0], "ONEGATE_TOKEN": ""}
    assert core.calls == [("one.user.info", 3)]


async def test_password_and_token_are_made_for_one_vm(core: LocalCore, environ: dict[str, str]) -> None:
    (context,) = (
        await values_of(environ).complete(a_vm_with(core, TOKEN="YES", PASSWORD=CIPHERTEXT))
    ).template.vectors("CONTEXT")
    assert context["PASSWORD"] == PASSWORD
    assert decrypted(context["ONEGATE_TOKEN"], TOKEN_PASSWORD) == "7:1700000000"


async def test_missing_token_password_creator_and_user_are_named(core: LocalCore, environ: dict[str, str]) -> None:
    request = a_vm_with(core, TOKEN="YES")
    core.users[3].template = {}
    cannot = "TOKEN = YES in CONTEXT asks for a OneGate token, which cannot be made: {}; nothing was sent to the cloud"
    remedy = "set one of 64 hexadecimal digits with oneuser update 3"
    assert await refusal(environ, request) == cannot.format(
        f"TOKEN_PASSWORD of user 3, who created the VM, is missing: {remedy}"
    )
    core.users[3].template = {"TOKEN_PASSWORD": "short"}
    assert await refusal(environ, request) == cannot.format(
        f"TOKEN_PASSWORD of user 3, who created the VM, is shorter than 32 bytes: {remedy}"
    )
    del core.users[3]
    assert "Error getting user [3]" in await refusal(environ, request)
    without_creator = a_vm(core, {"CONTEXT": {"TOKEN": "YES"}})
    assert await refusal(environ, without_creator) == cannot.format("the VM has no CREATED_BY, create it again")


async def test_decrypted_values_are_masked_for_this_vm_alone(core: LocalCore, environ: dict[str, str]) -> None:
    async def written(request: VmRequest, text: str) -> str:
        forget_vm_secrets()
        await values_of(environ).complete(request)
        return masked(text)

    request = a_vm_with(core, PASSWORD=CIPHERTEXT)
    assert await written(request, f"refused: {PASSWORD}!") == "refused: ***!"
    assert await written(a_vm_with(core, USERNAME="ada"), f"refused: {PASSWORD}!") == f"refused: {PASSWORD}!"


async def test_core_is_asked_once_it_is_up(core: LocalCore, environ: dict[str, str]) -> None:
    is_awaited = asyncio.Event()

    class IsUp(asyncio.Event):
        async def wait(self) -> Literal[True]:
            is_awaited.set()
            return await super().wait()

    is_up = IsUp()
    values = CoreValues(environ, core_is_up=is_up)
    completing = asyncio.create_task(values.complete(a_vm_with(core, PASSWORD=CIPHERTEXT)))
    await is_awaited.wait()
    assert core.calls == []
    is_up.set()
    assert (await completing).template.vectors("CONTEXT")[0]["PASSWORD"] == PASSWORD


UNDEPLOY, UNDEPLOY_HARD, STOP, RECREATE, POFF_MIGRATE = "5", "6", "9", "14", "48"


def record(driver: str, name: str, action: str = UNDEPLOY, **more: str) -> dict[str, str]:
    return {"HOSTNAME": name, "VM_MAD": driver, "ACTION": action, **more}


HERE = record("aws", "a", "0")


@pytest.mark.parametrize(
    ("history", "host"),
    [
        pytest.param([record("kvm", "h-0", DS_ID="100"), HERE], ("h-0", "kvm", 100), id="from-home"),
        pytest.param([record("kvm", "h-0", UNDEPLOY_HARD), HERE], ("h-0", "kvm", -1), id="hard"),
        pytest.param([record("kvm", "h-0", STOP), HERE], ("h-0", "kvm", -1), id="stopped"),
        pytest.param([record("aws", "a"), record("kvm", "h-0"), HERE], ("h-0", "kvm", -1), id="latest"),
        pytest.param([record("kvm", "h-0"), record("aws", "b"), HERE], ("h-0", "kvm", -1), id="moved"),
        pytest.param([record("kvm", "h-0", RECREATE), HERE], None, id="recreated-at-home"),
        pytest.param([record("kvm", "h-0"), record("aws", "b", RECREATE), HERE], None, id="recreated-here"),
        pytest.param([record("kvm", "h-0", POFF_MIGRATE), HERE], None, id="migrated"),
        pytest.param([record("kvm", "h-0"), record("kvm", "h-1", RECREATE), HERE], None, id="earlier-undeploy"),
        pytest.param([record("aws", "b"), HERE], None, id="same-driver"),
        pytest.param([record("", "h-0"), HERE], None, id="driver-unknown"),
        pytest.param([record("kvm", "h-0"), record("", "a")], None, id="own-driver-unknown"),
        pytest.param([{"HOSTNAME": "h-0", "VM_MAD": "kvm"}, HERE], None, id="action-unknown"),
        pytest.param([HERE], None, id="first-host"),
        pytest.param([], None, id="no-history"),
    ],
)
async def test_the_host_of_another_driver_that_has_the_disk_is_read_from_the_history(
    core: LocalCore, environ: dict[str, str], history: list[dict[str, str]], host: tuple[str, str, int] | None
) -> None:
    a_vm(core, {})
    core.history = history
    expected = EarlierHost(name=host[0], driver=host[1], datastore_id=host[2]) if host else None
    assert await values_of(environ).earlier_host(VmId(7)) == expected


async def test_core_that_does_not_tell_a_vms_hosts_is_no_error(
    core: LocalCore, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_values, "_PAUSE", 0.0)
    core.unanswered = 3
    assert await values_of(environ).earlier_host(VmId(7)) is None
    assert await values_of({**environ, "ONE_XMLRPC": "http://127.0.0.1:1/RPC2"}).earlier_host(VmId(7)) is None
