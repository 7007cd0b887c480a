"""Every source of AWS credentials works, none blocks the event loop, and no secret is shown."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from one_provider_mad.errors import AuthenticationRefused
from one_provider_mad.providers.ec2.credentials import Credentials
from one_provider_mad.providers.ec2.settings import Ec2Settings
from tests.providers.ec2.account import NUMBER
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import KEY, REGION, SECRET, FaultyEc2

NONE: dict[str, Any] = {"access_key_id": None, "secret_access_key": None}
ACCOUNT = f"{NUMBER}/{REGION}"
ROLE = f"arn:aws:iam::{NUMBER}:role/opennebula"


@pytest.fixture(autouse=True)
def nothing_blocks() -> Iterator[None]:
    """Let any call of ours that blocks the event loop fail the test."""
    with blockbuster_ctx("one_provider_mad.providers.ec2"):
        yield


def keys(profile: str = "default", *, key: str = KEY, secret: str = SECRET) -> str:
    return f"[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"


async def test_credentials_are_read_from_the_configuration(connect: Open) -> None:
    assert await (await connect()).account() == ACCOUNT


async def test_credentials_are_read_from_the_environment(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert await (await connect(**NONE)).account() == ACCOUNT


async def test_credentials_are_read_from_the_default_profile(connect: Open, tmp_path: Path) -> None:
    (tmp_path / "aws-credentials").write_text(keys())
    assert await (await connect(**NONE)).account() == ACCOUNT


async def test_credentials_are_read_from_a_profile_in_configured_files(connect: Open, tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text(keys("one"))
    assert await (await connect(**NONE, profile="one", credentials_file=str(file))).account() == ACCOUNT
    config = tmp_path / "config"
    config.write_text(keys("profile two"))
    assert await (await connect(**NONE, profile="two", config_file=str(config))).account() == ACCOUNT


async def test_credentials_are_read_from_a_credential_process(connect: Open, tmp_path: Path) -> None:
    program = tmp_path / "give"
    given = json.dumps({"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET})
    program.write_text(f"#!/bin/sh\necho '{given}'\n")
    program.chmod(stat.S_IRWXU)
    (tmp_path / "aws-config").write_text(f"[default]\ncredential_process = {program}\n")
    assert await (await connect(**NONE)).account() == ACCOUNT


async def test_credentials_are_read_from_the_service_of_a_container(
    ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{ec2.url}container")
    assert await (await connect(**NONE)).account() == ACCOUNT


async def test_credentials_are_read_from_the_metadata_service_of_the_machine(
    ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", ec2.url)
    assert await (await connect(**NONE)).account() == ACCOUNT


async def test_credentials_are_read_from_an_assumed_role(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(role_arn=ROLE, external_id="one")
    assert await provider.account() == ACCOUNT
    assert await provider.list_instances() == []
    asked = [form for action, form in ec2.account.calls if action == "AssumeRole"]
    assert [(form["RoleArn"], form["ExternalId"]) for form in asked] == [(ROLE, "one")]


async def test_credentials_are_refreshed_before_they_expire(ec2: FaultyEc2, connect: Open) -> None:
    ec2.role_seconds = 14 * 60.0  # botocore begins 15 minutes before
    provider = await connect(role_arn=ROLE)
    await asyncio.gather(*(provider.list_instances() for _ in range(3)))
    first = ec2.account.count("AssumeRole")
    ec2.role_seconds = 3600.0
    provider._client._credentials._renew_at = 0.0  # a minute later
    await provider.list_instances()
    assert ec2.account.count("AssumeRole") == first + 1
    await provider.list_instances()
    assert ec2.account.count("AssumeRole") == first + 1


async def test_twenty_simultaneous_calls_assume_the_role_once(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(role_arn=ROLE)
    await asyncio.gather(*(provider.list_instances() for _ in range(20)))
    assert ec2.account.count("AssumeRole") == 1


async def test_changed_keys_are_read_from_their_file_after_a_refusal(
    ec2: FaultyEc2, connect: Open, tmp_path: Path
) -> None:
    file = tmp_path / "aws-credentials"
    file.write_text(keys())
    provider = await connect(**NONE)
    await provider.list_instances()
    ec2.keys = {"AKIDNEW": "new secret"}
    with pytest.raises(AuthenticationRefused):
        await provider.list_instances()
    file.write_text(keys(key="AKIDNEW", secret="new secret"))
    assert await provider.list_instances() == []


async def test_changed_keys_of_another_account_are_refused(ec2: FaultyEc2, connect: Open, tmp_path: Path) -> None:
    """In another account all our instances would be missing, and a create would buy a second one."""
    file = tmp_path / "aws-credentials"
    file.write_text(keys())
    provider = await connect(**NONE)
    await provider.account()
    ec2.keys = {"AKIDOTHER": "s"}
    file.write_text(keys(key="AKIDOTHER", secret="s"))
    body = "<GetCallerIdentityResult><Account>999999999999</Account></GetCallerIdentityResult>"
    response = f"<GetCallerIdentityResponse>{body}</GetCallerIdentityResponse>"
    ec2.order("GetCallerIdentity", body=response, status=200, times=2)
    for _ in range(2):
        with pytest.raises(AuthenticationRefused, match=f"now belong to account 999999999999, expected {NUMBER}"):
            await provider.list_instances()
    assert ec2.account.count("DescribeInstances") == 0
    assert await provider.list_instances() == []  # they are ours again


async def test_credentials_stay_in_use_if_a_refused_call_brings_no_new_ones(ec2: FaultyEc2, connect: Open) -> None:
    """EC2 also answers AuthFailure for an image that is not shared, which any user can name."""
    provider = await connect(role_arn=ROLE)
    await provider.list_instances()
    ec2.order("DescribeInstances", code="AuthFailure", message="Not authorized for images", status=403)
    ec2.order("AssumeRole", code="AccessDenied", message="No.", status=403, times=9)
    for _ in range(2):
        with suppress(AuthenticationRefused):
            await provider.list_instances()
    assert ec2.account.count("DescribeInstances") == 3
    assert await provider.list_instances() == []


async def test_without_credentials_the_error_says_where_to_configure_them(connect: Open) -> None:
    with pytest.raises(AuthenticationRefused, match="there are no AWS credentials: set access_key_id"):
        await (await connect(**NONE)).account()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param({"profile": "missing"}, r"cannot be read: .*profile \(missing\)", id="no-such-profile"),
        pytest.param({"config_file": "broken"}, "cannot be read: .*broken", id="broken-file"),
    ],
)
async def test_a_missing_profile_or_broken_file_is_named_in_the_error(
    connect: Open, tmp_path: Path, settings: dict[str, str], sentence: str
) -> None:
    (tmp_path / "broken").write_text("[default\n")
    placed = {key: str(tmp_path / value) if key == "config_file" else value for key, value in settings.items()}
    with pytest.raises(AuthenticationRefused, match=sentence):
        await (await connect(**NONE, **placed)).account()


async def test_a_role_that_may_not_be_assumed_is_named_in_the_error(ec2: FaultyEc2, connect: Open) -> None:
    ec2.order("AssumeRole", code="AccessDenied", message="User is not authorized to assume it", status=403)
    with pytest.raises(AuthenticationRefused, match="the AWS role cannot be assumed: User is not authorized"):
        await (await connect(role_arn=ROLE)).account()


async def test_without_botocore_the_error_says_how_to_install_it(
    connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await connect()
    for name in [each for each in sys.modules if each.partition(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(AuthenticationRefused, match=r"pip install 'one-provider-mad\[ec2\]'"):
        await provider.account()


async def test_a_signature_equals_botocores_and_shows_no_secret(ec2: FaultyEc2) -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as Given

    settings = Ec2Settings(region=REGION, access_key_id=KEY, secret_access_key=SECRET, session_token="s")
    headers, body = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, "Action=X&Name=é".encode()
    signed = await Credentials(settings).sign("https://ec2.eu-west-1.amazonaws.com/", headers, body, service="ec2")
    same = AWSRequest("POST", "https://ec2.eu-west-1.amazonaws.com/", headers=dict(headers), data=body)
    signer = SigV4Auth(Given(KEY, SECRET, "s"), "ec2", REGION)
    same.context["timestamp"] = signed.headers["X-Amz-Date"]
    same.headers["X-Amz-Date"], same.headers["X-Amz-Security-Token"] = signed.headers["X-Amz-Date"], "s"
    signature = signer.signature(signer.string_to_sign(same, signer.canonical_request(same)), same)
    assert signed.headers["Authorization"].endswith(f"Signature={signature}")
    assert SECRET not in repr(signed)
