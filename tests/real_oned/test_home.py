"""The warning that home takes no VM, under a real OpenNebula: on the cloud's host, and in OpenNebula's log.

`make test-oned ONE=/opt/one-7.4.0` runs this.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.monitor.home_warning import LOOK_SECONDS, OVER
from tests.cli.running import ran
from tests.real_oned.world import SIMULATED, add_ordinary_host, running
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(400)]

SENTENCE = "home takes no VM: host home is OFFLINE: onehost enable home"
_OFFLINE = 2
"""The new state in one.host.status; oned does not ask such a host, for which it has no information driver here."""


@pytest.fixture
def zone(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    failed = request.session.testsfailed
    zone = Zone(installed, tmp_path / "one", clouds={"simulated": "simulated"})
    zone.place.configure(SIMULATED)
    with running(zone):
        zone.follow_recipe()
        yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(zone.folder)


def warning(zone: Zone) -> str:
    host = zone.document("one.host.info", zone.number_of("host", "simulated"))
    return host.findtext("TEMPLATE/PROVIDER_WARNING") or ""


def logged(zone: Zone, sentence: str) -> int:
    """How often OpenNebula's logs have a sentence of the information driver."""
    logs = [zone.folder / "var" / name for name in ("oned.log", "monitor.log")]
    lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
    return sum(line.endswith(f": {sentence}") for line in lines)


def test_the_clouds_host_and_the_log_say_that_home_takes_no_vm_until_it_is_mended(zone: Zone) -> None:
    until(lambda: warning(zone) == "-", seconds=60)
    home = add_ordinary_host(zone)
    zone.call("one.host.status", home, _OFFLINE)
    environ = {name: zone.environ[name] for name in ("ONE_XMLRPC", "ONE_AUTH", "HOME")}
    _, printed, _ = ran(zone.folder, "check", "simulated", "--json", **environ)
    (point,) = [each for each in json.loads(printed) if each["what"] == "home"]
    assert f"{point['found']}: {point['remedy']}" == SENTENCE
    until(lambda: warning(zone) == SENTENCE, seconds=4 * LOOK_SECONDS, pause=1)
    until(lambda: logged(zone, SENTENCE) == 1)
    zone.call("one.host.delete", home)
    until(lambda: warning(zone) == "-", seconds=3 * LOOK_SECONDS, pause=1)
    until(lambda: logged(zone, OVER) == 1)
    assert logged(zone, SENTENCE) == 1
