"""The table `[prices]`: prices that win over the cloud's own list."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Amount = Annotated[float, Meta(ge=0)]

SizeCheck = Literal["warn", "refuse", "off"]
"""What becomes of a VM whose template names an instance type that is smaller, or far larger, than CPU and MEMORY."""


class TypePrice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price of an instance type where it differs by market or state."""

    running: Amount | None = None
    """Units of currency an hour while the instance runs."""

    stopped: Amount | None = None
    """Units of currency an hour while it is stopped, without its disks; unset: what the cloud charges then."""

    spot: Amount | None = None
    """Units of currency an hour for an instance of the spot market."""


class PriceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[prices]`."""

    currency: str = ""
    """ISO 4217 code of the prices here and in costs, such as `EUR`; empty: the cloud's."""

    rate: Annotated[float, Meta(gt=0)] | None = None
    """Units of `currency` for one unit of the cloud's currency, if they differ. Unset, what the cloud's list has in
    another currency is unknown."""

    discount: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Per cent by which all prices of the cloud's own list are lower for this account; prices given here stay."""

    types: dict[str, Amount | TypePrice] = {}
    """Price of an instance type: units of currency an hour, or a table with `running`, `stopped`, `spot`."""

    disks: dict[str, Amount] = {}
    """Price of a kind of disk: units of currency for a GiB and month of 730 hours; `*` for every other kind."""

    address: Amount | None = None
    """Price of a public address: units of currency an hour."""

    snapshots: Amount | None = None
    """Price of snapshots: units of currency for a GiB and month of 730 hours."""

    def __post_init__(self) -> None:
        """Refuse a rate to a currency without a name: the prices would bear the name of the cloud's."""
        if self.rate is not None and not self.currency:
            raise ValueError("rate: set currency, too: the code of the currency that prices are converted to")
