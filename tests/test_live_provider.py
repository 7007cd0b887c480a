"""A provider that is being opened while a caller is cancelled, the file is edited or a daemon ends; in both daemons."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad import monitored_cloud
from one_provider_mad.engines import Engines
from one_provider_mad.errors import JournalError
from one_provider_mad.monitored_cloud import MonitoredCloud
from one_provider_mad.options import Options
from one_provider_mad.settings import Places
from tests.providers.plugins import install
from tests.waiting import HANG

PLUGIN = """
import asyncio
import msgspec

class Table(msgspec.Struct, forbid_unknown_fields=True):
    key: str = "first"

gates = {"open": asyncio.Event(), "account": asyncio.Event()}
reached = {"open": asyncio.Event(), "account": asyncio.Event()}
opened, closed = [], []

async def pass_gate(name):
    reached[name].set()
    await gates[name].wait()

class Gated:
    '''Opens and tells its account once the test lets it.'''
    name = "gated"
    visibility_grace = 0.0
    watch_interval = 1.0
    is_create_repeatable = True

    def __init__(self, settings):
        self.settings = settings

    async def open(self):
        opened.append(self.settings.key)
        await pass_gate("open")

    async def close(self):
        closed.append(self.settings.key)

    async def account(self):
        await pass_gate("account")
        return "one/north"

class Factory:
    settings_type = Table
    def __call__(self, context, settings):
        return Gated(settings)

factory = Factory()
"""

Daemon = Engines | MonitoredCloud


class Home:
    """The configuration of NAME `x`, and the daemon that is tested with it."""

    def __init__(self, root: Path, daemon: type[Daemon]) -> None:
        places = Places(conf=root / "conf", var=root / "var", log=root / "var")
        places.conf.mkdir()
        places.var.mkdir()
        self._file = places.conf / "x.toml"
        self.configure("first")
        self.warnings: list[str] = []
        self.daemon = daemon(Options(name="x"), places, warn=self.warnings.append)

    def configure(self, key: str) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f'provider = "gated"\nowner = "harbour"\n[gated]\nkey = "{key}"')
        fresh.chmod(0o600)
        fresh.rename(self._file)

    def ask(self) -> asyncio.Task[Any]:
        """Ask for the engine or the cloud in force."""
        return asyncio.create_task(self.daemon.current())

    async def key(self) -> str:
        """Return the key of the settings in force."""
        found: Any = await self.daemon.current()
        provider = found.cloud.provider if isinstance(self.daemon, Engines) else found.provider
        return str(provider.settings.key)

    @property
    def cloud(self) -> Any:
        import gated_cloud  # type: ignore[import-not-found]

        return gated_cloud

    def open_gates(self) -> None:
        for gate in self.cloud.gates.values():
            gate.set()


@pytest.fixture(params=[Engines, MonitoredCloud])
async def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Home]:
    install(tmp_path / "site", monkeypatch, name="gated", module="gated_cloud", code=PLUGIN)
    home = Home(tmp_path, request.param)
    yield home
    await home.daemon.close()


@pytest.mark.parametrize("step", ["open", "account"])
async def test_callers_share_one_provider_and_a_cancelled_one_does_not_stop_it(home: Home, step: str) -> None:
    first, second = home.ask(), home.ask()
    if step == "account":
        home.cloud.gates["open"].set()
    await home.cloud.reached[step].wait()
    first.cancel()
    await asyncio.wait([first])
    home.open_gates()
    await second
    assert (home.cloud.opened, home.cloud.closed) == (["first"], [])


@pytest.mark.parametrize("step", ["open", "account"])
async def test_a_provider_that_is_being_opened_when_the_daemon_ends_is_closed_once(home: Home, step: str) -> None:
    caller = home.ask()
    if step == "account":
        home.cloud.gates["open"].set()
    await home.cloud.reached[step].wait()
    caller.cancel()
    async with asyncio.timeout(HANG):
        await home.daemon.close()
    assert (home.cloud.opened, home.cloud.closed) == (["first"], ["first"])


async def test_an_edit_while_the_provider_opens_takes_effect_at_the_next_call(home: Home) -> None:
    caller = home.ask()
    await home.cloud.reached["open"].wait()
    home.configure("edited")
    home.open_gates()
    await caller
    assert home.cloud.opened == ["first"]
    assert await home.key() == "edited"
    assert home.cloud.opened == ["first", "edited"]
    await home.daemon.close()
    assert sorted(home.cloud.closed) == ["edited", "first"]


class Record:
    """The account in the journal, which can be made unreadable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_readable = False
        monkeypatch.setattr(monitored_cloud, "read_fact", self._read)

    def _read(self, *_arguments: object) -> None:
        if not self.is_readable:
            raise JournalError("the journal cannot be read")


@pytest.mark.parametrize("home", [MonitoredCloud], indirect=True)
async def test_a_provider_stays_open_until_the_journal_can_be_read(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch)
    home.open_gates()
    for _ in range(3):
        with pytest.raises(JournalError):
            await home.daemon.current()
    record.is_readable = True
    assert await home.key() == "first"
    assert (home.cloud.opened, home.cloud.closed) == (["first"], [])


@pytest.mark.parametrize("home", [MonitoredCloud], indirect=True)
async def test_an_edited_provider_is_closed_at_once_while_the_journal_cannot_be_read(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again every two seconds: kept open they would pile up."""
    record = Record(monkeypatch)
    record.is_readable = True
    home.open_gates()
    await home.daemon.current()
    record.is_readable = False
    home.configure("edited")
    assert await home.key() == "first"
    assert (home.cloud.opened, home.cloud.closed) == (["first", "edited"], ["edited"])
    assert home.warnings == ["the journal cannot be read; the settings from before stay in force"]
