"""One thread that writes: what is asked for at once shares one transaction, and so one wait for the disk."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, IntegrityError

from wwwmarket.adapters.storage import faults
from wwwmarket.domain.errors import Exhausted, Refusal, Unavailable

Work: TypeAlias = Callable[[Connection], None]
"""Statements within a transaction that is not its own. May run twice, the first time undone."""

BATCH_MAX: Final = 256
"""Calls that share a commit: enough to hide the disk, few enough that the first waits some milliseconds only."""
QUEUE_MAX: Final = 4_096
_RETRY_MS: Final = 100


class _Call(NamedTuple):
    work: Work
    due_s: float
    """Monotonic instant by which it wants to be committed."""
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Writer:
    """Commits calls in the order in which they came. A call that fails undoes itself alone."""

    def __init__(self, engine: Engine, what: str, *, queue_max: int = QUEUE_MAX) -> None:
        self._engine, self._what, self._queue_max = engine, what, queue_max
        self._queue: deque[_Call] = deque()
        self._due_s = math.inf
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="wwwmarket-writer", daemon=True)
        self._thread.start()

    async def submit(self, work: Work, *, patience_ms: int = 0) -> None:
        """Run ``work`` and commit it; durable on return. A cancelled caller's work is committed all the same.

        ``patience_ms`` is how long it may wait for others to share its commit with.

        Raises:
            Exhausted: ``queue_max`` calls wait already.
            Unavailable: the store is closed, or the disk fails.
            Refusal: whatever ``work`` raises.
        """
        loop = asyncio.get_running_loop()
        call = _Call(work, time.monotonic() + patience_ms / 1000, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise Unavailable(f"{self._what} is closed", retry_after_ms=faults.RETRY_MS)
            if len(self._queue) >= self._queue_max:
                raise Exhausted(f"{self._queue_max} writes wait for the disk already", retry_after_ms=_RETRY_MS)
            self._queue.append(call)
            if call.due_s < self._due_s:
                self._due_s = call.due_s
                self._changed.notify()
        await call.done

    def close(self) -> None:
        """Commit what waits, and end. Blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._engine.connect().execution_options(writes=True) as connection:
            while batch := self._take():
                _resolve(batch, self._commit(connection, batch))

    def _take(self) -> list[_Call]:
        """The calls that wait, ``BATCH_MAX`` at most, once one of them is due; none at the end."""
        with self._changed:
            while not self._closing and (wait_s := self._due_s - time.monotonic()) > 0:
                self._changed.wait(None if wait_s == math.inf else wait_s)
            batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
            self._due_s = min((call.due_s for call in self._queue), default=math.inf)
            return batch

    def _commit(self, connection: Connection, batch: list[_Call]) -> list[Exception | None]:
        """The outcome of each call. All together first, which costs least; if one fails, again with savepoints."""
        try:
            with connection.begin():
                for call in batch:
                    call.work(connection)
        except (Refusal, DatabaseError):
            return self._commit_apart(connection, batch)
        except Exception as fault:  # noqa: BLE001 - a bug in one call is its caller's, and must not stop the writer
            return self._commit_apart(connection, batch) if len(batch) > 1 else [fault]
        return [None] * len(batch)

    def _commit_apart(self, connection: Connection, batch: list[_Call]) -> list[Exception | None]:
        try:
            with connection.begin():
                return [self._attempt(connection, call) for call in batch]
        except DatabaseError as error:
            return [faults.refusal(error, self._what)] * len(batch)

    def _attempt(self, connection: Connection, call: _Call) -> Exception | None:
        try:
            with connection.begin_nested():
                call.work(connection)
        except IntegrityError as error:
            return faults.refusal(error, self._what)
        except DatabaseError:
            raise  # the database's fault, not this call's: none of the batch is kept
        except Exception as fault:  # noqa: BLE001 - refusals and bugs alike go to the caller
            return fault
        return None


def _resolve(batch: list[_Call], outcomes: list[Exception | None]) -> None:
    """Tell each caller, waking each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]] = {}
    for call, outcome in zip(batch, outcomes, strict=True):
        by_loop.setdefault(call.loop, []).append((call.done, outcome))
    for loop, told in by_loop.items():
        with suppress(RuntimeError):  # a loop that has ended has no callers left
            loop.call_soon_threadsafe(_tell, told)


def _tell(told: list[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for done, outcome in told:
        if done.done():
            continue  # its caller was cancelled
        if outcome is None:
            done.set_result(None)
        else:
            done.set_exception(outcome)
