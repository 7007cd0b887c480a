"""A front-end as its packages leave it, with the output of `one-provider oned-conf` applied and its own scheduler.

Only addresses and ports differ from the shipped files, so that several run on one machine; hosts at home have
upstream's dummy driver in place of KVM's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.real_oned.zone import Zone, applied
from tests.waiting import until

HOME = "home"
"""NAME of the drivers of hosts at home."""

_PROBE = Path(__file__).with_name("home_probe.py")
_ACTIONS = f'VM_MAD = [ NAME = "{HOME}", EXECUTABLE = "one_vmm_dummy", TYPE = "xml" ]\n'
_INFORMATION = f'IM_MAD = [ NAME = "{HOME}", EXECUTABLE = "home_probe", ARGUMENTS = "{{release}} 200", THREADS = 0 ]\n'

_STORES = re.compile(r"(-t 15 -d [\w,]+ -s )(?!dummy,)")
"""Up to 6.10 DATASTORE_MAD as shipped does not measure a system datastore with the driver `dummy`."""

_COLLECTD = "-p 4124 "
"""The port of upstream's collector of reports up to 5.10."""

_MEASURED_SOON = "MONITORING_INTERVAL_DATASTORE = 10\n"
"""A datastore that was just created is measured after so many seconds; shipped are 300."""

_NETWORK = 'NETWORK = [ ADDRESS = "127.0.0.1", MONITOR_ADDRESS = "127.0.0.1", PORT = {port}, THREADS = 8 ]\n'

_EXPECTED = re.compile(
    r"no such table: (local_)?db_versioning|\[MKP\]|Cannot contact oned: |error: database is locked| to DB$"
)
"""Errors of every first start, of one without the internet, and of oned and monitord with one SQLite file on a busy
machine; mm_sched is ended after oned."""


class FrontEnd(Zone):
    """One OpenNebula with a scheduler.

    Args:
        installed: as for Zone.
        folder: as for Zone.
        clouds: as for Zone.
        environ: as for Zone.
        own: the administrator's own settings, by file, written before `oned-conf` is asked.
    """

    def __init__(
        self,
        installed: Path,
        folder: Path,
        *,
        clouds: Mapping[str, str],
        environ: Mapping[str, str] | None = None,
        own: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(installed, folder, clouds=clouds, environ=environ)
        self._own = own or {}
        self._beside: list[subprocess.Popen[bytes]] = []

    def configure(self) -> None:
        """Write its configuration files: as shipped, then what `one-provider oned-conf` prints."""
        super().configure()  # links the drivers; the files are written anew
        probe = self.folder / "lib" / "mads" / "home_probe"
        probe.write_text(f'#!/bin/sh\nexec {sys.executable} -S {_PROBE} "$@"\n')
        probe.chmod(0o755)
        for name, settings in self._addresses().items():
            shipped = _STORES.sub(r"\1dummy,", self._shipped(name)).replace(_COLLECTD, f"-p {self._other_ports[1]} ")
            self._write(name, shipped, settings, self._own.get(name, ""))
        for step in list(self.recipe()):
            if step["where"] in self._addresses() and not step.get("is_optional"):
                self._write(step["where"], (self.folder / "etc" / step["where"]).read_text(), step["text"])

    def _write(self, name: str, text: str, *settings: str) -> None:
        for each in settings:
            text = applied(text, each)
        (self.folder / "etc" / name).write_text(text)

    def _addresses(self) -> Mapping[str, str]:
        """The configuration files of this release, with the settings of this machine."""
        grpc, monitord, publish, subscribe = self._other_ports
        oned = f'PORT = {self._port}\nLISTEN_ADDRESS = "127.0.0.1"\nSCRIPTS_REMOTE_DIR = "{self.folder}/remote"\n'
        oned += f'HM_MAD = [ EXECUTABLE = "one_hm", ARGUMENTS = "-p {publish} -l {subscribe} -b 127.0.0.1" ]\n'
        oned += f"{_ACTIONS}{_MEASURED_SOON}"
        information = _INFORMATION.format(release=".".join(map(str, self.release)))
        if self.release >= (7, 0):
            oned += f'GRPC_PORT = {grpc}\nGRPC_LISTEN_ADDRESS = "127.0.0.1"\n'
        if not self._has_monitord:
            return {"oned.conf": oned + information, "sched.conf": f'ONE_XMLRPC = "{self.url}"\n'}
        monitor = _NETWORK.format(port=monitord) + information
        if self.release >= (7, 0):
            return {"oned.conf": oned, "monitord.conf": monitor, "schedulers/rank.conf": ""}
        return {"oned.conf": oned, "monitord.conf": monitor, "sched.conf": f'ONE_XMLRPC = "{self.url}"\n'}

    def recipe(self) -> Iterator[Mapping[str, Any]]:
        """The steps that `one-provider oned-conf` prints for each cloud."""
        release = ".".join(map(str, self.release))
        for name in self._clouds:
            yield from json.loads(self.tool(f"oned-conf {name} --release {release} --json"))

    def tool(self, command: str) -> str:
        """Run a command of one-provider; returns its output."""
        return self.run(f"{self._checkout}/bin/one-provider {command}")

    def follow_recipe(self) -> None:
        """Run the commands that `oned-conf` prints, without optional ones, in order; those of several clouds once."""
        commands: dict[str, None] = {}
        for step in self.recipe():
            file, _, command = step["where"].partition(", then: ")
            if command:
                (self.folder / file).write_text(f"{step['text']}\n")
            if (command or not step["where"]) and not step.get("is_optional"):
                lines = [command] if command else step["text"].splitlines()
                commands |= dict.fromkeys(line for line in lines if line.startswith("one"))
        for line in commands:
            self.run(line.replace("one-provider", f"{self._checkout}/bin/one-provider", 1))

    # Running

    def start(self) -> None:
        """Start oned, and up to 6.10 the scheduler, which is a program of its own."""
        super().start()
        scheduler = self.folder / "bin" / "mm_sched"
        if scheduler.exists():
            self._run_beside([str(scheduler)], "sched.out")

    def _run_beside(self, command: list[str], log: str) -> None:
        """Start a program, which `stop` ends."""
        var = self.folder / "var"
        with (var / log).open("ab") as out:
            self._beside.append(
                subprocess.Popen(command, env=self.environ, cwd=var, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    def stop(self) -> None:
        """End all processes of this zone."""
        super().stop()
        for process in self._beside:
            process.wait()

    def add_home(self, *names: str) -> None:
        """Add hosts with room for two VMs of one core each, and their datastore; returns when VMs can start there."""
        cluster = 0
        store = self.call("one.datastore.allocate", _STORE, cluster)
        hosts = [self.call("one.host.allocate", name, HOME, HOME, cluster) for name in names]
        until(lambda: all(self.free_cpu(host) == 200 for host in hosts), seconds=300, pause=0.5)
        until(lambda: self.shown_of("datastore", store, "FREE_MB") not in {"", "0"}, seconds=120, pause=0.5)

    # Asking

    def shown_of(self, kind: str, number: int, path: str) -> str:
        """A value of an object's document, "" for none."""
        return self.document(f"one.{kind}.info", number).findtext(path) or ""

    def free_cpu(self, host: int) -> int:
        """CPU of a host that the scheduler may still give to VMs, in percent of a core; 0 before it is monitored."""
        used, most = (int(self.shown_of("host", host, f"HOST_SHARE/{name}") or 0) for name in ("CPU_USAGE", "MAX_CPU"))
        return most - used

    def errors(self) -> list[str]:
        """The errors in the logs of OpenNebula and of the drivers."""
        logs = [self.folder / "var" / name for name in ("oned.log", "monitor.log", "sched.log")]
        lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
        of_core = [line for line in lines if re.search(r"\]\[E\]:", line) and not _EXPECTED.search(line)]
        drivers = sorted((self.folder / "var").glob("one_*_provider_*.log"))
        entries = [line for log in drivers for line in log.read_text().splitlines()]
        return of_core + [line for line in entries if json.loads(line)["level"] in {"error", "critical"}]


_STORE = 'NAME = "home-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "dummy"\n'


@contextmanager
def running_front_end(front_end: FrontEnd) -> Iterator[FrontEnd]:
    """Run a front-end whose clouds are configured, until their hosts are monitored."""
    front_end.configure()
    try:
        front_end.start()
        front_end.follow_recipe()
        hosts = [front_end.number_of("host", name) for name in front_end._clouds]
        until(lambda: all(front_end.free_cpu(host) > 0 for host in hosts), seconds=300, pause=0.5)
        yield front_end
    finally:
        front_end.stop()
