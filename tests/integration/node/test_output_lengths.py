"""A gateway learns how long its clients' answers are, from what was settled, and bids with it."""

import asyncio

from tests.integration.node.test_on_disk import on_disk
from tests.integration.node.town import MODEL, House, Town, bodies, buy, simulate
from wwwmarket.adapters.storage import SqlStore
from wwwmarket.domain.records import Award
from wwwmarket.node.lengths import HABIT
from wwwmarket.ports.store import Change
from wwwmarket.simulator.engine import Begin, Break, Say

MAX = 1_000
BROKEN = (Begin(), Say(data=b"data: word\n\n"), Break())


def test_answers_that_are_short_are_expected_to_be():
    """The first bid expects half of its maximum, the tenth about what came before."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        for _ in range(10):
            assert (await buy(operator, max_output_tokens=MAX)).delivered.usage.output_tokens == 3
        await town.settled()
        awards = bodies(operator, Award)
        expected = [award.bid.expected_output_tokens for award in awards]
        assert 450 < expected[0] < 550
        assert 3 <= expected[-1] < 30
        assert expected == sorted(expected, reverse=True)

    simulate(story)


def test_a_broken_answer_teaches_nothing():
    """What failed after a few tokens was not short: the next bid expects what the first did."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider", play=BROKEN)
        await town.listed(1)
        lengths, client = operator.node.buying.purse.lengths, operator.key.account
        before = lengths.expected(client, MODEL.name, MAX)
        assert (await buy(operator, max_output_tokens=MAX)).refusal is not None
        await town.settled()
        assert lengths.expected(client, MODEL.name, MAX) == before

    simulate(story)


def test_what_was_learnt_is_known_after_a_restart(tmp_path):
    """A gateway over a real database is killed and comes back: it expects what it expected, to the token."""
    stores: list[SqlStore] = []

    async def story(town: Town) -> None:
        operator = town.houses["operator"] = House(town, "operator", None)
        stores.append(await on_disk(operator, tmp_path / "operator.db"))
        await operator.open()
        await town.house("provider")
        await town.listed(1)
        client = operator.key.account
        stranger = operator.node.lengths.expected("0" * 64, "another/model", MAX)
        for _ in range(4):
            assert (await buy(operator, max_output_tokens=MAX)).refusal is None
        await town.settled()
        before = operator.node.lengths.expected(client, MODEL.name, MAX)
        assert before.expected < stranger.expected / 4
        while len(await operator.records.scan(HABIT)) < 2:  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.01)
        await operator.kill()
        await operator.open()
        assert abs(operator.node.lengths.expected(client, MODEL.name, MAX).expected - before.expected) <= 1
        assert abs(operator.node.lengths.expected(client, MODEL.name, MAX).high - before.high) <= 1
        assert operator.node.lengths.expected("0" * 64, "another/model", MAX) == stranger

    async def kept(town: Town) -> None:
        try:
            await story(town)
        finally:
            await town.close()
            for store in stores:
                await store.close()

    simulate(kept, loop_factory=asyncio.SelectorEventLoop)


def test_damaged_memories_are_learnt_anew():
    """A record that cannot be read stops no node: it is dropped, and the rest is known."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        assert (await buy(operator, max_output_tokens=MAX)).refusal is None
        await town.settled()
        before = operator.node.lengths.expected(operator.key.account, MODEL.name, MAX)
        await operator.records.write([Change(kind=HABIT, key="broken", body=b"{}")])
        await operator.kill()
        await operator.open()
        assert (
            abs(operator.node.lengths.expected(operator.key.account, MODEL.name, MAX).expected - before.expected) <= 1
        )
        assert "broken" not in dict(await operator.records.scan(HABIT))

    simulate(story)
