"""Attributes of images and networks that the core copies into DISK and NIC (INHERIT_IMAGE_ATTR, INHERIT_VNET_ATTR)."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.providers.interface import ProviderContext

IMAGE_ATTRIBUTES = ("PROVIDER_IMAGE", "PROVIDER_GUEST", "PROVIDER_USER", "PROVIDER_SMALLEST_DISK")
"""Attributes of images: the cloud's image, the guest's program for the context, its login user, GiB of its root."""

NETWORK_ATTRIBUTES = ("PROVIDER_SUBNET", "PROVIDER_SECURITY_GROUPS", "PROVIDER_PUBLIC_ADDRESS", "PROVIDER_ADDRESSES")
"""Attributes of virtual networks: subnet, comma list of groups, YES or NO, `cloud` or `opennebula`."""


def inherited(device: Mapping[str, str], name: str, context: ProviderContext) -> str:
    """Return an attribute of a DISK or NIC as it counts for this cloud, "" for none.

    A value is for all clouds, `ami-1`, or for some: `aws-east=ami-1 aws-west=ami-2`, by NAME of the drivers or else by
    the host's HYPERVISOR.

    Args:
        device: DISK or NIC.
        name: one of `IMAGE_ATTRIBUTES` or `NETWORK_ATTRIBUTES`.
        context: the cloud's names.
    """
    text = device.get(name, "").strip()
    pairs = [word.partition("=") for word in text.split()]
    if not pairs or not all(cloud and is_pair for cloud, is_pair, _ in pairs):
        return text
    values = {cloud.casefold(): value for cloud, _, value in reversed(pairs)}
    return values.get(context.name.casefold()) or values.get(context.hypervisor.casefold(), "")
