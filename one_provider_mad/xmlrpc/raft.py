"""Which part a front-end plays among its peers (src/raft/RaftManager.h, State)."""

from __future__ import annotations

from enum import Enum

from one_provider_mad.documents import Element, text_of
from one_provider_mad.domain import Value, whole_number


class RaftState(Enum):
    """What `one.zone.raftstatus` says in STATE."""

    SOLO = 0
    CANDIDATE = 1
    FOLLOWER = 2
    LEADER = 3
    UNKNOWN = -1

    @property
    def may_act(self) -> bool:
        """True for a front-end that alone, or chosen by its peers, decides what is done."""
        return self in (RaftState.SOLO, RaftState.LEADER)


class RaftStatus(Value, frozen=True, kw_only=True):
    """A front-end among its peers.

    Attributes:
        state: its part.
        server_id: its number, -1 for one that has no peers.
        term: how many elections there were.
    """

    state: RaftState
    server_id: int
    term: int


def read_raft_status(document: Element) -> RaftStatus:
    """Read a `<RAFT>` document; what it does not say is unknown."""
    number = _number(document, "STATE")
    known = {state.value: state for state in RaftState}
    return RaftStatus(
        state=known.get(number, RaftState.UNKNOWN),
        server_id=_number(document, "SERVER_ID"),
        term=_number(document, "TERM"),
    )


def _number(document: Element, name: str) -> int:
    number = whole_number(text_of(document.find(name)).strip())
    return -1 if number is None else number
