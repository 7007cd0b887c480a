"""What VMs cost, and limits on it, under a real OpenNebula: monitoring, showback, [budget], ledger.

`make test-oned ONE=/opt/one-7.4.0` runs this too. An instance costs 1 for each second that it runs, its address 0.1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.ledger.reader import open_spans
from one_provider_mad.providers.simulated.bill import read_bill
from tests.real_oned.front_end import FrontEnd, running_front_end
from tests.real_oned.hook_manager import hook_manager, hook_output
from tests.real_oned.world import QUICK, STATES, Vm, add_ordinary_host, deploy, running
from tests.real_oned.zone import OURS_CLI, Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(400)]

PRICED = f"""provider = "simulated"
owner = "test-costs"
[simulated]
boot_time = 0.5
stop_time = 0.5
destroy_time = 0.5
[simulated.instance_types.small_256mb]
cpu = 1
memory = 256
price = 3600
[simulated.prices]
currency = "EUR"
address = 360
disk = 0
[orphans]
interval = 1
grace = 1
{QUICK}system_period = 1
"""

TERMINATING = PRICED.replace("[orphans]", '[orphans]\npolicy = "terminate-done"')
CAPPED = PRICED + "[budget]\nmax_instances = 1\n"
BY_OWNER = PRICED + "[budget.users.ada]\nmax_instances = 1\n[budget.groups.students]\nmax_instances = 2\n"

RUNS, STOPPED, NOTHING = "3960.0000", "360.0000", "0.0000"
"""What an instance costs an hour."""

KIND = "PROVIDER_IMAGE_ID = img-1, PROVIDER_INSTANCE_TYPE = small_256mb"

BOOT_FAILURE = (3, 36)
REPORTS_WHILE_OFF = (5, 12)
"""First release that takes reports of a VM that is powered off."""

SHOWBACK_ONLY_RUNNING = (6, 2)
"""First release that has it."""


@pytest.fixture(scope="module")
def installed() -> Path:
    folder = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (folder / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    return folder


@pytest.fixture(scope="module")
def zone(installed: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Zone]:
    root = tmp_path_factory.mktemp("costs")
    failed = request.session.testsfailed
    clouds = {"sim": "simulated", "capped": "simulated"}
    zone = Zone(installed, root / "one", clouds=clouds, settings="SHOWBACK_ONLY_RUNNING = YES\n")
    zone.place.configure(PRICED, name="sim")
    zone.place.configure(CAPPED, name="capped")
    with running(zone):
        add_ordinary_host(zone)
        zone.follow_recipe()
        zone.one_provider("install", "capped", "--recreate-hook")
        with hook_manager(zone):
            yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def ordinary(zone: Zone) -> Iterator[None]:
    """A VM at home, which nothing here may change."""
    vm = Vm(zone, zone.call("one.vm.allocate", 'NAME = "ordinary"\nCPU = 0.1\nMEMORY = 64\n', True))
    deploy(zone, vm, "home")
    vm.reach("RUNNING")
    before = vm.shown("HISTORY_RECORDS"), vm.log()
    yield
    assert vm.state() == STATES["RUNNING"]
    assert (vm.shown("HISTORY_RECORDS"), vm.log()) == before
    assert vm.monitored("PROVIDER_PRICE_HOUR") == ""


def section(cloud: str) -> str:
    return f'CPU = 1\nMEMORY = 256\nPUBLIC_CLOUD = [ TYPE = "{cloud}", {KIND} ]\n'


def deploying(zone: Zone, cloud: str, more: str = "", *, session: str = "") -> Vm:
    """A VM that is being deployed in a cloud, of oneadmin, or of the user of a session."""
    text = section(cloud) + more
    if not session:
        vm = Vm(zone, zone.call("one.vm.allocate", text, True))
    else:
        with xmlrpc.client.ServerProxy(zone.url) as api:
            answer: Any = api.one.vm.allocate(session, text, True)
        assert answer[0], answer
        vm = Vm(zone, int(answer[1]))
    deploy(zone, vm, cloud)
    return vm


def started(zone: Zone, cloud: str, more: str = "", *, session: str = "") -> Vm:
    vm = deploying(zone, cloud, more, session=session)
    vm.reach("RUNNING")
    return vm


def end(vm: Vm) -> None:
    """Terminate a VM, and wait until its instance is gone."""
    vm.ask("terminate-hard")
    until(lambda: vm.state() == STATES["DONE"], seconds=60, pause=0.2)


def tool(zone: Zone, command: str) -> str:
    """Run a command of one-provider; returns its output."""
    return zone.run(f"{OURS_CLI} {command}")


def cost(zone: Zone, name: str, vm: Vm | None = None) -> Mapping[str, Any]:
    """What `one-provider cost` shows of a VM, or of all together."""
    report = json.loads(tool(zone, f"cost {name} --by vm --json"))
    if vm is None:
        (found,) = report["sums"]
    else:
        (found,) = [row for row in report["rows"] if str(row["vm"]).split()[0] == str(vm.number)]
    return dict(found)


def host_shows(zone: Zone, name: str, attribute: str) -> str:
    return zone.document("one.host.info", zone.number_of("host", name)).findtext(f"TEMPLATE/{attribute}") or ""


def price_is(vm: Vm, price: str) -> None:
    """Wait until a VM shows this price of an hour."""
    until(lambda: vm.monitored("PROVIDER_PRICE_HOUR") == price, seconds=60, pause=0.2)


def host_price_is(zone: Zone, price: str) -> None:
    until(lambda: host_shows(zone, "sim", "PROVIDER_PRICE_HOUR") == price, seconds=60, pause=0.2)


def power_off(vm: Vm) -> None:
    """Power a VM off, and wait until the change of its price is shown: up to 5.10 none, as long as it is off."""
    is_late = vm.zone.release < REPORTS_WHILE_OFF
    # Up to 5.10 oned takes one report of a VM in a second.
    until(lambda: not is_late or 2 <= time.time() - vm.monitored_at() <= 8, seconds=60, pause=0.2)
    vm.ask("poweroff")
    vm.reach("POWEROFF")
    price_is(vm, "" if is_late else STOPPED)


@pytest.mark.usefixtures("ordinary")
def test_a_vm_and_its_host_show_what_they_cost_through_power_off_and_until_the_vm_is_gone(zone: Zone) -> None:
    vm = started(zone, "sim")
    price_is(vm, RUNS)
    host_price_is(zone, RUNS)
    first = float(until(lambda: vm.monitored("PROVIDER_COST"), seconds=30))
    until(lambda: float(vm.monitored("PROVIDER_COST")) > first + 2, seconds=30, pause=0.2)
    assert vm.monitored("PROVIDER_CURRENCY") == host_shows(zone, "sim", "PROVIDER_CURRENCY") == "EUR"
    assert "PROVIDER_PRICE_HOUR" in zone.run(f"onevm show -x {vm.number}")
    before_off = float(vm.monitored("PROVIDER_COST"))
    power_off(vm)
    host_price_is(zone, STOPPED)
    shown = cost(zone, "sim", vm)
    assert (shown["hour"], shown["currency"]) == (360, "EUR")
    assert shown["total"] > before_off
    if vm.zone.release >= REPORTS_WHILE_OFF:
        assert shown["total"] == pytest.approx(float(vm.monitored("PROVIDER_COST")), abs=3)
    vm.ask("resume")
    vm.reach("RUNNING")
    price_is(vm, RUNS)
    host_price_is(zone, RUNS)
    end(vm)
    host_price_is(zone, NOTHING)
    until(lambda: cost(zone, "sim", vm)["hour"] == 0, seconds=30, pause=0.5)
    month = cost(zone, "sim")["month"]
    until(lambda: float(host_shows(zone, "sim", "PROVIDER_COST_MONTH")) == pytest.approx(month, abs=0.001), seconds=30)


# Limits


def refused(vm: Vm, *, of: str, limit: int) -> None:
    """Wait until the deployment of a VM has failed with the whole sentence in its log, the cause first."""
    until(lambda: vm.state() == BOOT_FAILURE, seconds=60, pause=0.2)
    sentence = f"max_instances of {of} is {limit}, {limit} exist, and an instance small_256mb would add 1; an"
    assert sentence in vm.log()
    assert "an administrator may change budget" in vm.log()
    assert any(line.endswith("capped.toml") for line in vm.log().splitlines())
    assert f"max_instances of {of} is {limit}" in vm.shown("USER_TEMPLATE/ERROR")


def records(vm: Vm) -> int:
    return len(vm.zone.document("one.vm.info", vm.number).findall("HISTORY_RECORDS/HISTORY"))


@pytest.mark.usefixtures("ordinary")
def test_a_vm_beyond_max_instances_fails_says_why_and_starts_once_there_is_room(zone: Zone) -> None:
    first, second = started(zone, "capped"), deploying(zone, "capped")
    refused(second, of="capped", limit=1)
    until(lambda: f"VM {second.number} is left" in hook_output(zone), seconds=60, pause=0.5)
    assert (second.state(), records(second)) == (BOOT_FAILURE, 1)
    end(first)
    zone.run(f"onevm recover --retry {second.number}")
    until(lambda: second.state() == STATES["RUNNING"], seconds=60, pause=0.2)
    end(second)


@pytest.mark.usefixtures("ordinary")
def test_limits_of_users_and_groups_are_those_of_the_vms_own(zone: Zone) -> None:
    zone.place.configure(BY_OWNER, name="capped")
    zone.run("onegroup create students")
    for user in ("ada", "bob"):
        zone.run(f"oneuser create {user} secret")
        zone.run(f"oneuser chgrp {user} students")
    vms = [started(zone, "capped", session="ada:secret")]
    beyond = deploying(zone, "capped", session="ada:secret")
    refused(beyond, of="user ada", limit=1)
    vms.append(started(zone, "capped", session="bob:secret"))
    of_group = deploying(zone, "capped", session="bob:secret")
    refused(of_group, of="group students", limit=2)
    vms.append(started(zone, "capped"))
    until(lambda: users_in_costs(zone) == {"ada", "bob", "oneadmin"}, seconds=60, pause=0.5)
    for vm in (*vms, beyond, of_group):
        end(vm)


def users_in_costs(zone: Zone) -> set[str]:
    return {row["user"] for row in json.loads(tool(zone, "cost capped --by user --json"))["rows"]}


# Showback


def showback(zone: Zone, vm: Vm) -> float:
    """What `oneshowback list` shows of a VM."""
    zone.run("oneshowback calculate")
    pool = json.loads(zone.run("oneshowback list --json"))["SHOWBACK_RECORDS"]["SHOWBACK"]
    lines = pool if isinstance(pool, list) else [pool]
    return sum(float(line["TOTAL_COST"]) for line in lines if line["VMID"] == str(vm.number))


def seconds_of(vm: Vm, begin: str, end: str) -> int:
    """Seconds of the records in a VM's history, by the names of their times."""
    found = vm.zone.document("one.vm.info", vm.number).findall("HISTORY_RECORDS/HISTORY")
    return sum(int(each.findtext(end) or 0) - int(each.findtext(begin) or 0) for each in found)


@pytest.mark.usefixtures("ordinary")
def test_showback_shows_the_price_of_a_fixed_type(zone: Zone) -> None:
    release = ".".join(map(str, zone.release))
    steps = json.loads(tool(zone, f"oned-conf sim --release {release} --type small_256mb --json"))
    (step,) = [each for each in steps if "CPU_COST" in each["text"]]
    only = zone.release >= SHOWBACK_ONLY_RUNNING
    assert ("SHOWBACK_ONLY_RUNNING" in step["what"]) == only
    lines = {line.partition(" ")[0]: line for line in step["text"].splitlines()}
    vm = started(zone, "sim", "\n".join(lines[name] for name in lines if name.endswith("COST")))
    price_is(vm, RUNS)
    power_off(vm)
    vm.ask("resume")
    vm.reach("RUNNING")
    price_is(vm, RUNS)
    end(vm)
    until(lambda: cost(zone, "sim", vm)["hour"] == 0, seconds=30, pause=0.5)
    whole, running_for = seconds_of(vm, "STIME", "ETIME"), seconds_of(vm, "RSTIME", "RETIME")
    total, told = cost(zone, "sim", vm)["total"], showback(zone, vm)
    if only:
        assert told == pytest.approx(running_for, abs=0.5)
        assert total == pytest.approx(told + whole * 0.1, abs=4)  # its address is not in showback; seconds of four ends
    else:
        assert told == pytest.approx(whole, abs=0.5)


# Powered off and terminated


@pytest.mark.usefixtures("ordinary")
def test_a_vm_terminated_while_powered_off_goes_on_costing_until_its_instance_is_terminated(zone: Zone) -> None:
    vm = started(zone, "sim")
    power_off(vm)
    end(vm)
    until(lambda: "orphans" in tool(zone, "cost sim"), seconds=60, pause=0.5)
    assert cost(zone, "sim", vm)["hour"] == 360
    kept = "policy report keeps 1 possible orphan (360.0000 EUR an hour, 262800.00 EUR in a month of 730 hours)"
    assert kept in checks(zone)
    zone.place.configure(TERMINATING, name="sim")
    until(lambda: cost(zone, "sim", vm)["hour"] == 0, seconds=90, pause=0.5)
    host_price_is(zone, NOTHING)


def billed(zone: Zone, vm: Vm) -> float:
    """What the cloud itself charges for a VM's instances."""
    bill = read_bill(zone.folder / "var" / "sim.db", now=time.time())
    return sum(line.amount or 0 for line in bill.values() if line.vm_id == str(vm.number))


def checks(zone: Zone) -> str:
    done = subprocess.run(
        [OURS_CLI, "check", "sim"], env=zone.environ, cwd=zone.folder, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


# Drivers and cores that end


def until_booked(zone: Zone) -> None:
    """Wait until the ledger holds a listing that began after now."""
    path, now = zone.place.var / "one_provider_mad_sim.ledger", time.time()
    until(lambda: open_spans(path)[0] > now, seconds=60, pause=0.2)


@pytest.mark.usefixtures("ordinary")
def test_the_ledger_is_right_after_a_crash_of_the_driver_and_of_oned(zone: Zone) -> None:
    vm = started(zone, "sim")
    price_is(vm, RUNS)
    zone.kill_driver("one_im_provider", "sim")
    until_booked(zone)
    zone.kill()
    zone.stop()
    zone.start()
    until_booked(zone)
    end(vm)
    until(lambda: cost(zone, "sim", vm)["hour"] == 0, seconds=60, pause=0.5)
    assert cost(zone, "sim", vm)["total"] == pytest.approx(billed(zone, vm), abs=3)


# The cheapest cloud


def by_price(name: str, price: float) -> str:
    """The configuration of a cloud whose smallest instance type costs this much an hour."""
    return f"""provider = "simulated"
owner = "test-{name}"
[simulated]
boot_time = 0.5
destroy_time = 0.5
[capacity]
instance_types = {{ small_256mb = 5 }}
[prices]
types = {{ small_256mb = {price} }}
{QUICK}system_period = 1
priority = "price"
"""


@pytest.fixture
def front_end(installed: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FrontEnd]:
    """OpenNebula with its own scheduler, and two clouds."""
    failed = request.session.testsfailed
    has_monitord = (installed / "etc" / "monitord.conf").exists()
    own = {} if has_monitord else {"oned.conf": "MONITORING_INTERVAL_HOST = 5\n"}  # shipped are 180 s
    zone = FrontEnd(installed, tmp_path / "one", clouds={"near": "simulated", "far": "simulated"}, own=own)
    zone.place.configure(by_price("near", 0.02), name="near")
    zone.place.configure(by_price("far", 0.03), name="far")
    with running_front_end(zone):
        yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(tmp_path)


def placed(zone: FrontEnd) -> str:
    """The host on which the scheduler starts a new VM."""
    text = "".join(f"PUBLIC_CLOUD = [ TYPE = {name}, {KIND} ]\n" for name in ("far", "near"))
    vm = Vm(zone, zone.call("one.vm.allocate", f"CPU = 0.5\nMEMORY = 128\n{text}", False))
    until(lambda: vm.state() == STATES["RUNNING"], seconds=120, pause=0.2)
    return vm.shown("HISTORY_RECORDS/HISTORY/HOSTNAME")


def priorities(zone: FrontEnd, near: str, far: str) -> bool:
    return [host_shows(zone, name, "PRIORITY") for name in ("near", "far")] == [near, far]


def test_a_vm_goes_to_the_cheaper_cloud_and_after_an_edit_of_prices_to_the_other(front_end: FrontEnd) -> None:
    until(lambda: priorities(front_end, "-1.02", "-1.03"), seconds=120, pause=0.5)
    assert placed(front_end) == "near"
    front_end.place.configure(by_price("near", 0.04), name="near")
    until(lambda: priorities(front_end, "-1.04", "-1.03"), seconds=120, pause=0.5)
    assert placed(front_end) == "far"
