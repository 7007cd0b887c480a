"""What is shipped: the bill of materials, the licences, and what may not be shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import PathDistribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from tests.waiting import HANG

ROOT = Path(__file__).parent.parent
SBOM = ROOT / "tools" / "sbom.py"


@pytest.fixture
def sbom(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = spec_from_file_location("sbom", SBOM)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sbom", module)
    spec.loader.exec_module(module)
    return module


def installed(packages: Path, name: str, *lines: str, version: str = "1", text: str = "") -> PathDistribution:
    """Install the metadata of a package."""
    info = packages / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines, ""])
    )
    (info / "LICENSE").write_text(text)
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/LICENSE,,\n")
    return PathDistribution(info)


@pytest.mark.parametrize(
    ("lines", "read", "expected"),
    [
        pytest.param(["License-Expression: MIT OR Apache-2.0"], None, "MIT OR Apache-2.0", id="expression"),
        pytest.param(["License: BSD-3-Clause"], None, "BSD-3-Clause", id="identifier-in-the-older-field"),
        pytest.param(["Classifier: License :: OSI Approved :: MIT License"], None, "MIT", id="classifier"),
        pytest.param(["License: Dual License"], "Apache-2.0", "Apache-2.0", id="read-by-a-person"),
    ],
)
def test_the_licence_is_read_from_the_metadata_or_the_rules(
    sbom: ModuleType, tmp_path: Path, *, lines: list[str], read: str | None, expected: str
) -> None:
    rules = sbom.Rules(frozenset(), {"a-package": read} if read else {}, {})
    assert sbom.expression_of(installed(tmp_path, "a_package", *lines), rules) == expected


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="none"),
        pytest.param(["License: Dual License"], id="free-text"),
        pytest.param(["Classifier: License :: OSI Approved :: BSD License"], id="a-classifier-for-several-licences"),
        pytest.param(
            [
                "Classifier: License :: OSI Approved :: MIT License",
                "Classifier: License :: OSI Approved :: Apache Software License",
            ],
            id="two-classifiers",
        ),
    ],
)
def test_a_licence_that_is_not_understood_has_to_be_read_by_a_person(
    sbom: ModuleType, tmp_path: Path, lines: list[str]
) -> None:
    with pytest.raises(sbom.SbomError, match=r"of a-package has no SPDX expression: .*\[tool.licences.read\]"):
        sbom.expression_of(installed(tmp_path, "a_package", *lines), sbom.Rules(frozenset(), {}, {}))


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        pytest.param("MIT", True, id="allowed"),
        pytest.param("GPL-3.0-only", False, id="not-allowed"),
        pytest.param("MIT OR GPL-3.0-only", True, id="a-choice"),
        pytest.param("MIT AND GPL-3.0-only", False, id="both-apply"),
        pytest.param("MIT AND (GPL-3.0-only OR Zlib)", True, id="nested"),
        pytest.param("GPL-3.0-only WITH GCC-exception-3.1", False, id="with-an-exception"),
    ],
)
def test_an_expression_is_allowed_if_allowed_licences_satisfy_it(
    sbom: ModuleType, *, expression: str, allowed: bool
) -> None:
    assert sbom.is_allowed(expression, frozenset({"MIT", "Zlib"})) is allowed


def test_every_licence_that_is_not_allowed_is_named(sbom: ModuleType) -> None:
    with pytest.raises(sbom.SbomError, match=r"not in \[tool.licences\] .*: one \(GPL-3.0-only\), three \(SSPL-1.0\)"):
        sbom.check_licences({"one": "GPL-3.0-only", "two": "MIT", "three": "SSPL-1.0"}, frozenset({"MIT"}))


@pytest.mark.parametrize(
    ("version", "found"), [pytest.param("1", "1", id="another"), pytest.param(None, "not installed", id="none")]
)
def test_a_version_that_is_not_the_locked_one_is_refused(
    sbom: ModuleType, tmp_path: Path, *, version: str | None, found: str
) -> None:
    installed(tmp_path, "one_provider_mad")
    if version:
        installed(tmp_path, "aiohttp", version=version)
    with pytest.raises(sbom.SbomError, match=f"aiohttp is {found} in {tmp_path}, and 2 in requirements/runtime.txt"):
        sbom.shipped(tmp_path, {"aiohttp": "2"}, all_of_them=False)


def test_all_of_a_named_folder_is_described_and_of_this_one_what_is_locked(sbom: ModuleType, tmp_path: Path) -> None:
    for name in ("one_provider_mad", "aiohttp", "pytest"):
        installed(tmp_path, name)
    ours = sbom.shipped(tmp_path, {"aiohttp": "1"}, all_of_them=False)
    assert [each.name for each in ours] == ["aiohttp", "one_provider_mad"]
    every = sbom.shipped(tmp_path, {"aiohttp": "1"}, all_of_them=True)
    assert [each.name for each in every] == ["aiohttp", "one_provider_mad", "pytest"]


def test_the_copyright_file_of_a_package_has_the_same_licences_and_texts(
    sbom: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "one_provider_mad")
    installed(tmp_path, "first", "License: Dual License", text="Copyright (c) 2020 A Person\n\nDo what you like.\n")
    apache = "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION"
    installed(tmp_path, "second", "Classifier: License :: OSI Approved :: Apache Software License", text=apache)
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    text = import_module("licences").copyright_of(tmp_path, sbom.Rules(frozenset(), {"first": "MIT"}, {}))
    monkeypatch.delitem(sys.modules, "licences")
    head, whole, first, second = text.strip().split("\n\n")
    assert head.startswith("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/")
    assert whole.startswith("Files: *\nCopyright: the authors of one-provider-mad\nLicense: Apache-2.0\n")
    assert first == (
        "Files: usr/lib/*/site-packages/first-1.dist-info*\nCopyright: Copyright (c) 2020 A Person\nLicense: first-1\n"
        " MIT\n Copyright (c) 2020 A Person\n .\n Do what you like."
    )
    lines = second.splitlines()
    assert lines[-2] == " Apache-2.0"
    assert lines[-1].endswith(" is in /usr/share/common-licenses/Apache-2.0."), "Debian has that text once for all"


def test_the_installed_set_is_described_with_licences_texts_and_dependencies(tmp_path: Path) -> None:
    def made(folder: Path) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, SBOM, folder],
            capture_output=True,
            text=True,
            timeout=HANG,
            env={"SOURCE_DATE_EPOCH": "1790000000"},
        )
        assert (done.returncode, done.stderr) == (0, "")
        (document,) = folder.glob("one-provider-mad-*.cdx.json")
        (texts,) = folder.glob("one-provider-mad-*.licences.txt")
        return document.read_text(), texts.read_text()

    text, licences = made(tmp_path / "first")
    assert made(tmp_path / "second") == (text, licences), "the same packages give the same bytes"

    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "one-provider-mad"
    assert document["metadata"]["timestamp"] == "2026-09-21T14:13:20+00:00"
    components = {each["name"]: each for each in document["components"]}
    assert {"aiohttp", "botocore", "lxml", "prometheus-client"} < set(components)
    assert "pytest" not in components
    assert components["structlog"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert {each["name"] for each in components["lxml"]["components"]} == {"libiconv", "libxml2", "libxslt", "zlib"}
    needs = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    project = document["metadata"]["component"]["bom-ref"]
    assert components["botocore"]["bom-ref"] in needs[project]
    assert components["multidict"]["bom-ref"] in needs[components["aiohttp"]["bom-ref"]]

    assert "aiohttp                 " in licences
    assert "Permission is hereby granted, free of charge" in licences
