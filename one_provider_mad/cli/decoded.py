"""Decodes lines between oned and a virtualization driver; cli/decoded_monitor.py those of the information driver."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import msgspec

from one_provider_mad.actions.intents import INTENTS, LCM_STATES, intent_of
from one_provider_mad.domain import Template, Value, VmRequest
from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol.framing import Oversized
from one_provider_mad.protocol.messages import Action, Control, LogLine, Malformed, Reply, Request
from one_provider_mad.protocol.payload import read_payload
from one_provider_mad.protocol.vmm import parse_line, parse_oversized, parse_reply

_STATUS = (b"SUCCESS", b"FAILURE")
_CAPACITY = ("CPU", "VCPU", "MEMORY")
_EXCERPT = 60

PROBLEM = "payload"
"""Label of the field with the reason why a payload cannot be read."""


class DecodedLine(Value, frozen=True, kw_only=True):
    """One decoded line of the protocol.

    Attributes:
        sender: "core" (oned, monitord), "driver", or "" for an unreadable line.
        word: the first word; the beginning of an unreadable line.
        status: SUCCESS, FAILURE or a severity (info, warning, error, debug); "" for none.
        vm_id: the VM that the line is about, None for none.
        host_id: the host that the line is about, None for none.
        text: an explanation in words; not escaped.
        note: the releases that send the line, or why it is unreadable.
        fields: label and text of the line's further content, in order; not escaped.
        document: the request's XML document, b"" for none.
    """

    sender: str = ""
    word: str = ""
    status: str = ""
    vm_id: int | None = None
    host_id: int | None = None
    text: str = ""
    note: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    document: bytes = b""


def decode_line(line: bytes | Oversized) -> DecodedLine:
    """Decode a line of oned or of a virtualization driver. Never raises."""
    if isinstance(line, Oversized):
        return unreadable(parse_oversized(line).reason, line.head)
    return _from_driver(line) if is_from_a_driver(line) else _from_oned(line)


def is_from_a_driver(line: bytes) -> bool:
    """Return True for a line that a driver writes, False for one that oned or monitord writes."""
    word, *rest = line.split(None, 2) or [b""]
    return word == b"LOG" or (bool(rest) and rest[0].upper() in _STATUS)


def unreadable(reason: str, line: bytes) -> DecodedLine:
    """Return the decoded form of a line that is neither request nor reply."""
    start = line[:_EXCERPT].decode("utf-8", "backslashreplace")
    return DecodedLine(word=start + ("…" if len(line) > _EXCERPT else ""), note=f"neither request nor reply: {reason}")


# Lines of a driver


def _from_driver(line: bytes) -> DecodedLine:
    message = parse_reply(line)
    if isinstance(message, Malformed):
        return unreadable(message.reason, line)
    if isinstance(message, Control):
        return DecodedLine(sender="driver", word=message.value, status="SUCCESS", text="the driver is ready")
    if isinstance(message, LogLine):
        return log(message)
    status = "SUCCESS" if message.is_success else "FAILURE"
    return DecodedLine(sender="driver", word=message.word, status=status, vm_id=message.vm_id, text=_info(message))


def log(line: LogLine) -> DecodedLine:
    """Decode a LOG line."""
    target = "oned's log" if line.vm_id is None else f"log of VM {line.vm_id}"
    text = f"{target}: {line.text}"
    return DecodedLine(sender="driver", word="LOG", status=line.severity.name.lower(), vm_id=line.vm_id, text=text)


def _info(reply: Reply) -> str:
    about = f"VM {reply.vm_id}"
    if reply.info in ("", "-"):
        return about
    label = "deploy id " if reply.word == Action.DEPLOY.value and reply.is_success else ""
    return f"{about}: {label}{reply.info}"


# Lines of oned


def _from_oned(line: bytes) -> DecodedLine:
    message = parse_line(line)
    if isinstance(message, Malformed):
        return unreadable(message.reason, line)
    if isinstance(message, Control):
        return control(message)
    fields: tuple[tuple[str, str], ...] = ()
    document = b""
    if message.action is not Action.DRIVER_CANCEL or message.payload:
        fields, document = _payload(message)
    return DecodedLine(
        sender="core",
        word=message.action.value,
        vm_id=message.vm_id,
        text=f"VM {message.vm_id}",
        note=message.dialect.value,
        fields=fields,
        document=document,
    )


def control(line: Control) -> DecodedLine:
    """Decode INIT or FINALIZE, which both kinds of driver receive."""
    what = {Control.INIT: "are you ready?", Control.FINALIZE: "please exit"}[line]
    return DecodedLine(sender="core", word=line.value, text=what)


def _payload(request: Request) -> tuple[tuple[tuple[str, str], ...], bytes]:
    content = read_payload(request)
    if isinstance(content, Malformed):
        return ((PROBLEM, content.reason),), b""
    vm, document = content
    return tuple((label, text) for label, text in _facts(request, vm) if text), document


def _facts(request: Request, vm: VmRequest) -> Iterator[tuple[str, str]]:
    """Yield label and text of a request's important fields; an absent field has the text ""."""
    yield "name", vm.name
    yield "host", f"{vm.host} (id {vm.host_id})" if vm.host_id >= 0 else vm.host
    yield "deploy id", vm.deploy_id or "none"
    yield "LCM_STATE", _lcm_state(vm)
    yield "asks for", _intent(request.action, vm)
    yield "identity", f"STIME {vm.stime}{moment(vm.stime)}, SEQ {vm.seq}"
    yield "operand", vector(vm.operand)
    yield "sec. group", vm.security_group_id
    yield "network", vm.virtual_network_id
    template, user_template = _templates(request)
    yield "capacity", "  ".join(f"{name} {text}" for name in _CAPACITY if (text := template.text(name)))
    for section in user_template.vectors("PUBLIC_CLOUD"):
        yield "PUBLIC_CLOUD", vector(section)


def _lcm_state(vm: VmRequest) -> str:
    if vm.lcm_state is None:
        return "none"
    return f"{vm.lcm_state} {LCM_STATES.get(vm.lcm_state, '(unknown)')}"


def _intent(action: Action, vm: VmRequest) -> str:
    """Return the intent (glossary) that the driver derives from action and LCM_STATE; "" for actions without one."""
    if action not in INTENTS:
        return ""
    try:
        return intent_of(action, vm.lcm_state, has_deploy_id=bool(vm.deploy_id)).value
    except RequestRefused as refusal:
        return f"refused: {refusal}"


def _templates(request: Request) -> tuple[Template, Template]:
    """Return TEMPLATE and USER_TEMPLATE of any request; the driver itself reads them for some actions only."""
    content = read_payload(msgspec.structs.replace(request, action=Action.DEPLOY))
    if isinstance(content, Malformed):
        return Template(), Template()
    return content[0].template, content[0].user_template


def moment(seconds: int) -> str:
    """Return seconds since the epoch as readable UTC time in brackets; "" for 0."""
    try:
        return time.strftime(" (%Y-%m-%d %H:%M:%S UTC)", time.gmtime(seconds)) if seconds else ""
    except (OverflowError, ValueError, OSError):
        return ""


def vector(values: Mapping[str, str]) -> str:
    """Return a vector attribute on one line."""
    return "  ".join(f"{name}={text}" for name, text in values.items())
