"""`one-provider console`: text fit for a terminal, pictures, and passwords of Windows."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from one_provider_mad.cli.console_lines import console_lines
from one_provider_mad.lab.ec2.consoles import PICTURE
from tests.cli.ec2_here import NAME, Here
from tests.cli.running import json_of, output_of, ran
from tests.waiting import HANG

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl decrypts the password")


def openssl(*words: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True, timeout=HANG).stdout


def new_key(folder: Path, name: str = "key.pem") -> Path:
    path = folder / name
    openssl("genrsa", "-traditional", "-out", str(path), "2048")
    return path


def encrypted(password: str, key: Path) -> str:
    """A password as EC2 has it: PKCS #1 v1.5, in base64 with line ends."""
    done = openssl("pkeyutl", "-encrypt", "-inkey", str(key), given=password.encode())
    return base64.encodebytes(done).decode()


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("one\r\ntwo\r\n", ["one", "two"]),
        ("\x1b[0;32m  OK  \x1b[0m Started \x1b[1mssh\x1b[0m", ["  OK   Started ssh"]),
        ("\x1b]0;title\x07shown", ["shown"]),
        ("\x1bP+q\x1b\\shown\x1b(B\x1b=", ["shown"]),
        (" 10 %\r 55 %\r100 %\r\ndone", ["100 %", "done"]),
        ("a\tb\x00\x08\x9b31m\u202ec", ["a       b31mc"]),
        ("x\n\n\n", ["x"]),
        ("\x1b[", []),
        ("", []),
    ],
    ids=["lines", "colours", "title", "strings", "progress", "control characters", "empty end", "cut", "nothing"],
)
def test_console_lines_are_as_a_terminal_would_leave_them(written: str, lines: list[str]) -> None:
    assert console_lines(written) == lines


def test_console_shows_the_text_of_the_vms_instance(here: Here) -> None:
    deploy_id = here.launch(42)
    here.account.consoles.written[deploy_id] = "\x1b[2Jfirst\r\nsecond\r\n\x1b[31mlast\x1b[0m\r\n"
    assert output_of(here.root, "console", NAME, "--vm", "42") == "first\nsecond\nlast\n"
    assert json_of(here.root, "console", NAME, "--vm", "42", "--lines", "1") == {"vm_id": 42, "lines": ["last"]}


def test_console_shows_the_older_text_of_types_without_the_latest(here: Here) -> None:
    here.launch(42, InstanceType="t2.small")
    assert output_of(here.root, "console", NAME, "--vm", "42").endswith("login:\n")


def test_console_writes_a_picture_into_a_file(here: Here, tmp_path: Path) -> None:
    deploy_id = here.launch(42)
    file = tmp_path / "screen.jpg"
    assert output_of(here.root, "console", NAME, "--vm", "42", "--screenshot", str(file)) == f"written to {file}\n"
    assert file.read_bytes() == PICTURE
    nowhere = str(tmp_path / "no folder" / "screen.jpg")
    code, printed, complaint = ran(here.root, "console", NAME, "--vm", "42", "--screenshot", nowhere)
    assert (code, printed, complaint.count("\n")) == (2, "", 1)
    assert f"folder {tmp_path / 'no folder'} does not exist: make it" in complaint
    here.stop(deploy_id)
    code, printed, complaint = ran(here.root, "console", NAME, "--vm", "42", "--screenshot", str(file))
    assert (code, printed, complaint.count("\n")) == (1, "", 1)
    assert "is not in a state that has a screen" in complaint


@needs_openssl
def test_console_decrypts_the_password_of_windows_with_the_key_file(here: Here, tmp_path: Path) -> None:
    deploy_id, key = here.launch(42), new_key(tmp_path)
    here.account.consoles.passwords[deploy_id] = encrypted("p4ss;Wörd(1)", key)
    asked = ("console", NAME, "--vm", "42", "--password", "--key", str(key))
    assert output_of(here.root, *asked) == "p4ss;Wörd(1)\n"
    assert json_of(here.root, *asked) == {"vm_id": 42, "password": "p4ss;Wörd(1)"}


@needs_openssl
def test_console_names_a_wrong_key_and_a_missing_password(here: Here, tmp_path: Path) -> None:
    deploy_id, key = here.launch(42), new_key(tmp_path)
    asked = ("console", NAME, "--vm", "42", "--password", "--key")
    code, printed, complaint = ran(here.root, *asked, str(key))
    assert (code, printed) == (1, "")
    assert "the cloud has no password for VM 42 yet" in complaint
    here.account.consoles.passwords[deploy_id] = encrypted("secret", key)
    no_key = tmp_path / "no.pem"
    no_key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    for wrong in (new_key(tmp_path, "other.pem"), no_key):
        code, printed, complaint = ran(here.root, *asked, str(wrong))
        assert (code, printed) == (1, "")
        assert complaint.startswith(f"one-provider console: {wrong} does not decrypt the password: give the RSA key")


def test_console_names_the_right_that_is_missing(here: Here) -> None:
    here.launch(42)
    here.refuse("GetConsoleOutput")
    code, printed, complaint = ran(here.root, "console", NAME, "--vm", "42")
    assert (code, printed, complaint.count("\n")) == (1, "", 1)
    assert complaint.endswith("(GetConsoleOutput, UnauthorizedOperation); docs/ec2.md has the statements\n")


def test_console_wants_password_and_key_together(here: Here) -> None:
    code, _, complaint = ran(here.root, "console", NAME, "--vm", "42", "--password")
    assert (code, complaint.count("\n")) == (2, 1)
    assert "--password and --key belong together" in complaint


def test_console_of_a_vm_without_an_instance_names_the_next_step(here: Here) -> None:
    code, _, complaint = ran(here.root, "console", NAME, "--vm", "42")
    assert code == 1
    assert "the cloud of aws has no instance of VM 42: one-provider instances aws lists" in complaint
