from __future__ import annotations

import os
from pathlib import Path

from one_provider_mad.belongings import give_to_directory_owner


def test_what_root_makes_belongs_to_the_directorys_owner_and_what_others_make_stays_theirs(tmp_path: Path) -> None:
    directory = tmp_path / "var"
    directory.mkdir()
    file = directory / "journal"
    file.touch()
    mine = (os.geteuid(), os.getegid())
    somebody = (4711, 4712) if os.geteuid() == 0 else mine
    os.chown(directory, *somebody)
    give_to_directory_owner(file)
    status = file.stat()
    assert (status.st_uid, status.st_gid) == somebody


def test_a_file_that_is_gone_already_is_no_fault(tmp_path: Path) -> None:
    give_to_directory_owner(tmp_path / "gone")
