"""Run the operator's probe scripts as they are, and pass their output on to OpenNebula.

Up to 5.10 the scripts in `remotes/im/<NAME>.d` run for each MONITOR (src/im_mad/remotes/run_probes). From 5.12 on those
in `remotes/im/<IM_MAD>-probes.d/{host,vm}/…` run at periods of their own, which upstream leaves to a background process
(src/im_mad/remotes/lib/monitord-client.rb); here the driver runs them itself.

A probe that fails or hangs is named on the host and affects no other: its last output is sent again if it is about the
host, and no report of all VMs is sent while a part of it is missing. A failed report would put the host into ERROR, and
host hooks may delete every VM there (decision 19).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic

import structlog

from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.monitor.cloud_source import ReportSettings
from one_provider_mad.monitor.probe_folders import TREES, Folder, ProbeFolders, Tree, collectd_of
from one_provider_mad.monitor.probed_host import MessageSender, Printed, ProbedHost, split, with_failures
from one_provider_mad.options import Options
from one_provider_mad.protocol.im_messages import Kind, Monitor, StartMonitor
from one_provider_mad.scripting.descendants import Descendants
from one_provider_mad.scripting.environment import script_environment
from one_provider_mad.scripting.leftovers import Leftovers
from one_provider_mad.scripting.outcome import complaints
from one_provider_mad.scripting.runner import CannotRun, Finished, Runner
from one_provider_mad.settings import Places

log = structlog.get_logger()

PROBE_SECONDS = 60.0
"""Seconds after which a probe is ended, unless ARGUMENTS have `-w`: monitord gives a host up after 180 s, oned asks
again after 300 s."""

_SLOT_SECONDS = 5.0
"""Seconds after which a host's running probes no longer count for `-t`: probes that hang must not delay other hosts."""

_MAX_PRINTED = 16 * 1024 * 1024
"""Most bytes that a probe may print, enough for 100,000 VMs. More is a failure of the probe: a cut report would lack
VMs."""


class _Memory:
    """What is remembered of one host: output and failures of its probes.

    Args:
        host: the host's name; a host with another name is another host, even under the same ID.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.last: dict[Path, str] = {}
        self.printed: dict[Kind, str] = {}
        self.failing: dict[str, tuple[str, ...]] = {}
        self.failed_since: dict[str, float] = {}
        self.reporting: object = None
        self.is_new = False


class Probes:
    """Runs the probes of all hosts of one NAME; implements cloud_source.ProbeSource and probed_host.ProbeRuns.

    Args:
        name: NAME of ARGUMENTS.
        places: OpenNebula's directories.
        settings: returns the configuration.
        options: ARGUMENTS, for `-t` hosts at once and `-w` seconds for a probe.
        warn: writes a sentence to the operator's log.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        *,
        name: str,
        places: Places,
        settings: Callable[[], ReportSettings],
        options: Options,
        warn: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._folders = ProbeFolders(places.var / "remotes" / "im", name)
        self._oned_conf = places.etc / "oned.conf"
        self._settings = settings
        self._warn = warn
        self._clock = clock
        self._seconds = options.timeout or PROBE_SECONDS
        self._slots = {tree.folder: asyncio.Semaphore(options.threads) for tree in TREES}
        self._memories: dict[int, _Memory] = {}
        files = ("defaultrc", f"one_im_sh_{name}/one_im_sh_{name}rc")
        environment = script_environment(os.environ, etc=places.etc, proxy=options.proxy or "", warn=warn, files=files)
        leftovers = Leftovers(places.var / f"one_provider_mad_{name}.probes")
        self._leftovers: Leftovers | None = leftovers
        self._beginning = asyncio.Lock()
        self._runner = Runner(places.var, {**environment, "LANG": "C"}, leftovers=leftovers, descendants=Descendants())

    def close(self) -> None:
        """End every probe that still runs."""
        self._runner.kill()

    def forget(self, host_id: int) -> None:
        """Forget the output and the failures of a host that is no longer monitored."""
        self._memories.pop(host_id, None)

    def _memory(self, host_id: int, host: str) -> _Memory:
        memory = self._memories.get(host_id)
        if memory is None or memory.host != host:
            memory = self._memories[host_id] = _Memory(host)
        return memory

    # Up to 5.10

    async def answer(self, request: Monitor) -> str:
        """Run the probes of `<NAME>.d` for one MONITOR, and return their output; "" while a part of it is missing.

        Raises:
            ProviderUnavailable: the host has not been reported on yet, and a probe fails; or probes have failed for
                `host_error_after` seconds.
        """
        memory = self._memory(request.host_id, request.host)
        memory.is_new = memory.is_new or request.is_first
        arguments = [str(request.host_id), request.host]
        if request.datastore_location:
            port, interval = await asyncio.to_thread(collectd_of, self._oned_conf)
            arguments = [request.datastore_location, port, interval, *arguments]
        printed = await self._run(self._folders.legacy, [self._name, *arguments], None, memory.last)
        self.note(request.host_id, "", printed.errors)
        errors = self.errors(request.host_id)
        if errors and (self._is_error_due(memory, "") or (memory.is_new and not printed.is_complete)):
            raise ProviderUnavailable("; ".join(errors))
        # oned ignores an empty report. A FAILURE would put a host with VMs into ERROR, and half a report would count as
        # one from which VMs are missing. A new host has no VMs, and without an answer it would stay INIT.
        is_whole = printed.is_complete and printed.text.strip() != ""
        memory.is_new = memory.is_new and not is_whole
        return with_failures(printed.text, errors) if is_whole else ""

    # From 5.12 on

    async def report(self, request: StartMonitor, sender: MessageSender, on_reported: Callable[[], None]) -> None:
        """Run a host's probes periodically, and send their output, until cancelled.

        Args:
            request: monitord's request.
            sender: writes messages.
            on_reported: called once when the probes of every kind have run.
        """
        memory = self._memory(request.host_id, request.host)
        memory.reporting = me = object()
        host = ProbedHost(self, request, sender=sender, printed=memory.printed, on_reported=on_reported)
        try:
            await host.report(lambda: self._settings().monitor.report_periods(request.periods))
        finally:
            # After another START_MONITOR the host's new task needs the memory.
            if memory.reporting is me and self._memories.get(request.host_id) is memory:
                self.forget(request.host_id)

    async def print_tree(self, tree: Tree, request: StartMonitor) -> Printed:
        """Run a host's probes of one kind."""
        memory = self._memory(request.host_id, request.host)
        folder = partial(self._folders.of, tree, request.im_mad)
        arguments = [request.im_mad or self._name, str(request.host_id), request.host]
        end = f"<HOST_ID>{request.host_id}</HOST_ID></MONITOR_CONFIGURATION>".encode()
        stdin = request.document.replace(b"</MONITOR_CONFIGURATION>", end)
        async with _slot(self._slots[tree.folder]):
            last = memory.last if tree.is_host else None
            printed = await self._run(folder, arguments, stdin, last, is_template=tree.is_template)
        self.note(request.host_id, tree.folder, printed.errors)
        return printed

    # Running

    async def _run(
        self,
        find: Callable[[], Folder],
        arguments: Sequence[str],
        stdin: bytes | None,
        last: dict[Path, str] | None,
        *,
        is_template: bool = True,
    ) -> Printed:
        """Run the probes of a folder; a failed one's output is taken from `last`, unless that is None."""
        await self._end_leftovers()
        folder = await asyncio.to_thread(find)
        if folder.problem:
            before = [last[path] for path in sorted(last) if path.parent == folder.path] if last else []
            return Printed(text=_lines(before), errors=(folder.problem,), is_complete=False)
        running = (self._run_one(path, arguments, stdin, is_template=is_template) for path in folder.probes)
        results = await asyncio.gather(*running)
        texts: list[str] = []
        errors: list[str] = []
        is_complete = True
        for path, result in zip(folder.probes, results, strict=True):
            if isinstance(result, str):
                errors.append(result)
                earlier = last.get(path) if last is not None else None
                is_complete = is_complete and earlier is not None
                texts.append(earlier or "")
            else:
                texts.append(result.stdout)
                if last is not None:
                    last[path] = result.stdout
        return Printed(text=_lines(texts), errors=tuple(errors), is_complete=is_complete)

    async def _run_one(
        self, path: Path, arguments: Sequence[str], stdin: bytes | None, *, is_template: bool
    ) -> Finished | str:
        """Return a probe's output, or lines that say why it failed; the first line names the probe."""
        command = [str(path), *arguments]
        try:
            finished = await self._runner.run(
                path,
                arguments,
                stdin=stdin,
                seconds=self._seconds,
                directory=path.parent,
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
            return "\n".join(f"probe {path.name}: {line}" for line in complaints(finished, command))
        # Text that the core cannot read would put the host into ERROR without a reason.
        attributes = await split(finished.stdout) if is_template else []
        if isinstance(attributes, str):
            return f"probe {path.name} printed no template: {attributes!r}"
        return finished

    async def _end_leftovers(self) -> None:
        """Once, before the first probe runs: end probes that a killed driver has left running."""
        async with self._beginning:
            leftovers, self._leftovers = self._leftovers, None
            if leftovers is not None and (ended := await asyncio.to_thread(leftovers.end)):
                log.warning("probes of a dead driver ended", number=ended)

    # Failures

    def note(self, host_id: int, folder: str, errors: tuple[str, ...]) -> None:
        """Note which probes of a folder fail, () for none; log only changes."""
        memory = self._memories.get(host_id)
        heads = tuple(error.partition("\n")[0] for error in errors)
        if memory is None or heads == memory.failing.get(folder, ()):
            return
        if errors:
            memory.failing[folder] = heads
            memory.failed_since.setdefault(folder, self._clock())
            for line in (line for error in errors for line in error.splitlines()):
                self._warn(f"host {host_id}: {line}")
        else:
            del memory.failing[folder], memory.failed_since[folder]
            log.info("probes work again", host=host_id, folder=folder)

    def errors(self, host_id: int) -> tuple[str, ...]:
        """Return one line for each probe of the host that fails now."""
        memory = self._memories.get(host_id)
        return tuple(error for errors in memory.failing.values() for error in errors) if memory else ()

    def is_error_due(self, host_id: int) -> bool:
        """True when probes have failed for so long that the configuration wants the host in ERROR."""
        memory = self._memories.get(host_id)
        return memory is not None and any(self._is_error_due(memory, folder) for folder in memory.failing)

    def _is_error_due(self, memory: _Memory, folder: str) -> bool:
        after = self._settings().monitor.host_error_after
        since = memory.failed_since.get(folder)
        return bool(after) and since is not None and self._clock() - since >= after


@asynccontextmanager
async def _slot(slots: asyncio.Semaphore) -> AsyncIterator[None]:
    """Occupy a slot during the block, but no longer than _SLOT_SECONDS."""
    await slots.acquire()
    is_held = True

    def give_back() -> None:
        nonlocal is_held
        if is_held:
            is_held = False
            slots.release()

    timer = asyncio.get_running_loop().call_later(_SLOT_SECONDS, give_back)
    try:
        yield
    finally:
        timer.cancel()
        give_back()


def _lines(texts: Sequence[str]) -> str:
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts if text)
