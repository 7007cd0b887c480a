"""The steps of `one-provider oned-conf` that let VMs start in the cloud once home is full, many at a time.

On a front-end they are composed from what stands in its files: a setting that is good enough there is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from one_provider_mad.cli.oned_conf_block import Block
from one_provider_mad.front_end.files import RANK, SCHED, FrontEnd
from one_provider_mad.front_end.rank import CUSTOM, FIXED, Policy, home_first
from one_provider_mad.front_end.scheduler import SEVEN, limits_of, policy_in

_MANY_CLOUDS = -100
"""No site has clouds with a lower PRIORITY than this, unless it is a price."""

_ZEROED = (6, 0)
"""First release whose later fixes count an attribute that a host lacks as 0. Up to 5.12 it counts what stands in memory
(src/parsers/expr_arith.y; seen on 5.10.5: three VMs one after the other to the host that had most)."""

_BYPASS = (
    "A template with a SCHED_RANK of its own (or RANK, its old name) is ranked by that alone: use PRIORITY there, too"
)


def scheduler_steps(release: tuple[int, ...], front_end: FrontEnd) -> Iterator[Block]:
    """Yield the steps for the scheduler of a release.

    Args:
        release: the release.
        front_end: the files of this front-end; without any, those that the release ships are meant.
    """
    limits = limits_of(release)
    for limit in limits:
        if not limit.is_met_in(front_end):
            what = f"{limit.why}. At home: {limit.at_home}"
            yield Block(what=what, where=limit.file, text=f"{limit.name} = {limit.best}", is_once=True)
    if met := [f"{each.name} = {each.found_in(front_end)}" for each in limits if each.is_met_in(front_end)]:
        yield Block(what=f"This front-end has {', '.join(met)}, which can stay", is_once=True)
    file = RANK if release >= SEVEN else SCHED
    yield _rank(policy_in(front_end, file), file)
    if release < _ZEROED:
        yield _zero_at_home()


def rank_section(policy: Policy) -> str:
    """Return the section DEFAULT_SCHED with which PRIORITY decides first, and then the policy."""
    return f'DEFAULT_SCHED = [ POLICY = {CUSTOM}, RANK = "{_escaped(home_first(policy).rank)}" ]'


def _rank(policy: Policy, file: str) -> Block:
    if policy.has_priority:
        told = "POLICY = 4 ranks" if policy.number == FIXED else f"the RANK {policy.expression!r} of {file} ranks"
        what = f"Home first: {told} by PRIORITY already, and stays. The cloud's host has PRIORITY -1, a host without 0"
        return Block(what=f"{what}. {_BYPASS}", is_once=True)
    found = home_first(policy)
    what = (
        "Home first: the driver gives the cloud's host PRIORITY -1, and a host without PRIORITY counts 0. Among those"
        f" at home your policy decides as before ({_told(policy)}): the large factor only sets the cloud apart"
    )
    if found.last > _MANY_CLOUDS:
        what += f", and clouds with a PRIORITY below {found.last} count alike"
    if not found.is_readable:
        what = (
            f"Home first: the driver gives the cloud's host PRIORITY -1. The RANK {policy.expression!r} of {file}"
            " cannot be evaluated by OpenNebula and counts 0 for every host, so it is left out here"
        )
    what += ". Hosts and clusters at home that have a PRIORITY are ranked by that first"
    return Block(what=f"{what}. {_BYPASS}", where=file, text=rank_section(policy), is_once=True)


def _told(policy: Policy) -> str:
    names = {"0": "packing", "1": "striping", "2": "load-aware"}
    return names.get(policy.number, f"POLICY = {policy.number}: {policy.expression or 'no RANK'}")


def _zero_at_home() -> Block:
    return Block(
        what="Give each cluster at home PRIORITY 0, here default; before 6.0 an attribute that host and cluster lack"
        " counts what happens to stand in the scheduler's memory, and VMs at home would be neither packed nor spread."
        " The cloud's host may be in the same cluster: its own PRIORITY counts. Hosts outside any cluster get it by"
        " onehost update",
        where="home.priority, then: onecluster update default home.priority --append",
        text='PRIORITY = "0"',
        is_once=True,
    )


def _escaped(rank: str) -> str:
    return rank.replace('"', '\\"')
