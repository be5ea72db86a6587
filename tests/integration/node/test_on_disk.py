"""The same market over the real store, in real time."""

import asyncio

from tests.integration.node.town import House, Town, buy, simulate
from wwwmarket.adapters.storage import SqlStore

TEXT = b"data: hello\n\ndata: world\n\ndata: !\n\n"


async def on_disk(house: House, path) -> SqlStore:
    """Its store is a database from its next life on."""
    store = await asyncio.to_thread(SqlStore.open, f"sqlite:///{path}")
    house.records, house.ledger = store.records, store.ledger
    return store


def test_a_market_on_disk_survives_the_restart_of_everybody(tmp_path):
    """A purchase over databases is settled; after everybody's restart the balances stand, and the next one works."""
    stores: list[SqlStore] = []

    async def story(town: Town) -> None:
        for name, play in (("operator", None), ("provider", True)):
            house = town.houses[name] = House(town, name, None if play is None else town.playing())
            stores.append(await on_disk(house, tmp_path / f"{name}.db"))
            await house.open()
        operator, provider = town.houses["operator"], town.houses["provider"]
        await town.listed(1)
        bought = await buy(operator)
        assert bought.refusal is None, bought.refusal
        assert bought.text == TEXT
        await town.settled()
        earned = town.available(provider.key.account)
        assert earned > 0
        await provider.kill()
        await operator.kill()
        await operator.open()
        await provider.open()
        await town.listed(1)
        assert town.available(provider.key.account) == earned
        bought = await buy(operator)
        assert bought.refusal is None, bought.refusal
        assert bought.text == TEXT
        await town.settled()
        assert town.available(provider.key.account) == 2 * earned

    async def kept(town: Town) -> None:
        try:
            await story(town)
        finally:
            await town.close()
            for store in stores:
                await store.close()

    simulate(kept, loop_factory=asyncio.SelectorEventLoop)
