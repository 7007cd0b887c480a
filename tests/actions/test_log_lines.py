"""Lines in the VMs' logs and in oned's own, in the form of each release."""

from __future__ import annotations

import pytest

from one_provider_mad.protocol.messages import Severity
from tests.actions.fakes import Desk, World, identity_of

pytestmark = pytest.mark.looptime


async def test_log_lines_of_every_severity_are_written(world: World, desk: Desk) -> None:
    for severity in Severity:
        desk.dispatcher.log_lines.write(severity, "text", identity_of().vm_id)
    desk.dispatcher.log_lines.write(Severity.WARNING, "for oned")
    assert desk.lines == ["LOG I 7 text", "LOG W 7 text", "LOG E 7 text", "LOG D 7 text"]


async def test_warnings_of_a_deploy_go_to_the_vms_log(desk: Desk) -> None:
    desk.world.provider.warnings = ("attribute X is not known",)
    await desk.answer("DEPLOY")
    assert desk.lines == ["LOG W 7 attribute X is not known", "DEPLOY SUCCESS 7 i-1"]


async def test_the_number_of_warnings_in_the_vms_log_is_limited(desk: Desk) -> None:
    desk.world.provider.warnings = tuple(f"attribute X{number} is not known" for number in range(300_000))
    assert (await desk.answer("DEPLOY")).startswith("SUCCESS")
    assert len(desk.logs()) == 60
    assert desk.logs()[-1] == "LOG W 7 there are more warnings, which are left out here"


@pytest.mark.parametrize(
    ("before", "general_id"),
    [
        pytest.param(b"", "-1", id="release-unknown"),
        pytest.param(b"REBOOT  7 ", "-1", id="6.0-and-later"),
        pytest.param(b"REBOOT 7 ", "-", id="up-to-5.12"),
    ],
)
async def test_a_line_without_vm_id_is_logged_in_oneds_log(desk: Desk, before: bytes, general_id: str) -> None:
    if before:
        desk.write(before)
        await desk.settled()
    desk.write(b"DEPLOY x QQ==")
    [line] = [line for line in desk.logs() if "no request" in line]
    assert line.startswith(f"LOG E {general_id} ignored a line that is no request: DEPLOY came with X in place of a VM")


@pytest.mark.parametrize(("release", "general_id"), [("5.10", "-"), ("7.4", "-1")])
async def test_lines_for_oneds_log_wait_for_the_first_request_to_show_the_release(
    desk: Desk, release: str, general_id: str
) -> None:
    desk.dispatcher.log_lines.write(Severity.WARNING, "early")
    assert desk.lines == []
    desk.ask("REBOOT", release=release)
    desk.dispatcher.log_lines.write(Severity.WARNING, "late")
    assert desk.logs()[:2] == [f"LOG W {general_id} early", f"LOG W {general_id} late"]


@pytest.mark.parametrize(("release", "general_id"), [((5, 12, 0, 4), "-"), ((6, 0), "-1"), ((6, 10, 0), "-1")])
async def test_early_log_lines_are_sent_once_xmlrpc_returns_the_release(
    desk: Desk, release: tuple[int, ...], general_id: str
) -> None:
    desk.dispatcher.log_lines.write(Severity.WARNING, "an orphan")
    assert desk.logs() == []
    desk.dispatcher.log_lines.learn_release(release)
    desk.dispatcher.log_lines.write(Severity.WARNING, "another")
    assert desk.logs() == [f"LOG W {general_id} an orphan", f"LOG W {general_id} another"]


async def test_the_count_of_dropped_log_lines_is_logged_in_oneds_log(desk: Desk) -> None:
    dropped = desk.dispatcher.log_lines.dropped
    assert dropped(3) == b"LOG W -1 3 log lines were dropped because OpenNebula did not read them\n"
    desk.ask("REBOOT", release="5.10")
    assert dropped(3) == b"LOG W - 3 log lines were dropped because OpenNebula did not read them\n"
