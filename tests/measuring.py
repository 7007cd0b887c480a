"""Coverage looks while tests run, not while pytest collects, sets up and reports: a tenth of the suite's time.

Loaded by tests/conftest.py.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

import one_provider_mad

_tracers: list[Any] = []
"""Coverage's, once the collection begins: workers begin to measure after they have read conftest.py."""


@contextmanager
def _measured() -> Iterator[None]:
    if not _tracers or sys.gettrace() is not None:
        yield
        return
    sys.settrace(_tracers[0])
    try:
        yield
    finally:
        sys.settrace(None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Measure nothing from here on, unless one of those below says so."""
    tracer = sys.gettrace()
    if tracer is not None:
        # What modules do when they are imported is measured now; the collection imports nearly all of them anyway.
        for module in pkgutil.walk_packages(one_provider_mad.__path__, "one_provider_mad."):
            import_module(module.name)
        _tracers.append(tracer)
        sys.settrace(None)
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """A test runs."""
    with _measured():
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """A fixture of ours makes something."""
    if not fixturedef.func.__module__.startswith("tests."):
        return (yield)
    with _measured():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Fixtures put things away."""
    with _measured():
        return (yield)
