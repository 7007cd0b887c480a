"""The parameters of a create at a partner's, in the journal and as a template text. Pure."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from one_provider_mad.billing_tags import rendered
from one_provider_mad.domain import TAG_PREFIX, Identity, OwnedVm, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.mapped_images import further_disks, image_name, mapped_image, root_disk
from one_provider_mad.providers.mapped_networks import (
    MappedNetwork,
    leased_address,
    left_out,
    mapped_network,
    plain_nics,
    unused_leases,
)
from one_provider_mad.providers.opennebula.settings import OpenNebulaSettings
from one_provider_mad.providers.public_cloud import Section, disks_not_made, nics_not_made, some
from one_provider_mad.template_text.exact_writer import UnwritableError, attribute, is_writable, vector
from one_provider_mad.template_text.grammar import CDATA_END, FORBIDDEN

KNOWN_ATTRIBUTES = (
    *("TYPE", "HOST", "CLOUD", "NAME", "TAGS", "TEMPLATE_ID", "TEMPLATE_NAME", "TEMPLATE_TEXT"),
    *("CPU", "VCPU", "MEMORY", "NETWORKS", "HOLD", "GROUP"),
)
"""All attributes of a PUBLIC_CLOUD section for a partner; TEMPLATE_ID is upstream's."""

_LOCAL_CONTEXT = re.compile(r"(?:ETH|PCI)[0-9]+_.*|DISK_ID|TARGET|VMID|ONEGATE_.*|TOKEN|ONEADMIN_.*|FILES|FILES_DS")
"""Attributes of CONTEXT about the local OpenNebula's disks, networks, OneGate and files; the remote has its own. FILES
would name files of the partner's front-end."""

_MADE = "ONEGATE_TOKEN"
"""The token that the driver makes for the local OneGate, since it is the local VM that READY is awaited of."""

_ONEGATE = (_MADE, "ONEGATE_ENDPOINT", "VMID")
"""What a guest needs to report to the local OneGate. Guests prefer this token to one on a context disk, but a TOKEN at
the partner's would replace the other two (src/vm/VirtualMachineContext.cc, generate_token_context)."""

_WRITTEN_CONTEXT = re.compile(r"(?:ETH|PCI)[0-9]+_.*|DISK_ID|TARGET")
"""Attributes that OpenNebula writes anew into a given CONTEXT (src/vm/VirtualMachine.cc, updateconf)."""

_FILES = ("FILES", "FILES_DS", "INIT_SCRIPTS")
"""Attributes about files of the local front-end."""

_AS_BASE64 = ("START_SCRIPT", "PASSWORD", "CRYPTED_PASSWORD")
"""Attributes that OpenNebula's contextualization packages also accept as `<NAME>_BASE64`."""

_YES = frozenset({"YES", "TRUE", "1"})

SIZE = ("CPU", "VCPU", "MEMORY")

LOCAL_DISK_ID = "ONE_PROVIDER_DISK_ID"
LOCAL_NIC_ID = "ONE_PROVIDER_NIC_ID"
"""Attributes of remote disks and interfaces with the number of the local one that they were made for."""

_VOLATILE = ("TYPE", "FORMAT", "FS", "DEV_PREFIX", "TARGET", "BUS", "CACHE", "DRIVER")
"""Attributes of a local disk with the same meaning at the partner's."""


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The parameters of a create, as in the journal.

    Attributes:
        template: number or name of the remote template, "" when there is a text.
        text: a whole template, "" when there is a remote one.
        name: the remote VM's.
        hold: whether it is created on hold.
        group: number or name of its group, "" for the remote user's own.
        capacity: CPU, VCPU, MEMORY (MiB) in place of the template's.
        networks: network attribute and name for each interface; empty: the template's own.
        disks: disks that are made beside the remote template's.
        root_size: MB of the remote template's first disk, if it is smaller; 0 for its own size.
        tags: the user's own, as attributes.
        attributes: the operator's.
        context: the VM's CONTEXT without local attributes.
        is_context_merged: whether it is added to the remote template's own.
    """

    template: str
    name: str
    text: str = ""
    hold: bool = False
    group: str = ""
    capacity: dict[str, str] = {}
    networks: list[dict[str, str]] = []
    disks: list[dict[str, str]] = []
    root_size: int = 0
    tags: dict[str, str] = {}
    attributes: dict[str, str] = {}
    context: dict[str, str] = {}
    is_context_merged: bool = True


def plan_launch(
    request: VmRequest, section: Section, settings: OpenNebulaSettings, provider_context: ProviderContext
) -> tuple[Launch, tuple[str, ...]]:
    """Return the parameters of a create, and warnings for the VM's log. Raises BadParameter."""
    text = section.text("TEMPLATE_TEXT")
    if text and not settings.allow_template_text:
        raise BadParameter(
            "TEMPLATE_TEXT in PUBLIC_CLOUD is allowed only with allow_template_text of the configuration: name a remote"
            " template with TEMPLATE_ID or TEMPLATE_NAME"
        )
    if TAG_PREFIX in text.upper():
        raise BadParameter(f"TEMPLATE_TEXT names {TAG_PREFIX}: this prefix is the driver's own, remove these names")
    template = "" if text else _template(request, section, settings, provider_context)
    named = [network_of(name.strip()) for name in section.text("NETWORKS").split(",") if name.strip()]
    nics = [] if named else _mapped_nics(request, provider_context)
    makes_disks = settings.template_disks and not text
    disks = _further(request, provider_context) if makes_disks else {}
    context, lost = _context(request, settings)
    launch = Launch(
        template=template,
        text=text,
        name=section.text("NAME") or f"{settings.name_prefix}{request.vm_id}",
        hold=section.text("HOLD").upper() in _YES or settings.hold,
        group=section.text("GROUP") or settings.group,
        capacity=dict(_capacity(request, section, settings)),
        networks=named or [mapped_nic(nic, network) for nic, network in nics],
        disks=list(disks.values()),
        root_size=_root_size(request, provider_context) if makes_disks else 0,
        tags={**tags_of(section), **wanted_tags(request.owned_vm, provider_context)},
        attributes=dict(settings.attributes),
        context=context,
        is_context_merged=settings.context == "merge" and not text,
    )
    write_extra(launch, request.identity(owner="-"), launch.context)  # fails now if the text cannot be written
    warnings = (*lost, *_disk_warnings(request, disks, provider_context), *_nic_warnings(request, nics))
    return launch, warnings


def _mapped_nics(request: VmRequest, context: ProviderContext) -> list[tuple[Mapping[str, str], MappedNetwork]]:
    return [(nic, network) for nic in plain_nics(request) if (network := mapped_network(nic, context))]


def mapped_nic(nic: Mapping[str, str], network: MappedNetwork) -> dict[str, str]:
    """Return the NIC at the partner's for a local one whose network is mapped: the first of its remote networks."""
    remote = network.subnets[0] if network.subnets else nic.get("NETWORK", "")
    asked = {
        "MODEL": nic.get("MODEL", ""),
        "SECURITY_GROUPS": ",".join(network.security_groups),
        "IP": _asked_address(nic, network),
        LOCAL_NIC_ID: nic.get("NIC_ID", ""),
    }
    return {**network_of(remote), **{name: value for name, value in asked.items() if value}}


def _asked_address(nic: Mapping[str, str], network: MappedNetwork) -> str:
    return leased_address(nic) if network.addresses == "opennebula" else ""


def _nic_warnings(request: VmRequest, nics: list[tuple[Mapping[str, str], MappedNetwork]]) -> Iterator[str]:
    if nics:
        yield from left_out(request, made=[nic for nic, _ in nics])
        asked = [(nic, _asked_address(nic, network)) for nic, network in nics]
        yield from unused_leases(asked, chooser="the partner")
        return
    yield from nics_not_made(
        request,
        made="the remote VM",
        instead="it has those of NETWORKS or of the remote template, and further ones are attached later with"
        " onevm nic-attach",
    )


def remote_disk(disk: Mapping[str, str], context: ProviderContext) -> dict[str, str]:
    """Return the DISK at the partner's for a local one: empty, or the remote image that stands for its image.

    Raises:
        BadParameter: nothing stands for its image, or its SIZE is no number.
    """
    for name, remote_name in (("REMOTE_IMAGE_ID", "IMAGE_ID"), ("REMOTE_IMAGE", "IMAGE")):
        if image := disk.get(name, ""):
            return {remote_name: image, **_placed(disk)}
    if image := mapped_image(disk, context).image:
        return {"IMAGE_ID" if image.isdecimal() else "IMAGE": image, **_placed(disk)}
    if disk.get("IMAGE_ID") or disk.get("IMAGE"):
        raise BadParameter(
            f"image {image_name(disk)} is not at the partner's: name one of theirs with REMOTE_IMAGE_ID, or in [images]"
        )
    if not disk.get("SIZE"):
        raise BadParameter("SIZE is missing: nothing was done")
    size = str(int(figure(disk["SIZE"], "SIZE")))
    return {"TYPE": "fs", "SIZE": size, **{key: disk[key] for key in _VOLATILE if disk.get(key)}}


def _placed(disk: Mapping[str, str]) -> dict[str, str]:
    return {key: disk[key] for key in ("TARGET", "DEV_PREFIX") if disk.get(key)}


def _further(request: VmRequest, context: ProviderContext) -> dict[int, dict[str, str]]:
    """Return the remote disks for the VM's further disks that the partner can have, by their position."""
    made: dict[int, dict[str, str]] = {}
    for at, disk in enumerate(further_disks(request)):
        try:
            remote = remote_disk({**disk, "TARGET": ""}, context)  # the template's disks have targets of their own
        except BadParameter:
            continue
        if disk.get("DISK_ID"):
            made[at] = {**remote, LOCAL_DISK_ID: disk["DISK_ID"]}
    return made


def _root_size(request: VmRequest, context: ProviderContext) -> int:
    """Return the MB of the first disk if `[images]` or the image names its remote template, else 0."""
    disk = root_disk(request)
    mapped = mapped_image(disk, context)
    size = int(figure(disk.get("SIZE") or "0", "SIZE"))
    return max(size, 1024 * mapped.smallest_disk) if mapped.image else 0


def _disk_warnings(
    request: VmRequest, made: Mapping[int, Mapping[str, str]], context: ProviderContext
) -> Iterator[str]:
    root = root_disk(request)
    missing = [disk for at, disk in enumerate(further_disks(request)) if at not in made]
    if root and not mapped_image(root, context).image:
        missing.insert(0, root)
    yield from disks_not_made(
        missing,
        made="the remote VM",
        instead="it has those of the remote template, and further ones are attached later with onevm disk-attach",
    )


def merged_disks(launch: Launch, remote: list[dict[str, str]], sizes: list[str]) -> list[dict[str, str]]:
    """Return the DISKs to send with the create, which replace all of the remote template's; none if those serve.

    Args:
        launch: the parameters of the create.
        remote: DISKs of the remote template.
        sizes: SIZE in MB of each, "" where it is not known.
    """
    is_larger = bool(remote and sizes and sizes[0]) and launch.root_size > figure(sizes[0], "SIZE")
    if not is_larger and not launch.disks:
        return []
    first = [{**remote[0], "SIZE": str(launch.root_size)}] if is_larger else remote[:1]
    return [*first, *remote[1:], *launch.disks]


def tags_of(section: Section) -> dict[str, str]:
    """Return the user's own tags, as attributes of the remote VM."""
    return {_tag_name(name): value for name, value in section.tags.items()}


_LONGEST_TAG = 1024


def wanted_tags(vm: OwnedVm, context: ProviderContext) -> dict[str, str]:
    """Return the tags of `[tags]` for a VM as attributes of the remote VM, named like a user's own."""
    tags = rendered(context.tags, vm, owner=context.owner)
    return {_tag_name(name): _writable(text) for name, text in tags.items()}


def _tag_name(name: str) -> str:
    return f"TAG_{re.sub('[^A-Z0-9_]', '_', name.upper())}"


def _writable(text: str) -> str:
    """Return a text that a template can hold, with `_` for what it cannot."""
    plain = FORBIDDEN.sub("_", text)[:_LONGEST_TAG].replace(CDATA_END, "]]_")
    return f"{plain[:-1]}_" if plain.endswith("\\") else plain


def write_attributes(values: Mapping[str, str]) -> str:
    """Return attributes as a template text, empty ones included. Raises BadParameter."""
    try:
        return "\n".join(attribute(name, value) for name, value in values.items())
    except UnwritableError as error:
        raise BadParameter(f"{error}") from error


def write_extra(
    launch: Launch, identity: Identity, context: Mapping[str, str], disks: Sequence[Mapping[str, str]] = ()
) -> str:
    """Return the template text that goes with the create, identity included. Raises BadParameter.

    Args:
        launch: the parameters of the create.
        identity: the VM's.
        context: the final CONTEXT.
        disks: DISKs in place of the remote template's; none for those.
    """
    try:
        return "\n".join(_lines(launch, identity, context, disks))
    except UnwritableError as error:
        raise BadParameter(f"{error}") from error


def write_whole(launch: Launch, identity: Identity) -> str:
    """Return the whole template of a VM with a text of its own. Raises BadParameter.

    The driver's attributes come first: of several with one name the first one counts, so the text cannot replace them.
    """
    try:
        name = attribute("NAME", launch.name)
    except UnwritableError as error:
        raise BadParameter(f"{error}") from error
    return f"{name}\n{write_extra(launch, identity, launch.context)}\n{launch.text}"


def _lines(
    launch: Launch, identity: Identity, context: Mapping[str, str], disks: Sequence[Mapping[str, str]]
) -> Iterator[str]:
    for values in (launch.capacity, launch.attributes, launch.tags):
        yield from (attribute(name, value) for name, value in values.items() if value)
    yield from (vector("NIC", network) for network in launch.networks)
    yield from (vector("DISK", disk) for disk in disks)
    if any(context.values()):
        yield vector("CONTEXT", context)
    yield attribute("REMOTE_OPENNEBULA", "YES")
    yield attribute("REMOTE_OPENNEBULA_VM_ID", str(identity.vm_id))
    yield write_identity(identity)


def write_identity(identity: Identity) -> str:
    """Return the tags as attributes of the remote VM's USER_TEMPLATE."""
    return "\n".join(attribute(name, value) for name, value in identity.tags().items())


def merged_context(remote: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """Return the remote template's CONTEXT with `ours` over it.

    A script replaces the other's, plain or in base64, and a token for the local OneGate the partner's.
    """
    forms = [{name, f"{name}_BASE64"} for name in _AS_BASE64]
    forms += [{_MADE, "TOKEN"}]
    dropped = {name for both in forms if both & ours.keys() for name in both}
    return {**{name: value for name, value in remote.items() if name not in dropped}, **ours}


def portable_context(context: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the part of a VM's CONTEXT that can go to a partner, and the names of the rest.

    The remote replaces `$NAME` and `$USER[NAME]` with values of its own (src/parsers/vm_var_parser.l), which would
    change a text, or disclose a value of the partner's. A `$` cannot be escaped: such a text goes as base64 if it can.
    """
    kept, lost = {}, []
    for name, value in without_local(context).items():
        if "$" not in value and is_writable(value):
            kept[name] = value
        elif name in _AS_BASE64:
            kept.setdefault(f"{name}_BASE64", base64.b64encode(value.encode()).decode())
        else:
            lost.append(name)
    return kept, tuple(lost)


def without_local(context: Mapping[str, str]) -> dict[str, str]:
    """Return CONTEXT without the attributes that each OpenNebula writes for itself."""
    onegate = _ONEGATE if context.get(_MADE) else ()
    return {
        name: value
        for name, value in context.items()
        if value and (name in onegate or not _LOCAL_CONTEXT.fullmatch(name))
    }


def without_written(context: Mapping[str, str]) -> dict[str, str]:
    """Return a remote VM's CONTEXT for updateconf, with FILES_DS and TOKEN, which would be lost otherwise."""
    return {name: value for name, value in context.items() if value and not _WRITTEN_CONTEXT.fullmatch(name)}


def figure(text: str, name: str) -> float:
    """Parse a number of a VM's template, such as CPU. Raises BadParameter."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise BadParameter(f"{name}={text} of the template is not a number: write a figure that is not negative")
    return number


def _template(request: VmRequest, section: Section, settings: OpenNebulaSettings, context: ProviderContext) -> str:
    number, name = section.text("TEMPLATE_ID"), section.text("TEMPLATE_NAME")
    if number and not (number.isascii() and number.isdecimal()):
        raise BadParameter(f"TEMPLATE_ID={number} is no number of a remote template: use TEMPLATE_NAME for names")
    disk = root_disk(request)
    template = number or name or mapped_image(disk, context).image or settings.template
    if not template:
        unmapped = f", or map image {image_name(disk)} in [images]" if disk else ""
        raise BadParameter(f"PUBLIC_CLOUD names no remote template: set TEMPLATE_ID or TEMPLATE_NAME{unmapped}")
    return template


def _capacity(request: VmRequest, section: Section, settings: OpenNebulaSettings) -> Iterator[tuple[str, str]]:
    for name in SIZE:
        asked = section.text(name)
        if not asked and settings.capacity_from == "vm":
            asked = request.template.text(name).strip()
        if asked and figure(asked, name):
            yield name, asked


def network_of(name: str) -> dict[str, str]:
    """Return the network attributes for a number, a name, or `owner/name` with the owner's name."""
    if name.isascii() and name.isdecimal():
        return {"NETWORK_ID": name}
    owner, slash, rest = name.partition("/")
    return {"NETWORK": rest, "NETWORK_UNAME": owner} if slash else {"NETWORK": name}


def _context(request: VmRequest, settings: OpenNebulaSettings) -> tuple[dict[str, str], tuple[str, ...]]:
    given = {name: value for section in request.template.vectors("CONTEXT") for name, value in section.items()}
    if settings.context == "none":
        is_dropped = any(without_local(given))
        return {}, ('CONTEXT is not sent: the configuration has context = "none"',) if is_dropped else ()
    context, lost = portable_context(given)
    sentences = [lost_sentence(some(lost))] if lost else []
    if files := [name for name in _FILES if given.get(name)]:
        sentences.append(
            f"{' and '.join(files)} of CONTEXT do nothing at a partner: files of the context disk stay on this"
            " OpenNebula's front-end, put a script into START_SCRIPT"
        )
    return context, tuple(sentences)


def lost_sentence(name: str) -> str:
    """Return the warning for a CONTEXT attribute that cannot go to a partner."""
    return f"CONTEXT attribute {name} is left out: the partner would misread its $, ]]> or final backslash"
