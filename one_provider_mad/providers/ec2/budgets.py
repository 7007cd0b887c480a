"""The token buckets by which EC2 limits an account's calls: Amazon's own for a new account, and `[ec2.budgets]`.

From docs.aws.amazon.com, "Request throttling for the Amazon EC2 API": every action has a bucket of requests, and some
have a bucket of resources as well, from which a call takes one token for each instance. A call of ours is about one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct


class Tokens(NamedTuple):
    """One token bucket of an account in a region.

    Attributes:
        burst: calls at once.
        per_second: calls a second in the long run.
    """

    burst: float
    per_second: float


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What Amazon allows this account in the region, for one action such as `RunInstances`."""

    burst: Annotated[float, Meta(ge=1)]
    """Calls at once: the size of the action's request token bucket."""

    per_second: Annotated[float, Meta(gt=0)]
    """Calls a second in the long run: the bucket's refill rate."""

    resource_burst: Annotated[float, Meta(ge=1)] | None = None
    """Instances at once: the size of the resource token bucket, which RunInstances, StartInstances, StopInstances and
    TerminateInstances have besides. Not set: 1,000, as for a new account."""

    resource_per_second: Annotated[float, Meta(gt=0)] | None = None
    """Instances a second in the long run. Not set, as for a new account: 2 for RunInstances and StartInstances, 20 for
    StopInstances and TerminateInstances."""


READS = Tokens(burst=100, per_second=20)
WRITES = Tokens(burst=50, per_second=5)
SPECIAL: Mapping[str, Tokens] = {
    "RunInstances": Tokens(burst=5, per_second=2),
    "StartInstances": Tokens(burst=5, per_second=2),
    "GetMetricData": Tokens(burst=50, per_second=50),
}
"""EC2's and CloudWatch's request buckets for accounts without an increase."""

RESOURCES: Mapping[str, Tokens] = {
    "RunInstances": Tokens(burst=1000, per_second=2),
    "StartInstances": Tokens(burst=1000, per_second=2),
    "StopInstances": Tokens(burst=1000, per_second=20),
    "TerminateInstances": Tokens(burst=1000, per_second=20),
}
"""EC2's resource buckets for accounts without an increase; other actions of ours have none."""

_NAMES = """
AssociateAddress AttachNetworkInterface AttachVolume AuthorizeSecurityGroupEgress AuthorizeSecurityGroupIngress
CreateNetworkInterface CreateSecurityGroup CreateTags CreateVolume DeleteNetworkInterface DeleteSecurityGroup
DeleteVolume DescribeAddresses DescribeImages DescribeInstanceStatus DescribeInstanceTypes DescribeInstances
DescribeNetworkAcls DescribeNetworkInterfaces DescribeRouteTables DescribeSecurityGroups DescribeSnapshots
DescribeSpotInstanceRequests DescribeSpotPriceHistory DescribeSubnets DescribeVolumes DescribeVpcs
DetachNetworkInterface DetachVolume GetCallerIdentity GetConsoleOutput GetConsoleScreenshot GetMetricData
GetPasswordData GetProducts ModifyInstanceAttribute ModifyNetworkInterfaceAttribute ModifyVolume RebootInstances
RevokeSecurityGroupEgress RevokeSecurityGroupIngress RunInstances StartInstances StopInstances TerminateInstances
"""

ACTIONS = frozenset(_NAMES.split())
"""Every action that the drivers and `one-provider` call."""


def class_of(action: str) -> str:
    """Return the class of calls that EC2 slows down together; CloudWatch and STS are separate services."""
    if action.startswith("Get"):
        return action
    return "read" if action.startswith("Describe") else "write"


def buckets_of(action: str, budgets: Mapping[str, Budget]) -> list[Tokens]:
    """Return the action's request bucket, and its resource bucket if it has one; `budgets` replace Amazon's own."""
    own, resources = budgets.get(action), RESOURCES.get(action)
    usual = READS if class_of(action) == "read" else WRITES
    buckets = [Tokens(own.burst, own.per_second) if own else SPECIAL.get(action, usual)]
    if resources is not None:
        buckets.append(_raised(resources, own) if own else resources)
    return buckets


def _raised(usual: Tokens, own: Budget) -> Tokens:
    return Tokens(own.resource_burst or usual.burst, own.resource_per_second or usual.per_second)


def check_budgets(budgets: Mapping[str, Budget]) -> None:
    """Raise ValueError for an entry of `[ec2.budgets]` that would have no effect."""
    for action, budget in budgets.items():
        if action not in ACTIONS:
            near = difflib.get_close_matches(action, ACTIONS, n=1)
            raise ValueError(f"budgets: the driver calls no action {action}" + _question(near))
        if action not in RESOURCES and (budget.resource_burst or budget.resource_per_second):
            raise ValueError(f"budgets: {action} has no resource bucket, remove resource_burst and resource_per_second")


def _question(near: list[str]) -> str:
    return f", did you mean {near[0]}?" if near else ""
