"""Ten thousand instances with the tags of VMs of one host, and the lines with which they are asked for."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from benchmarks.started import Starter
from one_provider_mad.domain import Identity, InstanceState, VmId
from one_provider_mad.providers.simulated import table
from one_provider_mad.providers.simulated.cloud import Cloud
from one_provider_mad.providers.simulated.hardware import Hardware
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.monitor.decoder import monitor, start_monitor

NAME = "crowd"
HOST = 3
VMS = 10_000
PERIOD = 1
"""Seconds between two sweeps: oned asks for whole ones."""

_OWNER = "bench"

START_MONITOR = start_monitor(
    HOST,
    NAME,
    BEACON_HOST=PERIOD,
    SYSTEM_HOST=600,
    STATE_VM=PERIOD,
    SYNC_STATE_VM=PERIOD,
    MONITOR_VM=PERIOD,
)
MONITOR = monitor(HOST, NAME)


def fill(starter: Starter) -> Path:
    """Let the instances run, in a cloud that is listed as often as it is asked for; returns its database."""
    starter.place.configure(
        f'provider = "simulated"\nowner = "{_OWNER}"\n[simulated]\n[monitor]\nmin_list_interval = 0\n', name=NAME
    )
    path = starter.place.var / f"{NAME}.db"
    asyncio.run(_bring_up(path))
    with closing(sqlite3.connect(path)) as database, database:
        for number in range(VMS):
            table.insert(database, _row(number))
    return path


async def _bring_up(path: Path) -> None:
    cloud = Cloud(path, SimulatedSettings(), clock=time.time)
    await cloud.open()
    await cloud.close()


def _row(number: int) -> table.Row:
    created_at = time.time() - 3600
    identity = Identity(owner=_OWNER, vm_id=VmId(number), stime=int(created_at), seq=0, host_id=HOST)
    return table.Row(
        number=0,
        id=f"sim-{number:012x}",
        transition=InstanceState.PENDING.value,
        ends_at=created_at,
        reason="",
        type="small_256mb",
        image="web",
        name=f"one-{number}",
        tags=table.encode({"role": "web", **identity.tags()}),
        hardware=table.encode(Hardware(cpu=1.0, memory=256, context="NETWORK='YES'")),
        reboots=0,
        created_at=created_at,
        visible_at=created_at,
        forget_at=None,
    )
