"""The blocking calls allowed on our event loops: blockbuster raises at every other call that could block one.

As a program, `python -I blocking.py PROGRAM [ARGUMENTS]`, it runs a driver that is watched from its start. A driver
survives most exceptions, so each such call is also recorded in the file that $BLOCKING names.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from blockbuster import BlockBuster, BlockingError, blockbuster  # noqa: E402 - needs the path above

ALLOWED = {
    "one_provider_mad/transport.py": {
        "_read": "os.read",  # from a descriptor that epoll reported readable
        "_write": "os.write",  # to a descriptor that poll reported writable, and no more than fits
    },
    "one_provider_mad/logs.py": {
        "write": "os.write os.stat",  # a line of a local file: into the page cache
        "reopen": "os.stat",  # at the start, and after logrotate
    },
    "one_provider_mad/settings.py": {
        "_fingerprint": "os.stat",  # of one file; its inode stays in memory since it is read often
        "_reload": "io.BufferedReader.read os.stat",  # the file, when it was edited
        "put_in_force": "os.stat",  # when it was edited
    },
    "one_provider_mad/processes.py": {
        "of": "io.BufferedReader.read io.TextIOWrapper.read",  # /proc is no disk
        "children": "os.listdir io.BufferedReader.read",
    },
    "one_provider_mad/scripting/descendants.py": {
        "_mark_of": "io.BufferedReader.read",  # /proc
    },
    "one_provider_mad/scripting/leftovers.py": {
        "note": "io.BufferedWriter.write io.TextIOWrapper.write",  # a few bytes, little beside the start of a process
        "forget": "os.unlink",  # likewise
    },
    "coverage/collector.py": {"lock_data": "threading.Lock.acquire"},  # coverage is measured everywhere
}
"""The allowed calls, by file and function."""


Note = Callable[[str], None]


def watch(note: Note) -> BlockBuster:
    """From now on, let each other call that blocks an event loop raise BlockingError, and note where."""

    class NotedError(BlockingError):
        """Notes the call, since the code under test may catch the error."""

        def __init__(self, func: str) -> None:
            super().__init__(func)
            note(f"{func}: {_stack()}")

    watcher = BlockBuster("one_provider_mad")
    for file, functions in ALLOWED.items():
        for function, calls in functions.items():
            for call in calls.split():
                watcher.functions[call].can_block_in(file, function)
    blockbuster.BlockingError = NotedError  # type: ignore[misc]
    watcher.activate()
    return watcher


def _stack() -> str:
    frames = [frame for frame in traceback.extract_stack() if "/one_provider_mad/" in frame.filename]
    return " > ".join(f"{Path(each.filename).relative_to(ROOT)}:{each.lineno} {each.name}" for each in frames)


@contextmanager
def nothing_blocks() -> Iterator[None]:
    """Fail at the end if a call blocked an event loop, even if the error was caught."""
    noted: list[str] = []
    gc.collect()
    gc.disable()  # objects of other tests may log when they are collected, at any moment
    watcher = watch(noted.append)
    try:
        yield
    finally:
        watcher.deactivate()
        gc.enable()
        blockbuster.BlockingError = BlockingError  # type: ignore[misc]
    if noted:
        raise AssertionError("\n".join(noted))


def _write_down(sentence: str) -> None:
    descriptor = os.open(os.environ["BLOCKING"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(descriptor, f"{sentence}\n".encode())
    os.close(descriptor)


if __name__ == "__main__":
    sys.argv.pop(0)
    watch(_write_down)  # for good: the program has to leave by os._exit, as Python cannot end with such types
    runpy.run_path(sys.argv[0], run_name="__main__")
