"""A zone of a real OpenNebula, of a test's own: a copy of an installed one, on loopback, run by the tests' own user.

The user that runs oned must be able to read the drivers. It is the user that runs the tests, so a checkout in a private
home will do, and root is not needed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from one_provider_mad.cli.oned_conf import RELEASES, blocks_of
from one_provider_mad.cli.oned_conf_block import Block
from tests.end_to_end.oned import ROOT, Place
from tests.waiting import until

SESSION = "oneadmin:opennebula"
OURS = ("one_vmm_provider", "one_im_provider")
OURS_CLI = str(ROOT / "bin" / "one-provider")

_REPLACED = (
    "VM_MAD IM_MAD TM_MAD DATASTORE_MAD MARKET_MAD IPAM_MAD HM_MAD SCHED_MAD AUTH_MAD PORT LISTEN_ADDRESS GRPC_\\w+"
    " MONITORING_INTERVAL MONITORING_INTERVAL_(?:HOST|VM)"
)
"""Attributes that a test's zone changes or omits: it reaches no other machine, and has no scheduler."""

_REPEATED = re.compile(r"VM_MAD|IM_MAD|TM_MAD_CONF|DS_MAD_CONF|VM_HOOK|INHERIT_\w+|\w+_RESTRICTED_ATTR")
"""Attributes of which a configuration file may have several."""

_HOME = """
TM_MAD = [ EXECUTABLE = "one_tm", ARGUMENTS = "-t 5 -d dummy,local,ssh" ]
DATASTORE_MAD = [ EXECUTABLE = "one_datastore", ARGUMENTS = "-t 5 -d dummy -s dummy" ]
MARKET_MAD = [ EXECUTABLE = "one_market", ARGUMENTS = "-t 1 -m http" ]
IPAM_MAD = [ EXECUTABLE = "one_ipam", ARGUMENTS = "-t 1 -i dummy" ]
HM_MAD = [ EXECUTABLE = "one_hm", ARGUMENTS = "-p {publish} -l {subscribe} -b 127.0.0.1" ]
VM_MAD = [ NAME = "dummy", EXECUTABLE = "one_vmm_dummy", TYPE = "xml" ]
"""
"""Upstream's dummy drivers serve the ordinary host.

Nothing monitors it: upstream's probe of a dummy host leaves a daemon, and a file in /tmp that two zones would share.
"""

_IDLE = "SCHED_MAX_WND_TIME = 3600\nSCHED_MAX_WND_LENGTH = 1000\n"
"""7.x places VMs also without SCHED_MAD, and would be faster than a test that places them itself."""

_MONITORD = 'IM_MAD = [ NAME = "monitord", EXECUTABLE = "onemonitord", ARGUMENTS = "-c monitord.conf", THREADS = 8 ]\n'
_NETWORK = 'NETWORK = [ ADDRESS = "127.0.0.1", MONITOR_ADDRESS = "127.0.0.1", PORT = {port}, THREADS = 4 ]\n'


class CoreError(Exception):
    """OpenNebula refused a call; the text is its own."""


_SETTING = re.compile(r"^[ \t]*(?P<name>\w+)[ \t]*=[ \t]*(?:\[.*?\]|[^\n]*)[ \t]*$", re.MULTILINE | re.DOTALL)


class Zone:
    """One OpenNebula.

    Args:
        installed: the folder of an installed OpenNebula (its ONE_LOCATION); nothing in it is changed.
        folder: where the copy goes.
        clouds: kind of provider by NAME of the drivers; each is served by this checkout's.
        environ: added to the environment of oned, and so of the drivers.
        settings: added to oned.conf.
        checkout: the folder whose drivers are linked.
    """

    def __init__(
        self,
        installed: Path,
        folder: Path,
        *,
        clouds: Mapping[str, str],
        environ: Mapping[str, str] | None = None,
        settings: str = "",
        checkout: Path = ROOT,
    ) -> None:
        self.folder = folder
        self._checkout = checkout
        _copy(installed, folder)
        self.place = Place(folder)
        self.release = _release_of(folder)
        self._clouds = clouds
        self.settings = settings
        self._has_monitord = (folder / "etc" / "monitord.conf").exists()
        self._port, *self._other_ports = _free_ports(5)
        self.url = f"http://127.0.0.1:{self._port}/RPC2"
        self.environ = {**self._environ(), **(environ or {})}
        self._oned: subprocess.Popen[bytes] | None = None

    @property
    def hook_ports(self) -> tuple[int, int]:
        """The ports on which oned publishes events, and takes the results of hooks."""
        return self._other_ports[2], self._other_ports[3]

    def _environ(self) -> dict[str, str]:
        ruby = self.folder / "lib" / "ruby"
        return {
            "ONE_LOCATION": str(self.folder),
            "ONE_XMLRPC": self.url,
            "ONE_AUTH": str(self.folder / ".one" / "one_auth"),
            "HOME": str(self.folder),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "RUBYLIB": f"{ruby}:{ruby / 'cli'}",
            "RUBYOPT": "-W0",
            "LANG": "C.UTF-8",
        }

    # Configuration

    def configure(self) -> None:
        """Write its configuration: one ordinary host, and the output of `one-provider oned-conf` for each cloud."""
        auth = self.folder / ".one" / "one_auth"
        auth.parent.mkdir(exist_ok=True)
        auth.write_text(f"{SESSION}\n")
        auth.chmod(0o600)
        if self.release >= (7, 0):
            self.install_transfer_driver()
        for program in OURS:
            link = self.folder / "lib" / "mads" / program
            link.unlink(missing_ok=True)
            link.symlink_to(self._checkout / "bin" / program)
        grpc, monitord, publish, subscribe = self._other_ports
        oned = _plain(self._shipped("oned.conf"), *_REPLACED.split())
        oned += f'PORT = {self._port}\nLISTEN_ADDRESS = "127.0.0.1"\n'
        oned += f'GRPC_PORT = {grpc}\nGRPC_LISTEN_ADDRESS = "127.0.0.1"\n' if self.release >= (7, 0) else ""
        oned = self._with_recipe("oned.conf", oned + _HOME.format(publish=publish, subscribe=subscribe))
        oned = applied(oned, (_IDLE if self.release >= (7, 0) else "") + self.settings)
        if self._has_monitord:
            text = _plain(self._shipped("monitord.conf"), "IM_MAD", "NETWORK")
            text = self._with_recipe("monitord.conf", text + _NETWORK.format(port=monitord))
            (self.folder / "etc" / "monitord.conf").write_text(text)
            oned += _MONITORD
        else:
            oned += "MONITORING_INTERVAL_HOST = 5\nMONITORING_INTERVAL_VM = 5\n"
        (self.folder / "etc" / "oned.conf").write_text(oned)

    def install_transfer_driver(self) -> None:
        """Run the command that the recipe has before the restart; the links that it makes are replaced afterwards."""
        for name in self._clouds:
            self.one_provider("install", name)

    def one_provider(self, *arguments: str, code: int = 0) -> str:
        """Run `one-provider`; returns its output and errors."""
        done = subprocess.run(
            [OURS_CLI, *arguments], env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, f"one-provider {arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _shipped(self, name: str) -> str:
        """A file of its configuration as upstream ships it, where a copy of that was kept."""
        kept = self.folder / "etc" / f"{name}.orig"
        return (kept if kept.exists() else self.folder / "etc" / name).read_text()

    def _with_recipe(self, file: str, text: str) -> str:
        """Return a file with the recipe's settings: each replaces those of its name, unless a file may have several."""
        for block in self._blocks():
            if block.where == file:
                text = applied(text, block.text)
        return text

    def _blocks(self) -> Iterator[Block]:
        known = [release for release in RELEASES if tuple(map(int, release.split("."))) <= self.release]
        for name, kind in self._clouds.items():
            yield from blocks_of(name, kind=kind, hypervisor=name, release=known[0], resizes_live=kind != "ec2")

    def follow_recipe(self) -> None:
        """Run the commands that `one-provider oned-conf` prints, as they are printed; those of several clouds once."""
        commands: dict[str, None] = {}
        for block in self._blocks():
            if block.is_optional:
                continue
            file, _, command = block.where.partition(", then: ")
            if command:
                (self.folder / file).write_text(f"{block.text}\n")
            lines = [command] if command else block.text.splitlines()
            commands |= dict.fromkeys(line for line in lines if re.match(r"one(?!-provider )", line))
        for line in commands:
            self.run(line)

    def run(self, command: str) -> str:
        """Run one of its own command line tools; returns its output."""
        done = subprocess.run(
            command.split(), env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    # Running

    def start(self) -> None:
        """Start oned, and wait until it answers."""
        for lock in ("var/.lock", "var/lock/.lock"):  # left by a crash
            (self.folder / lock).unlink(missing_ok=True)
        with (self.folder / "var" / "oned.out").open("ab") as out:
            command = [str(self.folder / "bin" / "oned"), "-f"]
            self._oned = subprocess.Popen(
                command, env=self.environ, cwd=self.folder / "var", stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        until(self._is_up, seconds=60, pause=0.1)

    def _is_up(self) -> bool:
        assert self._oned is not None
        assert self._oned.poll() is None, f"oned ended: {tail(self.folder / 'var' / 'oned.log')}"
        with suppress(OSError, xmlrpc.client.Error):
            return bool(self.call("one.system.version"))
        return False

    def kill(self) -> None:
        """kill -9 of oned alone, as in a crash: its drivers see their stdin end."""
        assert self._oned is not None
        self._oned.kill()
        self._oned.wait()

    def stop(self) -> None:
        """End oned, and then all running processes of this zone."""
        if self._oned is not None and self._oned.poll() is None:
            self._oned.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._oned.wait(10)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._oned is not None:
            self._oned.wait()
        until(lambda: not self.processes())

    def processes(self, *words: str) -> list[int]:
        """Running processes of this zone whose command line has all these words."""
        mark = b"ONE_LOCATION=" + os.fsencode(self.folder)
        return [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if mark in _read(process / "environ").split(b"\0") and _has_words(_read(process / "cmdline"), words)
        ]

    def kill_driver(self, program: str, name: str) -> None:
        """kill -9 of one driver; returns once OpenNebula has started another one."""
        (pid,) = self.processes(program, name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: [other for other in self.processes(program, name) if other != pid], seconds=30)

    # Asking

    def call(self, method: str, *arguments: object) -> Any:
        """Call its API. Raises CoreError with its error text."""
        with xmlrpc.client.ServerProxy(self.url) as api:
            is_success, answer, *_ = getattr(api, method)(SESSION, *arguments)
        if not is_success:
            raise CoreError(str(answer))
        return answer

    def document(self, method: str, *arguments: object) -> ET.Element:
        """The response of a call, as a document."""
        return ET.fromstring(self.call(method, *arguments))

    def number_of(self, kind: str, name: str) -> int:
        """The number of a host, datastore or template with this name."""
        everything = (-2, -1, -1) if kind == "template" else ()
        pool = self.document(f"one.{kind}pool.info", *everything)
        (found,) = [each.findtext("ID") for each in pool if each.findtext("NAME") == name]
        return int(found or -1)


def tail(path: Path, lines: int = 30) -> str:
    """The end of a log."""
    if not path.exists():
        return f"{path} is not there"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _copy(installed: Path, folder: Path) -> None:
    """Copy the installed files, without state and logs."""

    def left_out(path: str, names: Sequence[str]) -> list[str]:
        if Path(path) == installed:
            return [name for name in names if name in {".one", "src"}]
        return [name for name in names if name != "remotes"] if Path(path) == installed / "var" else []

    shutil.copytree(installed, folder, symlinks=True, ignore=left_out)
    for name in ("vms", "datastores", "lock", "run"):
        (folder / "var" / name).mkdir(exist_ok=True)


def _release_of(folder: Path) -> tuple[int, ...]:
    environ = {**os.environ, "ONE_LOCATION": str(folder)}
    told = subprocess.run([folder / "bin" / "oned", "--version"], env=environ, capture_output=True, text=True).stdout
    match = re.search(r"OpenNebula (\d+)\.(\d+)", told)
    assert match, f"{folder}/bin/oned --version does not tell its release: {told[:200]}"
    return int(match[1]), int(match[2])


def applied(text: str, settings: str) -> str:
    """The text of a configuration file after these settings are written into it."""
    for setting in _SETTING.finditer(settings):
        text = _plain(text, *([] if _REPEATED.fullmatch(setting["name"]) else [setting["name"]]))
        text += f"{setting[0].strip()}\n"
    return text


def _plain(text: str, *without: str) -> str:
    """A configuration without its comments, and without the attributes of these names."""
    bare = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    attributes = rf"^[ \t]*(?:{'|'.join(without)})\s*=\s*(?:\[.*?\]|[^\n]*)[ \t]*\n"
    return re.sub(attributes, "", bare, flags=re.MULTILINE | re.DOTALL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended, or is another user's


def _has_words(command_line: bytes, words: Sequence[str]) -> bool:
    told = command_line.replace(b"\0", b" ").decode(errors="replace")
    return all(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", told) for word in words)
