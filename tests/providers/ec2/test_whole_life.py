"""VMs from deploy to terminate through both real drivers, over real pipes, on the embedded EC2 endpoint."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.domain import Template
from one_provider_mad.journal.reader import read_debts
from one_provider_mad.providers.ec2.price_list import PriceList
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import states
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import Line, vectors
from tests.providers.ec2.drivers import NAME, OWNER, MonitoredEc2, configuration, started, template
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.waiting import until


@pytest.fixture(scope="module")
def ec2() -> Iterator[FaultyEc2]:
    """One endpoint for all tests; each begins with an empty account."""
    with FaultyEc2().running() as ec2:
        yield ec2


@pytest.fixture(autouse=True)
def _empty(ec2: FaultyEc2) -> None:
    ec2.account.reset()
    ec2.orders.clear()


@pytest.fixture
def place(ec2: FaultyEc2, tmp_path: Path) -> Place:
    place = Place(tmp_path / "one")
    place.configure(configuration(ec2), name=NAME)
    return place


@pytest.fixture
def driver(place: Place) -> Iterator[Driver]:
    with started(place) as driver:
        yield driver


def alive(ec2: FaultyEc2) -> list[str]:
    return [each.id for each in ec2.account.alive]


def test_a_vm_on_ec2_from_deploy_to_terminate(ec2: FaultyEc2, driver: Driver) -> None:
    deploy_id = driver.created(oned_requests.deploy(7, template=template(TAGS="role=web")))
    assert deploy_id.startswith("i-")
    instance = ec2.account.instances[deploy_id]
    assert instance.tags["ONE_PROVIDER_OWNER"] == OWNER
    assert (instance.tags["ONE_PROVIDER_VM_ID"], instance.tags["role"]) == ("7", "web")

    assert driver.ask(oned_requests.reboot(7, deploy_id)) == "SUCCESS -"
    assert instance.reboots == 1
    assert driver.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
    assert instance.word == "stopped"
    assert driver.ask(oned_requests.resume(7, deploy_id, template=template(), host_id=4)) == f"SUCCESS {deploy_id}"
    assert (instance.word, instance.tags["ONE_PROVIDER_HOST_ID"]) == ("running", "4")

    disk = {"DISK_ID": "2", "SIZE": "2048", "TARGET": "vdf"}
    assert driver.ask(oned_requests.line("ATTACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"
    assert driver.ask(oned_requests.line("DETACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"
    assert driver.ask(oned_requests.line("SAVE", 7, deploy_id=deploy_id)) == "SUCCESS -"
    assert driver.ask(oned_requests.line("RESTORE", 7, deploy_id=deploy_id, seq=1)) == "SUCCESS -"
    assert driver.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS ")
    assert 'AWS_PUBLIC_IP_ADDRESS="198.18.' in driver.lines[-1]
    assert driver.ask(oned_requests.line("SNAPSHOTCREATE", 7, deploy_id=deploy_id, operand={"SNAPSHOT_ID": "0"})) == (
        "FAILURE provider ec2 does not support snapshots"
    )

    assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert {each.word for each in ec2.account.instances.values()} == {"terminated"}
    assert ec2.account.count("RunInstances") == 1


def test_a_vm_without_a_public_cloud_section_is_refused(ec2: FaultyEc2, place: Place) -> None:
    defaults = '[ec2.defaults]\nAMI = "ami-0abc"\nINSTANCETYPE = "t3.small"'
    place.configure(configuration(ec2, more=defaults), name=NAME)
    ordinary = Template(values={"CPU": ("1",), "MEMORY": ("1024",)})
    with started(place) as driver:
        assert driver.ask(oned_requests.deploy(7, template=ordinary)) == (
            'FAILURE the template has no PUBLIC_CLOUD section with TYPE="ec2": add one, or place the VM on another'
            " host (policy.without_section)"
        )
    assert ec2.account.count("RunInstances") == 0


def is_report_of(word: str) -> Callable[[Line], bool]:
    """Accept a report of VM 7 in this state, alone or among all."""
    return lambda line: line.word == "STATE_VM" and states(line).get(7) == word


def test_a_vm_is_reported_running_only_after_its_deploy_is_answered(ec2: FaultyEc2, place: Place) -> None:
    """oned would complete an unanswered DEPLOY by the report. Later states and wild instances are reported too."""
    ec2.account.boot = 1.0
    prices = f'pricing_endpoint_url = "{ec2.url}"'
    # So that the action driver's second listing is late.
    place.configure(configuration(ec2, watch_interval=3.0, more=prices), name=NAME)
    monitored = MonitoredEc2(place)
    with started(place) as driver, monitored.driver:
        monitored.start(SYNC_STATE_VM=1, STATE_VM=1)
        monitored.system()
        driver.send(oned_requests.deploy(7, template=template(), host_id=3))
        until(lambda: [each.word for each in ec2.account.instances.values()] == ["running"])
        listings = ec2.account.count("DescribeInstances")
        until(lambda: ec2.account.count("DescribeInstances") >= listings + 4)
        monitored.catch_up()
        early = [states(line) for line in monitored.lines if line.word == "STATE_VM"]
        assert driver.is_quiet()  # these listings were before the reply
        assert all(seen.get(7, "UNKNOWN") == "UNKNOWN" for seen in early)
        assert not [line for line in monitored.lines if line.word == "MONITOR_VM" and "AWS_" in line.text]
        deploy_id = driver.reply("DEPLOY", 7).removeprefix("SUCCESS ")
        ec2.account.boot = 0.02
        place.configure(configuration(ec2, more=prices), name=NAME)

        monitored.wait(is_report_of("RUNNING"))
        figures = monitored.wait(lambda line: line.word == "MONITOR_VM" and bool(vectors(line.values, "VM")))
        [shown] = vectors(figures.values, "VM")
        assert shown["ID"] == "7"
        assert 'AWS_INSTANCE_TYPE="t3.small"' in base64.b64decode(shown["MONITOR"]).decode()
        driver.ask(oned_requests.power_off(7, deploy_id))
        monitored.wait(is_report_of("POWEROFF"))
        driver.ask(oned_requests.resume(7, deploy_id, template=template(), host_id=3))
        monitored.wait(is_report_of("RUNNING"))

        wild = ec2.account.act("RunInstances", {"ImageId": "ami-0foreign", "InstanceType": "t3.nano"})
        foreign = wild["instancesSet"][0]["instanceId"]
        line = monitored.wait(lambda line: line.word == "SYSTEM_HOST" and foreign in line.text)
        [shown] = vectors(line.values, "VM")
        assert (shown["ID"], shown["DEPLOY_ID"]) == ("-1", foreign)
        offered = base64.b64decode(shown["IMPORT_TEMPLATE"]).decode()
        assert 'AMI="ami-0foreign"' in offered
        assert 'INSTANCETYPE="t3.nano"' in offered

        assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
        monitored.wait(lambda line: "SYNC_STATE" in line.values and 7 not in states(line))
        until((listed := place.var / f"one_provider_mad_{NAME}.prices").exists)
    assert alive(ec2) == [foreign]
    assert "Traceback" not in monitored.log()
    assert not re.findall("[^\n]*price[^\n]*", monitored.log()), "a warning of prices"
    kept = msgspec.json.decode(listed.read_bytes(), type=PriceList)
    assert kept.compute[""]["t3.small"] == 0.0208


class TestMoney:
    """No VM gets a second instance, and no instance is left over."""

    def test_a_type_without_capacity_is_replaced_by_the_next_and_tried_last_later(
        self, ec2: FaultyEc2, driver: Driver
    ) -> None:
        ec2.account.short = {("t3.small", "subnet-1"), ("t3.small", "subnet-2")}
        asked = template(INSTANCETYPE="t3.small,t3a.small", SUBNETID="subnet-1,subnet-2")
        deploy_id = driver.created(oned_requests.deploy(9, template=asked))
        got = ec2.account.instances[deploy_id].asked
        assert (got["InstanceType"], got["SubnetId"]) == ("t3a.small", "subnet-1")
        assert ec2.account.count("RunInstances") == 3
        logged = [line for line in driver.lines if line.startswith(("LOG I 9", "LOG W 9"))]
        assert sum("We currently do not have sufficient t3.small capacity" in line for line in logged) == 2
        second = driver.created(oned_requests.deploy(10, template=asked))
        assert ec2.account.instances[second].kind == "t3a.small"
        assert ec2.account.count("RunInstances") == 4  # a type that was just short is not tried first

        # A cloud that is down for a moment keeps no instance from being terminated.
        ec2.order(times=1, status=503, code="Unavailable")
        assert driver.ask(oned_requests.cleanup(9, deploy_id)) == "SUCCESS -"
        assert alive(ec2) == [second]

    def test_a_type_whose_instances_end_at_once_for_capacity_is_replaced_by_the_next(
        self, ec2: FaultyEc2, driver: Driver, place: Place
    ) -> None:
        ec2.account.ends, ec2.account.end = {"t3.small", "t3.large"}, 0.3
        deploy_id = driver.created(oned_requests.deploy(9, template=template(INSTANCETYPE="t3.small,t3a.small")))
        assert [(each.kind, each.id == deploy_id) for each in ec2.account.instances.values()] == [
            ("t3.small", False),
            ("t3a.small", True),
        ]
        warnings = [line for line in driver.lines if line.startswith("LOG W 9 ")]
        assert len(warnings) == 1
        assert "There was insufficient capacity available to satisfy the launch request" in warnings[0]
        until(lambda: not read_debts(place.var / f"one_provider_mad_{NAME}.journal"))
        assert alive(ec2) == [deploy_id]

        later = driver.created(oned_requests.deploy(10, template=template(INSTANCETYPE="t3.small,t3a.small")))
        assert ec2.account.instances[later].kind == "t3a.small", "a type that was short is tried last"
        reply = driver.ask(oned_requests.deploy(11, template=template(INSTANCETYPE="t3.large")))
        assert re.match(r"FAILURE instance i-\w+ is (shutting-down|terminated): Server\.InsufficientInstanceCap", reply)
        assert ec2.account.count("RunInstances") == 4

    def test_an_instance_whose_create_was_answered_with_an_unusable_id_is_terminated(
        self, ec2: FaultyEc2, driver: Driver
    ) -> None:
        state = "<instanceState><name>pending</name></instanceState>"
        made = f"<instancesSet><item><instanceId>../../../etc/passwd</instanceId>{state}</item></instancesSet>"
        body = f"<RunInstancesResponse>{made}</RunInstancesResponse>"
        ec2.order("RunInstances", is_done=True, status=200, body=body)
        assert driver.ask(oned_requests.deploy(9, template=template())) == (
            "FAILURE the cloud has answered with an unusable id: the deploy id would be taken for an option or a path:"
            " '../../../etc/passwd'; the instance is looked for by its tags, and terminated"
        )
        assert len(ec2.account.instances) == 1
        until(lambda: not alive(ec2))

    def test_a_deploy_retried_after_its_instance_was_terminated_uses_a_new_token(
        self, ec2: FaultyEc2, place: Place
    ) -> None:
        ec2.account.boot = 60.0
        place.configure(configuration(ec2, grace=1.0), name=NAME)
        with started(place) as driver:
            self.deploy_with_a_spent_token(ec2, driver)

    def deploy_with_a_spent_token(self, ec2: FaultyEc2, driver: Driver) -> None:
        driver.send(oned_requests.deploy(8, template=template()))
        until(lambda: alive(ec2))
        [first] = alive(ec2)
        ec2.account.boot = 0.02
        ec2.account.act("TerminateInstances", {"InstanceId.1": first})
        assert driver.reply("DEPLOY", 8).startswith("FAILURE ")
        second = driver.created(oned_requests.deploy(8, template=template()))
        assert alive(ec2) == [second]
        tokens = {each.asked["ClientToken"] for each in ec2.account.instances.values()}
        assert len(tokens) == 2

        ec2.order("RunInstances", code="IdempotentParameterMismatch", message="Arguments differ", status=400)
        assert "Arguments differ" in driver.ask(oned_requests.deploy(9, template=template()))
        assert alive(ec2) == [second]

    def test_a_retried_create_is_the_same_call_after_changes_of_settings_and_template(
        self, ec2: FaultyEc2, place: Place
    ) -> None:
        """The answer is lost, then the configuration and the template change, and the instance is not visible yet."""
        ec2.account.lag = 60.0
        ec2.order("RunInstances", is_done=True, drop=True)
        with started(place) as driver:
            driver.send(oned_requests.deploy(8, template=template()))
            until(lambda: ec2.account.count("RunInstances"))
            driver.kill()
        place.configure(configuration(ec2, more='tags = { team = "two" }\nimdsv2 = "optional"'), name=NAME)
        with started(place) as driver:
            driver.send(oned_requests.deploy(8, template=template(INSTANCETYPE="t3.large")))
            until(lambda: ec2.account.count("RunInstances") == 2)
            ec2.account.show_all()
            assert [driver.reply("DEPLOY", 8)] == [f"SUCCESS {each}" for each in alive(ec2)]
            assert not [refused for refused in driver.lines if "Idempotent" in refused]
        assert ec2.account.count("RunInstances") == 2
        assert len(alive(ec2)) == 1

    def test_without_client_tokens_a_create_is_called_once(self, ec2: FaultyEc2, place: Place) -> None:
        place.configure(configuration(ec2, more="client_tokens = false"), name=NAME)
        with started(place, f"-t 15 -r 3 {NAME}") as driver:
            ec2.order("RunInstances", is_done=True, drop=True)
            deploy_id = driver.created(oned_requests.deploy(8, template=template()))
        assert alive(ec2) == [deploy_id]
        assert ec2.account.count("RunInstances") == 1

    def test_actions_fail_if_the_credentials_belong_to_another_account(self, ec2: FaultyEc2, place: Place) -> None:
        with started(place) as driver:
            deploy_id = driver.created(oned_requests.deploy(8, template=template()))
        resources = ec2.account._account.resources
        before, resources.number = resources.number, "210987654321"
        try:
            with started(place) as driver:
                for line in (oned_requests.terminate(8, deploy_id), oned_requests.deploy(9, template=template())):
                    assert "210987654321" in driver.ask(line)
        finally:
            resources.number = before
        assert alive(ec2) == [deploy_id]


def test_simultaneous_polls_share_listings(ec2: FaultyEc2, place: Place) -> None:
    with started(place, f"-t 100 -r 0 {NAME}") as driver:
        numbers = range(100, 160)
        for number in numbers:
            driver.send(oned_requests.deploy(number, template=template()))
        ids = dict(driver.wait_for(lambda line: " SUCCESS " in line).split(" ")[2:4] for _ in numbers)
        listings = ec2.account.count("DescribeInstances")
        for _ in range(10):
            for number in numbers:
                driver.send(oned_requests.poll(number, ids[str(number)]))
        for _ in range(10 * len(numbers)):
            driver.wait_for(lambda line: line.startswith("POLL SUCCESS "))
        assert ec2.account.count("DescribeInstances") - listings < 100


WRONG = {
    "region": ("Ireland", "ec2.toml: ec2: region: expected a name such as eu-west-1"),
    "secret_access_key": ("wrong", "request signature we calculated does not match"),
}


def test_wrong_settings_fail_actions_and_an_unreachable_endpoint_is_waited_for(ec2: FaultyEc2, driver: Driver) -> None:
    right = configuration(ec2)
    for key, (value, sentence) in WRONG.items():
        lines = [f'{key} = "{value}"' if line.startswith(f"{key} =") else line for line in right.splitlines()]
        driver.place.configure("\n".join(lines), name=NAME)
        assert sentence in driver.ask(oned_requests.deploy(7, template=template()))
    unreachable = re.sub(r'^endpoint_url = ".*"$', 'endpoint_url = "http://127.0.0.1:1"', right, flags=re.MULTILINE)
    driver.place.configure(unreachable, name=NAME)
    driver.send(
        oned_requests.deploy(7, template=template())
    )  # an unreachable endpoint is an outage, for which the driver waits
    driver.place.configure(right, name="as editors do").replace(driver.place.conf / f"{NAME}.toml")
    assert driver.wait_for(lambda line: line.startswith("DEPLOY ")).startswith("DEPLOY SUCCESS 7 i-")


TABLES = """
[images.debian-12]
image = "ami-0deb"
datastore = "burst"
smallest_disk = 10

[networks.private]
subnet = "subnet-1-a"
security_groups = ["sg-1"]
addresses = "opennebula"
"""

ROOT = {
    "DISK_ID": "0",
    "IMAGE": "debian-12",
    "IMAGE_ID": "7",
    "DATASTORE": "burst",
    "DATASTORE_ID": "104",
    "SIZE": "2252",
    "ORIGINAL_SIZE": "2252",
}
SCRATCH = {"DISK_ID": "1", "TYPE": "fs", "SIZE": "2048", "TARGET": "vdb"}
PRIVATE = {"NIC_ID": "0", "NETWORK": "private", "NETWORK_ID": "3", "IP": "10.0.0.7", "MAC": "02:00:0a:00:00:07"}


def of_home(*disks: dict[str, str]) -> Template:
    """The template of a VM at home: an image, a network, and no PUBLIC_CLOUD section."""
    return Template(values={"CPU": ("1",), "MEMORY": ("1024",), "DISK": disks or (ROOT, SCRATCH), "NIC": (PRIVATE,)})


def volumes(ec2: FaultyEc2, deploy_id: str) -> dict[str, int]:
    """GiB of the instance's volumes by device."""
    asked = {"Filter.1.Name": "attachment.instance-id", "Filter.1.Value.1": deploy_id}
    found = ec2.account.act("DescribeVolumes", asked)["volumeSet"]
    return {each["attachmentSet"][0]["device"]: each["size"] for each in found}


def test_a_template_of_home_without_a_section_is_a_vm_in_the_cloud(ec2: FaultyEc2, place: Place) -> None:
    more = 'defaults = { INSTANCETYPE = "t3.small" }\n' + TABLES
    place.configure(configuration(ec2, more=more), name=NAME)
    with started(place) as driver:
        deploy_id = driver.created(oned_requests.deploy(7, template=of_home()))
        assert volumes(ec2, deploy_id) == {"/dev/xvda": 10, "/dev/sdf": 2}
        assert ec2.account.instances[deploy_id].asked["ImageId"] == "ami-0deb"
        assert 'AWS_PRIVATE_IP_ADDRESS="10.0.0.7"' in driver.ask(oned_requests.poll(7, deploy_id))
        assert [line for line in driver.lines if line.startswith("LOG W 7 ")] == []

        # While the VM is off, the root disk grows and the other is replaced by a smaller one with the same number.
        assert driver.ask(oned_requests.power_off(7, deploy_id, template=of_home())) == "SUCCESS -"
        now = of_home({**ROOT, "SIZE": "20480"}, {**SCRATCH, "SIZE": "1024"})
        assert driver.ask(oned_requests.resume(7, deploy_id, template=now)) == f"SUCCESS {deploy_id}"
        assert volumes(ec2, deploy_id) == {"/dev/xvda": 20, "/dev/sdf": 1}
        assert driver.ask(oned_requests.power_off(7, deploy_id, template=now, seq=1)) == "SUCCESS -"
        resumed = oned_requests.resume(7, deploy_id, template=of_home({**ROOT, "SIZE": "20480"}), seq=2)
        assert driver.ask(resumed) == f"SUCCESS {deploy_id}"
        assert volumes(ec2, deploy_id) == {"/dev/xvda": 20}

        foreign = Template(values={**of_home().values, "DISK": ({**ROOT, "DATASTORE": "default"},)})
        refused = driver.ask(oned_requests.deploy(8, template=foreign))
        assert refused.startswith('FAILURE the template has no PUBLIC_CLOUD section with TYPE="ec2"')
        assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert ec2.account.act("DescribeVolumes", {})["volumeSet"] == []
    assert ec2.account.act("DescribeNetworkInterfaces", {})["networkInterfaceSet"] == []


def test_a_driver_killed_after_the_create_knows_its_volumes_and_makes_no_second_ones(
    ec2: FaultyEc2, place: Place
) -> None:
    more = 'defaults = { INSTANCETYPE = "t3.small" }\n' + TABLES
    place.configure(configuration(ec2, more=more), name=NAME)
    with Driver(place, f"-t 15 -r 0 {NAME}") as killed:
        deploy_id = killed.created(oned_requests.deploy(7, template=of_home()))
        killed.kill()
    (place.var / f"one_provider_mad_{NAME}.journal").unlink()
    with started(place) as driver:
        off = Template(values={**of_home().values})
        assert driver.ask(oned_requests.power_off(7, deploy_id, template=off)) == "SUCCESS -"
        resumed = oned_requests.resume(7, deploy_id, template=of_home(ROOT))
        assert driver.ask(resumed) == f"SUCCESS {deploy_id}"
        assert volumes(ec2, deploy_id) == {"/dev/xvda": 10}
        assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert ec2.account.act("DescribeVolumes", {})["volumeSet"] == []


MIRRORED = """
[networks.private]
subnet = "subnet-default"

[security_groups]
mirror = true
"""

SSH = {
    "SECURITY_GROUP_ID": "100",
    "SECURITY_GROUP_NAME": "web",
    "RULE_TYPE": "INBOUND",
    "PROTOCOL": "TCP",
    "RANGE": "22",
}


def grouped(*rules: dict[str, str], nics: tuple[dict[str, str], ...] = ()) -> Template:
    """The template of a VM with security groups, as the core completes it."""
    nic = {**PRIVATE, "SECURITY_GROUPS": "100"}
    return Template(values={**template().values, "NIC": (nic, *nics), "SECURITY_GROUP_RULE": rules})


def mirrored(ec2: FaultyEc2) -> dict[str, list[tuple[int, int]]]:
    """Ports that each group of ours lets in, by the number of OpenNebula's."""
    found = ec2.account.act("DescribeSecurityGroups", {})["securityGroupInfo"]
    return {
        each["groupName"].rpartition(" ")[2]: [(rule["fromPort"], rule["toPort"]) for rule in each["ipPermissions"]]
        for each in found
        if each["groupName"] != "default"
    }


def test_opennebulas_security_groups_are_those_of_the_instance_and_follow_onesecgroup(
    ec2: FaultyEc2, place: Place
) -> None:
    place.configure(configuration(ec2, more=MIRRORED), name=NAME)
    with started(place) as driver:
        deploy_id = driver.created(oned_requests.deploy(7, template=grouped(SSH)))
        second = driver.created(oned_requests.deploy(8, template=grouped(SSH)))
        assert mirrored(ec2) == {"100": [(22, 22)]}
        found = ec2.account.act("DescribeNetworkInterfaces", {})["networkInterfaceSet"]
        assert len({each["groupSet"][0]["groupId"] for each in found}) == 1

        web = grouped({**SSH, "RANGE": "80,443"}, {**SSH, "SIZE": "1"})
        update = oned_requests.line(
            "UPDATESG", 7, deploy_id=deploy_id, template=web, operand={"SECURITY_GROUP_ID": "100"}
        )
        assert driver.ask(update) == "SUCCESS 100"
        assert mirrored(ec2) == {"100": [(80, 80), (443, 443)]}
        assert [line for line in driver.lines if "EC2 cannot have this rule of security group 100" in line]

        nic = {"NIC_ID": "1", "NETWORK": "private", "NETWORK_ID": "3", "SECURITY_GROUPS": "101"}
        attach = grouped({**SSH, "SECURITY_GROUP_ID": "101"}, SSH)
        assert (
            driver.ask(oned_requests.line("ATTACHNIC", 7, deploy_id=deploy_id, template=attach, operand=nic))
            == "SUCCESS -"
        )
        assert mirrored(ec2) == {"100": [(80, 80), (443, 443)], "101": [(22, 22)]}

        # The rules that changed while the VM was off are there when it runs again.
        assert driver.ask(oned_requests.power_off(8, second, template=grouped(SSH))) == "SUCCESS -"
        assert driver.ask(oned_requests.resume(8, second, template=grouped())) == f"SUCCESS {second}"
        assert mirrored(ec2) == {"100": [], "101": [(22, 22)]}
        assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
        assert driver.ask(oned_requests.terminate(8, second)) == "SUCCESS -"


def test_edited_budgets_count_without_a_restart(ec2: FaultyEc2, place: Place) -> None:
    """The first ones let one instance be created, and the next one hours later."""

    def allow(*, per_second: float) -> None:
        budget = f"[ec2.budgets]\nRunInstances = {{ burst = 1, per_second = {per_second} }}"
        place.configure(configuration(ec2, more=budget), name=NAME)

    allow(per_second=0.0001)
    with started(place, f"-t 15 -r 3 {NAME}") as driver:
        assert driver.created(oned_requests.deploy(7, template=template())) in alive(ec2)
        allow(per_second=100)
        assert driver.created(oned_requests.deploy(8, template=template())) in alive(ec2)
