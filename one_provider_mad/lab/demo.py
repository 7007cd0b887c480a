"""`one-provider demo`: a VM's life in the simulated cloud, through the real drivers, started as by OpenNebula."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from one_provider_mad.cli.asked_cloud import ask
from one_provider_mad.cli.console import console_text
from one_provider_mad.cli.console_lines import console_lines
from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.driver_message import wire_line
from one_provider_mad.cli.instances import collect
from one_provider_mad.cli.verbs import LCM_NUMBERS
from one_provider_mad.lab.demo_home import HOME, cloud_host, placements
from one_provider_mad.lab.demo_life import SIMULATED, Play, Step
from one_provider_mad.lab.demo_monitor import Watcher
from one_provider_mad.lab.demo_price import price_line, price_of_vm
from one_provider_mad.protocol.messages import Control, LogLine, Malformed, Reply
from one_provider_mad.protocol.vmm import parse_reply

PATIENCE = 60.0
"""Most seconds for a step, else the demonstration fails; a step takes well under one."""

VM_ID = 42

_SHOWN_OF_LINE = 46
_SHOWN_OF_LOG = 15

_PRICE_CALLS = 6
"""Slow calls for which it waits: a listing, types, prices, volumes."""


class DemoFailed(click.ClickException):
    """A step of the demonstration failed; the message is one sentence."""


@click.command("demo", short_help="Play a VM's life on the simulated cloud.")
@click.option("--ec2", "is_ec2", is_flag=True, help="Play it with the provider ec2, on an EC2 endpoint of its own.")
@click.option("--keep", is_flag=True, help="Keep the folder with the cloud, the journal and the log.")
def command(is_ec2: bool, keep: bool) -> None:
    """Start both drivers as OpenNebula does, and play a VM's life with them on the simulated cloud.

    Nothing outside a temporary folder is touched, and nothing costs money.
    """
    folder = Path(tempfile.mkdtemp(prefix="one-provider-demo-"))
    try:
        with _stage(folder, is_ec2=is_ec2) as play:
            _furnish(folder, play)
            _play(folder, play)
    except DemoFailed:
        for line in _end_of_log(folder):
            click.echo(f"    {printable(line)}", err=True)
        raise
    finally:
        if keep:
            click.echo(f"kept: {folder}")
            if not is_ec2:
                click.echo(f"see also: ONE_LOCATION={folder} one-provider instances --all {SIMULATED.name}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _stage(folder: Path, *, is_ec2: bool) -> Iterator[Play]:
    """Yield the demonstration to play; with `is_ec2` an EC2 endpoint serves until it ends."""
    if not is_ec2:
        yield SIMULATED
        return
    from one_provider_mad.lab.demo_ec2 import NoBotocore, ec2_stage

    with ExitStack() as stack:
        try:
            play = stack.enter_context(ec2_stage(folder))
        except NoBotocore as error:
            raise DemoFailed(str(error)) from error
        click.echo(f"{click.style('serve', bold=True)}  {play.stage}")
        yield play


def _furnish(folder: Path, play: Play) -> None:
    """Make the folder look like a self-contained OpenNebula."""
    configuration = folder / "etc" / "one_provider_mad"
    configuration.mkdir(parents=True)
    (folder / "var").mkdir()
    file = configuration / f"{play.name}.toml"
    file.touch(mode=0o600)
    file.write_text(play.settings)


def _play(folder: Path, play: Play) -> None:
    begun = time.monotonic()
    with _started(folder, "one_vmm_provider", play) as process, _started(folder, "one_im_provider", play) as monitor:
        driver, watcher = _Driver(process, play), Watcher(monitor)
        driver.greet()
        _show_placement(play, _begin_to_watch(watcher))
        deploy_id = ""
        for step in play.life:
            deploy_id = driver.perform(step, deploy_id) or deploy_id
            if step.reported:
                _show_reported(watcher, step)
            if step is play.life[0]:
                _show_login(folder, play)
                _show_price(folder, play)
        driver.finish()
    left = collect(play.name, {"ONE_LOCATION": str(folder)}, is_all=False)
    if left:
        raise DemoFailed(f"the cloud still has {left[0]['deploy_id']}, which was to be terminated")
    verdict = f"{len(play.life)} actions, all answered SUCCESS; no instance is left in the cloud"
    click.echo(click.style(verdict, fg="green") + _took(begun))


# The information driver


def _begin_to_watch(watcher: Watcher) -> str:
    """Ask for reports; return what the first one says of the host."""
    begun = time.monotonic()
    watcher.say(b"INIT")
    click.echo(f"{click.style('monitor', bold=True)}: report on this host from now on, as monitord asks for it")
    click.echo(f"  {_arrow('>')} {_shortened(watcher.start().decode())}")
    report = watcher.wait(lambda report: report.word == "SYSTEM_HOST" and "TOTALCPU" in report.text, PATIENCE)
    if report is None:
        raise DemoFailed("the information driver did not say what the host is")
    click.echo(f"  {_arrow('<')} SYSTEM_HOST {printable(' '.join(report.text.split()))}{_took(begun)}")
    return report.text


def _show_placement(play: Play, report: str) -> None:
    """Show where OpenNebula's scheduler places this VM, and the two before it that fill the host at home."""
    click.echo(f"{click.style('place', bold=True)}: home has CPUs for two VMs, the next goes to the cloud")
    lines = placements(cloud_host(play.name, report), range(VM_ID - int(HOME.cpus), VM_ID + 1))
    for line in lines:
        click.echo(f"  {_arrow('.')} {line}")
    if not lines[-1].endswith(f"-> {play.name}"):
        raise DemoFailed(f"the scheduler would not place the VM in the cloud: {lines[-1]}")


def _show_login(folder: Path, play: Play) -> None:
    """Show the instance's console: what its guest was told, so that its user can log in."""
    click.echo(f"{click.style('log in', bold=True)}: the key of its user is in the instance")
    environ = _environ(folder, play)
    text = ask(play.name, environ, lambda cloud: console_text(cloud, VM_ID), calls=2, is_quiet=True)
    lines = [line for line in console_lines(text) if line]
    if not any(play.key in line for line in lines):
        raise DemoFailed("the instance was not told the key of its user")
    for line in lines:
        click.echo(f"  {_arrow('|')} {printable(line)}")


def _show_price(folder: Path, play: Play) -> None:
    """Show what the running instance costs."""
    click.echo(f"{click.style('price', bold=True)}: what the cloud charges while it runs")
    price = ask(
        play.name, _environ(folder, play), lambda cloud: price_of_vm(cloud, VM_ID), calls=_PRICE_CALLS, is_quiet=True
    )
    click.echo(f"  {_arrow('.')} {printable(price_line(price))}")


def _show_reported(watcher: Watcher, step: Step) -> None:
    begun = time.monotonic()
    wanted = f'STATE="{step.reported}"'
    report = watcher.wait(lambda report: report.word == "STATE_VM" and wanted in report.text, PATIENCE)
    if report is None:
        raise DemoFailed(f"the information driver did not report {step.reported} after {step.title}")
    vm = next(line for line in report.text.splitlines() if wanted in line)
    click.echo(f"  {_arrow('<')} STATE_VM {printable(vm)}{_took(begun)}")


# The driver


def launcher(name: str = "one_vmm_provider") -> Path:
    """Return a driver's program: the checkout's, else the one installed beside this Python.

    Raises:
        DemoFailed: there is no such program.
    """
    checkout = Path(__file__).resolve().parents[2] / "bin" / name
    installed = Path(sys.executable).with_name(name)
    for program in (checkout, installed):
        if os.access(program, os.X_OK):
            return program
    raise DemoFailed(f"{name} is neither at {checkout} nor at {installed}")


@contextmanager
def _started(folder: Path, name: str, play: Play) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program; end it afterwards in any case."""
    program = launcher(name)
    click.echo(f'{click.style("start", bold=True)}  {program} "{play.arguments}"')
    with _spawn(program, folder, play) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _spawn(program: Path, folder: Path, play: Play) -> subprocess.Popen[bytes]:
    try:
        # oned closes stderr; here it goes to a file, to be shown when something fails.
        with _stderr_file(folder).open("ab") as stderr:
            return subprocess.Popen(  # noqa: S603 - our own program
                [program, play.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=folder / "var",
                env=_environ(folder, play),
                bufsize=0,
            )
    except OSError as error:
        raise DemoFailed(f"{program} cannot be started: {error.strerror}") from error


def _environ(folder: Path, play: Play) -> dict[str, str]:
    """Return the environment of this process, with the demonstration's OpenNebula and cloud alone."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name != "ONE_PROVIDER_MAD_CONF" and not name.startswith("AWS_")
    }
    return {**own, **play.environ, "ONE_LOCATION": str(folder)}


class _Driver:
    """A running driver, its input and its output."""

    def __init__(self, process: subprocess.Popen[bytes], play: Play) -> None:
        self._process = process
        self._template = play.template
        self._stime = int(time.time())
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="stdout of the driver", daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        buffer = b""
        while piece := self._process.stdout.read(65536):
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                self._answers.put(line)
        self._answers.put(None)  # the driver has closed its stdout

    def greet(self) -> None:
        """Send INIT, and read its answer."""
        begun = time.monotonic()
        self._say("init", "are you ready?", wire_line("INIT"))
        line = self._hear("INIT", begun + PATIENCE)
        if parse_reply(line) is not Control.INIT:
            raise DemoFailed(f"the driver answered INIT with {printable(line.decode(errors='replace'))}")
        self._show_answer(line, begun)

    def perform(self, step: Step, deploy_id: str) -> str:
        """Carry out a step; return the deploy id in the answer to a DEPLOY, else ""."""
        begun = time.monotonic()
        line = wire_line(
            step.action,
            vm_id=VM_ID,
            release=step.release,
            name="demo",
            stime=self._stime,
            seq=step.seq,
            lcm_state=LCM_NUMBERS[step.lcm_state],
            deploy_id=deploy_id,
            operand=step.operand,
            template=self._template,
        )
        self._say(step.title, f"{step.meaning} (LCM_STATE {step.lcm_state})", line)
        reply = self._reply(step, begun)
        if not reply.is_success:
            raise DemoFailed(f"{step.title} failed: {printable(reply.info)}")
        return reply.info if step.action == "DEPLOY" else ""

    def finish(self) -> None:
        """Send FINALIZE, and wait for the end of the process."""
        begun = time.monotonic()
        self._say("finalize", "come to an end, and stdin is closed", wire_line("FINALIZE"))
        if self._process.stdin is not None:
            self._process.stdin.close()  # as oned does in the same instant
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"the driver still ran {PATIENCE:g} s after FINALIZE") from error
        if code:
            raise DemoFailed(f"the driver ended with exit code {code}")
        click.echo(f"  {_arrow('<')} exit code 0{_took(begun)}")

    def _reply(self, step: Step, begun: float) -> Reply:
        """Return the step's answer, and show LOG lines before it."""
        while True:
            line = self._hear(step.title, begun + PATIENCE)
            self._show_answer(line, begun)
            message = parse_reply(line)
            if isinstance(message, Reply) and (message.word, message.vm_id) == (step.action, VM_ID):
                return message
            if not isinstance(message, LogLine):
                reason = f": {message.reason}" if isinstance(message, Malformed) else ""
                raise DemoFailed(f"{step.title} was answered with a line that is no answer to it{reason}")

    def _say(self, title: str, meaning: str, line: bytes) -> None:
        text = line.decode().rstrip("\n")
        click.echo(f"{click.style(title, bold=True)}: {meaning}")
        click.echo(f"  {_arrow('>')} {_shortened(text)}")
        with suppress(BrokenPipeError):  # the caller reports the missing answer
            if self._process.stdin is not None:
                self._process.stdin.write(line)

    def _hear(self, what: str, deadline: float) -> bytes:
        try:
            line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DemoFailed(f"the driver did not answer {what} within {PATIENCE:g} s") from None
        if line is None:
            raise DemoFailed(f"the driver ended without answering {what}{self._exit_code()}")
        return line

    def _exit_code(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            return f", exit code {self._process.wait(1)}"
        return ""

    @staticmethod
    def _show_answer(line: bytes, begun: float) -> None:
        click.echo(f"  {_arrow('<')} {printable(line.decode(errors='replace'))}{_took(begun)}")


# How it looks


def _arrow(direction: str) -> str:
    return click.style(direction, dim=True)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_OF_LINE else f"{text[:_SHOWN_OF_LINE]}… ({len(text)} bytes)"


def _took(begun: float) -> str:
    return click.style(f"  [{time.monotonic() - begun:.2f} s]", dim=True)


def _stderr_file(folder: Path) -> Path:
    return folder / "var" / "stderr.log"


def _end_of_log(folder: Path) -> Iterator[str]:
    """Yield the last lines of the driver's stderr and log."""
    for file in sorted((folder / "var").glob("*.log")):
        with suppress(OSError):
            lines = file.read_text(errors="replace").splitlines()[-_SHOWN_OF_LOG:]
            if lines:
                yield f"the end of {file.name}:"
                yield from lines
