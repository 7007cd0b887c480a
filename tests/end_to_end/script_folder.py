"""An OpenNebula whose `var/remotes` has scripts that record their arguments and input, and then run a test's commands.

The scripts are /bin/sh, since Python takes thirty times as long to start. Each writes one file: its directory, its
name and arguments, what it read, and its environment; their order is in another file.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.oned import Driver, Place

NAME = "cloud"
"""The NAME that is served, and so the directory below `remotes/vmm`."""

HOST = "remote_provider"

ACTIONS = """
    deploy shutdown cancel reboot reset poll save restore migrate attach_disk detach_disk attach_nic detach_nic
    prereconfigure reconfigure snapshot_create snapshot_revert snapshot_delete resize_disk resize exec exec_cancel
""".split()  # noqa: SIM905 - twenty quoted words are harder to read
NETWORK_ACTIONS = ("pre", "post", "clean", "update_sg", "update_nic")
TRANSFER_COMMANDS = (
    "context",
    "attach",
    "detach",
    "delete",
    "resize",
    "premigrate",
    "postmigrate",
    "failmigrate",
    "snap_create_live",
)

_END_OF_STDIN = b"\x1eend of what was read\x1e"

_RECORDER = """#!/bin/sh
{ pwd -P; printf '%s\\037' "$0" "$@"; printf '\\036'; cat - @PLACE@/mark /proc/$$/environ; } >@PLACE@/$$
echo $$ >>@PLACE@/order
"""

_OBEY = """
[ $# -ge 2 ] || exit 0
shift $(($# - 2))
if [ -f @PLACE@/${0##*/}.$1 ]; then . @PLACE@/${0##*/}.$1; fi
"""
"""Run the commands of a test for this script and VM: id and host are the last two arguments."""

_PRINTS = {"deploy": "echo i-$1", "snapshot_create": "echo snap-$1"}


class Record(NamedTuple):
    """The recorded input of one script.

    Attributes:
        script: its path below `remotes`.
        arguments: of its command line.
        stdin: all that it read.
        directory: where it ran.
        environment: as it was when it began.
    """

    script: str
    arguments: tuple[str, ...]
    stdin: bytes
    directory: str
    environment: Mapping[str, str]

    def content(self) -> bytes:
        """The stdin, decoded from one line of base64."""
        return b64decode(self.stdin, validate=True)

    def step(self) -> str:
        """Path and arguments as one line."""
        return " ".join((self.script, *self.arguments))


class Outcome(NamedTuple):
    """The result of one request.

    Attributes:
        reply: from SUCCESS or FAILURE on.
        log: the lines for the VM's log, each with its letter.
        seen: the records of the scripts, in order.
    """

    reply: str
    log: tuple[str, ...]
    seen: tuple[Record, ...]

    def steps(self) -> list[str]:
        """The scripts that ran, with their arguments."""
        return [record.step() for record in self.seen]


class ScriptPlace(Place):
    """An OpenNebula with a directory of scripts for NAME and with network and transfer drivers as tests need them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.remotes = self.var / "remotes"
        self._records = root / "records"
        self._records.mkdir()
        (self._records / "mark").write_bytes(_END_OF_STDIN)
        self._taken = 0
        for action in ACTIONS:
            self.script(f"vmm/{NAME}/{action}", _OBEY + _PRINTS.get(action, ""))

    def script(self, path: str, after: str = "", *, mode: int = 0o755) -> Path:
        """Write a script below `remotes` that records its input, and then runs this text."""
        return self.plain_script(path, _RECORDER + after, mode=mode)

    def plain_script(self, path: str, text: str, *, mode: int = 0o755) -> Path:
        """Write a script below `remotes` exactly as it is given; it records nothing."""
        file = self.remotes / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("@PLACE@", str(self._records)))
        file.chmod(mode)
        return file

    def network(self, driver: str, **after: str) -> str:
        """Add a network driver, with the text that its scripts run after recording; returns its name."""
        for action in NETWORK_ACTIONS:
            self.script(f"vnm/{driver}/{action}", after.get(action, ""))
        return driver

    def transfer(self, driver: str, **after: str) -> str:
        """Add a transfer driver, with the text that its scripts run after recording."""
        for command in TRANSFER_COMMANDS:
            self.script(f"tm/{driver}/{command}", after.get(command, ""))
        return driver

    def on_action(self, script: str, vm_id: int, text: str) -> None:
        """Let an action script run this text for this VM after recording."""
        (self._records / f"{script}.{vm_id}").write_text(text.replace("@PLACE@", str(self._records)) + "\n")

    def etc(self, path: str, text: str) -> None:
        """Write a file of OpenNebula's own configuration."""
        file = self.root / "etc" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def note(self, name: str) -> Path:
        """A file that scripts may write to as `@PLACE@/name`."""
        return self._records / name

    def deployment_file(self, vm_id: int, text: str = "") -> Path:
        """Write the file that oned writes before a DEPLOY."""
        path = self.var / "vms" / str(vm_id) / "deployment.0"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or f"<VM><ID>{vm_id}</ID><NAME>été</NAME></VM>")
        return path

    def recorded(self) -> list[Record]:
        """Everything that was recorded, in order."""
        order = self._records / "order"
        processes = order.read_text().split() if order.exists() else []
        return [self._record((self._records / process).read_bytes()) for process in processes]

    def take(self) -> tuple[Record, ...]:
        """The records since the last call."""
        records = self.recorded()
        new, self._taken = records[self._taken :], len(records)
        return tuple(new)

    def _record(self, data: bytes) -> Record:
        directory, _, rest = data.partition(b"\n")
        words, _, rest = rest.partition(b"\x1e")
        stdin, _, environment = rest.partition(_END_OF_STDIN)
        path, *arguments = words.decode("utf-8", "surrogateescape").split("\x1f")[:-1]
        pairs = (pair.partition("=") for pair in environment.decode().split("\0") if pair)
        return Record(
            script=str(Path(path).relative_to(self.remotes)),
            arguments=tuple(arguments),
            stdin=stdin,
            directory=directory.decode(),
            environment={name: value for name, _, value in pairs},
        )


class Served:
    """A driver that serves a place's scripts."""

    def __init__(self, place: ScriptPlace, driver: Driver) -> None:
        self.place = place
        self.driver = driver

    def perform(self, line: bytes) -> Outcome:
        """Send a request, and wait for its reply."""
        action, vm_id = line.split()[0].decode(), int(line.split()[1])
        self.place.take()
        before = len(self.driver.lines)
        reply = self.driver.ask(line)
        log = [text.split(" ", 3) for text in self.driver.lines[before:] if text.startswith("LOG ")]
        assert action not in {words[0] for words in log}
        lines = tuple(f"{letter} {text}" for _, letter, of, text in log if of == str(vm_id))
        return Outcome(reply, lines, self.place.take())


def edited(line: bytes, edit: Callable[[str], str]) -> bytes:
    """The line with its message changed."""
    head, payload = line.rstrip().rsplit(b" ", 1)
    return head + b" " + b64encode(edit(b64decode(payload).decode()).encode()) + b"\n"


def altered(line: bytes, **elements: str) -> bytes:
    """The line with the content of these elements of its message replaced, the first of each name."""

    def replace(document: str) -> str:
        for name, content in elements.items():
            parts = re.split(rf"<{name}/>|<{name}>.*?</{name}>", document, maxsplit=1, flags=re.DOTALL)
            if len(parts) == 1:
                raise ValueError(f"the message has no {name}")
            document = f"<{name}><![CDATA[{content}]]></{name}>".join(parts)
        return document

    return edited(line, replace)


def message_of(line: bytes) -> str:
    """The message of a line as it is sent: in base64."""
    return line.split()[2].decode()
