"""The composition root of the information driver, which reports on a cloud to oned up to 5.10 or to monitord."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from one_provider_mad.options import Options
from one_provider_mad.protocol.framing import Oversized
from one_provider_mad.protocol.im import parse_line, parse_oversized
from one_provider_mad.protocol.im_messages import ImRequest, Monitor, Unreadable
from one_provider_mad.protocol.messages import Control, Severity
from one_provider_mad.serving import CommonModules, Serving

if TYPE_CHECKING:
    from one_provider_mad.front_end.home import Home
    from one_provider_mad.monitor.capacity import Allocation
    from one_provider_mad.monitor.host_attributes import HostAttributes, HostTemplate
    from one_provider_mad.monitor.requests import RequestHandler
    from one_provider_mad.monitor.sender import Stamps
    from one_provider_mad.monitor.state import State, StateFile
    from one_provider_mad.monitor.sweep import Sweeper
    from one_provider_mad.monitored_cloud import MonitoredCloud
    from one_provider_mad.protocol.im_messages import StartMonitor

PROGRAM = "one_im_provider"

_SETTLED_AFTER = 1.0
"""Seconds from INIT's answer to the next unrequested line: oned reads that answer with one read (include/Driver.h)."""

_SAVE_SECONDS = 1.0
"""Seconds between two checks whether the state file must be written."""

_STAMP_SECONDS = 60.0
"""Seconds after which the state file is written for a new timestamp alone."""

_ASK_AGAIN_SECONDS = 5.0
"""Seconds until oned, when it did not list its hosts, is asked again."""

_STOP_SECONDS = 0.3
_CLOSE_SECONDS = 0.4
"""Seconds for running tasks to end when the driver ends; with the period of serving.py less than oned's second."""


def run(options: Options, *, has_stderr: bool, is_initialised: bool, begun: bytes) -> int:
    """Serve until the end of input, and return the exit code.

    Args:
        options: ARGUMENTS.
        has_stderr: stderr was open at the start, so a person may be reading it.
        is_initialised: INIT came and was answered.
        begun: the input read so far, without INIT.
    """
    daemon = _MonitorDaemon(options, has_stderr=has_stderr, is_initialised=is_initialised)
    return asyncio.run(daemon.serve(begun))


class _MonitorDaemon(Serving[ImRequest | Unreadable]):
    def __init__(self, options: Options, *, has_stderr: bool, is_initialised: bool) -> None:
        super().__init__(options, has_stderr=has_stderr, is_initialised=is_initialised)
        self._handler: RequestHandler | None = None
        self._cloud: MonitoredCloud | None = None
        self._sweeper: Sweeper | None = None
        self._host_attributes: HostAttributes | None = None
        self._keeper: _Keeper | None = None

    def _parse(self, line: bytes | Oversized) -> ImRequest | Unreadable | Control:
        return parse_oversized(line) if isinstance(line, Oversized) else parse_line(line)

    def _shows_core_is_up(self, asked: ImRequest | Unreadable) -> bool:
        # oned's timer sends MONITOR while oned starts (up to 5.10, src/im/InformationManager.cc, timer_action); oned
        # starts monitord once everything else is up (from 5.12 on, src/nebula/Nebula.cc).
        word = asked.word if isinstance(asked, Unreadable) else type(asked).__name__.upper()
        return word != Monitor.__name__.upper()

    def _accept(self, asked: ImRequest | Unreadable) -> None:
        if self._handler is None:
            raise AssertionError("a request was accepted before the set-up")
        self._handler.accept(asked)

    # Beginning

    async def _set_up(self) -> None:
        begun_at = asyncio.get_running_loop().time()
        modules = await self._imported(Modules)
        places = modules.Places.from_environment(os.environ)
        problem = self._begin_log(PROGRAM, modules, places)
        self._cloud = cloud = modules.MonitoredCloud(self._options, places, warn=self._warn)
        await cloud.load()
        file = modules.StateFile(places.var / f"{PROGRAM}_{self._options.name}.state")
        before, trouble = await asyncio.to_thread(file.load)
        is_same_parent = before is not None and before.parent == modules.Process.parent()
        stamps = modules.Stamps(time.time, before.timestamp if before is not None and is_same_parent else 0)
        sweeper = modules.Sweeper(
            cloud,
            clock=time.time,
            memory=before.memory if before else None,
            reported_names=before.reported_names if before else (),
        )
        wake = asyncio.Event()
        self._sweeper = sweeper
        sweeper.costs.tell = self._warn
        sweeper.costs.may_book = self._is_initialised  # a person's trial books nothing
        self._host_attributes = modules.HostAttributes(places.var / "remotes")
        self._handler = handler = modules.RequestHandler(
            sweeper=sweeper,
            source=cloud,
            output=self._writer,
            stamps=stamps,
            on_hosts=wake.set,
            host_attributes=self._host_attributes,
        )
        self._writer.dropped = handler.dropped
        handler.core_is_up = self._core.is_up
        self._keeper = _Keeper(modules, file, handler=handler, sweeper=sweeper, stamps=stamps, wake=wake)
        for sentence in filter(None, (problem, trouble)):
            self._warn(sentence)
        await self._begin_metrics(PROGRAM, places, warn=self._warn, measure=handler.measure)
        self._begin_to_take()
        if not self._is_initialised:
            return  # a person at a pipe must not change the state of a driver in service
        if before is not None and before.hosts and is_same_parent:
            self._start(partial(self._resume, before, begun_at), "resume")
            before = None
        self._start(self._keeper.keep, "remember")
        self._start(partial(self._know_core, handler, self._keeper, before, begun_at), "know the core")

    async def _know_core(self, handler: RequestHandler, keeper: _Keeper, before: State | None, begun_at: float) -> None:
        """Stop reports while another front-end leads, and report on all of oned's hosts while this one does.

        Args:
            handler: keeps the schedules.
            keeper: replaces the state file once oned's hosts are known.
            before: state that the driver of another monitord left, None for none.
            begun_at: loop time of this driver's start.
        """
        may_ask = await self._may_ask_opennebula()
        if self._host_attributes is not None:
            self._host_attributes.may_ask = may_ask
        if not may_ask:
            keeper.begin()
            return
        await asyncio.to_thread(import_module, "one_provider_mad.xmlrpc.leadership")
        from one_provider_mad.xmlrpc.leadership import Leadership

        begins_to_lead = asyncio.Event()

        def lead(held: bool) -> None:  # noqa: FBT001 - Leadership's own form
            handler.set_silent(is_silent=held)
            if self._sweeper is not None:
                self._sweeper.home.look = None if held else self._look_at_home
                if held:
                    self._sweeper.costs.leave()
            if held:
                begins_to_lead.clear()
                self._forget_home()
            else:
                begins_to_lead.set()

        await self._core.is_up.wait()  # until then nothing answers, and the pauses between tries grow
        await self._until_settled(begun_at)
        if self._sweeper is not None:
            self._sweeper.set_allocations(_allocations)
            self._sweeper.home.tell = self._warn
        if self._host_attributes is not None:
            self._host_attributes.templates = _host_template
        self._start(partial(Leadership(os.environ, warn=self._warn).watch, lead), "leadership")
        self._start(partial(self._take_up_hosts, handler, keeper, before, begins_to_lead), "take up hosts")

    def _forget_home(self) -> None:
        if self._sweeper is not None:
            self._sweeper.home.forget()

    async def _look_at_home(self) -> Home:
        """Return the state of the hosts that are no cloud's. Raises MadError."""
        return await asyncio.to_thread(_read_home, self._options.name)

    async def _take_up_hosts(
        self, handler: RequestHandler, keeper: _Keeper, before: State | None, begins_to_lead: asyncio.Event
    ) -> None:
        """Monitor oned's hosts whenever this front-end begins to lead, since monitord may never name them."""
        from one_provider_mad.errors import MadError

        complaint = ""
        while True:
            await begins_to_lead.wait()
            begins_to_lead.clear()  # cleared before the core is asked: it may be set again meanwhile
            try:
                await self._take_up(handler, before.hosts if before is not None else ())
            except MadError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    self._warn(f"hosts that monitord does not name are not monitored: {error}")
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
                if not handler.is_silent:
                    begins_to_lead.set()
            keeper.begin()

    async def _take_up(self, handler: RequestHandler, before: tuple[StartMonitor, ...]) -> None:
        """Ask oned for its hosts once, and monitor them. Raises MadError."""
        from one_provider_mad.monitor.core_hosts import FIRST_WITH_MONITORD, wanted_hosts
        from one_provider_mad.xmlrpc.local import LocalCore
        from one_provider_mad.xmlrpc.release import release_of

        core, asked_at = LocalCore(os.environ), asyncio.get_running_loop().time()
        version = await asyncio.to_thread(core.call, "one.system.version")
        if release_of(version) < FIRST_WITH_MONITORD:
            return
        pool = await asyncio.to_thread(core.document, "one.hostpool.info")
        known = [*handler.hosts, *before]
        im_mads = {self._options.name, *(request.im_mad for request in known)}
        self._writer.open()
        handler.start_wanted_hosts(wanted_hosts(pool, im_mads=im_mads, known=known), asked_at=asked_at)

    async def _until_settled(self, begun_at: float) -> None:
        await asyncio.sleep(max(0.0, begun_at + _SETTLED_AFTER - asyncio.get_running_loop().time()))

    async def _resume(self, before: State, begun_at: float) -> None:
        """Resume the monitoring of a dead process: monitord sends nothing to a restarted driver."""
        await self._until_settled(begun_at)
        self._writer.open()
        if self._handler is not None:
            self._handler.resume(before.hosts)
        if self._keeper is not None:
            self._keeper.begin()

    def _warn(self, sentence: str) -> None:
        """Write a warning to this driver's log and to the log of oned or monitord."""
        if self._handler is not None:
            self._handler.write_log(Severity.WARNING, sentence)

    # Ending

    async def _drain(self) -> None:
        if self._handler is not None:
            await self._handler.drained()
        await self._writer.drained()

    def _hold(self) -> None:
        """Return once oned or monitord ends the driver: reports go on until then, since they change nothing."""

    async def _shut_down(self) -> None:
        if self._cloud is not None:
            self._cloud.kill()  # first: a probe that ignores SIGTERM would outlive this process
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                if self._handler is not None:
                    await self._handler.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._keeper is not None:
                    await self._keeper.save()
                if self._cloud is not None:
                    await self._cloud.close()


async def _allocations(host_ids: Collection[int]) -> Mapping[int, Allocation]:
    """Return the capacity that OpenNebula has allocated on these hosts. Raises MadError."""
    from one_provider_mad.monitor.core_hosts import allocation_of
    from one_provider_mad.xmlrpc.local import LocalCore

    core = LocalCore(os.environ)
    return {
        host_id: allocation_of(await asyncio.to_thread(core.document, "one.host.info", host_id)) for host_id in host_ids
    }


def _read_home(name: str) -> Home:
    """Ask OpenNebula for the state of the hosts that are no cloud's. Blocks; raises MadError."""
    from one_provider_mad.front_end.home import home_of
    from one_provider_mad.front_end.pools import read_front_end
    from one_provider_mad.settings import Places, known_names
    from one_provider_mad.xmlrpc.local import LocalCore

    names = known_names(Places.from_environment(os.environ, may_create=False))
    return home_of(read_front_end(LocalCore(os.environ)), vm_mads={name, *names})


async def _host_template(host_id: int) -> HostTemplate:
    """Return what OpenNebula has of a host. Raises MadError."""
    from one_provider_mad.monitor.core_hosts import template_of
    from one_provider_mad.xmlrpc.local import LocalCore

    return template_of(await asyncio.to_thread(LocalCore(os.environ).document, "one.host.info", host_id))


class _Keeper:
    """Writes the state file, from which the next process resumes, whenever the state has changed."""

    def __init__(
        self,
        modules: Modules,
        file: StateFile,
        *,
        handler: RequestHandler,
        sweeper: Sweeper,
        stamps: Stamps,
        wake: asyncio.Event,
    ) -> None:
        self._modules = modules
        self._file = file
        self._handler = handler
        self._sweeper = sweeper
        self._stamps = stamps
        self._wake = wake
        self._parent = modules.Process.parent()
        self._saved: State | None = None
        self._may_save = False
        self._complaint = ""

    def begin(self) -> None:
        """Allow writes: the hosts are known, so that the state of a dead process may be replaced."""
        self._may_save = True
        self._wake.set()

    async def keep(self) -> None:
        """Save until cancelled: new hosts at once, other changes every second."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SAVE_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            await self.save()

    async def save(self) -> None:
        """Save the state if it has changed."""
        state = self._modules.State(
            parent=self._parent,
            hosts=self._handler.hosts,
            memory=self._sweeper.memory,
            timestamp=self._stamps.latest,
            reported_names=tuple(sorted(self._sweeper.stale_names.names)),
        )
        if not self._may_save or not self._is_news(state):
            return
        complaint = await asyncio.to_thread(self._file.save, state)
        if complaint and complaint != self._complaint:
            self._handler.write_log(Severity.WARNING, complaint)
        self._complaint = complaint
        self._saved = state

    def _is_news(self, state: State) -> bool:
        saved = self._saved
        return (
            saved is None
            or state.hosts != saved.hosts
            or state.memory.vms != saved.memory.vms
            or state.memory.held_since != saved.memory.held_since
            or state.reported_names != saved.reported_names
            or state.timestamp - saved.timestamp >= _STAMP_SECONDS
        )


class Modules(CommonModules):
    """The modules that are imported after INIT. Raises ImportError, or OSError for a file that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        from one_provider_mad.monitor.host_attributes import HostAttributes
        from one_provider_mad.monitor.requests import RequestHandler
        from one_provider_mad.monitor.sender import Stamps
        from one_provider_mad.monitor.state import State, StateFile
        from one_provider_mad.monitor.sweep import Sweeper
        from one_provider_mad.monitored_cloud import MonitoredCloud
        from one_provider_mad.processes import Process

        self.HostAttributes = HostAttributes
        self.RequestHandler = RequestHandler
        self.MonitoredCloud = MonitoredCloud
        self.Process = Process
        self.Stamps = Stamps
        self.State = State
        self.StateFile = StateFile
        self.Sweeper = Sweeper
