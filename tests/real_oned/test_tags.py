"""The tags of `[tags]`, and the journal's owners, follow `onevm chown` and `onevm rename` in a real OpenNebula.

`make test-oned ONE=/opt/one-7.4.0` runs this too.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from one_provider_mad.journal.reader import owners
from tests.real_oned.world import SIMULATED, World, running
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

SETTINGS = """
[orphans]
interval = 1
[tags]
who = "{user}/{group}"
vm = "{name} {id}"
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("oned")
    failed = request.session.testsfailed
    zone = Zone(installed, root / "one", clouds={"simulated": "simulated"})
    zone.place.configure(SIMULATED + SETTINGS)
    with running(zone):
        yield World(zone)
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


def tags_of(world: World, deploy_id: str) -> tuple[str, str]:
    """The tags `who` and `vm` of an instance."""
    with closing(sqlite3.connect(world.zone.place.var / "simulated.db")) as db:
        (text,) = db.execute("SELECT tags FROM instance WHERE id = ?", (deploy_id,)).fetchone()
    tags = json.loads(text)
    return tags["who"], tags["vm"]


def test_tags_and_owners_follow_a_vm_that_changes_hands_and_its_name(world: World) -> None:
    zone = world.zone
    vm = world.run("simulated")
    (deploy_id,) = world.instances("simulated")
    name = vm.shown("NAME")
    assert tags_of(world, deploy_id) == ("oneadmin/oneadmin", f"{name} {vm.number}")
    user = zone.call("one.user.allocate", "ada", "secret", "core")
    group = zone.call("one.group.allocate", "students")
    zone.call("one.vm.chown", vm.number, user, group)
    until(lambda: tags_of(world, deploy_id)[0] == "ada/students", seconds=60)
    zone.call("one.vm.rename", vm.number, "mail server")
    until(lambda: tags_of(world, deploy_id)[1] == f"mail server {vm.number}", seconds=60)
    journal = zone.place.var / "one_provider_mad_simulated.journal"
    (owner,) = owners(journal).values()
    assert (owner.user_id, owner.user, owner.group_id, owner.group) == (user, "ada", group, "students")
