"""Somebody's probes, run unchanged: what they print is passed on to the core.

Up to 5.10 those of `remotes/im/<NAME>.d` run for each MONITOR (src/im_mad/remotes/run_probes). From 5.12 on those of
`remotes/im/<IM_MAD>-probes.d/{host,vm}/…` run at periods of their own, which upstream leaves to a client that it starts
in the background (src/im_mad/remotes/lib/monitord-client.rb); here nothing is left in the background.

A probe that fails or hangs is named, and takes nothing away: the others run, what it printed last is said again, and
what speaks of all VMs is not said while a part of it is missing. A failed report would put the host into ERROR, and
host hooks may delete every VM there (decision 19).
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

import structlog

from one_provider_mad.domain import Value
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.monitor.cloud_source import Told
from one_provider_mad.options import Options
from one_provider_mad.protocol.im_messages import Kind, Message, Monitor, StartMonitor
from one_provider_mad.protocol.template_reader import split_attributes
from one_provider_mad.protocol.template_text import attribute
from one_provider_mad.scripting.environment import script_environment
from one_provider_mad.scripting.leftovers import Leftovers
from one_provider_mad.scripting.outcome import reason
from one_provider_mad.scripting.runner import CannotRun, Finished, Runner
from one_provider_mad.settings import Places

log = structlog.get_logger()

PROBE_SECONDS = 60.0
"""How long a probe may take without `-w`: monitord gives a host up after 180 s, oned asks again after 300 s."""

ERROR = "PROVIDER_ERROR"
"""The attribute of the host that names the probes that do not work, `-` while all do."""

_LEFTOVERS = re.compile(r".*\.(rpmnew|rpmsave|dpkg-[a-z]+)|\..*|.*~")
"""Files of a probe folder that package managers and editors have left there."""

_SYNC = frozenset({"SYNC_STATE", "MISSING_STATE"})
"""What makes a report of VM states one of all VMs."""

_MAX_PRINTED = 16 * 1024 * 1024
"""Bytes a probe may print: 100,000 VMs and more; a report that was cut would be one in which VMs are missing."""

_LARGE = 64 * 1024

_COLLECTD = re.compile(
    r"IM_MAD\s*=\s*\[[^\]]*?EXECUTABLE\s*=\s*\"collectd\"[^\]]*?ARGUMENTS\s*=\s*\"([^\"]*)\"", re.DOTALL
)
_PORT = re.compile(r"-p\s*([0-9]+)")
_INTERVAL = re.compile(r"-i\s*([0-9]+)")


class Printed(Value, frozen=True, kw_only=True):
    """What the probes of a folder have printed.

    Attributes:
        text: all of it, in the order of the files' names.
        errors: by probe, why it has failed.
        is_complete: every probe has spoken, now or, where that may be said again, the last time.
    """

    text: str
    errors: tuple[str, ...] = ()
    is_complete: bool = True


class _Tree(Value, frozen=True, kw_only=True):
    """One folder below `<IM_MAD>-probes.d`, and what its output is.

    Attributes:
        folder: its path in there.
        kind: the message that it fills.
        is_host: it speaks of the host, so what a probe printed last may be said again.
    """

    folder: str
    kind: Kind
    is_host: bool = False


_SYSTEM = _Tree(folder="host/system", kind=Kind.SYSTEM_HOST, is_host=True)
_HOST = _Tree(folder="host/monitor", kind=Kind.MONITOR_HOST, is_host=True)
_BEACON = _Tree(folder="host/beacon", kind=Kind.BEACON_HOST, is_host=True)
_STATE = _Tree(folder="vm/status", kind=Kind.STATE_VM)
_FIGURES = _Tree(folder="vm/monitor", kind=Kind.MONITOR_VM)


class Probes:
    """The probe folders of one NAME; satisfies cloud_source.ProbeSource.

    Args:
        name: NAME of ARGUMENTS.
        places: where `remotes/im` and the environment's files are.
        told: what the configuration says.
        options: ARGUMENTS: how many hosts at once, how long a probe may take.
        warn: tells the operator one sentence.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        *,
        name: str,
        places: Places,
        told: Callable[[], Told],
        options: Options,
        warn: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._folder = places.var / "remotes" / "im"
        self._oned_conf = places.etc / "oned.conf"
        self._told = told
        self._warn = warn
        self._clock = clock
        self._seconds = options.timeout or PROBE_SECONDS
        self._slots = asyncio.Semaphore(options.threads)
        self._last: dict[tuple[int, Path], str] = {}
        self._failing: dict[tuple[int, str], tuple[str, ...]] = {}
        self._failed_since: dict[tuple[int, str], float] = {}
        files = ("defaultrc", f"one_im_sh_{name}/one_im_sh_{name}rc")
        environment = script_environment(os.environ, etc=places.etc, proxy=options.proxy or "", warn=warn, files=files)
        leftovers = Leftovers(places.var / f"one_provider_mad_{name}.probes")
        if ended := leftovers.end():
            log.warning("probes of a dead driver ended", number=ended)
        self._runner = Runner(places.var, {**environment, "LANG": "C"}, leftovers=leftovers)

    def close(self) -> None:
        """End every probe that still runs."""
        self._runner.kill()

    # Up to 5.10

    async def answer(self, request: Monitor) -> str:
        """What the probes of `<NAME>.d` print for one MONITOR; "" when there is nothing to say.

        Raises:
            ProviderUnavailable: the configuration wants the host in ERROR by now.
        """
        directory = self._folder / f"{self._name}.d"
        arguments = [str(request.host_id), request.host]
        if request.datastore_location:
            port, interval = await asyncio.to_thread(_collectd, self._oned_conf)
            arguments = [request.datastore_location, port, interval, *arguments]
        if directory.is_dir():
            printed = await self._run(directory, [self._name, *arguments], None, request.host_id, may_repeat=True)
        else:
            errors = (f"there are no probes: {directory} is no directory",)
            printed = Printed(text="", errors=errors, is_complete=False)
        self._note(request.host_id, "", printed.errors)
        if printed.errors and self._is_error_due(request.host_id, ""):
            raise ProviderUnavailable("; ".join(printed.errors))
        # oned passes over an empty report. A FAILURE would put the host into ERROR, and half a report would count as
        # one in which VMs are missing.
        is_whole = printed.is_complete and printed.text.strip() != ""
        return _joined(printed.text, printed.errors) if is_whole else ""

    # From 5.12 on

    async def report(self, request: StartMonitor, say: Callable[[Message], None]) -> None:
        """Say what the probes of a host print, at their periods, until cancelled."""
        rhythm = self._told().monitor.rhythm(request.periods)
        host = _Host(self, request, say)
        async with asyncio.TaskGroup() as group:
            group.create_task(host.beat(rhythm.heartbeat), name="heartbeat")
            for tree, period in (
                (_SYSTEM, rhythm.system),
                (_HOST, request.periods.monitor_host),
                (_BEACON, request.periods.beacon_host),
                (_STATE, rhythm.state),
                (_FIGURES, rhythm.figures),
            ):
                group.create_task(host.repeat(tree, period), name=f"probes {tree.folder}")

    def trees(self, im_mad: str) -> Path:
        """The folder with the probes of an IM_MAD, else of NAME."""
        folder = self._folder / f"{im_mad}-probes.d"
        is_plain = im_mad and "/" not in im_mad
        return folder if is_plain and folder.is_dir() else self._folder / f"{self._name}-probes.d"

    def plain(self, im_mad: str) -> Path:
        """The folder with probes as they were up to 5.10, of an IM_MAD, else of NAME."""
        folder = self._folder / f"{im_mad}.d"
        is_plain = im_mad and "/" not in im_mad
        return folder if is_plain and folder.is_dir() else self._folder / f"{self._name}.d"

    async def print_tree(self, tree: _Tree, request: StartMonitor) -> Printed:
        """Run one folder of a host's probes; where there is none of these at all, `<NAME>.d` tells of the host."""
        trees = self.trees(request.im_mad)
        directory = trees / tree.folder
        if tree is _SYSTEM and not trees.is_dir():
            directory = self.plain(request.im_mad)
        arguments = [request.im_mad or self._name, str(request.host_id), request.host]
        end = f"<HOST_ID>{request.host_id}</HOST_ID></MONITOR_CONFIGURATION>".encode()
        stdin = request.document.replace(b"</MONITOR_CONFIGURATION>", end)
        async with self._slots:
            printed = await self._run(directory, arguments, stdin, request.host_id, may_repeat=tree.is_host)
        self._note(request.host_id, tree.folder, printed.errors)
        return printed

    # Running

    async def _run(
        self, directory: Path, arguments: Sequence[str], stdin: bytes | None, host_id: int, *, may_repeat: bool
    ) -> Printed:
        paths = await asyncio.to_thread(_probes, directory)
        results = await asyncio.gather(*(self._run_one(path, arguments, stdin) for path in paths))
        texts: list[str] = []
        errors: list[str] = []
        is_complete = True
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, str):
                errors.append(result)
                last = self._last.get((host_id, path)) if may_repeat else None
                is_complete = is_complete and last is not None
                texts.append(last or "")
            else:
                texts.append(result.stdout)
                if may_repeat:
                    self._last[host_id, path] = result.stdout
        text = "".join(text if text.endswith("\n") else f"{text}\n" for text in texts if text)
        return Printed(text=text, errors=tuple(errors), is_complete=is_complete)

    async def _run_one(self, path: Path, arguments: Sequence[str], stdin: bytes | None) -> Finished | str:
        """What a probe has printed, or the sentence that names it and says why it has failed."""
        command = [str(path), *arguments]
        try:
            finished = await self._runner.run(
                path,
                arguments,
                stdin=stdin,
                seconds=self._seconds,
                directory=path.parent,
                is_alone=True,
                is_remembered=True,
                kept=_MAX_PRINTED,
            )
        except CannotRun as error:
            return f"probe {path.name}: {error}"
        if finished.is_timeout:
            return f"probe {path.name} did not end within {self._seconds:g} s"
        if finished.is_cut:
            return f"probe {path.name} printed more than {_MAX_PRINTED} bytes"
        if finished.code:
            return f"probe {path.name}: {reason(finished, command)}"
        # What the core cannot read would put the host into ERROR, with nothing to say why.
        attributes = await _split(finished.stdout)
        if isinstance(attributes, str):
            return f"probe {path.name} printed what is no template: {attributes!r}"
        return finished

    # What does not work

    def _note(self, host_id: int, folder: str, errors: tuple[str, ...]) -> None:
        """Tell the operator when something begins to fail, fails otherwise, or works again; not each time."""
        key = (host_id, folder)
        before = self._failing.get(key, ())
        if errors == before:
            return
        if errors:
            self._failing[key] = errors
            self._failed_since.setdefault(key, self._clock())
            for error in errors:
                self._warn(f"host {host_id}: {error}")
        else:
            del self._failing[key], self._failed_since[key]
            log.info("probes work again", host=host_id, folder=folder)

    def errors(self, host_id: int) -> tuple[str, ...]:
        """Everything that does not work for a host just now."""
        return tuple(error for (host, _), errors in self._failing.items() if host == host_id for error in errors)

    def _is_error_due(self, host_id: int, folder: str) -> bool:
        after = self._told().monitor.host_error_after
        since = self._failed_since.get((host_id, folder))
        return bool(after) and since is not None and self._clock() - since >= after

    def is_error_due(self, host_id: int) -> bool:
        """True when the configuration wants a host in ERROR whose probes have failed for so long."""
        return any(self._is_error_due(host, folder) for host, folder in self._failing if host == host_id)


class _Host:
    """One host that monitord wants to hear of."""

    def __init__(self, probes: Probes, request: StartMonitor, say: Callable[[Message], None]) -> None:
        self._probes = probes
        self._request = request
        self._say = say
        self._printed: dict[Kind, str] = {}

    async def beat(self, period: float) -> None:
        """Give signs of life, whatever the probes do: what they said of the host last, with what does not work."""
        while True:
            self._tell_host(Kind.MONITOR_HOST)
            await asyncio.sleep(period)

    async def repeat(self, tree: _Tree, period: float) -> None:
        """Run a folder's probes at its period, and never twice at once."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await self._tell(tree)
            await asyncio.sleep(max(0.0, begun + period - loop.time()))

    async def _tell(self, tree: _Tree) -> None:
        was_in_order = not self._probes.errors(self._request.host_id)
        printed = await self._probes.print_tree(tree, self._request)
        if tree in (_SYSTEM, _HOST):
            self._printed[tree.kind] = printed.text
            self._tell_host(tree.kind)
        else:
            # A report of all VMs from which a probe's are missing would power these off.
            text = printed.text if printed.is_complete else await _without_sync(printed.text)
            if text.strip():
                self._say(Message(kind=tree.kind, host_id=self._request.host_id, timestamp=0, text=text))
        if not was_in_order and not self._probes.errors(self._request.host_id) and tree is not _SYSTEM:
            self._tell_host(Kind.SYSTEM_HOST)  # nothing else takes a host out of ERROR

    def _tell_host(self, kind: Kind) -> None:
        host_id = self._request.host_id
        errors = self._probes.errors(host_id)
        if self._probes.is_error_due(host_id):
            kind, text, is_success = Kind.MONITOR_HOST, "; ".join(errors), False
        else:
            text, is_success = _joined(self._printed.get(kind, ""), errors), True
        self._say(Message(kind=kind, host_id=host_id, timestamp=0, text=text, is_success=is_success))


def _joined(text: str, errors: Sequence[str]) -> str:
    """What probes have printed, and the attribute that names what does not work."""
    return f"{text.rstrip()}\n{attribute(ERROR, '; '.join(errors) or '-')}\n".lstrip("\n")


async def _split(text: str) -> list[tuple[str, str]] | str:
    if len(text) < _LARGE:
        return split_attributes(f"{text}\n")
    return await asyncio.to_thread(split_attributes, f"{text}\n")


async def _without_sync(text: str) -> str:
    attributes = await _split(text)
    if isinstance(attributes, str):
        return ""
    return "".join(f"{written}\n" for name, written in attributes if name not in _SYNC)


def _probes(directory: Path) -> list[Path]:
    """The probes of a folder in the order of their names: files, or links to files, that may be executed."""
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return []
    return [path for path in paths if not _LEFTOVERS.fullmatch(path.name) and _is_executable(path)]


def _is_executable(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and os.access(path, os.X_OK)


def _collectd(oned_conf: Path) -> tuple[str, str]:
    """Port and interval of oned.conf's collectd driver: legacy probes are told (src/im_mad/im_exec/one_im_exec.rb)."""
    try:
        text = oned_conf.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    arguments = match[1] if (match := _COLLECTD.search(text)) else ""
    port, interval = _PORT.search(arguments), _INTERVAL.search(arguments)
    return port[1] if port else "4124", interval[1] if interval else "20"
