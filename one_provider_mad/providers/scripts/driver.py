"""`scripts`: carries out each action with a directory of scripts, in upstream's order, all on this machine."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import structlog

from one_provider_mad.characters import UNWRITTEN
from one_provider_mad.errors import RequestRefused, SettingsError
from one_provider_mad.providers.interface import ProviderContext, ProviderFactory, VerbatimRequest
from one_provider_mad.providers.scripts.message import Message, read_message
from one_provider_mad.providers.scripts.release import Release, read_version
from one_provider_mad.providers.scripts.sequences import (
    DEPLOYED,
    LIVE_SNAPSHOT,
    NAME,
    Kind,
    Step,
    main_action,
    sequence,
)
from one_provider_mad.providers.scripts.settings import ScriptsSettings
from one_provider_mad.scripting import outcome
from one_provider_mad.scripting.environment import script_environment
from one_provider_mad.scripting.leftovers import Leftovers
from one_provider_mad.scripting.runner import CannotRun, Finished, Runner, prepare_for_many
from one_provider_mad.workers import Workers

log = structlog.get_logger()

LOCAL_ACTIONS = (
    "deploy,shutdown,reboot,cancel,save,restore,migrate,poll,pre,post,clean,snapshotcreate,snapshotrevert,"
    "snapshotdelete,attach_nic,detach_nic,reset,prereconfigure,reconfigure,attach_disk,detach_disk,resize_disk,"
    "update_sg,update_nic,resize"
)
"""Actions that one_vmm_sh of 7.4 runs on the front-end without `-l` (src/vmm_mad/exec/one_vmm_sh)."""

_FILES = {
    "snapshotcreate": "snapshot_create",
    "snapshotrevert": "snapshot_revert",
    "snapshotdelete": "snapshot_delete",
}
"""Actions in `-l` whose script has another name."""

DUMMY = "dummy"
"""The transfer and the network driver that do nothing."""

_LINE = 45
"""Bytes in a line of base64 up to 5.10: 60 letters."""

_LARGE = 128 * 1024
"""Bytes from which on a message is parsed in a thread, since it would block the loop for a millisecond."""

_LARGEST_DEPLOYMENT = 16 * 1024 * 1024
_READ_SECONDS = 60.0
"""Limits of a deployment file: bytes, and seconds for reading it if ARGUMENTS has no `-w`; beyond them deploy fails."""

_READERS = 4

NOTHING = "-"
"""Payload of a reply without a result; after a DEPLOY oned would store it as the VM's id."""

# Characters that XML, OpenNebula or the line would lose or change: markup, all control characters, a byte order mark,
# and bytes that are not UTF-8, which are read as surrogates.
_UNFIT = re.compile(
    "[<&]|]]>|[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)

Log = Callable[[str, str], None]


class StepFailed(RequestRefused):
    """A step did not succeed; the sentence is its script's."""


class ScriptsDriver:
    """A directory of action scripts.

    Args:
        context: names and directories.
        settings: the table `[scripts]`.
    """

    name: str = NAME

    def __init__(self, context: ProviderContext, settings: ScriptsSettings) -> None:
        self._context = context
        self._settings = settings
        self._remotes = Path(settings.remotes) if settings.remotes else context.state_directory / "remotes"
        self._installed: Release | None = None
        self._local = _local_actions(context.arguments.local_actions or LOCAL_ACTIONS)
        self.runner = Runner(context.state_directory, {})
        self.readers = Workers(_READERS, name="deployment files")

    async def open(self) -> None:
        """Read the scripts' environment, and the release of this front-end."""
        prepare_for_many()
        version = self._context.state_directory / "remotes" / "VERSION"
        self._installed = await asyncio.to_thread(read_version, version)
        environment = await asyncio.to_thread(
            script_environment,
            os.environ,
            etc=self._context.system_directory,
            files=("defaultrc", "vmm_exec/vmm_execrc"),
            proxy=self._context.arguments.proxy,
            warn=self._context.warn,
        )
        folder = self._context.state_directory / f"one_provider_mad_{self._context.name}.scripts"
        leftovers = Leftovers(folder)
        ended = await asyncio.to_thread(leftovers.end)
        if ended:
            self._context.warn(f"{ended} scripts of a driver that was killed still ran and were ended")
        self.runner = Runner(self._context.state_directory, environment, leftovers=leftovers)

    async def close(self) -> None:
        """End every script that still runs."""
        self.runner.kill()
        self.readers.shutdown(wait=False, cancel_futures=True)

    async def perform(self, request: VerbatimRequest, log: Log) -> str:
        """Run the steps of an action, and their undo steps when one fails.

        Raises:
            RequestRefused: a step failed, with its script's message; or the message lacks a required value.
            NotSupported: upstream's drivers have no such action.
        """
        read = partial(
            read_message,
            request.request,
            request.message,
            dialect=request.dialect,
            installed=self._installed,
        )
        message = read() if len(request.message) < _LARGE else await asyncio.to_thread(read)
        steps = sequence(request.action, message)
        action = _Action(self, message, main_action(request.action), log)
        if request.action == "DEPLOY":
            await action.read_deployment_file()
        return await action.perform(steps)

    @property
    def is_busy(self) -> bool:
        """True while a script runs."""
        return self.runner.is_busy

    # Settings for the steps

    @property
    def skips_transfer(self) -> bool:
        """Return True if transfer steps are turned off."""
        return self._settings.transfer == "skip"

    @property
    def timeout(self) -> float | None:
        """Return the seconds that one script may run, None for no limit."""
        return self._context.arguments.timeout

    def path(self, step: Step, driver: str) -> Path:
        """Return the path of a step's script.

        Raises:
            StepFailed: the step needs another machine, or its name is no word of a path.
        """
        if step.kind is Kind.TRANSFER:
            return _transfer_script(self._remotes / "tm" / _plain(driver), _plain(step.arguments[0]))
        script = self._local.get(step.action)
        if script is None and f"{driver}-{step.action}" in self.words("VNMAD_LOCAL_ACTIONS"):
            script = step.action
        if script is None:
            raise StepFailed(f"{step.action} would need ssh: -l of ARGUMENTS does not name it, and all else runs here")
        if step.kind is Kind.NETWORK:
            return self._remotes / "vnm" / _plain(driver) / script
        return self._remotes / "vmm" / self._context.name / script

    def words(self, variable: str) -> list[str]:
        """Return the words of a variable of vmm_execrc."""
        return self.runner.environment.get(variable, "").split()


class _Action:
    """One action in progress."""

    def __init__(self, driver: ScriptsDriver, message: Message, main: str, log: Log) -> None:
        self._driver = driver
        self._message = message
        self._main = main
        self._log = log
        self._payload = NOTHING
        self._deployed = ""
        self._regret: tuple[Step, ...] = ()
        self._deployment = b""

    async def read_deployment_file(self) -> None:
        """Read the file for deploy before the first step; in every release a missing one is a failure."""
        path = Path(self._message.field("LOCAL_DEPLOYMENT_FILE"))
        loop = asyncio.get_running_loop()
        try:
            # In threads for these files only: a file server that hangs must not block other reads.
            async with asyncio.timeout(self._driver.timeout or _READ_SECONDS):
                self._deployment = await loop.run_in_executor(self._driver.readers, _read_deployment_file, path)
        except TimeoutError as error:
            raise StepFailed(f"Cannot open deployment file {path}: it took too long") from error

    async def perform(self, steps: Sequence[Step]) -> str:
        try:
            for step in steps:
                try:
                    await self._run(step)
                except StepFailed:
                    if step.may_fail:
                        continue
                    await self._undo(step.undo)
                    raise
        except asyncio.CancelledError:
            # OpenNebula will never learn the id of the VM that deploy has created, so it is cancelled.
            await self._undo(self._regret)
            raise
        return self._payload

    async def _undo(self, steps: Sequence[Step]) -> None:
        for step in steps:
            try:
                await self._run(step)
            except StepFailed:
                continue  # the failure is logged; the other steps may still succeed

    async def _run(self, step: Step) -> None:
        if step.kind is Kind.TRANSFER and self._driver.skips_transfer:
            return
        try:
            finished = [await self._run_script(step, driver) for driver in step.drivers or ("",)][-1]
        except StepFailed as error:
            log.info("step failed", vm=self._message.request.vm_id, step=step.action, reason=str(error))
            self._log_step(step, "Failed to execute")
            raise
        self._log_step(step, "Successfully execute")
        if step.action == self._main:
            self._payload = outcome.payload(finished)
        if step.action == "deploy":
            await self._note_deployed(step, outcome.first_word(finished))

    def _log_step(self, step: Step, result: str) -> None:
        if step.is_logged:
            self._log("I", f"{result} {step.kind.value} operation: {step.action}.")

    async def _note_deployed(self, step: Step, word: str | None) -> None:
        """Keep the first word that deploy printed as the id, unless oned cannot store it (src/vm/VirtualMachine.cc)."""
        if word is None:
            raise StepFailed("deploy printed a blank line and no id, so OpenNebula would not know what it has made")
        self._deployed = word
        log.info("deployed", vm=self._message.request.vm_id, id=self._deployed)
        if self._deployed == NOTHING:
            self._log("W", "deploy printed no id, so OpenNebula keeps - as the id of this VM")
            return
        self._regret = step.regret
        if _UNFIT.search(self._deployed) or UNWRITTEN.search(self._deployed):
            await self._undo(self._regret)
            raise StepFailed(
                f"deploy printed an id that OpenNebula cannot keep ({self._deployed!r}), so it was cancelled"
            )

    async def _run_script(self, step: Step, driver: str) -> Finished:
        path = self._driver.path(step, driver)
        if step.action == LIVE_SNAPSHOT:
            self._check_live_snapshot()
        if driver == DUMMY and (step.kind is Kind.TRANSFER or not _is_there(path)):
            return Finished(code=0)
        arguments = self._arguments(step)
        command = [str(path), *arguments]
        try:
            stdin = await self._stdin(step)
            finished = await self._driver.runner.run(
                path,
                arguments,
                stdin=stdin,
                seconds=self._driver.timeout,
                is_remembered=step.kind is Kind.VIRTUALIZATION and step.action != "poll",
            )
        except CannotRun as error:
            self._log("E", str(error))
            raise StepFailed(str(error)) from error
        if finished.is_timeout:
            self._log("E", f"Timeout executing {outcome.described(command)}")
        elif finished.code:
            self._log("E", f"Command execution failed (exit code: {finished.code}): {outcome.described(command)}")
        # A POLL that succeeds is not logged: oned asks every minute.
        if finished.code or finished.is_timeout or step.action != "poll":
            for letter, text in outcome.log_lines(finished):
                self._log(letter, text)
        if finished.is_timeout:
            raise StepFailed(f"Timeout executing {outcome.described(command)}")
        if finished.code:
            raise StepFailed(outcome.reason(finished, command))
        return finished

    def _arguments(self, step: Step) -> list[str]:
        given = [self._deployed if argument is DEPLOYED else argument for argument in step.arguments]
        if step.kind is Kind.TRANSFER:
            return given[1:]
        return given if step.host is None else [*given, str(self._message.request.vm_id), step.host]

    def _check_live_snapshot(self) -> None:
        """Refuse a live snapshot, as upstream does, unless LIVE_DISK_SNAPSHOTS allows this pair of drivers."""
        message = self._message
        pair = f"{message.driver_name}-{message.request.operand.get('TM_MAD', '')}"
        if pair not in self._driver.words("LIVE_DISK_SNAPSHOTS"):
            raise StepFailed(f"Cannot perform a live DISKSNAPSHOTCREATE: LIVE_DISK_SNAPSHOTS does not name {pair}")

    async def _stdin(self, step: Step) -> bytes | None:
        """Return the script's input, in base64."""
        content = self._content(step)
        if content is None:
            return None
        is_in_lines = step.kind is Kind.VIRTUALIZATION and not self._message.since(5, 12)
        encode = _in_lines if is_in_lines else base64.b64encode
        return encode(content) if len(content) < _LARGE else await asyncio.to_thread(encode, content)

    def _content(self, step: Step) -> bytes | None:
        """Return the script's input; none up to 4.14, and for a network driver up to 5.8."""
        match step.kind:
            case Kind.TRANSFER:
                return step.stdin
            case Kind.NETWORK:
                return self._message.network_document() if self._message.since(5, 10) else None
            case Kind.VIRTUALIZATION if self._message.since(5):
                return self._deployment if step.action == "deploy" else self._message.document
        return None


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)  # unlike Path.exists, it accepts names that no file can have


def _in_lines(content: bytes) -> bytes:
    """Return `content` in base64, in the lines that Ruby's Base64.encode64 writes."""
    return b"".join(binascii.b2a_base64(content[at : at + _LINE]) for at in range(0, len(content), _LINE))


def _read_deployment_file(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO may have no writer
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            is_ordinary = stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _LARGEST_DEPLOYMENT
            content = file.read(_LARGEST_DEPLOYMENT) if is_ordinary else b""
    except OSError as error:
        raise StepFailed(f"Cannot open deployment file {path}: {error.strerror}") from error
    if not content:
        raise StepFailed(f"Cannot open deployment file {path}: it is empty, too large, or no file")
    return content


def _transfer_script(directory: Path, command: str) -> Path:
    """Return `clone.ssh` if it exists, else `clone`: the part after the dot is the system datastore's driver."""
    path = directory / command
    return path if "." not in command or _is_there(path) else directory / command.rpartition(".")[0]


def _plain(name: str) -> str:
    """Return a driver's name from a message; raise StepFailed for one that is no plain file name."""
    if not name or "/" in name or name in (".", ".."):
        raise StepFailed(f"{name!r} is no name of a driver")
    return name


def _local_actions(text: str) -> dict[str, str]:
    """Parse `-l`: the actions that run on this machine, each with its script's name."""
    local: dict[str, str] = {}
    for entry in text.split(","):
        action, _, script = (part.strip() for part in entry.partition("="))
        if action:
            local[action.lower()] = script or _FILES.get(action.lower(), action.lower())
    return local


class _Factory:
    settings_type = ScriptsSettings

    def __call__(self, context: ProviderContext, settings: ScriptsSettings) -> ScriptsDriver:
        if settings.remotes and not settings.remotes.startswith("/"):
            raise SettingsError(
                f"{context.name}.toml: scripts.remotes: expected a path that begins with /, got {settings.remotes!r}"
            )
        return ScriptsDriver(context, settings)


factory = cast("ProviderFactory", _Factory())
