"""The PUBLIC_CLOUD section of a VM: which one counts, and what it may not hold.

End users write the section (decision 25): if it sets one of our tags, the deploy fails; an idempotency token in it is
dropped with a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from one_provider_mad.domain import TAG_PREFIX, Value, VmRequest
from one_provider_mad.errors import BadParameter

SECTION = "PUBLIC_CLOUD"

MOST_ATTRIBUTES = 200
"""Most attributes that a section may have, else the request is refused; no cloud has a quarter as many."""

_MOST_SHOWN, _LONGEST_SHOWN = 5, 40
"""Names shown in one sentence, and characters of each."""

_WHICH_SECTION = frozenset({"TYPE", "HOST", "CLOUD"})
"""Attributes that only choose between several sections."""

INTERRUPTED = "INTERRUPTED"
"""Attribute that says what becomes of the VM when its cloud takes its instance back, as `interrupted` of `[spot]`."""

_NO_PART = (*_WHICH_SECTION, INTERRUPTED)
"""Attributes that describe no instance."""

TOKEN_NAMES = ("CLIENTTOKEN", "CLIENT_TOKEN")
"""Attributes that would set the idempotency token; only the driver's own token may be sent."""


class Section(Value, frozen=True, kw_only=True):
    """The section that counts for one VM on one cloud.

    Attributes:
        attributes: name in upper case to its value; without empty values and without tokens.
        tags: the user's own tags, read from TAGS.
        warnings: sentences for the VM's log.
    """

    attributes: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()

    def text(self, name: str, default: str = "") -> str:
        """Return the attribute's value without blanks around it, or the default."""
        return self.attributes.get(name, default)

    def known(self, known: Collection[str]) -> dict[str, str]:
        """Return the attributes that describe the instance and that the cloud's adapter knows."""
        return {name: text for name, text in self.attributes.items() if name in known and name not in _NO_PART}

    def unknown(self, known: Collection[str], *, cloud: str) -> tuple[str, ...]:
        """Return one warning for all attributes unknown to the cloud's adapter, as a tuple; empty for none."""
        names = [name for name in self.attributes if name not in known]
        if not names:
            return ()
        what, are = ("attribute", "is") if len(names) == 1 else ("attributes", "are")
        sentence = f"{SECTION} {what} {some(names)} {are} not known to the {cloud} cloud and {are} ignored"
        return (f"{sentence}, known are {listed(known)}",)


def disks_not_made(disks: Sequence[Mapping[str, str]], *, made: str, instead: str) -> Iterator[str]:
    """Yield a warning for disks of a VM's template that a create does not make; nothing for none.

    Args:
        disks: the DISKs.
        made: what is made, `the instance`.
        instead: what it has, and how it gets others.
    """
    if disks:
        numbers = ", ".join(each.get("DISK_ID", "") for each in disks)
        yield f"{made} is made without the template's disks ({numbers}): {instead}"


def nics_not_made(request: VmRequest, *, made: str, instead: str) -> Iterator[str]:
    """Yield a warning for the interfaces of the VM's template, for a create that makes none of them.

    Args:
        request: the VM.
        made: what is made, `the instance`.
        instead: what it has, and how it gets others.
    """
    template = request.template
    if nics := [each.get("NIC_ID", "") for name in ("NIC", "NIC_ALIAS") for each in template.vectors(name)]:
        yield f"{made} is made without the template's interfaces ({', '.join(nics)}): {instead}"


def read_section(request: VmRequest, *, hypervisor: str) -> Section:
    """Read the section that counts for this VM; an empty one when the VM has none.

    Args:
        request: the VM.
        hypervisor: the TYPE of sections for this cloud.

    Raises:
        BadParameter: of several sections none, or more than one, is for this host; or the section holds our tags.
    """
    attributes = pick_section(request, hypervisor=hypervisor)
    tags = parse_tags(attributes.get("TAGS", ""))
    _refuse_our_tags(attributes, place=f"the {SECTION} section has the attribute")
    _refuse_our_tags(tags, place=f"TAGS of the {SECTION} section has the tag")
    return Section(
        attributes={name: value for name, value in attributes.items() if name not in TOKEN_NAMES},
        tags=tags,
        warnings=tuple(
            f"{SECTION} attribute {name} is ignored, the driver chooses the idempotency token itself"
            for name in TOKEN_NAMES
            if name in attributes
        ),
    )


def pick_section(request: VmRequest, *, hypervisor: str) -> Mapping[str, str]:
    """Choose the section that counts; empty when the VM has none.

    Sections with the hypervisor as TYPE come first, then HOST (or the deprecated CLOUD) decides. A section that stands
    alone counts with any TYPE, as in upstream's drivers.
    """
    sections = [_tidy(section) for section in _sections(request)]
    typed = [section for section in sections if _same(section.get("TYPE", ""), hypervisor)]
    candidates = typed or sections
    if len(candidates) == 1:
        return _checked(candidates[0])
    meant = [section for section in candidates if _same(section.get("HOST") or section.get("CLOUD", ""), request.host)]
    if len(meant) == 1:
        return _checked(meant[0])
    if not candidates:
        return {}
    how_many = "more than one" if meant else "none"
    raise BadParameter(
        f"{len(candidates)} {SECTION} sections, {how_many} for host {request.host}:"
        f" give exactly one of them TYPE={hypervisor} and HOST={request.host}"
    )


def parse_tags(text: str) -> dict[str, str]:
    """Parse `k=v,k=v`; a tag without `=` has an empty value."""
    tags = {}
    for item in text.split(","):
        key, _, value = item.partition("=")
        if key.strip():
            tags[key.strip()] = value.strip()
        elif item.strip():
            raise BadParameter(f"TAGS of the {SECTION} section has a tag without a name, write k=v,k=v: {item.strip()}")
    return tags


def listed(names: Collection[str]) -> str:
    """Return the names for a sentence, in order."""
    return ", ".join(sorted(names)) or "none"


def some(names: Sequence[str]) -> str:
    """Return the first names, each shortened, and the number of the others: a template may name any number of them."""
    shown = ", ".join(name[:_LONGEST_SHOWN] for name in names[:_MOST_SHOWN])
    more = len(names) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _sections(request: VmRequest) -> Sequence[Mapping[str, str]]:
    """Return all sections; the core keeps them in the user template, old releases in the template."""
    return request.user_template.vectors(SECTION) or request.template.vectors(SECTION)


def _tidy(section: Mapping[str, str]) -> dict[str, str]:
    return {name.upper(): value.strip() for name, value in section.items() if value.strip()}


def _checked(section: dict[str, str]) -> dict[str, str]:
    if len(section) > MOST_ATTRIBUTES:
        raise BadParameter(
            f"the {SECTION} section has {len(section)} attributes, the driver takes {MOST_ATTRIBUTES}: remove some"
        )
    return section


def _same(text: str, other: str) -> bool:
    return bool(text) and text.casefold() == other.casefold()


def _refuse_our_tags(names: Collection[str], *, place: str) -> None:
    for name in names:
        if name.upper().startswith(TAG_PREFIX):
            raise BadParameter(f"{place} {name}: names that begin with {TAG_PREFIX} are the driver's own, remove it")
