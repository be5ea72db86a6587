"""Providers that come, leave, come back, die and are cut off, as a gateway's clients notice it."""

import asyncio

from tests.integration.node.town import Town, buy, collect, dearer, purchase, settlements, simulate
from wwwmarket.domain.errors import Unavailable
from wwwmarket.node.service import Awarded
from wwwmarket.simulator.engine import Begin, Pause, Say

SLOW = (Begin(), *(act for _ in range(20) for act in (Say(data=b"data: word\n\n"), Pause(duration_ms=100))))
LATE = (Begin(), Pause(duration_ms=2_000), Say(data=b"data: late\n\n"))


def winner(bought) -> str:
    return bought.of(Awarded)[-1].provider


async def served_by(town: Town, house, patience_s: float) -> float:
    """Seconds of buying until that house answered a request."""
    begun_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(patience_s):
        while winner(await buy(town.operator)) != house.key.account:  # noqa: ASYNC110 - buying is how it is found out
            await asyncio.sleep(0.1)
    return asyncio.get_running_loop().time() - begun_s


def test_who_joins_is_used_within_two_seconds():
    """A cheaper provider comes up in a running market: it answers a request less than two seconds later."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        await town.house("dear", prices=dearer(2))
        await town.listed(1)
        assert (await buy(town.operator)).refusal is None
        cheap = await town.house("cheap")
        assert await served_by(town, cheap, 10) < 2
        await town.settled()

    simulate(story)


def test_who_leaves_in_order_is_missed_by_nobody():
    """What it has in hand is finished, what comes after goes elsewhere without a failover, and it comes back with its key."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        cheap = await town.house("cheap", SLOW)
        await town.house("dear", prices=dearer(2))
        await town.listed(2)
        running = operator.spawn(
            collect(operator.answers.purchase(purchase(operator.key.account, max_output_tokens=64)))
        )
        await town.until(lambda: cheap.node.selling.in_flight == 1, 2_000)
        leaving = cheap.spawn(cheap.node.drain())
        await asyncio.sleep(0.5)
        after = await buy(operator)
        assert len(after.of(Awarded)) == 1
        assert winner(after) != cheap.key.account
        finished = await running
        assert (winner(finished), finished.delivered.outcome) == (cheap.key.account, "completed")
        await leaving
        await cheap.close()
        await cheap.open()
        assert await served_by(town, cheap, 60) < 2
        await town.settled()

    simulate(story)


def test_who_is_killed_before_its_first_token_costs_one_failover():
    """Its process dies with a request in hand: the next-best answers it, within seconds, and the client sees no error."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        cheap = await town.house("cheap", LATE)
        dear = await town.house("dear", prices=dearer(2))
        await town.listed(2)
        running = operator.spawn(collect(operator.answers.purchase(purchase(operator.key.account))))
        await town.until(lambda: cheap.node.selling.in_flight == 1, 2_000)
        begun_s = asyncio.get_running_loop().time()
        await cheap.kill()
        bought = await running
        assert bought.delivered.outcome == "completed"
        assert [one.provider for one in bought.of(Awarded)] == [cheap.key.account, dear.key.account]
        assert asyncio.get_running_loop().time() - begun_s < 5
        await town.until(lambda: not operator.node.replica.state.awards(), 3_600_000)
        assert settlements(operator)[bought.delivered.award] == 1

    simulate(story)


def test_who_is_killed_after_its_first_token_is_a_clear_error():
    """Half an answer cannot be taken over: the client is told so within seconds, and pays nothing."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        cheap = await town.house("cheap", SLOW)
        await town.house("dear", prices=dearer(2))
        await town.listed(2)
        running = operator.spawn(
            collect(operator.answers.purchase(purchase(operator.key.account, max_output_tokens=64)))
        )
        await town.until(lambda: cheap.node.selling.in_flight == 1, 2_000)
        await asyncio.sleep(0.5)
        begun_s = asyncio.get_running_loop().time()
        await cheap.kill()
        bought = await running
        assert b"word" in bought.text
        assert len(bought.of(Awarded)) == 1
        assert isinstance(bought.refusal, Unavailable)
        assert "in the middle" in bought.refusal.message
        assert asyncio.get_running_loop().time() - begun_s < 5
        await town.until(lambda: not operator.node.replica.state.awards(), 3_600_000)
        assert town.available(cheap.key.account) == 0

    simulate(story)


def test_a_cut_between_a_gateway_and_its_best_provider_heals():
    """While they cannot hear each other others answer; once they can, the best is asked and wins again."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        cheap = await town.house("cheap")
        dear = await town.house("dear", prices=dearer(2))
        await town.listed(2)
        assert winner(await buy(operator)) == cheap.key.account
        town.network.cut(operator.id, cheap.id)
        for _ in range(3):
            bought = await buy(operator)
            assert (winner(bought), bought.delivered.outcome) == (dear.key.account, "completed")
        await asyncio.sleep(60)
        town.network.mend(operator.id, cheap.id)
        assert await served_by(town, cheap, 60) < 20
        await town.until(lambda: cheap.node.replica.size == operator.node.replica.size, 30_000)
        assert cheap.node.replica.state.root() == operator.node.replica.state.root()
        await town.settled()

    simulate(story)
