"""Keep the tags of `[tags]` true: of a new instance, and after the user, group or name of its VM has changed.

The journal has what each instance was last given, so that nothing is written while that is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, OwnedVm, Value, VmOwner
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.writer import Journal
from one_provider_mad.providers.interface import Billable


class Correction(Value, frozen=True, kw_only=True):
    """The tags of an instance that are not as its VM's user, group and name demand.

    Attributes:
        deploy_id: the instance.
        vm: its VM.
        wanted: all tags that it is to have.
        changes: tags to write: `wanted`, and "" for each one that it has and is not to have any more.
    """

    deploy_id: DeployId
    vm: OwnedVm
    wanted: Mapping[str, str]
    changes: Mapping[str, str]


async def note_created(cloud: Cloud, journal: Journal, deploy_id: DeployId, vm: OwnedVm) -> None:
    """Record the tags that went with the create of an instance; without a record they are written once more."""
    if isinstance(cloud.provider, Billable) and (tags := cloud.provider.wanted_tags(vm)):
        with suppress(JournalError):  # the VM has its instance
            await journal.note_cloud_tags(deploy_id, tags)


async def corrections(
    cloud: Cloud, journal: Journal, vms: Mapping[DeployId, OwnedVm], *, is_forced: bool = False
) -> list[Correction]:
    """Return which of the instances need other tags than they were last given.

    Args:
        cloud: the instances' cloud.
        journal: what they were given.
        vms: the VM of each; those whose user and group are unknown are left out.
        is_forced: write the tags also where they are right, as after a volume was added.
    """
    provider = cloud.provider
    if not isinstance(provider, Billable):
        return []
    given = await journal.cloud_tags(vms.keys())
    work = partial(_compared, provider, given, vms, is_forced=is_forced)
    return await asyncio.to_thread(work) if len(vms) > _MANY else work()


_MANY = 50
"""VMs above which their tags are compared in a thread: of 10,000 VMs that takes a tenth of a second."""


def _compared(
    provider: Billable,
    given: Mapping[DeployId, Mapping[str, str]],
    vms: Mapping[DeployId, OwnedVm],
    *,
    is_forced: bool,
) -> list[Correction]:
    found = []
    for deploy_id, vm in vms.items():
        wanted, before = provider.wanted_tags(vm), given.get(deploy_id, {})
        if vm.owner == VmOwner() or (wanted == before and not (is_forced and wanted)):
            continue
        changes = {**dict.fromkeys(before, ""), **wanted}
        found.append(Correction(deploy_id=deploy_id, vm=vm, wanted=wanted, changes=changes))
    return found


async def correct(cloud: Cloud, journal: Journal, correction: Correction) -> None:
    """Write the tags of one instance, and record them.

    Raises:
        ProviderError: the cloud refused, or did not answer.
    """
    provider = cloud.provider
    if isinstance(provider, Billable):
        await cloud.call("retag", partial(provider.write_tags, correction.deploy_id, correction.changes))
        await journal.note_cloud_tags(correction.deploy_id, correction.wanted)
