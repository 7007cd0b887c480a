"""Facts of an EBS volume on which its price depends; no I/O."""

from __future__ import annotations

from one_provider_mad.domain import Value, whole_number
from one_provider_mad.safe_xml import Element, text_of

UNKNOWN_VOLUME = "volume"
"""Kind of a volume of which nothing is known."""


class VolumeFacts(Value, frozen=True, kw_only=True, gc=False):
    """What a volume's price depends on.

    Attributes:
        kind: its type, `gp3`.
        size: GiB; None when unknown.
        iops: provisioned IOPS, 0 for none or the usual ones.
        throughput: provisioned MiB/s, 0 for none or the usual one.
    """

    kind: str
    size: float | None
    iops: int = 0
    throughput: int = 0


UNKNOWN_FACTS = VolumeFacts(kind=UNKNOWN_VOLUME, size=None)
"""A volume that EC2 has not yet been asked about."""


def read_facts(element: Element, *, size: str) -> VolumeFacts:
    """Return the facts in an element of a volume (`size`) or of an AMI's mapping (`volumeSize`).

    Args:
        element: its children are `volumeType`, `iops`, `throughput` and the one with the GiB.
        size: name of the child with the GiB.
    """
    return VolumeFacts(
        kind=text_of(element.find("volumeType")) or UNKNOWN_VOLUME,
        size=whole_number(text_of(element.find(size))),
        iops=whole_number(text_of(element.find("iops"))) or 0,
        throughput=whole_number(text_of(element.find("throughput"))) or 0,
    )
