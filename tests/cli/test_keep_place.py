"""`one-provider keep-place`, by hand and as OpenNebula's hooks call it."""

from __future__ import annotations

import base64
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from one_provider_mad.cli import main as program
from one_provider_mad.cli.keep_place_hooks import HOOKS, check_hooks, command_of
from one_provider_mad.xmlrpc.local import LocalCore as Core
from tests.cli.running import surroundings
from tests.cli.test_template import KVM, SIM, host
from tests.end_to_end.oned import aside
from tests.xmlrpc.local_core import LocalCore, environment, local_core

HOME, CLOUD = "kvm", "sim"


def vm(driver: str, requirements: str = "", *, automatic: str = "") -> str:
    """A VM that has left a host of a driver."""
    history = f"<HISTORY><VM_MAD>other</VM_MAD></HISTORY><HISTORY><VM_MAD>{driver}</VM_MAD></HISTORY>" if driver else ""
    return (
        f"<VM><ID>7</ID><TEMPLATE><AUTOMATIC_REQUIREMENTS>{automatic}</AUTOMATIC_REQUIREMENTS></TEMPLATE>"
        f"<USER_TEMPLATE><SCHED_REQUIREMENTS>{requirements}</SCHED_REQUIREMENTS></USER_TEMPLATE>"
        f"<HISTORY_RECORDS>{history}</HISTORY_RECORDS></VM>"
    )


def hook(number: int, name: str, command: str) -> str:
    """A hook of OpenNebula."""
    return f"<HOOK><ID>{number}</ID><NAME>{name}</NAME><TEMPLATE><COMMAND>{command}</COMMAND></TEMPLATE></HOOK>"


def hooks(*all_of_them: str) -> str:
    """The answer to one.hookpool.info."""
    return f"<HOOK_POOL>{''.join(all_of_them)}</HOOK_POOL>"


@pytest.fixture
def core(tmp_path: Path) -> Iterator[LocalCore]:
    (tmp_path / "etc" / "one_provider_mad").mkdir(parents=True)
    (tmp_path / "etc" / "one_provider_mad" / "sim.toml").write_text('provider = "simulated"\nowner = "o"\n')
    with local_core() as served:
        served.answers = {
            "one.system.version": "7.4.0",
            "one.clusterpool.info": "<CLUSTER_POOL/>",
            "one.hostpool.info": f"<HOST_POOL>{host(0, 'kvm-1', HOME, 0, more=KVM)}"
            f"{host(1, 'cloud', CLOUD, 0, more=SIM)}</HOST_POOL>",
            "one.vm.update": 7,
            "one.hook.allocate": 5,
            "one.hook.delete": 5,
            "one.hookpool.info": "<HOOK_POOL/>",
            "one.vmpool.info": "<VM_POOL/>",
        }
        environment(served, tmp_path)
        yield served


def ran(core: LocalCore, root: Path, *arguments: str, stdin: str = "", code: int = 0) -> str:
    environ = surroundings(root, ONE_XMLRPC=core.url, ONE_AUTH=str(root / "one_auth"))
    result = aside(
        lambda: CliRunner().invoke(program.main, ["keep-place", *arguments], env=environ, input=stdin.encode())
    )
    assert result.exit_code == code, result.output
    return result.output


def updates(core: LocalCore) -> list[str]:
    """The texts that were written into the VM; all other attributes stay."""
    found = [call for call in core.calls if call[0] == "one.vm.update"]
    assert all(call[1::2] == (7, 1) for call in found)
    return [call[2] for call in found]


@pytest.mark.parametrize("driver", [HOME, CLOUD])
def test_a_vm_is_kept_to_the_hosts_of_its_last_driver(core: LocalCore, tmp_path: Path, driver: str) -> None:
    core.answers["one.vm.info"] = vm(driver)
    assert ran(core, tmp_path, "7") == f"VM 7 is kept to hosts of {driver}, where its disk is\n"
    assert updates(core) == [f'SCHED_REQUIREMENTS="VM_MAD = \\"{driver}\\""\nPROVIDER_PLACE="{driver}"\n']


@pytest.mark.parametrize("is_within_a_message", [True, False])
def test_a_hook_hands_over_the_vm_as_it_left_its_host(
    core: LocalCore, tmp_path: Path, *, is_within_a_message: bool
) -> None:
    core.answers["one.vm.info"] = vm(CLOUD, "ID = 1")  # resumed meanwhile, in the wrong place
    document = f"<HOOK_MESSAGE>{vm(HOME)}</HOOK_MESSAGE>" if is_within_a_message else vm(HOME)
    stdin = base64.b64encode(document.encode()).decode()
    ran(core, tmp_path, "--hook", stdin=stdin)
    assert updates(core) == ['SCHED_REQUIREMENTS="(ID = 1) & VM_MAD = \\"kvm\\""\nPROVIDER_PLACE="kvm"\n']


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(vm(HOME, "HYPERVISOR = kvm"), id="by-its-own-requirements"),
        pytest.param(vm(HOME, automatic="!(PUBLIC_CLOUD = YES)"), id="by-those-of-the-core"),
    ],
)
def test_a_vm_that_no_cloud_could_take_is_left_as_it_is(core: LocalCore, tmp_path: Path, document: str) -> None:
    core.answers["one.vm.info"] = document
    assert "is left as it is: it can go to no other kind of host" in ran(core, tmp_path, "7")
    assert not updates(core)


def test_a_vm_is_freed(core: LocalCore, tmp_path: Path) -> None:
    kept = vm(CLOUD, '(ID = 3) &amp; VM_MAD = "sim"').replace(
        "</USER_TEMPLATE>", "<PROVIDER_PLACE>sim</PROVIDER_PLACE></USER_TEMPLATE>"
    )
    core.answers["one.vm.info"] = kept
    assert "may go to every host again" in ran(core, tmp_path, "7", "--free")
    assert updates(core) == ['SCHED_REQUIREMENTS="ID = 3"\nPROVIDER_PLACE=""\n']
    core.answers["one.vm.info"] = vm(CLOUD, "ID = 3")
    assert "is left as it is" in ran(core, tmp_path, "7", "--free")
    assert len(updates(core)) == 1


def test_the_hooks_are_made_that_are_missing_and_only_these_are_removed(core: LocalCore, tmp_path: Path) -> None:
    called = command_of(HOOKS[0])
    core.answers["one.hookpool.info"] = hooks(hook(3, HOOKS[0].name, called), hook(9, "another", called))
    assert f"hook {HOOKS[0].name} is there already (3)" in ran(core, tmp_path, "--install")
    made = [call[1] for call in core.calls if call[0] == "one.hook.allocate"]
    assert [f'LCM_STATE="{hook.lcm_state}"' in text for hook, text in zip(HOOKS[1:], made, strict=True)] == [True, True]
    assert all("/one-provider keep-place --hook" in text for text in made)
    ran(core, tmp_path, "--remove")
    assert [call[1] for call in core.calls if call[0] == "one.hook.delete"] == [3]


def test_a_hook_calls_a_program_in_a_folder_with_a_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/a b/one-provider"])
    command = command_of(HOOKS[0])
    assert shlex.split(command) == ["/opt/a b/one-provider", "keep-place", "--hook"]
    assert command.startswith("/")  # else onehem-server takes it for a path in its own folder


@pytest.mark.parametrize(("unanswered", "code"), [(2, 0), (3, 1)])
def test_a_hook_asks_again_while_opennebula_does_not_answer(
    core: LocalCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unanswered: int, code: int
) -> None:
    monkeypatch.setattr("one_provider_mad.cli.keep_place._PAUSES", (0.0, 0.0))
    core.answers["one.vm.info"] = vm(HOME)
    core.unanswered = unanswered
    ran(core, tmp_path, "--hook", stdin=base64.b64encode(vm(HOME).encode()).decode(), code=code)
    assert len(updates(core)) == (code == 0)


def test_requirements_that_cannot_be_written_are_named(core: LocalCore, tmp_path: Path) -> None:
    core.answers["one.vm.info"] = vm(CLOUD, "A = ]]&gt;")
    sentence = "VM 7 is left as it is: SCHED_REQUIREMENTS holds ]]>, which no template can hold"
    assert sentence in ran(core, tmp_path, "7", code=1)
    assert not updates(core)


def test_vms_that_are_undeployed_when_the_hooks_are_made_are_kept_as_well(core: LocalCore, tmp_path: Path) -> None:
    core.answers |= {"one.vmpool.info": "<VM_POOL><VM><ID>7</ID></VM></VM_POOL>", "one.vm.info": vm(HOME)}
    assert "VM 7 is kept to hosts of kvm, where its disk is\n" in ran(core, tmp_path, "--install")
    assert [call[4] for call in core.calls if call[0] == "one.vmpool.info"] == [4, 9]


def test_a_vm_that_cannot_be_kept_does_not_keep_the_next_ones_from_it(core: LocalCore, tmp_path: Path) -> None:
    core.answers |= {
        "one.vmpool.info": "<VM_POOL><VM><ID>7</ID></VM><VM><ID>7</ID></VM></VM_POOL>",
        "one.vm.info": vm(CLOUD, "A = ]]&gt;"),
    }
    printed = ran(core, tmp_path, "--install", code=1)
    assert printed.count("VM 7: VM 7 is left as it is: SCHED_REQUIREMENTS holds ]]>") == 4


def test_check_says_which_hooks_are_missing(core: LocalCore, tmp_path: Path) -> None:
    environ = {"ONE_XMLRPC": core.url, "ONE_AUTH": str(tmp_path / "one_auth")}
    (missing,) = check_hooks(Core(environ))
    assert (missing.is_well, missing.remedy) == (None, "one-provider keep-place --install")
    assert all(hook.name in missing.found for hook in HOOKS)
    core.answers["one.hookpool.info"] = hooks(*(hook(3, each.name, f"{sys.executable} -h") for each in HOOKS))
    assert [each.is_well for each in check_hooks(Core(environ))] == [True]


def test_hooks_of_a_package_that_has_moved_are_named_and_made_anew(core: LocalCore, tmp_path: Path) -> None:
    gone = f"{tmp_path}/old/one-provider keep-place --hook"
    core.answers["one.hookpool.info"] = hooks(*(hook(3, each.name, gone) for each in HOOKS))
    (wrong,) = check_hooks(Core({"ONE_XMLRPC": core.url, "ONE_AUTH": str(tmp_path / "one_auth")}))
    assert (wrong.is_well, wrong.remedy) == (False, "one-provider keep-place --install")
    assert f"calls {gone}, and this machine has no such program" in wrong.found
    assert f"hook {HOOKS[0].name} was removed (3): it called {gone}\n" in ran(core, tmp_path, "--install")
    changes = [call[0] for call in core.calls if call[0] in ("one.hook.delete", "one.hook.allocate")]
    assert changes == ["one.hook.delete", "one.hook.allocate"] * len(HOOKS)


@pytest.mark.parametrize(
    ("arguments", "stdin", "sentence"),
    [
        pytest.param(("7",), "", "the VM has never been on a host, so it has no disk there", id="never-deployed"),
        pytest.param((), "", "name a VM, or one of --hook, --install and --remove", id="nothing-asked"),
        pytest.param(("7", "--install"), "", "name a VM, or one of", id="too-much-asked"),
        pytest.param(("--hook",), "no document", "stdin does not hold a VM as hooks hand it over", id="no-document"),
        pytest.param(("--install",), "", "OpenNebula 5.8.5 has no hooks that can be made", id="old-release"),
    ],
)
def test_what_cannot_be_done_is_said(
    core: LocalCore, tmp_path: Path, arguments: tuple[str, ...], stdin: str, sentence: str
) -> None:
    core.answers |= {"one.vm.info": vm(""), "one.system.version": "5.8.5"}
    code = 2 if sentence.startswith("name") else 1
    assert sentence in ran(core, tmp_path, *arguments, stdin=stdin, code=code)
