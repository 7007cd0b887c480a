"""Writes what is shipped, and under which licences: an SBOM (CycloneDX 1.6, JSON), and the texts of all licences.

`python tools/sbom.py FOLDER` reads the installed metadata of the project and of what requirements/runtime.txt locks,
and writes `one-provider-mad-<version>.cdx.json` and `one-provider-mad-<version>.licences.txt` into FOLDER. `--packages`
names another site-packages folder to read, that of a package that is being built: then all that is in it counts. A
licence that is not in `[tool.licences]` of pyproject.toml, or a version that is not the locked one, is an error. With
SOURCE_DATE_EPOCH set, the same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from license_expression import AND, OR, ExpressionError, get_spdx_licensing
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = "one-provider-mad"
EXTRAS = ("ec2", "metrics")
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""PyPI's names that stand for one SPDX identifier; "BSD License" does not."""
TEXTS = re.compile(r"(licen[cs]es?|copying|notice|authors)\b", re.IGNORECASE)


class SbomError(Exception):
    """What is installed may not be shipped so; the sentence says why."""


@dataclass(frozen=True)
class Rules:
    """`[tool.licences]` of pyproject.toml.

    Attributes:
        allowed: the SPDX identifiers that may be shipped.
        read: expressions for packages whose metadata has none that is understood, by name.
        embedded: libraries inside a package that its metadata does not name: of each package, licences by library.
    """

    allowed: frozenset[str]
    read: dict[str, str]
    embedded: dict[str, dict[str, str]]


def rules_of(path: Path) -> Rules:
    """Read the rules from a pyproject.toml."""
    table = tomllib.loads(path.read_text())["tool"]["licences"]
    return Rules(frozenset(table["allowed"]), table.get("read", {}), table.get("embedded", {}))


def locked_versions(path: Path) -> dict[str, str]:
    """The packages that a requirements file asks for on this Python, and their versions."""
    lines = re.findall(r"(?m)^([A-Za-z0-9][^\\\n]*)", path.read_text())
    wanted = [Requirement(line) for line in lines]
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in needed}


def shipped(packages: Path, locked: dict[str, str], *, all_of_them: bool) -> list[Distribution]:
    """Return the project and the packages that it runs with, by name.

    Args:
        packages: the site-packages folder.
        locked: the versions there have to be.
        all_of_them: everything in the folder is shipped; else only what is locked.

    Raises:
        SbomError: something is missing, or has another version.
    """
    there = {canonicalize_name(each.name): each for each in distributions(path=[str(packages)])}
    if PROJECT not in there:
        raise SbomError(f"{PROJECT} is not installed in {packages}")
    for name, version in locked.items():
        found = there[name].version if name in there else "not installed"
        if found != version:
            raise SbomError(f"{name} is {found} in {packages}, and {version} in requirements/runtime.txt")
    return [there[name] for name in sorted(there) if all_of_them or name in locked or name == PROJECT]


def expression_of(distribution: Distribution, rules: Rules) -> str:
    """The SPDX expression of a package's licence.

    Raises:
        SbomError: its metadata has none that is understood, and neither have the rules.
    """
    name, metadata = canonicalize_name(distribution.name), distribution.metadata
    classifiers = [
        each.split(" :: ")[-1] for each in metadata.get_all("Classifier") or [] if each.startswith("License")
    ]
    known = {CLASSIFIERS.get(each) for each in classifiers if each != "OSI Approved"}
    candidates = [rules.read.get(name), metadata.get("License-Expression"), metadata.get("License")]
    if len(known) == 1:
        candidates += known
    for candidate in filter(None, candidates):
        try:
            return str(_spdx().parse(candidate, validate=True))
        except ExpressionError:  # "Dual License", or the whole text
            continue
    raise SbomError(
        f"the metadata of {name} has no SPDX expression: read its licence, and add it to [tool.licences.read]"
    )


def is_allowed(expression: str, allowed: frozenset[str]) -> bool:
    """True if the expression can be satisfied with allowed licences alone."""
    return _is_allowed(_spdx().parse(expression, validate=True), allowed)


def _is_allowed(parsed: Any, allowed: frozenset[str]) -> bool:
    if isinstance(parsed, AND):
        return all(_is_allowed(each, allowed) for each in parsed.args)
    if isinstance(parsed, OR):
        return any(_is_allowed(each, allowed) for each in parsed.args)
    return str(parsed) in allowed


@cache
def _spdx() -> Any:
    return get_spdx_licensing()


def check_licences(expressions: dict[str, str], allowed: frozenset[str]) -> None:
    """See that all may be shipped.

    Raises:
        SbomError: some may not; it names each.
    """
    refused = [
        f"{name} ({expression})" for name, expression in expressions.items() if not is_allowed(expression, allowed)
    ]
    if refused:
        raise SbomError(f"not in [tool.licences] allowed of pyproject.toml: {', '.join(refused)}")


def bom_of(found: Iterable[Distribution], expressions: dict[str, str], rules: Rules) -> Bom:
    """Return the bill of materials: the project, its packages, what is inside them, and what needs what."""
    licences = LicenseFactory()
    components = {}
    for distribution in found:
        name = canonicalize_name(distribution.name)
        purl = PackageURL("pypi", None, name, distribution.version)
        component = Component(
            name=name,
            version=distribution.version,
            type=ComponentType.APPLICATION if name == PROJECT else ComponentType.LIBRARY,
            bom_ref=str(purl),
            purl=purl,
            description=distribution.metadata.get("Summary"),
            licenses=[licences.make_from_string(expressions[name])],
        )
        if name != PROJECT:
            url = XsUri(f"https://pypi.org/project/{name}/{distribution.version}/")
            component.external_references.add(ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=url))
        for inner, licence in rules.embedded.get(name, {}).items():
            reference = f"{purl}#{inner}"
            embedded = Component(name=inner, bom_ref=reference, licenses=[licences.make_from_string(licence)])
            component.components.add(embedded)
        components[name] = component
    bom = Bom()
    bom.metadata.component = components[PROJECT]
    bom.components.update(component for name, component in components.items() if name != PROJECT)
    for distribution in found:
        name = canonicalize_name(distribution.name)
        bom.register_dependency(
            components[name], [components[need] for need in _needs(distribution) if need in components]
        )
    identity = "\n".join(sorted(f"{each.purl} {expressions[name]}" for name, each in components.items()))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, identity)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    bom.metadata.timestamp = (
        datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC).replace(microsecond=0)
    )
    return bom


def _needs(distribution: Distribution) -> Iterator[str]:
    """The names of the packages that a package asks for on this Python, those of the project's extras too."""
    extras = EXTRAS if canonicalize_name(distribution.name) == PROJECT else ()
    for requirement in map(Requirement, distribution.requires or []):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in ("", *extras)):
            yield canonicalize_name(requirement.name)


def texts_of(distribution: Distribution) -> dict[str, str]:
    """The texts of its licence files, by their names."""
    assert isinstance(distribution, PathDistribution)
    found = {}
    for file in distribution.files or []:
        if file.parts[0].endswith(".dist-info") and TEXTS.match(file.name):
            found["/".join(file.parts[1:])] = file.read_text(encoding="utf-8")
    return found


def licences_text(found: Iterable[Distribution], expressions: dict[str, str], rules: Rules) -> str:
    """Return the licence of each package in one table, and below it all texts."""
    table, texts = [], []
    for distribution in found:
        name = canonicalize_name(distribution.name)
        table.append(f"{name:<24}{distribution.version:<16}{expressions[name]}")
        table += [f"  with {inner:<33}{licence}" for inner, licence in rules.embedded.get(name, {}).items()]
        for file, text in texts_of(distribution).items():
            texts.append(f"{'=' * 80}\n{name} {distribution.version}: {file}\n{'=' * 80}\n\n{text.strip()}\n")
    return "\n".join([*table, "", *texts])


def main(argv: list[str]) -> int:
    """Write both files; 1 if something may not be shipped."""
    parser = argparse.ArgumentParser(prog="sbom.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--packages", type=Path, help="the site-packages folder to describe, all of it")
    parser.add_argument("folder", type=Path, help="where the files are written")
    arguments = parser.parse_args(argv)
    packages = arguments.packages or Path(sysconfig.get_path("purelib"))
    try:
        rules = rules_of(ROOT / "pyproject.toml")
        locked = locked_versions(ROOT / "requirements" / "runtime.txt")
        found = shipped(packages, locked, all_of_them=arguments.packages is not None)
        expressions = {canonicalize_name(each.name): expression_of(each, rules) for each in found}
        embedded = {inner: licence for each in rules.embedded.values() for inner, licence in each.items()}
        check_licences(expressions | embedded, rules.allowed)
    except SbomError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    (version,) = (each.version for each in found if canonicalize_name(each.name) == PROJECT)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sbom = arguments.folder / f"{PROJECT}-{version}.cdx.json"
    make_outputter(bom_of(found, expressions, rules), OutputFormat.JSON, SchemaVersion.V1_6).output_to_file(
        str(sbom), allow_overwrite=True, indent=2
    )
    texts = arguments.folder / f"{PROJECT}-{version}.licences.txt"
    texts.write_text(licences_text(found, expressions, rules))
    print(f"{sbom}: {len(found)} packages\n{texts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
