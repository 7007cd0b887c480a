"""Duplicate rows in a listing: equal ones are merged, contradictory ones refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, Usage, VmId
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.listings import by_id

ROW = Instance(deploy_id=DeployId("i-1"), state=InstanceState.RUNNING, raw_state="running", usage=Usage(cpu=1.0))
OTHER = msgspec.structs.replace(ROW, deploy_id=DeployId("i-2"))


@pytest.mark.parametrize("second", [ROW, msgspec.structs.replace(ROW, usage=Usage(cpu=9.0))], ids=["alike", "figures"])
def test_duplicate_rows_that_differ_only_in_usage_are_merged(second: Instance) -> None:
    assert by_id([ROW, OTHER, second]) == {"i-1": second, "i-2": OTHER}


@pytest.mark.parametrize(
    "difference",
    [
        {"state": InstanceState.STOPPED},
        {"raw_state": "rebooting"},
        {"identity": Identity(owner="x", vm_id=VmId(7), stime=1, seq=0, host_id=3)},
        {"name": "another"},
        {"created_at": 1.0},
        {"attributes": {"IP": "10.0.0.9"}},
    ],
    ids=lambda difference: str(*difference),
)
def test_contradictory_rows_of_one_instance_fail_the_listing(difference: dict[str, Any]) -> None:
    with pytest.raises(ProviderUnavailable, match="two different rows for instance 'i-1'"):
        by_id([msgspec.structs.replace(ROW, **difference), OTHER, ROW])
