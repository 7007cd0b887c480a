"""Forks a driver for each request of a test, from a process that has imported the drivers' modules.

It starts with one end of a socket, and ends when the other end is closed. Each packet asks for one driver; the
answer is the driver's process id, sent once the driver is a child of the process that asked, which must be a subreaper
(prctl(2), PR_SET_CHILD_SUBREAPER) until then.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_PACKET = 1 << 17

_NOT_DRIVERS = ("one_provider_mad.cli", "one_provider_mad.lab", "one_provider_mad.testing")


def _import_all() -> None:
    sys.path.insert(0, str(ROOT))  # as the programs in bin/ do
    package = import_module("one_provider_mad")
    for module in walk_packages(package.__path__, "one_provider_mad."):
        if not module.name.startswith(_NOT_DRIVERS):
            import_module(module.name)
    gc.collect()
    gc.freeze()  # a collection in a driver would copy these objects


def _next_driver(requests: socket.socket, sigint: Any) -> dict[str, Any] | None:
    """Fork a driver for each request. Returns the request in the driver, and None in the server after the last one."""
    while True:
        packet, descriptors, _, _ = socket.recv_fds(requests, _PACKET, 3)
        if not packet:
            return None
        ready, release = os.pipe()
        if (middle := os.fork()) == 0:
            if os.fork():
                os._exit(0)
            os.close(release)
            os.read(ready, 1)  # until the process in the middle is gone, and with it this one's first parent
            os.close(ready)
            requests.send(str(os.getpid()).encode())
            requests.close()
            asked: dict[str, Any] = json.loads(packet)
            _set_up_as_oned(descriptors, asked)
            signal.signal(signal.SIGINT, sigint)
            return asked
        os.waitpid(middle, 0)
        for descriptor in (ready, release, *descriptors):
            os.close(descriptor)


def _set_up_as_oned(descriptors: list[int], asked: dict[str, Any]) -> None:
    """Set up this process as oned does between fork and exec, and as Python does at its start."""
    stdin, stdout, leak = descriptors
    for descriptor, standard in ((stdin, 0), (stdout, 1)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.set_inheritable(leak, True)  # noqa: FBT003 - os takes no keyword here
    os.close(2)
    sys.stderr = None
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.chdir(asked["cwd"])
    os.environ.update(asked["environ"])
    sys.argv[:] = asked["argv"]


if __name__ == "__main__":
    # It ends with the process that asks. Drivers have Python's handler, or ignore SIGINT where a shell has started the
    # tests in the background.
    sigint = signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_all()
    driver = _next_driver(socket.socket(fileno=int(sys.argv[1])), sigint)
    if driver is not None:
        getattr(import_module("one_provider_mad.programs"), Path(driver["argv"][0]).name)()
