"""The scheduler's own program `place`, as `one-provider template --dry-run` runs it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.cli.template_placement import run_place
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.safe_xml import text_of

NOBODY = 65534

PLACE = """#!/bin/sh
cat >"$ONE_LOCATION/var/document"
echo "<PLAN><UID>$(id -u)</UID><FOLDER>$ONE_LOCATION</FOLDER>"
echo "<SETTINGS>$(cat "$ONE_LOCATION/etc/schedulers/rank.conf")</SETTINGS>"
echo "<STDIN>$(base64 -d "$ONE_LOCATION/var/document")</STDIN></PLAN>"
"""


@pytest.fixture
def one() -> Iterator[Path]:
    """An OpenNebula with a scheduler's program, of another user where this one is root."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        root.chmod(0o755)
        (root / "etc" / "schedulers").mkdir(parents=True)
        (root / "etc" / "schedulers" / "rank.conf").write_text("MAX_HOST = 7")
        (root / "var").mkdir()
        (root / "place").write_text(PLACE)
        (root / "place").chmod(0o755)
        if os.geteuid() == 0:
            os.chown(root / "var", NOBODY, NOBODY)
        yield root


def test_place_runs_as_opennebulas_user_with_a_copy_of_its_settings(one: Path) -> None:
    plan = run_place(one / "place", one / "etc", b"text", {"ONE_LOCATION": str(one)})
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    uid, folder, *others = [text_of(each) for each in plan]
    assert (uid, others) == (str(user), ["MAX_HOST = 7", "text"])
    assert not Path(folder).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read what OpenNebula's user cannot")
def test_root_shows_opennebulas_user_no_file_that_a_link_in_its_settings_names(one: Path) -> None:
    (one / "secret").write_text("of root")
    (one / "secret").chmod(0o600)
    settings = one / "etc" / "schedulers" / "rank.conf"
    settings.unlink()
    settings.symlink_to(one / "secret")
    with pytest.raises(ProviderUnavailable, match="it printed no plan"):
        run_place(one / "place", one / "etc", b"", {"ONE_LOCATION": str(one)})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("#!/bin/sh\necho 'no licence' >&2; exit 3\n", "it printed no plan: no licence", id="an-error"),
        pytest.param("#!/bin/sh\nexit 3\n", "it printed no plan: exit code 3", id="nothing"),
        pytest.param("", "it printed no plan: .*place", id="no-program"),
    ],
)
def test_what_keeps_place_from_printing_a_plan_is_said(one: Path, text: str, sentence: str) -> None:
    (one / "place").unlink()
    if text:
        (one / "place").write_text(text)
        (one / "place").chmod(0o755)
    with pytest.raises(ProviderUnavailable, match=sentence):
        run_place(one / "place", one / "etc", b"", {"ONE_LOCATION": str(one)})
