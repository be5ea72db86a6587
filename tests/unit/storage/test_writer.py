"""The writing thread: shared commits, separate faults, bounds."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection

from wwwmarket.adapters.storage import SqlStore, engine, schema
from wwwmarket.adapters.storage.writer import Writer
from wwwmarket.domain.errors import Conflict, Exhausted, Unavailable
from wwwmarket.ports.store import Change


def put(key: str, body: bytes = b"body") -> Change:
    return Change(kind="note", key=key, body=body)


async def held(writer: Writer, path: Path) -> tuple[threading.Event, asyncio.Task[None]]:
    """The writer, kept busy until the event is set."""
    began, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def work(_connection: Connection) -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(10)

    task = asyncio.ensure_future(writer.submit(work))
    await began.wait()
    return go_on, task


@pytest.fixture
def writer(path: Path, url: str):
    opened = engine.connect(engine.parse(url), readers=1)
    with opened.connect().execution_options(writes=True) as connection, connection.begin():
        schema.upgrade(connection, str(path))
    made = Writer(opened, str(path), queue_max=3)
    yield made
    made.close()
    opened.dispose()


def insert(key: str):
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO records (kind, key, body) VALUES ('note', ?, x'')", (key,))

    return work


def fail(_connection: Connection) -> None:
    raise ZeroDivisionError


async def test_a_full_queue_is_refused_with_when_to_try_again(writer: Writer, path: Path) -> None:
    """Writes do not wait without bound."""
    go_on, first = await held(writer, path)
    waiting = [asyncio.ensure_future(writer.submit(insert(str(number)))) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as caught:
        await writer.submit(insert("one too many"))
    assert caught.value.retry_after_ms > 0
    go_on.set()
    await asyncio.gather(first, *waiting)


async def test_a_call_that_fails_undoes_itself_alone(writer: Writer, path: Path) -> None:
    """Conflicts and bugs go to their own callers; the calls that share their transaction are committed."""
    go_on, first = await held(writer, path)

    def half(connection: Connection) -> None:
        insert("half")(connection)
        insert("a")(connection)

    calls = [asyncio.ensure_future(writer.submit(work)) for work in (insert("a"), half, fail)]
    await asyncio.sleep(0)
    go_on.set()
    good, conflicting, buggy = await asyncio.gather(*calls, return_exceptions=True)
    await first
    assert good is None
    assert isinstance(conflicting, Conflict)
    assert isinstance(buggy, ZeroDivisionError)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT key FROM records").fetchall() == [("a",)]
    raw.close()


async def test_a_bug_in_a_lone_call_goes_to_its_caller(writer: Writer) -> None:
    """The writer goes on."""
    with pytest.raises(ZeroDivisionError):
        await writer.submit(fail)
    await writer.submit(insert("after"))


async def test_a_cancelled_callers_work_is_committed_all_the_same(writer: Writer, path: Path) -> None:
    """What was handed over is written; nobody is told twice."""
    go_on, first = await held(writer, path)
    left = asyncio.ensure_future(writer.submit(insert("left")))
    await asyncio.sleep(0)
    left.cancel()
    go_on.set()
    await first
    await writer.submit(insert("next"))
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT key FROM records").fetchall() == [("left",), ("next",)]
    raw.close()


async def test_a_disk_that_fails_is_told_to_every_caller_of_the_batch(writer: Writer, path: Path) -> None:
    """Nothing of it is kept, and the writer goes on when the disk does."""
    go_on, first = await held(writer, path)

    def full(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        connection.exec_driver_sql("INSERT INTO records (kind, key, body) VALUES ('note', 'big', zeroblob(9999999))")

    calls = [asyncio.ensure_future(writer.submit(work)) for work in (insert("beside"), full)]
    await asyncio.sleep(0)
    go_on.set()
    await first
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, Unavailable), outcome

    def room(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")

    await writer.submit(room)
    await writer.submit(insert("after"))
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT key FROM records").fetchall() == [("after",)]
    raw.close()


async def test_closing_commits_what_waits_and_refuses_the_rest(url: str) -> None:
    """Whoever was let in is answered; whoever comes later is refused."""
    store = SqlStore.open(url)
    writes = [asyncio.ensure_future(store.records.write([put(str(number))])) for number in range(300)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(Unavailable, match="closed"):
        await store.records.write([put("late")])
    store = SqlStore.open(url)
    assert len(await store.records.scan("note")) == 300
    await store.close()
