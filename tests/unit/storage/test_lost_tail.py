"""A disk that loses the end of what it said was written: the loss is known at the next start, and never overwritten."""

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from wwwmarket.adapters.storage import SqlStore
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import EntryId

ENTRIES = 40
PAGE_BYTES = 4_096


async def filled(url: str, path: Path, copy: Path, *, closed: bool = False) -> None:
    """A log of 40 appends, and a copy of its files: as a power failure finds them, or after an orderly end."""
    store = SqlStore.open(url)
    for index in range(ENTRIES):
        await store.ledger.append(index, [bytes([index]) * 900], [EntryId(f"{index:064x}")])
    await store.ledger.put_checkpoint(ENTRIES, b"note", [])
    if closed:
        await store.close()
    copied(path, copy)
    if not closed:
        await store.close()


def copied(path: Path, copy: Path) -> None:
    copy.mkdir()
    for file in path.parent.glob("node.db*"):
        shutil.copy(file, copy / file.name)


async def found(copy: Path, folder: Path, damage) -> tuple[int, int]:
    """What a store over the damaged copy says: its size, and what was promised."""
    shutil.copytree(copy, folder)
    damage(folder)
    store = SqlStore.open(f"sqlite:///{folder}/node.db")
    try:
        size = await store.ledger.size()
        assert await store.ledger.read(0, 99) == [bytes([index]) * 900 for index in range(size)], (
            "what is left is whole"
        )
        return size, await store.ledger.promised()
    finally:
        await store.close()


async def test_a_write_ahead_log_cut_anywhere_is_a_known_loss(url: str, path: Path, tmp_path: Path) -> None:
    """Cut between frames, within them and within the header: the store is an older one, and says what was promised."""
    copy = tmp_path / "copy"
    await filled(url, path, copy)
    length = (copy / "node.db-wal").stat().st_size
    sizes = set()
    for place in [*range(0, length, length // 40), 1, 31, 33, length - 1]:
        folder = tmp_path / f"cut-{place}"

        def cut(folder: Path, place: int = place) -> None:
            with (folder / "node.db-wal").open("r+b") as file:
                file.truncate(place)

        size, promised = await found(copy, folder, cut)
        assert promised == ENTRIES
        assert size <= ENTRIES
        sizes.add(size)
    assert len(sizes) > 10, "cuts lose different tails"
    assert await found(copy, tmp_path / "whole", lambda _folder: None) == (ENTRIES, ENTRIES)


async def test_a_write_ahead_log_that_is_gone_is_a_known_loss(url: str, path: Path, tmp_path: Path) -> None:
    """What is left is a sound database, only an older one; nothing but the witness tells."""
    copy = tmp_path / "copy"
    await filled(url, path, copy)
    size, promised = await found(copy, tmp_path / "gone", lambda folder: (folder / "node.db-wal").unlink())
    assert size < promised == ENTRIES


async def test_a_database_cut_anywhere_is_refused_or_known(url: str, path: Path, tmp_path: Path) -> None:
    """A file that lost its end is no database, or one whose loss is known."""
    copy = tmp_path / "copy"
    await filled(url, path, copy, closed=True)
    assert not (copy / "node.db-wal").exists(), "an orderly end leaves one file"
    length = (copy / "node.db").stat().st_size
    for place in [0, 1, 50, 99, 100, *range(777, length, PAGE_BYTES // 2 * 3), length - PAGE_BYTES, length - 1]:

        def cut(folder: Path, place: int = place) -> None:
            with (folder / "node.db").open("r+b") as file:
                file.truncate(place)

        with suppress(Malformed):
            size, promised = await found(copy, tmp_path / f"cut-{place}", cut)
            assert size < promised == ENTRIES, place


async def test_a_torn_witness_witnesses_nothing(url: str, path: Path) -> None:
    """It is a second word, never a first: a half-written one does not keep a sound store from opening."""
    store = SqlStore.open(url)
    await store.ledger.append(0, [b"leaf"], [EntryId("00" * 32)])
    assert await store.ledger.promised() == 1
    await store.close()
    witness = path.with_name("node.db.promised")
    witness.write_bytes(witness.read_bytes()[:7] + b"\x09" + witness.read_bytes()[8:])
    store = SqlStore.open(url)
    assert await store.ledger.promised() == 0
    await store.ledger.append(1, [b"next"], [EntryId("01" * 32)])
    assert await store.ledger.promised() == 2
    await store.close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT count(*) FROM entries").fetchone() == (2,)
    raw.close()
