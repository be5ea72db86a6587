"""What every store promises, in SQL or in memory."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ports.orderers import servers
from wwwmarket.adapters.storage import SqlStore
from wwwmarket.domain.errors import Conflict
from wwwmarket.domain.identity import EntryId
from wwwmarket.ports.store import Change, LedgerStore, RecordStore, Tile
from wwwmarket.simulator.store import MemoryStore

Store: TypeAlias = SqlStore | MemoryStore

MAKERS: Final[dict[str, Callable[[pytest.FixtureRequest], Store]]] = {
    "sqlite": lambda request: SqlStore.open(f"sqlite:///{request.getfixturevalue('tmp_path')}/node.db"),
    "postgresql": lambda request: SqlStore.open(request.getfixturevalue("postgres_server").database()),
    "twin": lambda _request: MemoryStore(),
}


@pytest.fixture(
    params=["sqlite", "twin", pytest.param("postgresql", marks=pytest.mark.foreign(servers.POSTGRES))],
)
async def store(request):
    made = MAKERS[request.param](request)
    yield made
    await made.close()


@pytest.fixture
def records(store: Store) -> RecordStore:
    return store.records


@pytest.fixture
def ledger(store: Store) -> LedgerStore:
    return store.ledger


def put(key: str, body: bytes, kind: str = "note") -> Change:
    return Change(kind=kind, key=key, body=body)


def drop(key: str) -> Change:
    return Change(kind="note", key=key, body=None)


def name(number: int) -> EntryId:
    return EntryId(f"{number:064x}")


async def test_what_is_written_is_read(records: RecordStore) -> None:
    """By kind and key; anything else is None."""
    await records.write([put("a", b"1"), put("b", b""), put("a", b"2", kind="other")])
    assert await records.read("note", "a") == b"1"
    assert await records.read("note", "b") == b""
    assert await records.read("other", "a") == b"2"
    assert await records.read("note", "c") is None
    assert await records.read("nothing", "a") is None


async def test_a_scan_keeps_the_order_of_first_writing(records: RecordStore) -> None:
    """A record written again keeps its place; one deleted and written anew goes last."""
    await records.write([put("c", b"1"), put("a", b"1"), put("b", b"1")])
    await records.write([put("c", b"2"), drop("a")])
    await records.write([put("a", b"3"), put("z", b"other", kind="other")])
    assert await records.scan("note") == [("c", b"2"), ("b", b"1"), ("a", b"3")]
    assert await records.scan("note", newest_first=True) == [("a", b"3"), ("b", b"1"), ("c", b"2")]
    assert await records.scan("note", limit=2) == [("c", b"2"), ("b", b"1")]
    assert await records.scan("note", newest_first=True, limit=1) == [("a", b"3")]
    assert await records.scan("nothing") == []


async def test_the_last_change_of_a_key_counts(records: RecordStore) -> None:
    """Changes of one write apply in their order; writing nothing, and deleting nothing, is allowed."""
    await records.write([put("a", b"1"), drop("a"), put("a", b"2"), put("b", b"1"), drop("b"), drop("never")])
    await records.write([])
    assert await records.scan("note") == [("a", b"2")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.lists(
            st.builds(
                Change,
                kind=st.sampled_from(("x", "y")),
                key=st.sampled_from("abcd"),
                body=st.none() | st.binary(max_size=4),
            ),
            max_size=5,
        ),
        max_size=8,
    )
)
async def test_the_sql_store_and_its_twin_are_never_told_apart(tmp_path_factory, writes) -> None:
    """Whatever is written, both hold the same."""
    real, twin = SqlStore.open(f"sqlite:///{tmp_path_factory.mktemp('twin')}/node.db"), MemoryStore()
    try:
        for changes in writes:
            await real.records.write(changes)
            await twin.records.write(changes)
        for kind in ("x", "y"):
            assert await real.records.scan(kind) == await twin.records.scan(kind)
    finally:
        await real.close()


async def test_concurrent_writers_all_succeed(records: RecordStore) -> None:
    """A thousand at once."""
    await asyncio.gather(*(records.write([put(str(number), b"%d" % number)]) for number in range(1000)))
    assert sorted(await records.scan("note")) == sorted((str(number), b"%d" % number) for number in range(1000))


async def test_the_log_is_read_as_it_was_appended(ledger: LedgerStore) -> None:
    """Leaves by index, indices by name, and fewer leaves where the log is shorter."""
    assert await ledger.size() == 0
    await ledger.append(0, [b"a", b"b"], [name(1), name(2)])
    await ledger.append(2, [b"c"], [name(3)])
    await ledger.append(3, [], [])
    assert await ledger.size() == 3
    assert await ledger.read(0, 3) == [b"a", b"b", b"c"]
    assert await ledger.read(1, 2) == [b"b"]
    assert await ledger.read(2, 9) == [b"c"]
    assert await ledger.read(7, 9) == []
    assert await ledger.read(2, 2) == []
    assert [await ledger.index_of(name(number)) for number in range(1, 5)] == [0, 1, 2, None]


@pytest.mark.parametrize("first_index", [0, 1, 3, 99])
async def test_an_append_anywhere_but_at_the_end_is_a_conflict(store: Store, first_index: int) -> None:
    """It changes nothing, so that its author can read on and try again."""
    ledger = store.ledger
    await ledger.append(0, [b"a", b"b"], [name(1), name(2)])
    with pytest.raises(Conflict, match="ends at 2"):
        await ledger.append(first_index, [b"x"], [name(9)])
    assert await ledger.read(0, 9) == [b"a", b"b"]


async def test_an_entry_is_in_the_log_once(ledger: LedgerStore) -> None:
    """A name used before, or twice in one append, is a conflict, and none of its append is kept."""
    await ledger.append(0, [b"a"], [name(1)])
    with pytest.raises(Conflict):
        await ledger.append(1, [b"b", b"a"], [name(2), name(1)])
    with pytest.raises(Conflict):
        await ledger.append(1, [b"b", b"b"], [name(2), name(2)])
    assert await ledger.size() == 1
    assert await ledger.index_of(name(2)) is None


async def test_what_was_promised_is_what_was_appended(ledger: LedgerStore) -> None:
    """The witness goes with the log."""
    assert await ledger.promised() == 0
    await ledger.append(0, [b"a", b"b"], [name(1), name(2)])
    with pytest.raises(Conflict):
        await ledger.append(7, [b"c"], [name(3)])
    assert await ledger.promised() == await ledger.size() == 2


async def test_of_those_who_race_for_an_index_one_wins(ledger: LedgerStore) -> None:
    """Compare-and-set: the others are told Conflict, and do not spoil what is committed beside them."""
    racers = [ledger.append(0, [b"%d" % number], [name(number)]) for number in range(1, 20)]
    outcomes = await asyncio.gather(*racers, return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is None] == [None]
    assert all(isinstance(outcome, Conflict) for outcome in outcomes if outcome is not None)
    assert await ledger.read(0, 9) == [b"%d" % (outcomes.index(None) + 1)]


async def test_the_latest_checkpoint_and_full_tiles_are_kept(ledger: LedgerStore) -> None:
    """A checkpoint may gain signatures, or give way to that of a longer log, never to that of a shorter one."""
    assert await ledger.checkpoint() is None
    full = Tile(level=0, number=0, hashes=bytes(32 * 256))
    await ledger.put_checkpoint(256, b"note", [full])
    await ledger.put_checkpoint(256, b"note with more signatures", [full])
    assert await ledger.checkpoint() == b"note with more signatures"
    await ledger.put_checkpoint(300, b"longer", [])
    with pytest.raises(Conflict, match="step back"):
        await ledger.put_checkpoint(299, b"shorter", [])
    assert await ledger.checkpoint() == b"longer"
    assert await ledger.tile(0, 0) == full.hashes
    assert await ledger.tile(0, 1) is None
    assert await ledger.tile(1, 0) is None


async def test_what_was_never_final_can_be_cut_off(ledger: LedgerStore) -> None:
    """Leaves, names, checkpoints and tiles beyond are gone, and the log goes on from there; what is below stays."""
    count = 600
    leaves = [b"%d" % number for number in range(count)]
    await ledger.append(0, leaves, [name(number) for number in range(count)])
    for size in (256, 512, 600):
        tiles = [Tile(level=0, number=size // 256 - 1, hashes=bytes(32 * 256))] if size % 256 == 0 else []
        await ledger.put_checkpoint(size, b"note of %d" % size, tiles)
    await ledger.cut(511)
    assert await ledger.size() == await ledger.promised() == 511
    assert await ledger.checkpoint() == b"note of 256"
    assert (await ledger.tile(0, 0) is not None, await ledger.tile(0, 1)) == (True, None)
    assert (await ledger.index_of(name(510)), await ledger.index_of(name(511))) == (510, None)
    await ledger.append(511, [b"other"], [name(1_000)])
    await ledger.put_checkpoint(512, b"another note", [])
    assert await ledger.read(510, 600) == [b"510", b"other"]
    assert await ledger.checkpoint() == b"another note"
