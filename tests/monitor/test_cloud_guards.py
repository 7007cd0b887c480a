"""An information driver never lists the cloud of another account, and never closes a provider in use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad import live_provider, monitored_cloud
from one_provider_mad.errors import JournalError, ProviderUnavailable, SettingsError, WrongAccount
from one_provider_mad.monitored_cloud import MonitoredCloud
from one_provider_mad.options import Options
from one_provider_mad.settings import Places
from tests.actions.fakes import FakeCloud, pass_time


class FrontEnd:
    """A front-end with the configuration of a cloud, and a new provider for each time that it is read."""

    def __init__(self, root: Path) -> None:
        self.places = Places(conf=root / "etc", var=root / "var", log=root / "var", etc=root / "etc")
        for path in (self.places.conf, self.places.var):
            path.mkdir()
        self.clouds: list[FakeCloud] = []
        self.warnings: list[str] = []
        self.configure()
        self.watched = MonitoredCloud(Options(name="sea"), self.places, warn=self.warnings.append)

    def configure(self, **keys: str) -> None:
        written = {"provider": "simulated", "owner": "harbour", **keys}
        path = self.places.conf / "sea.toml"
        path.write_text("".join(f'{key} = "{value}"\n' for key, value in written.items()))
        path.chmod(0o600)

    def build(self, *_arguments: Any) -> FakeCloud:
        self.clouds.append(FakeCloud())
        return self.clouds[-1]


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FrontEnd:
    found = FrontEnd(tmp_path)
    monkeypatch.setattr(live_provider, "build", found.build)
    return found


def order(front: FrontEnd, monkeypatch: pytest.MonkeyPatch, **orders: Any) -> None:
    """Let these operations of every cloud fail."""

    def build(*_arguments: Any) -> FakeCloud:
        cloud = front.build()
        cloud.always.update(orders)
        return cloud

    monkeypatch.setattr(live_provider, "build", build)


def recorded(monkeypatch: pytest.MonkeyPatch, account: str | Exception) -> None:
    """Let the action driver's journal name this account, or raise this error."""

    def read(*_arguments: Any) -> str:
        if isinstance(account, Exception):
            raise account
        return account

    monkeypatch.setattr(monitored_cloud, "read_fact", read)


@pytest.mark.looptime
async def test_a_cloud_that_does_not_return_its_account_is_closed_and_opened_again(
    front: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    order(front, monkeypatch, account=asyncio.Event())
    with pytest.raises(ProviderUnavailable, match="did not say which account the credentials belong to"):
        async with asyncio.timeout(1000):
            await front.watched.current()
    assert front.clouds[-1].is_closed
    monkeypatch.setattr(live_provider, "build", front.build)
    assert (await front.watched.current()).provider is front.clouds[-1]


async def test_a_cloud_of_another_account_than_the_journals_is_refused(
    front: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(monkeypatch, "account-2/north")
    with pytest.raises(WrongAccount, match="account-1/north, expected account-2/north: restore them"):
        await front.watched.current()
    recorded(monkeypatch, JournalError("the journal cannot be read"))
    with pytest.raises(JournalError):
        await front.watched.current()
    recorded(monkeypatch, "account-1/north")
    assert (await front.watched.current()).owner == "harbour"


async def test_a_provider_that_cannot_list_instances_is_refused(
    front: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitored_cloud, "VerbatimDriver", FakeCloud)
    with pytest.raises(SettingsError, match="provider fake cannot list instances"):
        await front.watched.current()


@pytest.mark.looptime
async def test_the_provider_of_older_settings_is_closed_after_its_last_listing_must_have_ended(front: FrontEnd) -> None:
    await front.watched.current()
    first = front.clouds[-1]
    front.configure(hypervisor="deep-sea")
    assert (await front.watched.current()).provider is front.clouds[-1] is not first
    was_closed = []
    for _ in range(2):
        await pass_time(200)
        was_closed.append(first.is_closed)
    assert was_closed == [False, True]
    await front.watched.close()


async def test_after_an_edit_that_fails_the_previous_provider_stays_in_use(
    front: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await front.watched.current()
    order(front, monkeypatch, account=ProviderUnavailable("no route"))
    front.configure(hypervisor="deep-sea")
    assert await front.watched.current() is before
    await front.watched.close()
