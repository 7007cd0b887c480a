"""Check a VM's template, which an end user writes, against `[policy]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from one_provider_mad.domain import VmRequest
from one_provider_mad.errors import RequestRefused
from one_provider_mad.mappings import Mappings, is_volatile
from one_provider_mad.protocol.messages import Action
from one_provider_mad.settings import Policy

_SECTION = "PUBLIC_CLOUD"
_OLD_SECTION = "EC2"
"""The section of OpenNebula 4.x: it means the cloud `ec2` (OpenNebula src/vm/VirtualMachine.cc, get_public_clouds)."""


_OPERANDS = {
    Action.ATTACHDISK: "DISK",
    Action.RESIZEDISK: "DISK",
    Action.ATTACHNIC: "NIC",
}
"""Actions on one device that a user describes, each with the name of the vector that describes it."""


def check_attributes(policy: Policy, request: VmRequest) -> None:
    """Check the PUBLIC_CLOUD sections, DISKs, NICs and CONTEXT of a VM.

    Raises:
        RequestRefused: one sets an attribute of `policy.forbidden_attributes`.
    """
    check_sections(policy, request)
    for kind in ("DISK", "NIC", "CONTEXT"):
        for each in request.template.vectors(kind):
            _refuse(policy, kind, each, prefix=f"{kind}/")


def check_sections(policy: Policy, request: VmRequest) -> None:
    """Check the PUBLIC_CLOUD sections, and what a VM without one has instead. Raises RequestRefused."""
    plain = dict.fromkeys(request.user_template.values, "")
    _refuse(policy, "USER_TEMPLATE", plain, prefix="USER_TEMPLATE/")
    for kind, section in _sections(request):
        _refuse(policy, kind, section, prefix="")


def check_change(policy: Policy, action: Action, request: VmRequest) -> None:
    """Check the disk, interface or context that an action gives a running VM.

    Raises:
        RequestRefused: it sets an attribute of `policy.forbidden_attributes`.
    """
    if action is Action.UPDATECONF:
        for context in request.template.vectors("CONTEXT"):
            _refuse(policy, "CONTEXT", context, prefix="CONTEXT/")
    elif kind := _OPERANDS.get(action, ""):
        _refuse(policy, kind, request.operand, prefix=f"{kind}/")


def _refuse(policy: Policy, kind: str, values: Mapping[str, str], *, prefix: str) -> None:
    set_here = {f"{prefix}{name.upper()}" for name in values if not _is_by_core(kind, name.upper(), values)}
    names = sorted(policy.forbidden & set_here)
    if names:
        shown = ", ".join(name.removeprefix(prefix) for name in names)
        places = {"DISK": "the template or the image", "NIC": "the template or the network"}
        place = places.get(kind, "the template") if "/PROVIDER_" in "".join(names) else "the template"
        raise RequestRefused(f"{kind} may not set {shown} here: remove it from {place}")


def _is_by_core(kind: str, name: str, values: Mapping[str, str]) -> bool:
    """True for the SIZE that OpenNebula writes into a DISK without one: its image's (Image::disk_attribute).

    A volatile disk may hold an ORIGINAL_SIZE that its user has written.
    """
    is_size = kind == "DISK" and name == "SIZE" and not is_volatile(values)
    return is_size and values.get("SIZE") == values.get("ORIGINAL_SIZE")


def check_section(required_type: str, request: VmRequest, *, cloud: str, mappings: Mappings) -> None:
    """Refuse to create an instance for a VM whose template has neither a section nor a first image for this cloud.

    OpenNebula 7.x places a VM without image and network on any host that has room, on a cloud's host, too.

    Args:
        required_type: TYPE that the VM's PUBLIC_CLOUD section must have; "" when any VM may have an instance.
        request: the VM.
        cloud: name of the provider.
        mappings: has the images that ask for this cloud in a datastore of their own.

    Raises:
        RequestRefused: the section is missing.
    """
    disks = request.template.vectors("DISK")
    if not required_type or (disks and mappings.asks_for_cloud(disks[0])):
        return
    if not _asks_for(request, required_type.casefold(), cloud):
        image = disks[0].get("IMAGE") if disks else ""
        instead = f". VMs with image {image[:80]} need none where [images] has it with its datastore" if image else ""
        raise RequestRefused(
            f'the template has no PUBLIC_CLOUD section with TYPE="{required_type}": add one, or place the VM on another'
            f" host (policy.without_section){instead}"
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
