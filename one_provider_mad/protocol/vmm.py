"""The lines between oned and a virtualization driver, in both directions.

oned to driver, up to 5.12:       ACTION ID BASE64
oned to driver, 6.0 and later:    ACTION  ID BASE64      (an empty status field, hence two blanks)
driver to oned, every release:    ACTION SUCCESS|FAILURE ID TEXT
                                  LOG I|W|E|D ID TEXT

Source: OpenNebula's include/Message.h (6.0 and later) and src/vmm/VirtualMachineManagerDriver.cc (before).
"""

from __future__ import annotations

import re

import msgspec

from one_provider_mad.characters import clean
from one_provider_mad.domain import VmId
from one_provider_mad.masking import masked
from one_provider_mad.protocol.dialect import Dialect, has_empty_status
from one_provider_mad.protocol.framing import Oversized
from one_provider_mad.protocol.messages import Action, Control, LogLine, Malformed, Reply, Request, Severity

MAX_VM_ID = 2**31 - 1
"""Greatest VM ID: oned reads IDs into an int, and would apply an answer with a larger one to VM 0
(include/Message.h)."""

TEXT_LIMIT = 4000
"""Longest text of a LOG or FAILURE line in bytes; a longer one is cut. The whole line then fits into PIPE_BUF, so that
it is written atomically."""

WORD_LIMIT = 64
"""Longest first word that an answer repeats from an unreadable line; a longer one is cut. Actions have up to 18
letters."""

ERROR_LENGTH = 100
"""Bytes of `ACTION: text` that oned of 6.6 and later keeps in a VM's ERROR; it cuts the rest
(include/VirtualMachine.h)."""

NOTHING = "-"
"""The text that stands for no text in a line."""

NO_REASON = "no reason given"

_ACTIONS = {action.value.encode(): action for action in Action}
_CONTROLS = {control.value.encode(): control for control in Control}
_SEVERITIES = {severity.value.encode(): severity for severity in Severity}
_DIGITS_OF_MAX_VM_ID = 10

_UNFIT_IN_WORD = re.compile(r"[^!-~]|[<>]")
_UNFIT_IN_DEPLOY_ID = re.compile(r"[^!-~]|[<&]|]]>")
_LONGEST_DEPLOY_ID = 1024
"""Longest deploy id in characters; a longer one is refused, since every log line would repeat it. The longest ids of
real clouds are paths of some hundred letters."""

NO_INSTANCE = re.compile(r"-|one-[0-9]+")
"""Deploy ids that mean no instance; `onevm recover --success` stores `one-<vm id>` (LifeCycleManager::recover)."""

_ORDINARY_DEPLOY_ID = re.compile(r"(?!one-[0-9]+\Z)[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""Deploy ids that are certainly valid, so that no other check is needed: a report may have ten thousand ids."""

_OTHER_MEANING = re.compile(r"-.*|(.*/)?\.\.?(/.*)?", re.DOTALL)
"""Deploy ids that hooks, scripts and shells would take for an option or for a path to another directory; refused."""


def parse_line(line: bytes) -> Request | Control | Malformed:
    """Read one line from oned, lenient in letter case and blanks; return Malformed if unreadable. Never raises."""
    word, *fields = line.split(None, 2) or [b""]
    if not word:
        return Malformed(reason="empty line")
    control = _CONTROLS.get(word.upper())
    if control is not None:
        return control
    has_dash = fields[:1] == [b"-"]
    dialect = Dialect.of_line(has_status_field=has_dash or has_empty_status(line, word))
    if has_dash:
        fields = fields[1].split(None, 1) if len(fields) > 1 else []
    vm_id = _vm_id(fields[0]) if fields else None
    action = _ACTIONS.get(word.upper())
    if action is None or vm_id is None:
        return Malformed(reason=_complaint(word, action, fields), word=_fit(word), vm_id=vm_id, dialect=dialect)
    # Base64 that was wrapped with blanks or carriage returns is still one payload.
    payload = b"".join(fields[1].split()) if len(fields) > 1 else b""
    return Request(action=action, vm_id=vm_id, payload=payload, dialect=dialect)


def parse_oversized(line: Oversized) -> Malformed:
    """Read first word and VM ID of a line that was too long, so that the request can be answered."""
    # The head may end within the VM ID, whose digits so far would be another VM's ID.
    whole_words = line.head[: max(line.head.rfind(b" "), line.head.rfind(b"\t")) + 1]
    parsed = parse_line(whole_words)
    if isinstance(parsed, Malformed):
        return msgspec.structs.replace(parsed, reason=line.reason)
    if isinstance(parsed, Control):
        return Malformed(reason=line.reason, word=parsed.value)
    return Malformed(reason=line.reason, word=parsed.action.value, vm_id=parsed.vm_id, dialect=parsed.dialect)


def parse_reply(line: bytes) -> Reply | LogLine | Control | Malformed:
    """Read a driver's line as oned does; return Malformed for one that oned would ignore or misread. Never raises."""
    word, *fields = line.split(None, 3) or [b""]
    if not word:
        return Malformed(reason="empty line")
    control = _CONTROLS.get(word.upper())
    if control is not None:
        return _control_reply(control, fields)
    if len(fields) < 2:
        return Malformed(reason="a reply has at least three words", word=_fit(word))
    status, number = fields[:2]
    info = fields[2].strip().decode("utf-8", "replace") if len(fields) > 2 else ""
    vm_id = _vm_id(number)
    if word == b"LOG" and (vm_id is not None or _is_general(number)):
        return LogLine(severity=_SEVERITIES.get(status[:1], Severity.INFO), text=info, vm_id=vm_id)
    if vm_id is None:
        return Malformed(reason=f"{_fit(number)} is not a VM id", word=_fit(word))
    return Reply(word=_fit(word), vm_id=vm_id, is_success=status == b"SUCCESS", info=info)


def format_reply(reply: Reply) -> bytes:
    """Return the reply as exactly one line that oned of every release accepts, for any text."""
    word = _fit(reply.word)
    if reply.is_success:
        result, text = "SUCCESS", clean(reply.info) or NOTHING
    else:
        result, text = "FAILURE", _whole_where_cut(_reason(clean(reply.info)), ERROR_LENGTH - len(f"{word}: "))
    return f"{word} {result} {reply.vm_id} {text}\n".encode()


def format_log(line: LogLine, dialect: Dialect) -> bytes:
    """Return the log line as exactly one line, for any text.

    Args:
        line: severity, text and VM.
        dialect: OpenNebula's; it decides how oned's own log is named.
    """
    target = dialect.general_log_id if line.vm_id is None else line.vm_id
    return f"LOG {line.severity.value} {target} {_cut(clean(line.text)) or NOTHING}\n".encode()


def deploy_id_problem(text: str) -> str | None:
    """Return why OpenNebula or its scripts could not use a text as a deploy id, None if they can.

    oned keeps the first word, and puts the id unescaped into the VM's XML (src/vm/VirtualMachine.cc): with `<` or `&`
    it silently becomes empty. `-` would be stored literally, and an empty id counts as a failed deploy.
    """
    if masked(text) != text:
        return "the deploy id holds a secret of this driver's"
    if _ORDINARY_DEPLOY_ID.fullmatch(text):
        return None
    if not text:
        return "the deploy id is empty"
    if NO_INSTANCE.fullmatch(text):
        return f"the deploy id {text[:WORD_LIMIT]!a} is a placeholder for no instance"
    if len(text) > _LONGEST_DEPLOY_ID:
        return f"the deploy id has more than {_LONGEST_DEPLOY_ID} letters: {text[:WORD_LIMIT]!a}"
    unfit = _UNFIT_IN_DEPLOY_ID.search(text)
    if unfit is not None:
        return f"OpenNebula cannot keep a deploy id with {unfit.group()!a} in it: {text[:WORD_LIMIT]!a}"
    if _OTHER_MEANING.fullmatch(text):
        return f"the deploy id would be taken for an option or a path: {text[:WORD_LIMIT]!a}"
    return None


def shown_deploy_id(text: str) -> str:
    """Return the deploy id for use in a sentence; an invalid one is quoted, and cut if it is long."""
    return text if deploy_id_problem(text) is None else f"{text[:WORD_LIMIT]!a}"


def _vm_id(digits: bytes) -> VmId | None:
    significant = digits.lstrip(b"0")
    if not digits.isdigit() or len(significant) > _DIGITS_OF_MAX_VM_ID:
        return None
    number = int(significant or b"0")
    return VmId(number) if number <= MAX_VM_ID else None


def _is_general(number: bytes) -> bool:
    return number == b"-" or (number.startswith(b"-") and _vm_id(number[1:]) is not None)


def _complaint(word: bytes, action: Action | None, fields: list[bytes]) -> str:
    if action is None:
        return f"Action {_fit(word)} not supported"
    if not fields:
        return f"{action.value} came without a VM id"
    return f"{action.value} came with {_fit(fields[0])} in place of a VM id (0 to {MAX_VM_ID})"


def _control_reply(control: Control, fields: list[bytes]) -> Control | Malformed:
    if control is Control.FINALIZE or fields[:1] == [b"SUCCESS"]:
        return control
    return Malformed(reason="INIT was not answered with SUCCESS", word=control.value)


def _fit(word: bytes | str) -> str:
    """Return the word in a form that fits into an answer: upper case, printable ASCII, no blanks, short, not empty."""
    text = word[:WORD_LIMIT].decode("latin-1") if isinstance(word, bytes) else word[:WORD_LIMIT]
    return _UNFIT_IN_WORD.sub("?", text).upper() or "?"


def _reason(text: str) -> str:
    # oned drops a reason that begins with a dash (src/vmm/VirtualMachineManagerProtocol.cc log_error).
    if not text.strip("- "):
        return NO_REASON
    return _cut(f"error: {text}" if text.startswith("-") else text)


def _whole_where_cut(text: str, cut: int) -> str:
    """Return the text with blanks inserted so that oned, which cuts it after `cut` bytes, splits no character.

    oned cuts by bytes, and half a character makes its database refuse the VM's update (VirtualMachine.cc).
    """
    if text.isascii():
        return text
    encoded = text.encode()
    before = encoded[:cut].decode("utf-8", "ignore").encode()
    missing = min(cut, len(encoded)) - len(before)
    at = before.rfind(b" ") + 1 or len(before)
    return (encoded[:at] + b" " * missing + encoded[at:]).decode()


def _cut(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= TEXT_LIMIT:
        return text
    return encoded[: TEXT_LIMIT - 3].decode("utf-8", "ignore").rstrip(" ") + "..."
