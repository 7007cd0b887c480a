"""Makes an instance's user data from USERDATA of its section, or else from the VM's CONTEXT; no I/O."""

from __future__ import annotations

from one_provider_mad.domain import Value, VmRequest
from one_provider_mad.guest.choice import ATTRIBUTE, USER_ATTRIBUTE, Program, choose
from one_provider_mad.guest.user_data import user_data_for
from one_provider_mad.mappings import Guest
from one_provider_mad.providers.ec2.attributes import LONGEST_USER_DATA, encoded_user_data, flag, user_data
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.mapped_images import mapped_image, root_disk
from one_provider_mad.providers.public_cloud import SECTION, Section


class InstanceUserData(Value, frozen=True, kw_only=True):
    """User data for one instance.

    Attributes:
        encoded: in base64, "" for none.
        program: what reads it in the guest.
        warnings: sentences for the VM's log.
    """

    encoded: str = ""
    program: Program = "none"
    warnings: tuple[str, ...] = ()


def depends_on_tag(request: VmRequest, section: Section, context: ProviderContext) -> bool:
    """Return True where `[context]` is set, and neither the template nor `[images]` says which guest the image has."""
    if context.mappings.context.guest is None or not any(request.template.vectors("CONTEXT")):
        return False
    is_named = any(section.text(name) for name in (ATTRIBUTE, "CLOUD_INIT", "USERDATA"))
    is_named = is_named or bool(request.user_template.text(USER_ATTRIBUTE))
    return not is_named and mapped_image(root_disk(request), context).guest == "auto"


def user_data_of(
    request: VmRequest, section: Section, context: ProviderContext, *, by_tag: Guest = "auto"
) -> InstanceUserData:
    """Return the user data of the VM's instance.

    Args:
        request: the VM.
        section: its PUBLIC_CLOUD section, completed by the configuration's defaults.
        context: the configuration's tables.
        by_tag: what a tag of the image says, where the template and `[images]` say nothing.

    Raises:
        BadParameter: USERDATA, GUEST or CLOUD_INIT is not valid, or the user data is larger than EC2's limit.
    """
    mapped = mapped_image(root_disk(request), context).guest
    program = choose(
        request,
        in_section=section.text(ATTRIBUTE),
        is_cloud_init=flag("CLOUD_INIT", section.text("CLOUD_INIT")) if section.text("CLOUD_INIT") else None,
        image=by_tag if mapped == "auto" else mapped,
        settings=context.mappings.context,
    )
    if given := section.text("USERDATA"):
        return InstanceUserData(encoded=user_data(given), program=program, warnings=_replaced(request))
    made = user_data_for(request, program, limit=LONGEST_USER_DATA)
    encoded = encoded_user_data(made.data, source="CONTEXT") if made.data else ""
    return InstanceUserData(encoded=encoded, program=program, warnings=made.warnings)


def _replaced(request: VmRequest) -> tuple[str, ...]:
    if not any(request.template.vectors("CONTEXT")):
        return ()
    return (f"USERDATA of the {SECTION} section is sent instead of CONTEXT: the guest gets nothing of the latter",)
