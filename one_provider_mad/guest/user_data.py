"""The user data of a VM's instance, by the program in its guest."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.domain import Value, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.guest.choice import Program
from one_provider_mad.guest.cloud_init import cloud_init_data
from one_provider_mad.guest.cloudbase_init import cloudbase_init_data
from one_provider_mad.guest.lines import old_lines, one_context_data
from one_provider_mad.guest.parts import packed
from one_provider_mad.guest.reading import KEYS, MOST_SENTENCES, Context, read_context

_BEST_RATIO = 32
"""Ratio to which gzip may pack a text. A larger CONTEXT is not even tried, since megabytes would hold up the driver."""


class UserData(Value, frozen=True, kw_only=True):
    """User data of an instance, and what it leaves out.

    Attributes:
        data: b"" for nothing.
        warnings: sentences for the VM's log.
    """

    data: bytes = b""
    warnings: tuple[str, ...] = ()


def user_data_for(request: VmRequest, program: Program, *, limit: int) -> UserData:
    """Make the user data from the VM's CONTEXT; nothing when it has none.

    The same request gives the same data.

    Args:
        request: the VM.
        program: the program in its guest.
        limit: bytes beyond which it is sent in gzip, where the guest takes that.

    Raises:
        BadParameter: CONTEXT is so large that it fits in no case.
    """
    contexts = request.template.vectors("CONTEXT")
    if not contexts:
        return UserData()
    attributes = contexts[0]
    if program == "none":
        return UserData(warnings=_not_sent(attributes))
    if (size := sum(map(len, attributes.values()))) > _BEST_RATIO * limit:
        raise BadParameter(f"CONTEXT has {size} characters, the cloud takes {limit} bytes of user data: shorten it")
    if program == "unset":
        return UserData(data=old_lines(attributes), warnings=(_UNSET, *_onegate(attributes)))
    context = read_context(attributes)
    purpose = f"{request.vm_id}:{request.stime}"
    if program == "one-context":
        data, warnings = one_context_data(attributes, context, purpose=purpose)
    else:
        data, warnings = (
            cloud_init_data(context, purpose=purpose) if program == "cloud-init" else cloudbase_init_data(context)
        )
        if len(data) > limit:
            data = packed(data)
    return UserData(
        data=data, warnings=(*_keyless(attributes, context), *warnings[:MOST_SENTENCES], *_onegate(attributes))
    )


_UNSET = (
    'CONTEXT reaches the guest as KEY="value" lines, which hardly any image reads: set guest in [context] of the'
    ' configuration, such as "auto" for cloud-init'
)


def _not_sent(attributes: Mapping[str, str]) -> tuple[str, ...]:
    context = read_context(attributes)
    is_empty = not (context.names - {"DISK_ID", "TARGET", "NETWORK"} - {
        name for name in context.names for interface in context.interfaces if name.startswith(f"{interface}_")
    })  # fmt: skip
    return () if is_empty else ("CONTEXT is not sent: the configuration, the image or the template says guest = none",)


def _keyless(attributes: Mapping[str, str], context: Context) -> tuple[str, ...]:
    """Return a sentence for a CONTEXT that asks for a user's SSH key where the user has none, and lets nobody in."""
    asked = next((name for name in KEYS if name in attributes), "")
    if not asked or context.keys or context.password or context.given:
        return ()
    sentence = (
        f"CONTEXT attribute {asked} is empty, so the guest gets no key from it: add a key to the user's settings"
        " (oneuser update) or to the template, and make a new VM"
    )
    return (sentence,)


def _onegate(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence for a guest that is to report and has no token: TOKEN=YES makes one before this is called."""
    if attributes.get("REPORT_READY", "").strip() == "YES" and not attributes.get("ONEGATE_TOKEN"):
        return ("CONTEXT has REPORT_READY=YES without TOKEN=YES, so the guest cannot report: add TOKEN=YES",)
    return ()
