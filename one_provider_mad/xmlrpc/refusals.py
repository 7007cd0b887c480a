"""Maps an OpenNebula's refusals to this project's errors.

The codes are those of include/Request.h (ErrorCode). Texts are examined only where one code has several meanings.
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
"""Refusals of src/rm/Request.cc before it reads the call: no leader, an election, a log being replicated, or, in 7.x, a
leader that accepts gRPC only, so that a follower cannot forward the call."""

_QUOTA = re.compile(r"\bquota\b|\blimit of \S+ reached\b", re.IGNORECASE)
"""Texts about exceeded quotas (src/um/Quota.cc), which have the code of a missing authorization."""

_VM = re.compile(r"\bvirtual machine \[")
"""Found in `Error getting virtual machine [7].`; any other missing object is one that the request names."""

_STATE = re.compile(r"\bstates?\b", re.IGNORECASE)
"""Found in `wrong state POWEROFF.`, `not available for state RUNNING` (src/dm/DispatchManagerActions.cc)."""

_FULL = re.compile(r"\bnot (?:have )?enough\b.*\bcapacity\b|\benough capacity\b", re.IGNORECASE)

_NOT_WRITTEN = re.compile(r"\bin(?: the)? DB\b")
"""Found in `Error inserting VM in DB.` (src/vm/VirtualMachine.cc).

Among peers this comes from a leader without followers, and the next leader may still carry out the entry in its log
(src/logdb/LogDB.cc)."""

_UNREADABLE = re.compile(
    r"\b(?:syntax|parse|parsing) error|\berror parsing\b|not supported by the SQL backend"
    r"|\battribute must be\b|\bdoes not own an? (?:image|network)\b",
    re.IGNORECASE,
)
"""Found in texts about a faulty call, which the error code does not show: `one.vm.allocate` has one code for every
fault of a template (src/rm/RequestManagerAllocate.cc, VirtualMachineAllocate)."""

_METHOD = re.compile(r"\A\[one\.[\w.]+\] *(?:User \[\d+\] : *)?")
"""Prefix of each text of src/rm/Request.cc; our messages begin with the problem, and end with the method."""

_TEXT = 2000
"""Longest text of a refusal in characters; foreign text goes into logs and replies."""

_NO_METHOD = -506
_OTHER_FAULTS = range(-599, -500)
"""Faults of xmlrpc-c for unreadable calls (xmlrpc-c/base.h)."""

ELECTION_SECONDS = 1.0
"""Seconds until the next try while there is no leader; an election takes a few (RAFT ELECTION_TIMEOUT_MS)."""


def is_not_the_leader(failure: Failure) -> bool:
    """Return True when the front-end refused without reading the call, since it does not lead; the leader may."""
    return failure.code == REPLICATION or (failure.code == INTERNAL and bool(_NOT_THE_LEADER.search(failure.text)))


def error_of(method: str, failure: Failure, *, peer: str = "OpenNebula") -> ProviderError:
    """Return the error to raise for a refusal.

    Args:
        method: the method that was called.
        failure: the answer.
        peer: name of the refusing OpenNebula, so that a partner's quota is not mistaken for one of ours.
    """
    said = _METHOD.sub("", masked(failure.text.strip()))[:_TEXT] or f"refused without a reason, code {failure.code}"
    text = f"{said} ({method})"
    if is_not_the_leader(failure):
        return Throttled(f"no OpenNebula front-end leads at this time: {text}", retry_after=ELECTION_SECONDS)
    match failure.code:
        case code if code == AUTHENTICATION:
            return AuthenticationRefused(text)
        case code if code == AUTHORIZATION:
            kind = QuotaExceeded if _QUOTA.search(text) else PermissionDenied
            return kind(f"{peer} refuses: {text}")
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
    # Includes a follower whose leader did not answer it: the leader may have carried the call out.
    return ProviderUnavailable(text)
