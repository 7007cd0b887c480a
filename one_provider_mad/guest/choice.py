"""Which program in a VM's guest reads its context."""

from __future__ import annotations

from typing import Literal, get_args

from one_provider_mad.domain import VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import ContextSettings, Guest, guest_named

Program = Literal["cloud-init", "one-context", "cloudbase-init", "none", "unset"]
"""The program; `unset` where nothing says which, and the guest gets lines as of release 0.1."""

ATTRIBUTE = "GUEST"
"""Attribute of the PUBLIC_CLOUD section."""

USER_ATTRIBUTE = "PROVIDER_GUEST"
"""The same in the user template, for VMs without a section."""


def choose(
    request: VmRequest, *, in_section: str, is_cloud_init: bool | None, image: Guest, settings: ContextSettings
) -> Program:
    """Return the program: by the template, then by the image, then by the configuration.

    Args:
        request: the VM.
        in_section: GUEST of its PUBLIC_CLOUD section, "" for none.
        is_cloud_init: CLOUD_INIT of the section, None for none: YES is cloud-init, NO the form before that.
        image: what configuration or image say of the image.
        settings: the table `[context]`.

    Raises:
        BadParameter: the template names no such program.
    """
    source = ATTRIBUTE if in_section else USER_ATTRIBUTE
    by_template = _guest(in_section or request.user_template.text(USER_ATTRIBUTE), source=source)
    if by_template != "auto":
        return by_template
    if is_cloud_init:
        return "cloud-init"
    if is_cloud_init is False:
        return "one-context" if settings.guest else "unset"
    if image != "auto":
        return image
    if settings.guest is None:
        return "unset"
    return "cloud-init" if settings.guest == "auto" else settings.guest


def _guest(text: str, *, source: str) -> Guest:
    if (guest := guest_named(text.strip() or "auto")) is not None:
        return guest
    raise BadParameter(
        f"{source}={text.strip()[:40]} of the template is none of {', '.join(get_args(Guest))}: correct it"
    )
