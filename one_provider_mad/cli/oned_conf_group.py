"""The steps of `one-provider oned-conf` that say who may use the cloud: cluster, VDC and quota of a group.

OpenNebula makes the ACL rules of a VDC itself: `@GROUP HOST/%CLUSTER MANAGE` and the like for each cluster and group in
it (src/vdc/Vdc.cc). A new group is put into the default VDC, 0 (src/rm, Group allocate).
"""

from __future__ import annotations

from collections.abc import Iterator

from one_provider_mad.cli.oned_conf_block import Block


def fence_step() -> Block:
    """Return the step that keeps ordinary VMs at home."""
    return Block(
        what="Once for all clouds: ordinary VMs stay at home. The default VDC (0), which holds every group, has ALL"
        " clusters of this zone (0) and gets those at home instead. Before you remove ALL, add each further cluster at"
        " home by a line like the first, and datastores and networks outside any cluster by onevdc adddatastore and"
        " addvnet. Do the same in other VDCs with ALL",
        text="onevdc addcluster 0 0 default\nonevdc delcluster 0 0 ALL",
        is_once=True,
    )


def users_step(name: str) -> Block:
    """Return the step for a group whose users may use the cloud beside home."""
    return Block(
        what="The users of this group may use the cloud (oneuser addgroup USER GROUP), and those of each group that you"
        f" add to its VDC by onevdc addgroup {name} GROUP. Their ordinary VMs without an image or a network may be"
        " placed there, too, as may those of oneadmin's group: policy.without_section decides whether an instance is"
        f" created for them. one-provider oned-conf {name} --group GROUP gives a group nothing but this cloud",
        text=f"onegroup create {name}\nonevdc create {name}\n"
        f"onevdc addcluster {name} 0 {name}\nonevdc addgroup {name} {name}",
    )


def group_steps(name: str, group: str) -> Iterator[Block]:
    """Yield the steps with which a group may use this cloud and nothing else, within a quota.

    Args:
        name: NAME of the cloud, its cluster and its VDC.
        group: the group.
    """
    yield Block(
        what=f"The users of {group} may use this cloud, and nothing at home: the group leaves the default VDC, which"
        " OpenNebula puts each new group into. Leave the first line out if the group exists, and the second if the VDC"
        " does. Other groups may not use it, and need no rules; add a group that may by onevdc addgroup. OpenNebula"
        " makes the ACL rules of a VDC (oneacl list)",
        text=f"onegroup create {group}\nonevdc create {name}\nonevdc addcluster {name} 0 {name}\n"
        f"onevdc addgroup {name} {group}\nonevdc delgroup 0 {group}",
    )
    yield Block(
        what=f"At most so many VMs, cores and MiB for {group}: change the numbers. OpenNebula refuses a VM that exceeds"
        " them, so that the bill is bounded",
        where=f"{group}.quota, then: onegroup quota {group} {group}.quota",
        text='VM = [ VMS = "10", CPU = "20", MEMORY = "40960" ]',
    )
    yield Block(
        what=f"A user of {group}; PASSWORD is yours. Images and networks at home are closed to the group: its templates"
        " name the cloud's own, in PUBLIC_CLOUD, or those of a datastore and a network that you add to the cloud's"
        f" cluster (onecluster adddatastore {name}, onecluster addvnet {name})",
        text=f"oneuser create USER PASSWORD --group {group}",
        is_optional=True,
    )
