"""The dispatcher of most tests of the actions, on a fake cloud without optional capabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.actions.fakes import Desk, World, a_desk, a_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world) as desk:
        yield desk
