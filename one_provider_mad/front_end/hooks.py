"""OpenNebula's hooks on states of VMs: objects of its API from 5.10 on (src/hm); before, sections of oned.conf."""

from __future__ import annotations

from typing import Any

from one_provider_mad.domain import Value, whole_number
from one_provider_mad.safe_xml import elements_at, text_of
from one_provider_mad.template_text.exact_writer import attribute
from one_provider_mad.xmlrpc.local import LocalCore

_EVERY = (-2, -1, -1)
"""Arguments of one.hookpool.info: every owner's hooks, all of them."""


class Hook(Value, frozen=True, kw_only=True):
    """A hook, as OpenNebula has it.

    Attributes:
        number: its number.
        name: its NAME.
        command: its COMMAND.
    """

    number: int
    name: str
    command: str


def read_hooks(core: LocalCore) -> dict[str, Hook]:
    """Return OpenNebula's hooks by name. Blocks. Raises MadError: NotSupported before 5.10."""
    found = (
        Hook(
            number=whole_number(text_of(each.find("ID"))) or 0,
            name=text_of(each.find("NAME")),
            command=text_of(each.find("TEMPLATE/COMMAND")),
        )
        for each in elements_at(core.document("one.hookpool.info", *_EVERY), "HOOK")
    )
    return {hook.name: hook for hook in found}


def state_hook(name: str, *, state: str, lcm_state: str, command: str, further: dict[str, str] | None = None) -> str:
    """Return the template of a hook on a state of VMs, whose command reads the VM's document on stdin.

    Args:
        name: its NAME.
        state: STATE of the VMs.
        lcm_state: LCM_STATE of the VMs.
        command: its COMMAND.
        further: further attributes.
    """
    values = {
        "NAME": name,
        "TYPE": "state",
        "RESOURCE": "VM",
        "ON": "CUSTOM",
        "STATE": state,
        "LCM_STATE": lcm_state,
        "COMMAND": command,
        "ARGUMENTS": "$TEMPLATE",
        "ARGUMENTS_STDIN": "yes",
        **(further or {}),
    }
    return "".join(f"{attribute(key, text)}\n" for key, text in values.items())


def make_hook(core: LocalCore, template: str) -> Any:
    """Make a hook, and return its number. Blocks. Raises MadError."""
    return core.call("one.hook.allocate", template)


def delete_hook(core: LocalCore, hook: Hook) -> None:
    """Delete a hook. Blocks. Raises MadError."""
    core.call("one.hook.delete", hook.number)
