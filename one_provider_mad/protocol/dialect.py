"""How the lines between oned and a virtualization driver differ from release to release of OpenNebula.

With 6.0 oned took over the message format of monitord (include/Message.h), and dropped POLL. The lines of monitoring
changed with 5.12 already: protocol/im_messages.py, Era.
"""

from __future__ import annotations

from enum import Enum

_FIRST_WITH_STATUS = (6,)


class Dialect(Enum):
    """The form of oned's lines, and what oned does with the answers. The value names the releases for a person."""

    UP_TO_5_12 = "up to 5.12"
    SINCE_6_0 = "6.0 and later"

    @staticmethod
    def of_release(release: tuple[int, ...]) -> Dialect:
        """Return the dialect of a release: `(5, 12, 0)`."""
        return Dialect.SINCE_6_0 if release >= _FIRST_WITH_STATUS else Dialect.UP_TO_5_12

    @staticmethod
    def of_line(*, has_status_field: bool) -> Dialect:
        """Return the dialect of a request's line, which one field of it shows."""
        return Dialect.SINCE_6_0 if has_status_field else Dialect.UP_TO_5_12

    @property
    def has_status_field(self) -> bool:
        """A request has a status field between action and VM: empty, hence two blanks (Message.h, write_to)."""
        return self is Dialect.SINCE_6_0

    @property
    def general_log_id(self) -> str:
        """The id of oned's own log in a LOG line.

        Up to 5.12 a number would be taken for a VM's; from 6.0 on `-` would be read as VM 0 (Message.h, parse_from).
        """
        return "-1" if self is Dialect.SINCE_6_0 else "-"

    @property
    def drops_answers_to_reboot(self) -> bool:
        """Any answer to REBOOT is ignored: only a line in the VM's log can show a failure."""
        return self is Dialect.SINCE_6_0

    @property
    def takes_answers_to_poll(self) -> bool:
        """An answer to POLL is taken, also an unrequested one; later releases have no POLL."""
        return self is Dialect.UP_TO_5_12


def has_empty_status(line: bytes, word: bytes) -> bool:
    """Return whether two blanks follow `word`, the line's first: its status field is there, and empty."""
    end = line.index(word) + len(word)
    between = line[end : end + 2]
    return len(between) == 2 and between.isspace()
