"""What every orderer promises: SQLite, PostgreSQL, etcd, and the simulator's twin."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wwwmarket.adapters.orderers import open_orderer
from wwwmarket.domain.errors import Conflict, Malformed, NotFound, TooLarge, Unavailable
from wwwmarket.ports.store import ORDER_BYTES_MAX, ORDER_ENTRIES_MAX, check_order, fitting

PATIENCE_S: Final = 20


@asynccontextmanager
async def opened(orderers, *names: str):
    async with AsyncExitStack() as stack:
        made = []
        for name in names:
            orderer = orderers.open(name)
            stack.push_async_callback(orderer.close)
            made.append(orderer)
        yield made


@asynccontextmanager
async def led(orderers, name: str = "a"):
    async with opened(orderers, name) as (orderer,):
        await orderer.campaign()
        yield orderer


def leaves(first: int, last: int) -> list[bytes]:
    return [b"leaf %d" % number for number in range(first, last)]


async def everything(orderer, start: int = 0) -> list[bytes]:
    found: list[bytes] = []
    while more := await orderer.read(start + len(found), 1_000_000):
        found += more
    return found


async def test_what_is_appended_is_read_by_everybody(orderers) -> None:
    """Leaves by index, across the bounds of appends; fewer where the log is shorter."""
    async with led(orderers) as orderer:
        assert await orderer.size() == 0
        assert await orderer.read(0, 9) == []
        await orderer.append(0, leaves(0, 3))
        await orderer.append(3, [])
        await orderer.append(3, leaves(3, 4))
        await orderer.append(4, leaves(4, 7))
        assert await orderer.size() == 7
        assert await everything(orderer) == leaves(0, 7)
        for start in range(9):
            assert await orderer.read(start, start) == []
            found = await orderer.read(start, start + 2)
            assert found == leaves(start, 7)[: len(found)]
            assert bool(found) == (start < 7)


async def test_leaves_are_bytes_of_any_kind(orderers) -> None:
    """Empty ones, zeros, and the longest."""
    strange = [b"", bytes(3), b"\xff" * 65_535, b"\n"]
    async with led(orderers) as orderer:
        await orderer.append(0, strange)
        assert await everything(orderer) == strange


@pytest.mark.parametrize("first_index", [0, 1, 3, 99])
async def test_an_append_anywhere_but_at_the_end_is_a_conflict(orderers, first_index: int) -> None:
    """It changes nothing."""
    async with led(orderers) as orderer:
        await orderer.append(0, leaves(0, 2))
        with pytest.raises(Conflict, match="ends at 2") as caught:
            await orderer.append(first_index, [b"x"])
        assert caught.value.reason == "not_the_end"
        assert await everything(orderer) == leaves(0, 2)


async def test_of_two_writers_of_one_index_exactly_one_wins(orderers) -> None:
    """Compare-and-set: the loser is told, and its leaves are nowhere."""
    async with led(orderers) as orderer:
        await orderer.append(0, leaves(0, 1))
        racers = [orderer.append(1, [b"racer %d" % number]) for number in range(8)]
        outcomes = await asyncio.gather(*racers, return_exceptions=True)
        assert [outcome for outcome in outcomes if outcome is None] == [None]
        assert all(isinstance(outcome, Conflict) for outcome in outcomes if outcome is not None)
        assert await everything(orderer) == [b"leaf 0", b"racer %d" % outcomes.index(None)]


async def test_an_oversized_append_is_refused(orderers) -> None:
    """Too many entries, or too many bytes; the largest that is allowed goes through."""
    async with led(orderers) as orderer:
        with pytest.raises(TooLarge):
            await orderer.append(0, [b""] * (ORDER_ENTRIES_MAX + 1))
        with pytest.raises(TooLarge):
            await orderer.append(0, [bytes(65_535)] * 16 + [bytes(17)])
        largest = [bytes(65_535)] * 16 + [bytes(ORDER_BYTES_MAX - 16 * 65_535)]
        await orderer.append(0, largest)
        await orderer.append(len(largest), [b"1"] * ORDER_ENTRIES_MAX)
        assert await everything(orderer) == largest + [b"1"] * ORDER_ENTRIES_MAX


@settings(max_examples=50)
@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=300))
def test_a_batch_that_fits_is_the_longest_that_is_taken(lengths: list[int]) -> None:
    """Of any pending leaves: one at least, and one more would be refused."""
    pending = [bytes(length) for length in lengths]
    count = fitting(pending)
    check_order(pending[:count])
    assert count >= 1
    if count < len(pending):
        with pytest.raises(TooLarge):
            check_order(pending[: count + 1])


async def test_who_was_never_elected_appends_nothing(orderers) -> None:
    """Nor trims."""
    async with opened(orderers, "a") as (orderer,):
        with pytest.raises(Conflict) as caught:
            await orderer.append(0, leaves(0, 1))
        assert caught.value.reason == "fenced"
        with pytest.raises(Conflict):
            await orderer.trim(1_000)
        assert await orderer.size() == 0


async def test_what_was_appended_outlives_its_writer(orderers) -> None:
    """A process that comes later finds all of it and goes on at its end."""
    async with led(orderers) as orderer:
        await orderer.append(0, leaves(0, 5))
    async with led(orderers, "b") as orderer:
        assert await everything(orderer) == leaves(0, 5)
        await orderer.append(5, leaves(5, 6))
        assert await orderer.size() == 6


async def test_one_leads_and_the_next_takes_over_when_it_leaves(shared) -> None:
    """A candidate waits as long as the leader is there, and no longer."""
    async with AsyncExitStack() as stack, opened(shared, "b") as (second,):
        first = await stack.enter_async_context(led(shared, "a"))
        waiting = asyncio.ensure_future(second.campaign())
        await first.append(0, leaves(0, 1))
        assert not waiting.done()
        await stack.aclose()
        async with asyncio.timeout(PATIENCE_S):
            await waiting
        await second.append(1, leaves(1, 2))
        assert await everything(second) == leaves(0, 2)


async def test_a_fenced_leader_cannot_write(shared) -> None:
    """Its lease ended while it hung: its append at the right index is refused, and it learns that it is lost."""
    async with led(shared, "a") as old, opened(shared, "b") as (new,):
        await old.append(0, leaves(0, 1))
        await shared.depose(old)
        await new.campaign()
        with pytest.raises(Conflict) as caught:
            await old.append(1, [b"of the past"])
        assert caught.value.reason == "fenced"
        with pytest.raises(Conflict):
            await old.trim(1_000)
        async with asyncio.timeout(PATIENCE_S):
            await old.wait_lost()
        await new.append(1, leaves(1, 2))
        assert await everything(new) == leaves(0, 2)


async def test_a_fenced_leader_cannot_write_even_while_nobody_leads(shared) -> None:
    """A lease that ended is not taken up again without an election."""
    async with led(shared, "a") as old:
        await shared.depose(old)
        with pytest.raises(Conflict):
            await old.append(0, [b"of the past"])
        await old.campaign()
        await old.append(0, leaves(0, 1))
        assert await everything(old) == leaves(0, 1)


async def test_sequencers_know_of_each_other(shared) -> None:
    """Name, address, entries kept, and who leads."""
    async with led(shared, "b") as leader, opened(shared, "a") as (other,):
        await leader.announce(b'{"at":"b"}', 7)
        await other.announce(b'{"at":"a"}', 3)
        await other.announce(b'{"at":"a"}', 5)
        known = await other.sequencers()
        assert [(one.name, one.address, one.size, one.leads) for one in known] == [
            ("a", b'{"at":"a"}', 5, False),
            ("b", b'{"at":"b"}', 7, True),
        ]


async def test_a_trimmed_tail_is_bounded_and_the_rest_is_whole(trimming) -> None:
    """What every sequencer keeps is forgotten; reading across the boundary says so, and beyond it all is there."""
    async with led(trimming) as orderer, opened(trimming, "late") as (late,):
        for batch in range(40):
            await orderer.append(batch * 20, leaves(batch * 20, batch * 20 + 20))
        await orderer.trim(700)
        await orderer.trim(700)
        await orderer.trim(100)
        assert await late.size() == 800
        with pytest.raises(NotFound) as caught:
            await late.read(0, 800)
        assert caught.value.reason == "trimmed"
        kept = [start for start in range(800) if await _keeps(late, start)]
        assert kept == list(range(kept[0], 800)), "a tail has no holes"
        assert 0 < kept[0] <= 700
        assert await everything(late, kept[0]) == leaves(kept[0], 800)
        await orderer.append(800, leaves(800, 801))
        assert await late.read(800, 999) == leaves(800, 801)


async def _keeps(orderer, start: int) -> bool:
    try:
        return bool(await orderer.read(start, start + 1))
    except NotFound:
        return False


async def test_an_orderer_that_cannot_be_reached_says_what_to_do_and_comes_back(shared) -> None:
    """Unavailable with when to try again and what to check; the same orderer goes on once it is back."""
    async with led(shared) as orderer:
        await orderer.append(0, leaves(0, 1))
        shared.cut()
        try:
            for asking in (orderer.size(), orderer.read(0, 1), orderer.append(1, leaves(1, 2)), orderer.sequencers()):
                with pytest.raises(Unavailable, match="check that") as caught:
                    await asking
                assert caught.value.retry_after_ms > 0
        finally:
            shared.mend()
        async with asyncio.timeout(PATIENCE_S):
            await orderer.campaign()
        size = await orderer.size()
        await orderer.append(size, leaves(size, size + 1))
        assert await everything(orderer) == leaves(0, size + 1)


@pytest.mark.parametrize(
    "address",
    [
        *("etcd://", "etcd://host", "etcd://host:0", "etcd://host:70000", "etcd://a:1,,b:2", "etcd://a:1/x"),
        *("etcd://u@a:1", "", "orderer", "mysql://host/name", "postgresql+psycopg://host", "sqlite://"),
    ],
)
def test_an_address_of_no_orderer_is_malformed(address: str) -> None:
    """The message says which form is right."""
    with pytest.raises(Malformed, match=r"etcd://host:port|sqlite:///path"):
        open_orderer(address, origin="test.market", name="a")
