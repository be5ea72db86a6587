"""What a database on a disk must stand: kills, damage, other processes."""

import asyncio
import os
import re
import sqlite3
import sys
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection

from wwwmarket.adapters.storage import SqlStore
from wwwmarket.adapters.storage.lock import FileLock
from wwwmarket.domain.errors import Conflict, Malformed, NotFound
from wwwmarket.domain.identity import EntryId
from wwwmarket.ports.store import Change


def put(key: str, body: bytes = b"body") -> Change:
    return Change(kind="note", key=key, body=body)


WRITER: Final = """
import asyncio, sys
from wwwmarket.adapters.storage import SqlStore
from wwwmarket.ports.store import Change

async def write_on(store, writer):
    number = 0
    while True:
        key = f"{writer}-{number}"
        await store.records.write([Change(kind="note", key=key, body=bytes(500)), Change(kind="twin", key=key, body=b"")])
        print(key, flush=True)
        number += 1

async def main():
    store = SqlStore.open(sys.argv[1])
    await asyncio.gather(*(write_on(store, writer) for writer in range(20)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(url: str, path: Path) -> None:
    """After kill -9 in the midst of writes, every acknowledged one is there, each is whole, and the file is sound."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, url, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    acknowledged = [await child.stdout.readline() for _ in range(500)]
    child.kill()
    acknowledged += (await child.communicate())[0].splitlines(keepends=True)
    whole = {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}
    store = SqlStore.open(url)
    kept = {key for key, _ in await store.records.scan("note")}
    assert whole <= kept
    assert kept == {key for key, _ in await store.records.scan("twin")}, "a write is kept whole or not at all"
    await store.close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


HOLDER: Final = """
import sys
from wwwmarket.adapters.storage import SqlStore
store = SqlStore.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


async def test_a_second_process_is_refused_and_told_which_the_first_is(url: str) -> None:
    """One process writes a database; when it ends, however it ends, another may."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDER, url, stdin=pipe, stdout=pipe)
    assert child.stdout is not None
    await child.stdout.readline()
    with pytest.raises(Conflict, match=f"written by process {child.pid}:"):
        SqlStore.open(url)
    child.kill()
    await child.communicate()
    await SqlStore.open(url).close()


async def test_one_process_opens_a_database_once(url: str) -> None:
    """The second opening in the same process is refused too, and a closed store lets go."""
    store = SqlStore.open(url)
    with pytest.raises(Conflict, match=str(os.getpid())):
        SqlStore.open(url)
    await store.close()
    await SqlStore.open(url).close()


def test_a_lock_is_released_when_opening_fails(path: Path, url: str) -> None:
    """A refused database can be replaced and opened by the same process."""
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(Malformed):
        SqlStore.open(url)
    FileLock.take(path).release()


async def filled(url: str) -> None:
    store = SqlStore.open(url)
    await store.records.write([put(str(number), bytes([number % 256]) * 700) for number in range(2000)])
    await store.close()


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def cut_inside_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 77)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)


def beheaded(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


@pytest.mark.parametrize("damage", [torn, cut_inside_a_page, overwritten, beheaded])
async def test_a_damaged_database_is_refused_with_what_to_do(url: str, path: Path, damage) -> None:
    """The node does not start on it, and the message says how to go on."""
    await filled(url)
    damage(path)
    with pytest.raises(Malformed, match="restore a copy") as caught:
        SqlStore.open(url)
    assert caught.value.reason == "damaged_database"
    assert str(path) in caught.value.message


async def test_damage_found_while_reading_is_told_in_the_same_way(url: str, path: Path) -> None:
    """A disk that goes bad under a running node is refused, not answered from."""
    await filled(url)
    store = SqlStore.open(url)
    overwritten(path)
    with pytest.raises(Malformed, match="restore a copy"):
        await store.records.scan("note")
    await store.close()


@pytest.mark.parametrize(
    "wrong", ["", "node.db", "sqlite://", "sqlite:///:memory:", "postgresql://host", "mysql://host/db"]
)
def test_an_address_of_no_database_file_is_malformed(wrong: str) -> None:
    """The message says which form is right."""
    with pytest.raises(Malformed, match="sqlite:///path"):
        SqlStore.open(wrong)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """It is not created behind anybody's back."""
    with pytest.raises(NotFound, match=re.escape(str(tmp_path / "missing"))):
        SqlStore.open(f"sqlite:///{tmp_path}/missing/node.db")


async def test_the_database_is_set_up_for_durability(url: str, path: Path) -> None:
    """Every connection writes ahead, waits for the disk, and for others."""
    store = SqlStore.open(url)

    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    assert await store._database.read(pragmas) == ["wal", 2, 1, 5000]
    await store.close()


@pytest.mark.bench
async def test_write_latency_and_append_rate(url: str) -> None:
    """Measures; the bounds are loose, for slow disks."""
    store, loop = SqlStore.open(url), asyncio.get_running_loop()
    latencies = []
    for number in range(300):
        began = loop.time()
        await store.records.write([put(str(number), bytes(300))])
        latencies.append(loop.time() - began)
    began = loop.time()
    for batch in range(50):
        names = [EntryId(f"{batch * 256 + number:064x}") for number in range(256)]
        await store.ledger.append(batch * 256, [bytes(600)] * 256, names)
    rate = 50 * 256 / (loop.time() - began)
    await store.close()
    print(f"durable write p50 {sorted(latencies)[150] * 1000:.2f} ms; {rate:.0f} entries/s")  # noqa: T201
    assert sorted(latencies)[150] < 0.05
    assert rate > 1000
