"""HOSTNAME, PRIORITY and VERSION of a host: written where they are missing, never over an administrator's value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from msgspec.structs import replace
from structlog.testing import capture_logs

from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.monitor.core_hosts import template_of
from one_provider_mad.monitor.host_attributes import HostAttributes, HostTemplate, read_version, to_write
from one_provider_mad.monitor.settings import MonitorSettings
from tests.actions.fakes import pass_time
from tests.monitor.decoder import Line, plain
from tests.monitor.virtual_driver import VirtualDriver

WANTED = {"HOSTNAME": "cloud-3", "PRIORITY": "-1", "VERSION": "7.4.0"}

NAMES = st.sampled_from(sorted(WANTED))
TABLES = st.dictionaries(NAMES, st.sampled_from(["-1", "5", "7.4.0", "cloud-3"]))


class Core:
    """Pretends to be OpenNebula: has the templates of hosts, and merges reports into them as Host::update_info does."""

    def __init__(self) -> None:
        self.host = HostTemplate(name="cloud-3")
        self.is_silent = False
        self.asked = 0

    async def template(self, host_id: int) -> HostTemplate:
        assert host_id == 3
        self.asked += 1
        if self.is_silent:
            raise ProviderUnavailable("oned cannot be asked")
        return self.host

    def update(self, **attributes: str) -> None:
        """`onehost update --append`."""
        self.host = replace(self.host, attributes={**self.host.attributes, **attributes})

    def read(self, line: Line) -> None:
        self.merge({name: plain(line.values, name) for name in WANTED if name in line.values}, line)

    def merge(self, written: dict[str, str], line: Line | None = None) -> None:
        sent = line.values.get("PROVIDER_SENT", [{}])[0] if line is not None else written
        assert sent == written
        self.update(**written)
        if written:
            self.host = replace(self.host, sent=written)


# Deciding


@pytest.mark.parametrize(
    ("attributes", "sent", "written"),
    [
        pytest.param({}, {}, WANTED, id="a-new-host"),
        pytest.param(WANTED, WANTED, {}, id="all-is-there"),
        pytest.param({**WANTED, "PRIORITY": "5"}, WANTED, {"HOSTNAME": "cloud-3", "VERSION": "7.4.0"}, id="edited"),
        pytest.param(
            {**WANTED, "PRIORITY": "5"}, {"HOSTNAME": "cloud-3", "VERSION": "7.4.0"}, {}, id="edited-and-known-to-be"
        ),
        pytest.param({"PRIORITY": "5"}, {}, {"HOSTNAME": "cloud-3", "VERSION": "7.4.0"}, id="written-before"),
        pytest.param({**WANTED, "VERSION": "6.10.0"}, {**WANTED, "VERSION": "6.10.0"}, WANTED, id="upgraded"),
        pytest.param(
            {**WANTED, "VERSION": "7.4.0"}, {**WANTED, "VERSION": "6.10.0"}, WANTED, id="onehost-sync-was-first"
        ),
        pytest.param({"HOSTNAME": "cloud-3", "VERSION": "7.4.0"}, WANTED, WANTED, id="removed"),
        pytest.param({**WANTED, "PRIORITY": ""}, WANTED, {"HOSTNAME": "cloud-3", "VERSION": "7.4.0"}, id="emptied"),
    ],
)
def test_an_attribute_is_written_if_it_is_missing_or_the_drivers_own(
    attributes: dict[str, str], sent: dict[str, str], written: dict[str, str]
) -> None:
    assert to_write(WANTED, HostTemplate(attributes=attributes, sent=sent)) == written


@given(attributes=TABLES, sent=TABLES, wanted=TABLES)
def test_no_value_but_the_drivers_own_is_replaced_and_a_second_look_writes_nothing(
    attributes: dict[str, str], sent: dict[str, str], wanted: dict[str, str]
) -> None:
    core = Core()
    core.host = HostTemplate(attributes=attributes, sent=sent)
    written = to_write(wanted, core.host)
    assert all(attributes.get(name, sent.get(name)) in (sent.get(name), value) for name, value in written.items())
    core.merge(written)
    assert to_write(wanted, core.host) == {}
    assert {name for name in wanted if core.host.attributes[name] != wanted[name]} <= attributes.keys()


# Reading


def test_a_hosts_template_is_read_with_what_the_driver_has_written() -> None:
    record = "<PROVIDER_SENT><PRIORITY>-1</PRIORITY></PROVIDER_SENT>"
    host = f"<HOST><NAME>ec2</NAME><TEMPLATE><PRIORITY>-1</PRIORITY>{record}<EMPTY/></TEMPLATE></HOST>"
    assert template_of(etree.fromstring(host)) == HostTemplate(
        name="ec2", attributes={"PRIORITY": "-1", "EMPTY": ""}, sent={"PRIORITY": "-1"}
    )


def test_the_version_is_read_as_onehost_sync_reads_it(tmp_path: Path) -> None:
    assert read_version(tmp_path) == ""
    (tmp_path / "VERSION").write_text("7.4.0\n")
    assert read_version(tmp_path) == "7.4.0"


@pytest.mark.parametrize(
    ("priority", "text"),
    [(-1.0, "-1"), (0.0, "0"), (-1.0116, "-1.0116"), (1e6, "1000000"), ("price", "-1")],
)
def test_priority_is_a_plain_number(priority: float, text: str) -> None:
    assert MonitorSettings(priority=priority).priority_text(None) == text


# Reporting

looptime = pytest.mark.looptime


@pytest.fixture
async def core() -> Core:
    return Core()


@pytest.fixture
async def driver(tmp_path: Path, core: Core) -> AsyncIterator[VirtualDriver]:
    remotes = tmp_path / "remotes"
    remotes.mkdir()
    (remotes / "VERSION").write_text("7.4.0\n")
    attributes = HostAttributes(remotes)
    attributes.templates = core.template
    one = VirtualDriver(tmp_path, host_attributes=attributes)
    yield one
    await one.handler.stop()


def merged(driver: VirtualDriver, core: Core, word: str = "SYSTEM_HOST") -> int:
    """Merges what was reported into OpenNebula's template; returns the number of reports so far."""
    lines = driver.lines(word)
    for line in lines:
        core.read(line)
    return len(lines)


@looptime
async def test_a_new_host_gets_them_with_its_first_report(driver: VirtualDriver, core: Core) -> None:
    driver.start()
    await pass_time(1)
    first = driver.lines("SYSTEM_HOST")[0]
    assert {name: plain(first.values, name) for name in WANTED} == WANTED
    assert first.values["PROVIDER_SENT"] == [WANTED]
    core.read(first)
    await pass_time(1200)
    assert not [line for line in driver.lines("SYSTEM_HOST")[2:] if line.values.keys() & WANTED.keys()]


@looptime
async def test_a_priority_that_is_edited_in_opennebula_is_never_reported_again(
    driver: VirtualDriver, core: Core
) -> None:
    driver.start()
    await pass_time(1)
    count = merged(driver, core)
    core.update(PRIORITY="5")
    driver.source.settings = replace(driver.source.settings, monitor=MonitorSettings(priority=-2))
    await pass_time(1200)
    later = driver.lines("SYSTEM_HOST")[count:]
    assert later
    assert not [line for line in later if "PRIORITY" in line.values]


@looptime
async def test_a_priority_that_is_edited_in_the_configuration_is_reported_within_seconds(
    driver: VirtualDriver, core: Core
) -> None:
    driver.start()
    await pass_time(60)
    count = merged(driver, core)
    driver.source.settings = replace(driver.source.settings, monitor=MonitorSettings(priority=-2.5))
    await pass_time(11)
    (line,) = driver.lines("SYSTEM_HOST")[count:]
    assert plain(line.values, "PRIORITY") == "-2.5"


@looptime
async def test_while_opennebula_cannot_be_asked_nothing_is_written_and_then_all(
    driver: VirtualDriver, core: Core
) -> None:
    core.is_silent = True
    driver.start()
    await pass_time(60)
    assert not [line for line in driver.lines("SYSTEM_HOST") if line.values.keys() & WANTED.keys()]
    core.is_silent = False
    await pass_time(30)
    assert plain(driver.lines("SYSTEM_HOST")[-1].values, "PRIORITY") == "-1"


@looptime
async def test_while_opennebula_cannot_be_asked_a_host_is_reported_as_often_as_ever(
    driver: VirtualDriver, core: Core
) -> None:
    core.is_silent = True
    with capture_logs() as logs:
        driver.start()
        await pass_time(300)
    assert core.asked > 10
    assert len(driver.lines("SYSTEM_HOST")) <= 2
    assert [each["reason"] for each in logs if each["event"] == "host not known"] == ["oned cannot be asked"]


@looptime
async def test_up_to_5_10_they_come_with_the_answer_to_monitor(driver: VirtualDriver, core: Core) -> None:
    driver.ask()
    await pass_time(1)
    (first,) = driver.lines("MONITOR")
    assert {name: plain(first.values, name) for name in WANTED} == WANTED
    core.read(first)
    core.update(PRIORITY="5")
    driver.ask()
    await pass_time(10)
    assert "PRIORITY" not in driver.lines("MONITOR")[1].values


@looptime
async def test_without_credentials_every_report_has_them(tmp_path: Path) -> None:
    attributes = HostAttributes()
    attributes.may_ask = False
    driver = VirtualDriver(tmp_path, host_attributes=attributes)
    driver.start()
    await pass_time(601)
    found = [(plain(line.values, "HOSTNAME"), plain(line.values, "PRIORITY")) for line in driver.lines("SYSTEM_HOST")]
    assert found == [("cloud-3", "-1")] * 3
    await driver.handler.stop()


@looptime
async def test_a_question_that_hangs_delays_a_report_by_two_seconds(driver: VirtualDriver) -> None:
    async def hang(_host_id: int) -> HostTemplate:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    attributes = HostAttributes()
    attributes.templates = hang
    one = VirtualDriver(driver.source.watched.journal.parent, host_attributes=attributes)
    one.start()
    await pass_time(10)
    assert [round(at) for at in one.times("SYSTEM_HOST")][:1] == [2]
    await one.handler.stop()
