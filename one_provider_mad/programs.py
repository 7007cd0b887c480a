"""Entry points of the programs that oned starts: prepare the process before any file is opened, then run the daemon.

oned starts a driver with fd 2 closed, every signal blocked and its own descriptors left open (OpenNebula
src/mad/Mad.cc, include/Driver.h): the first file that a program opens would become its stderr, SIGTERM would never
arrive, and monitord's port would stay busy. So the rest of the program is imported only after these are corrected.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from types import ModuleType

from one_provider_mad import __version__
from one_provider_mad.protocol.handshake import INIT, INIT_SUCCESS

STDIN, STDOUT, STDERR = 0, 1, 2

_MANY = 4096
"""Descriptors below this number are closed where /proc, which lists the open ones, is missing."""

USAGE = """\
one_vmm_provider answers OpenNebula's VM actions: one request line on stdin, one reply line on stdout.

oned starts it, from a VM_MAD section whose ARGUMENTS are: [-t THREADS] [-r RETRIES] [-w SECONDS] NAME
  -t, --threads    number of actions that run at once (15)
  -r, --retries    number of retries of a call that failed for a temporary reason (0)
  -w, --timeout    seconds an action may take, 0 for no limit (600 for DEPLOY, 300 for the others)
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
    """Run the driver for VM actions until the core ends it. Never returns."""
    sys.exit(_run("one_vmm_provider", USAGE))


def one_im_provider() -> None:
    """Run the information driver until the core ends it. Never returns."""
    sys.exit(_run("one_im_provider", IM_USAGE))


def _run(program: str, usage: str) -> int:
    """Prepare the process, serve, and return the exit code; no traceback is shown for any error."""
    try:
        has_stderr = prepare_process()
        stay_in_release()
        if text := _text_for_a_person(program, sys.argv[1:], usage):
            os.write(STDOUT, text.encode())
            return 0
        # SIGTERM may come right after INIT was answered: it is blocked until the daemon handles it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        begun = _read_begun()
        return _serve(program, sys.argv[1:], has_stderr=has_stderr, begun=begun)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        _complain(f"{program}: {error}; is it installed for {sys.executable}?")
    except Exception as error:  # noqa: BLE001  (the last resort: oned discards tracebacks)
        _complain(f"{program}: stopped by an unexpected {_describe(error)}")
    return 1


def _serve(program: str, argv: list[str], *, has_stderr: bool, begun: bytes) -> int:
    is_initialised = begun == INIT
    if is_initialised:
        # oned waits for INIT's answer, and the imports below take longer than everything before.
        with suppress(OSError):  # oned may be gone: the daemon notices that, and ends in order
            os.write(STDOUT, INIT_SUCCESS)
    try:
        daemon = _import_daemon(program)
        from one_provider_mad.options import parse_arguments
    except (ImportError, OSError) as error:  # OSError: a file that this user may not read
        from one_provider_mad.cannot_start import answer_instead

        answer_instead(error, is_initialised=is_initialised)
    options = parse_arguments(argv)
    begun = b"" if is_initialised else begun
    code: int = daemon.run(options, has_stderr=has_stderr, is_initialised=is_initialised, begun=begun)
    return code


def _import_daemon(program: str) -> ModuleType:
    if program == "one_im_provider":
        from one_provider_mad import monitor_daemon

        return monitor_daemon
    from one_provider_mad import daemon

    return daemon


def _read_begun() -> bytes:
    """Read at most INIT's length of the input that is there; oned writes INIT as soon as the process exists."""
    try:
        is_there = select.select([STDIN], [], [], 0)[0]
        return os.read(STDIN, len(INIT)) if is_there else b""
    except OSError:
        return b""


def stay_in_release() -> None:
    """Let all later imports come from this process's own release, also once a link in their path leads to the next one.

    Packages keep each release in a folder of its own, which stays while a process runs from it; a wrapper may start the
    program through a link to the newest one.
    """
    sys.path[:] = [os.path.realpath(entry) if entry else entry for entry in sys.path]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == __package__ and hasattr(module, "__path__"):
            module.__path__ = [os.path.realpath(entry) for entry in module.__path__]


def prepare_process() -> bool:
    """Set up descriptors and signals as a program expects them; return True when fd 2 was open at the start.

    Afterwards only fds 0 to 2 are open, no signal is blocked, and `sys.stdout` leads to stderr, so that no library's
    print can reach fd 1, which belongs to the protocol.
    """
    has_stderr = _is_open(STDERR)
    for descriptor in (STDIN, STDOUT, STDERR):
        if not _is_open(descriptor):
            _open_null(descriptor)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # while it is ignored, exit codes of scripts are lost
    _close_leaked()
    if sys.stderr is None:  # Python sets this for a closed fd 2
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
    """Open /dev/null at a descriptor, for children too."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)  # noqa: FBT003  (os takes no keyword here)
    else:
        os.dup2(null, descriptor)
        os.close(null)


def _close_leaked() -> None:
    """Close every descriptor from 3 on. /proc lists the open ones; trying all up to the limit could take seconds."""
    try:
        leaked = [int(entry) for entry in os.listdir("/proc/self/fd")]  # noqa: PTH208  (pathlib is not loaded)
    except OSError:
        leaked = [*range(min(os.sysconf("SC_OPEN_MAX"), _MANY))]
    for descriptor in leaked:
        if descriptor > STDERR:
            os.closerange(descriptor, descriptor + 1)  # unlike close, it ignores closed descriptors


def _text_for_a_person(program: str, argv: list[str], usage: str) -> str:
    """Return the text for a sole `--help` or `--version`; "" otherwise.

    A version proves that the program can start: all that it imports at its start is imported first.
    """
    if argv in (["-h"], ["--help"]):
        return usage
    if argv == ["--version"]:
        try:
            _import_daemon(program).Modules()
        except (ImportError, OSError) as error:
            from one_provider_mad.cannot_start import answer_instead

            answer_instead(error, is_initialised=False)
        return f"one-provider-mad {__version__}\n"
    return ""


def _describe(error: Exception) -> str:
    """Return the error in one line, with its source line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace else "place unknown"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({place})"


def _complain(sentence: str) -> None:
    """Write a sentence to fd 2, if it is open."""
    with suppress(OSError):
        os.write(STDERR, f"{sentence}\n".encode(errors="backslashreplace"))
