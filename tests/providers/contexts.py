"""A provider's context for tests of pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from one_provider_mad.mappings import ImageMapping, Mappings, NetworkMapping
from one_provider_mad.providers.interface import ProviderContext

NO_IMAGES: Mapping[str, ImageMapping] = {}
NO_NETWORKS: Mapping[str, NetworkMapping] = {}


def a_context(
    images: Mapping[str, ImageMapping] = NO_IMAGES,
    networks: Mapping[str, NetworkMapping] = NO_NETWORKS,
    *,
    name: str = "aws-east",
    hypervisor: str = "ec2",
) -> ProviderContext:
    """The context of a cloud with these tables."""
    return ProviderContext(
        name=name,
        hypervisor=hypervisor,
        owner="tests",
        state_directory=Path("/nowhere"),
        mappings=Mappings(images=images, networks=networks),
        warn=lambda _: None,
    )
