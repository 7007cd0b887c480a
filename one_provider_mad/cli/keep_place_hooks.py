"""The hooks of OpenNebula 5.10 and later that keep VMs where their disks are.

A hook is called as soon as a VM leaves its host, before a person can resume it; onehem-server runs the command, as
OpenNebula's user (OpenNebula src/hm, src/hem).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from one_provider_mad.cli.decode import printable
from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError, NotSupported
from one_provider_mad.front_end.hooks import Hook, delete_hook, make_hook, read_hooks, state_hook
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import release_of

_PROGRAM = "one-provider"
HOOKS_SINCE = (5, 10)
"""First release whose hooks are made through its API; before, they are sections of oned.conf."""

_SPECIAL = re.compile(r"[^\w/.+@-]")
"""Characters of a path before which a shell needs a backslash."""


class PlaceHook(Value, frozen=True, kw_only=True):
    """A hook on a state of VMs, all of which are ACTIVE.

    Attributes:
        name: its NAME.
        lcm_state: the state.
        options: of `keep-place`.
    """

    name: str
    lcm_state: str
    options: str = "--hook"


HOOKS = (
    PlaceHook(name="one-provider-undeploy", lcm_state="EPILOG_UNDEPLOY"),
    PlaceHook(name="one-provider-stop", lcm_state="EPILOG_STOP"),
    PlaceHook(name="one-provider-recreate-place", lcm_state="CLEANUP_RESUBMIT", options="--hook --free"),
)


def _is_callable(hook: Hook) -> bool:
    """Return False if the program that a hook calls is not on this machine."""
    try:
        return Path(shlex.split(hook.command)[0]).exists()
    except (IndexError, OSError, ValueError):
        return False


def command_of(hook: PlaceHook) -> str:
    """Return what a hook calls, for a shell; onehem-server takes it for a whole path only if it begins with `/`."""
    program = _SPECIAL.sub(r"\\\g<0>", program_path())
    return f"{program} keep-place {hook.options}"


def template_of(hook: PlaceHook) -> str:
    """Return a hook as onehook create takes it."""
    return state_hook(hook.name, state="ACTIVE", lcm_state=hook.lcm_state, command=command_of(hook))


def program_path() -> str:
    """Return the path of `one-provider`, for a process of OpenNebula's user."""
    called = Path(sys.argv[0])
    return str((called if called.name == _PROGRAM else Path(sys.executable).with_name(_PROGRAM)).absolute())


def install_hooks(core: LocalCore) -> Iterator[str]:
    """Make the hooks that OpenNebula lacks, and yield what was done, as sentences. Blocks.

    A hook that calls another program, as before the package was moved, is made anew.

    Raises:
        MadError: OpenNebula did not answer, or refused.
        click.ClickException: OpenNebula is older than 5.10.
    """
    if (release := release_of(core.call("one.system.version"))) < HOOKS_SINCE:
        numbers = ".".join(map(str, release))
        raise click.ClickException(f"OpenNebula {numbers} has no hooks that can be made: they need 5.10 or later")
    present = _present(core)
    for hook in HOOKS:
        old = present.get(hook.name)
        if old is not None and old.command == command_of(hook):
            yield f"hook {hook.name} is there already ({old.number})"
            continue
        if old is not None:
            delete_hook(core, old)
            yield f"hook {hook.name} was removed ({old.number}): it called {printable(old.command)}"
        number = make_hook(core, template_of(hook))
        yield f"hook {hook.name} was made ({number}): onehem-server runs it for each VM in {hook.lcm_state}"


def remove_hooks(core: LocalCore) -> Iterator[str]:
    """Remove the hooks, and yield what was done, as sentences. Blocks. Raises MadError."""
    present = _present(core)
    for hook in HOOKS:
        if hook.name in present:
            delete_hook(core, present[hook.name])
            yield f"hook {hook.name} was removed"
    if not present:
        yield "there are no such hooks"


def missing_hooks(core: LocalCore) -> list[str]:
    """Return the names of the hooks that OpenNebula lacks. Blocks. Raises MadError when it does not say."""
    present = _present(core)
    return [hook.name for hook in HOOKS if hook.name not in present]


def check_hooks(core: LocalCore) -> list[CheckResult]:
    """Return whether OpenNebula has the hooks; [] before 5.10. Blocks."""
    what, remedy = "undeployed VMs", "one-provider keep-place --install"
    try:
        present = _present(core)
    except NotSupported:
        return []
    except MadError as error:
        return [CheckResult(what=what, is_well=None, found=str(error), remedy="run this as oneadmin")]
    if missing := [hook.name for hook in HOOKS if hook.name not in present]:
        found = f"they may be resumed where their disks are not: OpenNebula lacks the hooks {', '.join(missing)}"
        return [CheckResult(what=what, is_well=None, found=found, remedy=remedy)]
    for name, hook in present.items():
        if not _is_callable(hook):
            found = f"hook {name} calls {printable(hook.command)}, and this machine has no such program"
            return [CheckResult(what=what, is_well=False, found=found, remedy=remedy)]
    return [CheckResult(what=what, is_well=True, found="hooks keep them where their disks are")]


def _present(core: LocalCore) -> dict[str, Hook]:
    names = {hook.name for hook in HOOKS}
    return {name: hook for name, hook in read_hooks(core).items() if name in names}
