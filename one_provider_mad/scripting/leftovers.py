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

from one_provider_mad.belongings import folder, open_file
from one_provider_mad.processes import Process, descendants
from one_provider_mad.scripting.offspring import end_marked

log = structlog.get_logger()


class Leftovers:
    """The folder that names the scripts which run.

    Args:
        folder: made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = Process.current()

    def note(self, pid: int, mark: str = "") -> None:
        """A script has begun; a folder that cannot be written is no reason not to run it.

        Args:
            pid: its process.
            mark: what is in the environment of all that it starts (scripting/offspring.py), "" for nothing.
        """
        start = process.start if (process := Process.of(pid)) is not None else ""  # ended, not what it has started
        if start or mark:
            with suppress(OSError), open(open_file(self._folder / str(pid), os.O_WRONLY), "w") as file:
                file.truncate()  # what a process of that number has left
                file.write(f"{start}\n{self._me.pid}\n{self._me.start}\n{mark}\n")

    def forget(self, pid: int) -> None:
        """It has ended."""
        with suppress(OSError):
            (self._folder / str(pid)).unlink()

    def end(self) -> int:
        """End the scripts of drivers that are dead, and all that belongs to them; returns how many processes that were.

        What has left its script's process group is found while its parents live, or by its mark. Blocks, for tens of
        milliseconds.
        """
        try:
            with folder(self._folder) as descriptor:
                return self._end(descriptor)
        except OSError as error:
            log.warning("what runs is not remembered", folder=str(self._folder), reason=str(error))
            return 0

    def _end(self, descriptor: int) -> int:
        ended, marks = 0, set[str]()
        for name in os.listdir(descriptor):
            with suppress(OSError, ValueError):
                start, driver, driver_start, *mark = _read(name, descriptor).splitlines()
                script = Process(pid=int(name), start=start)
                if Process(pid=int(driver), start=driver_start).is_alive():
                    continue  # two drivers may overlap for a while
                marks.update(mark)
                if script.is_alive():
                    strays = descendants(script.pid)
                    os.killpg(script.pid, signal.SIGKILL)
                    for stray in strays:
                        stray.kill()
                    log.warning("script of a dead driver ended", pid=script.pid, driver=driver)
                    ended += 1
            with suppress(OSError):
                os.unlink(name, dir_fd=descriptor)
        return ended + end_marked(marks - {""})


def _read(name: str, folder: int) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(descriptor, encoding="utf-8") as file:
        return file.read()
