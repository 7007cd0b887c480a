"""Differences between releases in the scripts that run for an action.

Compared with OpenNebula's src/vmm_mad/exec/one_vmm_exec.rb and src/vnm_mad/one_vnm.rb of every release named here.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Request
from one_provider_mad.protocol.payload import read_payload
from one_provider_mad.protocol.vmm import parse_line
from one_provider_mad.providers.scripts.message import Message, read_message
from one_provider_mad.providers.scripts.release import read_version, release_of
from one_provider_mad.providers.scripts.sequences import DEPLOYED, Kind, Step, sequence
from tests import oned_lines
from tests.end_to_end.script_cases import CASES, MAC, request
from tests.end_to_end.script_folder import ScriptPlace, altered, edited

Edit = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> ScriptPlace:
    return ScriptPlace(tmp_path_factory.mktemp("scripts") / "one")


def message_of(place: ScriptPlace, action: str, version: str, edit: Edit) -> Message:
    """The message of an action about VM 9 as this release sends it."""
    forms: dict[str, oned_lines.Release] = {"4": "4.4", "5": "5.10"}
    line = edit(request(place, action, 9, forms.get(version[0], "7.4"), CASES[action]))
    parsed = parse_line(line)
    assert isinstance(parsed, Request)
    read = read_payload(parsed)
    assert isinstance(read, tuple), read
    installed = tuple(int(number) for number in version.split("."))
    message = read_message(*read, dialect=parsed.dialect, installed=installed)
    assert message.release == installed
    return message


def steps_of(place: ScriptPlace, action: str, version: str, edit: Edit = lambda line: line) -> tuple[Step, ...]:
    return sequence(action, message_of(place, action, version, edit))


def shown(steps: Iterable[Step], *, kind: Kind | None = Kind.NETWORK) -> list[str]:
    """The steps of a kind, or all for None, with their arguments; a VM in base64 is {xml}."""
    return [" ".join((step.action, *map(word, step.arguments))) for step in steps if kind in (None, step.kind)]


def word(argument: str) -> str:
    return "{xml}" if argument.startswith(b64encode(b"<VM>").decode()[:5]) else argument.replace(DEPLOYED, "{id}")


HOST = "remote_provider"


@pytest.mark.parametrize(
    ("version", "deploy", "shutdown", "security"),
    [
        ("4.4.1", ["pre {xml}", "post {xml} {id}"], ["clean {xml}"], None),
        ("4.14.2", ["pre {xml}", "post {xml} {id}"], ["clean {xml}"], None),
        ("5.0.2", ["pre {xml}", "post {xml} {id}"], ["clean {xml}"], ["update_sg {xml} i-9"]),
        ("5.8.5", ["pre {xml}", "post {xml} {id}"], ["clean {xml}"], ["update_sg {xml} i-9"]),
        ("5.10.0", ["pre", "post {id}"], ["clean"], ["update_sg i-9"]),
        ("5.12.13", ["pre", "post {id}"], ["clean"], ["update_sg i-9"]),
        ("6.0.0", ["pre", f"post {{id}} {HOST}"], [f"clean {HOST}"], ["update_sg i-9"]),
        ("7.4.0", ["pre", f"post {{id}} {HOST}"], [f"clean {HOST}"], ["update_sg i-9"]),
    ],
)
def test_network_drivers_get_the_arguments_of_the_release(
    place: ScriptPlace, version: str, deploy: list[str], shutdown: list[str], security: list[str] | None
) -> None:
    assert shown(steps_of(place, "DEPLOY", version)) == deploy
    assert shown(steps_of(place, "SHUTDOWN", version)) == shutdown
    if security is not None:
        assert shown(steps_of(place, "UPDATESG", version)) == security


def alias(line: bytes, *, driver: str = "net", more: str = "") -> bytes:
    """The line about a NIC_ALIAS in place of its NIC."""

    def rename(document: str) -> str:
        head, _, tail = document.partition("<ATTACH>")
        before, _, nic = head.rpartition("<NIC>")
        rest, _, after = tail.partition("</NIC>")
        changed = f"<NIC_ALIAS>{more}{nic}<ATTACH>{rest}</NIC_ALIAS>".replace("[net]", f"[{driver}]")
        return before + changed + after

    return edited(line, rename)


def external(line: bytes) -> bytes:
    return alias(line, more="<EXTERNAL>YES</EXTERNAL>")


def elastic(line: bytes) -> bytes:
    return alias(line, driver="elastic")


@pytest.mark.parametrize(
    ("version", "edit", "attach", "detach"),
    [
        ("5.8.5", alias, [], []),
        ("5.10.5", alias, [], []),
        ("5.12.13", alias, [], []),
        ("5.12.13", elastic, [], []),
        ("5.10.5", external, ["pre", "post i-9"], ["clean"]),
        ("6.0.2", alias, [], []),
        ("6.0.2", elastic, ["pre", f"post i-9 {HOST}"], [f"clean {HOST}"]),
        ("6.0.2", external, ["pre", f"post i-9 {HOST}"], [f"clean {HOST}"]),
        ("6.0.3", alias, ["pre", f"post i-9 {HOST}"], [f"clean {HOST}"]),
        ("7.4.0", alias, ["pre", f"post i-9 {HOST}"], [f"clean {HOST}"]),
    ],
)
def test_a_nic_alias_runs_network_drivers_only_in_releases_where_upstream_does(
    place: ScriptPlace, version: str, edit: Edit, attach: list[str], detach: list[str]
) -> None:
    attaching, detaching = steps_of(place, "ATTACHNIC", version, edit), steps_of(place, "DETACHNIC", version, edit)
    assert (shown(attaching), shown(detaching)) == (attach, detach)
    for steps in (attaching, detaching):
        assert [step.action for step in steps if step.kind is not Kind.NETWORK] == [
            *("prereconfigure", "tm_context", "reconfigure")
        ]


def undone(steps: tuple[Step, ...], action: str) -> list[str]:
    return shown(next(step for step in steps if step.action == action).undo, kind=None)


@pytest.mark.parametrize(
    ("version", "undo"),
    [("5.10.5", []), ("5.12.0", ["clean"]), ("6.0.0", [f"clean {HOST}"])],
)
def test_a_failed_deploy_cleans_the_network_from_5_12_on(place: ScriptPlace, version: str, undo: list[str]) -> None:
    assert undone(steps_of(place, "DEPLOY", version), "deploy") == undo


@pytest.mark.parametrize("version", ["4.4.1", "5.0.2", "7.4.0"])
def test_a_restore_is_cancelled_if_its_network_post_step_fails(place: ScriptPlace, version: str) -> None:
    assert undone(steps_of(place, "RESTORE", version), "post") == [f"cancel i-9 {HOST}"]


@pytest.mark.parametrize(("version", "undo"), [("6.4.0", []), ("6.4.1", [f"detach_nic i-9 {MAC}"])])
def test_a_nic_is_detached_if_its_guest_reconfiguration_fails_from_6_4_1_on(
    place: ScriptPlace, version: str, undo: list[str]
) -> None:
    assert undone(steps_of(place, "ATTACHNIC", version), "prereconfigure") == undo


@pytest.mark.parametrize(("version", "attach", "detach"), [("4.14.2", 0, 0), ("5.6.2", 1, 0), ("5.8.0", 1, 1)])
def test_attachnic_reconfigures_the_guest_from_5_6_on_and_detachnic_from_5_8_on(
    place: ScriptPlace, version: str, attach: int, detach: int
) -> None:
    actions_of_both = [
        [step.action for step in steps_of(place, action, version)] for action in ("ATTACHNIC", "DETACHNIC")
    ]
    assert [actions.count("reconfigure") for actions in actions_of_both] == [attach, detach]


def without_id(line: bytes) -> bytes:
    return altered(line, DEPLOY_ID="")


@pytest.mark.parametrize(("version", "cleaned"), [("4.14.2", []), ("5.8.2", []), ("5.8.3", ["clean {xml}"])])
def test_cleanup_without_an_instance_cleans_the_network_from_5_8_3_on(
    place: ScriptPlace, version: str, cleaned: list[str]
) -> None:
    assert shown(steps_of(place, "CLEANUP", version, without_id)) == cleaned


@pytest.mark.parametrize(
    ("version", "pre", "has_stdin", "fails"),
    [
        ("5.8.5", "tm_premigrate premigrate a b {xml}", False, (False, True)),
        ("5.10.5", "tm_premigrate premigrate a b", True, (False, True)),
        ("7.2.0", "tm_premigrate premigrate a b", True, (False, True)),
        ("7.4.0", "tm_premigrate premigrate a b", True, (True, True)),
    ],
)
def test_a_migration_passes_the_vm_to_the_transfer_driver_as_its_release_does(
    place: ScriptPlace, version: str, pre: str, *, has_stdin: bool, fails: tuple[bool, bool]
) -> None:
    steps = steps_of(place, "MIGRATE", version)
    assert shown(steps, kind=Kind.TRANSFER)[0] == pre
    assert (steps[0].stdin is not None) == has_stdin
    migrate = next(step for step in steps if step.action == "migrate")
    assert (bool(steps[0].undo), bool(migrate.undo)) == fails


@pytest.mark.parametrize(
    ("action", "version", "is_logged"),
    [
        *(("POLL", version, False) for version in ("4.4.1", "5.10.5", "5.12.13")),
        *(("SNAPSHOTCREATE", version, False) for version in ("4.4.1", "5.10.5", "7.4.0")),
        *(("SNAPSHOTDELETE", version, False) for version in ("5.10.5", "7.4.0")),
        ("SNAPSHOTREVERT", "6.6.3", False),
        ("SNAPSHOTREVERT", "6.8.0", True),
        ("RESIZE", "7.4.0", False),
        ("REBOOT", "5.8.5", False),
        ("REBOOT", "5.10.0", True),
        ("RESET", "5.8.5", False),
        ("RESET", "7.4.0", True),
        ("SHUTDOWN", "4.4.1", True),
    ],
)
def test_steps_of_an_action_are_logged_only_if_upstream_logs_them(
    place: ScriptPlace, action: str, version: str, *, is_logged: bool
) -> None:
    assert {step.is_logged for step in steps_of(place, action, version)} == {is_logged}


@pytest.mark.parametrize(
    ("version", "driver", "posts"),
    [("6.6.3", "net", []), ("6.8.0", "net", [f"post i-9 {HOST}"]), ("7.4.0", "elastic", [])],
)
def test_a_reverted_snapshot_runs_the_network_post_step_from_6_8_on(
    place: ScriptPlace, version: str, driver: str, posts: list[str]
) -> None:
    steps = steps_of(place, "SNAPSHOTREVERT", version, lambda line: with_driver(line, driver))
    assert shown(steps) == posts


def with_driver(line: bytes, driver: str, kind: str = "NIC") -> bytes:
    """The line with another driver or kind for the VM's NIC."""

    def change(document: str) -> str:
        document = document.replace("<![CDATA[net]]></VN_MAD>", f"<![CDATA[{driver}]]></VN_MAD>")
        return document.replace("<NIC>", f"<{kind}>").replace("</NIC>", f"</{kind}>")

    return edited(line, change)


@pytest.mark.parametrize(("version", "cleaned"), [("6.4.1", []), ("6.6.0", [f"clean {HOST}"])])
def test_a_pci_device_is_treated_as_a_nic_from_6_6_on(place: ScriptPlace, version: str, cleaned: list[str]) -> None:
    assert shown(steps_of(place, "SHUTDOWN", version, lambda line: with_driver(line, "net", "PCI"))) == cleaned


# Finding the release


@pytest.mark.parametrize(
    ("text", "release"),
    [("5.10.5\n", (5, 10, 5)), ("7.4.0", (7, 4, 0)), ("5.0\n", (5, 0, 0)), ("6.10.0.1\n", (6, 10, 0))],
)
def test_the_installed_release_is_read_from_the_version_file(
    tmp_path: Path, text: str, release: tuple[int, ...]
) -> None:
    (tmp_path / "VERSION").write_text(text)
    assert read_version(tmp_path / "VERSION") == release


@pytest.mark.parametrize("content", [None, b"", b"unknown\n", b"\xff\xfe", b"5\n"])
def test_the_release_is_unknown_without_a_readable_version_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "VERSION"
    if content is not None:
        path.write_bytes(content)
    assert read_version(path) is None


@pytest.mark.parametrize(
    ("fields", "dialect", "installed", "release"),
    [
        (["NET_DRV"], Dialect.UP_TO_5_12, None, (4, 14, 2)),
        ([], Dialect.UP_TO_5_12, None, (5, 10, 5)),
        ([], Dialect.SINCE_6_0, None, (7, 4, 0)),
        (["NET_DRV"], Dialect.UP_TO_5_12, (4, 4, 1), (4, 4, 1)),
        ([], Dialect.UP_TO_5_12, (5, 12, 0), (5, 12, 0)),
        ([], Dialect.SINCE_6_0, (6, 0, 2), (6, 0, 2)),
        ([], Dialect.SINCE_6_0, (5, 12, 0), (7, 4, 0)),
        ([], Dialect.UP_TO_5_12, (7, 4, 0), (5, 10, 5)),
        ([], Dialect.SINCE_6_0, (8, 0, 0), (8, 0, 0)),
    ],
)
def test_the_installed_release_is_used_only_if_the_message_has_the_form_of_that_release(
    fields: list[str], installed: tuple[int, ...] | None, release: tuple[int, ...], dialect: Dialect
) -> None:
    assert release_of(fields, dialect=dialect, installed=installed) == release
