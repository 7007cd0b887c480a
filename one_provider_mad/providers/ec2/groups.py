"""Security groups of ours in EC2: one for each of OpenNebula's and VPC, shared by all VMs with it.

Name and tags follow from owner and number, so that several drivers find the same group. Rules are authorized before
others are revoked: what both the old and the new rules allow passes at any time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from one_provider_mad.domain import TAG_PREFIX, Value
from one_provider_mad.errors import BadParameter, ProviderError, QuotaExceeded, WrongState
from one_provider_mad.providers.ec2.client import MOST_VALUES, Client
from one_provider_mad.providers.ec2.group_rules import MirroredGroup, Rule, permissions, read_rules
from one_provider_mad.providers.ec2.instances import read_tags
from one_provider_mad.providers.ec2.query import filtered, numbered, tagged
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import ProviderContext, UnusedResource
from one_provider_mad.safe_xml import Element, elements_at, text_of

GROUP_TAG = f"{TAG_PREFIX}SECURITY_GROUP"
"""Tag of a security group of ours: the number of OpenNebula's."""

_OWNER_TAG = f"{TAG_PREFIX}OWNER"

_PASSING = (
    "InvalidGroup.NotFound",
    "InvalidGroup.Duplicate",
    "InvalidPermission.Duplicate",
    "InvalidPermission.NotFound",
)
"""Codes of refusals that a second look resolves: another driver was faster, or EC2 does not show a new group yet."""

_MOST_TRIES = 6
_PAUSE = 1.0
"""Longest pause in seconds between two tries."""

_SOON = 120.0
"""Seconds for which a group that was looked for counts as used: an instance or interface is about to get it."""

_Result = TypeVar("_Result")


class _Found(Value, frozen=True, kw_only=True):
    """A security group of EC2.

    Attributes:
        group_id: EC2's id.
        vpc: its VPC.
        tags: its tags.
        rules: its present rules.
    """

    group_id: str
    vpc: str
    tags: Mapping[str, str]
    rules: frozenset[Rule]


class _Applied(Value, frozen=True, kw_only=True):
    """What was last applied to a group of ours by this process.

    Attributes:
        group: the group as it was to be.
        group_id: EC2's id.
        begun_at: when that began, by the loop's clock.
    """

    group: MirroredGroup
    group_id: str
    begun_at: float


class Groups:
    """The security groups of ours in one account.

    Args:
        client: the connection to the cloud.
        context: names the owner.
        settings: the table `[ec2]`.
    """

    def __init__(self, client: Client, context: ProviderContext, settings: Ec2Settings) -> None:
        self._client = client
        self._owner = context.owner
        self._tags = settings.tags
        self._pause = min(settings.watch_interval, _PAUSE)
        self._vpcs: dict[str, str] = {}
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._applied: dict[tuple[str, str], _Applied] = {}

    async def vpc_of(self, subnet: str) -> str:
        """Return the VPC of a subnet, of "" the account's default one.

        Raises:
            BadParameter: there is no such subnet, or the account has no default VPC.
        """
        if subnet not in self._vpcs:
            asked = numbered("SubnetId", [subnet]) if subnet else filtered({"default-for-az": ["true"]})
            vpcs = await self._client.call("DescribeSubnets", asked, read=_read_vpcs)
            if not vpcs:
                raise BadParameter("EC2: the account has no default VPC: name a subnet in [networks]")
            self._vpcs[subnet] = vpcs[0]
        return self._vpcs[subnet]

    async def put(self, groups: Sequence[MirroredGroup], vpc: str) -> dict[str, str]:
        """Make missing groups, bring the rules of all to what they are to be, and return EC2's ids by number.

        Raises:
            BadParameter: EC2 refuses a group or its rules: a limit, or another's group has its name.
            ProviderError: a later call may succeed.
        """
        return {group.number: await self._put_one(group, vpc) for group in groups}

    async def _put_one(self, group: MirroredGroup, vpc: str) -> str:
        key, asked_at = (vpc, group.number), asyncio.get_running_loop().time()
        async with self._locks[key]:
            latest = self._applied.get(key)
            if latest and latest.group == group and latest.begun_at >= asked_at:
                return latest.group_id  # another action has just done the same
            begun_at = asyncio.get_running_loop().time()
            group_id = await self.retried(lambda: self._apply(group, vpc))
            self._applied[key] = _Applied(group=group, group_id=group_id, begun_at=begun_at)
            return group_id

    async def retried(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Make a call that names groups of ours, and make it again while EC2 does not know one or others change it."""
        for _ in range(_MOST_TRIES - 1):
            with suppress(_PassingError):
                return await _noting(call())
            await asyncio.sleep(self._pause)
        return await call()

    async def known(self, numbers: Collection[str], vpc: str) -> list[str]:
        """Return EC2's ids of groups that were put before, in the order of their numbers.

        Raises:
            BadParameter: one is not there.
        """
        found = [await self._find(number, vpc) for number in numbers]
        if missing := [number for number, each in zip(numbers, found, strict=True) if each is None]:
            raise BadParameter(f"EC2 has no group for security group {', '.join(missing)}: attach the interface again")
        return [each.group_id for each in found if each]

    async def default(self, vpc: str) -> str:
        """Return the id of the group that EC2 itself gives to interfaces in a VPC."""
        asked = filtered({"vpc-id": [vpc], "group-name": ["default"]})
        found = await self._client.call("DescribeSecurityGroups", asked, read=_read_groups)
        if not found:
            raise BadParameter(f"EC2: {vpc} has no default security group")
        return found[0].group_id

    async def remove_unused(self) -> None:
        """Delete the groups of ours that no interface has.

        Raises:
            ProviderError: EC2 refused a listing or a deletion; a group that is in use again is left without an error.
        """
        for group in await self._unused():
            key = (group.vpc, group.tags[GROUP_TAG])
            async with self._locks[key]:
                await self._delete(group.group_id)
                self._applied.pop(key, None)

    async def unused(self) -> list[UnusedResource]:
        """Return the groups of ours that no interface has. Raises ProviderError."""
        return [
            UnusedResource(
                part_id=group.group_id,
                kind="security group",
                detail=f"for security group {group.tags[GROUP_TAG]} in {group.vpc}",
            )
            for group in await self._unused()
        ]

    async def _unused(self) -> list[_Found]:
        asked = filtered({f"tag:{_OWNER_TAG}": [self._owner], "tag-key": [GROUP_TAG]})
        pages = self._client.pages("DescribeSecurityGroups", asked, read=_read_groups)
        ours = [group async for page in pages for group in page]
        used = await self._used([group.group_id for group in ours])
        return [
            group
            for group in ours
            if group.group_id not in used and not self._is_wanted_soon((group.vpc, group.tags[GROUP_TAG]))
        ]

    def _is_wanted_soon(self, key: tuple[str, str]) -> bool:
        latest, now = self._applied.get(key), asyncio.get_running_loop().time()
        return self._locks[key].locked() or (latest is not None and now - latest.begun_at < _SOON)

    async def _used(self, group_ids: Sequence[str]) -> set[str]:
        used: set[str] = set()
        for at in range(0, len(group_ids), MOST_VALUES):
            asked = filtered({"group-id": group_ids[at : at + MOST_VALUES]})
            async for page in self._client.pages("DescribeNetworkInterfaces", asked, read=_read_used):
                used |= page
        return used

    async def _delete(self, group_id: str) -> None:
        try:
            await self._client.call("DeleteSecurityGroup", {"GroupId": group_id}, read=lambda _: None)
        except (BadParameter, WrongState) as error:
            if not _has_code(error, "DependencyViolation", "InvalidGroup.NotFound", "InvalidGroup.InUse"):
                raise

    async def _apply(self, group: MirroredGroup, vpc: str) -> str:
        try:
            found = await self._find(group.number, vpc)
            if found is None:
                await self._create(group, vpc)
                found = await self._find(group.number, vpc)
            if found is None:
                raise BadParameter(f"EC2: group {group.number} is not shown yet (CreateSecurityGroup, {_PASSING[0]})")
            await self._change(found, frozenset(group.rules))
        except QuotaExceeded as error:
            # That is no limit of instances, by which the scheduler would count the whole cloud as full.
            raise BadParameter(f"security group {group.number}: {error}") from error
        return found.group_id

    async def _find(self, number: str, vpc: str) -> _Found | None:
        asked = filtered({"vpc-id": [vpc], "group-name": [self._name(number)]})
        found = await self._client.call("DescribeSecurityGroups", asked, read=_read_groups)
        if not found:
            return None
        if found[0].tags.get(_OWNER_TAG) != self._owner:
            raise BadParameter(
                f"EC2's security group {found[0].group_id} is named {self._name(number)} and lacks the tag"
                f" {_OWNER_TAG}={self._owner}: tag it, or delete it"
            )
        return found[0]

    def _name(self, number: str) -> str:
        return f"OpenNebula {self._owner} {number}"

    async def _create(self, group: MirroredGroup, vpc: str) -> None:
        tags = {**self._tags, "Name": (group.name or f"one-{group.number}")[:256]}
        tags |= {_OWNER_TAG: self._owner, GROUP_TAG: group.number}
        call = {
            "GroupName": self._name(group.number),
            "GroupDescription": f"OpenNebula security group {group.number} of {self._owner}",
            "VpcId": vpc,
            **tagged("TagSpecification.1", "security-group", tags),
        }
        await self._client.call("CreateSecurityGroup", call, read=lambda _: None)

    async def _change(self, found: _Found, wanted: frozenset[Rule]) -> None:
        for word, rules in (("Authorize", wanted - found.rules), ("Revoke", found.rules - wanted)):
            for direction, is_inbound in (("Ingress", True), ("Egress", False)):
                if chosen := [rule for rule in rules if rule.is_inbound is is_inbound]:
                    call = {"GroupId": found.group_id, **permissions(chosen)}
                    await self._client.call(f"{word}SecurityGroup{direction}", call, read=lambda _: None)


class _PassingError(Exception):
    """A refusal that a second look resolves."""


async def _noting(call: Awaitable[_Result]) -> _Result:
    try:
        return await call
    except ProviderError as error:
        if _has_code(error, *_PASSING):
            raise _PassingError from error
        raise


def _has_code(error: ProviderError, *codes: str) -> bool:
    """Return True for a refusal with one of these codes, which refusals.refusal puts into its sentence."""
    return any(f", {code})" in str(error) for code in codes)


def _read_vpcs(root: Element) -> list[str]:
    return [text_of(item.find("vpcId")) for item in elements_at(root, "subnetSet/item")]


def _read_groups(root: Element) -> list[_Found]:
    return [
        _Found(
            group_id=text_of(item.find("groupId")),
            vpc=text_of(item.find("vpcId")),
            tags=read_tags(elements_at(item, "tagSet/item")),
            rules=read_rules(item),
        )
        for item in elements_at(root, "securityGroupInfo/item")
    ]


def _read_used(root: Element) -> set[str]:
    """Return the ids of all groups in a DescribeNetworkInterfaces answer."""
    return {text_of(each) for each in elements_at(root, "networkInterfaceSet/item/groupSet/item/groupId")}
