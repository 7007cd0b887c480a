"""`one-provider install NAME --recreate-hook`: the hook's script, and OpenNebula's hooks that call it."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.cli.install_hook import (
    HOOKS,
    check_recreate_hooks,
    install,
    remove,
    script_path,
    script_text,
    vm_hooks,
)
from one_provider_mad.errors import SettingsError
from one_provider_mad.settings import Places
from one_provider_mad.template_text.strict_reader import read_template
from one_provider_mad.xmlrpc.local import LocalCore
from tests.cli.hooked_core import HookedCore
from tests.cli.running import json_of, output_of
from tests.waiting import HANG
from tests.xmlrpc.local_core import environment, local_core


@pytest.fixture
def core() -> Iterator[HookedCore]:
    with local_core(HookedCore()) as served:
        assert isinstance(served, HookedCore)
        yield served


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The directories of an installed OpenNebula."""
    for name in ("lib/mads", "etc/one_provider_mad", "var"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def installed(core: HookedCore, one: Path, *, is_dry: bool = False) -> list[str]:
    """The sentences of an installation, without the drivers themselves."""
    environ = environment(core, one)
    return list(install(one / "one-provider", Places.from_environment(environ), environ, is_dry=is_dry))


def removed(core: HookedCore, one: Path) -> list[str]:
    environ = environment(core, one)
    return list(remove(Places.from_environment(environ), environ, is_dry=False))


def test_the_hooks_are_made_once_and_removed(core: HookedCore, one: Path) -> None:
    path = one / "var" / "remotes" / "hooks" / "one_provider" / "recreate"
    names = [(len(name), name) for name in HOOKS]
    made = [f"made: hook {number}, {name}" for number, name in names]
    assert installed(core, one, is_dry=True) == [f"written: {path}", *(f"made: hook {name}" for name in HOOKS)]
    assert (core.hooks, path.exists()) == ({}, False)
    assert installed(core, one) == [f"written: {path}", *made]
    assert core.hooks == dict.fromkeys(HOOKS, str(path))
    assert path.stat().st_mode & 0o777 == 0o755
    assert installed(core, one) == [f"exists: {path}", *(f"exists: hook {number}, {name}" for number, name in names)]
    assert core.asked("one.hook.allocate") == 3
    core.hooks["one_provider_theirs_too"] = "/another"
    assert removed(core, one) == [*(f"removed: hook {number}, {name}" for number, name in names), f"removed: {path}"]
    assert (core.hooks, path.exists()) == ({"one_provider_theirs_too": "/another"}, False)
    assert removed(core, one) == []


def test_the_command_installs_the_drivers_and_the_hook(core: HookedCore, one: Path) -> None:
    environ: dict[str, Any] = environment(core, one)
    printed = output_of(one, "install", "cloud", "--recreate-hook", "--dry-run", **environ)
    lines = printed.splitlines()
    assert lines[0].startswith(f"would be linked: {one / 'lib' / 'mads' / 'one_vmm_provider'} -> ")
    assert lines[-2:] == [
        "would be made: hook one_provider_poweroff",
        "next: see that onehem-server runs, which carries hooks out (systemctl status opennebula-hem)",
    ]


def test_the_command_removes_the_hook_alone(core: HookedCore, one: Path) -> None:
    installed(core, one)
    environ: dict[str, Any] = environment(core, one)
    steps = json_of(one, "install", "cloud", "--recreate-hook", "--remove", **environ)
    assert [each["step"].split(":")[0] for each in steps] == ["removed"] * 4
    printed = output_of(one, "install", "cloud", "--recreate-hook", "--remove", **environ)
    assert printed == "there is nothing to remove\n"


def test_up_to_5_8_the_lines_for_oned_conf_are_printed(core: HookedCore, one: Path) -> None:
    core.hooks = None
    path = one / "var" / "remotes" / "hooks" / "one_provider" / "recreate"
    assert installed(core, one) == [
        f"written: {path}",
        f"OpenNebula up to 5.8 has its hooks in oned.conf: add these lines\n{vm_hooks(path)}",
    ]
    assert path.exists()
    hooks = read_template(vm_hooks(path)).vectors("VM_HOOK")
    assert [(each["STATE"], each["LCM_STATE"]) for each in hooks] == [*HOOKS.values()]
    assert {(each["ON"], each["COMMAND"], each["ARGUMENTS"]) for each in hooks} == {
        ("CUSTOM", str(path), "$ID $TEMPLATE")
    }
    remark, script = removed(core, one)
    assert (remark.partition(":")[0], script) == ("OpenNebula up to 5.8 has its hooks in oned.conf", f"removed: {path}")


def test_what_others_have_made_is_not_changed(core: HookedCore, one: Path) -> None:
    core.hooks = {"one_provider_unknown": "/theirs"}
    with pytest.raises(SettingsError, match="has a hook one_provider_unknown that runs /theirs: delete it"):
        installed(core, one)
    path = one / "var" / "remotes" / "hooks" / "one_provider" / "recreate"
    path.write_text("#!/bin/sh\n")
    with pytest.raises(SettingsError, match=f"{path} exists and is not ours: move it away"):
        installed(core, one)


def test_the_hook_and_a_datastore_are_removed_one_after_the_other(one: Path) -> None:
    words = ("install", "cloud", "--remove", "--recreate-hook", "--datastore", "default")
    assert "give either --recreate-hook or --datastore with --remove" in output_of(one, *words, code=2)


def test_a_path_that_a_shell_would_read_otherwise_is_refused(one: Path) -> None:
    places = Places(conf=one, var=one / "$HOME", log=one)
    with pytest.raises(SettingsError, match="cannot be written into a hook"):
        script_text(one, places)


def a_vm(driver: str) -> str:
    """A VM as hooks get it, with an earlier host; in base64."""
    records = "".join(
        f"<HISTORY><OID>7</OID><SEQ>{seq}</SEQ><VM_MAD><![CDATA[{name}]]></VM_MAD><TM_MAD><![CDATA[ssh]]></TM_MAD></HISTORY>"
        for seq, name in enumerate(("kvm", driver))
    )
    text = f"<VM>\n  <ID>7</ID>\n  <UID>0</UID><TEMPLATE><DISK><ID>3</ID></DISK></TEMPLATE>{records}</VM>"
    return base64.b64encode(text.encode()).decode()


def test_check_names_hooks_that_are_missing_and_a_script_that_is_gone(core: HookedCore, one: Path) -> None:
    local = LocalCore(environment(core, one))

    def checked() -> list[tuple[bool | None, str]]:
        return [(each.is_well, each.found) for each in check_recreate_hooks(local, one / "var")]

    missing = f"they stay in BOOT_FAILURE: OpenNebula lacks the hooks {', '.join(HOOKS)}"
    assert checked() == [(None, missing)]
    installed(core, one)
    assert checked() == [(True, "hooks have OpenNebula recreate them")]
    path = script_path(one / "var")
    path.unlink()
    assert checked() == [(False, f"OpenNebula's hooks call {path}, and this machine has no such file")]


def test_the_script_says_that_the_program_is_gone(one: Path) -> None:
    (one / "etc" / "one_provider_mad" / "cloud.toml").touch()
    places = Places(conf=one / "etc" / "one_provider_mad", var=one / "var", log=one)
    text = script_text(one / "removed", places)
    done = subprocess.run(["sh", "-c", text], input=a_vm("cloud"), capture_output=True, text=True, timeout=HANG)
    sentence = (
        f"VM 7 is left as it is: {one}/removed is not there; run one-provider install NAME --recreate-hook again\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


@pytest.mark.parametrize(
    ("vm", "called"),
    [
        pytest.param(a_vm("cloud"), "called: recreate 7 --hook\n", id="of-ours"),
        pytest.param(a_vm("journaled"), "called: recreate 7 --hook\n", id="of-ours-without-a-file"),
        pytest.param(a_vm("kvm"), "", id="of-another-driver"),
        pytest.param(a_vm("../cloud"), "", id="with-a-path"),
        pytest.param(base64.b64encode(b"<VM><ID>7</ID></VM>").decode(), "", id="without-a-host"),
        pytest.param("", "", id="nothing"),
    ],
)
@pytest.mark.parametrize("way", ["stdin", "arguments"])
def test_the_script_starts_the_command_for_vms_of_our_drivers_alone(one: Path, vm: str, called: str, way: str) -> None:
    """From 5.10 on the VM comes on stdin, up to 5.8 as the second argument."""
    (one / "etc" / "one_provider_mad" / "cloud.toml").touch()
    (one / "var" / "one_provider_mad_journaled.journal").touch()
    program = one / "one provider"
    program.write_text('#!/bin/sh\necho "called: $*"\n')
    program.chmod(0o755)
    script = script_path(one / "var")
    script.parent.mkdir(parents=True)
    places = Places(conf=one / "etc" / "one_provider_mad", var=one / "var", log=one)
    script.write_text(script_text(program, places))
    done = subprocess.run(
        ["sh", script, *(() if way == "stdin" else ("7", vm))],
        input=vm if way == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, called, "")
