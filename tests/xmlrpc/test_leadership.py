"""Watching whether this front-end leads, on an OpenNebula that may start late, not answer, or be too old for peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from one_provider_mad.safe_xml import Element
from one_provider_mad.xmlrpc import local
from one_provider_mad.xmlrpc.leadership import Leadership
from one_provider_mad.xmlrpc.raft import RaftStatus, read_raft_status
from tests.xmlrpc.partner import Fault, Partner

ALONE, CANDIDATE, FOLLOWER, LEADER = range(4)


@pytest.fixture
def opennebula() -> Iterator[Partner]:
    with Partner() as opennebula:
        yield opennebula


class Watching:
    """Watches an OpenNebula, and takes the next step whenever the watch would pause.

    Args:
        url: its endpoint.
        auth: the file that ONE_AUTH names.
        steps: one for each pause: a raft state to set, a fault to add, or None; after the last one the watch ends.
    """

    def __init__(
        self, url: str, auth: Path, steps: list[int | str | Fault | None], opennebula: Partner | None = None
    ) -> None:
        self.environ = {"ONE_XMLRPC": url, "ONE_AUTH": str(auth)}
        self.warnings: list[str] = []
        self.changes: list[bool] = []
        self.pauses: list[float] = []
        self._steps = steps
        self._opennebula = opennebula

    async def run(self) -> None:
        with suppress(asyncio.CancelledError):
            await Leadership(self.environ, warn=self.warnings.append, sleep=self._sleep).watch(self.changes.append)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if not self._steps:
            raise asyncio.CancelledError
        self.do(len(self.pauses))

    def do(self, _pause: int) -> None:
        """Take the next step."""
        step = self._steps.pop(0)
        if isinstance(step, int | str) and self._opennebula is not None:
            self._opennebula.front_ends[0].state = step
        elif isinstance(step, Fault) and self._opennebula is not None:
            self._opennebula.faults.append(step)


@pytest.fixture
def auth(tmp_path: Path) -> Path:
    path = tmp_path / "one_auth"
    path.write_text("oneadmin:secret\n")
    path.chmod(0o600)
    return path


async def test_each_change_of_leadership_is_reported(opennebula: Partner, auth: Path) -> None:
    front_end = opennebula.front_ends[0]
    front_end.state = LEADER
    one = Watching(front_end.url, auth, [LEADER, FOLLOWER, FOLLOWER, CANDIDATE, LEADER], opennebula)
    await one.run()
    assert one.changes == [False, True, True, False]
    assert not one.warnings


async def test_leadership_stays_as_last_known_while_oned_does_not_answer(opennebula: Partner, auth: Path) -> None:
    front_end = opennebula.front_ends[0]
    front_end.state = FOLLOWER
    fault = Fault("one.zone.raftstatus", "http-500", 3)
    one = Watching(front_end.url, auth, [fault, None, None, None], opennebula)
    await one.run()
    assert one.changes == [True]


async def test_the_watch_asks_again_ever_less_often_until_a_starting_oned_answers(
    opennebula: Partner, auth: Path
) -> None:
    opennebula.front_ends[0].state = FOLLOWER
    opennebula.faults.append(Fault("one.zone.raftstatus", "dropped", 3))
    one = Watching(opennebula.front_ends[0].url, auth, [None] * 3, opennebula)
    await one.run()
    assert (one.changes, one.warnings) == ([True], [])
    assert one.pauses == [1, 2, 4, 2], "less and less often, and as usual once it answers"


async def test_an_oned_that_never_answers_causes_one_warning(auth: Path) -> None:
    one = Watching("http://127.0.0.1:9/RPC2", auth, [None] * 12)
    await one.run()
    (warning,) = one.warnings
    assert warning == (
        "whether this front-end leads is unknown, the driver continues as if this one did:"
        " OpenNebula at 127.0.0.1:9 cannot be asked: Connection refused"
    )
    assert one.changes == [False]
    assert max(one.pauses) == 60


async def test_the_watch_continues_after_credentials_were_unreadable_for_a_moment(
    opennebula: Partner, auth: Path
) -> None:
    """They are being replaced, for example; then this front-end is elected."""
    front_end = opennebula.front_ends[0]
    front_end.state = FOLLOWER
    one = Watching(front_end.url, auth, [None, None, None, LEADER, None], opennebula)
    before = one.do

    def do(pause: int) -> None:
        auth.write_text("" if pause in (1, 2) else "oneadmin:secret\n")
        before(pause)

    one.do = do  # type: ignore[method-assign, assignment]
    await one.run()
    assert one.changes == [True, False]


MALFORMED_STATES = ["", "soon", "7", "9" * 5000, "\u0663"]  # the last one is an Arabic three


@pytest.mark.parametrize(
    "state", MALFORMED_STATES, ids=["nothing", "a-word", "no-state", "5000-digits", "another-script"]
)
async def test_a_malformed_raft_state_is_ignored_and_the_watch_continues(
    opennebula: Partner, auth: Path, state: str
) -> None:
    opennebula.front_ends[0].state = FOLLOWER
    one = Watching(opennebula.front_ends[0].url, auth, [state, LEADER, None], opennebula)
    await one.run()
    assert (one.changes, one.pauses) == ([True, False], [2, 1, 2, 2])
    one = Watching(opennebula.front_ends[0].url, auth, [state, *[None] * 11], opennebula)
    one.do(0)
    await one.run()
    assert one.changes == [False], "no answer ever said that another one leads"
    (warning,) = one.warnings
    assert warning == (
        "whether this front-end leads is unknown, the driver continues as if this one did:"
        " the answer to one.zone.raftstatus has an unknown STATE"
    )


async def test_an_unexpected_exception_is_logged_and_the_watch_continues(
    opennebula: Partner, auth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [KeyError("a defect"), KeyError("a defect")]

    def fail(document: Element) -> RaftStatus:
        if failures:
            raise failures.pop()
        return read_raft_status(document)

    monkeypatch.setattr(local, "read_raft_status", fail)
    opennebula.front_ends[0].state = LEADER
    one = Watching(opennebula.front_ends[0].url, auth, [None] * 2, opennebula)
    with capture_logs() as logged:
        await one.run()
    assert one.changes == [False]
    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["front-end not asked"] * 2


async def test_an_xmlrpc_fault_does_not_mean_that_there_are_no_peers(opennebula: Partner, auth: Path) -> None:
    """Only the fault that the method does not exist means that there are no peers."""
    front_end = opennebula.front_ends[0]
    front_end.state = FOLLOWER
    opennebula.do_zone_raftstatus = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    one = Watching(front_end.url, auth, [None, None], opennebula)
    await one.run()
    assert one.changes == []


async def test_an_html_page_in_place_of_the_raft_document_is_ignored(opennebula: Partner, auth: Path) -> None:
    front_end = opennebula.front_ends[0]
    front_end.state = FOLLOWER
    one = Watching(front_end.url, auth, [Fault("one.zone.raftstatus", "page", 1)], opennebula)
    await one.run()
    assert one.changes == [True], "no new state is known"


async def test_with_a_release_without_raft_the_front_end_leads_and_is_not_watched(
    opennebula: Partner, auth: Path
) -> None:
    """Up to 5.2 there is no such method."""
    opennebula.do_zone_raftstatus = None  # type: ignore[method-assign, assignment]
    one = Watching(opennebula.front_ends[0].url, auth, [None], opennebula)
    await one.run()
    assert (one.pauses, one.changes, one.warnings) == ([], [False], [])
