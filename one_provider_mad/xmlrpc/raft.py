"""A front-end's state among its peers (src/raft/RaftManager.h, State)."""

from __future__ import annotations

from enum import Enum

from one_provider_mad.domain import Value, whole_number
from one_provider_mad.safe_xml import Element, text_of


class RaftState(Enum):
    """STATE in the answer to `one.zone.raftstatus`."""

    SOLO = 0
    CANDIDATE = 1
    FOLLOWER = 2
    LEADER = 3
    UNKNOWN = -1

    @property
    def may_act(self) -> bool:
        """Return True for a front-end without peers, or one that leads them."""
        return self in (RaftState.SOLO, RaftState.LEADER)


class RaftStatus(Value, frozen=True, kw_only=True):
    """The answer to `one.zone.raftstatus`.

    Attributes:
        state: the front-end's state.
        server_id: its number, -1 for one without peers.
        term: number of elections so far.
    """

    state: RaftState
    server_id: int
    term: int


def read_raft_status(document: Element) -> RaftStatus:
    """Read a `<RAFT>` document; missing values are UNKNOWN or -1."""
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
