"""A provider's policy at work: the buyer hears why it was declined, and the provider's own traffic comes first."""

import asyncio

from tests.integration.node.town import Town, buy, simulate
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.records import Offer
from wwwmarket.market.policy import PRESETS, Policy


def test_own_traffic_comes_first():
    """While the engine runs what the market did not send the provider sells nothing, and it does again when idle."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider = await town.house("provider", policy=PRESETS["idle-only"])
        await town.listed(1)
        provider.engine._running += 1
        await asyncio.sleep(1)
        refused = (await buy(operator)).refusal
        assert isinstance(refused, Unavailable)
        assert "own traffic comes first" in refused.message
        provider.engine._running -= 1
        await asyncio.sleep(1)
        assert (await buy(operator)).delivered.outcome == "completed"

    simulate(story)


def test_whom_a_provider_serves_is_its_own_affair():
    """A declined account hears that it is not served; of the policy the ledger shows the accepted share alone."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        never = Policy(never=frozenset({operator.key.account}), accept_ppm=999_999)
        await town.house("provider", policy=never)
        await town.listed(1)
        assert "does not serve this account" in (await buy(operator)).refusal.message
        (listed,) = operator.node.replica.state.offers().values()
        assert listed.offer.accept_ppm == 999_999
        assert not {"policy", "never", "schedule"} & set(Offer.__struct_fields__)

    simulate(story)
