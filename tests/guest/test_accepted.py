"""Every document for cloud-init is accepted by its own parsers and schema, and holds what the CONTEXT held."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.guest.cloud_init import variables_text
from one_provider_mad.guest.reading import hostname_of
from one_provider_mad.guest.user_data import user_data_for
from tests.guest.readers import Read, cloud_init, read_plainly

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
WORDS = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=40)
LINES = st.lists(TEXT, max_size=4).map("\n".join)
SCRIPT = st.one_of(LINES.map("#!/bin/sh\n{}".format), LINES, WORDS)
CONFIGS = (
    "#cloud-config\nusers: [default, {name: bob}]\nruncmd: [[touch, /x]]\nhostname: theirs\n",
    "#cloud-config\nwrite_files: [{path: /x, content: y}]\ngrowpart: {mode: auto}\n",
    "#cloud-config\nssh_authorized_keys: [ssh-rsa THEIRS]\nbootcmd: [[echo, x]]\ntimezone: UTC\n",
)
CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "SSH_PUBLIC_KEY": LINES,
        "USERNAME": st.one_of(st.sampled_from(["root", "alice", "debian"]), TEXT),
        "USERNAME_SUDO": st.sampled_from(["YES", "NO"]),
        "PASSWORD": TEXT,
        "CRYPTED_PASSWORD": TEXT,
        "SET_HOSTNAME": TEXT,
        "TIMEZONE": st.one_of(st.just("Europe/Madrid"), TEXT),
        "DNS": st.one_of(st.just("9.9.9.9 2620:fe::9"), TEXT),
        "SEARCH_DOMAIN": st.one_of(st.just("a.org b.org"), TEXT),
        "GROW_ROOTFS": st.sampled_from(["YES", "NO"]),
        "START_SCRIPT": SCRIPT,
        "USER_DATA": st.one_of(st.sampled_from(CONFIGS), SCRIPT),
        "ONEGATE_TOKEN": WORDS,
        "REPORT_READY": st.just("YES"),
        "READY_SCRIPT": TEXT,
        "APP": TEXT,
        "_OTHER": TEXT,
    },
)

PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

Reader = Callable[[bytes], Read]


@pytest.fixture(scope="module")
def guest() -> Iterator[Reader]:
    """cloud-init itself."""
    with cloud_init() as found:
        if found is None:
            pytest.skip("the machine has no cloud-init; CLOUD_INIT_PACKAGES names the dist-packages of one elsewhere")
        yield found.read


@pytest.fixture(scope="module", params=["cloud-init", "plain"])
def reader(request: pytest.FixtureRequest) -> Reader:
    """cloud-init itself, and the standard library."""
    found: Reader = request.getfixturevalue("guest") if request.param == "cloud-init" else read_plainly
    return found


def made(context: dict[str, str], limit: int = 10**6) -> bytes:
    request = VmRequest(vm_id=VmId(7), template=Template(values={"CONTEXT": (context,)}))
    return user_data_for(request, "cloud-init", limit=limit).data


def is_own(data: bytes) -> bool:
    """Whether it is more than the user's own USER_DATA."""
    return b"===============one-provider" in data


@PROPERTY
@given(context=CONTEXTS)
def test_every_document_is_accepted_and_nothing_in_it_is_lost(reader: Reader, context: dict[str, str]) -> None:
    data = made(context)
    if not is_own(data):
        assert not data or data == context["USER_DATA"].encode()
        return
    read = reader(data)
    assert not read.errors
    assert not [value for value in everything_in(list(read.config.values()) or 1) if value in (None, "", [], {})]
    files = [file for file in read.config.get("write_files", ()) if file["path"].startswith("/var/lib/one-context/")]
    scripts = [*read.bodies("text/x-shellscript"), *map(content, files)]
    script = context.get("START_SCRIPT", "")
    if script.strip():
        assert any(each.removeprefix(b"#!/bin/bash\n") == script.encode() for each in scripts)
    if name := hostname_of(context.get("SET_HOSTNAME", "")):
        assert read.config["fqdn"] == name
    assert reader(made(context, limit=len(data) - 1)) == read


def everything_in(value: Any) -> Iterator[Any]:
    """Yield the value and every value in it."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from everything_in(each)


def content(file: dict[str, str]) -> bytes:
    return base64.b64decode(file["content"]) if file.get("encoding") == "b64" else file["content"].encode()


@pytest.mark.parametrize("theirs", CONFIGS)
def test_a_users_own_cloud_config_is_joined_with_ours(guest: Reader, theirs: str) -> None:
    context = {
        "SSH_PUBLIC_KEY": "ssh-rsa OURS",
        "SET_HOSTNAME": "ours.org",
        "TIMEZONE": "Europe/Madrid",
        "GROW_ROOTFS": "NO",
        "DNS": "9.9.9.9",
        "PASSWORD": "word",
        "APP": "x",
    }
    read = guest(made({**context, "USER_DATA": theirs}))
    alone, own = guest(theirs.encode()).config, guest(made(context)).config
    assert not read.errors
    both = {name: alone[name] + own[name] for name in alone.keys() & own.keys() if isinstance(alone[name], list)}
    assert read.config == {**own, **alone, **both}


@PROPERTY
@given(values=st.dictionaries(st.from_regex(r"ONE_[A-Z]{1,8}", fullmatch=True), TEXT, max_size=4))
def test_a_shell_reads_the_variables_unchanged(values: dict[str, str]) -> None:
    command = ["sh", "-c", f"{variables_text(values)}env -0"]
    shell = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    exported = dict(item.split(b"=", 1) for item in shell.stdout.split(b"\0") if item.startswith(b"ONE_"))
    assert exported == {name.encode(): value.encode() for name, value in values.items()}
