"""The least that an information driver does: list, write the state and the figures of each VM, pack, write."""

import json
import os
import sqlite3
import sys
import time
import zlib
from base64 import b64encode

database, sweeps, listings = sys.argv[1].split()

QUERY = "SELECT id, tags, hardware, type, image, created_at FROM instance WHERE visible_at <= ? AND ends_at <= ?"
VMS_IN_A_LINE = 200


def list_instances() -> list[tuple[str, str, str]]:
    """Every running instance: VM, id, and figures."""
    begun, ran, now = time.monotonic(), time.process_time(), time.time()
    rows = sqlite3.connect(database).execute(QUERY, (now, now)).fetchall()
    found = []
    for deploy_id, tags, hardware, kind, image, created_at in rows:
        made_of = json.loads(hardware)
        figures = (
            f"CPU={50 * made_of['cpu']:.2f} MEMORY={512 * made_of['memory']} NETRX={int(1000 * (now - created_at))}"
            f' NETTX={int(250 * (now - created_at))} SIM_INSTANCE_TYPE="{kind}" SIM_IMAGE_ID="{image}"'
        )
        found.append((json.loads(tags)["ONE_PROVIDER_VM_ID"], deploy_id, figures))
    ended, has_run = time.monotonic(), time.process_time()
    with open(listings, "a") as file:
        file.write(f"{begun} {ended} {has_run - ran}\n")
    return found


def say(word: str, text: str) -> None:
    """One message of monitord's kind."""
    packed = b64encode(zlib.compress(text.encode())).decode() if text else ""
    write(f"{word} SUCCESS 3 {int(time.time())} {packed}\n")


def write(line: str) -> None:
    """All of it."""
    rest = line.encode()
    while rest:
        rest = rest[os.write(1, rest) :]


def sweep() -> None:
    """All states in one message, all figures in as many as it takes."""
    found = list_instances()
    states = [f'VM=[ID="{vm_id}",DEPLOY_ID="{deploy_id}",STATE="RUNNING"]\n' for vm_id, deploy_id, _ in found]
    say("MONITOR_HOST", 'USEDCPU="0"\nUSEDMEMORY="0"\n')
    say("STATE_VM", 'SYNC_STATE="yes"\nMISSING_STATE="UNKNOWN"\n' + "".join(states))
    figures = [
        f'VM=[ID="{vm_id}",DEPLOY_ID="{deploy_id}",MONITOR="{b64encode(text.encode()).decode()}"]\n'
        for vm_id, deploy_id, text in found
    ]
    for first in range(0, len(figures), VMS_IN_A_LINE):
        say("MONITOR_VM", "".join(figures[first : first + VMS_IN_A_LINE]))


def report() -> None:
    """The one answer of the time before 5.12."""
    vms = [
        f'VM=[ID="{vm_id}",DEPLOY_ID="{deploy_id}",VM_NAME="one-{vm_id}",POLL="STATE=a {figures}"]\n'
        for vm_id, deploy_id, figures in list_instances()
    ]
    text = "".join(['VM_POLL="YES"\n', *vms])
    write(f"MONITOR SUCCESS 3 {b64encode(text.encode()).decode()}\n")


def main() -> None:
    """Read until the end of input."""
    rest = b""
    while data := os.read(0, 262144):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"INIT":
                write("INIT SUCCESS\n")
            elif line.startswith(b"MONITOR"):
                report()
            else:
                say("START_MONITOR", "")
                say("SYSTEM_HOST", 'HYPERVISOR="crowd"\nPUBLIC_CLOUD="YES"\n')
                for _ in range(int(sweeps)):
                    sweep()


main()
