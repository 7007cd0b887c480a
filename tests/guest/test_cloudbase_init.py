"""What cloudbase-init is told on Windows: parts by its rules (cloudbaseinit/plugins/common/userdata*)."""

from __future__ import annotations

import email
import json
from email.message import Message
from typing import Any

import pytest

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.guest.user_data import UserData, user_data_for

PLUGINS = {"set_hostname", "set_timezone", "users", "write_files", "groups", "ntp", "runcmd"}
"""Keys of cloud-config that it takes (userdataplugins/cloudconfigplugins/factory.py)."""


def told(**context: str) -> UserData:
    request = VmRequest(vm_id=VmId(7), template=Template(values={"CONTEXT": (context,)}))
    return user_data_for(request, "cloudbase-init", limit=16384)


def parts(data: bytes) -> list[Message]:
    text = data.decode()
    assert "Content-Type: multipart" in text.split("\n\n")[0], "cloudbase-init takes no other message apart"
    found = [part for part in email.message_from_string(text).walk() if not part.is_multipart()]
    assert all(part.get_filename() for part in found if part.get_content_type() == "text/x-shellscript")
    return found


def config(data: bytes) -> dict[str, Any]:
    (part,) = [part for part in parts(data) if part.get_content_type() == "text/cloud-config"]
    read: dict[str, Any] = json.loads(str(part.get_payload()).removeprefix("#cloud-config"))
    assert read.keys() <= PLUGINS
    return read


def test_user_password_keys_name_and_zone_are_sent_in_its_words() -> None:
    made = told(
        USERNAME="me", PASSWORD="Wörd1!", SSH_PUBLIC_KEY="ssh-rsa A", SET_HOSTNAME="win.org", TIMEZONE="Etc/UTC"
    )
    assert config(made.data) == {
        "set_hostname": "win",
        "set_timezone": "Etc/UTC",
        "users": [
            {"name": "me", "groups": ["Administrators"], "passwd": "Wörd1!", "ssh_authorized_keys": ["ssh-rsa A"]}
        ],
    }
    assert made.warnings == ()


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("Write-Host hi", "start-script.ps1"),
        ("#ps1_sysnative\nWrite-Host hi", "start-script.ps1"),
        ("rem cmd\necho hi", "start-script.cmd"),
        ("#!/usr/bin/env python\nprint()", "start-script.py"),
        ("#!/bin/sh\necho hi", "start-script.sh"),
        ("#ps1_x86\nWrite-Host hi", "start-script"),
        ("<powershell>Write-Host hi</powershell>", "start-script"),
    ],
)
def test_the_name_of_a_script_tells_what_runs_it(script: str, name: str) -> None:
    (part,) = parts(told(START_SCRIPT=script).data)
    assert (part.get_filename(), part.get_payload()) == (name, script)


def test_a_users_own_user_data_comes_first_and_alone_as_it_is() -> None:
    own = "#ps1_sysnative\nWrite-Host own"
    assert told(USER_DATA=own).data == own.encode()
    first, second = parts(told(USER_DATA=own, SET_HOSTNAME="win").data)
    assert (first.get_filename(), first.get_payload()) == ("user-data.ps1", own)
    assert second.get_content_type() == "text/cloud-config"


def test_what_windows_cannot_have_is_told() -> None:
    sentences = told(PASSWORD="x", CRYPTED_PASSWORD="$6$a$b", DNS="9.9.9.9", REPORT_READY="YES", APP="x").warnings
    assert [sentence for sentence in sentences if "no user on Windows gets its SSH keys and PASSWORD" in sentence] == []
    assert any("CRYPTED_PASSWORD has no effect" in sentence for sentence in sentences)
    assert any("DNS has no effect" in sentence for sentence in sentences)
    assert any("REPORT_READY has no effect" in sentence for sentence in sentences)
    assert any("USERNAME" in sentence for sentence in told(PASSWORD="x").warnings)


def test_a_time_zone_has_its_iana_name() -> None:
    # cloudbaseinit/osutils/windows.py, set_timezone, looks it up among these names only
    assert any("TIMEZONE is left out" in each for each in told(TIMEZONE="W. Europe Standard Time").warnings)


def test_one_attribute_is_told_once() -> None:
    assert [each for each in told(**{"foo-bar": "x"}).warnings if "foo-bar" in each] == [
        "CONTEXT attribute 'foo-bar' is left out: no shell has variables of such a name"
    ]
