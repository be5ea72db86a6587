"""Bundles of entries opened on all cores, each in a process that knows nothing but its bytes."""

import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Final, Generic, TypeVar

from wwwmarket.domain.errors import Unavailable

T = TypeVar("T")

FIRST_HERE: Final = 8
"""Bundles of a small log, 2,048 entries, are opened sooner than a process has started."""
AHEAD: Final = 4
"""Bundles on their way for each process: enough that none waits, 64 MiB of the largest entries."""


class ProcessOpener(Generic[T]):
    """Implements ``market.audit.Opener``, by its ``open_bundle``, which must be a module's own function."""

    def __init__(self, processes: int, open_bundle: Callable[[bytes, int], T], *, first_here: int = FIRST_HERE) -> None:
        assert processes >= 1, "somebody opens"
        self._open_bundle = open_bundle
        self._processes = processes
        self._first_here = first_here
        self._pool: ProcessPoolExecutor | None = None

    @property
    def ahead(self) -> int:
        return AHEAD * self._processes

    def submit(self, content: bytes, width: int) -> Callable[[], T | None]:
        """As ``Opener.submit``; both it and what it gives raise Unavailable when a process died."""
        if self._first_here > 0:
            self._first_here -= 1
            return lambda: None
        if self._pool is None:
            # Not forked: the progress bar has a thread.
            self._pool = ProcessPoolExecutor(self._processes, get_context("spawn"), initializer=_leave_to_the_parent)
        try:
            future = self._pool.submit(self._open_bundle, content, width)
        except BrokenProcessPool:
            raise _died() from None
        return lambda: _result(future)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _result(future: "Future[T]") -> T:
    """Raises Unavailable when the process died."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise _died() from None


def _died() -> Unavailable:
    return Unavailable("a process that verifies signatures died: is there memory left?", retry_after_ms=1_000)


def _leave_to_the_parent() -> None:
    """Ctrl-C ends the audit, which ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
