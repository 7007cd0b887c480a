"""The capacity that a host reports, and how much of it is in use."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from one_provider_mad.domain import InstanceState, Usage
from one_provider_mad.monitor.cloud_source import ReportSettings
from one_provider_mad.monitor.host import (
    UNLIMITED,
    Load,
    capacity_of,
    letter_of,
    load_of,
    report_of,
    unknown_types,
    wild_of,
)
from one_provider_mad.monitor.settings import CapacitySettings
from one_provider_mad.providers.interface import Capacity, Size
from one_provider_mad.providers.simulated.capacity import import_hints, sizes, whole_capacity
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.monitor.builders import wild

SIZES = {"small": Size(cpu=1, memory=512), "large": Size(cpu=8, memory=16384)}
LIMIT = Size(cpu=100, memory=1000)


@pytest.mark.parametrize(
    ("settings", "limit", "expected"),
    [
        pytest.param(
            CapacitySettings(cpu=4, memory=100), LIMIT, Size(cpu=4, memory=100), id="configured-capacity-first"
        ),
        pytest.param(
            CapacitySettings(instance_types={"small": 10, "large": 1}), LIMIT, Size(cpu=18, memory=21504), id="by-types"
        ),
        pytest.param(
            CapacitySettings(cpu=3, instance_types={"small": 2}), LIMIT, Size(cpu=3, memory=1024), id="by-both"
        ),
        pytest.param(CapacitySettings(), LIMIT, LIMIT, id="clouds-limit"),
        pytest.param(CapacitySettings(instance_types={"huge": 2}), LIMIT, LIMIT, id="unknown-types"),
        pytest.param(CapacitySettings(memory=7), LIMIT, Size(cpu=100, memory=7), id="memory-configured-only"),
        pytest.param(CapacitySettings(), None, UNLIMITED, id="unknown"),
        pytest.param(CapacitySettings(cpu=0, memory=0), LIMIT, Size(cpu=0, memory=0), id="zero"),
    ],
)
def test_capacity_is_taken_from_the_configuration_then_from_the_cloud(
    settings: CapacitySettings, limit: Size | None, expected: Size
) -> None:
    assert capacity_of(settings, SIZES, limit) == expected


def test_configured_types_that_the_cloud_does_not_have_are_returned() -> None:
    assert unknown_types(CapacitySettings(instance_types={"small": 1, "huge": 2, "big": 3}), SIZES) == ["big", "huge"]


def test_the_load_of_a_host_is_the_sum_of_its_instances_usages() -> None:
    assert load_of([Usage(cpu=50.5, memory=10), None, Usage(cpu=100, memory=5)]) == Load(cpu=150.5, memory=15)


def test_a_host_report_has_cpu_in_percent_and_memory_in_kib() -> None:
    report = report_of(
        ReportSettings(hypervisor="sea"), Size(cpu=2.5, memory=3), Load(cpu=7, memory=8), error="e", warning="w"
    )
    assert (report.total_cpu, report.total_memory, report.used_cpu, report.used_memory) == (250, 3072, 7, 8)
    assert (report.error, report.attributes["PROVIDER_WARNING"]) == ("e", "w")


def test_a_report_without_a_warning_clears_the_previous_one() -> None:
    """OpenNebula keeps an attribute of a host until it is reported again."""
    assert report_of(ReportSettings(hypervisor="sea"), None, Load()).attributes["PROVIDER_WARNING"] == "-"


def test_a_report_without_known_capacity_has_no_totals() -> None:
    report = report_of(ReportSettings(hypervisor="sea"), None, Load())
    assert (report.total_cpu, report.total_memory) == (None, None)


def test_a_wild_instance_without_a_name_is_named_by_its_id() -> None:
    unnamed = wild("i-web").__class__(deploy_id=wild("i-web").deploy_id, state=InstanceState.STOPPED, raw_state="off")
    assert (wild_of(unnamed, None).name, wild_of(unnamed, None).state_letter) == ("i-web", "d")


def test_only_running_stopped_and_suspended_instances_have_a_state_letter() -> None:
    letters = {state: letter_of(state) for state in InstanceState if letter_of(state) != "-"}
    assert letters == {InstanceState.RUNNING: "a", InstanceState.STOPPED: "d", InstanceState.SUSPENDED: "p"}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param({}, None, id="no-limit"),
        pytest.param({"capacity": {"xlarge_16gb": 2}}, None, id="one-type-limited"),
        pytest.param({"max_instances": 2}, Capacity(cpu=16, memory=32768, most=2), id="two-of-the-largest-type"),
        pytest.param(
            {"max_instances": 3, "capacity": {"xlarge_16gb": 1}},
            Capacity(cpu=16, memory=32768, most=3),
            id="one-of-the-largest-and-smaller-ones",
        ),
        pytest.param(
            {"capacity": dict.fromkeys(sizes(SimulatedSettings()), 1)}, Capacity(cpu=19, memory=32512), id="one-of-each"
        ),
    ],
)
def test_capacity_of_the_simulated_cloud_follows_from_its_limits(
    limits: Mapping[str, object], expected: Capacity | None
) -> None:
    assert whole_capacity(SimulatedSettings(**limits)) == expected  # type: ignore[arg-type]


def test_an_instance_without_attributes_has_size_zero() -> None:
    assert import_hints(wild("i-web")).size == Size(cpu=0, memory=0)
