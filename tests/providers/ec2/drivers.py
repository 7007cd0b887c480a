"""Real drivers on the embedded EC2 endpoint, started as the cores start them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from one_provider_mad.domain import Template
from tests.conftest import assert_spoke_properly
from tests.end_to_end.information_driver import PROGRAM as INFORMATION_DRIVER
from tests.end_to_end.information_driver import Monitored
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import read_modern
from tests.providers.ec2.faulty_endpoint import KEY, REGION, SECRET, FaultyEc2

NAME = "ec2"
OWNER = "one-test"
SECTION = {"TYPE": NAME, "AMI": "ami-0abc", "INSTANCETYPE": "t3.small"}
ENVIRON = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null"}

CONFIGURATION = """
provider = "ec2"
owner = "{owner}"
[ec2]
region = "{region}"
endpoint_url = "{url}"
access_key_id = "{key}"
secret_access_key = "{secret}"
watch_interval = {watch_interval}
visibility_grace = {grace}
{more}
[monitor]
state_period = 0.1
vm_period = 0.1
min_list_interval = 0.05
[capacity]
instance_types = {{ "t3.small" = 10 }}
[context]
guest = "{guest}"
"""


def configuration(
    ec2: FaultyEc2, *, watch_interval: float = 0.02, grace: float = 5.0, guest: str = "auto", more: str = ""
) -> str:
    """A configuration of the endpoint, with short periods."""
    return CONFIGURATION.format(
        owner=OWNER,
        region=REGION,
        url=ec2.url,
        key=KEY,
        secret=SECRET,
        watch_interval=watch_interval,
        grace=grace,
        guest=guest,
        more=more,
    )


def template(**attributes: str) -> Template:
    return Template(
        values={
            "CPU": ("1",),
            "MEMORY": ("1024",),
            "CONTEXT": ({"START_SCRIPT": "echo hi"},),
            "PUBLIC_CLOUD": ({**SECTION, **attributes},),
        }
    )


@contextmanager
def started(place: Place, arguments: str = f"-t 15 -r 0 {NAME}") -> Iterator[Driver]:
    """A driver; when it is left, its output must follow the protocol, and its log must not have the secret."""
    with Driver(place, arguments, environ=ENVIRON) as driver:
        yield driver
    assert_spoke_properly(driver)
    assert SECRET not in place.log(NAME)


class MonitoredEc2(Monitored):
    """An information driver of this cloud."""

    def __init__(self, place: Place, **options: Any) -> None:
        self.place = place
        self._read = read_modern
        self.driver = Driver(place, NAME, program=INFORMATION_DRIVER, environ=ENVIRON, **options)
        self.lines = []

    def log(self) -> str:
        path = self.place.var / f"one_im_provider_{NAME}.log"
        return path.read_text() if path.exists() else ""
