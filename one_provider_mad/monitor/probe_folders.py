"""Find the probes of a host, and the settings of the core that legacy probes receive."""

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
    """One folder below `<IM_MAD>-probes.d`, and the use of its output.

    Attributes:
        folder: its path in there.
        kind: the message that it fills.
        is_host: it reports on the host, so the last output of a probe may be sent again.
        is_template: the core reads it as a template, so other output is a failure of the probe.
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
"""Folders of upstream's client (src/im_mad/remotes/common.d/monitord-client.rb). A beacon may print any text."""


class Folder(Value, frozen=True, kw_only=True):
    """A folder with probes.

    Attributes:
        path: where it is, or would be.
        probes: files, or links to files, that may be executed, in the order of their names.
        problem: why they cannot be listed, "" for none; a missing folder is no problem from 5.12 on.
    """

    path: Path
    probes: tuple[Path, ...] = ()
    problem: str = ""


class ProbeFolders:
    """The folders with probes of one NAME. Reads directories, so it runs in threads.

    Args:
        folder: `remotes/im`.
        name: NAME of ARGUMENTS.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def legacy(self) -> Folder:
        """Return the probes of releases up to 5.10."""
        path = self._folder / f"{self._name}.d"
        if not path.is_dir():
            return Folder(path=path, problem=f"there are no probes: {path} is no directory")
        return _folder(path)

    def of(self, tree: Tree, im_mad: str) -> Folder:
        """Return the probes of a tree of an IM_MAD, else of NAME; without any tree `<NAME>.d` reports on the host."""
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
    """Return port and interval of oned.conf's collectd driver for legacy probes (src/im_mad/im_exec/one_im_exec.rb)."""
    try:
        text = oned_conf.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    arguments = match[1] if (match := _COLLECTD.search(text)) else ""
    port, interval = _PORT.search(arguments), _INTERVAL.search(arguments)
    return port[1] if port else "4124", interval[1] if interval else "20"
