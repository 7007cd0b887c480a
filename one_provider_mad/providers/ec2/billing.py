"""The tags of `[tags]` as EC2 and its bill take them; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.billing_tags import rendered
from one_provider_mad.domain import OwnedVm
from one_provider_mad.providers.ec2.attributes import MOST_TAGS
from one_provider_mad.providers.interface import ProviderContext

_LONGEST_NAME, _LONGEST_VALUE = 128, 256

_UNUSUAL = re.compile(r"[^\w .:/=+@-]")
"""Characters that the services which read tags do not all take, so that EC2's bill may not show them
(docs.aws.amazon.com, "Tag your Amazon EC2 resources", restrictions)."""


def wanted_tags(vm: OwnedVm, context: ProviderContext) -> dict[str, str]:
    """Return the tags of `[tags]` for a VM, in names and texts that EC2 takes."""
    tags = rendered(context.tags, vm, owner=context.owner)
    return {_name(name): _plain(text)[:_LONGEST_VALUE].strip() for name, text in tags.items()}


def _name(name: str) -> str:
    """Return the name of a tag; `aws:` at its beginning is EC2's own."""
    plain = _plain(name).strip()[:_LONGEST_NAME]
    return f"aws_{plain[4:]}" if plain.lower().startswith("aws:") else plain


def _plain(text: str) -> str:
    return _UNUSUAL.sub("_", text)


def with_billing(tags: Mapping[str, str], billing: Mapping[str, str]) -> dict[str, str]:
    """Return a user's tags with those of `[tags]` over them; of too many the user's last ones are left out."""
    others = [(name, text) for name, text in tags.items() if name not in billing]
    return {**dict(others[: MOST_TAGS - len(billing)]), **billing}
