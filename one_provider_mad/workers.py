"""Threads for work that would stop the loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class Workers(ThreadPoolExecutor):
    """A thread pool that has one thread from the beginning, and makes do with those it has.

    ThreadPoolExecutor raises when it cannot start another thread (a limit on processes or on memory), although it has
    queued the work by then, which the next thread that is free carries out: the caller gives up what is done all the
    same.

    Args:
        most: how many threads at most; None for Python's own default.
        name: how their names begin.

    Raises:
        RuntimeError: not even the first thread can be started.
    """

    def __init__(self, most: int | None = None, *, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self.submit(int)

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except (RuntimeError, MemoryError):
            if not self._threads:
                raise
