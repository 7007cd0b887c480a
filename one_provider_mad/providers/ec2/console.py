"""Reads an instance's console and password (docs.aws.amazon.com, API_GetConsoleOutput and its like)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from one_provider_mad.domain import DeployId
from one_provider_mad.errors import BadParameter, ProviderUnavailable
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.safe_xml import Element, text_of


async def console_text(client: Client, deploy_id: DeployId) -> str:
    """Return the console's text: the present one, or for types that lack it the one after the latest start or stop.

    EC2 keeps 64 KB. Only types on the Nitro system have the present one (API_GetConsoleOutput, Latest); others refuse
    it with UnsupportedOperation.

    Raises:
        ProviderError: EC2 refused, or did not answer.
    """
    requested = {"InstanceId": deploy_id}
    try:
        content = await client.call("GetConsoleOutput", {**requested, "Latest": "true"}, read=_content("output"))
    except BadParameter:
        content = await client.call("GetConsoleOutput", requested, read=_content("output"))
    return content.decode("utf-8", "replace")


async def screenshot(client: Client, deploy_id: DeployId) -> bytes:
    """Return a JPEG of a running instance's screen, which is woken up. Raises as `console_text`."""
    requested = {"InstanceId": deploy_id, "WakeUp": "true"}
    return await client.call("GetConsoleScreenshot", requested, read=_content("imageData"))


async def encrypted_password(client: Client, deploy_id: DeployId) -> bytes:
    """Return the encrypted password of a Windows instance, empty for its first minutes and for Linux.

    Raises as `console_text`.
    """
    return await client.call("GetPasswordData", {"InstanceId": deploy_id}, read=_content("passwordData"))


def _content(name: str) -> Callable[[Element], bytes]:
    """Return a reader of an element in base64; whitespace within it is skipped."""

    def read(root: Element) -> bytes:
        try:
            return base64.b64decode(text_of(root.find(name)))
        except binascii.Error as error:
            raise ProviderUnavailable(f"EC2: {name} in the answer is not base64") from error

    return read
