"""The life of a .deb on a front-end, from the installation to the purge: each test goes on where the last one ended."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.packages.conftest import Packages
from tests.packages.debian_root import BASE, MADS, Root
from tests.packages.driver import NAME, configure, driver

pytestmark = pytest.mark.packages

PROGRAMS = ("one_vmm_provider", "one_im_provider")


def test_lintian_finds_no_error(packages: Packages) -> None:
    found = subprocess.run(["lintian", "--allow-root", packages.new], stdout=subprocess.PIPE, text=True).stdout

    assert [line for line in found.splitlines() if line.startswith("E:")] == []


def test_installation_links_drivers_of_the_old_release(root: Root, packages: Packages) -> None:
    root.install(packages.old)
    root.run("one-provider", "install", NAME)
    configure(root)

    assert root.releases() == {"0.1.0"}
    for program in PROGRAMS:
        assert root.as_oneadmin(f"{MADS}/{program}", "--version") == "one-provider-mad 0.1.0\n"


def test_check_of_opennebulas_user_has_no_fault(root: Root) -> None:
    printed = root.as_oneadmin("one-provider", "check", NAME)

    assert "✗" not in printed
    assert f"✓ one_vmm_provider: {MADS}/one_vmm_provider" in printed


def test_demonstration_of_opennebulas_user_passes(root: Root) -> None:
    assert "all answered SUCCESS" in root.as_oneadmin("one-provider", "demo")


def test_upgrade_loses_no_request_of_a_running_driver(root: Root, packages: Packages) -> None:
    with driver(root) as old:
        old.perform("DEPLOY", 1)
        configure(root, "faults.outage = true")
        old.send("DEPLOY", 2)  # in flight until the outage ends
        printed = root.install(packages.new)

        assert "systemctl restart opennebula" in printed
        assert root.run("one-provider", "--version").startswith("one-provider-mad 0.2.0")
        assert root.releases() == {"0.1.0", "0.2.0.dev0"}
        configure(root)
        assert old.reply("DEPLOY", 2).startswith("sim-")
        # Its first retry after the upgrade imports what the old process has not needed before.
        configure(root, 'faults.transient = { calls = ["create"], times = 1 }')
        assert old.perform("DEPLOY", 3).startswith("sim-")
        assert "release 0.1.0" in root.run("one-provider", "upgrade", "--check", NAME)  # exit code 0: no fault
        assert f"{BASE}/releases/0.1.0-" in old.release()


def test_installation_under_one_location_links_to_what_an_upgrade_moves(root: Root) -> None:
    root.run("mkdir", "-p", "/opt/one/lib/mads", "/opt/one/etc", "/opt/one/var")
    root.run("env", "ONE_LOCATION=/opt/one", "one-provider", "install", NAME)

    for program in PROGRAMS:
        assert root.run("readlink", f"/opt/one/lib/mads/{program}") == f"{BASE}/current/bin/{program}\n"
    root.run("rm", "-rf", "/opt/one")


def test_old_release_goes_when_no_process_runs_from_it(root: Root) -> None:
    root.run("dpkg-reconfigure", "one-provider-mad")

    assert root.releases() == {"0.2.0.dev0"}


def test_new_release_ends_the_vm_of_the_old_one(root: Root) -> None:
    configure(root)
    with driver(root) as new:
        deploy_id = new.perform("DEPLOY", 1)
        new.perform("SHUTDOWN", 1, f"--deploy-id={deploy_id}", "--lcm-state=SHUTDOWN")


def test_downgrade_goes_back_under_a_running_driver(root: Root, packages: Packages) -> None:
    with driver(root) as new:
        root.install(packages.old)
        assert new.perform("DEPLOY", 4).startswith("sim-")

    assert root.run("one-provider", "--version") == "one-provider-mad 0.1.0\n"
    assert root.as_oneadmin(f"{MADS}/one_vmm_provider", "--version") == "one-provider-mad 0.1.0\n"
    root.install(packages.new)


def test_purge_keeps_the_journal_that_names_live_instances(root: Root) -> None:
    # Exit code 3: files must stay. Purge may use no program of the package, and names the same instances.
    remains = json.loads(root.run("one-provider", "purge", "--check", "--json", NAME, check=False))
    printed = root.run("apt-get", "purge", "-qy", "one-provider-mad")

    journal = f"/var/lib/one/one_provider_mad_{NAME}.journal"
    assert f"kept {journal}" in printed
    traces = remains[0]["traces"]
    assert {each["vm_id"] for each in traces} == {2, 3, 4}
    assert {f"instance {each['deploy_id']} of VM {each['vm_id']}" for each in traces} == set(
        re.findall(r"instance \S+ of VM \d+", printed)
    )
    assert root.file(journal).exists()
    assert root.file(f"/etc/one/one_provider_mad/{NAME}.toml").exists()
    assert not root.file(BASE).exists()
    assert not root.file("/etc/logrotate.d/one-provider-mad").exists()
    assert not any(root.file(f"{MADS}/{program}").is_symlink() for program in PROGRAMS)


def test_purge_after_the_last_vm_leaves_nothing(root: Root, packages: Packages) -> None:
    root.install(packages.new)
    with driver(root) as last:
        for vm_id in (2, 3, 4):
            deploy_id = last.perform("DEPLOY", vm_id)
            last.perform("SHUTDOWN", vm_id, f"--deploy-id={deploy_id}", "--lcm-state=SHUTDOWN")
    printed = root.run("apt-get", "purge", "-qy", "one-provider-mad")

    assert "kept" not in printed
    left = root.run("find", "/", "-xdev", "-name", "*one?provider*", "-not", "-path", "/proc/*").split()
    assert left == []
    assert root.run("find", "/var/lib/one", "/etc/one", "-name", f"*{NAME}*") == ""
