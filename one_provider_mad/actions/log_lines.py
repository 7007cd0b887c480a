"""Write LOG lines for the VMs' logs and for oned.log, in the form of OpenNebula's release."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from one_provider_mad.domain import VmId
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import LogLine, Malformed, Request, Severity
from one_provider_mad.protocol.vmm import format_log

log = structlog.get_logger()

MOST_WARNINGS = 60
"""Lines that one request may write into its VM's log; further ones are dropped, and the last says so. A create that
finds no capacity warns once for each of up to 50 instance types and zones."""


def at_most(lines: int, warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return a `warn` that drops further lines after so many; the last one says that there are more."""
    left = lines

    def warn_while_any_are_left(text: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            warn(text if left else "there are more warnings, which are left out here")

    return warn_while_any_are_left


class LogLines:
    """Writes the LOG lines of one driver. Lines for oned.log wait until OpenNebula's release is known.

    Args:
        write: writes a LOG line; the line may be dropped while oned does not read.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._dialect = Dialect.SINCE_6_0
        self._waiting: list[LogLine] | None = []

    def write(self, severity: Severity, text: str, vm_id: VmId | None = None) -> None:
        """Write a line to the VM's log; without a VM to oned.log."""
        log.info("log line sent", severity=severity.value, vm=vm_id, text=text)
        line = LogLine(severity=severity, text=text, vm_id=vm_id)
        if vm_id is None and self._waiting is not None:
            self._waiting.append(line)
        else:
            self._write(format_log(line, self._dialect))

    def learn_from(self, request: Request | Malformed) -> None:
        """Learn the form of LOG lines from one of oned's lines, and write the LOG lines that wait for that."""
        if request.dialect is Dialect.UP_TO_5_12 and request.vm_id is not None:
            self._dialect = request.dialect
        if self._waiting is not None:
            self._write_waiting(self._waiting)

    def learn_release(self, release: tuple[int, ...]) -> None:
        """Learn the form of LOG lines from OpenNebula's release, and write the LOG lines that wait for that."""
        if self._waiting is not None:
            self._dialect = Dialect.of_release(release)
            self._write_waiting(self._waiting)

    def _write_waiting(self, lines: list[LogLine]) -> None:
        self._waiting = None
        for line in lines:
            self._write(format_log(line, self._dialect))

    def dropped(self, count: int) -> bytes:
        """Return the LOG line that reports how many LOG lines were dropped."""
        text = f"{count} log lines were dropped because OpenNebula did not read them"
        return format_log(LogLine(severity=Severity.WARNING, text=text), self._dialect)
