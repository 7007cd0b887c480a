"""A VM from deploy to terminate through both drivers against moto's server, an independent implementation of EC2."""

from __future__ import annotations

import base64
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.session import Session

from one_provider_mad.domain import Template
from tests.cli.running import json_of, output_of
from tests.conftest import assert_spoke_properly
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import ROOT, Driver, Place
from tests.monitor.decoder import read_modern, read_template, start_monitor, vectors
from tests.waiting import HANG

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="moto[ec2], flask and flask-cors are dev"
)

NAME, REGION, KEY, SECRET = "ec2", "eu-west-1", "AKIDEXAMPLE", "notverysecret"

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d/" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""

CONFIGURATION = """
provider = "ec2"
owner = "one-test"
[ec2]
region = "{region}"
endpoint_url = "{url}"
access_key_id = "{key}"
secret_access_key = "{secret}"
watch_interval = 0.02
cloudwatch = true
cloudwatch_disks = true
events_period = 10
[capacity]
instance_types = {{ "t3.small" = 3 }}
[monitor]
state_period = 0.1
sync_period = 1
vm_period = 0.2
min_list_interval = 0.1
"""


@pytest.fixture
def url() -> Iterator[str]:
    # Otherwise moto searches for credentials and images, which takes seconds.
    environ = {**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false", "AWS_EC2_METADATA_DISABLED": "true"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
        text=True,
    ) as served:
        assert served.stdout is not None
        assert served.stdin is not None
        yield served.stdout.readline().strip()
        served.stdin.close()
        served.wait(HANG)


@pytest.fixture
def drivers(url: str, place: Place) -> Iterator[tuple[Driver, Driver]]:
    """Both drivers, on moto's account."""
    place.configure(CONFIGURATION.format(url=url, key=KEY, secret=SECRET, region=REGION), name=NAME)
    environ = {"AWS_EC2_METADATA_DISABLED": "true"}
    actions = Driver(place, f"-t 15 -r 0 {NAME}", environ=environ)
    monitor = Driver(place, NAME, environ=environ, program=ROOT / "bin" / "one_im_provider")
    yield actions, monitor
    for driver in (actions, monitor):
        driver.leave()
    assert_spoke_properly(actions)
    logs = [path.read_text() for path in place.var.glob("*.log")]
    assert not [line for text in logs for line in text.splitlines() if "unexpected" in line or "Traceback" in line]
    assert not [text for text in logs if SECRET in text]


class Console:
    """Another client of the account, by botocore."""

    def __init__(self, url: str) -> None:
        def client(service: str) -> Any:
            return Session().create_client(
                service, region_name=REGION, endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET
            )

        self.ec2, self.cloudwatch = client("ec2"), client("cloudwatch")

    def instance(self, instance_id: str) -> dict[str, Any]:
        answer = self.ec2.describe_instances(InstanceIds=[instance_id])
        found: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return found

    def state(self, instance_id: str) -> str:
        return str(self.instance(instance_id)["State"]["Name"])

    def tags(self, instance_id: str) -> dict[str, str]:
        return {each["Key"]: each["Value"] for each in self.instance(instance_id)["Tags"]}

    def measure(self, instance_id: str, **figures: float) -> None:
        """Put figures of eleven minutes ago into CloudWatch, which are final."""
        at = datetime.now(UTC) - timedelta(minutes=11)
        dimensions = [{"Name": "InstanceId", "Value": instance_id}]
        data = [
            {"MetricName": name, "Dimensions": dimensions, "Timestamp": at, "Value": value}
            for name, value in figures.items()
        ]
        self.cloudwatch.put_metric_data(Namespace="AWS/EC2", MetricData=data)


def template(**attributes: str) -> Template:
    section = {"TYPE": NAME, "AMI": "ami-12c6146b", "INSTANCETYPE": "t3.small", **attributes}
    return Template(
        values={
            "CPU": ("1",),
            "MEMORY": ("1024",),
            "CONTEXT": ({"SSH_PUBLIC_KEY": "ssh-ed25519 AAAA one@here"},),
            "PUBLIC_CLOUD": (section,),
        }
    )


def reported(monitor: Driver, word: str, vm_id: int, **wanted: str) -> dict[str, str]:
    """The next report of a VM that has these values."""
    while True:
        line = read_modern(monitor.next_line().encode() + b"\n")
        if line.word != word:
            continue
        for vm in vectors(line.values, "VM"):
            text = dict(vm)
            if word == "MONITOR_VM":
                measured = read_template(base64.b64decode(vm["MONITOR"]).decode(), is_old=False)
                text |= {name: str(value[0]) for name, value in measured.items()}
            if text["ID"] == str(vm_id) and wanted.items() <= text.items():
                return text


def test_a_vm_on_moto_from_deploy_to_terminate(url: str, drivers: tuple[Driver, Driver]) -> None:
    driver, monitor = drivers
    console = Console(url)
    address = console.ec2.allocate_address(Domain="vpc")["PublicIp"]
    image = console.ec2.register_image(Name="web", RootDeviceName="/dev/xvda")["ImageId"]
    asked = template(AMI=image, TAGS="role=web", CLOUD_INIT="YES", ELASTICIP=address, VOLUMETYPE="gp3", VOLUMESIZE="8")

    deploy_id = driver.created(oned_requests.deploy(7, template=asked, host_id=3))
    tags = console.tags(deploy_id)
    assert (tags["ONE_PROVIDER_OWNER"], tags["ONE_PROVIDER_VM_ID"], tags["role"]) == ("one-test", "7", "web")
    assert console.instance(deploy_id)["PublicIpAddress"] == address
    assert driver.created(oned_requests.deploy(7, template=asked, host_id=3)) == deploy_id  # a retry adopts it

    console.measure(deploy_id, CPUUtilization=25.0, NetworkIn=1000.0, NetworkOut=500.0, EBSReadBytes=70.0)
    monitor.send(start_monitor(3, "cloud"))
    reported(monitor, "STATE_VM", 7, STATE="RUNNING")
    seen = reported(monitor, "MONITOR_VM", 7, NETRX="1000")
    assert (seen["NETTX"], seen["MEMORY"], seen["DISKRDBYTES"]) == ("500", str(2 * 1024 * 1024), "70")
    assert (seen["AWS_PUBLIC_IP_ADDRESS"], seen["AWS_INSTANCE_TYPE"]) == (address, "t3.small")

    assert driver.ask(oned_requests.reboot(7, deploy_id)) == "SUCCESS -"
    assert driver.ask(oned_requests.line("RESET", 7, deploy_id=deploy_id)) == "SUCCESS -"
    disk = {"DISK_ID": "2", "SIZE": "2048", "TARGET": "vdf"}
    assert driver.ask(oned_requests.line("ATTACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"
    assert len(console.instance(deploy_id)["BlockDeviceMappings"]) == 2
    assert driver.ask(oned_requests.line("DETACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"

    assert driver.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
    assert console.state(deploy_id) == "stopped"
    reported(monitor, "STATE_VM", 7, STATE="POWEROFF")
    larger = Template(values={**asked.values, "CPU": ("2",), "MEMORY": ("4096",), "DISK": (disk,)})
    assert driver.ask(oned_requests.resume(7, deploy_id, template=larger, host_id=3)) == f"SUCCESS {deploy_id}"
    assert console.instance(deploy_id)["InstanceType"] == "t3.medium"
    assert len(console.instance(deploy_id)["BlockDeviceMappings"]) == 2
    reported(monitor, "STATE_VM", 7, STATE="RUNNING")
    assert driver.ask(oned_requests.line("SAVE", 7, deploy_id=deploy_id, template=larger)) == "SUCCESS -"
    assert driver.ask(oned_requests.line("RESTORE", 7, deploy_id=deploy_id, seq=1, template=larger)) == "SUCCESS -"
    assert 'AWS_INSTANCE_TYPE="t3.medium"' in driver.ask(oned_requests.poll(7, deploy_id))

    assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert console.state(deploy_id) == "terminated"
    assert_refusals_are_sentences(driver)


def assert_refusals_are_sentences(driver: Driver) -> None:
    """A create that moto refuses fails, and an address that it refuses later becomes a warning."""
    refused = driver.ask(oned_requests.deploy(8, template=template(SUBNETID="subnet-0123456789abcdef0")))
    assert refused.startswith("FAILURE EC2: The subnet ID 'subnet-0123456789abcdef0' does not exist (RunInstances")
    deploy_id = driver.created(oned_requests.deploy(9, template=template(ELASTICIP="203.0.113.200")))
    vm_warnings = [line for line in driver.lines if line.startswith("LOG W 9 ")]
    assert any(f"instance {deploy_id} runs, but not everything is done: EC2: " in line for line in vm_warnings)
    assert driver.ask(oned_requests.terminate(9, deploy_id)) == "SUCCESS -"


def test_security_groups_in_moto_are_opennebulas_and_follow_them(url: str, place: Place) -> None:
    console = Console(url)
    subnet = min(each["SubnetId"] for each in console.ec2.describe_subnets()["Subnets"])
    tables = f'[networks.private]\nsubnet = "{subnet}"\n[security_groups]\nmirror = true\n'
    place.configure(CONFIGURATION.format(url=url, key=KEY, secret=SECRET, region=REGION) + tables, name=NAME)
    image = console.ec2.register_image(Name="web", RootDeviceName="/dev/xvda")["ImageId"]

    def grouped(*rules: dict[str, str]) -> Template:
        nic = {"NETWORK": "private", "NETWORK_ID": "3", "SECURITY_GROUPS": "100"}
        vectors = tuple({"SECURITY_GROUP_ID": "100", "SECURITY_GROUP_NAME": "web", **rule} for rule in rules)
        return Template(values={**template(AMI=image).values, "NIC": (nic,), "SECURITY_GROUP_RULE": vectors})

    def group() -> dict[str, Any]:
        asked = [{"Name": "tag:ONE_PROVIDER_SECURITY_GROUP", "Values": ["100"]}]
        (found,) = console.ec2.describe_security_groups(Filters=asked)["SecurityGroups"]
        return dict(found)

    inbound = {"RULE_TYPE": "INBOUND", "PROTOCOL": "TCP", "RANGE": "22", "IP": "192.0.2.0", "SIZE": "256"}
    ping = {"RULE_TYPE": "INBOUND", "PROTOCOL": "ICMP", "ICMP_TYPE": "8"}
    ipsec = {"RULE_TYPE": "OUTBOUND", "PROTOCOL": "IPSEC"}
    with Driver(place, f"-t 15 -r 0 {NAME}") as driver:
        deploy_id = driver.created(oned_requests.deploy(7, template=grouped(inbound, ping)))
        asked = [{"Name": "attachment.instance-id", "Values": [deploy_id]}]
        (interface,) = console.ec2.describe_network_interfaces(Filters=asked)["NetworkInterfaces"]
        assert [each["GroupId"] for each in interface["Groups"]] == [group()["GroupId"]]
        assert {(each["IpProtocol"], each["FromPort"]) for each in group()["IpPermissions"]} == {
            ("tcp", 22),
            ("icmp", 8),
        }
        assert group()["IpPermissionsEgress"] == []
        for _ in range(2):
            update = oned_requests.line(
                "UPDATESG", 7, deploy_id=deploy_id, template=grouped(ipsec), operand={"SECURITY_GROUP_ID": "100"}
            )
            assert driver.ask(update) == "SUCCESS 100"
        assert group()["IpPermissions"] == []
        (egress,) = group()["IpPermissionsEgress"]
        assert egress["IpProtocol"] == "50"
        assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"


def test_the_operators_commands_read_the_answers_of_moto(url: str, place: Place) -> None:
    place.configure(CONFIGURATION.format(url=url, key=KEY, secret=SECRET, region=REGION), name=NAME)
    ec2 = Console(url).ec2
    image = ec2.register_image(Name="golden-20250101", RootDeviceName="/dev/xvda")["ImageId"]
    subnets = {each["SubnetId"]: each for each in ec2.describe_subnets()["Subnets"]}
    subnet = min(subnets)
    tags = {"SCHEMA": "1", "OWNER": "one-test", "VM_ID": "42", "STIME": "1", "SEQ": "0", "HOST_ID": "3"}
    made = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet,
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": f"ONE_PROVIDER_{key}", "Value": value} for key, value in tags.items()],
            }
        ],
    )["Instances"][0]["InstanceId"]

    assert [each["image_id"] for each in json_of(place.root, "images", NAME, "--match", "golden")] == [image]
    networks = {each["network_id"]: each for each in json_of(place.root, "networks", NAME)}
    assert networks.keys() == subnets.keys()
    assert networks[subnet]["gateway"] == subnets[subnet]["CidrBlock"].replace(".0/20", ".1")
    assert networks[subnet]["security_groups"] == [
        ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])["SecurityGroups"][0][
            "GroupId"
        ]
    ]
    found = json_of(place.root, "reach", NAME, "--vm", "42", code=3)
    assert found["deploy_id"] == made
    results = {each["what"]: each["is_well"] for each in found["results"]}
    assert (results["instance"], results["status checks"], results["network ACL"]) == (True, True, True)
    assert results["rule for port 22"] is False, "nobody may come in from outside of the default group"
    assert results["route"] is False, "moto's default VPC has no internet gateway"
    assert "Linux version" in output_of(place.root, "console", NAME, "--vm", "42")


def test_disks_and_nics_of_a_template_on_moto(url: str, drivers: tuple[Driver, Driver]) -> None:
    driver, _ = drivers
    console = Console(url)
    subnets = console.ec2.describe_subnets()["Subnets"]
    subnet = next(each for each in subnets if each["AvailabilityZone"] == f"{REGION}a")
    address = subnet["CidrBlock"].rpartition(".")[0] + ".77"
    group = console.ec2.create_security_group(GroupName="web", Description="web", VpcId=subnet["VpcId"])["GroupId"]
    snapshot = console.ec2.create_snapshot(
        VolumeId=console.ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=3)["VolumeId"]
    )["SnapshotId"]
    image = console.ec2.register_image(Name="debian", RootDeviceName="/dev/xvda")["ImageId"]
    device = console.ec2.describe_images(ImageIds=[image])["Images"][0]["RootDeviceName"]
    root = {"DISK_ID": "0", "IMAGE": "debian", "IMAGE_ID": "7", "SIZE": "20480", "PROVIDER_IMAGE": image}
    scratch = {"DISK_ID": "1", "TYPE": "fs", "SIZE": "2048"}
    data = {"DISK_ID": "2", "IMAGE": "data", "IMAGE_ID": "8", "SIZE": "1024", "PROVIDER_IMAGE": snapshot}
    network = {"PROVIDER_SUBNET": subnet["SubnetId"], "PROVIDER_SECURITY_GROUPS": group}
    first = {"NIC_ID": "0", "NETWORK": "private", "IP": address, **network, "PROVIDER_ADDRESSES": "opennebula"}
    second = {"NIC_ID": "1", "NETWORK": "storage", **network}
    section = {"TYPE": NAME, "INSTANCETYPE": "t3.small"}
    parts: dict[str, Any] = {"DISK": (root, scratch, data), "NIC": (first, second), "PUBLIC_CLOUD": (section,)}
    asked = Template(values={"CPU": ("1",), "MEMORY": ("1024",), **parts})

    deploy_id = driver.created(oned_requests.deploy(7, template=asked, host_id=3))
    instance = console.instance(deploy_id)
    assert (instance["ImageId"], instance["PrivateIpAddress"]) == (image, address)
    assert [each["Groups"][0]["GroupId"] for each in instance["NetworkInterfaces"]] == [group, group]
    assert sizes(console, deploy_id) == {device: 20, "/dev/sdf": 2, "/dev/sdg": 3}

    larger = {**scratch, "SIZE": "4096"}
    assert driver.ask(oned_requests.line("RESIZEDISK", 7, deploy_id=deploy_id, operand=larger)) == "SUCCESS -"
    assert driver.ask(oned_requests.line("DETACHDISK", 7, deploy_id=deploy_id, operand=data)) == "SUCCESS -"
    assert sizes(console, deploy_id) == {device: 20, "/dev/sdf": 4}
    # moto drops a launch's tags of interfaces, so that the NIC is not detached here: test_launch_interfaces.py does.
    assert driver.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert console.state(deploy_id) == "terminated"


def sizes(console: Console, instance_id: str) -> dict[str, int]:
    """GiB of the instance's volumes by device."""
    wanted = [{"Name": "attachment.instance-id", "Values": [instance_id]}]
    volumes = console.ec2.describe_volumes(Filters=wanted)["Volumes"]
    return {each["Attachments"][0]["Device"]: each["Size"] for each in volumes}
