"""Imports point one way: the table that docs/architecture.md shows, held against the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "one_provider_mad"

BASE = {"errors", "domain"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "domain": {"errors"},
    "documents": set(),
    "options": set(),
    "processes": BASE,
    "belongings": set(),
    "database": BASE | {"belongings"},
    "settings": BASE | {"belongings"},
    "logs": BASE | {"belongings", "settings"},
    "journal": BASE | {"database", "processes"},
    "protocol": BASE | {"documents"},
    "xmlrpc": BASE | {"documents"},
    "scripting": BASE | {"processes"},
    "transport": BASE | {"protocol"},
    "providers.interface": BASE,
    "providers.registry": BASE | {"settings", "providers.interface"},
    "providers": BASE | {"documents", "settings", "database", "scripting", "xmlrpc", "providers.interface"},
    "actions": BASE | {"options", "settings", "journal", "processes", "protocol", "providers.interface"},
    "monitor": BASE | {"options", "settings", "journal", "processes", "protocol", "providers.interface", "scripting"},
    "engines": BASE
    | {"actions", "journal", "options", "processes", "providers.interface", "providers.registry", "settings"},
    "monitored_cloud": BASE
    | {
        "journal",
        "monitor",
        "options",
        "processes",
        "protocol",
        "providers.interface",
        "providers.registry",
        "scripting",
        "settings",
    },
    "serving": BASE | {"logs", "options", "protocol", "settings", "transport"},
    "monitor_daemon": BASE | {"monitor", "monitored_cloud", "options", "processes", "protocol", "serving"},
    "daemon": BASE
    | {"actions", "engines", "journal", "options", "processes", "protocol", "providers.interface"}
    | {"providers.registry", "serving", "transport"},
    "programs": {"", "daemon", "monitor_daemon", "options", "protocol.handshake"},
}
"""Who may import what of ours, besides its own folder. "" is the package itself, its version."""

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
NAMES = ["/".join(path.relative_to(PACKAGE).parts) for path in MODULES]


def module_name(path: Path) -> str:
    """`providers.simulated.cloud` for a file, the folder's name for an `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the direction"
            assert node.module
            for alias in node.names:
                is_module = _is_module(f"{node.module}.{alias.name}")
                yield f"{node.module}.{alias.name}" if is_module else node.module


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def own(dotted: str) -> str | None:
    """The module's name inside the package; None for somebody else's."""
    head, _, rest = dotted.partition(".")
    return rest if head == "one_provider_mad" else None


def row_of(module: str) -> str | None:
    """The row of the table that speaks of a module: the longest that leads to it."""
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


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_point_one_way(path: Path) -> None:
    module = module_name(path)
    targets = {target for dotted in imported(path) if (target := own(dotted)) is not None}
    if module == "":
        assert not targets, "the package itself imports nothing of its own"
    elif module.split(".")[0] != "cli":  # the operator's tool stands above everything
        wrong = sorted(target for target in targets if not is_allowed(module, target))
        assert not wrong, f"{module} may not import {', '.join(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_nobody_imports_the_programs_above_it(path: Path) -> None:
    targets = {target for dotted in imported(path) if (target := own(dotted)) is not None}
    assert "programs" not in targets
    if module_name(path).split(".")[0] != "cli":
        assert not [target for target in targets if target.split(".")[0] == "cli"]


@pytest.mark.parametrize("path", sorted((PACKAGE / "protocol").rglob("*.py")), ids=lambda path: path.name)
def test_the_protocol_knows_no_clock_and_no_files(path: Path) -> None:
    assert not {dotted.split(".")[0] for dotted in imported(path)} & NEVER_IN_PROTOCOL


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_daemons_load_nothing_for_terminals(path: Path) -> None:
    if module_name(path).split(".")[0] != "cli":
        assert not {dotted.split(".")[0] for dotted in imported(path)} & NEVER_IN_DAEMONS


def test_the_table_has_no_rows_that_lead_nowhere() -> None:
    rows = {row for row in MAY_IMPORT if not _is_module(f"one_provider_mad.{row}")}
    assert not rows


def test_what_the_daemon_loads_before_its_first_line_is_light() -> None:
    heavy = ["aiohttp", "click", "rich", "tenacity", "one_provider_mad.cli"]
    code = f"import sys, one_provider_mad.daemon; print([name for name in {heavy} if sys.modules.get(name)])"
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
def test_the_table_means_what_it_says(module: str, target: str, *, expected: bool) -> None:
    assert is_allowed(module, target) is expected
