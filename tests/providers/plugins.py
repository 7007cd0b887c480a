"""Third-party providers, installed as a distribution with an entry point."""

from __future__ import annotations

import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest


def install(root: Path, patch: pytest.MonkeyPatch, *, name: str, module: str, code: str) -> None:
    """Install a distribution that offers a provider of this name; undone by the patch."""
    root.mkdir(exist_ok=True)
    (root / f"{module}.py").write_text(code)
    info = root / f"{module}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[one_provider_mad.providers]\n{name} = {module}:factory\n")
    patch.syspath_prepend(root)
    patch.delitem(sys.modules, module, raising=False)
    invalidate_caches()
