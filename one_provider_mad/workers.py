"""A thread pool for work that would block the loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class Workers(ThreadPoolExecutor):
    """A thread pool that starts one thread at once, and tolerates that no further one can be started.

    ThreadPoolExecutor raises when it cannot start another thread (a limit on processes or on memory), after it has
    queued the work, which the next free thread then runs: the caller would give up work that is done all the same.

    Args:
        most: number of threads at most; None for Python's default.
        name: prefix of the threads' names.

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
