"""The skew of this machine's clock against the date of a cloud's answer."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from one_provider_mad.providers.clock import check_clock, skew

NOW = 1_760_000_000.0


@pytest.mark.parametrize("ahead", [0.0, 7.0, -3600.0])
def test_skew_is_the_local_time_minus_the_date_of_the_answer(ahead: float) -> None:
    assert skew((formatdate(NOW, usegmt=True), NOW + ahead)) == ahead


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Oct 2025 08:53:20 GMT"])
def test_an_answer_without_a_readable_date_gives_no_skew_and_no_finding(date: str) -> None:
    assert skew((date, NOW)) is None
    assert check_clock((date, NOW), peer="EC2", at_most=300.0) == []


@pytest.mark.parametrize(
    ("ahead", "at_most", "is_well", "found"),
    [
        (9.0, 300.0, True, "as EC2's"),
        (-60.0, 300.0, None, "60 s behind EC2's"),
        (299.0, 300.0, None, "299 s ahead of EC2's"),
        (-300.0, 300.0, False, "300 s behind EC2's"),
        (9000.0, None, None, "9000 s ahead of EC2's"),
    ],
)
def test_a_clock_beyond_tolerance_gets_a_finding_and_a_remedy(
    ahead: float, at_most: float | None, *, is_well: bool | None, found: str
) -> None:
    (point,) = check_clock((formatdate(NOW, usegmt=True), NOW + ahead), peer="EC2", at_most=at_most)
    assert (point.what, point.is_well, point.found) == ("clock", is_well, found)
    assert ("NTP" in point.remedy, "refuses calls" in point.remedy) == (is_well is not True, is_well is False)
