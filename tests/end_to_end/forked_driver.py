"""Starts drivers without an interpreter's start and imports, which take 0.15 s of processor time each."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.waiting import HANG

_SERVER = Path(__file__).with_name("fork_server.py")

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class ForkedDriver(subprocess.Popen[bytes]):
    """A driver that this process's fork server forks. It is a child of this process, as one that Popen starts.

    The arguments are Popen's: path and arguments of a program in bin/, `stdin`, `stdout`, `cwd`, `env`, and one
    descriptor as `pass_fds`.
    """

    def _execute_child(  # Popen's step between the opening of pipes and the handle that waits for a child
        self,
        args: Sequence[str],
        executable: object,
        preexec_fn: object,
        close_fds: object,
        pass_fds: Sequence[int],
        cwd: Path,
        env: Mapping[str, str],
        startupinfo: object,
        creationflags: object,
        shell: object,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        *others: object,
    ) -> None:
        request = {"argv": list(args), "cwd": str(cwd), "environ": dict(env)}
        try:
            server = _server()
            with _adopting_orphans():
                socket.send_fds(server, [json.dumps(request).encode()], [p2cread, c2pwrite, *pass_fds])
                answer = server.recv(64)
            assert answer, f"{_SERVER.name} has ended, see its traceback"
            self.pid = int(answer)
        finally:
            for inner, outer in ((p2cread, p2cwrite), (c2pwrite, c2pread)):
                if outer != -1:  # a pipe that Popen has opened
                    os.close(inner)


@cache
def _server() -> socket.socket:
    """Start the fork server of this process, and return the socket for requests."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(HANG)
    with its:
        command = [sys.executable, "-I", str(_SERVER), str(its.fileno())]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={}, pass_fds=[its.fileno()])

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Make this process the parent of descendants whose parent ends meanwhile, in place of init (prctl(2))."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
