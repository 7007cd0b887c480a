"""The hook that recreates VMs which a cloud refused or took back: its script, and OpenNebula's hooks that call it.

From 5.10 on hooks are objects of OpenNebula's API; up to 5.8 they are sections VM_HOOK of oned.conf (src/hm). The path
of the script is absolute: with ONE_LOCATION, OpenNebula looks for others in a folder that does not exist (src/hem).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from shlex import quote

from one_provider_mad.cli.oned_conf_block import vector
from one_provider_mad.errors import MadError, NotSupported, SettingsError
from one_provider_mad.file_owner import make_directory, replace_file
from one_provider_mad.front_end.hooks import Hook, delete_hook, make_hook, read_hooks, state_hook
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.settings import Places
from one_provider_mad.xmlrpc.local import LocalCore

HOOKS = {
    "one_provider_boot_failure": ("ACTIVE", "BOOT_FAILURE"),
    "one_provider_unknown": ("ACTIVE", "UNKNOWN"),
    "one_provider_poweroff": ("POWEROFF", "LCM_INIT"),
}
"""STATE and LCM_STATE of each hook, by name: of a VM that was refused, and of one whose instance has ended."""

_MARK = "one-provider install NAME --recreate-hook"
"""A text that only our script has."""

_SECONDS = 300
"""TIMEOUT of a hook: the command asks OpenNebula and the cloud, again and again while they do not answer."""


def script_path(var: Path) -> Path:
    """Return the path of the hook's script in OpenNebula's state directory."""
    return var / "remotes" / "hooks" / "one_provider" / "recreate"


def script_text(program: Path, places: Places) -> str:
    """Return the script that calls this `one-provider`."""
    text = resources.files("one_provider_mad.cli").joinpath("recreate_hook.sh").read_text(encoding="utf-8")
    for name, value in (("conf", places.conf), ("var", places.var), ("program", program)):
        text = text.replace(f"@{name}@", _in_quotes(value))
    return text


def _in_quotes(path: Path) -> str:
    """Return a path as it is written between double quotes of a shell. Raises SettingsError for one that cannot be."""
    if set(str(path)) & set('"$`\\\n'):
        raise SettingsError(f"the path {quote(str(path))} cannot be written into a hook: it has a quote or a $")
    return str(path)


def install(program: Path, places: Places, environ: Mapping[str, str], *, is_dry: bool) -> Iterator[str]:
    """Write the script, and make the hooks that are missing; yield a sentence for each.

    Args:
        program: `one-provider`, by the path that lasts.
        places: OpenNebula's directories.
        environ: environment variables, for OpenNebula's address and login.
        is_dry: write and make nothing.

    Raises:
        MadError: the script cannot be written, or OpenNebula does not answer or refuses.
    """
    path = script_path(places.var)
    yield _write(path, script_text(program, places), places, is_dry=is_dry)
    core = LocalCore(environ)
    try:
        found = read_hooks(core)
    except NotSupported:
        yield f"OpenNebula up to 5.8 has its hooks in oned.conf: add these lines\n{vm_hooks(path)}"
        return
    for name, (state, lcm_state) in HOOKS.items():
        yield _make(core, name, state, lcm_state, path, found.get(name), is_dry=is_dry)


def _write(path: Path, text: str, places: Places, *, is_dry: bool) -> str:
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if before == text:
            return f"exists: {path}"
        if before is not None and _MARK not in before:
            raise SettingsError(f"{path} exists and is not ours: move it away")
        if not is_dry:
            make_directory(path.parent, 0o755, owner_of=places.var)
            replace_file(path, text.encode(), beside=f".{path.name}.new", mode=0o755)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}; run this as root or oneadmin") from error
    return f"written: {path}"


def _make(
    core: LocalCore, name: str, state: str, lcm_state: str, path: Path, found: Hook | None, *, is_dry: bool
) -> str:
    if found is not None:
        if found.command == str(path):
            return f"exists: hook {found.number}, {name}"
        raise SettingsError(f"OpenNebula has a hook {name} that runs {found.command}: delete it with onehook delete")
    if is_dry:
        return f"made: hook {name}"
    return f"made: hook {make_hook(core, template_of(name, state, lcm_state, path))}, {name}"


def template_of(name: str, state: str, lcm_state: str, path: Path) -> str:
    """Return the template of a hook, for releases from 5.10 on."""
    further = {"REMOTE": "NO", "TIMEOUT": str(_SECONDS)}
    return state_hook(name, state=state, lcm_state=lcm_state, command=str(path), further=further)


def vm_hooks(path: Path) -> str:
    """Return the sections of oned.conf that are the hooks, for releases up to 5.8."""
    return "\n".join(
        vector(
            "VM_HOOK",
            {
                "NAME": f'"{name}"',
                "ON": '"CUSTOM"',
                "STATE": f'"{state}"',
                "LCM_STATE": f'"{lcm_state}"',
                "COMMAND": f'"{path}"',
                "ARGUMENTS": '"$ID $TEMPLATE"',
            },
        )
        for name, (state, lcm_state) in HOOKS.items()
    )


def check_recreate_hooks(core: LocalCore, var: Path) -> list[CheckResult]:
    """Return whether OpenNebula recreates VMs that a cloud refused; [] up to 5.8. Blocks.

    Args:
        core: the local OpenNebula.
        var: its state directory, with the hook's script.
    """
    what, remedy = "refused VMs", f"{_MARK}, unless they shall wait for a person"
    try:
        found = read_hooks(core)
    except NotSupported:
        return []
    except MadError as error:
        return [CheckResult(what=what, is_well=None, found=str(error), remedy="run this as oneadmin")]
    if missing := [name for name in HOOKS if name not in found]:
        told = f"they stay in BOOT_FAILURE: OpenNebula lacks the hooks {', '.join(missing)}"
        return [CheckResult(what=what, is_well=None, found=told, remedy=remedy)]
    if not (path := script_path(var)).exists():
        told = f"OpenNebula's hooks call {path}, and this machine has no such file"
        return [CheckResult(what=what, is_well=False, found=told, remedy=_MARK)]
    return [CheckResult(what=what, is_well=True, found="hooks have OpenNebula recreate them")]


def remove(places: Places, environ: Mapping[str, str], *, is_dry: bool) -> Iterator[str]:
    """Delete the hooks and the script, as far as they are ours; yield a sentence for each. Raises as `install`."""
    path = script_path(places.var)
    core = LocalCore(environ)
    try:
        for name, hook in read_hooks(core).items():
            if name in HOOKS and hook.command == str(path):
                if not is_dry:
                    delete_hook(core, hook)
                yield f"removed: hook {hook.number}, {name}"
    except NotSupported:
        yield "OpenNebula up to 5.8 has its hooks in oned.conf: remove the sections VM_HOOK of one_provider"
    if path.exists() and _MARK in path.read_text(encoding="utf-8"):
        if not is_dry:
            path.unlink()
        yield f"removed: {path}"
