"""API keys at work: limited, rotated, filled up, and never paid or emptied twice."""

import asyncio

import pytest

from tests.integration.node.test_purchases import SLOW
from tests.integration.node.town import Town, buy, collect, purchase, simulate
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Conflict, Exhausted, Forbidden, InsufficientCredit, Malformed, Unauthorised
from wwwmarket.market.allowance import NO_LIMITS, Limits, Period

DAY_MS = 86_400_000


def test_the_same_idempotency_key_moves_credits_once():
    """Five top-ups of one name at once, and a refund tried twice: each moves once; another amount is refused."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        _, view = await house.answers.create_key("ada", 0)
        await asyncio.gather(*(house.answers.top_up(view.id, 100, "monday") for _ in range(5)))
        assert town.available(view.account) == 100
        for _ in range(2):
            await house.answers.refund(view.id, 30, "monday")
        assert town.available(view.account) == 70
        with pytest.raises(Conflict, match="fresh"):
            await house.answers.top_up(view.id, 200, "monday")
        await house.answers.top_up(view.id, 100)
        await house.answers.top_up(view.id, 100)
        assert town.available(view.account) == 270

    simulate(story)


def test_top_ups_and_refunds_at_once_lose_nothing():
    """Interleaved moves between two accounts come to their sum."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        _, view = await house.answers.create_key("ada", 1_000)
        before = town.available(house.key.account)
        ups = [house.answers.top_up(view.id, amount, f"up {amount}") for amount in range(1, 21)]
        downs = [house.answers.refund(view.id, amount) for amount in range(1, 11)]
        await asyncio.gather(*ups, *downs)
        assert town.available(view.account) == 1_000 + 210 - 55
        assert town.available(house.key.account) == before - 210 + 55

    simulate(story)


def test_a_node_pays_another_account_once_for_each_name():
    """A provider's or a further gateway's account is funded from the node's own; a repeat pays nothing more."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        other = KeyPair(bytes(32)).account
        before = town.available(house.key.account)
        await asyncio.gather(*(house.answers.pay(other, 400, "bond") for _ in range(3)))
        assert (town.available(other), town.available(house.key.account)) == (400, before - 400)
        with pytest.raises(Conflict, match="fresh"):
            await house.answers.pay(other, 401, "bond")
        with pytest.raises(InsufficientCredit):
            await house.answers.pay(other, before)
        for nonsense in ((other, 0), (house.key.account, 1)):
            with pytest.raises(Malformed):
                await house.answers.pay(*nonsense)

    simulate(story)


def test_a_refund_is_at_most_what_is_there():
    """More than is available is refused, and nothing moves."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        _, view = await house.answers.create_key("ada", 10)
        with pytest.raises(InsufficientCredit):
            await house.answers.refund(view.id, 11)
        assert town.available(view.account) == 10

    simulate(story)


def test_a_rotated_secret_opens_and_the_old_one_does_not():
    """Account, budget and limits stay."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        old, view = await house.answers.create_key("ada", 10, Limits(requests_per_minute=5))
        new, same = await house.answers.rotate_key(view.id)
        assert house.answers.authenticate(new) == same == view
        with pytest.raises(Unauthorised):
            house.answers.authenticate(old)
        await house.answers.revoke_key(view.id)
        with pytest.raises(Conflict):
            await house.answers.rotate_key(view.id)

    simulate(story)


def test_a_key_revoked_while_it_is_rotated_stays_revoked():
    """Two changes of one key at once are made one after the other: neither undoes the other."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        for _ in range(5):
            _, view = await house.answers.create_key("ada", 10)
            changes = (house.answers.revoke_key(view.id), house.answers.rotate_key(view.id))
            changed = await asyncio.gather(
                *changes, house.answers.limit_key(view.id, NO_LIMITS), return_exceptions=True
            )
            assert [type(one) for one in changed[1:]] == [Conflict, Conflict]
            assert house.node.keyring.view(view.id).revoked

    simulate(story)


def test_what_a_revoked_key_had_locked_returns_to_the_node():
    """An answer that is at work when its key is revoked is paid, and the rest of its lock does not stay with the key."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        provider = await town.house("provider", SLOW)
        await town.listed(1)
        before = town.available(house.key.account)
        _, view = await house.answers.create_key("ada", 1_000)
        buying = house.spawn(collect(house.answers.purchase(purchase(view.account))))
        await town.until(lambda: bool(provider.engine.requests))
        await house.answers.revoke_key(view.id)
        cost_micro = (await buying).delivered.cost_micro
        await town.settled()
        await town.until(lambda: town.available(view.account) == 0)
        assert town.available(house.key.account) == before - cost_micro < before

    simulate(story)


def test_a_limited_key_buys_within_its_limits():
    """Requests a minute, models and the price cap bind the purchase itself, not a door before it."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        _, view = await house.answers.create_key("ada", 1_000_000, Limits(requests_per_minute=1))
        ada = house.node.keyring.pairs(view.id)[0]
        assert (await buy(house, ada)).delivered.outcome == "completed"
        refused = (await buy(house, ada)).refusal
        assert isinstance(refused, Exhausted)
        assert refused.reason == "requests_per_minute"
        await house.answers.limit_key(view.id, Limits(models=("other",)))
        assert isinstance((await buy(house, ada)).refusal, Forbidden)
        await house.answers.limit_key(view.id, Limits(price_max_micro=0))
        bought = await buy(house, ada)
        assert not bought.events
        assert isinstance(bought.refusal, InsufficientCredit)

    simulate(story)


def test_a_period_s_budget_is_filled_up_once():
    """At the period's first request up to the budget, not beyond it, and again in the next period."""

    async def story(town: Town) -> None:
        house = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        limits = Limits(period=Period(budget_micro=100_000, length_ms=60_000))
        _, view = await house.answers.create_key("ada", 0, limits)
        first = await buy(house, house.node.keyring.pairs(view.id)[0])
        second = await buy(house, house.node.keyring.pairs(view.id)[0])
        await town.settled()
        spent = first.delivered.cost_micro + second.delivered.cost_micro
        assert 0 < spent == 100_000 - town.available(view.account)
        await asyncio.sleep(60)  # the simulated clock
        third = await buy(house, house.node.keyring.pairs(view.id)[0])
        await town.settled()
        assert town.available(view.account) == 100_000 - third.delivered.cost_micro

    simulate(story)
