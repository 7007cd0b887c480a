"""Settings of scripts: ARGUMENTS, OpenNebula's own files, and an optional configuration file."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import COVERAGE, Driver
from tests.end_to_end.script_cases import CASES, request
from tests.end_to_end.script_folder import HOST, NAME, Record, ScriptPlace, Served, altered
from tests.oned_lines import Release


@pytest.fixture
def place(tmp_path: Path) -> ScriptPlace:
    """The OpenNebula in which `driver` starts its drivers, with scripts."""
    return ScriptPlace(tmp_path / "one")


def reboot(vm_id: int = 7, release: Release = "7.4") -> bytes:
    return oned_requests.reboot(vm_id, f"i-{vm_id}", host=HOST, release=release)


def seen_by_reboot(place: ScriptPlace, driver: Driver) -> Record:
    outcome = Served(place, driver).perform(reboot())
    assert outcome.reply == "SUCCESS -"
    (record,) = outcome.seen
    return record


# The environment

INHERITED = ("PATH", "HOME")
RC_FILES = {
    "defaultrc": """ONE_MAD_DEBUG=
# PRIORITY=1
PRIORITY=19
GREETING="hello world" # not to the user

this is no line
""",
    "vmm_exec/vmm_execrc": """export LIVE_DISK_SNAPSHOTS='kvm-qcow2 kvm-ceph'
VNMAD_LOCAL_ACTIONS="elastic-post elastic-clean"
""",
}
FROM_RC_FILES = {
    "ONE_MAD_DEBUG": "",
    "PRIORITY": "19",
    "GREETING": "hello world",
    "LIVE_DISK_SNAPSHOTS": "kvm-qcow2 kvm-ceph",
    "VNMAD_LOCAL_ACTIONS": "elastic-post elastic-clean",
}


def test_scripts_have_oneds_environment_and_the_variables_of_its_rc_files(
    place: ScriptPlace, driver: StartDriver
) -> None:
    for name, text in RC_FILES.items():
        place.etc(name, text)
    given = {"ONE_XMLRPC": "http://one:2633/RPC2", "LANG": "de_DE.UTF-8", "PRIORITY": "1"}
    record = seen_by_reboot(place, driver(f"-t 15 -r 0 {NAME}", environ=given))
    found = dict(record.environment)
    assert found.pop("RUBYLIB").startswith(f"{place.root}/lib/ruby")
    assert found.pop("PWD", str(place.var)) == str(place.var)
    found.pop("LC_CTYPE", "")  # Python sets it where there is no locale
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    found = {name: value for name, value in found.items() if name not in COVERAGE}
    assert found == {**inherited, "ONE_LOCATION": str(place.root), **given, **FROM_RC_FILES}


def test_scripts_run_in_the_var_directory(place: ScriptPlace, driver: StartDriver) -> None:
    assert seen_by_reboot(place, driver(f"-t 15 -r 0 {NAME}", cwd=place.root)).directory == str(place.var)


def test_proxy_option_sets_the_proxy_variables_of_scripts(place: ScriptPlace, driver: StartDriver) -> None:
    record = seen_by_reboot(place, driver(f"-t 15 --proxy http://proxy:3128 -r 0 {NAME}"))
    assert record.environment["http_proxy"] == record.environment["https_proxy"] == "http://proxy:3128"


def test_scripts_run_if_an_rc_file_is_unreadable_or_malformed(place: ScriptPlace, driver: StartDriver) -> None:
    place.etc("defaultrc/is_a_directory", "")
    place.etc("vmm_exec/vmm_execrc", 'GOOD=yes\nBROKEN="no end\n\x00\xff')
    assert seen_by_reboot(place, driver(f"-t 15 -r 0 {NAME}")).environment["GOOD"] == "yes"


def test_script_inherits_neither_blocked_signals_nor_open_descriptors(place: ScriptPlace, driver: StartDriver) -> None:
    status = place.note("status")
    place.on_action("reboot", 7, f"cat /proc/self/status >{status}; ls /proc/self/fd >>{status}")
    seen_by_reboot(place, driver(f"-t 15 -r 0 {NAME}"))
    text = status.read_text()
    assert signals(text, "SigBlk") == set()
    ours = signals(Path("/proc/self/status").read_text(), "SigIgn") - {signal.SIGPIPE}  # Python ignores that itself
    assert signals(text, "SigIgn") <= ours
    assert [line for line in text.splitlines() if line.isdigit()] == [
        "0",
        "1",
        "2",
        "3",
    ]  # 3 is the directory that ls reads


def signals(status: str, field: str) -> set[int]:
    """The signals of a field of /proc/<pid>/status."""
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(f"{field}:"))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


# -l


@pytest.mark.parametrize(
    ("options", "scripts"),
    [
        pytest.param("-l reboot", {"REBOOT": "reboot"}, id="listed"),
        pytest.param(
            "-l deploy,reboot=restart,snapshotcreate=take",
            {"REBOOT": "restart", "SNAPSHOTCREATE": "take"},
            id="scripts-of-other-names",
        ),
        pytest.param(
            "-l REBOOT=restart,snapshotcreate",
            {"REBOOT": "restart", "SNAPSHOTCREATE": "snapshot_create"},
            id="upper-case-and-a-script-of-its-own-name",
        ),
    ],
)
def test_l_option_gives_the_script_of_each_action(
    place: ScriptPlace, driver: StartDriver, options: str, scripts: Mapping[str, str]
) -> None:
    for name in ("restart", "take"):
        place.script(f"vmm/{NAME}/{name}")
    served = Served(place, driver(f"-t 15 -r 0 {options} {NAME}"))
    for action, script in scripts.items():
        outcome = served.perform(oned_requests.line(action, 7, deploy_id="i-7", host=HOST))
        assert [record.script for record in outcome.seen] == [f"vmm/{NAME}/{script}"], action


def test_action_missing_in_the_l_option_is_refused(place: ScriptPlace, driver: StartDriver) -> None:
    place.network("net")
    served = Served(place, driver(f"-t 15 -r 0 -l reboot,deploy {NAME}"))
    outcome = served.perform(oned_requests.terminate(7, "i-7"))
    assert outcome.reply.startswith("FAILURE ")
    assert "would need ssh" in outcome.reply
    outcome = served.perform(request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"], TM_COMMAND=""))
    assert "would need ssh" in outcome.reply  # of the network driver: `pre` is not in the list either
    assert not outcome.seen


def test_l_option_gives_the_scripts_of_network_actions_too(place: ScriptPlace, driver: StartDriver) -> None:
    place.network("net")
    place.script("vnm/net/my_post")
    served = Served(place, driver(f"-t 15 -r 0 -l deploy,pre,post=my_post {NAME}"))
    outcome = served.perform(request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"], TM_COMMAND=""))
    assert [record.script for record in outcome.seen] == ["vnm/net/pre", "vmm/cloud/deploy", "vnm/net/my_post"]


def test_vnmad_local_actions_allows_network_actions_missing_in_the_l_option(
    place: ScriptPlace, driver: StartDriver
) -> None:
    place.etc("vmm_exec/vmm_execrc", 'VNMAD_LOCAL_ACTIONS="elastic-pre elastic-post"\n')
    place.network("elastic")
    place.network("net")
    served = Served(place, driver(f"-t 15 -r 0 -l deploy,cancel,clean {NAME}"))
    line = request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"], network="elastic", TM_COMMAND="")
    outcome = served.perform(line)
    assert [record.script for record in outcome.seen] == ["vnm/elastic/pre", "vmm/cloud/deploy", "vnm/elastic/post"]
    outcome = served.perform(request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"], TM_COMMAND=""))
    assert "would need ssh" in outcome.reply


WITHOUT_LIST = ("BACKUP", "BACKUPCANCEL", "EXEC", "EXEC_CANCEL")


def test_backup_and_exec_are_refused_unless_the_l_option_has_them(place: ScriptPlace, driver: StartDriver) -> None:
    served = Served(place, driver(f"-t 15 -r 0 {NAME}"))
    for action in WITHOUT_LIST:
        operand = {"COMMAND": "date"} if action == "EXEC" else {}
        outcome = served.perform(oned_requests.line(action, 7, deploy_id="i-7", operand=operand))
        assert outcome.reply.startswith("FAILURE ")
        assert "would need ssh" in outcome.reply
        assert not outcome.seen
    assert served.perform(oned_requests.unknown(7)).reply.startswith("FAILURE ")


def test_exec_runs_its_script_if_the_l_option_has_it(place: ScriptPlace, driver: StartDriver) -> None:
    served = Served(place, driver(f"-t 15 -r 0 -l exec,exec_cancel {NAME}"))
    operand = {"COMMAND": "echo 'a b' >/tmp/$x", "STDIN": "aGVsbG8="}
    (record,) = served.perform(oned_requests.line("EXEC", 7, deploy_id="i-7", host=HOST, operand=operand)).seen
    assert record.script == "vmm/cloud/exec"
    assert record.arguments[:2] == ("7", HOST)
    assert record.arguments[-1] == "aGVsbG8="
    assert len(record.arguments) == 4
    (record,) = served.perform(oned_requests.line("EXEC_CANCEL", 7, deploy_id="i-7", host=HOST)).seen
    assert record.step() == f"vmm/cloud/exec_cancel 7 {HOST}"


# A live snapshot of a disk


@pytest.mark.parametrize("rc", ["", 'LIVE_DISK_SNAPSHOTS="kvm-qcow2 kvm-ceph"\n'], ids=["no-file", "others"])
def test_disk_snapshot_is_refused_unless_live_disk_snapshots_allows_it(
    place: ScriptPlace, driver: StartDriver, rc: str
) -> None:
    if rc:
        place.etc("vmm_exec/vmm_execrc", rc)
    place.transfer("store")
    served = Served(place, driver(f"-t 15 -r 0 {NAME}"))
    outcome = served.perform(request(place, "DISKSNAPSHOTCREATE", 7, "7.4", CASES["DISKSNAPSHOTCREATE"]))
    assert outcome.reply.startswith("FAILURE ")
    assert "live" in outcome.reply
    assert not outcome.seen


# The configuration file


def test_transfer_skip_runs_no_transfer_scripts(place: ScriptPlace, driver: StartDriver) -> None:
    place.configure('provider = "scripts"\n[scripts]\ntransfer = "skip"\n', name=NAME)
    place.transfer("store")
    place.network("net")
    served = Served(place, driver(f"-t 15 -r 0 {NAME}"))
    outcome = served.perform(request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"]))
    assert [record.script for record in outcome.seen] == ["vnm/net/pre", "vmm/cloud/deploy", "vnm/net/post"]
    outcome = served.perform(request(place, "ATTACHDISK", 7, "7.4", CASES["ATTACHDISK"]))
    assert [record.script for record in outcome.seen] == ["vmm/cloud/attach_disk"]


def test_remotes_setting_gives_the_directory_of_scripts(place: ScriptPlace, driver: StartDriver) -> None:
    elsewhere = place.root / "elsewhere"
    place.configure(f'provider = "scripts"\n[scripts]\nremotes = "{elsewhere}"\n', name=NAME)
    place.remotes = place.remotes.rename(elsewhere)
    assert seen_by_reboot(place, driver(f"-t 15 -r 0 {NAME}")).script == f"vmm/{NAME}/reboot"


WRONG: Mapping[str, tuple[str, ...]] = {
    '[scripts]\ntransfer = "ssh"\n': ("cloud.toml", "transfer"),
    '[scripts]\nremote = "/x"\n': ("cloud.toml", "remote"),
    "[scripts]\ntransfer =\n": ("cloud.toml",),
}


def test_configuration_error_of_scripts_is_named_until_it_is_corrected(place: ScriptPlace, driver: StartDriver) -> None:
    place.configure("", name=NAME)
    one = driver(f"-t 15 -r 0 {NAME}")
    for text, words in WRONG.items():
        place.configure(f'provider = "scripts"\n{text}', name=NAME)
        reply = one.ask(reboot())
        assert reply.startswith("FAILURE "), text
        assert [word for word in words if word not in reply] == [], text
    place.configure('provider = "scripts"\n', name=NAME)
    assert one.ask(reboot(8)) == "SUCCESS -"


def test_scripts_do_not_serve_a_cloud_whose_configuration_was_removed(place: ScriptPlace, driver: StartDriver) -> None:
    path = place.configure('provider = "simulated"\nowner = "one-test"\n', name=NAME)
    first = driver(f"-t 15 -r 0 {NAME}")
    assert first.ask(oned_requests.line("DEPLOY", 7, "BOOT")).startswith("SUCCESS ")
    first.drop()
    path.unlink()
    outcome = Served(place, driver(f"-t 15 -r 0 {NAME}")).perform(reboot())
    assert outcome.reply.startswith("FAILURE ")
    assert not outcome.seen


def test_embedded_cloud_takes_precedence_over_scripts_of_its_name(place: ScriptPlace, driver: StartDriver) -> None:
    place.script("vmm/simulated/deploy", "echo from-the-script")
    line = altered(oned_requests.deploy(7), LOCAL_DEPLOYMENT_FILE=str(place.deployment_file(7)))
    assert driver("-t 15 -r 0 simulated").ask(line).startswith("SUCCESS sim-")
    assert not place.take()


def test_script_directory_created_later_is_served_without_a_restart(place: ScriptPlace, driver: StartDriver) -> None:
    one = driver("-t 15 -r 0 later")
    reply = one.ask(reboot())
    assert reply.startswith("FAILURE ")
    assert "later" in reply
    place.script("vmm/later/reboot", "echo here")
    assert one.ask(reboot()) == "SUCCESS here"


def test_symlinked_script_directory_is_served_under_the_name_of_the_link(
    place: ScriptPlace, driver: StartDriver
) -> None:
    (place.remotes / "vmm" / "alias").symlink_to(NAME)
    assert seen_by_reboot(place, driver("-t 15 -r 0 alias")).script == "vmm/alias/reboot"


OPTIONS: Mapping[str, str] = {
    "upstream-ec2": "-t 15 -r 0 -w 600 -p {name}",
    "shell": "-s bash -d migrate -t 15 {name}",
    "bare": "{name}",
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_arguments_of_upstream_drivers_are_accepted(place: ScriptPlace, driver: StartDriver, options: str) -> None:
    assert driver(options.format(name=NAME)).ask(reboot()) == "SUCCESS -"
