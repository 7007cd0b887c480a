"""What makes a VM idle: figures, gaps, lifetimes and notices, and what PROVIDER_IDLE may say."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.idle.rules import (
    MOST_BLIND_SECONDS,
    Attribute,
    Due,
    Figure,
    Limits,
    Machine,
    UnreadableError,
    Watched,
    first_seen,
    judge,
    limits_of,
    span,
    with_figures,
)
from one_provider_mad.idle.settings import IdleSettings

USUAL = Limits(cpu=5.0, after=7200.0, lifetime=0.0, notice=1800.0)
NOW = 1_700_000_000.0


def watched(**changes: float) -> Watched:
    plain = Watched(stime=1, started_at=NOW - 90_000, used_at=NOW - 100, seen_at=NOW)
    return msgspec.structs.replace(plain, **changes)


@pytest.mark.parametrize(
    ("asked", "of_group", "expected"),
    [
        pytest.param(None, None, None, id="nobody asks"),
        pytest.param("yes", None, USUAL, id="the VM asks"),
        pytest.param(None, "YES", USUAL, id="its group asks"),
        pytest.param("NO", "YES", None, id="the VM says no"),
        pytest.param({"CPU": "1", "AFTER": "60"}, "NO", Limits(cpu=1, after=60, lifetime=0, notice=1800), id="figures"),
        pytest.param({"lifetime": "3.5"}, None, Limits(cpu=5, after=7200, lifetime=3.5, notice=1800), id="lower case"),
    ],
)
def test_the_vms_own_wish_comes_before_its_groups(
    asked: Attribute | None, of_group: Attribute | None, expected: Limits | None
) -> None:
    assert limits_of(asked, of_group, IdleSettings()) == expected


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        pytest.param("maybe", "PROVIDER_IDLE=maybe is neither YES nor NO", id="word"),
        pytest.param("", "PROVIDER_IDLE= is neither YES nor NO", id="empty"),
        pytest.param({"CPUS": "1"}, "PROVIDER_IDLE has CPUS, which is not known; known are CPU, AFTER", id="name"),
        pytest.param({"CPU": "-1"}, "CPU of PROVIDER_IDLE is '-1', not a number from 0", id="negative"),
        pytest.param({"AFTER": "nan"}, "AFTER of PROVIDER_IDLE is 'nan', not a number from 0", id="not a number"),
    ],
)
def test_a_wish_that_is_not_understood_is_refused_with_its_reason(asked: Attribute, sentence: str) -> None:
    with pytest.raises(UnreadableError, match=sentence):
        limits_of(asked, "YES", IdleSettings())


def test_a_vm_that_is_watched_from_now_on_was_used_until_now() -> None:
    machine = Machine(
        vm_id=VmId(1),
        stime=1,
        deploy_id=DeployId("a"),
        group_id=1,
        started_at=0,
        asked="YES",
        warning="",
        figure=Figure(NOW - 5000, 0.0),
    )
    assert judge(first_seen(machine, now=NOW), USUAL, now=NOW).due is Due.NOTHING
    assert first_seen(machine, now=NOW).started_at == NOW


@pytest.mark.parametrize(
    ("figures", "used_ago", "seen_ago"),
    [
        pytest.param([], 100, 0, id="no figure"),
        pytest.param([(60, 5.0)], 100, -60, id="idle"),
        pytest.param([(60, 5.1)], -60, -60, id="used"),
        pytest.param([(60, None)], 100, 0, id="the cloud does not tell"),
        pytest.param([(-50, 90.0), (-70, 0.0)], 50, 0, id="an earlier use that the checks missed"),
        pytest.param([(MOST_BLIND_SECONDS + 1, 0.0)], -1801, -1801, id="a gap counts as use"),
    ],
)
def test_a_use_between_two_checks_counts_and_so_does_a_time_without_figures(
    figures: list[tuple[float, float | None]], used_ago: float, seen_ago: float
) -> None:
    after = with_figures(watched(), [Figure(NOW + at, cpu) for at, cpu in figures], cpu=5.0)
    assert (NOW - after.used_at, NOW - after.seen_at) == (used_ago, seen_ago)


@pytest.mark.parametrize(
    ("state", "limits", "due", "off_in"),
    [
        pytest.param({"used_at": NOW - 7199}, {}, Due.NOTHING, None, id="idle, but not for long enough"),
        pytest.param({"used_at": NOW - 7200}, {}, Due.WARN, 1800, id="idle"),
        pytest.param({"used_at": NOW - 7200}, {"after": 0}, Due.NOTHING, None, id="CPU does not count"),
        pytest.param({"used_at": NOW - 9999, "seen_at": NOW - 1801}, {}, Due.NOTHING, None, id="no recent figure"),
        pytest.param({"used_at": NOW - 9000, "warned_at": NOW - 1799}, {}, Due.NOTHING, 1, id="notice"),
        pytest.param({"used_at": NOW - 9000, "warned_at": NOW - 1800}, {}, Due.POWEROFF, 0, id="notice is over"),
        pytest.param({"used_at": NOW - 1, "warned_at": NOW - 1800}, {}, Due.CLEAR, None, id="used after all"),
        pytest.param({}, {"lifetime": 91_801}, Due.NOTHING, None, id="young"),
        pytest.param({}, {"lifetime": 91_800}, Due.WARN, 1800, id="the end is near"),
        pytest.param({"warned_at": NOW - 9}, {"lifetime": 91_000}, Due.NOTHING, 1791, id="warned late"),
        pytest.param({"warned_at": NOW - 1800}, {"lifetime": 90_000}, Due.POWEROFF, 0, id="lifetime is over"),
    ],
)
def test_a_vm_is_warned_and_then_powered_off(
    state: dict[str, float], limits: dict[str, float], due: Due, off_in: float | None
) -> None:
    judgement = judge(watched(**state), msgspec.structs.replace(USUAL, **limits), now=NOW)
    assert judgement.due is due
    assert (judgement.off_at - NOW if judgement.off_at else None) == off_in
    assert bool(judgement.reason) == (off_in is not None)


SECONDS = st.integers(0, 6000).map(float)


@given(
    samples=st.lists(st.tuples(st.integers(1, 2400), st.sampled_from([0.0, 5.0, 6.0, None])), max_size=30),
    after=st.integers(1, 6000).map(float),
    notice=SECONDS,
)
def test_no_vm_is_powered_off_without_notice_or_that_was_used_or_unseen_within_the_time(
    samples: list[tuple[int, float | None]], after: float, notice: float
) -> None:
    limits = Limits(cpu=5.0, after=after, lifetime=0.0, notice=notice)
    state, now = watched(used_at=NOW, seen_at=NOW), NOW
    told: list[tuple[float, float | None]] = [(NOW, 100.0)]
    for seconds, cpu in samples:
        now += seconds
        told.append((now, cpu))
        state = with_figures(state, [Figure(now, cpu)], cpu=limits.cpu)
        judgement = judge(state, limits, now=now)
        if judgement.due is Due.POWEROFF:
            assert state.warned_at <= now - notice
            known = [at for at, figure in told if figure is not None]
            assert max(at for at, figure in told if (figure or 0.0) > limits.cpu) <= now - after
            quiet = [at for at in known if at >= now - after]
            assert all(later - earlier <= MOST_BLIND_SECONDS for earlier, later in pairwise(quiet))
        if judgement.due is Due.WARN:
            state = msgspec.structs.replace(state, warned_at=now)
        if judgement.due is Due.CLEAR:
            state = msgspec.structs.replace(state, warned_at=0.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (1800, "30 min"), (7200, "2 h"), (9000, "2.5 h"), (864000, "240 h")]
)
def test_a_time_is_written_for_a_person(seconds: float, text: str) -> None:
    assert span(seconds) == text
