"""Checks of a partner by `one-provider check`: they change nothing, and report problems before an action fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.providers.interface import CheckResult, SelfChecking
from tests.providers.opennebula.partner_provider import connect
from tests.xmlrpc.partner import RELEASES, Partner


@pytest.fixture
def partner() -> Iterator[Partner]:
    with Partner(delay=0.002) as partner:
        yield partner


async def checked(partner: Partner, directory: Path, **settings: Any) -> dict[str, CheckResult]:
    provider = connect(partner, directory, **settings)
    await provider.open()
    assert isinstance(provider, SelfChecking)
    found = {each.what: each for each in await provider.check()}
    await provider.close()
    return found


@pytest.mark.parametrize("release", RELEASES)
async def test_all_checks_of_a_healthy_partner_pass_and_only_read(tmp_path: Path, release: Any) -> None:
    with Partner(release) as partner:
        points = await checked(partner, tmp_path, template="ubuntu server")
        assert {what: (point.is_well, point.found) for what, point in points.items()} == {
            "release": (True, f"OpenNebula {release}"),
            "clock": (True, "as the partner's"),
            "default template": (True, "ubuntu server may be instantiated"),
            "quotas": (True, "none that limits VMs"),
            "hosts": (True, points["hosts"].found),
        }
        assert "cores and" in points["hosts"].found
        assert {method for method, _ in partner.calls} <= {
            "one.system.version", "one.templatepool.info", "one.template.info", "one.user.info", "one.group.info",
            "one.hostpool.info",
        }  # fmt: skip


async def test_a_quota_that_is_used_up_fails_its_check(partner: Partner, tmp_path: Path) -> None:
    quota = {"VMS": 2, "VMS_USED": 2, "CPU": 8, "CPU_USED": 1.5, "MEMORY": -2, "MEMORY_USED": 512}
    partner.users["burst:secret"].quota = {name: str(figure) for name, figure in quota.items()}
    points = await checked(partner, tmp_path, session="burst:secret")
    assert (points["quota VMS"].is_well, points["quota VMS"].found) == (False, "0 of 2 left")
    assert (points["quota CPU"].is_well, points["quota CPU"].found) == (True, "6.5 of 8 left")
    assert "quota MEMORY" not in points
    assert points["quota VMS"].remedy


async def test_a_missing_template_and_invisible_hosts_are_reported_with_a_remedy(
    partner: Partner, tmp_path: Path
) -> None:
    partner.may_see_hosts = False
    points = await checked(partner, tmp_path, template="debian")
    template = points["default template"]
    assert (template.is_well, "has no template 'debian'" in template.found) == (False, True)
    assert template.remedy.startswith("correct template in [opennebula]")
    assert points["hosts"].is_well is None
    assert "[capacity]" in points["hosts"].remedy
    assert (await checked(partner, tmp_path))["default template"].is_well is None
