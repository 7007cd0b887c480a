"""Which settings of OpenNebula's scheduler let many VMs reach a cloud at once, and which of them a front-end lacks.

A cloud is one host, so each limit per host is a limit on the whole cloud. Every limit counts for hosts at home, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from one_provider_mad.domain import Value
from one_provider_mad.front_end.files import ONED, RANK, SCHED, FrontEnd
from one_provider_mad.front_end.pace import Pace6, Pace7
from one_provider_mad.front_end.rank import SHIPPED, Policy, policy_of

THREADS = 100
"""-t of the action driver: a deploy holds one of these places until its instance runs."""

ENOUGH_THREADS = 50
"""Least -t that is not reported."""

SEVEN = (7, 0)
"""First release in which oned starts the scheduler, and runs its placements as plans."""

_ANY = 10**9


class Limit(Value, frozen=True, kw_only=True):
    """A setting of the scheduler.

    Attributes:
        name: its name.
        file: the file that has it.
        best: the value to set.
        absent: the value that counts when the file has none.
        least: the least value that is as good as the best one, for this purpose.
        most: the greatest.
        is_unlimited_by_zero: True if 0 stands for no limit.
        why: what the best value is for.
        at_home: what it changes for hosts at home.
    """

    name: str
    file: str
    best: int
    absent: int
    least: int = 0
    most: int = _ANY
    is_unlimited_by_zero: bool = False
    why: str
    at_home: str

    def found_in(self, front_end: FrontEnd) -> int:
        """Return its value on a front-end."""
        with suppress(ValueError):
            return int(front_end.of(self.file).text(self.name))
        return self.absent

    def is_met_in(self, front_end: FrontEnd) -> bool:
        """Return True if its value on a front-end is good enough."""
        found = self.found_in(front_end)
        return (found == 0 and self.is_unlimited_by_zero) or self.least <= found <= self.most


_ONE_HOST_FIRST = (
    "the VMs of one placement fill the host of the highest rank before the next one, since ranks are computed once for"
    " a placement; from one placement to the next your policy packs or spreads as before"
)

OF_7: Sequence[Limit] = (
    Limit(
        name="MAX_HOST",
        file=RANK,
        best=0,
        absent=1,
        least=50,
        is_unlimited_by_zero=True,
        why="A placement gives a host any number of VMs. With 1, as shipped, it gives a whole cloud one VM, and sends"
        " the second of two VMs to the cloud while the host at home has room",
        at_home=_ONE_HOST_FIRST,
    ),
    Limit(
        name="MAX_ACTIONS_PER_HOST",
        file=ONED,
        best=200,
        absent=2,
        least=50,
        why="So many deploys of a placement run at once on a host; 0 counts as 1. With 1, as shipped, the next one"
        " starts 15 s later, and holds up those of all other hosts behind it",
        at_home="a host starts all VMs of a placement at once; -t of TM_MAD and of its VM_MAD, 15 as shipped, still"
        " limit how many images are copied and VMs started at the same time",
    ),
    Limit(
        name="MAX_ACTIONS_PER_CLUSTER",
        file=ONED,
        best=200,
        absent=10,
        least=50,
        why="So many deploys of a placement run at once in all; 0 counts as 1, and 30 are shipped",
        at_home="as the line above: a placement counts as one cluster, whichever its hosts are in",
    ),
    Limit(
        name="SCHED_MAX_WND_TIME",
        file=ONED,
        best=2,
        absent=30,
        most=2,
        why="A placement begins 2 s after the first VM that waits for one, instead of 10 s",
        at_home="VMs start up to 8 s earlier; VMs that come one by one are placed one by one, and so spread better",
    ),
    Limit(
        name="SCHED_MAX_WND_LENGTH",
        file=ONED,
        best=100,
        absent=7,
        least=100,
        why="VMs that come together are placed together. With 7, as shipped, the seventh begins a placement, and the"
        " others wait until it has ended",
        at_home="the same",
    ),
    Limit(
        name="SCHED_RETRY_TIME",
        file=ONED,
        best=15,
        absent=60,
        most=15,
        why="A VM that finds no room is tried again after 15 s instead of 60 s, and so is one that waits behind a slow"
        " placement",
        at_home="the same; each try costs one run of the scheduler, and only while VMs are pending",
    ),
    Limit(
        name="ACTION_TIMEOUT",
        file=ONED,
        best=10,
        absent=120,
        most=10,
        why="7.x places no VM until every deploy of the last placement has ended, for up to five minutes as shipped, so"
        " a slow cloud holds up VMs at home. With 10 s it places VMs again after 15 s",
        at_home="a deploy that takes longer goes on and no longer counts in MAX_ACTIONS_PER_HOST",
    ),
)
"""The limits from 7.0 on, where oned starts the scheduler, and runs its placements as plans."""

OF_6: Sequence[Limit] = (
    Limit(
        name="MAX_HOST",
        file=SCHED,
        best=1000,
        absent=1,
        least=50,
        why="In one turn the scheduler gives a host so many VMs; 0 would place none. With 1, as shipped, it gives a"
        " whole cloud one VM, and sends the second of two VMs to the cloud while the host at home has room",
        at_home=_ONE_HOST_FIRST.replace("placement", "turn"),
    ),
    Limit(
        name="MAX_DISPATCH",
        file=SCHED,
        best=0,
        absent=30,
        least=100,
        is_unlimited_by_zero=True,
        why="One turn places all VMs that find room, instead of 30",
        at_home="the same; -t of TM_MAD and VM_MAD, 15 as shipped, still limit how many images are copied and VMs"
        " started at the same time",
    ),
    Limit(
        name="SCHED_INTERVAL",
        file=SCHED,
        best=5,
        absent=30,
        least=1,
        most=5,
        why="The scheduler's turns are 5 s apart, instead of 15 s (30 s up to 5.12)",
        at_home="VMs start earlier, and those that come one by one spread better; a turn without pending VMs asks for"
        " them and ends",
    ),
)
"""The limits up to 6.10, where mm_sched runs beside oned."""


def limits_of(release: tuple[int, ...]) -> Sequence[Limit]:
    """Return the limits of a release's scheduler."""
    return OF_7 if release >= SEVEN else OF_6


def policy_in(front_end: FrontEnd, file: str) -> Policy:
    """Return the policy by which the scheduler of a front-end ranks hosts.

    Args:
        front_end: its files. Before an upgrade to 7.x DEFAULT_SCHED is in sched.conf, and is moved.
        file: the file of the release that is meant.
    """
    for name in (file, SCHED, RANK):
        if sections := front_end.of(name).vectors("DEFAULT_SCHED"):
            return policy_of(sections[0])
    return policy_of(SHIPPED)


def seconds_for(vms: int, front_end: FrontEnd, limits: Iterable[Limit], *, threads: int, best: bool = False) -> float:
    """Return after how many seconds VMs that are created at once run in the cloud, if a deploy takes 3.5 s.

    Args:
        vms: how many.
        front_end: its files.
        limits: the limits of its release.
        threads: -t of the action driver.
        best: True for the time with the best values instead of those in the files.
    """
    values = {
        each.name: each.best if best and not each.is_met_in(front_end) else each.found_in(front_end) for each in limits
    }
    if "SCHED_INTERVAL" in values:
        return Pace6(
            interval=values["SCHED_INTERVAL"],
            max_host=values["MAX_HOST"],
            max_dispatch=values["MAX_DISPATCH"],
            threads=threads,
        ).seconds(vms)
    return Pace7(
        max_host=values["MAX_HOST"],
        per_host=values["MAX_ACTIONS_PER_HOST"],
        per_cluster=values["MAX_ACTIONS_PER_CLUSTER"],
        window_time=values["SCHED_MAX_WND_TIME"],
        window_length=values["SCHED_MAX_WND_LENGTH"],
        threads=threads,
    ).seconds(vms)
