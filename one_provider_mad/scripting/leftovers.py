"""Scripts that outlive a killed driver: the next driver ends them before it repeats their actions.

Each running script has a file named after its process id in a folder of the driver's, and the file is deleted at the
script's end. So the files in the folder when a driver starts were left by a driver that died.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import structlog

from one_provider_mad.file_owner import folder, open_file
from one_provider_mad.processes import Process, descendants
from one_provider_mad.scripting.descendants import end_marked

log = structlog.get_logger()


class Leftovers:
    """The folder that lists the running scripts.

    Args:
        folder: its path; created when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = Process.current()

    def note(self, pid: int, mark: str = "") -> None:
        """Record a script that has started; an unwritable folder is ignored, so that the script still runs.

        Args:
            pid: its process id.
            mark: its mark in the environment of its descendants (scripting/descendants.py), "" for none.
        """
        start = process.start if (process := Process.of(pid)) is not None else ""  # ended, unlike its descendants
        if start or mark:
            with suppress(OSError), open(open_file(self._folder / str(pid), os.O_WRONLY), "w") as file:
                file.truncate()  # an older process with the same number may have left a file
                file.write(f"{start}\n{self._me.pid}\n{self._me.start}\n{mark}\n")

    def forget(self, pid: int) -> None:
        """Delete the record of a script that has ended."""
        with suppress(OSError):
            (self._folder / str(pid)).unlink()

    def end(self) -> int:
        """End the scripts of dead drivers, with their descendants; return the number of processes.

        A process outside its script's process group is found while its parents live, or by its mark. Blocks for tens of
        milliseconds.
        """
        try:
            with folder(self._folder) as descriptor:
                return self._end(descriptor)
        except OSError as error:
            log.warning("running scripts are not recorded", folder=str(self._folder), reason=str(error))
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
                    found = descendants(script.pid)
                    os.killpg(script.pid, signal.SIGKILL)
                    for descendant in found:
                        descendant.kill()
                    log.warning("script of a dead driver ended", pid=script.pid, driver=driver)
                    ended += 1
            with suppress(OSError):
                os.unlink(name, dir_fd=descriptor)
        return ended + end_marked(marks - {""})


def _read(name: str, folder: int) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(descriptor, encoding="utf-8") as file:
        return file.read()
