"""The release of an OpenNebula, read from the text that one.system.version returns."""

from __future__ import annotations

import pytest

from one_provider_mad.xmlrpc.release import release_of


@pytest.mark.parametrize(
    ("answer", "release"),
    [
        ("7.4.0", (7, 4, 0)),
        (" 5.12.0\n", (5, 12, 0)),
        ("5.12.0.4-1.ce", (5, 12, 0, 4)),
        ("7.x", (7,)),
        ("unknown", ()),
        ("", ()),
        ("٧.4", ()),
    ],
)
def test_a_release_is_parsed_from_the_version_text(answer: str, release: tuple[int, ...]) -> None:
    assert release_of(answer) == release
