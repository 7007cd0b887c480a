"""Decide which of HOSTNAME, PRIORITY and VERSION of a host the driver writes: never over an administrator's value.

What a driver reports merges into the host's template and stays there (src/host/Host.cc, update_info, in all releases):
a reported PRIORITY would replace the one that an administrator has written with `onehost update`. So the driver looks
at the template first, and writes an attribute only if it is missing or still has the driver's own value. Which values
are the driver's, the template itself says, in PROVIDER_SENT: so any front-end knows it, also after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog

from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError

log = structlog.get_logger()

ASK_SECONDS = 2.0
"""Most seconds that a report waits for OpenNebula's answer; then these attributes come with a later report."""

AGAIN_SECONDS = 15.0
"""Seconds until OpenNebula is asked again after it has not answered."""

_LONGEST = 64
"""Characters that are read of the remotes' VERSION: of a damaged file no more is reported."""


class HostTemplate(Value, frozen=True, kw_only=True):
    """What OpenNebula has of a host.

    Attributes:
        name: the host's name.
        attributes: attributes of its template with one value each.
        sent: PROVIDER_SENT of its template: what a driver has written.
    """

    name: str = ""
    attributes: Mapping[str, str] = {}
    sent: Mapping[str, str] = {}


DEFAULT_PRIORITY = "-1"
"""PRIORITY of a host for which there is no other."""

HostTemplates = Callable[[int], Awaitable[HostTemplate]]
"""A function that asks OpenNebula for a host, given by number; raises MadError."""


def wanted_attributes(*, name: str, priority: str, version: str) -> dict[str, str]:
    """Return the attributes that a host is to have; those without a value are left out.

    Args:
        name: the host's name: HOSTNAME, as upstream's drivers for clouds had it.
        priority: PRIORITY, by which schedulers rank hosts, and upstream's drivers for clouds had -1.
        version: VERSION of the front-end's remotes; `onehost sync` leaves a host alone that has it.
    """
    wanted = {"HOSTNAME": name.strip(), "PRIORITY": priority, "VERSION": version}
    return {key: value for key, value in wanted.items() if value}


def to_write(wanted: Mapping[str, str], found: HostTemplate) -> dict[str, str]:
    """Return the attributes to report: the missing ones and the driver's own, {} if the host has all of them already.

    A value that equals the wanted one counts as the driver's from then on, whoever wrote it.
    """
    own = {
        key: value
        for key, value in wanted.items()
        if found.attributes.get(key) in (None, value, found.sent.get(key, value))
    }
    return {} if own == dict(found.sent) and own.items() <= found.attributes.items() else own


def read_version(remotes: Path) -> str:
    """Return the version of the front-end's remotes, as `onehost sync` reads it; "" if there is none. Never raises."""
    try:
        return (remotes / "VERSION").read_text().strip()[:_LONGEST]
    except (OSError, UnicodeDecodeError):
        return ""


class HostAttributes:
    """Finds out what to write of HOSTNAME, PRIORITY and VERSION of hosts.

    Args:
        remotes: the front-end's remotes.

    Attributes:
        templates: asks OpenNebula for a host.
        may_ask: whether OpenNebula can be asked, None while that is not known; where it cannot be asked, every report
            writes all of them.
    """

    def __init__(self, remotes: Path | None = None) -> None:
        self._remotes = remotes
        self._complaints: dict[int, str] = {}
        self.templates: HostTemplates | None = None
        self.may_ask: bool | None = None

    @property
    def is_known(self) -> bool:
        """True once it is known whether and how OpenNebula is asked."""
        return self.may_ask is False or self.templates is not None

    async def to_write(self, host_id: int, *, name: str, priority: str | None) -> Mapping[str, str] | None:
        """Return what the next report writes, {} for nothing; None while that cannot be told.

        Args:
            host_id: the host's number.
            name: its name, as far as the request says; the present one comes from OpenNebula.
            priority: the wanted PRIORITY; None for the one that a driver has written, else DEFAULT_PRIORITY.
        """
        version = await asyncio.to_thread(read_version, self._remotes) if self._remotes is not None else ""
        if self.templates is None:
            is_asking_impossible = self.may_ask is False
            wanted = wanted_attributes(name=name, priority=priority or DEFAULT_PRIORITY, version=version)
            return wanted if is_asking_impossible else None
        found = await self._ask(self.templates, host_id)
        if found is None:
            return None
        priority = priority or found.sent.get("PRIORITY", DEFAULT_PRIORITY)
        return to_write(wanted_attributes(name=found.name or name, priority=priority, version=version), found)

    async def _ask(self, templates: HostTemplates, host_id: int) -> HostTemplate | None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                found = await templates(host_id)
        except (MadError, TimeoutError) as error:
            self._complain(host_id, str(error) or f"no answer within {ASK_SECONDS:g} s")
        except Exception:
            log.exception("host not known", host=host_id)
        else:
            self._complaints.pop(host_id, None)
            return found
        return None

    def _complain(self, host_id: int, reason: str) -> None:
        """Log why a host is not known, once until that changes: OpenNebula may refuse for ever what ONE_AUTH asks."""
        if self._complaints.get(host_id) != reason:
            log.warning("host not known", host=host_id, reason=reason)
        self._complaints[host_id] = reason
