"""`one-provider check`: home takes VMs, it comes first, and the cloud's datastore is not in its clusters."""

from __future__ import annotations

from pathlib import Path

import pytest

from one_provider_mad.cli.home_checks import home_results, judge
from one_provider_mad.front_end.pools import Datastore, FrontEnd, Host
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.settings import Places
from tests.front_end.pool_documents import GIB, cloud, front_end, host, local, system
from tests.xmlrpc.partner import Partner

OF_CLOUD = system(datastore_id=100, name="cloudsys", tm_mad="dummy", clusters=frozenset({100}))
EVERYWHERE = system(datastore_id=100, name="cloudsys", tm_mad="one_provider", clusters=frozenset({0, 100}))


def results(found: FrontEnd, release: tuple[int, ...] = (7, 4, 0)) -> list[CheckResult]:
    return list(judge(found, vm_mad="ec2", vm_mads={"ec2", "other"}, release=release))


def of(what: str, *parts: Host | Datastore, release: tuple[int, ...] = (7, 4, 0)) -> list[tuple[bool | None, str, str]]:
    found = results(front_end(*parts), release)
    return [(each.is_well, each.found, each.remedy) for each in found if each.what == what]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param(
            (host(), system()), [(True, "1 host with room for 8 more VMs of 1 CPU and 1 GiB", "")], id="with-room"
        ),
        pytest.param(
            (host(taken_cpu=800, taken_memory=8 * GIB, vms=8), host("home2", cpu=0), system()),
            [(True, "2 hosts, without room for a further VM of 1 CPU and 1 GiB", "")],
            id="full",
        ),
        pytest.param((cloud(),), [(True, "no host at home: every VM starts in a cloud", "")], id="no-home"),
        pytest.param(
            (host(), system(is_enabled=False)),
            [
                (
                    None,
                    "home has room for 8 VMs and takes none: system datastore 0 (system) is disabled",
                    "onedatastore enable 0",
                )
            ],
            id="at-fault",
        ),
        pytest.param(
            (host(), host("home2", state=3), system()),
            [
                (
                    None,
                    "host home2 is in ERROR, so that room for 8 of 16 VMs is not used",
                    "onehost show home2 says why",
                ),
                (True, "2 hosts with room for 8 more VMs of 1 CPU and 1 GiB", ""),
            ],
            id="half-at-fault",
        ),
        pytest.param(
            (host(), cloud(vm_mad="other", is_public=False), local()),
            [(True, "1 host with room for 8 more VMs of 1 CPU and 1 GiB", "")],
            id="beside-another-cloud-that-is-new",
        ),
    ],
)
def test_check_shows_whether_home_takes_vms(
    parts: tuple[Host | Datastore, ...], expected: list[tuple[bool | None, str, str]]
) -> None:
    assert of("home", *parts) == expected


@pytest.mark.parametrize(
    ("cloud_priority", "home_priority", "cluster_priority", "expected"),
    [
        pytest.param(-1.0, None, None, (True, "PRIORITY of cloud1 is -1, at home 0 or more", ""), id="as-it-should-be"),
        pytest.param(
            None,
            None,
            None,
            (
                None,
                "PRIORITY of cloud1 is 0, not less than 0 of home1: VMs start in the cloud although home has room",
                "write PRIORITY = -1 into the host's template: onehost update cloud1",
            ),
            id="a-tie",
        ),
        pytest.param(
            -1.0,
            None,
            -5.0,
            (
                None,
                "PRIORITY of cloud1 is -1, not less than -5 of home1: VMs start in the cloud although home has room",
                "write PRIORITY = -6 into the host's template: onehost update cloud1",
            ),
            id="a-lower-cluster",
        ),
        pytest.param(-1.0, 2.5, -5.0, (True, "PRIORITY of cloud1 is -1, at home 2.5 or more", ""), id="the-hosts-own"),
    ],
)
def test_check_shows_whether_home_comes_first(
    cloud_priority: float | None,
    home_priority: float | None,
    cluster_priority: float | None,
    expected: tuple[bool | None, str, str],
) -> None:
    parts = (cloud(priority=cloud_priority), host(priority=home_priority))
    found = results(front_end(*parts, priority=cluster_priority))
    assert [(each.is_well, each.found, each.remedy) for each in found if each.what == "home first"] == [expected]


def test_nothing_comes_first_where_there_is_no_home_or_no_cloud() -> None:
    assert of("home first", host()) == of("home first", cloud()) == []


STRAYED = (
    "cloudsys, which the cloud uses, is in cluster default of home, too: VMs placed in it there have no disks, or are"
    " never deployed"
)


@pytest.mark.parametrize(
    ("parts", "release", "expected"),
    [
        pytest.param(
            (host(), cloud(), system(), EVERYWHERE),
            (7, 4, 0),
            [(False, STRAYED, "onecluster deldatastore default 100")],
            id="in-both",
        ),
        pytest.param((host(), cloud(), system(), OF_CLOUD), (7, 4, 0), [], id="in-the-clouds-alone"),
        pytest.param((host(), cloud(), system(), EVERYWHERE), (6, 10, 0), [], id="6.10-uses-none"),
        pytest.param((host(), system(tm_mad="dummy")), (7, 4, 0), [], id="a-dummy-home"),
        pytest.param((host(cluster_id=100), cloud(), EVERYWHERE), (7, 4, 0), [], id="one-cluster-for-all"),
    ],
)
def test_check_fails_if_the_clouds_system_datastore_is_in_a_cluster_of_home(
    parts: tuple[Host | Datastore, ...], release: tuple[int, ...], expected: list[tuple[bool | None, str, str]]
) -> None:
    assert of("system datastore", *parts, release=release) == expected


async def test_check_asks_the_local_opennebula(tmp_path: Path) -> None:
    (tmp_path / "one_auth").write_text("oneadmin:secret\n")
    (tmp_path / "one_auth").chmod(0o600)
    places = Places(conf=tmp_path, var=tmp_path, log=tmp_path)
    with Partner("7.4.0") as oned:
        environ = {"ONE_AUTH": str(tmp_path / "one_auth"), "ONE_XMLRPC": oned.urls[0]}
        found = await home_results("ec2", environ, places)
    assert [each.found for each in found] == ["no host at home: every VM starts in a cloud"]
    (lost,) = await home_results("ec2", environ, places)
    assert (lost.what, lost.is_well, lost.remedy) == ("home", None, "run this as oneadmin")
