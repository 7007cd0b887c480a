"""etc/one_provider_mad.logrotate, carried out by the real logrotate while both drivers' logs are being written."""

from __future__ import annotations

import grp
import gzip
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.waiting import HANG, until

SNIPPET = Path(__file__).parent.parent / "etc" / "one_provider_mad.logrotate"
LOGROTATE = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
LOGS = ("one_vmm_provider_cloud.log", "one_im_provider_cloud.log")
ROTATIONS = 3

WRITER = """
import os, select, sys
from pathlib import Path
from one_provider_mad.logs import LogFile

path, uid, gid = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
log, number = LogFile(path), 0
log.reopen()
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    log.write(f"{number}\\n")
    number += 1
print(number)
"""
"""Writes numbered lines as a driver does, until stdin is closed, and then prints their number."""

pytestmark = pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed")


@pytest.fixture
def user() -> pwd.struct_passwd:
    """The user that OpenNebula runs as: another one where this process is root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


@pytest.fixture
def folder(user: pwd.struct_passwd) -> Iterator[Path]:
    """A folder of that user's: pytest's own are closed to other users, again whenever another pytest starts."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o711)
        path = Path(root) / "log"
        path.mkdir(mode=0o750)
        os.chown(path, user.pw_uid, user.pw_gid)
        yield path


@contextmanager
def writing(path: Path, user: pwd.struct_passwd, counts: dict[str, int]) -> Iterator[None]:
    command = [sys.executable, "-c", WRITER, str(path), str(user.pw_uid), str(user.pw_gid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            printed, _ = process.communicate(timeout=HANG)
        counts[path.name] = int(printed)


def rotate(folder: Path, user: pwd.struct_passwd) -> None:
    configuration = folder.parent / "logrotate.conf"
    group = grp.getgrgid(user.pw_gid).gr_name
    text = SNIPPET.read_text().replace("/var/log/one", str(folder))
    configuration.write_text(text.replace("su oneadmin oneadmin", f"su {user.pw_name} {group}"))
    configuration.chmod(0o644)
    state = folder.parent / "state"
    done = subprocess.run(
        [str(LOGROTATE), "--force", "--state", str(state), str(configuration)],
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def rotated(folder: Path, name: str) -> list[Path]:
    """The rotated files of a log, the oldest first."""
    return sorted(folder.glob(f"{name}-*"))


def test_rotation_loses_no_line_of_either_driver_and_keeps_owner_and_mode(
    folder: Path, user: pwd.struct_passwd
) -> None:
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        for name in LOGS:
            stack.enter_context(writing(folder / name, user, counts))

        def is_rotated() -> bool:
            if all((folder / name).is_file() for name in LOGS):
                rotate(folder, user)
            return all(len(rotated(folder, name)) >= ROTATIONS for name in LOGS)

        until(is_rotated, pause=1.1)  # the names of rotated files have seconds
        until(lambda: all((folder / name).is_file() for name in LOGS))
    for name in LOGS:
        *compressed, last = rotated(folder, name)
        assert compressed
        assert {path.suffix for path in compressed} == {".gz"}
        texts = [gzip.decompress(path.read_bytes()).decode() for path in compressed]
        texts += [path.read_text() for path in (last, folder / name)]
        assert all(texts)
        assert "".join(texts).split() == [str(number) for number in range(counts[name])]
        for path in (*compressed, last, folder / name):
            status = path.stat()
            assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (user.pw_uid, user.pw_gid, 0o640)
