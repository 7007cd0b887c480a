"""Self-check of EC2 for `one-provider check`: the clock, the rights, and the defaults. Nothing is changed.

With DryRun=true EC2 answers DryRunOperation when the call would be allowed, else UnauthorizedOperation
(docs.aws.amazon.com, API_RunInstances, DryRun). Quotas are not checked: EC2's API does not
return them reliably, only Service Quotas, another API, does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from one_provider_mad.domain import Identity, VmId
from one_provider_mad.errors import PermissionDenied, ProviderError
from one_provider_mad.mappings import Mappings
from one_provider_mad.pricing.selection import AUTO
from one_provider_mad.providers.clock import check_clock
from one_provider_mad.providers.ec2.attributes import words
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.launch import Launch, run_instances
from one_provider_mad.providers.ec2.launch_disks import SNAPSHOT
from one_provider_mad.providers.ec2.price_checks import price_checks
from one_provider_mad.providers.ec2.query import numbered, pairs, tagged
from one_provider_mad.providers.ec2.refusals import DECODE
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.safe_xml import elements_at, text_of

SIGNATURE_SECONDS = 300.0
"""The age limit of a signed request (docs.aws.amazon.com, "Troubleshoot signed requests for AWS APIs")."""

NO_INSTANCE = "i-00000000000000000"
"""An id for dry runs while there is no instance of ours."""

_LISTINGS = ("DescribeImages", "DescribeVolumes", "DescribeInstanceStatus", "DescribeSpotInstanceRequests")
_LEFTOVERS = ("DescribeSnapshots", "DescribeAddresses")
_CHANGES = ("StartInstances", "StopInstances", "RebootInstances", "TerminateInstances")

_DONE, _HELD, _REFUSED = "", "DryRunOperation", "UnauthorizedOperation"
_NOT_THERE = (
    *("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "InvalidNetworkInterfaceID.NotFound"),
    *("InvalidGroup.NotFound", "InvalidGroupId.Malformed", "InvalidPermission.NotFound"),
)
"""Codes of answers about an instance, interface or group that is not there, which show that the call is allowed."""

_NO_GROUP, _NO_INTERFACE = "sg-00000000000000000", "eni-00000000000000000"
_RULE = {
    "IpPermissions.1.IpProtocol": "tcp",
    "IpPermissions.1.FromPort": "22",
    "IpPermissions.1.ToPort": "22",
    "IpPermissions.1.IpRanges.1.CidrIp": "192.0.2.1/32",
}

_CODE = re.compile(rf"\(\w+, (?P<code>[\w.]+)\)(; {re.escape(DECODE)})?$")
"""Finds EC2's code in a sentence that refusals.refusal wrote."""


class Checks:
    """Checks everything that can be checked without a change.

    Args:
        client: the connection to EC2.
        settings: the table `[ec2]`.
        owner: the owner in the tags of the dry runs.
        mappings: `[images]` and `[networks]`, whose images, subnets and groups are looked for.
        types: those of the defaults, or the one that stands for auto.
        instance: an instance of ours for dry runs, "" for none.
    """

    def __init__(
        self,
        client: Client,
        settings: Ec2Settings,
        *,
        owner: str,
        mappings: Mappings,
        types: Sequence[str] = (),
        instance: str = "",
    ) -> None:
        self._client = client
        self._settings = settings
        self._owner = owner
        self._mappings = mappings
        self._named = types
        self._instance = instance

    async def run(self) -> Sequence[CheckResult]:
        """Run all checks; a failure is a finding."""
        dry = await self._try("DescribeInstances", {})
        clock = check_clock(self._client.answered, peer="EC2", at_most=SIGNATURE_SECONDS)
        return [
            *clock,
            *await self._listing_rights(dry),
            *await self._change_rights(dry),
            *await self._image(),
            *await self._types(),
            *await self._mapped(),
            *await price_checks(self._client, self._settings),
        ]

    # Rights

    async def _listing_rights(self, dry: str) -> list[CheckResult]:
        """Check the rights to list. A compatible cloud may answer in spite of DryRun: then the right is held."""
        tried = [("DescribeInstances", dry), *[(name, await self._try(name, {})) for name in _LISTINGS]]
        leftovers = [name for name in _LEFTOVERS if await self._try(name, {}) == _REFUSED]
        findings = _rights("rights to list", [(name, _HELD if code == _DONE else code) for name, code in tried])
        if leftovers:
            remedy = "allow it, or one-provider orphans does not report leftovers of that kind"
            findings.append(_unknown("rights to list", f"{', '.join(leftovers)} not held", remedy))
        return findings

    async def _change_rights(self, dry: str) -> list[CheckResult]:
        """Check the rights to change and to create, but not where a dry run would be carried out."""
        if dry == _DONE:
            return [_unknown("rights to change", "were not tried: this cloud carries dry runs out")]
        changes = await self._changes()
        findings = self._change_results(changes)
        # An endpoint that is not Amazon's must first prove that it does not carry out a dry run.
        is_safe = not self._settings.endpoint_url or all(code == _HELD for _, code in changes)
        return [
            *findings,
            *(await self._create_rights() if is_safe else [_unknown("right to create", "was not tried")]),
            *(await self._group_rights() if is_safe and self._mappings.security_groups.mirror else []),
        ]

    async def _changes(self) -> list[tuple[str, str]]:
        # Only Amazon is trusted with a real instance.
        named = NO_INSTANCE if self._settings.endpoint_url else self._instance or NO_INSTANCE
        tags = {"ResourceId.1": named, **pairs("Tag", self._identity.tags())}
        tried = [(name, await self._try(name, {"InstanceId.1": named})) for name in _CHANGES]
        return [*tried, ("CreateTags", await self._try("CreateTags", tags))]

    def _change_results(self, changes: Sequence[tuple[str, str]]) -> list[CheckResult]:
        refused = [name for name, code in changes if code == _REFUSED]
        if self._instance or not refused:
            return _rights("rights to change", changes)
        remedy = "a policy with conditions on tags refuses that, too: check again when a VM of ours runs"
        found = f"not known: {', '.join(refused)} refused for an instance that does not exist"
        return [_unknown("rights to change", found, remedy)]

    async def _create_rights(self) -> list[CheckResult]:
        defaults = self._settings.defaults
        image, types = defaults.get("AMI", ""), self._named
        if not image or not types:
            remedy = "set AMI and INSTANCETYPE in [ec2.defaults] to have it tried"
            return [_unknown("right to create", "was not tried", remedy)]
        subnets = words(defaults.get("SUBNETID", ""))
        subnet = {"SubnetId": subnets[0]} if subnets else {}
        launch = Launch(parameters={"ImageId": image, "InstanceType": types[0], **subnet})
        requested = run_instances(launch, identity=self._identity, token="one-provider-check")  # noqa: S106
        return _rights("right to create", [("RunInstances", await self._try("RunInstances", requested))])

    async def _group_rights(self) -> list[CheckResult]:
        """Check the rights for `mirror = true`, on a group that is not there: conditions on tags refuse that, too."""
        what, group = "rights to security groups", {"GroupId": _NO_GROUP}
        new = {"GroupName": "one-provider check", "GroupDescription": "one-provider check"}
        calls = {
            "DescribeSecurityGroups": {},
            "DescribeSubnets": {},
            "DescribeNetworkInterfaces": {},
            "CreateSecurityGroup": {**new, **tagged("TagSpecification.1", "security-group", self._identity.tags())},
            "AuthorizeSecurityGroupIngress": {**group, **_RULE},
            "AuthorizeSecurityGroupEgress": {**group, **_RULE},
            "RevokeSecurityGroupIngress": {**group, **_RULE},
            "RevokeSecurityGroupEgress": {**group, **_RULE},
            "DeleteSecurityGroup": group,
            "ModifyNetworkInterfaceAttribute": {"NetworkInterfaceId": _NO_INTERFACE, "SecurityGroupId.1": _NO_GROUP},
        }
        tried = [(action, await self._try(action, requested)) for action, requested in calls.items()]
        unknown = [name for name, code in tried if code == _REFUSED and not name.startswith(("Describe", "Create"))]
        findings = _rights(what, [each for each in tried if each[0] not in unknown])
        if unknown:
            found = f"not known: {', '.join(unknown)} refused for a group or interface that does not exist"
            remedy = "fine if the policy has conditions on tags, as in docs/ec2.md; else allow them"
            findings.append(_unknown(what, found, remedy))
        return findings

    async def _try(self, action: str, requested: Mapping[str, str]) -> str:
        """Return EC2's code (DryRunOperation: allowed), another error's sentence, or "" for a call carried out."""
        try:
            await self._client.call(action, {**requested, "DryRun": "true"}, read=lambda _: None)
        except ProviderError as error:
            found = _CODE.search(str(error))
            if found and found["code"] in (_HELD, _REFUSED, *_NOT_THERE):
                return found["code"]
            return _REFUSED if isinstance(error, PermissionDenied) else str(error)
        return _DONE

    @property
    def _identity(self) -> Identity:
        return Identity(owner=self._owner, vm_id=VmId(0), stime=0, seq=0, host_id=-1)

    # Defaults

    async def _image(self) -> list[CheckResult]:
        image = self._settings.defaults.get("AMI", "")
        if not image:
            return []
        try:
            state = await self._client.call(
                "DescribeImages", {"ImageId.1": image}, read=lambda root: text_of(root.find(".//imageState"))
            )
        except ProviderError as error:
            return [_wrong("default image", str(error), f"correct AMI in [ec2.defaults]: {image}")]
        if state != "available":
            remedy = "correct AMI in [ec2.defaults]: the image was removed, or is not shared with this account"
            return [_wrong("default image", f"{image} is {state or 'not there'}", remedy)]
        return [CheckResult(what="default image", is_well=True, found=f"{image} is available")]

    async def _types(self) -> list[CheckResult]:
        types, mend = self._named, "correct INSTANCETYPE in [ec2.defaults]"
        if not types:
            return []
        try:
            found = await self._client.call(
                "DescribeInstanceTypes",
                numbered("InstanceType", types),
                read=lambda root: {text_of(each) for each in elements_at(root, "instanceTypeSet/item/instanceType")},
            )
        except PermissionDenied:
            return [_unknown("default type", "was not checked", "allow ec2:DescribeInstanceTypes")]
        except ProviderError as error:
            return [_wrong("default type", str(error), mend)]
        if missing := [each for each in types if each not in found]:
            return [_wrong("default type", f"{', '.join(missing)} not available in {self._settings.region}", mend)]
        chosen = " for a VM of 1 core and 1 GiB, by auto" if self._settings.defaults.get("INSTANCETYPE") == AUTO else ""
        return [CheckResult(what="default type", is_well=True, found=f"{', '.join(types)} available{chosen}")]

    # Images and networks

    async def _mapped(self) -> list[CheckResult]:
        """Check that EC2 has each image, snapshot, subnet and group of `[images]` and `[networks]`."""
        images = {name: entry.image for name, entry in self._mappings.images.items()}
        networks = self._mappings.networks
        subnets = {name: entry.subnet for name, entry in networks.items()}
        groups = {name: ",".join(entry.security_groups) for name, entry in networks.items()}
        snapshots = {name: image for name, image in images.items() if image.startswith(SNAPSHOT)}
        amis = {name: image for name, image in images.items() if name not in snapshots}
        findings = [
            *await self._found("images", amis, "DescribeImages", "ImageId"),
            *await self._found("images", snapshots, "DescribeSnapshots", "SnapshotId"),
            *await self._found("networks", subnets, "DescribeSubnets", "SubnetId"),
            *await self._found("networks", groups, "DescribeSecurityGroups", "GroupId"),
        ]
        wrong = [each for each in findings if each.is_well is not True]
        well = [
            CheckResult(what=f"[{table}]", is_well=True, found=f"EC2 has all that {len(entries)} entries name")
            for table, entries in (("images", images), ("networks", networks))
            if entries and not any(each.what.startswith(f"[{table}") for each in wrong)
        ]
        return [*well, *wrong]

    async def _found(self, table: str, entries: Mapping[str, str], action: str, parameter: str) -> list[CheckResult]:
        """Look for what each entry names, in a call for each: EC2 refuses a call for the first one that is missing."""
        findings = []
        for name, named in entries.items():
            if not (wanted := words(named)):
                continue
            try:
                await self._client.call(action, numbered(parameter, wanted), read=lambda _: None)
            except PermissionDenied:
                findings.append(_unknown(f"[{table}]", "was not checked", f"allow ec2:{action}"))
                break
            except ProviderError as error:
                remedy = f"correct [{table}.{name}]: {', '.join(wanted)}"
                findings.append(_wrong(f"[{table}.{name}]", str(error), remedy))
        return findings


def _rights(what: str, tried: Iterable[tuple[str, str]]) -> list[CheckResult]:
    """Return one finding for all rights that are held, and one for each of the others."""
    held, findings = [], []
    for action, code in tried:
        if code == _HELD or code in _NOT_THERE:
            held.append(action)
        elif code == _REFUSED:
            findings.append(_wrong(what, f"{action} is not held", f"allow ec2:{action}: docs/ec2.md has the policy"))
        elif code == _DONE:
            findings.append(_wrong(what, f"{action} was carried out in spite of DryRun", "undo it, and tell the cloud"))
        else:
            findings.append(_wrong(what, code, "correct the cause: docs/ec2.md explains the codes"))
    well = [CheckResult(what=what, is_well=True, found=f"{', '.join(held)}: held")] if held else []
    return [*well, *findings]


def _wrong(what: str, found: str, remedy: str) -> CheckResult:
    return CheckResult(what=what, is_well=False, found=found, remedy=remedy)


def _unknown(what: str, found: str, remedy: str = "") -> CheckResult:
    return CheckResult(what=what, is_well=None, found=found, remedy=remedy)
