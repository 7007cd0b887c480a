"""Refuses attributes that EC2 would refuse together, before the call and by their names in the template; no I/O.

EC2 names parameters that no template has: "The parameter groupName cannot be used with the parameter subnet".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.attributes import is_spot

_WITH_IOPS = ("gp3", "io1", "io2")
_WITH_THROUGHPUT = ("gp3",)
"""Volume types that may have iops, and throughput (docs.aws.amazon.com, API_EbsBlockDevice, Iops and Throughput)."""


def check_combinations(requested: Mapping[str, str], *, defaults: Mapping[str, str]) -> None:
    """Refuse combinations that EC2 is known to refuse in every case.

    Args:
        requested: attributes of the PUBLIC_CLOUD section, completed by the defaults.
        defaults: `[ec2.defaults]`; the sentence says which attributes come from there.

    Raises:
        BadParameter: with the attributes and the remedy.
    """
    for names, reason in _clashes({name: value for name, value in requested.items() if value.strip()}):
        own = [name for name in names if requested.get(name) and requested.get(name) == defaults.get(name)]
        source = f" ([ec2.defaults] has {' and '.join(own)})" if own else ""
        raise BadParameter(f"{reason}{source}")


def _clashes(requested: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the attributes of each clash, and its sentence."""
    if "SECURITYGROUPS" in requested and "SUBNETID" in requested:
        # InvalidParameterCombination, "The parameter groupName cannot be used with the parameter subnet".
        yield (
            ("SECURITYGROUPS", "SUBNETID"),
            "SECURITYGROUPS and SUBNETID exclude each other: name ids in SECURITYGROUPIDS",
        )
    if "PRIVATEIP" in requested and "SUBNETID" not in requested:
        # "Specifying an IP address is only valid for VPC instances and thus requires a subnet in which to launch".
        yield ("PRIVATEIP",), "PRIVATEIP needs a SUBNETID: name the subnet in which the address lies"
    if requested.get("TENANCY", "").lower() == "host":
        yield from _clashes_with_hosts(requested)
    yield from _clashes_of_volumes(requested)


def _clashes_with_hosts(requested: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    if "PLACEMENTGROUP" in requested:
        # "You cannot launch an instance with a tenancy of 'host' into a placement group".
        yield (
            ("TENANCY", "PLACEMENTGROUP"),
            "TENANCY=host and PLACEMENTGROUP exclude each other: leave one of them out",
        )
    if is_spot(requested.get("SPOT", ""), requested.get("SPOTPRICE", "")):
        # docs.aws.amazon.com, API_SpotPlacement: the host tenancy is not supported for Spot Instances.
        yield (
            ("TENANCY", "SPOT", "SPOTPRICE"),
            "TENANCY=host and SPOT exclude each other: spot instances run on no dedicated host",
        )


def _clashes_of_volumes(requested: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    # "The parameter iops is not supported for gp2 volumes", and the same for throughput.
    kind = requested.get("VOLUMETYPE", "").lower()
    for name, kinds in (("VOLUMEIOPS", _WITH_IOPS), ("VOLUMETHROUGHPUT", _WITH_THROUGHPUT)):
        if kind in _KINDS and kind not in kinds and name in requested:
            yield ("VOLUMETYPE", name), f"{name} and VOLUMETYPE={kind} exclude each other: {_only(kinds)}"
    for item in requested.get("BLOCKDEVICEMAPPING", "").split():
        kind, iops = [*item.partition("=")[2].split(":"), "", "", "", "", ""][3:5]
        if iops and kind.lower() in _KINDS and kind.lower() not in _WITH_IOPS:
            yield (
                ("BLOCKDEVICEMAPPING",),
                f"BLOCKDEVICEMAPPING: {item[:40]} has iops for a {kind} volume: {_only(_WITH_IOPS)}",
            )


_KINDS = frozenset({"standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"})
"""The volume types of today; combinations with a later type are left to EC2."""


def _only(kinds: tuple[str, ...]) -> str:
    return f"only {', '.join(kinds)} can have that"
