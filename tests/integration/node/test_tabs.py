"""Whole nodes that buy over tabs: two entries however many requests, and nobody loses anything when somebody dies."""

import asyncio
from dataclasses import replace

import pytest

from tests.integration.node.test_crashes import PLAY, SHORT, WHOLE
from tests.integration.node.test_purchases import pay
from tests.integration.node.town import House, Town, bodies, buy, collect, dearer, purchase, simulate
from wwwmarket.config import LOCAL, NodeConfig, TabConfig
from wwwmarket.domain.errors import Conflict, NotFound, Unavailable
from wwwmarket.domain.records import Award, Settlement, TabOpening, TabSettlement
from wwwmarket.market.tab import verify_proof
from wwwmarket.node.tab_records import BOUGHT_WORK, SOLD_WORK
from wwwmarket.simulator.engine import Begin, Pause, Say

TABS = TabConfig(lock_micro=100_000, accepted=True, life_ms=600_000)
PURSE_MICRO = 1_000_000


def with_tabs(config: NodeConfig, **changes) -> NodeConfig:
    return replace(config, tabs=replace(TABS, **changes))


async def market(town: Town, *plays) -> tuple[House, ...]:
    """An operator, a gateway with credits, and providers, each dearer than the one before."""
    operator, gateway = await town.house("operator", None), await town.house("gateway", None)
    names = ("provider", "dear")[: len(plays)]
    houses = [
        await town.house(name, play, prices=dearer(at), sequences=16)
        for at, name, play in zip((1, 2), names, plays, strict=False)
    ]
    await town.listed(len(plays))
    await pay(operator, gateway.key.account, PURSE_MICRO)
    await town.until(
        lambda: all(
            house.node.replica.state.account(gateway.key.account).available_micro == PURSE_MICRO
            for house in town.houses.values()
        )
    )
    return (gateway, *houses)


async def all_settled(town: Town) -> None:
    """No tab and no award is open, and no credit is lost."""
    state = town.operator.node.replica.state
    await town.until(lambda: not state.tabs() and not state.awards(), 900_000)
    await town.settled()


def tabs_of(town: Town) -> tuple[int, int, int, int]:
    """Entries of each kind: tabs opened and settled, awards and settlements."""
    return tuple(len(bodies(town.operator, kind)) for kind in (TabOpening, TabSettlement, Award, Settlement))


def test_many_requests_leave_two_entries():
    """The first opens the tab; once both are through with it, its provider settles it for what all answers came to."""

    async def story(town: Town) -> None:
        gateway, provider = await market(town, PLAY)
        costs = []
        for _ in range(12):
            bought = await buy(gateway)
            assert bought.text == WHOLE
            costs.append(bought.delivered.cost_micro)
        bought = await asyncio.gather(*(buy(gateway) for _ in range(3)))
        costs += [one.delivered.cost_micro for one in bought]
        await gateway.run(gateway.node.tabs_bought.leave())
        await all_settled(town)
        assert tabs_of(town) == (1, 1, 0, 0)
        assert town.available(provider.key.account) == sum(costs) > 0
        assert town.available(gateway.key.account) == PURSE_MICRO - sum(costs)
        (settled,) = bodies(town.operator, TabSettlement)
        assert settled.voucher.body.count == 15
        assert await provider.records.scan(SOLD_WORK) == await gateway.records.scan(BOUGHT_WORK) == []

    simulate(story, with_tabs(LOCAL))


def test_each_answer_is_provable_against_what_was_settled():
    """Its proof leads from both sides' words to the root on the ledger; and its award is told as settled."""

    async def story(town: Town) -> None:
        gateway, provider = await market(town, PLAY)
        bought = [await buy(gateway) for _ in range(5)]
        opened = next(iter(town.operator.node.replica.state.tabs().values()))
        names = [one.delivered.award for one in bought]
        assert [(await gateway.answers.explain(name)).status for name in names] == ["open"] * 5
        await gateway.run(gateway.node.tabs_bought.leave())
        await all_settled(town)
        await town.until(lambda: gateway.node.replica.size == town.operator.node.replica.size)
        (settled,) = bodies(town.operator, TabSettlement)
        state = town.operator.node.replica.state
        paid = 0
        for name in names:
            proof = await gateway.answers.tab_proof(name)
            paid += verify_proof(
                proof, opened, settled.voucher.body, state.rules.settlement, state.account_of
            ).paid_micro
            view = await gateway.answers.receipt(name)
            assert (view.tab, view.settlement_index is None) == (settled.tab, False)
            assert (await gateway.answers.explain(name)).status == "settled"
        assert paid == settled.voucher.body.paid_micro == town.available(provider.key.account)
        with pytest.raises(NotFound):
            await gateway.answers.tab_proof(settled.tab)

    simulate(story, with_tabs(LOCAL))


def test_what_a_tab_has_no_room_for_is_settled_by_itself():
    """Nine at once: eight under the tab, one beside it; and who accepts no tab is bought from as ever."""

    async def story(town: Town) -> None:
        gateway, _ = await market(town, (Begin(), Pause(duration_ms=500), Say(data=b"data: one\n\n")))
        bought = await asyncio.gather(*(buy(gateway) for _ in range(9)))
        assert all(one.text for one in bought)
        await gateway.run(gateway.node.tabs_bought.leave())
        await all_settled(town)
        assert tabs_of(town) == (1, 1, 1, 1)

    async def unwilling(town: Town) -> None:
        gateway, provider = await market(town, PLAY)
        provider.node.selling.desk.config = with_tabs(LOCAL, accepted=False)
        for _ in range(2):
            assert (await buy(gateway)).text == WHOLE
        await all_settled(town)
        assert tabs_of(town) == (0, 0, 2, 2)

    simulate(story, with_tabs(LOCAL))
    simulate(unwilling, with_tabs(LOCAL))


def test_a_spent_tab_is_settled_and_another_one_opened():
    """Nobody has to say so: the client asks its provider to settle what is full."""

    async def story(town: Town) -> None:
        gateway, provider = await market(town, PLAY)
        spent = 0
        while len(bodies(town.operator, TabOpening)) < 3:
            spent += (await buy(gateway)).delivered.cost_micro
        await gateway.run(gateway.node.tabs_bought.leave())
        await all_settled(town)
        assert tabs_of(town) == (3, 3, 0, 0)
        assert town.available(provider.key.account) == spent

    simulate(story, with_tabs(LOCAL, lock_micro=200, awards_min=2))


def test_a_provider_settles_a_tab_before_it_ends_by_itself():
    """Its client is gone for good, and the ledger's time stands still where nobody writes."""

    async def story(town: Town) -> None:
        gateway, provider = await market(town, PLAY)
        cost = sum([(await buy(gateway)).delivered.cost_micro for _ in range(3)])
        await asyncio.sleep(1)
        await gateway.kill()
        await all_settled(town)
        assert tabs_of(town) == (1, 1, 0, 0)
        assert town.available(provider.key.account) == cost

    simulate(story, with_tabs(LOCAL))


def test_a_client_that_says_nothing_any_more_pays_by_its_awards():
    """Its vouchers never come: the provider claims what it attested, in full, before the tab ends."""

    async def story(town: Town) -> None:
        gateway, provider = await market(town, PLAY)

        async def silent(*_: object) -> None:
            raise Unavailable("it says nothing", retry_after_ms=1_000)

        gateway.node.tabs_bought._tell_next = silent
        cost = sum([(await buy(gateway)).delivered.cost_micro for _ in range(3)])
        await all_settled(town)
        (settled,) = bodies(town.operator, TabSettlement)
        assert (settled.voucher, len(settled.unvouched)) == (None, 3)
        assert town.available(provider.key.account) == cost

    simulate(story, with_tabs(LOCAL))


def test_a_provider_that_takes_no_voucher_gets_no_second_tab():
    """It can claim what is at work under the first, in full; what is bought from it later is settled one by one."""

    async def story(town: Town) -> None:
        gateway, provider = await market(town, PLAY)

        async def stubborn(_: object) -> None:
            raise Conflict("no")

        provider.node.tabs_sold.vouched = stubborn
        for _ in range(3):
            assert (await buy(gateway)).text == WHOLE
            await asyncio.sleep(1)
        await all_settled(town)
        assert tabs_of(town) == (1, 1, 2, 2)

    simulate(story, with_tabs(LOCAL))


def test_the_loser_of_a_failover_under_a_tab_is_not_paid_for_what_never_came():
    """Cut off with its first tokens under way: the client pays the other alone, and the place is free again."""

    async def story(town: Town) -> None:
        slow = (Begin(), Pause(duration_ms=300), Say(data=b"data: hello\n\n"), Pause(duration_ms=5_000))
        gateway, provider, dear = await market(town, slow, PLAY)
        buying = gateway.spawn(collect(gateway.answers.purchase(purchase(gateway.key.account))))
        await town.until(lambda: bool(provider.engine.requests))
        town.network.cut(gateway.id, provider.id)
        bought = await buying
        assert bought.text == WHOLE
        await asyncio.sleep(2)
        town.network.mend(gateway.id, provider.id)
        await town.until(lambda: not gateway.node.tabs_bought.at_work)
        await gateway.run(gateway.node.tabs_bought.leave())
        await all_settled(town)
        assert town.available(provider.key.account) == 0
        assert town.available(dear.key.account) == bought.delivered.cost_micro
        assert town.available(gateway.key.account) == PURSE_MICRO - bought.delivered.cost_micro

    simulate(story, with_tabs(SHORT))


async def crash_at(town: Town, phase: str, name: str, writes: int, *, after: bool) -> bool:
    """Buy, and end the tab; the victim dies at one of its writes, comes back, and all is paid as it was delivered."""
    gateway, provider = await market(town, PLAY)
    before = 0 if phase == "first" else 1
    for _ in range(before):
        assert (await buy(gateway)).text == WHOLE
        await asyncio.sleep(1)
    victim = town.houses[name]
    victim.life.aim(writes, after=after)
    doing = collect(gateway.answers.purchase(purchase(gateway.key.account)))
    buying = gateway.spawn(gateway.node.tabs_bought.leave() if phase == "ending" else doing)
    dying = asyncio.ensure_future(victim.died.wait())
    await asyncio.wait((dying,), timeout=20)
    dying.cancel()
    died = victim.died.is_set()
    victim.life.spare()
    if died:
        await victim.kill()
        await asyncio.sleep(0.5)
        await victim.open()
    await asyncio.wait((buying,), timeout=60)
    doing.close()
    await town.listed(1)
    last = await buy(gateway)
    assert last.text == WHOLE
    await asyncio.sleep(1)
    await gateway.run(gateway.node.tabs_bought.leave())
    await all_settled(town)
    openings, settled, _, _ = tabs_of(town)
    assert openings == settled, "no tab ran into its end unsettled"
    earned, cost = town.available(provider.key.account), last.delivered.cost_micro
    assert town.available(gateway.key.account) == PURSE_MICRO - earned
    refused = phase != "ending" and not buying.cancelled() and buying.result().refusal is not None
    most = before + 1 + (phase != "ending" and not refused)
    assert (before + 1) * cost <= earned <= most * cost, "what was delivered is paid once, and what was not never"
    return died


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("phase", "name", "writes"),
    [
        *(("first", "gateway", writes) for writes in range(1, 5)),
        *(("first", "provider", writes) for writes in range(1, 6)),
        *(("later", "gateway", writes) for writes in range(1, 4)),
        *(("later", "provider", writes) for writes in range(1, 5)),
        *(("ending", "gateway", writes) for writes in range(1, 3)),
        *(("ending", "provider", writes) for writes in range(1, 4)),
    ],
)
def test_a_tab_survives_a_crash_at_each_write(phase, name, writes, after):
    """Client or provider killed at any write of a tab's life: nothing is lost, and nothing paid twice or for nothing."""
    died = []

    async def story(town: Town) -> None:
        died.append(await crash_at(town, phase, name, writes, after=after))

    simulate(story, with_tabs(SHORT))
    assert died == [True], "that write never came: the range is too long"
