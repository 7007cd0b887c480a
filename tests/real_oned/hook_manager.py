"""OpenNebula's hook manager in a test's zone: from 5.10 on it carries hooks out."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real_oned.zone import Zone
from tests.waiting import until

_SETTINGS = """
:debug_level: 3
:subscriber_endpoint: 'tcp://127.0.0.1:{publish}'
:replier_endpoint: 'tcp://127.0.0.1:{subscribe}'
:concurrency: 10
"""


@contextmanager
def hook_manager(zone: Zone) -> Iterator[Path]:
    """Run the hook manager of a zone that runs; yields the path of its log."""
    publish, subscribe = zone.hook_ports
    (zone.folder / "etc" / "onehem-server.conf").write_text(_SETTINGS.format(publish=publish, subscribe=subscribe))
    log = zone.folder / "var" / "onehem.log"
    program = zone.folder / "lib" / "onehem" / "onehem-server.rb"
    with (zone.folder / "var" / "onehem.out").open("ab") as out:
        process = subprocess.Popen(
            ["ruby", program], env=zone.environ, cwd=zone.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        until(lambda: log.exists() and "successfully loaded" in log.read_text(), seconds=60)
        yield log
    finally:
        process.terminate()
        process.wait(20)


def hook_output(zone: Zone) -> str:
    """What our hooks have written so far; OpenNebula keeps the last results of each."""
    hooks = [int(each.text or -1) for each in zone.document("one.hookpool.info", -2, -1, -1).iterfind("HOOK/ID")]
    path = "HOOKLOG/HOOK_EXECUTION_RECORD/EXECUTION_RESULT/STDOUT"
    results = [each for hook in hooks for each in zone.document("one.hook.info", hook).iterfind(path)]
    return "".join(base64.b64decode(each.text or "").decode() for each in results)
