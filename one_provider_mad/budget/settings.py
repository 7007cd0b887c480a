"""The table `[budget]`: the most that a cloud, a user or a group may use and cost."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_provider_mad.domain import VmOwner

Amount = Annotated[float, Meta(ge=0)]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that one user or group may use and cost; a limit that is not set does not exist."""

    max_per_hour: Amount | None = None
    """Units of currency an hour for all instances together, stopped ones with what they cost then."""

    max_per_month: Amount | None = None
    """Units of currency for a calendar month in UTC: what was booked, and what runs until its end."""

    max_instances: Annotated[int, Meta(ge=0)] | None = None
    """Instances, stopped ones included."""

    max_price_per_vm: Amount | None = None
    """Units of currency an hour for one instance while it runs, with its disks."""

    max_disk_gb: Amount | None = None
    """GiB of all disks together, those of stopped instances included."""

    allowed_types: tuple[str, ...] | None = None
    """Instance types that a VM may get, or be started with; `*` stands for any letters: `["t3.*", "m5.large"]`.
    At a partner: remote templates as VMs name them, `burst-small`, or `template-7` for number 7."""

    max_spot_price: Amount | None = None
    """Units of currency an hour for the processor and memory of one spot instance."""


class BudgetSettings(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[budget]`: limits for all instances of this NAME, and for users and groups."""

    share: Annotated[str, Meta(pattern="^([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$")] = ""
    """Name of a budget that several NAMEs share: each counts the instances of all. Give each the same limits."""

    unknown_price: Literal["refuse", "allow"] = "refuse"
    """Whether something may be created or started whose price is unknown, where a limit needs prices; with `allow` it
    counts as what is known of it."""

    at_limit: Literal["refuse", "poweroff"] = "refuse"
    """What happens once the costs so far reach a max_per_month: `refuse` admits nothing more; `poweroff` also powers
    off the running VMs that the limit counts, the newest first, through OpenNebula, where a stopped instance costs
    less. Each VM is warned in its log within the hour before."""

    users: dict[str, Limits] = {}
    """Limits of single users, by their name in OpenNebula."""

    groups: dict[str, Limits] = {}
    """Limits of groups, by their name in OpenNebula."""

    def least_spot_price(self, owner: VmOwner) -> float | None:
        """Return the least `max_spot_price` that applies to a VM of this owner; None where none is set."""
        limits = (self, self.users.get(owner.user), self.groups.get(owner.group))
        figures = [each.max_spot_price for each in limits if each is not None and each.max_spot_price is not None]
        return min(figures, default=None)
