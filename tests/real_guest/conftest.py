"""What a real driver sends for a CONTEXT, and guests that read it.

ROOTS names the folder that keeps the guests' files, ONE_CONTEXT that of one-context's sources.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from one_provider_mad.domain import Template
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Place
from tests.providers.ec2.drivers import NAME, SECTION, configuration
from tests.providers.ec2.drivers import started as started_driver
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.real_guest.guest import Guest, image, started, why_not


class Sent(NamedTuple):
    """What the driver sent to EC2 and to the VM's log.

    Attributes:
        user_data: bytes, as the guest gets them.
        tokens: `required` or `optional`, for the metadata service.
        log: lines of the VM's log.
    """

    user_data: bytes
    tokens: str
    log: list[str]


Send = Callable[..., Sent]
Start = Callable[[Sent], Guest]


@pytest.fixture(scope="session")
def root() -> Path:
    if reason := why_not():
        pytest.skip(reason)
    return image(Path(os.environ.get("ROOTS", "dist/roots")).resolve())


@pytest.fixture
def send(tmp_path: Path) -> Iterator[Send]:
    """Deploys a VM with this CONTEXT through a real driver, to an EC2 endpoint on loopback."""
    with FaultyEc2().running() as ec2:
        place = Place(tmp_path / "one")

        def deploy(guest: str, context: dict[str, str], *, imdsv2: str = "required") -> Sent:
            place.configure(configuration(ec2, guest=guest, more=f'imdsv2 = "{imdsv2}"'), name=NAME)
            template = Template(
                values={"CPU": ("1",), "MEMORY": ("1024",), "CONTEXT": (context,), "PUBLIC_CLOUD": (SECTION,)}
            )
            with started_driver(place) as driver:
                driver.created(oned_requests.deploy(7, template=template))
                log = [line for line in driver.lines if line.startswith("LOG ")]
            ((_, form),) = [call for call in ec2.account.calls if call[0] == "RunInstances"]
            return Sent(base64.b64decode(form["UserData"]), form["MetadataOptions.HttpTokens"], log)

        yield deploy


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a guest whose metadata service has what was sent."""
    with ExitStack() as stack:
        yield lambda sent: stack.enter_context(
            started(root, tmp_path / "guest", sent.user_data, tokens=sent.tokens, instance_id="i-0abc")
        )
