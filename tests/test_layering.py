"""Imports point down only: compare the code with the table of docs/architecture.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from one_provider_mad.providers.registry import BUILT_IN

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "one_provider_mad"


def read_table(page: str) -> dict[str, set[str]]:
    """Parse the page's table: the allowed imports of each module or folder, by its dotted name."""
    rows: dict[str, set[str]] = {}
    section = page.split("## Allowed imports")[1].split("\n## ", maxsplit=1)[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            names, allowed = (
                {_dotted(name) for name in re.findall(r"`([^`]+)`", cell)} for cell in line.split("|")[1:3]
            )
            assert not rows.keys() & names, f"the table has two rows for {sorted(rows.keys() & names)}"
            rows.update(dict.fromkeys(names, allowed))
    return rows


def _dotted(name: str) -> str:
    """`providers.registry` for `providers/registry`, `providers` for `providers/<cloud>/`, "" for `__version__`."""
    path = name.removesuffix("/").removesuffix("/<cloud>").replace("/", ".")
    return "" if path == "__version__" else path


MAY_IMPORT = read_table((ROOT / "docs" / "architecture.md").read_text())
"""The allowed imports of each module or folder, besides the files of its own folder."""

NEVER_IN_PROTOCOL = {
    "asyncio",
    "sys",
    "os",
    "time",
    "logging",
    "structlog",
    "threading",
    "subprocess",
    "socket",
    "random",
}
NEVER_IN_DAEMONS = {"click", "rich", "argparse"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`providers.simulated.cloud` for a file, the folder's name for an `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(path: Path) -> frozenset[str]:
    """All modules that a file imports, at any place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the direction"
            assert node.module
            for alias in node.names:
                is_module = _is_module(f"{node.module}.{alias.name}")
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return frozenset(found)


@cache
def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def own(dotted: str) -> str | None:
    """The module's name inside the package; None for a module outside it."""
    head, _, rest = dotted.partition(".")
    return rest if head == "one_provider_mad" else None


def imported_of_ours(path: Path) -> set[str]:
    """The modules of the package that a file imports, by their names inside."""
    return {target for dotted in imported(path) if (target := own(dotted)) is not None}


TOPS: dict[str, set[str]] = {"cli": set(), "lab": {"cli"}, "testing": set()}
"""Folders that no other module imports. Each may import all but `programs`, and of these folders only those given."""


def top_of(module: str) -> str | None:
    """The folder of `TOPS` that a module is in."""
    folder = module.split(".", maxsplit=1)[0]
    return folder if folder in TOPS else None


def row_of(module: str) -> str | None:
    """The row of the table that applies to a module: the longest matching one."""
    rows = [row for row in MAY_IMPORT if module == row or module.startswith(f"{row}.")]
    return max(rows, key=len, default=None)


def home_of(module: str) -> str:
    """The folder whose files may import each other."""
    parts = module.split(".")
    if parts[0] == "providers":
        return ".".join(parts[:2])
    return parts[0]


def is_shared_provider_part(module: str) -> bool:
    """A file beside interface.py that several clouds use."""
    folder, _, name = module.partition(".")
    return folder == "providers" and row_of(module) == "providers" and (PACKAGE / folder / f"{name}.py").is_file()


def is_allowed(module: str, target: str) -> bool:
    row = row_of(module)
    assert row is not None, f"{module}: the import table has no row for it; say what it may import"
    if home_of(module) == home_of(target) and module != "":
        return True
    if row == "providers" and is_shared_provider_part(target):
        return True
    return any(target == allowed or (allowed and target.startswith(f"{allowed}.")) for allowed in MAY_IMPORT[row])


def test_modules_import_only_what_the_table_allows() -> None:
    assert imported_of_ours(PACKAGE / "__init__.py") == set(), "the package itself imports nothing of its own"
    wrong = [
        f"{module} may not import {target}"
        for path in MODULES
        if (module := module_name(path)) and not top_of(module)
        for target in sorted(imported_of_ours(path))
        if not is_allowed(module, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_can_be_imported() -> None:
    """Also those that are imported on demand, whose absence a driver would notice only during an action."""
    for path in MODULES:
        import_module(f"{PACKAGE.name}.{module_name(path)}".removesuffix("."))


def is_above(target: str, module: str) -> bool:
    """True for a target that this module may not import since it stands above it."""
    top, own_top = top_of(target), top_of(module)
    return target == "programs" or (top is not None and top != own_top and top not in TOPS.get(own_top or "", set()))


def test_no_module_imports_a_module_above_it() -> None:
    wrong = [
        f"{module} may not import {target}"
        for path in MODULES
        for module in [module_name(path)]
        for target in sorted(imported_of_ours(path))
        if is_above(target, module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "target", "expected"),
    [
        pytest.param("lab.demo", "cli.decode", False, id="the-lab-and-the-tool"),
        pytest.param("cli.main", "lab.demo", True, id="the-tool-and-the-lab"),
        pytest.param("providers.ec2.client", "lab.ec2.server", True, id="a-cloud-and-the-lab"),
        pytest.param("lab.ec2.server", "lab.ec2.account", False, id="the-lab-itself"),
        pytest.param("lab.demo", "testing.conformance", True, id="the-lab-and-the-suite"),
        pytest.param("daemon", "programs", True, id="the-daemon-and-the-programs"),
    ],
)
def test_is_above_compares_programs_cli_lab_and_testing(module: str, target: str, *, expected: bool) -> None:
    assert is_above(target, module) is expected


def forbidden(paths: list[Path], names: set[str]) -> list[str]:
    """Those of these files that import a module with one of these names, or inside it."""
    assert paths
    return [
        f"{module_name(path)} may not import {dotted}"
        for path in paths
        for dotted in sorted(imported(path))
        if dotted.split(".")[0] in names
    ]


def test_the_protocol_imports_no_clock_files_or_asyncio() -> None:
    wrong = forbidden(sorted((PACKAGE / "protocol").rglob("*.py")), NEVER_IN_PROTOCOL)
    assert not wrong, "\n".join(wrong)


def test_daemons_import_no_terminal_libraries() -> None:
    wrong = forbidden([path for path in MODULES if not top_of(module_name(path))], NEVER_IN_DAEMONS)
    assert not wrong, "\n".join(wrong)


def test_every_row_of_the_table_is_an_existing_module() -> None:
    rows = {row for row in MAY_IMPORT if not _is_module(f"one_provider_mad.{row}")}
    assert not rows


def test_the_daemons_load_no_heavy_modules_on_import() -> None:
    heavy = ["aiohttp", "click", "prometheus_client", "rich", "tenacity", "one_provider_mad.cli"]
    daemons = "one_provider_mad.daemon, one_provider_mad.monitor_daemon"
    code = f"import sys, {daemons}; print([name for name in {heavy} if sys.modules.get(name)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("module", "target", "expected"),
    [
        pytest.param("providers.simulated.provider", "providers.simulated.cloud", True, id="one-cloud"),
        pytest.param("actions.table", "monitor.sweep", False, id="actions-and-monitor"),
        pytest.param("monitor.sweep", "actions.table", False, id="monitor-and-actions"),
        pytest.param("providers.simulated.provider", "protocol.vmm", False, id="a-cloud-and-the-wire"),
        pytest.param("providers.simulated.provider", "actions.table", False, id="a-cloud-and-the-core"),
        pytest.param("providers.simulated.provider", "providers.registry", False, id="a-cloud-and-the-registry"),
        pytest.param("providers.simulated.provider", "providers.public_cloud", True, id="a-shared-part"),
        pytest.param("actions.table", "providers.simulated.provider", False, id="the-core-and-a-cloud"),
        pytest.param("settings", "protocol.vmm", False, id="settings-and-the-wire"),
        pytest.param("transport", "actions.dispatcher", False, id="the-wire-and-the-core"),
    ],
)
def test_is_allowed_follows_the_table(module: str, target: str, *, expected: bool) -> None:
    assert is_allowed(module, target) is expected


LOADED_BY_NAME = re.compile(r"programs|cli\.\w+|lab\.demo|testing\.\w+")
"""Modules that a program, the click commands, an entry point or a third party's tests load, besides providers."""


def test_every_module_is_imported_by_another_or_loaded_by_name() -> None:
    """A module that nothing imports does nothing, however well it is tested."""
    by_others = {name for path in MODULES for name in imported(path)} | set(BUILT_IN.values())
    used = {name.removeprefix("one_provider_mad.") for name in by_others}
    unused = {name for path in MODULES if path.stem != "__init__" and (name := module_name(path)) not in used}
    assert {name for name in unused if not LOADED_BY_NAME.fullmatch(name)} == set()
