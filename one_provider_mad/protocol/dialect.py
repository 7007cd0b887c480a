"""How the lines between oned and a virtualization driver differ from release to release of OpenNebula.

With 6.0 oned took over the message format of monitord (include/Message.h), and dropped POLL. The lines of monitoring
changed with 5.12 already: protocol/im_messages.py, Era.
"""

from __future__ import annotations

from enum import Enum

_FIRST_WITH_STATUS = (6,)


class Dialect(Enum):
    """The releases of OpenNebula whose oned and action driver exchange lines of one form; the value is for people."""

    UP_TO_5_12 = "up to 5.12"
    SINCE_6_0 = "6.0 and later"

    @staticmethod
    def of_release(release: tuple[int, ...]) -> Dialect:
        """Return the dialect of a release, given as in `(5, 12, 0)`."""
        return Dialect.SINCE_6_0 if release >= _FIRST_WITH_STATUS else Dialect.UP_TO_5_12

    @staticmethod
    def of_line(*, has_status_field: bool) -> Dialect:
        """Return the dialect of a request by whether its line has a status field."""
        return Dialect.SINCE_6_0 if has_status_field else Dialect.UP_TO_5_12

    @property
    def has_status_field(self) -> bool:
        """True if requests have a status field after the action: empty, hence two blanks (Message.h, write_to)."""
        return self is Dialect.SINCE_6_0

    @property
    def general_log_id(self) -> str:
        """The word that a LOG line has in place of a VM ID when it is for oned's own log.

        Up to 5.12 a number would be taken for a VM's; from 6.0 on `-` would be read as VM 0 (Message.h, parse_from).
        """
        return "-1" if self is Dialect.SINCE_6_0 else "-"

    @property
    def drops_answers_to_reboot(self) -> bool:
        """True if oned ignores any answer to REBOOT, so that only a line in the VM's log can show a failure."""
        return self is Dialect.SINCE_6_0

    @property
    def takes_answers_to_poll(self) -> bool:
        """True if oned takes answers to POLL, also unrequested ones; from 6.0 on there is no POLL."""
        return self is Dialect.UP_TO_5_12


def has_empty_status(line: bytes, word: bytes) -> bool:
    """Return whether two blanks follow `word`, the line's first word: then the line has an empty status field."""
    end = line.index(word) + len(word)
    between = line[end : end + 2]
    return len(between) == 2 and between.isspace()
