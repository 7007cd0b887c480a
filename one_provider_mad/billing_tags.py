"""The table `[tags]`: tags for the cloud's own bill, whose texts name the VM's user, group, name and numbers. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from one_provider_mad.domain import TAG_PREFIX, OwnedVm

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

_FIELDS: Mapping[str, Callable[[OwnedVm, str], object]] = {
    "user": lambda vm, _: vm.owner.user,
    "user_id": lambda vm, _: _number(vm.owner.user_id),
    "group": lambda vm, _: vm.owner.group,
    "group_id": lambda vm, _: _number(vm.owner.group_id),
    "name": lambda vm, _: vm.name,
    "id": lambda vm, _: vm.vm_id,
    "owner": lambda _, owner: owner,
}
"""Placeholder to what it stands for, given the VM and `owner` of the configuration."""

MOST = 30
"""Most tags: clouds allow 50 a resource, and need some for the driver's own and for a user's."""


def problem_of(tags: Mapping[str, str]) -> str:
    """Return what is wrong with the table, as the end of a sentence; "" for a good one."""
    if len(tags) > MOST:
        return f"there are {len(tags)} tags, at most {MOST} are possible"
    for name, text in tags.items():
        if not name.strip():
            return "a tag has an empty name"
        if name.upper().startswith(TAG_PREFIX):
            return f"{name}: names that begin with {TAG_PREFIX} are the driver's own, choose another"
        unknown = [each for each in _PLACEHOLDER.findall(text) if each not in _FIELDS]
        if unknown:
            known = ", ".join(f"{{{each}}}" for each in _FIELDS)
            return f"{name}: {{{unknown[0]}}} is unknown, known are {known}"
    return ""


def rendered(tags: Mapping[str, str], vm: OwnedVm, *, owner: str) -> dict[str, str]:
    """Return the tags of a VM, with what is unknown left empty.

    Args:
        tags: a table without problems.
        vm: the VM.
        owner: `owner` of the configuration.
    """

    def value(match: re.Match[str]) -> str:
        return str(_FIELDS[match[1]](vm, owner))

    return {name: _PLACEHOLDER.sub(value, text) for name, text in tags.items()}


def _number(number: int) -> object:
    return "" if number < 0 else number
