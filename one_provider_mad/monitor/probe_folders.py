"""Find the probe scripts that report on a host, and the settings of oned.conf that those up to 5.10 receive."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from one_provider_mad.domain import Value
from one_provider_mad.protocol.im_messages import Kind

_LEFTOVERS = re.compile(r".*\.(rpmnew|rpmsave|dpkg-[a-z]+)|\..*|.*~")
"""Files that package managers and editors leave in a probe folder."""

_COLLECTD = re.compile(
    r"IM_MAD\s*=\s*\[[^\]]*?EXECUTABLE\s*=\s*\"collectd\"[^\]]*?ARGUMENTS\s*=\s*\"([^\"]*)\"", re.DOTALL
)
_PORT = re.compile(r"-p\s*([0-9]+)")
_INTERVAL = re.compile(r"-i\s*([0-9]+)")


class Tree(Value, frozen=True, kw_only=True):
    """A kind of probes: a folder below `<IM_MAD>-probes.d`, and the message that its output goes into.

    Attributes:
        folder: its path below `<IM_MAD>-probes.d`.
        kind: the kind of message that its probes' output becomes.
        is_host: its probes report on the host, so a failed probe's last output may be sent again.
        is_template: OpenNebula reads the output as template text, so a probe that prints other text has failed.
    """

    folder: str
    kind: Kind
    is_host: bool = False
    is_template: bool = True


SYSTEM = Tree(folder="host/system", kind=Kind.SYSTEM_HOST, is_host=True)
HOST = Tree(folder="host/monitor", kind=Kind.MONITOR_HOST, is_host=True)
BEACON = Tree(folder="host/beacon", kind=Kind.BEACON_HOST, is_host=True, is_template=False)
STATE = Tree(folder="vm/status", kind=Kind.STATE_VM)
FIGURES = Tree(folder="vm/monitor", kind=Kind.MONITOR_VM)
SNAPSHOTS = Tree(folder="vm/snapshot", kind=Kind.MONITOR_VM)
RESULTS = Tree(folder="vm/execution", kind=Kind.EXEC_VM)
TREES = (SYSTEM, HOST, BEACON, STATE, FIGURES, SNAPSHOTS, RESULTS)
"""The folders that upstream's client runs (src/im_mad/remotes/common.d/monitord-client.rb). Only a beacon's output need
not be template text."""


class Folder(Value, frozen=True, kw_only=True):
    """The probes found in one folder.

    Attributes:
        path: the folder's path, even if it does not exist.
        probes: executable files, or links to such, in the order of their names.
        problem: why the folder cannot be listed, "" for none; from 5.12 on a missing folder just has no probes.
    """

    path: Path
    probes: tuple[Path, ...] = ()
    problem: str = ""


class ProbeFolders:
    """Finds the probe folders of one NAME. Reads directories, so call it in a thread.

    Args:
        folder: `remotes/im`.
        name: NAME of ARGUMENTS.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def legacy(self) -> Folder:
        """Return the probes for releases up to 5.10, those of `<NAME>.d`."""
        path = self._folder / f"{self._name}.d"
        if not path.is_dir():
            return Folder(path=path, problem=f"there are no probes: {path} is no directory")
        return _folder(path)

    def of(self, tree: Tree, im_mad: str) -> Folder:
        """Return an IM_MAD's probes of one kind, else NAME's; without `-probes.d`, those in `.d` report on the host."""
        trees = self._of_driver(im_mad, "-probes.d")
        return _folder(self._of_driver(im_mad, ".d") if tree is SYSTEM and not trees.is_dir() else trees / tree.folder)

    def _of_driver(self, im_mad: str, ending: str) -> Path:
        folder = self._folder / f"{im_mad}{ending}"
        is_plain = im_mad and "/" not in im_mad
        return folder if is_plain and folder.is_dir() else self._folder / f"{self._name}{ending}"


def _folder(path: Path) -> Folder:
    try:
        files = sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return Folder(path=path)
    except OSError as error:
        return Folder(path=path, problem=f"the probes of {path} cannot be listed: {error.strerror}")
    probes = tuple(file for file in files if not _LEFTOVERS.fullmatch(file.name) and _is_executable(file))
    return Folder(path=path, probes=probes)


def _is_executable(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and os.access(path, os.X_OK)


def collectd_of(oned_conf: Path) -> tuple[str, str]:
    """Return port and interval of the collectd driver in oned.conf, arguments of probes up to 5.10 (one_im_exec.rb)."""
    try:
        text = oned_conf.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    arguments = match[1] if (match := _COLLECTD.search(text)) else ""
    port, interval = _PORT.search(arguments), _INTERVAL.search(arguments)
    return port[1] if port else "4124", interval[1] if interval else "20"
