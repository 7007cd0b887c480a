"""Keys that upstream's driver kept in the host's template sign calls; they are read again once they are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.errors import AuthenticationRefused
from one_provider_mad.providers.ec2.credentials import Credentials
from one_provider_mad.providers.ec2.settings import Ec2Settings
from tests.providers.opennebula.partner_provider import credentials
from tests.xmlrpc.partner import Partner


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Partner]:
    """The OpenNebula on this machine."""
    with Partner() as local:
        local.host_attributes = {"EC2_ACCESS": "AKIAFIRST", "EC2_SECRET": "s3cr3t/+="}
        monkeypatch.setenv("ONE_XMLRPC", local.urls[0])
        monkeypatch.setattr("one_provider_mad.xmlrpc.host_login._SHARED_SECONDS", 0.0)
        monkeypatch.setenv("ONE_AUTH", str(credentials(tmp_path)))
        yield local


async def signed(keys: Credentials) -> tuple[str, str]:
    made = await keys.sign("https://ec2.eu-west-1.amazonaws.com/", {}, b"Action=DescribeInstances", service="ec2")
    return made.key_id, made.headers["Authorization"]


async def test_calls_are_signed_with_the_hosts_keys_which_are_read_again_after_a_refusal(local: Partner) -> None:
    keys = Credentials(Ec2Settings(region="eu-west-1", login_from_host="remote2"))
    key_id, authorization = await signed(keys)
    assert key_id == "AKIAFIRST"
    assert "Credential=AKIAFIRST/" in authorization
    assert (await signed(keys))[0] == "AKIAFIRST"
    assert local.count("one.host.info") == 1
    assert not await keys.reload("AKIAFIRST")
    local.host_attributes |= {"EC2_ACCESS": "AKIASECOND"}
    assert await keys.reload("AKIAFIRST")
    assert (await signed(keys))[0] == "AKIASECOND"


async def test_a_host_without_keys_is_named_in_the_error(local: Partner) -> None:
    local.host_attributes.clear()
    keys = Credentials(Ec2Settings(region="eu-west-1", login_from_host="remote2"))
    with pytest.raises(AuthenticationRefused, match="host remote2 has no EC2_ACCESS and EC2_SECRET in its template"):
        await signed(keys)


@pytest.mark.parametrize("other", [{"profile": "p"}, {"access_key_id": "a", "secret_access_key": "b"}])
def test_login_from_host_excludes_keys_and_profile(other: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError, match="login_from_host: give either a host, or keys, or a profile"):
        msgspec.convert({"region": "eu-west-1", "login_from_host": "h", **other}, Ec2Settings)
