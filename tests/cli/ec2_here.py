"""An account of EC2 on loopback, and a configuration of it, for commands that run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from one_provider_mad.domain import DeployId
from one_provider_mad.lab.ec2.account import Account
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.background import Background
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.offers import EC2_TYPES
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.lab.ec2.server import Server
from one_provider_mad.lab.ec2.signatures import Key
from one_provider_mad.lab.ec2.topology import GROUP
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.waiting import HANG

NAME, OWNER, REGION, KEY = "aws", "mine", "eu-west-1", "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

CONFIGURATION = """
provider = "ec2"
owner = "{owner}"
[ec2]
region = "{region}"
endpoint_url = "{url}"
access_key_id = "{key}"
secret_access_key = "{secret}"
"""


class Here:
    """The account, and the OpenNebula with its configuration.

    Args:
        root: ONE_LOCATION.
        account: what is served.
        endpoint: serves it.
    """

    def __init__(self, root: Path, account: Account, endpoint: Background) -> None:
        self.root = root
        self.account = account
        self._endpoint = endpoint
        conf = root / "etc" / "one_provider_mad"
        conf.mkdir(parents=True)
        (root / "var").mkdir()
        self.file = conf / f"{NAME}.toml"
        self.file.write_text(CONFIGURATION.format(owner=OWNER, region=REGION, url=endpoint.url, key=KEY, secret=SECRET))
        self.file.chmod(0o600)

    def launch(self, vm_id: int, *, image: str = "ami-0de0000000000013a", **asked: str) -> DeployId:
        """Run an instance for a VM; it runs at once."""
        tags = {"SCHEMA": "1", "OWNER": OWNER, "VM_ID": str(vm_id), "STIME": "1", "SEQ": "0", "HOST_ID": "3"}
        form = {"ImageId": image, "InstanceType": "t3.small", "TagSpecification.1.ResourceType": "instance", **asked}
        for number, (key, value) in enumerate(tags.items(), 1):
            form[f"TagSpecification.1.Tag.{number}.Key"] = f"ONE_PROVIDER_{key}"
            form[f"TagSpecification.1.Tag.{number}.Value"] = value
        made: Answer = self._endpoint.submit(self.account.perform("RunInstances", form)).result(HANG)
        return DeployId(made["instancesSet"][0]["instanceId"])

    def stop(self, deploy_id: DeployId) -> None:
        """Stop an instance."""
        self._endpoint.submit(self.account.perform("StopInstances", {"InstanceId.1": deploy_id})).result(HANG)

    def refuse(self, action: str) -> None:
        """Refuse an action for want of a right."""

        async def refused(_: Form) -> Answer:
            raise Refusal("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)

        self.account._actions[action] = self.account._actions[action]._replace(handler=refused)

    def let_in(self, cidr: str = "0.0.0.0/0", port: int = 22) -> None:
        """Give the default group a rule."""
        self.account.topology.groups[:] = [self.account.topology.group(GROUP, "default", [(port, cidr)])]


@contextmanager
def ec2_here(root: Path) -> Iterator[Here]:
    types = {**EC2_TYPES, "t2.small": EC2_TYPES["t3.small"]}
    settings = SimulatedSettings(account="123456789012", region=REGION, boot_time=0, instance_types=types)
    account = Account(root / "ec2-cloud.db", settings)
    with Background(Server(account, keys={KEY: Key(SECRET)})) as endpoint:
        yield Here(root, account, endpoint)
