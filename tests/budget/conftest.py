"""Fixtures of the budget's tests."""

from __future__ import annotations

import pytest

from one_provider_mad.budget import admission


@pytest.fixture(autouse=True)
def listing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two listings before refusals."""
    monkeypatch.setattr(admission, "_LISTS_EVERY", 0.0)
