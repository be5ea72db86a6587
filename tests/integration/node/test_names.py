"""A named purchase is bought once, also when its gateway dies in between."""

import asyncio

from tests.integration.node.test_crashes import SHORT
from tests.integration.node.test_purchases import SLOW, TEXT
from tests.integration.node.town import House, Town, buy, collect, dearer, purchase, settlements, simulate
from wwwmarket.domain.errors import Reused, Stale, Unavailable
from wwwmarket.node.naming import KEPT_MS, NAMED
from wwwmarket.simulator.engine import HELLO, Begin, Break

NAME = "8e03978e"


async def die(house: House) -> None:
    """At once, and back a little later."""
    await house.kill()
    await asyncio.sleep(0.5)
    await house.open()


def test_a_repeat_after_a_crash_is_not_paid_twice():
    """Cut off in its stream, it is refused while its award is open; then it was paid for what had come, and that is it."""

    async def story(town: Town) -> None:
        operator, provider = await town.house("operator", None), await town.house("provider", SLOW)
        await town.listed(1)
        before = town.available(operator.key.account)
        operator.spawn(collect(operator.answers.purchase(purchase(operator.key.account, name=NAME))))
        await town.until(lambda: bool(provider.engine.requests))
        await asyncio.sleep(0.5)
        await die(operator)
        assert isinstance((await buy(operator, name=NAME)).refusal, Unavailable)
        await town.settled()
        paid = before - town.available(operator.key.account)
        assert paid == town.available(provider.key.account) > 0
        again = await buy(operator, name=NAME)
        assert isinstance(again.refusal, Stale)
        (award,) = settlements(operator)
        assert award in again.refusal.message
        assert len(provider.engine.requests) == 1
        assert (await buy(operator, name="another")).delivered.cost_micro > 0

    simulate(story, SHORT)


def test_a_repeat_after_a_crash_is_bought_where_nothing_was_paid():
    """The node dies before its award reaches anybody: it is bought now, once."""

    async def story(town: Town) -> None:
        operator, provider = await town.house("operator", None), await town.house("provider")
        await town.listed(1)
        operator.life.aim(2, after=False)
        operator.spawn(collect(operator.answers.purchase(purchase(operator.key.account, name=NAME))))
        await operator.died.wait()
        await die(operator)
        await town.settled()
        await town.listed(1)
        bought = await buy(operator, name=NAME)
        assert bought.text == TEXT
        await town.settled()
        assert town.available(provider.key.account) == bought.delivered.cost_micro
        assert len(provider.engine.requests) == 1

    simulate(story, SHORT)


def test_a_name_stands_for_one_request_over_a_crash():
    """Another request under the name of one that was answered is refused, and so is the same one, as delivered."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        assert (await buy(operator, name=NAME)).text == TEXT
        await town.settled()
        await die(operator)
        assert isinstance((await buy(operator, name=NAME)).refusal, Stale)
        assert isinstance((await buy(operator, name=NAME, request=b"{}")).refusal, Reused)

    simulate(story)


def test_what_came_to_nothing_can_be_tried_again_at_once():
    """Its award is still open somewhere, and nobody will be paid for it: the name is free."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        broken = await town.house("broken", (*HELLO[:2], Break()))
        await town.house("good", prices=dearer(2))
        await town.listed(2)
        assert isinstance((await buy(operator, name=NAME)).refusal, Unavailable)
        broken.engine.play = lambda _request: (Begin(), *HELLO[1:])
        assert (await buy(operator, name=NAME)).text == TEXT

    simulate(story)


def test_names_are_forgotten_after_a_day():
    """At a start: what is kept is bounded by what a day brings."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        await buy(operator, name=NAME)
        await town.settled()
        assert len(await operator.records.scan(NAMED)) == 1
        operator.node.names._clock = _Later(town.clock, KEPT_MS + 1)
        await operator.node.names.forget_old()
        assert await operator.records.scan(NAMED) == []

    simulate(story)


class _Later:
    def __init__(self, clock, by_ms: int) -> None:
        self._clock, self._by_ms = clock, by_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._by_ms
