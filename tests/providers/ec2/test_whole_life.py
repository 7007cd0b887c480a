"""A VM's whole life through the real program, over real pipes, against a cloud like EC2 in a process of its own."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from one_provider_mad.domain import Template
from one_provider_mad.providers.registry import BUILT_IN
from tests.conftest import assert_spoke_properly
from tests.end_to_end import wire
from tests.end_to_end.oned import ROOT, Driver, Place
from tests.providers import plugins
from tests.providers.ec2.face import KEY, REGION, SECRET
from tests.waiting import until

NAME = "ec2"
SECTION = {"TYPE": NAME, "AMI": "ami-0abc", "INSTANCETYPE": "t3.small"}


def template(**attributes: str) -> Template:
    return Template(
        values={
            "CPU": ("1",),
            "MEMORY": ("1024",),
            "CONTEXT": ({"START_SCRIPT": "echo hi"},),
            "PUBLIC_CLOUD": ({**SECTION, **attributes},),
        }
    )


@dataclass
class Cloud:
    """The other process."""

    url: str

    def order(self, **what: Any) -> None:
        body = json.dumps(what).encode()
        urlopen(Request(f"{self.url}_order", data=body), timeout=10).close()

    @property
    def seen(self) -> dict[str, Any]:
        with urlopen(f"{self.url}_calls", timeout=10) as answer:
            seen: dict[str, Any] = json.load(answer)
            return seen

    def count(self, action: str) -> int:
        return int(self.seen["calls"].count(action))


@pytest.fixture(scope="module")
def process() -> Iterator[Cloud]:
    command = [sys.executable, "-m", "tests.providers.ec2.face"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as served:
        assert served.stdout is not None
        assert served.stdin is not None
        yield Cloud(served.stdout.readline().strip())
        served.stdin.close()
        served.wait(10)


@pytest.fixture
def cloud(process: Cloud) -> Cloud:
    process.order(reset=True)
    return process


CONFIGURATION = """
provider = "ec2"
owner = "one-test"
[ec2]
region = "{region}"
endpoint_url = "{url}"
access_key_id = "{key}"
secret_access_key = "{secret}"
watch_interval = 0.02
visibility_grace = 5.0
"""


LAUNCHER = """
import sys
sys.path[:0] = {paths}
sys.argv.pop(0)
from one_provider_mad.programs import one_vmm_provider
one_vmm_provider()
"""
"""Starts the program with one provider more, which an entry point names."""


@pytest.fixture
def start(cloud: Cloud, place: Place, tmp_path: Path) -> Iterator[Any]:
    """Starts drivers on the cloud, as oned does."""
    place.configure(CONFIGURATION.format(url=cloud.url, key=KEY, secret=SECRET, region=REGION), name=NAME)
    site = tmp_path / "site"
    with pytest.MonkeyPatch.context() as patch:
        code = "from one_provider_mad.providers.ec2.provider import factory\n"
        plugins.install(site, patch, name=NAME, module="ec2_for_tests", code=code)
    via = () if NAME in BUILT_IN else (sys.executable, "-I", "-c", LAUNCHER.format(paths=[str(ROOT), str(site)]))
    started: list[Driver] = []

    def one(arguments: str = f"-t 15 -r 0 {NAME}") -> Driver:
        started.append(Driver(place, arguments, environ={"AWS_EC2_METADATA_DISABLED": "true"}, via=via))
        return started[-1]

    yield one
    for driver in started:
        driver.leave()
        assert_spoke_properly(driver)
    assert SECRET not in place.log(NAME)


def test_a_vm_lives_its_whole_life(cloud: Cloud, start: Any) -> None:
    driver = start()
    deploy_id = driver.created(wire.deploy(7, template=template(TAGS="role=web")))
    assert deploy_id.startswith("i-")
    tags = cloud.seen["alive"][deploy_id]
    assert tags["ONE_PROVIDER_OWNER"] == "one-test"
    assert (tags["ONE_PROVIDER_VM_ID"], tags["role"]) == ("7", "web")

    assert driver.ask(wire.reboot(7, deploy_id)) == "SUCCESS -"
    assert driver.ask(wire.power_off(7, deploy_id)) == "SUCCESS -"
    assert cloud.seen["states"][deploy_id] == "stopped"
    assert driver.ask(wire.resume(7, deploy_id, template=template(), host_id=4)) == f"SUCCESS {deploy_id}"
    assert cloud.seen["states"][deploy_id] == "running"
    assert cloud.seen["alive"][deploy_id]["ONE_PROVIDER_HOST_ID"] == "4"

    disk = {"DISK_ID": "2", "SIZE": "2048", "TARGET": "vdf"}
    assert driver.ask(wire.line("ATTACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"
    assert driver.ask(wire.line("DETACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"
    assert driver.ask(wire.line("SAVE", 7, deploy_id=deploy_id)) == "SUCCESS -"
    assert driver.ask(wire.line("RESTORE", 7, deploy_id=deploy_id, seq=1)) == "SUCCESS -"
    assert driver.ask(wire.poll(7, deploy_id)).startswith("SUCCESS ")
    assert 'AWS_PUBLIC_IP_ADDRESS="203.0.113.9"' in driver.lines[-1]
    assert driver.ask(wire.line("SNAPSHOTCREATE", 7, deploy_id=deploy_id, operand={"SNAPSHOT_ID": "0"})) == (
        "FAILURE provider ec2 does not support snapshots"
    )

    assert driver.ask(wire.terminate(7, deploy_id)) == "SUCCESS -"
    assert cloud.seen["states"] == {deploy_id: "terminated"}
    assert cloud.count("RunInstances") == 1


def test_a_driver_that_is_killed_in_a_create_buys_one_instance(cloud: Cloud, start: Any) -> None:
    """The first answer is lost; whoever comes next repeats the journaled call with its token, and finds that one."""
    cloud.order(lag=1.0, fault={"action": "RunInstances", "is_done": True, "drop": True})
    first = start()
    first.send(wire.deploy(8, template=template()))
    until(lambda: cloud.count("RunInstances"))
    first.kill()
    driver = start()
    reply = driver.ask(wire.deploy(8, template=template(INSTANCETYPE="t3.large")))
    assert reply == f"SUCCESS {next(iter(cloud.seen['alive']))}"
    assert len(cloud.seen["alive"]) == 1


def is_journaled(place: Place) -> bool:
    """True when the journal has a request that was not answered: what is lost before that, a person asks for again."""
    path = place.var / f"one_provider_mad_{NAME}.journal"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return bool(db.execute("SELECT * FROM requests").fetchall())
    except sqlite3.Error:
        return False  # the driver did not come so far


def killed_and_started_again(cloud: Cloud, place: Place, start: Any, vm_id: int, delay: float) -> None:
    """Kill a driver so long after its DEPLOY was sent, and see the next one answer it with the one instance."""
    first = start()
    first.send(wire.deploy(vm_id, template=template()))
    began = time.monotonic()
    until(lambda: time.monotonic() - began >= delay, pause=0.005)
    first.kill()
    first.stop_reading()
    if b"DEPLOY SUCCESS" in first.raw:
        assert len(cloud.seen["alive"]) == 1
        return
    was_journaled = is_journaled(place)
    driver = start()
    if not was_journaled:
        driver.send(wire.deploy(vm_id, template=template()))
    line = driver.wait_for(lambda text: text.startswith(f"DEPLOY SUCCESS {vm_id} "))
    assert list(cloud.seen["alive"]) == [line.split(" ")[3]]


@pytest.mark.parametrize("delay", [0.2, 0.4])
def test_a_restarted_driver_completes_the_deploy_with_one_instance(
    cloud: Cloud, place: Place, start: Any, delay: float
) -> None:
    cloud.order(boot=0.3, lag=0.2)
    killed_and_started_again(cloud, place, start, 12, delay)


@pytest.mark.soak
@pytest.mark.parametrize("run", range(60))
def test_a_driver_killed_anywhere_in_a_deploy_buys_one_instance(
    cloud: Cloud, place: Place, start: Any, run: int
) -> None:
    cloud.order(boot=0.3, lag=0.2)
    killed_and_started_again(cloud, place, start, 100 + run, random.Random(run).uniform(0.0, 0.9))


def test_a_short_type_gives_way_to_the_next_one(cloud: Cloud, start: Any) -> None:
    cloud.order(short=[["t3.small", "subnet-1"], ["t3.small", "subnet-2"]])
    driver = start()
    asked = template(INSTANCETYPE="t3.small,t3a.small", SUBNETID="subnet-1,subnet-2")
    deploy_id = driver.created(wire.deploy(9, template=asked))
    got = cloud.seen["asked"][deploy_id]
    assert (got["InstanceType"], got["SubnetId"]) == ("t3a.small", "subnet-1")
    assert cloud.count("RunInstances") == 3
    told = [line for line in driver.lines if line.startswith(("LOG I 9", "LOG W 9"))]
    assert sum("We currently do not have sufficient t3.small capacity" in line for line in told) == 2
    second = driver.created(wire.deploy(10, template=asked))
    assert cloud.seen["asked"][second]["InstanceType"] == "t3a.small"
    assert cloud.count("RunInstances") == 4  # what was short a moment ago is not asked first


def test_a_cleanup_waits_for_a_cloud_that_is_down(cloud: Cloud, start: Any) -> None:
    driver = start()
    deploy_id = driver.created(wire.deploy(11, template=template()))
    cloud.order(fault={"action": "", "times": 1, "status": 503, "code": "Unavailable"})
    assert driver.ask(wire.cleanup(11, deploy_id)).startswith("FAILURE ")
    until(lambda: cloud.seen["states"] == {deploy_id: "terminated"}, seconds=20)


def test_polls_in_flight_share_a_look(cloud: Cloud, start: Any) -> None:
    driver = start("-t 100 -r 0 ec2")
    numbers = range(100, 160)
    for number in numbers:
        driver.send(wire.deploy(number, template=template()))
    ids = dict(driver.wait_for(lambda line: " SUCCESS " in line).split(" ")[2:4] for _ in numbers)
    looks = cloud.count("DescribeInstances")
    for _ in range(10):
        for number in numbers:
            driver.send(wire.poll(number, ids[str(number)]))
    for _ in range(10 * len(numbers)):
        driver.wait_for(lambda line: line.startswith("POLL SUCCESS "))
    assert cloud.count("DescribeInstances") - looks < 100


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        pytest.param("secret_access_key", "wrong", "request signature we calculated does not match", id="secret"),
        pytest.param("region", "Ireland", "ec2.toml: ec2: region: expected a name such as eu-west-1", id="region"),
        pytest.param("endpoint_url", "http://127.0.0.1:1", "EC2 did not answer GetCallerIdentity", id="endpoint"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(start: Any, place: Place, key: str, value: str, sentence: str) -> None:
    path = place.conf / f"{NAME}.toml"
    lines = [f'{key} = "{value}"' if line.startswith(f"{key} =") else line for line in path.read_text().splitlines()]
    place.configure("\n".join(lines), name=NAME)
    assert sentence in start().ask(wire.deploy(7, template=template()))
