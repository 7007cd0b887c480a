"""The console of a simulated instance: what its guest was told, without passwords."""

from __future__ import annotations

import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.guest.cloud_init import cloud_init_data
from one_provider_mad.guest.reading import read_context
from one_provider_mad.providers.simulated.guest_console import console_text, told_lines


def told(**attributes: str) -> list[str]:
    return list(told_lines(cloud_init_data(read_context(attributes), purpose="7:1")[0].decode()))


def test_key_and_name_are_shown() -> None:
    lines = told(SSH_PUBLIC_KEY="ssh-ed25519 AAAA alice@desk", SET_HOSTNAME="web")
    assert lines[:2] == ["ssh_authorized_keys: ssh-ed25519 AAAA alice@desk", "hostname: web"]


def test_a_password_is_hidden_and_its_user_is_shown() -> None:
    lines = told(PASSWORD="swordfish", USERNAME="alice")
    assert any("name alice" in line and "hashed_passwd (hidden)" in line for line in lines)
    assert not any("$6$" in line or "swordfish" in line for line in lines)


def test_a_script_is_shown_line_by_line() -> None:
    lines = told(START_SCRIPT="apt update\nreboot")
    at = lines.index("  apt update")
    assert lines[at - 2] == "runs start-script"
    assert lines[at + 1] == "  reboot"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#cloud-config\npassword: swordfish\n", ["takes user data of 34 characters"]),
        ("PASSWORD='swordfish'\n", ["does not read user data of 21 characters"]),
        ("", []),
    ],
)
def test_text_of_the_template_is_counted_and_not_shown(text: str, expected: list[str]) -> None:
    assert list(told_lines(text)) == expected


def test_the_templates_own_settings_beside_ours_are_named_and_not_shown() -> None:
    lines = told(USER_DATA="#cloud-config\npassword: swordfish\n", SSH_PUBLIC_KEY="ssh-ed25519 AAAA")
    assert any(line.endswith("of the template") for line in lines)
    assert not any("swordfish" in line for line in lines)


def test_a_long_text_ends_with_the_number_of_lines_left_out() -> None:
    instance = Instance(deploy_id=DeployId("sim-1"), state=InstanceState.RUNNING, raw_state="running", name="web")
    data = cloud_init_data(read_context({"START_SCRIPT": "true\n" * 100}), purpose="7:1")[0].decode()
    lines = console_text(instance, data).split("\r\n")
    left_out = len(list(told_lines(data))) - 40
    assert f"cloud-init: and {left_out} more lines" in lines
    assert lines[-1] == "web login: "
