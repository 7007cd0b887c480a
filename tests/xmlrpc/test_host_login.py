"""Credentials are read from the host's template, where upstream's drivers kept them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.errors import AuthenticationRefused, NotReached, ProviderError
from one_provider_mad.testing.conformance import a_call
from one_provider_mad.xmlrpc.host_login import HostLogin
from tests.providers.opennebula.partner_provider import a_vm, connect, credentials
from tests.xmlrpc.partner import RELEASES, Partner, Release

NAMES = ("EC2_ACCESS", "EC2_SECRET")


@pytest.fixture
def release() -> Release:
    return "7.4.0"


@pytest.fixture
def local(release: Release) -> Iterator[Partner]:
    """The OpenNebula on this machine."""
    with Partner(release) as local:
        local.host_attributes = {"EC2_ACCESS": "AKIAEXAMPLE", "EC2_SECRET": "s3cr3t/+=", "ONE_USER": "oneadmin"}
        yield local


def login(local: Partner, directory: Path, host: str = "remote2", *, session: str = "oneadmin:secret") -> HostLogin:
    environ = {"ONE_XMLRPC": local.urls[0], "ONE_AUTH": str(credentials(directory, session))}
    return HostLogin(host, NAMES, environ=environ)


def asked(local: Partner) -> list[tuple[object, ...]]:
    return [(method, *arguments) for method, arguments in local.calls if method != "one.system.version"]


@pytest.mark.parametrize("release", RELEASES)
async def test_credentials_are_read_decrypted_from_a_host_by_name_or_number(local: Partner, tmp_path: Path) -> None:
    for host in ("remote2", "2"):
        assert await login(local, tmp_path, host).read() == ("AKIAEXAMPLE", "s3cr3t/+=")
    assert asked(local) == [("one.hostpool.info",), ("one.host.info", 2, True), ("one.host.info", 2, True)]


async def test_twenty_reads_at_once_share_one_call(local: Partner, tmp_path: Path) -> None:
    one = login(local, tmp_path, "2")
    assert len(set(await asyncio.gather(*(one.read() for _ in range(20))))) == 1
    assert local.count("one.host.info") == 1


async def refusal(one: HostLogin, kind: type[ProviderError] = AuthenticationRefused) -> str:
    with pytest.raises(kind) as caught:
        await one.read()
    assert type(caught.value) is kind
    return str(caught.value)


async def test_each_failure_to_read_the_credentials_has_its_sentence(local: Partner, tmp_path: Path) -> None:
    reading = "EC2_ACCESS and EC2_SECRET of host {} cannot be read:".format
    assert await refusal(login(local, tmp_path, "nowhere")) == (f"{reading('nowhere')} there is no host of that name")
    assert await refusal(login(local, tmp_path, "99")) == (f"{reading(99)} Error getting host [99]. (one.host.info)")
    assert await refusal(login(local, tmp_path, session="oneadmin:hunter2")) == (
        f"{reading('remote2')} OpenNebula at {local.place} refuses the login of oneadmin: see ONE_AUTH"
    )
    del local.host_attributes["EC2_SECRET"]
    assert await refusal(login(local, tmp_path)) == "host remote2 has no EC2_SECRET in its template"
    local.release = "4.14.2"
    assert await refusal(login(local, tmp_path)) == (
        f"{reading('remote2')} OpenNebula 4.14.2 decrypts no attributes, only 5.10 and later do"
    )
    with Partner() as stopped:
        unreachable = login(stopped, tmp_path)
    assert f"{reading('remote2')} OpenNebula at 127.0.0.1:" in await refusal(unreachable, NotReached)


async def test_a_missing_one_auth_file_is_named_in_the_error(local: Partner, tmp_path: Path) -> None:
    environ = {"ONE_XMLRPC": local.urls[0], "ONE_AUTH": str(tmp_path / "missing")}
    assert (await refusal(HostLogin("2", NAMES, environ=environ))).startswith(
        "EC2_ACCESS and EC2_SECRET of host 2 cannot be read: missing does not exist: write user:password into "
    )


async def test_a_malformed_one_xmlrpc_is_named_in_the_error(tmp_path: Path) -> None:
    environ = {"ONE_XMLRPC": "localhost:2633", "ONE_AUTH": str(credentials(tmp_path))}
    assert "ONE_XMLRPC is not the URL of an OpenNebula: endpoints: 'localhost:2633' is no URL" in await refusal(
        HostLogin("2", NAMES, environ=environ)
    )


async def test_a_partner_is_called_with_the_hosts_login_which_is_read_again_after_a_refusal(
    local: Partner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE_XMLRPC", local.urls[0])
    monkeypatch.setenv("ONE_AUTH", str(credentials(tmp_path)))
    monkeypatch.setattr("one_provider_mad.xmlrpc.host_login._SHARED_SECONDS", 0.0)
    local.host_attributes = {"ONE_USER": "burst", "ONE_PASSWORD": "secret"}
    with Partner() as partner:
        provider = connect(partner, tmp_path, credentials_file="", login_from_host="remote2")
        await provider.open()
        assert (await provider.account()).startswith("burst (2) at ")
        partner.users["burst:another"] = partner.users.pop("burst:secret")
        local.host_attributes["ONE_PASSWORD"] = "another"
        await provider.create(a_call(provider, a_vm()))
        assert (len(partner.vms), local.count("one.host.info")) == (1, 2)
        await provider.close()
