"""The reply after a script's end, and the lines for the VM's log.

From OpenNebula's src/mad/ruby/CommandManager.rb, DriverExecHelper.rb and ScriptsHelper.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest

from tests.conftest import assert_spoke_properly
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver
from tests.end_to_end.script_cases import CASES, request
from tests.end_to_end.script_folder import HOST, NAME, Outcome, ScriptPlace, Served, altered

_numbers = itertools.count(4000)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One driver for all tests; each uses a VM of its own."""
    place = ScriptPlace(tmp_path_factory.mktemp("scripts") / "one")
    place.network("net")
    place.transfer("store")
    with Driver(place, f"-t 15 -r 0 -p {NAME}") as driver:
        yield Served(place, driver)
    assert_spoke_properly(driver)


@pytest.fixture
def vm_id() -> int:
    """The number of a VM that no other test uses."""
    return next(_numbers)


def reboot(served: Served, vm_id: int, what: str) -> Outcome:
    """Send a REBOOT whose script runs this text."""
    served.place.on_action("reboot", vm_id, what)
    return served.perform(oned_requests.reboot(vm_id, "i-1", host=HOST))


# Replies

SUCCESSES = {
    "nothing": ("exit 0", "-"),
    "blank": ("echo; echo '  '", "-"),
    "a-word": ("echo i-0abc", "i-0abc"),
    "no-line-feed": ("printf i-0abc", "i-0abc"),
    "around-it": ("printf '\\n  i-0abc \\n\\n'", "i-0abc"),
    "lines": ("printf 'STATE=a\\nCPU=1.5 MEMORY=1\\n'", "STATE=a CPU=1.5 MEMORY=1"),
    "only-stderr": ("echo i-0abc >&2", "-"),
    "a-dash": ("echo -", "-"),
    "umlauts": ("echo größe", "größe"),
}


@pytest.mark.parametrize(("what", "payload"), SUCCESSES.values(), ids=SUCCESSES)
def test_success_reply_has_the_output_of_the_script(served: Served, vm_id: int, what: str, payload: str) -> None:
    assert reboot(served, vm_id, what).reply == f"SUCCESS {payload}"


BEGIN, END = "ERROR MESSAGE --8<------", "ERROR MESSAGE ------>8--"
FAILURES = {
    "markers": (f"noise\n{BEGIN}\nno such image\n{END}\nmore noise", "no such image"),
    "lines-in-markers": (f"{BEGIN}\nno such image\nin this region\n{END}", "no such image in this region"),
    "plain": ("no such image", "no such image"),
    "plain-lines": ("no such image\nin this region", "no such image in this region"),
    "prefixes-left-out": ("INFO: deploy: trying\nno such image\nDEBUG: 42 details\nWARN: old", "no such image"),
    "only-prefixed": ("ERROR: no such image\nINFO: deploy", "no such image"),
    "markers-before-prefixes": (f"ERROR: noise\n{BEGIN}\nno such image\n{END}", "no such image"),
}


@pytest.mark.parametrize(("stderr", "reason"), FAILURES.values(), ids=FAILURES)
def test_failure_reply_has_the_error_message_of_the_script(
    served: Served, vm_id: int, stderr: str, reason: str
) -> None:
    reply = reboot(served, vm_id, f"echo not this; cat >&2 <<'EOF'\n{stderr}\nEOF\nexit 3").reply
    if stderr.startswith("ERROR: no such image"):  # stderr has no other line
        assert re.fullmatch("FAILURE (ERROR: )?no such image (INFO: )?deploy", reply)
    else:
        assert reply == f"FAILURE {reason}"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        pytest.param("exit 3", "3", id="exit"),
        pytest.param("echo only this; exit 1", "1", id="stdout-only"),
        pytest.param("echo >&2; exit 255", "255", id="blank-stderr"),
        pytest.param("kill -KILL $$", "(137|9|SIGKILL)", id="killed"),
    ],
)
def test_failure_without_stderr_names_the_script_and_its_exit_code(
    served: Served, vm_id: int, what: str, code: str
) -> None:
    assert re.match(rf"FAILURE .*reboot.*\b{code}\b", reboot(served, vm_id, what).reply)


UNCLEAN = {
    "starts-with-a-dash": "echo '- no such image' >&2; exit 1",
    "carriage-return": "printf 'no such\\r\\nimage\\r\\n' >&2; exit 1",
    "colours": "printf '\\033[31mno such image\\033[0m\\n' >&2; exit 1",
    "nul": "printf 'no such\\000image\\n' >&2; exit 1",
    "not-utf-8": "printf 'no such image \\377\\376\\n' >&2; exit 1",
    "cdata-end": "echo 'no such image ]]>' >&2; exit 1",
}


@pytest.mark.parametrize("what", UNCLEAN.values(), ids=UNCLEAN)
def test_control_characters_of_a_script_are_cleaned_from_the_reply(served: Served, vm_id: int, what: str) -> None:
    reply = reboot(served, vm_id, what).reply
    assert re.fullmatch(r"FAILURE [^-\x00-\x1f][^\x00-\x1f\x7f]*", reply)
    assert "image" in reply
    assert "]]>" not in reply


def deploy(served: Served, vm_id: int, what: str) -> Outcome:
    """Send a DEPLOY of 7.4 with a network driver, whose deploy script runs this text."""
    served.place.on_action("deploy", vm_id, f"{what}; exit 0")
    return served.perform(request(served.place, "DEPLOY", vm_id, "7.4", CASES["DEPLOY"]))


# Arguments of `printf`, and the bytes that `cancel` has to get: an id is never changed.
UNKEEPABLE = {
    "markup": ("<i-1>", b"<i-1>"),
    "ampersand": ("a&b", b"a&b"),
    "latin-1": ("vm-caf\\351-7", b"vm-caf\xe9-7"),
    "escape-sequence": ("\\033[32mi-7\\033[0m", b"\x1b[32mi-7\x1b[0m"),
    "byte-order-mark": ("\\357\\273\\277i-7", b"\xef\xbb\xbfi-7"),
    "c1": ("i-7\\302\\205", b"i-7\xc2\x85"),
    "right-to-left": ("i-\\342\\200\\2567", b"i-\xe2\x80\xae7"),
    "after-a-blank-line": ("\\n  <i-1> of this region\\n", b"<i-1>"),
}


@pytest.mark.parametrize(("printed", "word"), UNKEEPABLE.values(), ids=UNKEEPABLE)
def test_deploy_script_with_an_id_that_oned_cannot_store_is_cancelled(
    served: Served, vm_id: int, printed: str, word: bytes
) -> None:
    outcome = deploy(served, vm_id, f"printf '{printed}'")
    assert outcome.reply.startswith("FAILURE deploy printed an id that OpenNebula cannot keep (")
    assert outcome.steps()[-2:] == [
        f"vmm/cloud/cancel {word.decode('utf-8', 'surrogateescape')} {HOST} {vm_id} {HOST}",
        f"vnm/net/clean {HOST}",
    ]


WORDS_OF_SCRIPTS = ["one-7", "-rf", "größe-7", "../7", "i\u00a07", "\U0001f4e6"]


@pytest.mark.parametrize("word", WORDS_OF_SCRIPTS)
def test_first_word_of_a_deploy_script_is_the_deploy_id_unchanged(served: Served, vm_id: int, word: str) -> None:
    outcome = deploy(served, vm_id, f"echo '{word} in this region'")
    assert outcome.reply.split(" ")[:2] == ["SUCCESS", word]
    assert outcome.steps()[-1].startswith(f"vnm/net/post {word} {HOST}")


@pytest.mark.parametrize("what", ["echo", "printf ' \\t\\r\\n'"])
def test_deploy_script_that_prints_only_blanks_fails(served: Served, vm_id: int, what: str) -> None:
    outcome = deploy(served, vm_id, what)
    assert outcome.reply.startswith("FAILURE deploy printed a blank line and no id")
    assert [record.script for record in outcome.seen[-2:]] == ["vmm/cloud/deploy", "vnm/net/clean"]


# Replies that begin with a number


@pytest.mark.parametrize(
    ("action", "operand", "word"),
    [("UPDATESG", "SECURITY_GROUP_ID", "101"), ("UPDATENIC", "VIRTUAL_NETWORK_ID", "7")],
)
@pytest.mark.parametrize("end", ["exit 0", "echo boom >&2; exit 1"], ids=["success", "failure"])
def test_updatesg_and_updatenic_scripts_reply_the_security_group_or_network_id_first(
    served: Served, vm_id: int, action: str, operand: str, word: str, end: str
) -> None:
    network = served.place.network(f"net{vm_id}", update_sg=end, update_nic=end)
    reply = served.perform(request(served.place, action, vm_id, "7.4", CASES[action], network=network)).reply
    result = "SUCCESS" if end == "exit 0" else "FAILURE"
    assert reply.split()[:2] == [result, word]
    assert ("boom" in reply) == (result == "FAILURE")
    assert operand not in reply


@pytest.mark.parametrize("action", ["UPDATESG", "UPDATENIC"])
def test_updatesg_and_updatenic_without_a_network_driver_reply_success_with_the_id(
    served: Served, vm_id: int, action: str
) -> None:
    reply = served.perform(oned_requests.line(action, vm_id, deploy_id="i-1", operand=CASES[action].operand)).reply
    assert reply.split()[:2] == ["SUCCESS", *CASES[action].operand.values()]


# The VM's log


def test_failed_script_is_logged_with_its_command_and_all_lines_of_stderr(served: Served, vm_id: int) -> None:
    lines = "INFO: reboot: trying\\nWARN: slow\\nplain\\nDEBUG: detail\\nERROR: bad"
    log = reboot(served, vm_id, f"printf '{lines}\\n' >&2; exit 3").log
    path = served.place.remotes / "vmm" / NAME / "reboot"
    first, *rest = log
    assert first.startswith(f"E Command execution failed (exit code: 3): {path} i-1 {HOST} {vm_id} {HOST}")
    assert rest == [
        "I reboot: trying",
        "W slow",
        "E plain",
        "D detail",
        "E bad",
        "I Failed to execute virtualization driver operation: reboot.",
        "E REBOOT: plain",  # from 6.0 on, oned drops the reply
    ]


def test_successful_script_logs_only_lines_with_a_level_prefix(served: Served, vm_id: int) -> None:
    log = reboot(served, vm_id, "printf 'plain\\nINFO: trying\\nDEBUG: detail\\n' >&2").log
    assert log == ("I trying", "D detail", "I Successfully execute virtualization driver operation: reboot.")


def test_each_step_is_logged(served: Served, vm_id: int) -> None:
    log = served.perform(request(served.place, "DEPLOY", vm_id, "7.4", CASES["DEPLOY"])).log
    steps = (
        "transfer manager driver operation: tm_context",
        "network driver operation: pre",
        "virtualization driver operation: deploy",
        "network driver operation: post",
    )
    assert log == tuple(f"I Successfully execute {step}." for step in steps)


def test_successful_poll_and_snapshot_scripts_are_not_logged(served: Served, vm_id: int) -> None:
    served.place.on_action("poll", vm_id, "echo 'INFO: asking' >&2; echo STATE=a")
    assert served.perform(oned_requests.poll(vm_id, "i-1", host=HOST)) == ("SUCCESS STATE=a", (), ANY)
    for action in ("SNAPSHOTCREATE", "SNAPSHOTREVERT", "SNAPSHOTDELETE"):
        assert served.perform(request(served.place, action, vm_id, "5.10", CASES[action])).log == ()


def test_failed_poll_script_is_logged_with_its_command_and_stderr_only(served: Served, vm_id: int) -> None:
    served.place.on_action("poll", vm_id, "echo no such VM >&2; exit 2")
    outcome = served.perform(oned_requests.poll(vm_id, "i-1", host=HOST))
    path = served.place.remotes / "vmm" / NAME / "poll"
    assert outcome.reply == "FAILURE no such VM"
    assert outcome.log == (
        f"E Command execution failed (exit code: 2): {path} i-1 {HOST} {vm_id} {HOST}",
        "E no such VM",
    )


WORDS = {
    "detach_nic": "DETACHNIC",
    "attach_disk": "ATTACHDISK",
    "save": "SAVE",
}


@pytest.mark.parametrize(("script", "action"), WORDS.items())
def test_failed_action_script_is_logged(served: Served, vm_id: int, script: str, action: str) -> None:
    served.place.on_action(script, vm_id, "exit 1")
    log = served.perform(request(served.place, action, vm_id, "7.4", CASES[action])).log
    failed = [text for text in log if text.startswith("I Failed to execute virtualization driver operation: ")]
    assert [text.rpartition(" ")[2].replace("_", "") for text in failed] == [f"{script.replace('_', '')}."]
    assert log.index(failed[0]) > next(index for index, text in enumerate(log) if "Command execution failed" in text)


def test_failed_transfer_or_network_script_is_logged(served: Served, vm_id: int) -> None:
    network = served.place.network(f"net{vm_id}", pre="exit 4")
    log = served.perform(request(served.place, "DEPLOY", vm_id, "7.4", CASES["DEPLOY"], network=network)).log
    assert "I Failed to execute network driver operation: pre." in log
    assert any(f"(exit code: 4): {served.place.remotes}/vnm/{network}/pre" in text for text in log)
    served.place.transfer(f"store{vm_id}", context="exit 5")
    command = CASES["DEPLOY"].elements["TM_COMMAND"].replace("store", f"store{vm_id}")
    log = served.perform(request(served.place, "DEPLOY", vm_id, "7.4", CASES["DEPLOY"], TM_COMMAND=command)).log
    assert "I Failed to execute transfer manager driver operation: tm_context." in log
    assert any(f"(exit code: 5): {served.place.remotes}/tm/store{vm_id}/context" in text for text in log)


# Scripts that cannot be executed


def replace_reset(place: ScriptPlace, how: str) -> Path:
    """Replace the script `reset`."""
    path = place.remotes / "vmm" / NAME / "reset"
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    match how:
        case "not-executable":
            place.plain_script(f"vmm/{NAME}/reset", "#!/bin/sh\n", mode=0o644)
        case "no-interpreter":
            place.plain_script(f"vmm/{NAME}/reset", "#!/nowhere/at-all\n")
        case "directory":
            path.mkdir()
        case "dangling-link":
            path.symlink_to("nowhere")
        case "empty-name":
            place.plain_script(f"vmm/{NAME}/reset", "#!\n")
    return path


@pytest.mark.parametrize("how", ["missing", "not-executable", "no-interpreter", "directory", "dangling-link"])
def test_script_that_cannot_be_executed_is_named_in_the_reply(served: Served, vm_id: int, how: str) -> None:
    path = replace_reset(served.place, how)
    outcome = served.perform(oned_requests.line("RESET", vm_id, deploy_id="i-1"))
    assert re.match(f"FAILURE .*{re.escape(str(path))}", outcome.reply)
    assert "I Failed to execute virtualization driver operation: reset." in outcome.log


def test_script_without_an_interpreter_line_is_run_by_the_shell(served: Served, vm_id: int) -> None:
    replace_reset(served.place, "missing")
    served.place.plain_script(f"vmm/{NAME}/reset", 'echo "$0 $# $1 $(wc -c)"\n')
    reply = served.perform(oned_requests.line("RESET", vm_id, deploy_id="i 1")).reply
    assert re.fullmatch(rf"SUCCESS {served.place.remotes}/vmm/{NAME}/reset 4 i 1 \d{{3,}}", reply)


@pytest.mark.parametrize("fault", ["missing", "empty", "directory", "none"])
def test_missing_or_empty_deployment_file_is_named_in_the_reply(served: Served, vm_id: int, fault: str) -> None:
    path = served.place.deployment_file(vm_id)
    path.unlink()
    match fault:
        case "empty":
            path.touch()
        case "directory":
            path.mkdir()
        case "none":
            line = altered(oned_requests.deploy(vm_id), LOCAL_DEPLOYMENT_FILE="")
            assert served.perform(line).reply.startswith("FAILURE ")
            return
    outcome = served.perform(altered(oned_requests.deploy(vm_id), LOCAL_DEPLOYMENT_FILE=str(path)))
    assert re.match(f"FAILURE .*{re.escape(str(path))}", outcome.reply)
    assert not outcome.seen
