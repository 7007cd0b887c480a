"""Providers connected to a partner OpenNebula, and VMs that burst into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.mappings import Mappings
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.opennebula.provider import OpenNebulaProvider, factory
from one_provider_mad.testing.conformance import OWNER
from tests.xmlrpc.partner import Partner

NO_MAPPINGS = Mappings()
NO_TAGS: Mapping[str, str] = {}
NO_PRICES = PriceSettings()

QUICK: dict[str, Any] = {"watch_interval": 0.004, "patience": 5.0}


def credentials(directory: Path, session: str = "oneadmin:secret") -> Path:
    """Write a credentials file as OpenNebula's own tools expect it, and return its path."""
    path = directory / f"auth-{session.partition(':')[0]}"
    path.write_text(f"{session}\n")
    path.chmod(0o600)
    return path


def connect(
    partner: Partner,
    directory: Path,
    *,
    session: str = "oneadmin:secret",
    warn: Callable[[str], None] = print,
    mappings: Mappings = NO_MAPPINGS,
    tags: Mapping[str, str] = NO_TAGS,
    prices: PriceSettings = NO_PRICES,
    **settings: Any,
) -> OpenNebulaProvider:
    """A provider, not opened yet."""
    table = {
        "endpoints": partner.urls,
        "credentials_file": str(credentials(directory, session)),
        **QUICK,
        **settings,
    }
    context = ProviderContext(
        name="burst",
        hypervisor="opennebula",
        owner=OWNER,
        state_directory=directory,
        mappings=mappings,
        tags=tags,
        prices=prices,
        warn=warn,
    )
    provider = factory(context, msgspec.convert(table, factory.settings_type))
    assert isinstance(provider, OpenNebulaProvider)
    return provider


def a_vm(
    vm_id: int = 1,
    *,
    context: Mapping[str, str] | None = None,
    asking: Mapping[str, str] = {},
    **section: str,
) -> VmRequest:
    """A VM with this PUBLIC_CLOUD section."""
    return VmRequest(
        vm_id=VmId(vm_id),
        name=f"vm-{vm_id}",
        host="partner",
        host_id=3,
        stime=1_700_000_000,
        template=Template(values={"CPU": ("1",), "MEMORY": ("256",), "CONTEXT": (context,) if context else ()}),
        user_template=Template(
            values={"PUBLIC_CLOUD": ({"TYPE": "opennebula", "TEMPLATE_ID": "0", **asking, **section},)}
        ),
    )
