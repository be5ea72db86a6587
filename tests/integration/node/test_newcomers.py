"""Providers without a settlement are asked in the stated share of draws."""

from dataclasses import replace

from tests.integration.node.town import Town, buy, settlements, simulate
from wwwmarket.config import LOCAL
from wwwmarket.node import replica
from wwwmarket.node.service import Awarded


def always_new(ppm: int):
    """One provider is asked at a time, and in this share of draws a newcomer."""
    return replace(LOCAL, auction=replace(LOCAL.auction, neighbours_asked=1, reserves_asked=0, newcomer_ppm=ppm))


def test_every_newcomer_gets_its_chance():
    """Where each draw is for newcomers, three providers serve the first three requests, one each."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        providers = [await town.house(f"provider {number}") for number in range(3)]
        await town.listed(3)
        served = []
        for _ in providers:
            served.append((await buy(operator)).of(Awarded)[0].provider)
            await town.settled()
        assert sorted(served) == sorted(house.key.account for house in providers)
        assert not any(operator.node.replica.is_newcomer(account) for account in served)
        assert len(settlements(operator)) == 3

    simulate(story, always_new(1_000_000))


def test_who_has_settled_is_known_after_a_restart():
    """Replaying the ledger says again who is new and who is not."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider = await town.house("provider")
        await town.listed(1)
        assert operator.node.replica.is_newcomer(provider.key.account)
        await buy(operator)
        await town.settled()
        await operator.close()
        await operator.open()
        assert not operator.node.replica.is_newcomer(provider.key.account)

    simulate(story)


def test_the_memory_of_who_has_settled_is_bounded(monkeypatch):
    """At the limit the one whose last settlement is oldest counts as new again."""
    monkeypatch.setattr(replica, "PROVIDERS_KEPT_MAX", 1)

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        providers = [await town.house(f"provider {number}") for number in range(2)]
        await town.listed(2)
        for _ in providers:
            last = (await buy(operator)).of(Awarded)[0].provider
            await town.settled()
        new = {house.key.account for house in providers if operator.node.replica.is_newcomer(house.key.account)}
        assert new == {house.key.account for house in providers} - {last}

    simulate(story, always_new(1_000_000))
