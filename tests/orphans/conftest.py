"""Fixtures for the tests of orphans."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.actions.fakes import a_world
from tests.orphans.reconciler_setup import FrontEnd


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[FrontEnd]:
    """VM 7 runs as i-7, which this driver has created."""
    async with a_world(tmp_path) as world:
        front = FrontEnd(world)
        await front.create("i-7")
        front.opennebula.vm(7, "i-7")
        yield front
