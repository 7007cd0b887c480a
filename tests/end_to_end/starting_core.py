"""A starting oned: a process named oned that starts the driver on its own pipes, and listens on TCP after SIGUSR1.

usage: starting_core.py PROGRAM ARGUMENTS
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def main() -> None:
    Path("/proc/self/comm").write_text("oned")
    wanted = {signal.SIGUSR1, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    driver = subprocess.Popen(sys.argv[1:])
    for descriptor in (0, 1):  # only the driver keeps them open, as its ends of oned's pipes
        os.close(descriptor)
    listener = socket.socket()
    while driver.poll() is None:
        if signal.sigwait(wanted) is signal.SIGUSR1:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
    os._exit(driver.returncode & 0xFF)


main()
