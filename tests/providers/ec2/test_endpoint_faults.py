"""Faults configured for the simulated cloud reach clients of the embedded EC2 endpoint as EC2's own errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from one_provider_mad.lab.ec2.account import Account
from one_provider_mad.lab.ec2.background import Background
from one_provider_mad.lab.ec2.offers import EC2_TYPES
from one_provider_mad.lab.ec2.server import Server
from one_provider_mad.lab.ec2.signatures import Key
from one_provider_mad.providers.simulated.settings import (
    FaultSettings,
    ListingOrder,
    Order,
    RefusalOrder,
    SimulatedSettings,
)
from tests.providers.ec2.account import NUMBER
from tests.providers.ec2.faulty_endpoint import KEY, REGION, SECRET
from tests.providers.ec2.test_botocore import RUN, Botocore


class TestFaults:
    @asynccontextmanager
    async def served(self, folder: Path, **settings: Any) -> AsyncIterator[Botocore]:
        wanted = SimulatedSettings(account=NUMBER, region=REGION, instance_types=dict(EC2_TYPES), **settings)
        account = Account(folder / "cloud.db", wanted)
        background = Background(Server(account, keys={KEY: Key(SECRET)}))
        await asyncio.to_thread(background.__enter__)
        try:
            yield await asyncio.to_thread(Botocore, background.url)
        finally:
            await asyncio.to_thread(background.__exit__, None, None, None)

    @pytest.mark.parametrize(
        ("fault", "code", "status"),
        [
            ({"outage": True}, "Unavailable", 503),
            ({"transient": Order(times=1)}, "InternalError", 500),
            ({"permanent": RefusalOrder(error="NoCapacity")}, "InsufficientInstanceCapacity", 500),
            ({"permanent": RefusalOrder(error="QuotaExceeded")}, "InstanceLimitExceeded", 400),
            ({"permanent": RefusalOrder(error="PermissionDenied")}, "UnauthorizedOperation", 403),
            ({"no_capacity": ("t3.small",)}, "InsufficientInstanceCapacity", 500),
            ({"full": "NoCapacity"}, "InsufficientInstanceCapacity", 500),
            ({"full": "QuotaExceeded"}, "InstanceLimitExceeded", 400),
        ],
        ids=str,
    )
    async def test_a_configured_refusal_of_a_create_has_ec2s_code_and_creates_nothing(
        self, tmp_path: Path, fault: dict[str, Any], code: str, status: int
    ) -> None:
        async with self.served(tmp_path, faults=FaultSettings(**fault)) as botocore:
            with pytest.raises(ClientError) as caught:
                await botocore.run()
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
        async with self.served(tmp_path) as botocore:
            assert not (await botocore.describe_instances())["Reservations"]

    async def test_a_configured_lost_answer_closes_the_connection_after_the_create(self, tmp_path: Path) -> None:
        lost = FaultSettings(lost_answers=Order(calls=("create",), times=1))
        async with self.served(tmp_path, faults=lost) as botocore:
            with pytest.raises(HTTPClientError):
                await botocore.run(ClientToken="one")
            (reservation,) = (await botocore.describe_instances())["Reservations"]
            assert await botocore.run(ClientToken="one") == reservation["Instances"][0]["InstanceId"]

    async def test_calls_beyond_the_configured_rate_are_throttled(self, tmp_path: Path) -> None:
        async with self.served(tmp_path, faults=FaultSettings(calls_a_second=3)) as botocore:
            done = await asyncio.gather(*(botocore.describe_regions() for _ in range(12)), return_exceptions=True)
        refused = [each for each in done if isinstance(each, ClientError)]
        assert {each.response["Error"]["Code"] for each in refused} == {"RequestLimitExceeded"}
        assert len(done) > len(refused) > 0

    async def test_the_clouds_max_instances_is_the_accounts_instance_limit(self, tmp_path: Path) -> None:
        async with self.served(tmp_path, max_instances=1) as botocore:
            await botocore.run()
            with pytest.raises(ClientError, match="InstanceLimitExceeded"):
                await botocore.run()

    async def test_run_instances_creates_as_many_as_fit_or_none_if_fewer_than_min_count_fit(
        self, tmp_path: Path
    ) -> None:
        async with self.served(tmp_path, capacity={"t3.small": 3}, destroy_time=0.0) as botocore:
            with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
                await botocore.run_instances(**{**RUN, "MinCount": 4, "MaxCount": 5})
            made = await botocore.run_instances(**{**RUN, "MinCount": 2, "MaxCount": 5})
            assert len(made["Instances"]) == 3

    async def test_a_broken_listing_is_an_error_and_no_short_list(self, tmp_path: Path) -> None:
        broken = FaultSettings(broken_listings=ListingOrder(times=1))
        async with self.served(tmp_path, faults=broken) as botocore:
            await botocore.run()
            with pytest.raises(ClientError, match="InternalError"):
                await botocore.describe_instances()
            assert len((await botocore.describe_instances())["Reservations"]) == 1
