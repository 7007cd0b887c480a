"""What an OpenNebula's refusal means, in our kinds of errors.

The codes are those of include/Request.h (ErrorCode). Texts are looked at only where one code stands for several things.
"""

from __future__ import annotations

import re

from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    InstanceNotFound,
    NoCapacity,
    NotSupported,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    Throttled,
    WrongState,
)
from one_provider_mad.masking import masked
from one_provider_mad.xmlrpc.envelope import Failure

AUTHENTICATION = 0x0100
AUTHORIZATION = 0x0200
NO_EXISTS = 0x0400
ACTION = 0x0800
XML_RPC_API = 0x1000
INTERNAL = 0x2000
ALLOCATE = 0x4000
LOCKED = 0x8000
REPLICATION = 0x10000

_NOT_THE_LEADER = re.compile(
    r"Cannot process request, (?:no leader found|oned (?:cluster )?(?:is|in) |the zone is|zone )"
    r"|Forwarding xml-rpc message to gRPC leader is not supported",
    re.IGNORECASE,
)
"""src/rm/Request.cc refuses so before it looks at the call: no leader, an election, a log being replicated, or, in 7.x,
a leader that is set up for gRPC alone, to whom nothing is passed on."""

_QUOTA = re.compile(r"\bquota\b|\blimit of \S+ reached\b", re.IGNORECASE)
"""src/um/Quota.cc; it comes as a lack of authorization."""

_VM = re.compile(r"\bvirtual machine \[")
"""`Error getting virtual machine [7].`; anything else that does not exist is something that was asked for."""

_STATE = re.compile(r"\bstates?\b", re.IGNORECASE)
"""`wrong state POWEROFF.`, `not available for state RUNNING` (src/dm/DispatchManagerActions.cc)."""

_FULL = re.compile(r"\bnot (?:have )?enough\b.*\bcapacity\b|\benough capacity\b", re.IGNORECASE)

_NOT_WRITTEN = re.compile(r"\bin(?: the)? DB\b")
"""`Error inserting VM in DB.` (src/vm/VirtualMachine.cc): among peers that is a leader that has lost its followers, and
what it has put into its log may be carried out by the next one all the same (src/logdb/LogDB.cc)."""

_UNREADABLE = re.compile(
    r"\b(?:syntax|parse|parsing) error|\berror parsing\b|not supported by the SQL backend"
    r"|\battribute must be\b|\bdoes not own an? (?:image|network)\b",
    re.IGNORECASE,
)
"""What is wrong with the call itself, though its code does not say so: `one.vm.allocate` answers whatever it finds in a
template with the same one (src/rm/RequestManagerAllocate.cc, VirtualMachineAllocate)."""

_METHOD = re.compile(r"\A\[one\.[\w.]+\] *(?:User \[\d+\] : *)?")
"""How src/rm/Request.cc begins each text; what is wrong is to come first, and the method last."""

_TEXT = 2000
"""Longest text of a refusal in characters; it comes from outside, and goes into logs and replies."""

_NO_METHOD = -506
_OTHER_FAULTS = range(-599, -500)
"""Faults of xmlrpc-c for calls that it could not read (xmlrpc-c/base.h)."""

ELECTION_SECONDS = 1.0
"""How soon to ask again while there is no leader; an election takes a few seconds (RAFT ELECTION_TIMEOUT_MS)."""


def is_not_the_leader(failure: Failure) -> bool:
    """True when this front-end did not even look at the call, for it does not lead; another one may."""
    return failure.code == REPLICATION or (failure.code == INTERNAL and bool(_NOT_THE_LEADER.search(failure.text)))


def error_of(method: str, failure: Failure, *, whose: str = "OpenNebula") -> ProviderError:
    """The error to raise for a refusal.

    Args:
        method: what was asked.
        failure: the answer.
        whose: who refuses; a quota or a right of the partner's is easily taken for one of ours.
    """
    said = _METHOD.sub("", masked(failure.text.strip()))[:_TEXT] or f"refused without a word, code {failure.code}"
    text = f"{said} ({method})"
    if is_not_the_leader(failure):
        return Throttled(f"no OpenNebula front-end leads just now: {text}", retry_after=ELECTION_SECONDS)
    match failure.code:
        case code if code == AUTHENTICATION:
            return AuthenticationRefused(text)
        case code if code == AUTHORIZATION:
            kind = QuotaExceeded if _QUOTA.search(text) else PermissionDenied
            return kind(f"{whose} refuses: {text}")
        case code if code == NO_EXISTS:
            return InstanceNotFound(text) if _VM.search(text) else BadParameter(text)
        case code if code == LOCKED or (code == ACTION and _STATE.search(text)):
            return WrongState(text)
        case code if code == ACTION:
            return NoCapacity(text) if _FULL.search(text) else BadParameter(text)
        case code if code == ALLOCATE and _NOT_WRITTEN.search(text):
            return ProviderUnavailable(text)
        case code if code in (XML_RPC_API, ALLOCATE):
            return QuotaExceeded(text) if _QUOTA.search(text) else BadParameter(text)
        case code if code == _NO_METHOD:
            return NotSupported("opennebula", f"{method} (this OpenNebula does not know it)")
        case code if code in _OTHER_FAULTS:
            return BadParameter(text)
    if failure.code == INTERNAL and _UNREADABLE.search(text):
        return BadParameter(text)
    # Among others what a follower says when the leader did not answer it: the leader may have done it.
    return ProviderUnavailable(text)
