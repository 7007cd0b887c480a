"""Instances get decrypted passwords and OneGate tokens; the journal and the logs get neither, as far as they can."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from one_provider_mad.domain import Template
from tests.conftest import StartDriver
from tests.end_to_end.oned import Driver, Place
from tests.end_to_end.oned_requests import deploy, line, power_off, resume, terminate
from tests.oned_lines import STIME
from tests.xmlrpc.local_core import LocalCore, User, decrypted, encrypted, environment, local_core

PASSWORD, ANOTHER = "correct horse/battery", "wholly other/password"
TOKEN_PASSWORD = "a47ac9d5b0c2e0a1" * 4


@pytest.fixture
def core(place: Place) -> Iterator[LocalCore]:
    place.simulate(boot_time=0, stop_time=0, destroy_time=0)
    with local_core() as core:
        core.users[3] = User("ada", template={"TOKEN_PASSWORD": TOKEN_PASSWORD})
        yield core


@pytest.fixture
def one(core: LocalCore, place: Place, driver: StartDriver) -> Driver:
    return driver(environ=environment(core, place.root, "VM_ENCRYPTED_ATTR=CONTEXT/PASSWORD"))


def a_vm(core: LocalCore, vm_id: int = 7, **context: str) -> Template:
    """The template of a VM that the core has, too."""
    core.vms[vm_id] = ({"CREATED_BY": "3", "CONTEXT": context}, {})
    return Template(
        values={
            "CPU": ("1",), "MEMORY": ("256",), "CREATED_BY": ("3",), "CONTEXT": (context,),
            "PUBLIC_CLOUD": ({"TYPE": "simulated"},),
        }
    )  # fmt: skip


def asked(core: LocalCore) -> list[tuple[object, ...]]:
    """Calls about VMs and users."""
    return [call for call in core.calls if call[0] in ("one.vm.info", "one.user.info")]


def written(place: Place, one: Driver) -> str:
    """The logs, and what oned got."""
    return "\n".join([*(path.read_text() for path in place.var.glob("*.log")), one.raw.decode()])


def test_instance_gets_the_decrypted_password(core: LocalCore, place: Place, one: Driver) -> None:
    one.created(deploy(7, template=a_vm(core, PASSWORD=encrypted(PASSWORD), USERNAME="ada")))
    (context,) = place.contexts(7)
    assert f"PASSWORD='{PASSWORD}'" in context
    assert asked(core) == [("one.vm.info", 7, True)]
    assert PASSWORD not in written(place, one)
    with closing(sqlite3.connect(place.var / "one_provider_mad_simulated.journal")) as journal:
        tables = [row[0] for row in journal.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        holding = [name for name in tables if PASSWORD in str(journal.execute(f"SELECT * FROM {name}").fetchall())]
    assert holding == ["attempts"], "a create is repeated with the same user data"


def test_core_is_not_asked_for_a_vm_that_needs_nothing(core: LocalCore, place: Place, one: Driver) -> None:
    template = a_vm(core, USERNAME="ada", PASSWORD="a plain one")
    deploy_id = one.created(deploy(7, template=template))
    one.ask(power_off(7, deploy_id, template=template))
    one.ask(resume(7, deploy_id, template=template))
    one.ask(terminate(7, deploy_id, template=template))
    assert asked(core) == []


def test_resume_asks_the_core_only_if_the_context_was_changed(core: LocalCore, place: Place, one: Driver) -> None:
    template = a_vm(core, PASSWORD=encrypted(PASSWORD))
    deploy_id = one.created(deploy(7, template=template))
    one.ask(power_off(7, deploy_id, template=template))
    core.calls.clear()
    assert one.ask(resume(7, deploy_id, template=template)) == f"SUCCESS {deploy_id}"
    assert asked(core) == []
    template = a_vm(core, PASSWORD=encrypted(ANOTHER))
    one.ask(power_off(7, deploy_id, template=template))
    assert one.ask(resume(7, deploy_id, template=template)) == f"SUCCESS {deploy_id}"
    assert f"PASSWORD='{ANOTHER}'" in place.contexts(7)[0]
    assert asked(core) == [("one.vm.info", 7, True)]


def test_resume_without_the_right_keeps_the_context_and_says_so(core: LocalCore, place: Place, one: Driver) -> None:
    template = a_vm(core, PASSWORD=encrypted(PASSWORD))
    deploy_id = one.created(deploy(7, template=template))
    template = a_vm(core, PASSWORD=encrypted(ANOTHER))
    one.ask(power_off(7, deploy_id, template=template))
    core.users[4], core.session_user = User("plain"), 4
    assert one.ask(resume(7, deploy_id, template=template)) == f"SUCCESS {deploy_id}"
    said = "changing the context, asked for while the VM was off, was refused for instance"
    assert any(said in each and "add" in each for each in one.lines)
    assert f"PASSWORD='{PASSWORD}'" in place.contexts(7)[0]
    one.ask(power_off(7, deploy_id, template=template))
    core.session_user = 0
    one.ask(resume(7, deploy_id, template=template))
    assert f"PASSWORD='{ANOTHER}'" in place.contexts(7)[0], "the next resume tries again"


def test_changed_context_of_a_running_vm_is_decrypted(core: LocalCore, place: Place, one: Driver) -> None:
    deploy_id = one.created(deploy(7, template=a_vm(core, PASSWORD=encrypted(PASSWORD))))
    template = a_vm(core, PASSWORD=encrypted(ANOTHER))
    assert one.ask(line("UPDATECONF", 7, deploy_id=deploy_id, template=template)).startswith("SUCCESS")
    assert f"PASSWORD='{ANOTHER}'" in place.contexts(7)[0]


def test_deploy_without_the_right_fails_before_anything_is_made(core: LocalCore, place: Place, one: Driver) -> None:
    core.users[4], core.session_user = User("plain"), 4
    template = a_vm(core, PASSWORD=encrypted(PASSWORD))
    assert one.ask(deploy(7, template=template)) == (
        "FAILURE CONTEXT/PASSWORD cannot be decrypted by the local OpenNebula: it decrypts for the group oneadmin only,"
        " and plain, the user in ONE_AUTH, is not in it: run oneuser addgroup plain oneadmin; nothing was sent to the"
        " cloud"
    )
    assert place.contexts(7) == []
    assert not place.has_attempts()
    core.session_user = 0
    one.created(deploy(7, template=template))
    assert f"PASSWORD='{PASSWORD}'" in place.contexts(7)[0]


def test_existing_instance_is_adopted_without_asking_the_core(core: LocalCore, place: Place, one: Driver) -> None:
    template = a_vm(core, PASSWORD=encrypted(PASSWORD))
    deploy_id = one.created(deploy(7, template=template))
    core.users[4], core.session_user = User("plain"), 4
    assert one.ask(deploy(7, template=template)) == f"SUCCESS {deploy_id}"


def test_token_for_onegate_is_in_the_context(core: LocalCore, place: Place, one: Driver) -> None:
    one.created(deploy(7, template=a_vm(core, TOKEN="YES", VMID="7", ONEGATE_ENDPOINT="http://192.0.2.1:5030")))
    found = re.search(r"ONEGATE_TOKEN='?([^'\n]+)", place.contexts(7)[0])
    assert found
    assert decrypted(found[1], TOKEN_PASSWORD) == f"7:{STIME}"
    assert found[1] not in written(place, one)


def test_deploy_without_a_token_password_fails_before_anything_is_made(
    core: LocalCore, place: Place, one: Driver
) -> None:
    core.users[3].template = {}
    assert one.ask(deploy(7, template=a_vm(core, TOKEN="YES"))) == (
        "FAILURE TOKEN = YES in CONTEXT asks for a OneGate token, which cannot be made: TOKEN_PASSWORD of user 3, who"
        " created the VM, is missing: set one of 64 hexadecimal digits with oneuser update 3; nothing was sent to the"
        " cloud"
    )
    assert place.contexts(7) == []
