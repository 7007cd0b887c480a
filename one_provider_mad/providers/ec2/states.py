"""Converts EC2's instance states to ours; no I/O.

From docs.aws.amazon.com, API_InstanceState: 0 pending, 16 running, 32 shutting-down, 48 terminated, 64 stopping,
80 stopped.
"""

from __future__ import annotations

from one_provider_mad.domain import InstanceState

STATES: dict[str, InstanceState] = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "shutting-down": InstanceState.TERMINATING,
    "terminated": InstanceState.TERMINATED,
    "stopping": InstanceState.STOPPING,
    "stopped": InstanceState.STOPPED,
}


def state_of(word: str) -> InstanceState:
    """Return our state for EC2's word; UNKNOWN for an undocumented one."""
    return STATES.get(word, InstanceState.UNKNOWN)
