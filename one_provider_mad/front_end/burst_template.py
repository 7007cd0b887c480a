"""Changes a VM's template that works at home so that its VMs may also run in a cloud. Pure: values in, values out.

Nothing is taken out of the template, and a changed template needs no further change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from one_provider_mad.domain import Template, Value
from one_provider_mad.front_end.arithmetic import ExpressionError, Search, names_in, rank_of
from one_provider_mad.front_end.expressions import Expression, is_choice, is_met, read_requirements
from one_provider_mad.front_end.rank import CUSTOM, PRIORITY, Policy, home_first

TRANSFER_DRIVER = "one_provider"
"""TM_MAD of a cloud's system datastore in OpenNebula 7.x."""

_SECTION = "PUBLIC_CLOUD"
_OLD_SECTION = "EC2"
"""The section of OpenNebula 4.x, which means the cloud `ec2` (src/vm/VirtualMachine.cc, get_public_clouds)."""

Attribute = str | Mapping[str, str]


class CloudHost(Value, frozen=True, kw_only=True):
    """A cloud for which a template is changed.

    Attributes:
        name: NAME of its drivers.
        hypervisor: HYPERVISOR of its hosts, and TYPE of PUBLIC_CLOUD sections.
        hosts: for each of its hosts, the attributes that do not change with time.
        datastores: the same of the system datastores in its clusters.
        section: what a PUBLIC_CLOUD section that is added has besides its TYPE.
    """

    name: str
    hypervisor: str
    hosts: Sequence[Search]
    datastores: Sequence[Search]
    section: Mapping[str, str] = {}


class Edit(Value, frozen=True, kw_only=True):
    """One change of a template.

    Attributes:
        name: of the attribute.
        number: which one of this name is replaced, from 0 on; None to add one.
        value: the new value.
        why: what was changed and why, a sentence.
    """

    name: str
    number: int | None
    value: Attribute
    why: str


class Remark(Value, frozen=True, kw_only=True):
    """Something to know, or to do, before a VM of the template runs in a cloud.

    Attributes:
        what: the attribute, device or cloud that it is about.
        text: a sentence.
        keeps_away: True if the scheduler places no VM of the template in the cloud because of it.
    """

    what: str
    text: str
    keeps_away: bool = False


def host_of(name: str, hypervisor: str) -> Search:
    """Return the attributes of a host of NAME that are known without asking OpenNebula."""
    known = {"HYPERVISOR": [hypervisor], "VM_MAD": [name], "IM_MAD": [name], "PUBLIC_CLOUD": ["YES"]}
    return lambda attribute: known.get(attribute, [])


def datastore_of(transfer_driver: str = TRANSFER_DRIVER) -> Search:
    """Return the attributes of a system datastore of a cloud that are known without asking OpenNebula."""
    known = {"TM_MAD": [transfer_driver], "TYPE": ["1"]}
    return lambda attribute: known.get(attribute, [])


def edits_of(template: Template, clouds: Sequence[CloudHost]) -> Iterator[Edit]:
    """Yield the changes by which VMs of a template may run in the clouds.

    Raises:
        ExpressionError: OpenNebula cannot read a requirement or the rank; the message names it.
    """
    yield from _sections(template, clouds)
    yield from _requirements(template, clouds)
    yield from _ranks(template)
    yield from _datastores(template, clouds)


# PUBLIC_CLOUD


def _sections(template: Template, clouds: Sequence[CloudHost]) -> Iterator[Edit]:
    sections = template.values.get(_SECTION, ())
    vectors = [each for each in sections if not isinstance(each, str)]
    types = {each.get("TYPE", "").strip().casefold() for each in vectors}
    if template.vectors(_OLD_SECTION) and not vectors:
        types.add("ec2")
    wanted = [each for each in _hypervisors(clouds) if each.casefold() not in types]
    yield from _spellings(sections, clouds)
    if len(sections) == len(vectors) == 1 and not vectors[0].get("TYPE", "").strip() and wanted:
        hypervisor = wanted.pop(0)
        why = f'TYPE = "{hypervisor}" was added to the section that stands alone: up to 6.10 it counts only with a TYPE'
        yield Edit(name=_SECTION, number=0, value={**vectors[0], "TYPE": hypervisor}, why=why)
    for hypervisor in wanted:
        further = _further(hypervisor, clouds)
        chosen = "".join(f'; {name} = "{text}" takes the cheapest type that holds it' for name, text in further.items())
        why = (
            f'a section with TYPE = "{hypervisor}" was added: up to 6.10 OpenNebula keeps VMs without one off the'
            f" cloud's hosts, and the driver takes a VM's size and image from it{chosen}"
        )
        yield Edit(name=_SECTION, number=None, value={"TYPE": hypervisor, **further}, why=why)


def _further(hypervisor: str, clouds: Sequence[CloudHost]) -> Mapping[str, str]:
    """Return what a section for the clouds with this HYPERVISOR has besides its TYPE."""
    return {name: text for each in clouds if each.hypervisor == hypervisor for name, text in each.section.items()}


def _spellings(sections: Sequence[Attribute], clouds: Sequence[CloudHost]) -> Iterator[Edit]:
    """Yield a change for each TYPE that differs from a cloud's HYPERVISOR in upper and lower case only."""
    spelling = {each.casefold(): each for each in _hypervisors(clouds)}
    for number, section in enumerate(sections):
        kind = "" if isinstance(section, str) else section.get("TYPE", "").strip()
        right = spelling.get(kind.casefold(), kind)
        if right != kind and not isinstance(section, str):
            why = f'TYPE = "{kind}" is now "{right}", as the host says: up to 6.10 upper and lower case differ there'
            yield Edit(name=_SECTION, number=number, value={**section, "TYPE": right}, why=why)


def _hypervisors(clouds: Sequence[CloudHost]) -> list[str]:
    return list(dict.fromkeys(each.hypervisor for each in clouds))


# Requirements


def _requirements(template: Template, clouds: Sequence[CloudHost]) -> Iterator[Edit]:
    name = "SCHED_REQUIREMENTS" if "SCHED_REQUIREMENTS" in template.values else "REQUIREMENTS"
    text = template.text(name)
    expression = _read(name, text)
    missing = [each for each in clouds if not any(is_met(expression, host) for host in each.hosts)]
    if missing:
        which = ", ".join(each.name for each in missing)
        why = f"no host of {which} met it; what it demands of hosts at home is as before"
        value = _or(text, [f'HYPERVISOR = "{each}"' for each in _hypervisors(missing)])
        yield Edit(name=name, number=0, value=value, why=why)


def _datastores(template: Template, clouds: Sequence[CloudHost]) -> Iterator[Edit]:
    name = "SCHED_DS_REQUIREMENTS"
    text = template.text(name)
    expression = _read(name, text)
    missing = [each for each in clouds if not any(is_met(expression, store) for store in each.datastores)]
    if missing:
        drivers = dict.fromkeys(driver for each in missing for store in each.datastores for driver in store("TM_MAD"))
        why = "no system datastore of the cloud's hosts met it, and OpenNebula 7.x places every VM in one"
        yield Edit(name=name, number=0, value=_or(text, [f'TM_MAD = "{each}"' for each in drivers]), why=why)


def _read(name: str, text: str) -> Expression | None:
    try:
        return read_requirements(text)
    except ExpressionError as error:
        raise ExpressionError(f"{name} cannot be read: {error}") from error


def _or(text: str, choices: Sequence[str]) -> str:
    """Return a requirement that hosts meet which meet the text, or one of the choices."""
    first = text if is_choice(read_requirements(text)) else f"({text})"
    return " | ".join([first, *choices])


# What a cloud does not have


class Lack(Value, frozen=True, kw_only=True):
    """An attribute of templates that has no effect in a cloud, or keeps VMs away from it.

    Attributes:
        name: of the attribute.
        key: of a vector's key that has to be there; "" for any.
        text: what becomes of it.
        keeps_away: True if the scheduler then places the VM at home only.
    """

    name: str
    key: str = ""
    text: str
    keeps_away: bool = False


_ONLY_HOME = "the scheduler places its VMs at home only, use a template without it for the cloud"

LACKS = (
    Lack(
        name="PCI",
        text=f"the cloud's host has no PCI devices of OpenNebula: {_ONLY_HOME}, with an instance type that has a GPU",
        keeps_away=True,
    ),
    Lack(
        name="TOPOLOGY",
        key="PIN_POLICY",
        text=f"the cloud's host has no NUMA nodes to pin virtual CPUs to: {_ONLY_HOME}",
        keeps_away=True,
    ),
    Lack(
        name="TOPOLOGY",
        key="HUGEPAGE_SIZE",
        text=f"the cloud's host has no huge pages: {_ONLY_HOME}",
        keeps_away=True,
    ),
    Lack(
        name="CPU_MODEL",
        key="FEATURES",
        text=f"the cloud's host reports no KVM_CPU_FEATURES: {_ONLY_HOME}",
        keeps_away=True,
    ),
    Lack(
        name="MEMORY_ENCRYPTION",
        text=f"the cloud's host reports no MEMORY_ENCRYPTION: {_ONLY_HOME}",
        keeps_away=True,
    ),
    Lack(name="CPU_MODEL", key="MODEL", text="the instance has the processor of its type"),
    Lack(name="TPM", text="the instance has no TPM from OpenNebula: a guest whose disk is sealed to it does not boot"),
    Lack(name="RAW", text="only the hypervisor at home reads it"),
    Lack(name="NUMA_NODE", text="the instance has the memory layout of its type"),
    Lack(name="OS", key="KERNEL", text="the cloud's image boots its own kernel"),
    Lack(name="OS", key="KERNEL_DS", text="the cloud's image boots its own kernel"),
    Lack(name="OS", key="FIRMWARE", text="the cloud's image decides between BIOS and UEFI"),
    Lack(name="GRAPHICS", text="there is no VNC or SPICE: one-provider console shows the end of the serial console"),
    Lack(name="EMULATOR", text="only the hypervisor at home reads it"),
    Lack(name="VMGROUP", text="its roles are kept apart or together by hosts, and the whole cloud is one host"),
    Lack(name="BACKUP_CONFIG", text="the driver makes no backups of instances: use the cloud's snapshots"),
)
"""All, in the order of remarks."""

_NO = frozenset({"", "NO", "NONE"})


def lacks_of(template: Template) -> Iterator[Remark]:
    """Yield a remark for each attribute that a cloud cannot honour."""
    for lack in LACKS:
        values = template.values.get(lack.name, ())
        if any(_has(value, lack.key) for value in values):
            what = f"{lack.name}/{lack.key}" if lack.key else lack.name
            yield Remark(what=what, text=lack.text, keeps_away=lack.keeps_away)


def _has(value: Attribute, key: str) -> bool:
    text = value if isinstance(value, str) else value.get(key, "") if key else "any"
    return text.strip().upper() not in _NO


# Ranks


def _ranks(template: Template) -> Iterator[Edit]:
    name = "SCHED_RANK" if "SCHED_RANK" in template.values else "RANK"
    text = template.text(name).strip()
    try:
        rank_of(text, lambda _: [])
    except ExpressionError as error:
        raise ExpressionError(f"{name} cannot be read: {error}") from error
    if text and PRIORITY not in names_in(text):
        why = (
            "its own rank counted alone, so that the cloud's host could come before those at home: PRIORITY comes first"
        )
        yield Edit(name=name, number=0, value=home_first(Policy(number=CUSTOM, expression=text)).rank, why=why)
