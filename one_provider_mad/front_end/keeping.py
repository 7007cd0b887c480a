"""Keeps a VM that was undeployed or stopped in the place where its disk is, by its SCHED_REQUIREMENTS. Pure.

`VM_MAD = "NAME"` is added: NAME of the drivers of the host that it had, which is one cloud's, or that of the hosts at
home. The scheduler reads SCHED_REQUIREMENTS anew each time (seen on 5.10.5, 6.10.0 and 7.4.0), so that a VM may go to
either at its first deployment. The attribute PROVIDER_PLACE says that the addition is there, so that nothing of the
user's is taken out.

A hook writes it (cli/keep_place_hooks.py), not the drivers: none of ours sees a VM that leaves a host at home. And no
requirement does without being written later: it compares attributes of hosts with constants, never with the VM's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.domain import Template

MARK = "PROVIDER_PLACE"
"""Attribute of the VM: the NAME to which it is kept, "" for none."""

_REQUIREMENTS = "SCHED_REQUIREMENTS"

EVERY_HOST = "ID > -1"
"""A requirement that each host meets: an attribute cannot be taken out of a VM without writing all others again."""


def kept(user_template: Template, vm_mad: str) -> Mapping[str, str]:
    """Return the attributes that keep a VM to the hosts of a driver; empty if they are there already."""
    own = _own(user_template)
    wanted = _condition(vm_mad) if own in ("", EVERY_HOST) else f"({own}) & {_condition(vm_mad)}"
    return _changed(user_template, {_REQUIREMENTS: wanted, MARK: vm_mad})


def freed(user_template: Template) -> Mapping[str, str]:
    """Return the attributes by which a VM may go to every host again that it might go to before; empty for none."""
    if not user_template.text(MARK):
        return {}
    return _changed(user_template, {_REQUIREMENTS: _own(user_template) or EVERY_HOST, MARK: ""})


def _own(user_template: Template) -> str:
    """Return the user's requirements."""
    text, mark = user_template.text(_REQUIREMENTS), user_template.text(MARK)
    if not mark:
        return text
    condition = _condition(mark)
    if text == condition:
        return ""
    found = re.fullmatch(rf"\((?P<own>.*)\) & {re.escape(condition)}", text, re.DOTALL)
    return found["own"] if found else text


def _condition(vm_mad: str) -> str:
    return f'VM_MAD = "{vm_mad}"'


def _changed(user_template: Template, values: Mapping[str, str]) -> Mapping[str, str]:
    return {} if all(user_template.text(name) == text for name, text in values.items()) else values
