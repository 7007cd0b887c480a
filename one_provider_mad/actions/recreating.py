"""Messages that say how to recreate a VM whose instance is terminated; the commands depend on the VM's state.

Up to 6.8 a VM that is POWEROFF or SUSPENDED cannot be recreated (src/dm/DispatchManagerActions.cc, delete_recreate).
"""

from __future__ import annotations

from one_provider_mad.actions.intents import LCM_STATES
from one_provider_mad.domain import Instance

RECREATE = "onevm recover --recreate makes a new one"

RECREATES_EVERYTHING = (6, 10)
"""First release of OpenNebula that recreates VMs in POWEROFF and SUSPENDED, too."""

_FIRST = {"POWEROFF": "undeploy", "SUSPENDED": "stop"}


def gone_for_good(instance: Instance, *, lcm_state: int | None = None) -> str:
    """Return the message for a VM whose instance is terminated.

    Args:
        instance: as the cloud shows it.
        lcm_state: the VM's in the failing action; after a failed resume the VM has the state from before it again.
    """
    state = LCM_STATES.get(lcm_state or 0, "").removeprefix("BOOT_")
    return f"instance {instance.deploy_id} is {instance.raw_state} for good: {recreate_from(state)}"


def recreate_from(state: str, *, release: tuple[int, ...] | None = None) -> str:
    """Return the commands that recreate a VM in this state.

    Args:
        state: POWEROFF, SUSPENDED, or anything else.
        release: OpenNebula's; None when unknown.
    """
    first = _FIRST.get(state)
    if first is None or (release is not None and release >= RECREATES_EVERYTHING):
        return RECREATE
    return f"onevm {first}, then {RECREATE}" if release is not None else f"{RECREATE} (before 6.10 onevm {first} first)"
