"""The answer to a POLL: figures and facts of one VM, in the syntax of oned's release (all before 6.0)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from one_provider_mad.domain import Usage
from one_provider_mad.protocol.stale_names import USAGE_NAMES
from one_provider_mad.template_text.adapting_writer import fit_value
from one_provider_mad.template_text.grammar import ELEMENT

STATE_LETTERS = frozenset("aped-")
"""active, paused, error, disappeared, and `-` for no statement (OpenNebula include/VirtualMachine.h)."""

_NAME = re.compile(ELEMENT)
_BAREWORD = re.compile(r"[A-Za-z0-9._:/@+%~-]+")

# Up to 4.12 oned writes every unknown name into the VM's own template (VirtualMachineManagerDriver.cc,
# replace_template_attribute), later beside the figures: these names would overwrite the VM's own attributes.
_RESERVED_PREFIXES = ("USED", "AUTOMATIC_", "SCHED_", "TM_MAD")
_RESERVED = frozenset(
    {
        *("STATE", "CPU", "MEMORY", "NETRX", "NETTX", "NET_RX", "NET_TX", "LAST_POLL", "TIMESTAMP"),
        *("ID", "VMID", "VM_ID", "DEPLOY_ID", "TEMPLATE_ID", "UID", "GID", "UNAME", "GNAME", "NAME"),
        *("LCM_STATE", "STIME", "ETIME", "ERROR", "MONITORING", "TEMPLATE", "USER_TEMPLATE", "HISTORY_RECORDS"),
        *("VCPU", "DISK", "NIC", "NIC_ALIAS", "NIC_DEFAULT", "CONTEXT", "OS", "GRAPHICS", "INPUT", "FEATURES", "RAW"),
        *("PCI", "SNAPSHOT", "SNAPSHOTS", "SECURITY_GROUP_RULE", "TOPOLOGY", "CPU_MODEL", "EC2", "PUBLIC_CLOUD"),
        *("REQUIREMENTS", "RANK", "SUBMIT_ON_HOLD", "VMGROUP", "IMPORTED", "IMPORT_VM_ID"),
    }
)


def format_poll(
    state_letter: str,
    usage: Usage | None,
    attributes: Mapping[str, str],
    *,
    stale: Iterable[str] = (),
    is_legacy: bool,
) -> str:
    """Return the text of `POLL SUCCESS`, which oned of the release can parse, for any values.

    Args:
        state_letter: `a`, `p`, `e`, `d` or `-`; anything else counts as `-`, which changes nothing.
        usage: figures, left out when there are none.
        attributes: further attributes; those that cannot be written, and those that would overwrite the VM's own
            attributes, are left out.
        stale: attributes that the VM is to show no longer (protocol/stale_names.py); up to 4.12 none can be removed.
        is_legacy: True for oned up to 4.12 (VmRequest).
    """
    state = state_letter if state_letter in STATE_LETTERS else "-"
    figures = _legacy_figures(usage) if is_legacy else _figures(usage)
    facts = _legacy_facts(attributes) if is_legacy else _facts(attributes)
    removals = format_removals(stale, usage, attributes) if stale and not is_legacy else ()
    return " ".join([f"STATE={state}", *figures, *facts, *removals])


def format_removals(stale: Iterable[str], usage: Usage | None, attributes: Mapping[str, str]) -> list[str]:
    """Return `NAME=[]`, which removes an attribute, for each stale name that the answer does not report anew."""
    present = {_fit_name(given) for given in attributes}
    names = [given if given in USAGE_NAMES and usage is None else _fit_name(given) for given in stale]
    return [f"{name}=[]" for name in dict.fromkeys(names) if name and name not in present]


def _figures(usage: Usage | None) -> list[str]:
    if usage is None:
        return []
    return [f"CPU={round(_sane(usage.cpu or 0.0), 2)}", f"MEMORY={_whole(usage.memory)}", *_network(usage)]


def _legacy_figures(usage: Usage | None) -> list[str]:
    # Up to 4.12 figures have other names, and oned reads integers, stopping at a dot.
    if usage is None:
        return []
    return [f"USEDCPU={_whole(usage.cpu or 0.0)}", f"USEDMEMORY={_whole(usage.memory)}", *_network(usage)]


def _network(usage: Usage) -> list[str]:
    return [f"NETRX={_whole(usage.net_rx)}", f"NETTX={_whole(usage.net_tx)}"]


def _sane(figure: float) -> float:
    return max(0.0, float(figure)) if math.isfinite(figure) else 0.0


def _whole(figure: float) -> int:
    if type(figure) is int:  # the usual case
        return max(0, figure)
    return max(0, round(figure)) if math.isfinite(figure) else 0


def _facts(attributes: Mapping[str, str]) -> list[str]:
    """Return the attributes as `NAME="value"`, without line ends, since a reply is one line."""
    names = _writable_names(tuple(attributes))
    return [fact for name, given in names.items() if (fact := _fact(name, attributes[given]))]


# The same names come with every POLL, and mostly the same values with every POLL of a VM; the caches are bounded.
@lru_cache(maxsize=8192)
def _fact(name: str, value: str) -> str:
    fit = fit_value(value)
    return f'{name}="{fit}"' if fit else ""


def _legacy_facts(attributes: Mapping[str, str]) -> list[str]:
    """Return as NAME=value the attributes whose value is one plain word; others would void the whole answer.

    A comma would end the value, so lists (security groups, volumes) are written with a plus instead.
    """
    names = _writable_names(tuple(attributes))
    listed = ((name, attributes[given].replace(",", "+")) for name, given in names.items())
    return [f"{name}={value}" for name, value in listed if _BAREWORD.fullmatch(value)]


@lru_cache(maxsize=256)
def _writable_names(attribute_names: tuple[str, ...]) -> Mapping[str, str]:
    """Return the names that may be written, in upper case, and for each the first attribute that is called so."""
    names: dict[str, str] = {}
    for given in attribute_names:
        if name := _fit_name(given):
            names.setdefault(name, given)
    return names


def _fit_name(given: str) -> str:
    """Return the attribute's name in upper case, "" if it is invalid or would overwrite a VM's own attribute."""
    name = given.upper()
    is_reserved = name in _RESERVED or name.startswith(_RESERVED_PREFIXES)
    return name if given.isascii() and _NAME.fullmatch(name) and not is_reserved else ""
