"""The tree of error classes, and its drawing in the docstring of errors.py."""

from __future__ import annotations

import inspect
import re

import pytest

from one_provider_mad import errors

KINDS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.MadError)]


def drawn_tree() -> dict[str, tuple[str, str]]:
    """Each class in the drawing, with its parent's name and its description."""
    drawn: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for match in re.finditer(r"^((?:[│ ] {3})*)[├└]── (\w+) +(.+)$", errors.__doc__ or "", re.MULTILINE):
        depth = len(match[1]) // 4
        path = [*path[:depth], match[2]]
        drawn[match[2]] = (path[depth - 1] if depth else "MadError", match[3])
    return drawn


def test_the_tree_in_the_docstring_of_errors_shows_every_class_under_its_parent() -> None:
    parents = {name: parent for name, (parent, _) in drawn_tree().items()}
    assert parents == {
        kind.__name__: kind.__base__.__name__ for kind in KINDS if kind is not errors.MadError and kind.__base__
    }


def test_the_tree_in_the_docstring_of_errors_describes_every_class() -> None:
    assert all(words for _, words in drawn_tree().values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_a_docstring_of_one_sentence_in_its_first_line(kind: type[errors.MadError]) -> None:
    assert kind.__doc__, "a class without a docstring"
    first, _, rest = inspect.cleandoc(kind.__doc__).partition("\n")
    assert first.endswith(".")
    assert rest == "" or rest.startswith("\n"), "the first sentence is one line"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.NotSupported])
def test_the_text_of_every_error_is_its_message_alone(kind: type[errors.MadError]) -> None:
    assert str(kind("the cloud said no")) == "the cloud said no"


def test_only_provider_unavailable_is_not_definite() -> None:
    vague = {kind.__name__ for kind in KINDS if issubclass(kind, errors.ProviderError) and not kind.definite}
    assert vague == {"ProviderUnavailable"}


def test_only_transient_errors_are_retryable() -> None:
    transient = {kind.__name__ for kind in KINDS if issubclass(kind, errors.ProviderError) and kind.retryable}
    assert transient == {"ProviderUnavailable", "NotReached", "Throttled"}


def test_throttled_keeps_the_retry_after_time() -> None:
    assert errors.Throttled("slow down", retry_after=2.5).retry_after == 2.5
    assert errors.Throttled("slow down").retry_after is None


@pytest.mark.parametrize(("asked", "kept"), [(30.0, 30.0), (9999.0, 30.0), (float("inf"), 30.0), (-1.0, 0.0)], ids=str)
def test_throttled_limits_the_retry_after_time_to_half_a_minute(asked: float, kept: float) -> None:
    assert errors.Throttled("slow down", retry_after=asked).retry_after == kept


def test_not_supported_names_the_provider_and_the_feature() -> None:
    assert str(errors.NotSupported("ec2", "live migration")) == "provider ec2 does not support live migration"
