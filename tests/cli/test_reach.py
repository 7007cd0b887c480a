"""`one-provider reach`: what it says of an instance, and its exit code."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.cli.reach import _tried
from one_provider_mad.providers.interface import LoginPlace
from tests.cli.ec2_here import NAME, Here
from tests.cli.running import json_of, output_of, ran
from tests.cli.test_instances import CONFIGURATION, populate
from tests.xmlrpc.partner import Partner

KEYED = {"KeyName": "ops"}


def marks(found: Any) -> dict[str, bool | None]:
    return {each["what"]: each["is_well"] for each in found["results"]}


def test_reach_ends_with_0_when_nothing_is_in_the_way(here: Here) -> None:
    deploy_id = here.launch(42, **KEYED)
    here.let_in()
    found = json_of(here.root, "reach", NAME, "--vm", "42")
    assert marks(found) == {
        "instance": True,
        "status checks": True,
        "public address": True,
        "route": True,
        "rule for port 22": True,
        "network ACL": True,
        "key": True,
        "console": True,
    }
    assert found["deploy_id"] == deploy_id
    assert found["login"] == {"address": "198.18.0.1", "user": "admin", "port": 22}
    assert found["console"][-1] == "ip-10-0-0-1 login:"
    printed = output_of(here.root, "reach", NAME, "--vm", "42")
    assert "✓ rule for port 22: from anywhere, in sg-default\n" in printed
    assert printed.endswith("\nlog in: ssh admin@198.18.0.1\n")
    assert "\x1b" not in printed


def test_reach_names_the_obstacles_with_remedies_and_ends_with_3(here: Here) -> None:
    here.launch(42)
    printed = output_of(here.root, "reach", NAME, "--vm", "42", code=3)
    assert "✗ rule for port 22: none in sg-default\n    allow TCP 22" in printed
    here.stop(here.launch(43))
    stopped = json_of(here.root, "reach", NAME, "--vm", "43", code=3)
    assert (marks(stopped)["instance"], marks(stopped)["console"]) == (False, None)
    assert "log in: " not in output_of(here.root, "reach", NAME, "--vm", "43", code=3)


def test_reach_of_a_vm_without_an_instance_is_an_obstacle_with_the_next_step(here: Here) -> None:
    printed = output_of(here.root, "reach", NAME, "--vm", "7", code=3)
    assert printed.startswith("✗ instance: the cloud of aws has no instance of VM 7\n    one-provider instances aws ")


def test_reach_reads_the_login_user_of_the_configurations_images(here: Here) -> None:
    here.launch(42, image="ami-0de0000000000013a", **KEYED)
    with here.file.open("a") as file:
        file.write('[images.debian]\nimage = "ami-0de0000000000013a"\nuser = "deploy"\n')
    assert json_of(here.root, "reach", NAME, "--vm", "42", code=3)["login"]["user"] == "deploy"


@pytest.mark.parametrize(
    ("context", "is_well"),
    [
        ({"SSH_PUBLIC_KEY": "ssh-ed25519 AAAA one@here"}, True),
        ({"PASSWORD_BASE64": "c2VjcmV0"}, True),
        ({"SSH_KEY": "ssh-ed25519 AAAA one@here"}, True),
        ({"SSH_PUBLIC_KEY": " ", "NETWORK": "YES"}, False),
        ({"USER_DATA": "#cloud-config"}, None),
        ({}, False),
    ],
    ids=["key", "password", "key for cloud-init's own source", "empty key", "user data", "no context"],
)
def test_reach_looks_for_a_key_in_the_vms_context(
    here: Here, tmp_path: Path, context: dict[str, str], *, is_well: bool | None
) -> None:
    auth = tmp_path / "one_auth_of_test"
    auth.write_text("oneadmin:secret\n")
    auth.chmod(0o600)
    with Partner() as partner:
        section = "".join(f'{name}="{value}",' for name, value in context.items()).rstrip(",")
        number = vm_of(partner, f"CONTEXT=[{section}]" if section else "")
        here.launch(number)
        found = json_of(
            here.root, "reach", NAME, "--vm", str(number), code=3, ONE_XMLRPC=partner.urls[0], ONE_AUTH=str(auth)
        )
    assert marks(found)["key"] is is_well


def vm_of(partner: Partner, text: str) -> int:
    """The number of a new VM with this template."""
    user = partner.users["oneadmin:secret"]
    return partner.do_vm_allocate(user, f"NAME=x\nCPU=1\nMEMORY=64\n{text}", is_held=True)


def test_reach_says_what_a_missing_right_leaves_unknown(here: Here) -> None:
    here.launch(42, **KEYED)
    here.let_in()
    here.refuse("DescribeRouteTables")
    here.refuse("GetConsoleOutput")
    found = json_of(here.root, "reach", NAME, "--vm", "42")
    assert (marks(found)["route"], marks(found)["console"], found["console"]) == (None, None, [])
    printed = output_of(here.root, "reach", NAME, "--vm", "42")
    assert "! route: cannot be looked up\n    allow ec2:DescribeRouteTables: docs/ec2.md has the statement\n" in printed
    assert "GetConsoleOutput, UnauthorizedOperation" in printed


def test_reach_of_windows_is_about_remote_desktop_and_the_password(here: Here) -> None:
    here.launch(42, image="ami-0ff00000000002022", **KEYED)
    here.launch(43, image="ami-0ff00000000002022")
    here.let_in(port=3389)
    found = json_of(here.root, "reach", NAME, "--vm", "42")
    assert found["login"] == {"address": "198.18.0.1", "user": "Administrator", "port": 3389}
    assert marks(found)["rule for port 3389"] is True
    printed = output_of(here.root, "reach", NAME, "--vm", "43", code=3)
    assert "✗ key: the instance has no key pair, so EC2 shows no password\n" in printed
    assert printed.endswith("\nlog in: by remote desktop to 198.18.0.2, as Administrator\n")


def test_reach_finds_a_guest_that_did_not_start_on_its_console(here: Here) -> None:
    deploy_id = here.launch(42, **KEYED)
    here.let_in()
    here.account.consoles.written[deploy_id] = "[ 1.0] VFS: Cannot open root\r\n[ 1.1] Kernel panic - not syncing\r\n"
    printed = output_of(here.root, "reach", NAME, "--vm", "42", code=3)
    assert "✗ console: [ 1.1] Kernel panic - not syncing\n" in printed


def test_reach_of_the_simulated_cloud_says_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "etc" / "one_provider_mad").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "etc" / "one_provider_mad" / "cloud.toml").write_text(CONFIGURATION)
    made = populate(tmp_path, owners={42: "mine"})
    found = json_of(tmp_path, "reach", "cloud", "--vm", "42")
    assert found["deploy_id"] == made[42]
    assert marks(found)["instance"] in (True, None), "it may be starting still"
    assert marks(found)["guest"] is None


def test_reach_of_scripts_fails_with_one_sentence(tmp_path: Path) -> None:
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (conf / "kvm.toml").write_text('provider = "scripts"\nowner = "o"\n')
    code, _, complaint = ran(tmp_path, "reach", "kvm", "--vm", "1")
    assert (code, complaint.count("\n")) == (1, 1)


# --try


@contextmanager
def listening(banner: bytes) -> Iterator[int]:
    """A server on loopback that greets one client."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(banner)

        thread = threading.Thread(target=greet)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


async def test_try_shows_the_banner_of_the_server() -> None:
    with listening(b"SSH-2.0-OpenSSH_9.2p1\r\n") as port:
        result = await _tried(LoginPlace(address="127.0.0.1", port=port))
    assert (result.is_well, result.found) == (True, "127.0.0.1: SSH-2.0-OpenSSH_9.2p1")


async def test_try_of_a_closed_port_or_no_address_is_an_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    refused = await _tried(LoginPlace(address="127.0.0.1", port=port))
    assert (refused.is_well, refused.found) == (False, "127.0.0.1: Connection refused")
    assert (await _tried(LoginPlace())).is_well is False
