"""Hosts of OpenNebula are monitored although a new monitord, or one of a new leader, sends no START_MONITOR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.monitor.home_warning import LOOK_SECONDS
from tests.end_to_end.information_driver import configure, monitored
from tests.end_to_end.oned import Place
from tests.monitor.decoder import stop_monitor
from tests.waiting import until
from tests.xmlrpc.partner import Partner, Release

SOLO, FOLLOWER, LEADER = 0, 2, 3
MONITORED, OFFLINE = 2, 8


@pytest.fixture
def release() -> Release:
    return "7.4.0"


@pytest.fixture
def core(release: Release) -> Iterator[Partner]:
    with Partner(release) as core:
        core.im_mad = "simulated"
        core.hosts = {2: MONITORED, 1: OFFLINE}
        yield core


@pytest.fixture
def environ(core: Partner, tmp_path: Path) -> dict[str, str]:
    auth = tmp_path / "one_auth"
    auth.write_text("oneadmin:secret\n")
    auth.chmod(0o600)
    return {"ONE_XMLRPC": core.front_ends[0].url, "ONE_AUTH": str(auth)}


def test_hosts_in_opennebulas_host_pool_are_monitored_without_start_monitor(
    place: Place, core: Partner, environ: dict[str, str]
) -> None:
    configure(place)
    with monitored(place, environ=environ) as one:
        assert (one.next().word, one.lines[-1].host_id) == ("SYSTEM_HOST", 2)
        one.sync(2)
        assert {line.host_id for line in one.lines} == {2}
        one.send(stop_monitor(2))
        one.message("STOP_MONITOR", 2)
        one.start(1)
        one.sync(1)


def test_follower_begins_to_monitor_hosts_when_it_becomes_the_leader(
    place: Place, core: Partner, environ: dict[str, str]
) -> None:
    core.front_ends[0].state = FOLLOWER
    configure(place)
    with monitored(place, environ=environ) as one:
        until(lambda: core.count("one.zone.raftstatus"))
        one.driver.silence(0.5)
        core.front_ends[0].state = LEADER
        assert one.next().word == "SYSTEM_HOST"
        one.sync(2)


def test_home_is_looked_at_only_while_this_front_end_leads(
    place: Place, core: Partner, environ: dict[str, str]
) -> None:
    core.front_ends[0].state = FOLLOWER
    configure(place)
    with monitored(place, environ=environ) as one:
        until(lambda: core.count("one.zone.raftstatus"))
        one.driver.silence(0.5)
        assert not core.count("one.clusterpool.info")
        core.front_ends[0].state = LEADER
        until(lambda: core.count("one.clusterpool.info"))
        assert core.count("one.datastorepool.info") == core.count("one.clusterpool.info") == 1
        assert not core.count("one.vmpool.info")
        asked = core.count("one.zone.raftstatus")
        core.front_ends[0].state = FOLLOWER
        until(lambda: core.count("one.zone.raftstatus") > asked + 2)  # the second was asked and answered since then
        core.front_ends[0].state = LEADER
        until(lambda: core.count("one.clusterpool.info") == 2, seconds=LOOK_SECONDS - 10)  # what it knew was dropped


@pytest.mark.parametrize("release", ["5.10.5"])
def test_up_to_5_10_no_report_is_sent_without_monitor(place: Place, core: Partner, environ: dict[str, str]) -> None:
    configure(place)
    with monitored(place, environ=environ) as one:
        until(lambda: core.count("one.system.version"))
        one.driver.silence(0.5)
        assert not core.count("one.hostpool.info")
