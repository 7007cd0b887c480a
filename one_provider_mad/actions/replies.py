"""Send the one reply to each request, and remove the request's record once the reply is written (decision 6)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog

from one_provider_mad import metrics
from one_provider_mad.actions.accepted import Accepted
from one_provider_mad.actions.log_lines import LogLines
from one_provider_mad.actions.request_records import RequestRecords
from one_provider_mad.actions.table import FIRST_WORDS
from one_provider_mad.domain import VmId, VmRequest
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Action, Malformed, Reply, Request, Severity
from one_provider_mad.protocol.vmm import format_reply

log = structlog.get_logger()


class Output(Protocol):
    """Takes the lines for oned (transport.Writer)."""

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        """Write a line that is never dropped; `on_written` is called once oned's pipe has it."""

    def log(self, data: bytes) -> None:
        """Write a LOG line, which may be dropped while oned does not read."""


class Replies:
    """Sends the replies of one driver.

    Args:
        output: takes the lines for oned.
        log_lines: the VMs' logs, for sentences that oned would not show.
        records: removes the requests' records from the journal.
    """

    def __init__(self, output: Output, log_lines: LogLines, records: RequestRecords) -> None:
        self._output = output
        self._log_lines = log_lines
        self._records = records

    def answer(self, accepted: Accepted, info: str, *, is_success: bool, has_ended: bool) -> None:
        """Send the answer to a request; `has_ended`: the request has terminated its VM's instance."""
        word, vm_id = accepted.action.value, accepted.vm_id
        if not is_success:
            self._log_failed_reboot(word, vm_id, info, accepted.dialect)
        reply = Reply(word=word, vm_id=vm_id, is_success=is_success, info=info)
        self.send(reply, number=accepted.number, has_ended=has_ended)

    def withhold(self, accepted: Accepted, info: str, *, is_success: bool, has_ended: bool) -> None:
        """Log the result of a request that is not answered, since a newer one replaces it, in the VM's log."""
        self._records.close(accepted.number, has_ended=has_ended)
        if metrics.recorder is not None:
            metrics.recorder.called_off(accepted.action.value)
        if (newer := accepted.progress.replaced_by) is not None:
            result = "SUCCESS" if is_success else "FAILURE"
            sentence = f"{accepted.action.value} has ended with {result} {info}; {newer.value} is answered instead"
            self._log_lines.write(Severity.INFO, sentence, accepted.vm_id)

    def refuse(self, malformed: Malformed, *, number: int = 0) -> None:
        """Answer a request that cannot be carried out with a FAILURE; a line that is no request is logged in oned.log.

        Args:
            malformed: the line's first word, its VM and the reason.
            number: the request's record, 0 for none.
        """
        word, vm_id = malformed.word, malformed.vm_id
        if vm_id is None or not word:
            self._log_lines.write(Severity.ERROR, f"ignored a line that is no request: {malformed.reason}")
            return
        log.warning("request refused", action=word, vm=vm_id, reason=malformed.reason)
        self._log_failed_reboot(word, vm_id, malformed.reason, malformed.dialect)
        self.send(Reply(word=word, vm_id=vm_id, is_success=False, info=malformed.reason), number=number)

    def send(self, reply: Reply, *, number: int = 0, has_ended: bool = False) -> None:
        """Send a reply; `number`: the request's record, which is removed once the reply is written, 0 for none."""
        if metrics.recorder is not None:
            action = reply.word if reply.word in Action.__members__ else metrics.OTHER
            metrics.recorder.answered(action, is_success=reply.is_success)
        on_written = partial(self._records.close, number, has_ended=has_ended) if number else None
        self._output.send(format_reply(reply), on_written=on_written)

    def _log_failed_reboot(self, word: str, vm_id: VmId, sentence: str, dialect: Dialect) -> None:
        """Log the failure of a REBOOT in the VM's log, for releases of oned that ignore the answer."""
        if word == Action.REBOOT.value and dialect.drops_answers_to_reboot:
            self._log_lines.write(Severity.ERROR, f"REBOOT: {sentence}", vm_id)


def with_first_word(action: Action, content: VmRequest | None, sentence: str) -> str:
    """Return the payload of an answer; to UPDATESG and UPDATENIC it begins with the number that oned reads there."""
    first = FIRST_WORDS.get(action)
    return sentence if first is None or content is None else f"{first(content)} {sentence}"


def refusal(request: Request, sentence: str) -> Malformed:
    """Return the FAILURE for a request that is not carried out."""
    return Malformed(reason=sentence, word=request.action.value, vm_id=request.vm_id, dialect=request.dialect)
