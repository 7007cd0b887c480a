"""A cloud like EC2 on loopback, and providers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.mappings import Mappings
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import ProviderContext
from tests.providers.ec2.faulty_endpoint import KEY, REGION, SECRET, FaultyEc2

OWNER = "tests"

NO_MAPPINGS = Mappings()
NO_PRICES = PriceSettings()
NO_TAGS: Mapping[str, str] = {}

Open = Callable[..., Awaitable[Ec2Provider]]


@pytest.fixture(autouse=True)
def no_aws_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Isolate tests from the machine's own AWS configuration, and from metadata services."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))


@pytest.fixture
async def ec2() -> AsyncIterator[FaultyEc2]:
    async with FaultyEc2().served() as served:
        yield served


def make(
    url: str,
    *,
    mappings: Mappings = NO_MAPPINGS,
    prices: PriceSettings = NO_PRICES,
    billing_tags: Mapping[str, str] = NO_TAGS,
    state_directory: Path = Path("/nonexistent"),
    **settings: Any,
) -> Ec2Provider:
    """A provider, not opened yet; its warnings are in `warned`."""
    warned: list[str] = []
    context = ProviderContext(
        name="ec2",
        hypervisor="ec2",
        owner=OWNER,
        state_directory=state_directory,
        mappings=mappings,
        prices=prices,
        tags=billing_tags,
        warn=warned.append,
    )
    table = {
        "region": REGION,
        "endpoint_url": url,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "watch_interval": 0.01,
        "visibility_grace": 5.0,
        **settings,
    }
    provider = Ec2Provider(context, msgspec.convert({k: v for k, v in table.items() if v is not None}, Ec2Settings))
    provider.warned = warned  # type: ignore[attr-defined] # for the tests
    return provider


@pytest.fixture
async def connect(ec2: FaultyEc2) -> AsyncIterator[Open]:
    """Opens providers on the cloud; the arguments are settings."""
    async with AsyncExitStack() as stack:

        async def open_one(**settings: Any) -> Ec2Provider:
            provider = make(ec2.url, **settings)
            await provider.open()
            stack.push_async_callback(provider.close)
            return provider

        yield open_one
