"""What a power off saves, by the prices of a running and of a stopped instance."""

from __future__ import annotations

import pytest

from one_provider_mad.idle.savings import difference
from one_provider_mad.pricing.values import UNKNOWN, Item, Kind, Part, Price

COMPUTE, DISK = Item(kind=Kind.COMPUTE, name="m5.large"), Item(kind=Kind.DISK, name="gp3", quantity=None)


def price(compute: float | None, *, has_disk: bool = False) -> Price:
    parts = (Part(item=COMPUTE, amount=compute), *([Part(item=DISK, amount=None)] if has_disk else []))
    return Price(parts=parts, currency="USD")


@pytest.mark.parametrize(
    ("running", "stopped", "text", "is_worth_it"),
    [
        pytest.param(price(0.1), price(0.0), "0.1000 USD", True, id="nothing is charged while stopped"),
        pytest.param(price(0.1), price(0.1), "0.0000 USD", False, id="as much is charged while stopped"),
        pytest.param(price(0.1, has_disk=True), price(0, has_disk=True), "0.1000 USD", True, id="disk unknown in both"),
        pytest.param(price(None), price(0.0), "?", False, id="running unknown"),
        pytest.param(price(0.1), price(None), "?", False, id="stopped unknown"),
        pytest.param(price(None), price(None), "?", False, id="both unknown"),
        pytest.param(UNKNOWN, UNKNOWN, "?", False, id="all unknown"),
        pytest.param(Price(), Price(), "0.0000", False, id="nothing costs anything"),
    ],
)
def test_only_a_known_saving_is_worth_it(running: Price, stopped: Price, text: str, is_worth_it: bool) -> None:  # noqa: FBT001
    saving = difference(running, stopped)
    assert (saving.text, saving.is_worth_it) == (text, is_worth_it)
