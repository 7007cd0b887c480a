"""The time until VMs run in a cloud, compared with what was measured on 7.4.0: 20 VMs at once, deploys of 3 to 4 s."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.front_end.pace import Pace6, Pace7

SHIPPED = {"window_time": 10, "window_length": 7, "per_cluster": 30, "threads": 50}


@pytest.mark.parametrize(
    ("max_host", "per_host", "measured"),
    [
        pytest.param(1, 1, 78.4, id="as-shipped"),
        pytest.param(1, 20, 78.2, id="MAX_ACTIONS_PER_HOST"),
        pytest.param(0, 1, 269, id="MAX_HOST"),
        pytest.param(0, 20, 15.3, id="both"),
    ],
)
def test_the_time_is_what_was_measured(max_host: int, per_host: int, measured: float) -> None:
    found = Pace7(max_host=max_host, per_host=per_host, **SHIPPED).seconds(20)
    assert found == pytest.approx(measured, rel=0.13)


@pytest.mark.parametrize(
    ("pace", "vms", "seconds"),
    [
        pytest.param(
            Pace7(max_host=0, per_host=200, per_cluster=200, window_time=2, window_length=100, threads=100),
            20,
            5.5,
            id="7-best",
        ),
        pytest.param(
            Pace7(max_host=0, per_host=200, per_cluster=200, window_time=2, window_length=100, threads=15),
            20,
            9.0,
            id="7-few-threads",
        ),
        pytest.param(
            Pace7(max_host=0, per_host=0, per_cluster=0, window_time=2, window_length=100, threads=15),
            3,
            35.5,
            id="7-zero-is-one",
        ),
        pytest.param(Pace6(interval=15, max_host=1, max_dispatch=30, threads=15), 20, 303.5, id="6-as-shipped"),
        pytest.param(Pace6(interval=5, max_host=1000, max_dispatch=0, threads=100), 20, 8.5, id="6-best"),
        pytest.param(Pace6(interval=5, max_host=0, max_dispatch=0, threads=100), 20, math.inf, id="6-zero-places-none"),
    ],
)
def test_the_time_follows_from_the_limits(pace: Pace6 | Pace7, vms: int, seconds: float) -> None:
    assert pace.seconds(vms) == seconds


@given(
    st.integers(1, 200),
    st.integers(0, 50),
    st.integers(1, 50),
    st.integers(1, 60),
    st.integers(1, 100),
    st.integers(1, 99),
)
def test_more_vms_never_take_less_time(
    vms: int, max_host: int, per_host: int, time: int, length: int, threads: int
) -> None:
    pace = Pace7(
        max_host=max_host, per_host=per_host, per_cluster=30, window_time=time, window_length=length, threads=threads
    )
    longer = pace.seconds(vms + length)  # a window that is full begins at once
    assert 0 < pace.seconds(vms) <= longer + time
