"""HOSTNAME, PRIORITY and VERSION of a cloud host in a real OpenNebula, and `onehost sync` beside them.

`make test-oned ONE=/opt/one-7.4.0` runs this too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_oned.world import add_ordinary_host, running
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

SETTINGS = """provider = "simulated"
owner = "test-oned"
[monitor]
system_period = 1
"""

NOT_ROOT = "module Process\n  def self.uid = 1000\n  def self.gid = 1000\nend\n"
"""`onehost sync` refuses to run as root, and tests may be run so; it looks only at these two numbers."""


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("oned")
    failed = request.session.testsfailed
    zone = Zone(installed, root / "one", clouds={"sim": "simulated"})
    zone.place.configure(SETTINGS, name="sim")
    with running(zone):
        add_ordinary_host(zone)
        zone.follow_recipe()
        yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


class Host:
    """The cloud host."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.number = zone.number_of("host", "sim")

    def shown(self, name: str) -> str | None:
        return self.zone.document("one.host.info", self.number).findtext(f"TEMPLATE/{name}")

    def update(self, text: str) -> None:
        self.zone.call("one.host.update", self.number, text, 1)

    def until_reported(self, mark: str) -> None:
        """Wait until two more reports of the host have been merged."""
        for round_ in ("1", "2"):
            self.update(f'PROVIDER_WARNING = "{mark}{round_}"')
            until(lambda: self.shown("PROVIDER_WARNING") == "-", seconds=60)


@pytest.fixture(scope="module")
def host(zone: Zone) -> Host:
    host = Host(zone)
    until(lambda: host.shown("PROVIDER_SENT/VERSION"), seconds=60)
    return host


def test_a_cloud_host_shows_its_name_a_low_priority_and_the_version_of_the_remotes(zone: Zone, host: Host) -> None:
    version = (zone.folder / "var" / "remotes" / "VERSION").read_text().strip()
    assert [host.shown(name) for name in ("HOSTNAME", "PRIORITY", "VERSION")] == ["sim", "-1", version]


def test_onehost_sync_leaves_a_cloud_host_alone(zone: Zone, host: Host) -> None:
    patch = zone.folder / "not_root.rb"
    patch.write_text(NOT_ROOT)
    before, zone.environ["RUBYOPT"] = zone.environ["RUBYOPT"], f"-W0 -r{patch}"
    try:
        assert "No hosts are going to be updated" in zone.run("onehost sync sim")
    finally:
        zone.environ["RUBYOPT"] = before


def test_a_priority_that_an_administrator_writes_stays_through_restarts_of_driver_and_core(
    zone: Zone, host: Host
) -> None:
    host.update('PRIORITY = "7"')
    host.until_reported("edited")
    zone.place.configure(f"{SETTINGS}priority = -3\n", name="sim")
    host.until_reported("configured")
    zone.kill_driver("one_im_provider", "sim")
    host.until_reported("driver")
    zone.stop()
    zone.start()
    host.until_reported("core")
    assert [host.shown(name) for name in ("HOSTNAME", "PRIORITY")] == ["sim", "7"]


def test_a_priority_that_is_removed_comes_back_as_configured(zone: Zone, host: Host) -> None:
    zone.place.configure(f"{SETTINGS}priority = -3\n", name="sim")
    template = zone.document("one.host.info", host.number).find("TEMPLATE")
    assert template is not None
    kept = [f'{each.tag}="{each.text or ""}"' for each in template if not len(each) and each.tag != "PRIORITY"]
    zone.call("one.host.update", host.number, "\n".join(kept), 0)
    until(lambda: host.shown("PRIORITY") == "-3", seconds=60)
