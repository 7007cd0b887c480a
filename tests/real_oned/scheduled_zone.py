"""A zone with OpenNebula's own scheduler, and a host at home that is monitored and has room for two VMs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.real_oned.zone import Zone
from tests.waiting import until

PROBE = Path(__file__).with_name("home_probe.py")

_HOME = 'IM_MAD = [ NAME = "home", EXECUTABLE = "home_probe", ARGUMENTS = "{release}", THREADS = 0 ]\n'

_SCHEDULER = """
SCHED_MAD = [ EXECUTABLE = "one_sched", ARGUMENTS = "-t 15 -p rank -o one_drs" ]
SCHED_MAX_WND_TIME = 2
SCHED_MAX_WND_LENGTH = 100
SCHED_RETRY_TIME = 5
MAX_ACTIONS_PER_HOST = 50
MAX_ACTIONS_PER_CLUSTER = 50
"""


class ScheduledZone(Zone):
    """One OpenNebula whose scheduler places VMs at home first; the files of the scheduler have no limit of one VM."""

    _scheduler: subprocess.Popen[bytes] | None = None

    def configure(self) -> None:
        if self.release >= (7, 0):
            self.settings += _SCHEDULER
        super().configure()
        probe = self.folder / "lib" / "mads" / "home_probe"
        probe.write_text(f'#!/bin/sh\nexec {sys.executable} -S {PROBE} "$@"\n')
        probe.chmod(0o755)
        etc = self.folder / "etc"
        monitoring = etc / ("monitord.conf" if (etc / "monitord.conf").exists() else "oned.conf")
        with monitoring.open("a") as file:
            file.write(_HOME.format(release=".".join(map(str, self.release))))
        if self.release >= (7, 0):
            _set(etc / "schedulers" / "rank.conf", MAX_HOST="0")
        else:
            _set(etc / "sched.conf", ONE_XMLRPC=f'"{self.url}"', SCHED_INTERVAL="3", MAX_HOST="100")

    def start(self) -> None:
        super().start()
        program = self.folder / "bin" / "mm_sched"
        if program.exists():
            var = self.folder / "var"
            with (var / "sched.out").open("ab") as out:
                self._scheduler = subprocess.Popen(
                    [program], env=self.environ, cwd=var, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )

    def stop(self) -> None:
        if self._scheduler is not None:
            self._scheduler.kill()
            self._scheduler.wait()
        super().stop()

    def add_home(self) -> int:
        """Create the host at home, and its datastore; wait until the scheduler can use both."""
        self.call("one.datastore.allocate", 'NAME = "home-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "dummy"\n', -1)
        number = int(self.call("one.host.allocate", "home", "home", "dummy", -1))
        self.wait_for_host("home")
        return number

    def wait_for_host(self, name: str) -> None:
        """Wait until a host is monitored."""
        number = self.number_of("host", name)
        until(lambda: self.document("one.host.info", number).findtext("STATE") == "2", seconds=60, pause=0.2)


def _set(path: Path, **values: str) -> None:
    text = path.read_text()
    for name, value in values.items():
        text = re.sub(rf"^{name}\s*=.*\n", "", text, flags=re.MULTILINE) + f"{name} = {value}\n"
    path.write_text(text)
