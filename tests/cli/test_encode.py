"""`one-provider encode`, called with arguments as on a command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from one_provider_mad.cli.main import main
from one_provider_mad.cli.verbs import CONTROLS, LCM_NUMBERS, RELEASES, VERBS, Release
from one_provider_mad.template_text.strict_reader import read_template
from tests import oned_lines
from tests.waiting import HANG

TEMPLATE = 'NAME = web\nCPU = 2  # cores\nMEMORY = 512\nPUBLIC_CLOUD = [ TYPE="ec2",\n  AMI="ami-1" ]\n'


def encode(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "one_provider_mad.cli.main", "encode", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=HANG)


def test_encode_needs_only_an_action_and_a_vm_id() -> None:
    done = encode("DEPLOY", "--vm-id", "7")
    assert (done.returncode, done.stdout, done.stderr) == (0, oned_lines.line("DEPLOY", 7), b"")


def test_encode_accepts_all_details_as_options(tmp_path: Path) -> None:
    file = tmp_path / "web.tmpl"
    file.write_text(TEMPLATE)
    done = encode(
        *("SHUTDOWN", "--vm-id", "7", "--template", str(file), "--release", "5.10", "--lcm-state", "SHUTDOWN_POWEROFF"),
        *("--deploy-id", "i-0f3a", "--name", "other", "--host", "us-east-1", "--host-id", "5", "--stime", "9"),
        *("--seq", "3"),
    )
    expected = oned_lines.line(
        "SHUTDOWN",
        7,
        release="5.10",
        template=read_template(TEMPLATE),
        lcm_state=18,
        deploy_id="i-0f3a",
        name="other",
        host="us-east-1",
        host_id=5,
        stime=9,
        seq=3,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


def test_encode_reads_a_template_from_stdin() -> None:
    done = encode("DEPLOY", "7", "--template", "-", stdin=TEMPLATE.encode())
    assert done.stdout == oned_lines.line("DEPLOY", 7, template=read_template(TEMPLATE))


ACTIONS = f"The actions are {', '.join((*CONTROLS, *VERBS))}."

# The following run in this process, which is faster.


def ran(*arguments: str, stdin: str | bytes = "") -> tuple[int, bytes, str]:
    """Exit code, stdout and stderr of `encode`."""
    result = CliRunner().invoke(main, ["encode", *arguments], input=stdin)
    return result.exit_code, result.stdout_bytes, result.stderr


@pytest.mark.parametrize(
    ("release", "nearest"), [("4.14", "4.4"), ("5.0.2", "5.10"), ("5.12", "5.10"), ("6.10", "7.4"), ("8.0", "7.4")]
)
def test_encode_takes_any_release_as_the_one_of_the_same_form_and_says_so(release: str, nearest: str) -> None:
    expected = oned_lines.line("DEPLOY", 7, release=cast("Release", nearest))
    note = f"note: {release} is taken as {nearest}, the nearest release with an output of its own\n"
    assert ran("DEPLOY", "7", "--release", release) == (0, expected, note)


@pytest.mark.parametrize("release", RELEASES)
def test_encode_prints_every_action_in_every_release(release: Release) -> None:
    for action in sorted(VERBS):
        code, line, notes = ran(action, "--vm-id", "7", "--release", release)
        assert (code, line) == (0, oned_lines.line(action, 7, release=release)), action
        assert bool(notes) == (release not in VERBS[action].releases), action


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["INIT"], b"INIT\n"),
        (["finalize"], b"FINALIZE\n"),
        (["DRIVER_CANCEL", "--vm-id", "3"], b"DRIVER_CANCEL  3 \n"),
        (["DRIVER_CANCEL", "3", "--release", "5.10"], b"DRIVER_CANCEL 3\n"),
        (["poll", "3"], oned_lines.line("POLL", 3, release="5.10")),
        (["DEPLOY", "3", "--lcm-state", "boot-poweroff"], oned_lines.line("DEPLOY", 3, lcm_state=20)),
        (["CLEANUP", "3", "--lcm-state", "0"], oned_lines.line("CLEANUP", 3, lcm_state=0)),
        (
            ["ATTACHDISK", "3", "--operand", "size=1024", "--operand", "TARGET=a=b"],
            oned_lines.line("ATTACHDISK", 3, operand={"SIZE": "1024", "TARGET": "a=b"}),
        ),
        (
            ["SNAPSHOTDELETE", "3", "--snapshot-id", "2", "--hypervisor-id", "snap-2"],
            oned_lines.line("SNAPSHOTDELETE", 3, operand={"SNAPSHOT_ID": "2", "HYPERVISOR_ID": "snap-2"}),
        ),
    ],
)
def test_encode_accepts_short_and_lower_case_arguments(arguments: list[str], line: bytes) -> None:
    assert ran(*arguments) == (0, line, "")


def test_encode_accepts_every_lcm_state_by_name() -> None:
    found = {name: ran("DEPLOY", "3", "--lcm-state", name)[1] for name in LCM_NUMBERS}
    assert found == {name: oned_lines.line("DEPLOY", 3, lcm_state=number) for name, number in LCM_NUMBERS.items()}


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["FROBNICATE", "3"], f"note: no release of OpenNebula sends FROBNICATE. {ACTIONS}\n"),
        (["DEPLOI", "3"], f"note: no release of OpenNebula sends DEPLOI. Did you mean DEPLOY? {ACTIONS}\n"),
        (["POLL", "3", "--release", "7.4"], "note: POLL is not sent by OpenNebula 7.4, only by 4.4 and 5.10\n"),
        (["DISKSNAPSHOTREVERT", "3"], "note: DISKSNAPSHOTREVERT is not sent by OpenNebula 7.4, only by 4.14\n"),
        (["DEPLOY", "3", "--lcm-state", "999"], "note: no release has an LCM_STATE 999\n"),
    ],
)
def test_encode_prints_a_line_that_no_release_sends_with_a_note(arguments: list[str], note: str) -> None:
    code, line, notes = ran(*arguments)
    assert (code, notes) == (0, note)
    assert line.startswith(arguments[0].encode() + b"  3 ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing argument 'ACTION'."),
        (["DEPLOY"], "DEPLOY needs a VM: name it with --vm-id N"),
        (["foo"], f"no release of OpenNebula sends FOO. {ACTIONS}"),
        (["DEPLOY", "3", "--vm-id", "4"], "two VMs are named, 3 and 4"),
        (["DEPLOY", "x"], "Invalid value for '[VM_ID]': 'x' is not a valid integer."),
        (["DEPLOY", "--vm-id=-1"], "the VM's id is a number from 0 to 2147483647, not -1"),
        (["DEPLOY", "3", "--release", "9"], "Invalid value for '--release': '9' is not one of '4.4', '5.10', '7.4'."),
        (
            ["DEPLOY", "3", "--lcm-state", "POWER"],
            "there is no LCM_STATE 'POWER'; expected a number or a name such as SHUTDOWN_POWEROFF",
        ),
        (["ATTACHDISK", "3", "--operand", "SIZE"], "--operand expects KEY=VALUE, got 'SIZE'"),
        (["REBOOT", "3", "--operand", "A=1"], "REBOOT takes no operand, not A"),
        (["DEPLOY", "3", "--template", "/no/such"], "the template /no/such cannot be read: No such file or directory"),
        (["DEPLOY", "3", "--template", "-", "--type", "x"],
         "--type belongs to the built-in template: with --template, write TYPE into the file"),
        (["DEPLOY", "3", "--deploy-id", "a<b"], "a deploy id holds no <, >, & and no control characters, got 'a<b'"),
        (["DEPLOY", "3", "--lcm-state", "9999999999"],
         "there is no LCM_STATE '9999999999'; expected a number or a name such as SHUTDOWN_POWEROFF"),
    ],
)  # fmt: skip
def test_invalid_arguments_of_encode_give_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    assert ran(*arguments) == (2, b"", f"one-provider encode: {sentence}\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"CPU=1\nMEMORY 5", "the template, line 2: MEMORY has no = after it; a value with blanks needs quotes"),
        (b"CPU=\xff", "the template is not UTF-8 text at byte 4"),
    ],
)
def test_encode_names_the_line_or_byte_of_an_error_in_a_template(content: bytes, sentence: str) -> None:
    assert ran("DEPLOY", "3", "--template", "-", stdin=content) == (2, b"", f"one-provider encode: {sentence}\n")
