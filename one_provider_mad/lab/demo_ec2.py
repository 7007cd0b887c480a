"""The EC2 endpoint of `one-provider demo --ec2`: a simulated cloud, on loopback, in a thread of this process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from one_provider_mad.domain import Template
from one_provider_mad.lab.demo_life import CONTEXT, EC2_LIFE, Play
from one_provider_mad.providers.ec2.credentials import MISSING

REGION = "eu-west-1"
KEY = "AKIADEMONSTRATION000"

_SETTINGS = """\
# Written by `one-provider demo --ec2`: an endpoint on this machine, and keys that nothing else accepts.
provider = "ec2"
owner = "demo"

[ec2]
region = "{region}"
endpoint_url = "{url}"
pricing_endpoint_url = "{url}"
access_key_id = "{key}"
secret_access_key = "{secret}"
watch_interval = 0.1
visibility_grace = 5.0

[context]
guest = "auto"

[monitor]
state_period = 0.1
sync_period = 0.2
min_list_interval = 0.1

[capacity]
instance_types = {{ "t3.small" = 10 }}
"""


_TEMPLATE = Template(
    values={
        "CPU": ("1",),
        "MEMORY": ("1024",),
        "PUBLIC_CLOUD": ({"TYPE": "ec2", "AMI": "ami-0123456789abcdef0", "INSTANCETYPE": "t3.small,t3a.small"},),
        "CONTEXT": (CONTEXT,),
    }
)
"""The VM's template."""


class NoBotocore(Exception):
    """botocore is not installed; the message is one sentence."""


@contextmanager
def ec2_stage(folder: Path) -> Iterator[Play]:
    """Serve an account during the demonstration.

    Args:
        folder: folder for the account's file.

    Raises:
        NoBotocore: the extra `ec2` is not installed.
    """
    if find_spec("botocore") is None:
        raise NoBotocore(MISSING)
    from one_provider_mad.lab.ec2.account import Account
    from one_provider_mad.lab.ec2.background import Background
    from one_provider_mad.lab.ec2.offers import EC2_TYPES
    from one_provider_mad.lab.ec2.server import Server
    from one_provider_mad.lab.ec2.signatures import Key
    from one_provider_mad.providers.simulated.settings import SimulatedSettings

    offered = SimulatedSettings(
        account="123456789012",
        region=REGION,
        latency=0.02,
        boot_time=0.3,
        stop_time=0.2,
        destroy_time=0.1,
        instance_types=dict(EC2_TYPES),
    )
    secret = secrets.token_urlsafe(30)
    server = Server(Account(folder / "ec2-cloud.db", offered), keys={KEY: Key(secret)})
    with Background(server) as endpoint:
        yield Play(
            name="ec2",
            settings=_SETTINGS.format(region=REGION, url=endpoint.url, key=KEY, secret=secret),
            life=EC2_LIFE,
            template=_TEMPLATE,
            # The machine's own AWS settings must not take part.
            environ={
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            stage=f"EC2's API at {endpoint.url}, on a simulated cloud",
            is_lasting=False,
        )
