"""The .rpm for RHEL in a root with a Python 3.12, installed by Debian's rpm, which ignores what it depends on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.packages.conftest import Packages
from tests.packages.debian_root import BASE, MADS, Root, unpacked
from tests.packages.driver import NAME, configure, driver

pytestmark = pytest.mark.packages

PYTHON = "/usr/bin/python3.12"


@pytest.fixture(scope="module")
def packages(built: Callable[[str], Packages]) -> Packages:
    return built("el")


@pytest.fixture(scope="module")
def root(roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    with unpacked("bookworm", tmp_path_factory.mktemp("rpm"), roots) as fresh:
        sys.path.insert(0, str(Path(__file__).parents[2] / "packaging"))
        # This machine's Python 3.12, at its own path, which oneadmin has to be able to enter.
        prefix = import_module("build").python_of("3.12").resolve().parents[1]
        fresh.file(str(prefix)).parent.mkdir(parents=True)
        subprocess.run(["cp", "-a", prefix, fresh.file(str(prefix))], check=True)
        for folder in (prefix, *prefix.parents):
            fresh.file(str(folder)).chmod(0o755)
        # The libraries that it was built with are those that Debian's Python needs.
        fresh.run("apt-get", "install", "-qy", "--no-install-recommends", "python3")
        fresh.file(PYTHON).symlink_to(prefix / "bin" / "python3.12")
        yield fresh


def rpm(root: Root, *arguments: str) -> str:
    return root.run_from_outside("rpm", "--root", str(root.path), "--dbpath", "/var/lib/rpm", "--nodeps", *arguments)


def test_package_needs_pythons_path_and_provides_no_library(packages: Packages) -> None:
    asked = subprocess.run(["rpm", "-qp", "--requires", "--provides", packages.new], stdout=subprocess.PIPE, text=True)
    lines = asked.stdout.splitlines()

    assert PYTHON in lines
    assert not [line for line in lines if ".so" in line or "python3dist" in line or "python(abi)" in line]


def test_demonstration_of_opennebulas_user_passes(root: Root, packages: Packages) -> None:
    rpm(root, "--install", str(packages.old))

    assert root.as_oneadmin(f"{MADS}/one_im_provider", "--version") == "one-provider-mad 0.1.0\n"
    assert "all answered SUCCESS" in root.as_oneadmin("one-provider", "demo")


def test_upgrade_loses_no_request_of_a_running_driver(root: Root, packages: Packages) -> None:
    root.run("one-provider", "install", NAME)
    configure(root, "faults.outage = true")
    with driver(root) as old:
        old.send("DEPLOY", 1)
        printed = rpm(root, "--upgrade", str(packages.new))
        configure(root)

        assert "systemctl restart opennebula" in printed
        assert old.reply("DEPLOY", 1).startswith("sim-")
        assert root.releases() == {"0.1.0", "0.2.0.dev0"}
        assert f"{BASE}/releases/0.1.0-" in old.release()
    assert root.run("one-provider", "--version").startswith("one-provider-mad 0.2.0")


def test_downgrade_removes_the_release_that_nothing_runs(root: Root, packages: Packages) -> None:
    rpm(root, "--upgrade", "--oldpackage", str(packages.old))

    assert root.releases() == {"0.1.0"}
    assert root.run("one-provider", "--version") == "one-provider-mad 0.1.0\n"


def test_removal_leaves_what_the_drivers_have_written(root: Root) -> None:
    rpm(root, "--erase", "one-provider-mad")

    assert not root.file(BASE).exists()
    assert not root.file(f"{MADS}/one_vmm_provider").is_symlink()
    assert root.file(f"/var/lib/one/one_provider_mad_{NAME}.journal").exists()
