"""Self-check of a partner: release, clock, template, group, rights and quotas. Nothing is changed.

The API has no dry run: a template is visible to a user with the USE right (src/rm/RequestManagerInfo.cc). A create
also needs CREATE of VMs and, since attributes are added, of templates (src/rm/RequestManagerVMTemplate.cc). Every user
has both unless the partner removed these rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from one_provider_mad.errors import BadParameter, PermissionDenied, ProviderError
from one_provider_mad.providers.clock import check_clock
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.providers.opennebula import capacity
from one_provider_mad.providers.opennebula.remote import Remote
from one_provider_mad.providers.opennebula.templates import Templates
from one_provider_mad.safe_xml import Element

OLDEST = (4, 14)
"""The oldest release that this provider supports."""

_MYSELF = -1


class Checks:
    """Checks everything that can be checked without a change.

    Args:
        remote: the partner.
        templates: its templates.
    """

    def __init__(self, remote: Remote, templates: Templates) -> None:
        self._remote = remote
        self._templates = templates
        self._settings = remote.settings

    async def run(self) -> Sequence[CheckResult]:
        """Run all checks; a failure is a finding."""
        release = await self._release()
        clock = check_clock(self._remote.client.answered, peer="the partner", at_most=None)
        return [release, *clock, await self._template(), *await self._quotas(), await self._hosts()]

    async def _release(self) -> CheckResult:
        version = await self._remote.version()
        found = f"OpenNebula {'.'.join(map(str, version))}"
        if version >= OLDEST:
            return CheckResult(what="release", is_well=True, found=found)
        return CheckResult(
            what="release", is_well=None, found=found, remedy="older than 4.14, which is the oldest tried"
        )

    async def _template(self) -> CheckResult:
        named = self._settings.template
        if not named:
            return CheckResult(what="default template", is_well=None, found="none: each VM has to name one")
        try:
            number = await self._templates.number(named)
            await self._templates.context(number)
        except (BadParameter, PermissionDenied) as error:
            remedy = "correct template in [opennebula], or ask the partner for USE of it"
            return CheckResult(what="default template", is_well=False, found=str(error), remedy=remedy)
        return CheckResult(what="default template", is_well=True, found=f"{named} may be instantiated")

    async def _quotas(self) -> list[CheckResult]:
        user = await self._remote.client.read("one.user.info", _MYSELF, False, read=_same)  # noqa: FBT003 - as the API
        try:
            group: Element | None = await self._remote.client.read("one.group.info", _MYSELF, read=_same)
        except PermissionDenied:
            group = None
        left = capacity.quotas_left(user, group)
        if not left:
            return [CheckResult(what="quotas", is_well=True, found="none that limits VMs")]
        return [_quota(name, free, limit) for name, (free, limit) in left.items()]

    async def _hosts(self) -> CheckResult:
        try:
            share = await self._remote.client.read("one.hostpool.info", read=capacity.hosts_share)
        except ProviderError:
            share = None
        if share is None:
            remedy = "fine where quotas limit CPU and MEMORY; else set cpu and memory in [capacity]"
            return CheckResult(what="hosts", is_well=None, found="cannot be seen by this user", remedy=remedy)
        found = f"{share.cpu.limit:g} cores and {share.memory.limit:.0f} MiB in all can be seen"
        return CheckResult(what="hosts", is_well=True, found=found)


def _quota(name: str, free: float, limit: float) -> CheckResult:
    found = f"{free:g} of {limit:g} left"
    if free > 0:
        return CheckResult(what=f"quota {name}", is_well=True, found=found)
    remedy = "every deploy fails until VMs end there, or the partner raises it"
    return CheckResult(what=f"quota {name}", is_well=False, found=found, remedy=remedy)


def _same(document: Element) -> Element:
    return document
