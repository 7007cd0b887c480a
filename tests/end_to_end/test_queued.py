"""Memory of the real process while large requests wait for their turn."""

from __future__ import annotations

import base64
import random
import re
from pathlib import Path

from tests import oned_lines
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver, Place

LINE = 12_000_000
"""Bytes of a line: below the limit, far above usual lines."""

VECTOR = b"<A><B>v</B></A>"


def long_line(vm_id: int) -> bytes:
    """A DEPLOY of LINE bytes whose template has one long script, or as many attributes as fit."""
    document = oned_lines.document("DEPLOY", vm_id, lcm_state=2)
    room = LINE * 3 // 4 - len(document)
    if vm_id % 3:
        script = base64.b64encode(random.Random(vm_id).randbytes(room * 3 // 4 - 100))
        filling = b"<CONTEXT><START_SCRIPT_BASE64><![CDATA[%b]]></START_SCRIPT_BASE64></CONTEXT>" % script
    else:
        filling = VECTOR * (room // len(VECTOR))
    document = document.replace(b"<USER_TEMPLATE>", b"<USER_TEMPLATE>" + filling, 1)
    return oned_requests.with_payload("DEPLOY", vm_id, base64.b64encode(document))


def test_fifteen_waiting_deploys_of_12_mb_use_less_than_400_mb_of_memory(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.simulate(latency=300)
    with Driver(place, "-t 2 -r 0 simulated") as driver:
        for vm_id in range(15):
            driver.write(long_line(vm_id))
        refusal = driver.ask(oned_requests.unknown(99), 60)
        assert refusal.startswith("FAILURE"), "all lines were read, although most are not answered yet"
        status = Path(f"/proc/{driver.process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        assert int(peak[1]) < 400 * 1024
        driver.kill()
