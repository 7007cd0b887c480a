"""Scripts that outlive a driver which was killed: the next one ends them before it asks for the same again.

Each script that runs has a file named after its process in a folder of the driver's; nothing in there survives the
script's end, so what stands there when a driver starts was left by one that died.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import structlog

from one_provider_mad.processes import Process

log = structlog.get_logger()


class Leftovers:
    """The folder that names the scripts which run.

    Args:
        folder: made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = Process.current()

    def note(self, pid: int) -> None:
        """A script has begun; a folder that cannot be written is no reason not to run it."""
        process = Process.of(pid)
        if process is not None:
            with suppress(OSError):
                (self._folder / str(pid)).write_text(f"{process.start}\n{self._me.pid}\n{self._me.start}\n")

    def forget(self, pid: int) -> None:
        """It has ended."""
        with suppress(OSError):
            (self._folder / str(pid)).unlink()

    def end(self) -> int:
        """End the scripts of drivers that are dead, with all that belongs to them; returns how many ran on."""
        ended = 0
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            files = list(self._folder.iterdir())
        except OSError as error:
            log.warning("what runs is not remembered", folder=str(self._folder), reason=str(error))
            return 0
        for file in files:
            with suppress(OSError, ValueError):
                start, driver, driver_start = file.read_text().splitlines()
                script = Process(pid=int(file.name), start=start)
                if Process(pid=int(driver), start=driver_start).is_alive():
                    continue  # two drivers may overlap for a while
                if script.is_alive():
                    os.killpg(script.pid, signal.SIGKILL)
                    log.warning("script of a dead driver ended", pid=script.pid, driver=driver)
                    ended += 1
            with suppress(OSError):
                file.unlink()
        return ended
