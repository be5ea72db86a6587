"""A slow market is not a dead one: where nobody else is left to ask, a node waits as long as the bid's own objective."""

import pytest

from tests.integration.node.town import Town, buy, dearer, simulate
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.quantity import Slo
from wwwmarket.node.service import Preferences
from wwwmarket.simulator.engine import Begin, Pause, Say

WORD = Say(data=b"data: word\n\n")


def slow(pause_ms: int):
    return (Begin(), Pause(duration_ms=pause_ms), WORD)


async def operator_and(town: Town, play=None):
    operator = await town.house("operator", None)
    provider = await town.house("provider", *([] if play is None else [play]))
    await town.listed(1)
    return operator, provider


@pytest.mark.parametrize(("transit_ms", "served"), [(200, True), (900, False)])
def test_a_market_that_is_silent_as_a_whole_is_asked_once_more(transit_ms, served):
    """The only provider's answers take longer than an ask may, but not four times as long."""

    async def story(town: Town) -> None:
        operator, _ = await operator_and(town)
        town.network.transit_ms = lambda _one, _other: float(transit_ms)
        bought = await buy(operator)
        assert (bought.refusal is None) is served
        if not served:
            assert "no answer within 1200 ms" in bought.refusal.message

    simulate(story)


def test_an_urgent_bid_is_not_asked_twice():
    """Where the objective leaves no time for it, the client hears at once that nobody answers."""

    async def story(town: Town) -> None:
        operator, _ = await operator_and(town)
        town.network.transit_ms = lambda _one, _other: 200.0
        begun_ms = town.clock.monotonic_ms()
        bought = await buy(operator, preferences=Preferences(slo=Slo(ttft_ms=1_000, tpot_ms=100)))
        assert isinstance(bought.refusal, Unavailable)
        assert town.clock.monotonic_ms() - begun_ms < 400

    simulate(story)


@pytest.mark.parametrize(("pause_ms", "served"), [(5_000, True), (20_000, False)])
def test_the_last_provider_left_is_waited_for_as_long_as_the_objective(pause_ms, served):
    """A first token after five seconds is within the default objective of ten; after twenty the client has heard no."""

    async def story(town: Town) -> None:
        operator, _ = await operator_and(town, slow(pause_ms))
        begun_ms = town.clock.monotonic_ms()
        bought = await buy(operator)
        assert (bought.refusal is None) is served
        if not served:
            assert "no first token" in bought.refusal.message
            assert 11_900 < town.clock.monotonic_ms() - begun_ms < 13_000

    simulate(story)


def test_the_next_best_is_still_taken_at_once():
    """With another one to ask, a late first token is not waited for beyond what was promised."""

    async def story(town: Town) -> None:
        operator, _ = await operator_and(town, slow(20_000))
        await town.house("other", prices=dearer(3))
        await town.listed(2)
        begun_ms = town.clock.monotonic_ms()
        bought = await buy(operator)
        assert bought.delivered.provider == town.houses["other"].key.account
        assert town.clock.monotonic_ms() - begun_ms < 4_000

    simulate(story)
