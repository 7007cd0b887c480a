"""Check the VM template of a DEPLOY, which an end user writes, against `[policy]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from one_provider_mad.domain import VmRequest
from one_provider_mad.errors import RequestRefused
from one_provider_mad.settings import Policy

_SECTION = "PUBLIC_CLOUD"
_OLD_SECTION = "EC2"
"""The section of OpenNebula 4.x: it means the cloud `ec2` (OpenNebula src/vm/VirtualMachine.cc, get_public_clouds)."""


def check_attributes(policy: Policy, request: VmRequest) -> None:
    """Raise RequestRefused for a PUBLIC_CLOUD section that sets one of `policy.forbidden_attributes`."""
    forbidden = {name.upper() for name in policy.forbidden_attributes}
    for kind, section in _sections(request):
        if names := sorted(forbidden.intersection(name.upper() for name in section)):
            raise RequestRefused(f"{kind} may not set {', '.join(names)} here: remove it from the template")


def check_section(required_type: str, request: VmRequest, *, cloud: str) -> None:
    """Refuse to create an instance for a VM whose template has no section for this cloud.

    OpenNebula 7.x places a VM without image and network on any host that has room, on a cloud's host, too.

    Args:
        required_type: TYPE that the VM's PUBLIC_CLOUD section must have; "" when any VM may have an instance.
        request: the VM.
        cloud: name of the provider.

    Raises:
        RequestRefused: the section is missing.
    """
    if required_type and not _asks_for(request, required_type.casefold(), cloud):
        raise RequestRefused(
            f'the template has no PUBLIC_CLOUD section with TYPE="{required_type}": add one, or place the VM on another'
            " host (policy.without_section)"
        )


def _asks_for(request: VmRequest, required_type: str, cloud: str) -> bool:
    for kind, section in _sections(request):
        named = section.get("TYPE", "").strip().casefold()
        if named == required_type or (kind == _OLD_SECTION and not named and "ec2" in (required_type, cloud)):
            return True
    return False


def _sections(request: VmRequest) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield each PUBLIC_CLOUD section with its name: of the template in 4.x, later of the user template."""
    for template in (request.user_template, request.template):
        for kind in (_SECTION, _OLD_SECTION):
            yield from ((kind, section) for section in template.vectors(kind))
