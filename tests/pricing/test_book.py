"""What items cost by `[prices]`, else by the cloud's own list; an unknown price is never 0."""

from __future__ import annotations

import msgspec
import pytest

from one_provider_mad.pricing.book import PriceBook
from one_provider_mad.pricing.settings import PriceSettings, TypePrice
from one_provider_mad.pricing.values import MONTH_HOURS, SPOT, UNKNOWN, Item, Kind, UnitPrice, figure

LARGE = Item(kind=Kind.COMPUTE, name="large")
DISK = Item(kind=Kind.DISK, name="fast", quantity=10)
ADDRESS = Item(kind=Kind.ADDRESS, name="IPv4")
LIST = {"large": 0.2, "fast": 0.001, "IPv4": 0.005}


def listed(item: Item) -> UnitPrice:
    if not item.is_running:
        return UnitPrice(amount=0.0, currency="USD", source="list")
    return UnitPrice(amount=LIST.get(item.name), currency="USD", source="list", date="2026-12-01")


def amount(*items: Item, **settings: object) -> float | None:
    return PriceBook(msgspec.convert(settings, PriceSettings), listed).price(items).amount


@pytest.mark.parametrize(
    ("items", "settings", "expected"),
    [
        pytest.param((LARGE, DISK), {}, 0.21, id="list"),
        pytest.param((LARGE, DISK), {"discount": 50}, 0.105, id="discount"),
        pytest.param((LARGE,), {"rate": 0.9, "currency": "EUR"}, 0.18, id="another-currency"),
        pytest.param((LARGE,), {"currency": "EUR"}, None, id="another-currency-without-a-rate"),
        pytest.param((LARGE,), {"currency": "USD"}, 0.2, id="the-same-currency"),
        pytest.param((LARGE,), {"currency": "EUR", "types": {"large": 0.1}}, 0.1, id="given-in-another-currency"),
        pytest.param((msgspec.structs.replace(LARGE, is_running=False),), {"currency": "EUR"}, 0.0, id="zero"),
        pytest.param((LARGE, DISK), {"types": {"large": 0.1}, "discount": 50}, 0.105, id="no-discount-on-given-prices"),
        pytest.param((DISK,), {"disks": {"*": 73.0}}, 1.0, id="every-kind-of-disk"),
        pytest.param((DISK,), {"disks": {"*": 73.0, "fast": 7.3}}, 0.1, id="one-kind-of-disk"),
        pytest.param((ADDRESS,), {"address": 0}, 0.0, id="free-address"),
        pytest.param((Item(kind=Kind.SNAPSHOT, name="s", quantity=MONTH_HOURS),), {"snapshots": 1}, 1.0, id="snapshot"),
        pytest.param(
            (msgspec.structs.replace(LARGE, market=SPOT),), {"types": {"large": {"spot": 0.05}}}, 0.05, id="spot"
        ),
        pytest.param((msgspec.structs.replace(LARGE, is_running=False),), {"types": {"large": 0.1}}, 0.0, id="stopped"),
        pytest.param(
            (msgspec.structs.replace(LARGE, is_running=False),),
            {"types": {"large": {"stopped": 0.1}}},
            0.1,
            id="charged-off",
        ),
        pytest.param((LARGE, Item(kind=Kind.OTHER, name="licence")), {}, None, id="unknown-part"),
        pytest.param((msgspec.structs.replace(DISK, quantity=None),), {}, None, id="unknown-size"),
        pytest.param((), {}, 0.0, id="nothing"),
    ],
)
def test_a_price_is_that_of_the_configuration_else_that_of_the_list(
    items: tuple[Item, ...], settings: dict[str, object], expected: float | None
) -> None:
    assert amount(*items, **settings) == (None if expected is None else pytest.approx(expected))


def test_a_sum_with_an_unknown_part_says_so() -> None:
    book = PriceBook(PriceSettings(), listed)
    price = book.price((LARGE, Item(kind=Kind.OTHER, name="licence")))
    assert (price.text, price.unknown, price.known, price.currency) == ("0.2000+?", ("licence",), 0.2, "USD")
    assert (UNKNOWN.text, UNKNOWN.amount, book.price(None).text) == ("?", None, "?")


def test_amounts_of_two_currencies_have_no_sum() -> None:
    euros = Item(kind=Kind.OTHER, name="licence", unit=UnitPrice(amount=1.0, currency="EUR"))
    assert PriceBook(PriceSettings(), listed).price((LARGE, euros)).amount is None
    assert (
        PriceBook(PriceSettings(types={"large": TypePrice(running=0.1)}, currency="EUR"), listed)
        .price((LARGE, euros))
        .text
        == "1.1000"
    )


def test_prices_are_computed_anew_after_the_list_has_changed() -> None:
    prices = {"large": 0.2}
    book = PriceBook(PriceSettings(), lambda item: UnitPrice(amount=prices.get(item.name)))
    before = book.price((LARGE,))
    prices["large"] = 0.3
    assert book.price((LARGE,)) is before
    book.changed()
    assert book.price((LARGE,)).text == "0.3000"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0000"), (12.3456, "12.3456"), (0.0104, "0.0104"), (0.0000116, "0.0000116")]
)
def test_a_small_price_has_as_many_decimals_as_it_needs(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_rate_needs_the_currency_that_it_leads_to() -> None:
    with pytest.raises(msgspec.ValidationError, match="rate: set currency, too"):
        msgspec.convert({"rate": 0.92}, PriceSettings)
