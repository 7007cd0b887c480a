from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad import engines as engines_module
from one_provider_mad.actions.engine import Engine
from one_provider_mad.budget.admission import UNLIMITED
from one_provider_mad.calls.waiting import Patience, SettingsReplaced, Waiting
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.engines import Engines
from one_provider_mad.errors import (
    AuthenticationRefused,
    JournalError,
    MadError,
    ProviderUnavailable,
    WrongAccount,
)
from one_provider_mad.journal.upkeep import forget_fact
from one_provider_mad.live_provider import ACCOUNT
from one_provider_mad.options import Options
from one_provider_mad.settings import Places
from tests.providers.plugins import install
from tests.waiting import HANG

GOOD = 'provider = "simulated"\nowner = "harbour"\n'

PLUGIN = """
import asyncio
import msgspec
from one_provider_mad.errors import AuthenticationRefused, ProviderUnavailable

class Table(msgspec.Struct, forbid_unknown_fields=True):
    key: str = "good"

account = "one/north"
mishap = None
opened, closed = [], []

class Plugin:
    '''A fake cloud with the calls that the driver makes before the first action.'''
    name = "plugin"
    visibility_grace = 0.0
    watch_interval = 1.0
    is_create_repeatable = True

    def __init__(self, context, settings):
        self.settings = settings

    async def open(self):
        opened.append(self.settings.key)
        if self.settings.key == "bad":
            raise AuthenticationRefused("the key is not accepted")
        if self.settings.key == "disk":
            raise OSError("no space left")

    async def close(self):
        closed.append(self.settings.key)

    async def account(self):
        if mishap == "hang":
            await asyncio.Event().wait()
        if mishap:
            raise mishap
        return account

class Factory:
    settings_type = Table
    def __call__(self, context, settings):
        return Plugin(context, settings)

factory = Factory()
"""

VERBATIM = """
import msgspec

class Table(msgspec.Struct):
    pass

closed = []

class Plugin:
    '''A fake verbatim driver.'''
    name = "verbatim"
    is_busy = False
    async def open(self): ...
    async def close(self):
        closed.append(self)

    async def perform(self, request, log):
        return "-"

class Factory:
    settings_type = Table
    def __call__(self, context, settings):
        return Plugin()

factory = Factory()
"""


class Home:
    """Engines of NAME `x` in an OpenNebula of their own, and their warnings."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.places = Places(conf=root / "conf", var=root / "var", log=root / "var")
        self.places.conf.mkdir()
        self.places.var.mkdir()
        self.warnings: list[str] = []
        self.made: list[Engines] = []
        install(root / "site", patch, name="plugin", module="plugin_cloud", code=PLUGIN)
        install(root / "verbatim", patch, name="verbatim", module="verbatim_cloud", code=VERBATIM)

    def configure(self, text: str, name: str = "x") -> Path:
        path = self.places.conf / f"{name}.toml"
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.rename(path)
        return path

    def engines(self, name: str = "x") -> Engines:
        self.made.append(Engines(Options(name=name, retries=2), self.places, warn=self.warnings.append))
        return self.made[-1]

    @property
    def plugin(self) -> Any:
        import plugin_cloud  # type: ignore[import-not-found]

        return plugin_cloud


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Home]:
    home = Home(tmp_path, monkeypatch)
    yield home
    for engines in home.made:
        await engines.close()


async def refusal(engines: Engines) -> MadError:
    with pytest.raises(MadError) as caught:
        await engines.current()
    return caught.value


def key_of(engine: Engine) -> str:
    assert engine.cloud is not None
    key: str = engine.cloud.provider.settings.key  # type: ignore[attr-defined]
    return key


# The first engine


async def test_an_engine_has_an_open_cloud_and_a_journal(home: Home) -> None:
    home.configure(f"{GOOD}call_timeout = 7\n[simulated]\nboot_time = 0")
    engine = await home.engines().current()
    assert engine.cloud is not None
    assert engine.verbatim is None
    assert (engine.cloud.owner, engine.cloud.provider.name) == ("harbour", "simulated")
    assert await engine.cloud.for_action(Waiting()).find(VmId(7)) == []
    assert engine.journal.path == home.places.var / "one_provider_mad_x.journal"
    assert await engine.journal.fact(ACCOUNT) == "simulated/embedded"


async def test_the_engine_stays_the_same_while_the_file_is_unchanged(home: Home) -> None:
    home.configure(GOOD)
    engines = home.engines()
    first = await engines.current()
    assert await engines.current() is first


async def test_simultaneous_callers_get_one_engine(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    found = await asyncio.gather(*(engines.current() for _ in range(20)))
    assert len({id(engine) for engine in found}) == 1
    assert home.plugin.opened == ["good"]


async def test_a_driver_without_limits_opens_no_provider_for_its_budget(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    assert await engines.budget() is UNLIMITED
    assert home.plugin.opened == []
    home.configure('provider = "plugin"\nowner = "harbour"\n[budget]\nmax_instances = 3')
    assert await engines.budget() is not UNLIMITED
    assert home.plugin.opened == ["good"]


async def test_the_retries_argument_reaches_the_cloud(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engine = await home.engines().current()
    assert engine.cloud is not None
    sent: list[int] = []

    async def send() -> None:
        sent.append(1)
        raise ProviderUnavailable("no answer")

    with pytest.raises(ProviderUnavailable):
        await engine.cloud.for_action(Waiting()).call("find", send)
    assert len(sent) == 3, "-r 2"


async def test_an_invalid_configuration_raises_until_it_is_corrected(home: Home) -> None:
    engines = home.engines()
    for _ in range(2):
        assert str(await refusal(engines)).startswith("x.toml does not exist: create ")
    home.configure(f"{GOOD}[simulated]\nlatency = 'slow'")
    assert str(await refusal(engines)).startswith("x.toml: simulated.latency: expected `float`, got `str`")
    home.configure(GOOD)
    assert (await engines.current()).cloud is not None
    assert not home.warnings


async def test_a_journal_that_cannot_be_opened_raises_until_it_can(home: Home) -> None:
    home.configure(GOOD)
    path = home.places.default_journal("x")
    path.mkdir()
    engines = home.engines()
    await engines.open_journal()
    assert engines.journal is None
    assert isinstance(await refusal(engines), JournalError)
    path.rmdir()
    assert (await engines.current()).journal is engines.journal


async def test_polls_open_the_cloud_without_a_journal_and_actions_use_it_later(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    path = home.places.default_journal("x")
    path.mkdir()
    engines = home.engines()
    await engines.open_journal()
    source = await engines.poll_source()
    assert source.cloud is not None
    assert not source.is_certain, "the credentials may belong to another account"
    assert await engines.poll_source() is source
    [warning] = home.warnings
    assert warning.startswith("the journal cannot be used: ")
    assert warning.endswith("; POLLs are answered meanwhile, all other actions fail")
    assert isinstance(await refusal(engines), JournalError)
    path.rmdir()
    engine = await engines.current()
    assert engine.cloud is source.cloud
    assert home.plugin.opened == ["good"]
    assert (await engines.poll_source()).is_certain


async def test_polls_wait_for_a_locked_journal_only_for_a_limited_time(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "_PATIENCE_FOR_JOURNAL", 0.1)
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    await engines.open_journal()
    await engines.close()
    with closing(sqlite3.connect(home.places.default_journal("x"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        engines = home.engines()
        opening = asyncio.create_task(engines.open_journal())
        assert not (await engines.poll_source()).is_certain
        assert not opening.done()
        other.execute("ROLLBACK")
        await opening
    assert (await engines.poll_source()).is_certain


async def test_a_cloud_opened_for_polls_is_closed_after_an_edit_and_at_the_end(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    home.places.default_journal("x").mkdir()
    engines = home.engines()
    first = await engines.poll_source()
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "better"')
    second = await engines.poll_source()
    assert second.cloud is not first.cloud
    await engines.close()
    assert sorted(home.plugin.closed) == ["better", "good"]


# Before the first request


async def test_the_journal_is_opened_before_the_first_request(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    await engines.open_journal()
    assert engines.journal is not None
    assert (engines.owner, engines.is_verbatim) == ("harbour", False)
    assert home.plugin.opened == [], "the journal needs no cloud"
    journal = engines.journal
    assert (await engines.current()).journal is journal


async def test_the_journal_is_not_opened_without_settings(home: Home) -> None:
    engines = home.engines()
    await engines.open_journal()
    assert engines.journal is None
    assert not home.warnings, "every action fails with the error"


async def test_a_verbatim_driver_is_recognised_before_the_first_request(home: Home) -> None:
    home.configure('provider = "verbatim"\nowner = "harbour"')
    engines = home.engines()
    await engines.open_journal()
    assert engines.is_verbatim
    engine = await engines.current()
    assert engine.cloud is None
    assert engine.verbatim is not None
    await engines.close()
    import verbatim_cloud  # type: ignore[import-not-found]

    assert verbatim_cloud.closed == [engine.verbatim]


# Edited settings


async def test_an_edit_makes_a_new_engine_with_the_same_journal(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    first = await engines.current()
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "better"')
    second = await engines.current()
    assert (key_of(first), key_of(second)) == ("good", "better")
    assert second.journal is first.journal
    assert home.plugin.closed == [], "an action may still use the first one"
    await engines.close()
    assert sorted(home.plugin.closed) == ["better", "good"]


async def test_the_old_engines_cloud_is_closed_after_its_retirement_time(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "_RETIRE_SECONDS", 0.01)
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    await engines.current()
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "better"')
    await engines.current()
    async with asyncio.timeout(HANG):
        while not home.plugin.closed:
            await asyncio.to_thread(os.sched_yield)
    assert home.plugin.closed == ["good"]
    await engines.close()
    assert home.plugin.closed == ["good", "better"]


BROKEN_EDITS = [
    pytest.param("provider = ", "x.toml is not TOML", id="no-toml"),
    pytest.param('provider = "plugin"\nowner = "harbour"\n[plugin]\nkee = 1', "x.toml: plugin.kee", id="key"),
    pytest.param('provider = "simulated"\nowner = "harbour"', "x.toml: provider changes only", id="another-cloud"),
    pytest.param(
        'provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "bad"', "the key is not accepted", id="refused-key"
    ),
    pytest.param(
        'provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "disk"',
        "x: the provider cannot be opened: no space left",
        id="full-disk",
    ),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN_EDITS)
async def test_a_broken_edit_keeps_the_old_engine_and_warns_once(home: Home, text: str, reason: str) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    first = await engines.current()
    home.configure(text)
    for _ in range(3):
        assert await engines.current() is first
    [warning] = home.warnings
    assert warning.startswith(reason)
    assert warning.endswith("; the settings from before stay in force")
    assert (engines.is_verbatim, engines.owner) == (False, "harbour")
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "better"')
    assert key_of(await engines.current()) == "better"


async def test_an_edit_made_during_an_outage_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not be forgotten when the outage ends."""
    monkeypatch.setattr("one_provider_mad.settings.TRY_AGAIN_SECONDS", 0.05)
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    first = await engines.current()
    home.plugin.mishap = ProviderUnavailable("the cloud did not answer")
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "better"')
    assert await engines.current() is first
    home.plugin.mishap = None
    async with asyncio.timeout(HANG):
        while key_of(await engines.current()) != "better":
            await asyncio.to_thread(os.sched_yield)


async def test_actions_get_the_old_engine_while_an_edit_takes_long_to_try(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "_PATIENCE_FOR_NEW", 0.01)
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    first = await engines.current()
    home.plugin.mishap = "hang"
    home.configure('provider = "plugin"\nowner = "harbour"\ncall_timeout = 0.3\n[plugin]\nkey = "better"')
    for _ in range(3):
        assert await engines.current() is first
    async with asyncio.timeout(HANG):
        while home.plugin.opened == ["good"]:
            await asyncio.to_thread(os.sched_yield)
    assert home.plugin.opened == ["good", "better"], "it is tried once for all waiting callers"


@pytest.mark.parametrize("mishap", ["hang", ProviderUnavailable("the cloud did not answer")])
async def test_an_action_that_waits_for_the_cloud_restarts_only_when_edited_settings_work(
    home: Home, mishap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("one_provider_mad.settings.TRY_AGAIN_SECONDS", 0.01)
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    shared = (await engines.current()).cloud
    assert shared is not None
    cloud = shared.for_action(Waiting(patience=Patience.OUTAGE))
    home.plugin.mishap = mishap
    home.configure('provider = "plugin"\nowner = "harbour"\ncall_timeout = 0.05\n[plugin]\nkey = "better"')
    async with asyncio.timeout(HANG):
        while home.plugin.opened.count("better") < 3:
            cloud.check_settings()
            await asyncio.to_thread(os.sched_yield)
    home.plugin.mishap = None
    async with asyncio.timeout(HANG):
        while key_of(await engines.current()) != "better":
            await asyncio.to_thread(os.sched_yield)
    with pytest.raises(SettingsReplaced):
        cloud.check_settings()


async def test_the_account_check_after_an_edit_is_not_delayed_by_a_simulated_latency(home: Home) -> None:
    """The account is checked after each edit, and the simulated latency must not apply to that check."""
    home.configure('provider = "simulated"')
    engines = home.engines()
    await engines.current()
    home.configure('provider = "simulated"\n[simulated]\nlatency = 30')
    assert (await engines.current()).configuration.table == {"latency": 30}
    await engines.close()


async def test_a_cancelled_caller_does_not_cancel_the_opening_for_others(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    hasty = asyncio.create_task(engines.current())
    patient = asyncio.create_task(engines.current())
    await asyncio.sleep(0)
    hasty.cancel()
    assert (await patient).cloud is not None
    assert hasty.cancelled()
    assert home.plugin.opened == ["good"]


async def test_a_cloud_that_fails_to_open_is_closed(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "bad"')
    engines = home.engines()
    assert isinstance(await refusal(engines), AuthenticationRefused)
    assert home.plugin.closed == ["bad"]


# The account of the credentials


async def test_credentials_of_another_account_are_refused_until_they_are_accepted(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    first = home.engines()
    await first.current()
    await first.close()
    home.plugin.account = "two/south"
    engines = home.engines()
    error = await refusal(engines)
    assert isinstance(error, WrongAccount)
    assert str(error) == (
        "credentials now belong to account two/south, expected one/north: restore them, or run"
        " one-provider journal accept x if that account is meant"
    )
    assert forget_fact(home.places.default_journal("x"), ACCOUNT) == "one/north"
    engine = await engines.current()
    assert await engine.journal.fact(ACCOUNT) == "two/south"


async def test_an_edit_to_credentials_of_another_account_keeps_the_old_engine(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"')
    engines = home.engines()
    first = await engines.current()
    home.plugin.account = "two/south"
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "theirs"')
    assert await engines.current() is first
    assert home.warnings[0].startswith("credentials now belong to account two/south")


async def test_a_cloud_that_does_not_return_its_account_is_unavailable(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"\ncall_timeout = 0.05')
    engines = home.engines()
    import plugin_cloud

    plugin_cloud.mishap = "hang"
    error = await refusal(engines)
    assert isinstance(error, ProviderUnavailable)
    assert str(error) == "plugin did not say which account the credentials belong to"
    plugin_cloud.mishap = None
    assert (await engines.current()).cloud is not None


# Across restarts


async def served(home: Home, name: str) -> None:
    engines = home.engines(name)
    await engines.current()
    await engines.close()


@pytest.mark.parametrize("journal", ["", 'journal = "{}/elsewhere"\n'], ids=["default-journal", "its-own-journal"])
@pytest.mark.parametrize("name", ["simulated", "x"])
async def test_a_vanished_configuration_file_is_an_error_after_a_restart(home: Home, name: str, journal: str) -> None:
    path = home.configure(GOOD + journal.format(home.places.var), name)
    await served(home, name)
    path.unlink()
    home.places.scripts(name).mkdir(parents=True)
    assert str(await refusal(home.engines(name))).startswith(f"{name}.toml is missing, and {name} was configured by it")


async def test_a_name_can_be_served_without_a_file_if_the_file_never_worked(home: Home) -> None:
    home.configure('provider = "plugin"\nowner = "harbour"\n[plugin]\nkey = "bad"', "simulated")
    engines = home.engines("simulated")
    await refusal(engines)
    (home.places.conf / "simulated.toml").unlink()
    assert (await engines.current()).cloud is not None


async def test_the_journal_of_settings_that_never_worked_is_replaced(home: Home) -> None:
    home.configure(f'provider = "plugin"\nowner = "quay"\njournal = "{home.places.var}/a"\n[plugin]\nkey = "bad"')
    engines = home.engines()
    await refusal(engines)
    home.configure(f'provider = "plugin"\nowner = "harbour"\njournal = "{home.places.var}/b"')
    engine = await engines.current()
    assert engine.journal.path == home.places.var / "b"
    assert engines.journal is engine.journal
    assert engines.owner == "harbour"
    await engine.journal.park(DeployId("i-1"), VmId(7))


# The end


async def test_close_may_be_called_twice_and_before_the_first_engine(home: Home) -> None:
    engines = home.engines()
    await engines.close()
    home.configure(GOOD)
    await engines.current()
    await engines.close()
    await engines.close()
