"""A VM that was undeployed or stopped on a host of another driver, and is on a host of this cloud now.

The scheduler places an undeployed VM on any host that its requirements match, also where its disk is not. Such a VM has
no instance here, and none may be made for it: a new one would be empty. OpenNebula lets a VM whose boot failed go back
only as one that runs and is undeployed again (src/lcm/LifeCycleActions.cc, recover; tried on 5.10.5, 6.10.0 and 7.4.0).
"""

from __future__ import annotations

from one_provider_mad.actions.intents import LCM_STATES
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import EarlierHost
from one_provider_mad.errors import InstanceNotFound
from one_provider_mad.journal.records import AttemptState

_TO_RECOVER = ("BOOT_UNDEPLOY", "BOOT_STOPPED")


async def explained(work: Work, error: InstanceNotFound) -> InstanceNotFound:
    """Return the error of a resume that found no instance, with the host that has the VM's disk if that is another."""
    host = await host_with_disk(work)
    if host is None:
        return error
    vm_id, boot = work.request.vm_id, LCM_STATES.get(work.request.lcm_state or 0)
    # Without its system datastore, 7.x takes that of the cloud's host, and refuses.
    datastore = f" {host.datastore_id}" if host.datastore_id >= 0 else ""
    left, leave = ("stopped", "stop") if boot == "BOOT_STOPPED" else ("undeployed", "undeploy --hard")
    # After any other failed boot the VM is in POWEROFF or UNKNOWN again, which recover refuses.
    recover = f"onevm recover --success {vm_id}, " if boot in _TO_RECOVER else ""
    return InstanceNotFound(
        f"VM {vm_id} was {left} on host {host.name} of driver {host.driver}, where its disk is, and has no instance in"
        f" this cloud: bring it back with {recover}onevm {leave} {vm_id} and onevm deploy"
        f" {vm_id} {host.name}{datastore}"
    )


async def host_with_disk(work: Work) -> EarlierHost | None:
    """Return the host of another driver that has the disk of a VM without an instance; None unless that is certain.

    The caller has not found an instance, by its id or by tags. A VM that ever had one here is not meant: its instance
    is lost.
    """
    had_one = any(each.state is not AttemptState.REFUSED for each in await work.vm.attempts())
    if had_one or await work.vm.is_imported(work.request.deploy_id):
        return None
    return await work.earlier_host(work.request.vm_id)
