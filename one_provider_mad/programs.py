"""What oned starts. Readies the process before anything else can open a file, then hands over to the daemon.

oned starts a driver with fd 2 closed, every signal blocked and descriptors of its own left open (OpenNebula
src/mad/Mad.cc, include/Driver.h): the first file a careless program opens would become its stderr, SIGTERM would
never arrive, and monitord's port would stay busy. So the rest of the program is imported only when that is put right.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

from one_provider_mad import __version__
from one_provider_mad.protocol.handshake import INIT, INIT_SUCCESS

STDIN, STDOUT, STDERR = 0, 1, 2

_MANY = 4096
"""Where /proc is missing, leaked descriptors are looked for below this."""

USAGE = """\
one_vmm_provider answers OpenNebula's VM actions: one request line on stdin, one reply line on stdout.

oned starts it, from a VM_MAD section whose ARGUMENTS are: [-t THREADS] [-r RETRIES] [-w SECONDS] NAME
  -t, --threads    how many actions run at once (15)
  -r, --retries    how often a call that failed for a passing reason is tried again (0)
  -w, --timeout    seconds an action may take, 0 for ever (600 for DEPLOY, 300 for the others)
  NAME             the configuration: NAME.toml in $ONE_PROVIDER_MAD_CONF or /etc/one/one_provider_mad
The other options of one_vmm_exec and one_vmm_sh are accepted as well.

To see it work by hand, on the embedded cloud:
  one-provider encode DEPLOY --vm-id 7 | one_vmm_provider "-t 15 -r 0 simulated" | one-provider decode
"""

IM_USAGE = """\
one_im_provider reports a cloud and its instances to OpenNebula as a host and its VMs.

oned up to 5.10, and monitord from 5.12 on, start it from an IM_MAD section whose ARGUMENTS are: NAME
  NAME             the configuration: NAME.toml in $ONE_PROVIDER_MAD_CONF or /etc/one/one_provider_mad
The options of one_im_exec and one_im_sh are accepted as well.

To see it work by hand, on the embedded cloud:
  echo MONITOR 0 cloud /var/lib/one/datastores 1 | one_im_provider simulated | cut -d ' ' -f 4 | base64 -d
"""


def one_vmm_provider() -> None:
    """Be the driver for VM actions until the core lets go. Never returns."""
    sys.exit(_run("one_vmm_provider", USAGE))


def one_im_provider() -> None:
    """Be the driver for information until the core lets go. Never returns."""
    sys.exit(_run("one_im_provider", IM_USAGE))


def _run(program: str, usage: str) -> int:
    """Ready the process, serve, and tell the exit code; whatever happens, no traceback is shown."""
    try:
        has_stderr = prepare_process()
        if text := _text_for_a_person(sys.argv[1:], usage):
            os.write(STDOUT, text.encode())
            return 0
        # Until the daemon can deal with it, it waits: it may come right after INIT was answered.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        begun = _read_begun()
        return _serve(program, sys.argv[1:], has_stderr=has_stderr, begun=begun)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        _complain(f"{program}: {error}; is it installed for {sys.executable}?")
    except Exception as error:  # noqa: BLE001  (the last resort: oned shows nobody a traceback)
        _complain(f"{program}: stopped by an unexpected {_describe(error)}")
    return 1


def _serve(program: str, argv: list[str], *, has_stderr: bool, begun: bytes) -> int:
    is_initialised = begun == INIT
    if is_initialised:
        # oned does nothing else until then; what comes now takes longer than all that came before.
        with suppress(OSError):  # whoever asked may be gone: the daemon sees that too, and ends in order
            os.write(STDOUT, INIT_SUCCESS)
    if program == "one_im_provider":
        from one_provider_mad.monitor_daemon import run
    else:
        from one_provider_mad.daemon import run
    from one_provider_mad.options import parse_arguments

    options = parse_arguments(argv)
    return run(options, has_stderr=has_stderr, is_initialised=is_initialised, begun=b"" if is_initialised else begun)


def _read_begun() -> bytes:
    """Read as much as INIT is long of what is there already: oned writes INIT as soon as there is a process."""
    try:
        is_there = select.select([STDIN], [], [], 0)[0]
        return os.read(STDIN, len(INIT)) if is_there else b""
    except OSError:
        return b""


def prepare_process() -> bool:
    """Make descriptors and signals what a program expects them to be; tell whether fd 2 was open at the start.

    Afterwards fds 0 to 2 are open and no other is, no signal is blocked, and `sys.stdout` leads to stderr, so that no
    library's print can reach the protocol, which keeps fd 1.
    """
    has_stderr = _is_open(STDERR)
    for descriptor in (STDIN, STDOUT, STDERR):
        if not _is_open(descriptor):
            _open_null(descriptor)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would swallow the exit codes of scripts
    _close_leaked()
    if sys.stderr is None:  # Python's answer to a closed fd 2
        sys.stderr = open(STDERR, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr
    return has_stderr


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_null(descriptor: int) -> None:
    """Put /dev/null there, for children too."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)  # noqa: FBT003  (os takes no keyword here)
    else:
        os.dup2(null, descriptor)
        os.close(null)


def _close_leaked() -> None:
    """Close everything from 3 on. /proc names what is open; counting to the limit could take seconds."""
    try:
        leaked = [int(entry) for entry in os.listdir("/proc/self/fd")]  # noqa: PTH208  (pathlib is not loaded)
    except OSError:
        leaked = [*range(min(os.sysconf("SC_OPEN_MAX"), _MANY))]
    for descriptor in leaked:
        if descriptor > STDERR:
            os.closerange(descriptor, descriptor + 1)  # unlike close, it does not mind what is closed already


def _text_for_a_person(argv: list[str], usage: str) -> str:
    """What `--help` or `--version`, alone, asks for; "" otherwise."""
    if argv in (["-h"], ["--help"]):
        return usage
    if argv == ["--version"]:
        return f"one-provider-mad {__version__}\n"
    return ""


def _describe(error: Exception) -> str:
    """The error in one line, with the place it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace else "place unknown"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({place})"


def _complain(sentence: str) -> None:
    """Say it on fd 2, or to nobody."""
    with suppress(OSError):
        os.write(STDERR, f"{sentence}\n".encode(errors="backslashreplace"))
