"""Write lines to VMs' logs and to oned's own, in the form of OpenNebula's release."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from one_provider_mad.domain import VmId
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import LogLine, Malformed, Request, Severity
from one_provider_mad.protocol.vmm import format_log

log = structlog.get_logger()

MOST_WARNINGS = 60
"""Lines that one request may write into its VM's log: the template and the cloud's answers determine their number. A
create that finds no capacity has one for each of 50 types and places."""


def at_most(lines: int, warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return `warn`, limited to so many lines; the last one says that there are more."""
    left = lines

    def warn_while_any_are_left(text: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            warn(text if left else "there are more warnings, which are left out here")

    return warn_while_any_are_left


class LogLines:
    """The LOG lines of one driver. Lines for oned's own log wait until OpenNebula's release is known.

    Args:
        write: writes a LOG line, which may be lost while OpenNebula does not read.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._dialect = Dialect.SINCE_6_0
        self._waiting: list[LogLine] | None = []

    def tell(self, severity: Severity, text: str, vm_id: VmId | None = None) -> None:
        """Write a line to the VM's log, or to oned's own."""
        log.info("log line sent", severity=severity.value, vm=vm_id, text=text)
        line = LogLine(severity=severity, text=text, vm_id=vm_id)
        if vm_id is None and self._waiting is not None:
            self._waiting.append(line)
        else:
            self._write(format_log(line, self._dialect))

    def learn_from(self, request: Request | Malformed) -> None:
        """Learn the dialect from a line of oned's, and write the lines that wait for it."""
        if request.dialect is Dialect.UP_TO_5_12 and request.vm_id is not None:
            self._dialect = request.dialect
        if self._waiting is not None:
            self._write_waiting(self._waiting)

    def learn_release(self, release: tuple[int, ...]) -> None:
        """Write the lines that wait for the first request, where OpenNebula tells its release before."""
        if self._waiting is not None:
            self._dialect = Dialect.of_release(release)
            self._write_waiting(self._waiting)

    def _write_waiting(self, lines: list[LogLine]) -> None:
        self._waiting = None
        for line in lines:
            self._write(format_log(line, self._dialect))

    def dropped(self, count: int) -> bytes:
        """Return the line that reports lost LOG lines."""
        text = f"{count} log lines were dropped because OpenNebula did not read them"
        return format_log(LogLine(severity=Severity.WARNING, text=text), self._dialect)
