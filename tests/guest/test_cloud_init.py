"""What cloud-init is told, read back with the standard library; tests/guest/test_accepted.py asks cloud-init itself."""

from __future__ import annotations

import base64
import email
import json
from email.message import Message
from typing import Any

import pytest
from passlib.hash import sha512_crypt

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.guest.choice import Program
from one_provider_mad.guest.parts import packed
from one_provider_mad.guest.user_data import UserData, user_data_for

KEY = "ssh-ed25519 AAAA me@here"


def told(limit: int = 16384, /, **context: str) -> UserData:
    request = VmRequest(vm_id=VmId(7), stime=1000, template=Template(values={"CONTEXT": (context,)}))
    return user_data_for(request, "cloud-init", limit=limit)


def parts(data: bytes) -> list[Message]:
    message = email.message_from_bytes(data)
    assert message.is_multipart()
    return [part for part in message.walk() if not part.is_multipart()]


def kinds(data: bytes) -> list[str]:
    return [part.get_content_type() for part in parts(data)]


def bodies(data: bytes, kind: str) -> list[bytes]:
    return [part.get_payload(decode=True) for part in parts(data) if part.get_content_type() == kind]  # type: ignore[misc]


def config(data: bytes) -> dict[str, Any]:
    (text,) = bodies(data, "text/cloud-config")
    assert text.startswith(b"#cloud-config\n")
    read: dict[str, Any] = json.loads(text.removeprefix(b"#cloud-config"))
    return read


def test_keys_go_to_the_images_own_user_unless_another_is_named() -> None:
    keys = {"SSH_PUBLIC_KEY": f"{KEY}\n\n# mine\n", "EC2_PUBLIC_KEY": "ssh-rsa BBBB"}
    assert config(told(**keys).data) == {"ssh_authorized_keys": [KEY, "ssh-rsa BBBB"]}
    assert config(told(**keys, USERNAME="alice", USERNAME_SUDO="no").data)["users"] == [
        "default",
        {"name": "alice", "shell": "/bin/bash", "ssh_authorized_keys": [KEY, "ssh-rsa BBBB"]},
    ]


def test_keys_for_root_let_root_log_in() -> None:
    made = config(told(SSH_PUBLIC_KEY=KEY, USERNAME="root").data)
    assert made == {"users": ["default", {"name": "root", "ssh_authorized_keys": [KEY]}], "disable_root": False}


@pytest.mark.parametrize(
    ("context", "name"),
    [
        ({"PASSWORD": "a word"}, "root"),
        ({"PASSWORD_BASE64": "YSB3b3JkCg==", "USERNAME": "alice"}, "alice"),
    ],
)
def test_a_password_is_sent_as_a_hash_that_is_the_same_every_time(context: dict[str, str], name: str) -> None:
    data = told(**context).data
    user = config(data)["users"][1]
    assert (user["name"], user["lock_passwd"]) == (name, False)
    assert sha512_crypt.verify("a word", user["hashed_passwd"])
    assert b"a word" not in data
    assert told(**context).data == data


def test_a_hash_is_sent_as_it_is_and_wins_over_a_password_as_for_one_context() -> None:
    user = config(told(CRYPTED_PASSWORD="$6$x$y", PASSWORD="word").data)["users"][1]
    assert user["hashed_passwd"] == "$6$x$y"
    user = config(told(CRYPTED_PASSWORD="$6$x$y", PASSWORD_BASE64="d29yZA==").data)["users"][1]
    assert sha512_crypt.verify("word", user["hashed_passwd"])


@pytest.mark.parametrize(
    ("given", "hostname", "fqdn"),
    [("web", "web", "web"), ("web 1.example.org", "web-1", "web-1.example.org"), ("-_a_.-b.", "a", "a.b")],
)
def test_the_host_name_is_cleaned_as_one_context_does(given: str, hostname: str, fqdn: str) -> None:
    made = config(told(SET_HOSTNAME=given).data)
    assert (made["hostname"], made["fqdn"]) == (hostname, fqdn)


def test_name_servers_domains_time_zone_and_disk_reach_the_guest() -> None:
    made = config(
        told(DNS="9.9.9.9 2620:fe::9", SEARCH_DOMAIN="a.org", TIMEZONE="Europe/Madrid", GROW_ROOTFS="NO").data
    )
    assert made["resolv_conf"] == {"nameservers": ["9.9.9.9", "2620:fe::9"], "searchdomains": ["a.org"]}
    assert "DNS=9.9.9.9 2620:fe::9" in made["bootcmd"][0][2]
    assert (made["timezone"], made["growpart"], made["resize_rootfs"]) == ("Europe/Madrid", {"mode": "off"}, False)


def test_a_start_script_runs_as_it_is_with_a_first_line() -> None:
    for context, script in (
        ({"START_SCRIPT": "#!/bin/sh\necho a"}, b"#!/bin/sh\necho a"),
        ({"START_SCRIPT": "echo b"}, b"#!/bin/bash\necho b"),
        (
            {"START_SCRIPT": "echo b", "START_SCRIPT_BASE64": "IyEvYmluL3NoCmVjaG8gw6QNCg=="},
            "#!/bin/sh\necho ä\r\n".encode(),
        ),
    ):
        data = told(**context).data
        assert bodies(data, "text/x-shellscript") == [script]


def test_a_start_script_sees_the_other_attributes_as_one_contexts_does() -> None:
    data = told(
        START_SCRIPT="#!/bin/sh\necho $APP", APP="it's", ONEGATE_TOKEN="t", PASSWORD="word", ETH0_IP="10.0.0.1"
    ).data
    variables, script = config(data)["write_files"]
    assert variables == {
        "path": "/var/lib/one-context/context.sh",
        "permissions": "0600",
        "content": "export APP='it'\\''s'\nexport ONEGATE_TOKEN='t'\nexport TOKENTXT='t'\n",
    }
    assert (script["content"], script["permissions"]) == ("#!/bin/sh\necho $APP", "0700")
    assert bodies(data, "text/x-shellscript") == [f"#!/bin/sh\n. {variables['path']}\nexec {script['path']}\n".encode()]


def test_ready_is_reported_after_the_start_script_where_there_is_a_token() -> None:
    context = {"REPORT_READY": "YES", "START_SCRIPT": "#!/bin/sh", "ONEGATE_ENDPOINT": "http://gate", "VMID": "7"}
    names = [part.get_filename() for part in parts(told(**context, ONEGATE_TOKEN="t").data)]
    assert names == ["one-context.cfg", "start-script", "zz-report-ready"]
    assert "start-script" < "zz-report-ready"
    assert kinds(told(**context).data) == ["text/cloud-config", "text/x-shellscript"]
    assert "without TOKEN=YES" in told(**context).warnings[-1]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("#cloud-config\npackages: [vim]\n", "text/cloud-config"),
        ("#!/bin/sh\necho hi\n", "text/x-shellscript"),
        ("#include\nhttp://example.org/x\n", "text/x-include-url"),
        ("## template: jinja\n#cloud-config\npackages: ['{{ v1.region }}']\n", "text/jinja2"),
        ("#cloud-boothook\necho hi\n", "text/cloud-boothook"),
    ],
)
def test_a_users_own_user_data_comes_first_and_unchanged(given: str, kind: str) -> None:
    first, *others = parts(told(USER_DATA=given, SET_HOSTNAME="web").data)
    assert (first.get_content_type(), first.get_payload(decode=True)) == (kind, given.encode())
    assert [each["Merge-Type"] for each in others] == ["dict(no_replace,recurse_array)+list(append)+str()"]


def test_a_users_own_message_and_gzip_are_taken_apart() -> None:
    own = told(START_SCRIPT="#!/bin/sh\necho own", USER_DATA="#cloud-config\n{}\n").data
    for given in (own, packed(own)):
        encoded = base64.b64encode(given).decode()
        data = told(USER_DATA=encoded, USER_DATA_ENCODING="base64", SET_HOSTNAME="web").data
        assert kinds(data) == ["text/cloud-config", "text/x-shellscript", "text/cloud-config"]


def test_user_data_alone_goes_as_it_is() -> None:
    ignition = '{"ignition": {"version": "3.4.0"}}'
    assert told(USER_DATA=ignition, NETWORK="YES", TARGET="hda", DISK_ID="1") == UserData(data=ignition.encode())
    both = told(USER_DATA=ignition, SET_HOSTNAME="web")
    assert kinds(both.data) == ["text/cloud-config"]
    (sentence,) = both.warnings
    assert "USER_DATA has no effect in the guest: its first line is none that cloud-init knows" in sentence


def test_what_does_not_fit_is_sent_in_gzip() -> None:
    script = "#!/bin/sh\n" + "echo hello\n" * 2000
    whole, small = told(10**6, START_SCRIPT=script).data, told(START_SCRIPT=script).data
    assert len(whole) > 16384 > len(small)
    assert small == packed(whole)


@pytest.mark.parametrize("program", ["cloud-init", "one-context", "cloudbase-init", "unset"])
def test_a_context_that_fits_in_no_case_is_refused_before_it_is_written(program: Program) -> None:
    contexts: Any = ({"START_SCRIPT": "#" * 600_000},)
    request = VmRequest(vm_id=VmId(7), template=Template(values={"CONTEXT": contexts}))
    with pytest.raises(BadParameter, match="CONTEXT has 600000 characters, the cloud takes 16384 bytes of user data"):
        user_data_for(request, program, limit=16384)
    assert user_data_for(request, "none", limit=16384).data == b""


def test_nothing_empty_is_sent() -> None:
    assert told(USERNAME=" ", PASSWORD="", START_SCRIPT="\n", NETWORK="YES") == UserData()
    assert told(SSH_PUBLIC_KEY="").data == b""


def test_an_empty_key_is_told_unless_something_else_may_let_the_user_in() -> None:
    (sentence,) = told(SSH_PUBLIC_KEY="").warnings
    assert sentence.startswith("CONTEXT attribute SSH_PUBLIC_KEY is empty, so the guest gets no key from it: add a key")
    assert told(SSH_PUBLIC_KEY=" \n").warnings == (sentence,)
    others = {"PASSWORD": "word", "EC2_PUBLIC_KEY": "ssh-rsa A me", "USER_DATA": "#cloud-config\n{}"}
    for name, value in others.items():
        assert told(**{"SSH_PUBLIC_KEY": "", name: value}).warnings == ()


def test_attributes_without_effect_are_named_once_with_their_reason() -> None:
    network = {"ETH0_IP": "10.0.0.1", "ETH0_MAC": "02:00", "ETH1_IP": "10.0.0.2"}
    sentences = told(
        SET_HOSTNAME="web", DNS_HOSTNAME="YES", GROW_FS="/data", INIT_SCRIPTS="a", FILES_DS="/x:'b'", **network
    ).warnings
    assert [sentence.partition(":")[0] for sentence in sentences] == [
        "CONTEXT attribute GROW_FS has no effect in the guest",
        "CONTEXT attributes FILES_DS, INIT_SCRIPTS have no effect in the guest",
        "CONTEXT attributes ETH0_*, ETH1_* have no effect in the guest",
    ]
    assert sentences[0].endswith(": cloud-init enlarges the root file system only")


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ({"USERNAME": "no name"}, "USERNAME is left out: 'no name' is no user name"),
        ({"TIMEZONE": "../etc/passwd"}, "TIMEZONE is left out"),
        ({"START_SCRIPT_BASE64": "no base64!"}, "START_SCRIPT_BASE64 is left out: it is not base64"),
        ({"PASSWORD_BASE64": "/////w=="}, "PASSWORD_BASE64 is left out: it encodes bytes that are not UTF-8"),
        ({"PASSWORD": "two\nlines"}, "PASSWORD is left out: a password has one line"),
        ({"PASSWORD": "x" * 5000}, "PASSWORD is left out: a password has at most 511 bytes"),
        ({"CRYPTED_PASSWORD": "a:b"}, "CRYPTED_PASSWORD is left out: a hash has no colon"),
        ({"DNS": "9.9.9.9 $(id)"}, "DNS: '$(id)' is left out, it is no address"),
        ({"SEARCH_DOMAIN": "a;b"}, "SEARCH_DOMAIN: 'a;b' is left out, it is no domain"),
        ({"A-B": "c"}, "'A-B' is left out"),
        ({"REPORT_READY": "yes"}, "REPORT_READY is left out: write YES in capitals instead of yes"),
    ],
)
def test_unusable_values_are_left_out_with_a_sentence(context: dict[str, str], sentence: str) -> None:
    made = told(**context)
    assert any(sentence in warning for warning in made.warnings)
    assert b"no name" not in made.data
    assert b"$(id)" not in made.data


@pytest.mark.parametrize("name", ["START_SCRIPT", "START_SCRIPT_BASE64"])
def test_windows_line_ends_in_a_script_for_linux_are_told(name: str) -> None:
    script = "#!/bin/bash\r\necho hi\r\n"
    text = base64.b64encode(script.encode()).decode() if name.endswith("64") else script
    (sentence,) = told(**{name: text}).warnings
    assert sentence.startswith(f"CONTEXT attribute {name} has Windows line ends, with which Linux finds no interpreter")
