"""The consoles of instances, as in docs.aws.amazon.com, API_GetConsoleOutput, -Screenshot and API_GetPasswordData."""

from __future__ import annotations

import base64

from one_provider_mad.domain import InstanceState
from one_provider_mad.lab.ec2 import forms, shown
from one_provider_mad.lab.ec2.answers import Answer, Moment
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.providers.simulated import table
from one_provider_mad.providers.simulated.guest_console import told_lines

PICTURE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////"
    "////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA="
)
"""A JPEG of one pixel."""

LONGEST = 65536
"""Bytes of a console that are kept: its end (API_GetConsoleOutput)."""


class Consoles:
    """The consoles of one account's instances.

    Args:
        resources: the account.

    Attributes:
        written: what the guest of an instance has written, by its id, instead of an ordinary start.
        passwords: encrypted password in base64 of Windows instances, by id.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.written: dict[str, str] = {}
        self.passwords: dict[str, str] = {}

    async def output(self, form: Form) -> Answer:
        """Carry out GetConsoleOutput; `Latest` is refused for types that are not on the Nitro system."""
        row, now = await self._one(form)
        if forms.is_true(form, "Latest") and row.type.startswith(("t2.", "m4.", "c4.")):
            text = "This instance type does not support retrieving the latest console logs."
            raise Refusal("UnsupportedOperation", text)
        state = row.state_at(now)
        text = self.written.get(row.id, "" if state is InstanceState.PENDING else _started(row))
        content = base64.b64encode(text.encode()[-LONGEST:]).decode()
        return {"instanceId": row.id, "timestamp": Moment(now), "output": content}

    async def screenshot(self, form: Form) -> Answer:
        """Carry out GetConsoleScreenshot, of a running instance."""
        row, now = await self._one(form)
        if row.state_at(now) is not InstanceState.RUNNING:
            raise Refusal("IncorrectInstanceState", f"The instance '{row.id}' is not in a state that has a screen.")
        return {"instanceId": row.id, "imageData": base64.b64encode(PICTURE).decode()}

    async def password(self, form: Form) -> Answer:
        """Carry out GetPasswordData."""
        row, now = await self._one(form)
        return {"instanceId": row.id, "timestamp": Moment(now), "passwordData": self.passwords.get(row.id, "")}

    async def _one(self, form: Form) -> tuple[table.Row, float]:
        view = await self._resources.named([forms.value(form, "InstanceId")])
        return view.rows[0], view.now


def _user_data(row: table.Row) -> str:
    """Return the instance's user data; "" for bytes that are no text, such as gzip's."""
    try:
        return base64.b64decode(shown.details(row).get("UserData", "")).decode()
    except ValueError:
        return ""


def _started(row: table.Row) -> str:
    """Return what a Linux guest with cloud-init writes while it starts."""
    address = shown.private_ip(row).replace(".", "-")
    told = "".join(f"cloud-init: {line}\r\n" for line in told_lines(_user_data(row)))
    return (
        "[    0.000000] Linux version 6.1.0-37-cloud-amd64 (debian-kernel@lists.debian.org)\r\n"
        "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mssh.service\x1b[0m - OpenBSD Secure Shell server.\r\n"
        f"{told}"
        f"cloud-init: instance {row.id} of {row.image}, Datasource DataSourceEc2Local, finished\r\n"
        f"\r\nip-{address} login: "
    )
