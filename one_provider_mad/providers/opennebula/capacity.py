"""The capacity at a partner's: quotas of the remote user and its group, else the capacity of its hosts. Pure.

Quotas are those of src/um/Quotas.cc: -1 is "the default quota", -2 is "no limit".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from one_provider_mad.domain import Instance, Value
from one_provider_mad.providers.interface import Capacity, ImportHints, Size
from one_provider_mad.safe_xml import Element, elements_at, text_of

_DEFAULT, _UNLIMITED = -1.0, -2.0

_ONEADMIN = "0"

_MIB = 1024
"""KiB in a MiB: hosts count memory in KiB."""


_RUNNING = "RUNNING_"
"""Prefix of the quotas for running VMs, which 5.8 and later have, too (src/um/QuotaVirtualMachine.cc, VM_METRICS)."""


def free_capacity(user: Element, group: Element | None, hosts: Share | None) -> Capacity | None:
    """Return the tighter quotas of the user and its group, without quotas the hosts' capacity; None for no limit.

    Args:
        user: the answer to one.user.info.
        group: the answer to one.group.info, None if the user may not see it.
        hosts: capacity of all hosts, None if they are not visible or not needed.
    """
    quotas = quotas_left(user, group)
    cpu = _tightest(quotas, "CPU") or (hosts.cpu if hosts else None)
    memory = _tightest(quotas, "MEMORY") or (hosts.memory if hosts else None)
    vms = _tightest(quotas, "VMS")
    if cpu is None and memory is None and vms is None:
        return None
    return Capacity(
        cpu=cpu.limit if cpu else None,
        memory=int(memory.limit) if memory else None,
        used=Size(cpu=cpu.used if cpu else 0, memory=int(memory.used) if memory else 0),
        left=max(0, int(vms.limit - vms.used)) if vms else None,
    )


def is_limited(user: Element, group: Element | None) -> bool:
    """Return True when quotas limit both CPU and memory, so that hosts need not be listed."""
    quotas = quotas_left(user, group)
    return all(_tightest(quotas, name) for name in ("CPU", "MEMORY"))


class Part(Value, frozen=True, kw_only=True):
    """A limit, and the part of it in use."""

    limit: float
    used: float


class Share(Value, frozen=True, kw_only=True):
    """The capacity of hosts: cores, and MiB."""

    cpu: Part
    memory: Part


def _tightest(quotas: Mapping[str, tuple[float, float]], name: str) -> Part | None:
    known = [quotas[each] for each in (name, _RUNNING + name) if each in quotas]
    if not known:
        return None
    free, limit = min(known)
    return Part(limit=limit, used=limit - free)


def quotas_left(user: Element, group: Element | None) -> dict[str, tuple[float, float]]:
    """Return the rest and the limit of the tighter quotas: VMS, CPU (cores), MEMORY (MiB), and each RUNNING_.

    Resources without a limit are left out.

    Usage is counted even where nothing limits it (src/um/QuotaVirtualMachine.cc).
    """
    owners = list(_limited(user, group))
    found: dict[str, tuple[float, float]] = {}
    for name in (prefix + metric for metric in ("VMS", "CPU", "MEMORY") for prefix in ("", _RUNNING)):
        for owner, default in owners:
            limit = _limit(owner, default, name)
            if limit is None:
                continue
            free = limit - max(0.0, _quota(elements_at(owner, "VM_QUOTA/VM"), f"{name}_USED") or 0.0)
            found[name] = min(found.get(name, (free, limit)), (free, limit))
    return found


def hosts_share(pool: Element) -> Share | None:
    """Return capacity and use of all enabled hosts of a pool; None when none is visible."""
    shares = [host.find("HOST_SHARE") for host in pool.iterfind("HOST") if text_of(host.find("STATE")) not in _OFF]
    cpu, memory = (_part(shares, resource) for resource in ("CPU", "MEM"))
    if cpu.limit <= 0 or memory.limit <= 0:
        return None
    return Share(
        cpu=Part(limit=cpu.limit / 100, used=cpu.used / 100),
        memory=Part(limit=memory.limit // _MIB, used=memory.used // _MIB),
    )


def _part(shares: Iterable[Element | None], resource: str) -> Part:
    known = [share for share in shares if share is not None]
    return Part(
        limit=sum(_figure(share, f"MAX_{resource}") for share in known),
        used=sum(_figure(share, f"{resource}_USAGE") for share in known),
    )


_OFF = ("3", "4", "5", "7", "8")
"""STATE of hosts that take no VMs: ERROR, DISABLED, both while monitored again (up to 5.10 all the time), and OFFLINE
(include/Host.h)."""


def import_hints(instance: Instance) -> ImportHints:
    """Return the template values of a VM that imports this remote VM."""
    facts = instance.attributes
    template = facts.get("REMOTE_OPENNEBULA_TEMPLATE_ID", "")
    return ImportHints(
        size=Size(
            cpu=_read(facts.get("REMOTE_OPENNEBULA_CPU", "")),
            memory=int(_read(facts.get("REMOTE_OPENNEBULA_MEMORY", ""))),
        ),
        public_cloud={"TEMPLATE_ID": template} if template else {},
    )


def _limited(user: Element, group: Element | None) -> Iterator[tuple[Element, str]]:
    """Yield the elements with quotas and the paths of the default quotas; oneadmin and its group have none.

    (src/rm/Request.cc, quota_authorization.)
    """
    for owner, default in ((user, "DEFAULT_USER_QUOTAS"), (group, "DEFAULT_GROUP_QUOTAS")):
        if owner is not None and text_of(owner.find("ID")).strip() != _ONEADMIN:
            yield owner, default


def _limit(owner: Element, default: str, name: str) -> float | None:
    """Return a limit of a user or a group; None for none."""
    limit = _quota(elements_at(owner, "VM_QUOTA/VM"), name)
    if limit is None or limit == _DEFAULT:
        limit = _quota(elements_at(owner, f"{default}/VM_QUOTA/VM"), name)
    return None if limit is None or limit < 0 else limit


def _quota(quotas: Iterable[Element], name: str) -> float | None:
    """Return the quota over all clusters; 7.x also has quotas of single clusters, which are not the account's limit."""
    for quota in quotas:
        if text_of(quota.find("CLUSTER_IDS")).strip():
            continue
        text = text_of(quota.find(name)).strip()
        if text:
            return _read(text, default=_UNLIMITED)
    return None


def _figure(share: Element, name: str) -> float:
    return max(0.0, _read(text_of(share.find(name))))


def _read(text: str, *, default: float = 0.0) -> float:
    try:
        figure = float(text)
    except ValueError:
        return default
    return figure if math.isfinite(figure) else default
