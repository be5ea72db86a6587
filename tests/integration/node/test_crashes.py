"""Nodes killed at each write of a purchase, before it and after it: nothing is paid twice, nothing stays locked."""

import asyncio
from dataclasses import replace

import pytest

from tests.integration.node.doors import Gateway, attestation_in
from tests.integration.node.town import CREDITS_MICRO, Town, buy, collect, dearer, purchase, settlements, simulate
from wwwmarket.config import LOCAL
from wwwmarket.domain.errors import Conflict, Unavailable
from wwwmarket.node.messages import ReceiptGiven
from wwwmarket.simulator.engine import Begin, Pause, Say

SHORT = replace(
    LOCAL,
    execution=replace(LOCAL.execution, bound_base_ms=3_000, claim_after_ms=1_000, claim_window_ms=8_000),
)
"""Locks that fall after seconds."""
PLAY = (Begin(), Say(data=b"data: one\n\n"), Pause(duration_ms=50), Say(data=b"data: two\n\n"))
WHOLE = b"data: one\n\ndata: two\n\n"


async def check_the_books(town: Town) -> None:
    """Everything is unlocked, each award settled at most once, and all credits are where somebody has them."""
    await town.settled()
    assert set(settlements(town.operator).values()) <= {1}
    state = town.operator.node.replica.state
    accounts = [state.account(house.key.account) for house in town.houses.values()]
    assert sum(account.available_micro + account.locked_micro for account in accounts) == CREDITS_MICRO
    await town.until(
        lambda: all(house.node.replica.state.root() == state.root() for house in town.houses.values()), 60_000
    )


async def crash_during_a_purchase(town: Town, name: str, writes: int, *, after: bool) -> bool:
    """Whether the victim lived long enough to die at that write; whichever, the books are in order in the end."""
    operator = await town.house("operator", None)
    await town.house("cheap", PLAY)
    await town.house("dear", PLAY, prices=dearer(2))
    await town.listed(2)
    victim = town.houses[name]
    victim.life.aim(writes, after=after)
    buying = operator.spawn(collect(operator.answers.purchase(purchase(operator.key.account))))
    dying = asyncio.ensure_future(victim.died.wait())
    await asyncio.wait((buying, dying), return_when=asyncio.FIRST_COMPLETED)
    with_time = asyncio.ensure_future(asyncio.sleep(30))
    await asyncio.wait((dying, with_time), return_when=asyncio.FIRST_COMPLETED)
    with_time.cancel()
    dying.cancel()
    died = victim.died.is_set()
    victim.life.spare()
    if died:
        await victim.kill()
        await asyncio.sleep(0.5)
        await victim.open()
    await asyncio.wait((buying,))
    if victim is not operator:
        bought = buying.result()
        assert bought.text == WHOLE or isinstance(bought.refusal, Unavailable)  # it died after its first token
    await check_the_books(town)
    await town.listed(2)
    assert (await buy(operator)).text == WHOLE
    await check_the_books(town)
    return died


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("name", "writes"),
    [*(("operator", writes) for writes in range(1, 7)), *(("cheap", writes) for writes in range(1, 9))],
)
def test_a_purchase_survives_a_crash_at_each_write(name, writes, after):
    """Operator or winner killed at any write: at most one settlement an award, nothing locked, credits conserved."""
    died = []

    async def story(town: Town) -> None:
        died.append(await crash_during_a_purchase(town, name, writes, after=after))

    simulate(story, SHORT)
    assert died == [True], "that write never came: the range is too long"


def test_a_provider_claims_after_its_restart():
    """The answer is out and attested, the client silent, the provider killed: it comes back and is paid once."""

    async def story(town: Town) -> None:
        operator, provider = await town.house("operator", None), await town.house("provider", PLAY)
        await town.listed(1)
        provider.node.selling.desk.config = SHORT
        operator.node.settle = operator.node.buying.purse.settle = lambda _account, _settlement: None
        bought = await buy(operator)
        assert bought.text == WHOLE
        await provider.kill()
        await provider.open()
        assert provider.node.selling.desk.claims.open
        await town.settled()
        assert town.available(provider.key.account) == bought.delivered.cost_micro
        assert settlements(operator) == {bought.delivered.award: 1}
        await town.until(lambda: not provider.node.selling.desk.claims.open)

    simulate(story, SHORT)


def test_an_award_is_not_executed_again_after_a_restart():
    """A settled award shown to its provider once more, in its next life, is refused: nobody pays for it."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        provider = await town.house("provider", PLAY)
        gateway = await Gateway.made(town, provider)
        opening = await gateway.opening()
        stream = await gateway.open_stream(opening)
        given = attestation_in(await gateway.hear(stream))
        await gateway.send(stream, ReceiptGiven(receipt=gateway.receipt(given)))
        await town.settled()
        await town.until(lambda: not provider.node.selling.desk.claims.open)
        await asyncio.sleep(1)
        await provider.kill()
        await provider.open()
        with pytest.raises(Conflict, match="closed"):
            await provider.node.selling.execute(gateway.dead_stream(), opening)
        assert len(provider.engine.requests) == 1

    simulate(story, SHORT)


def test_a_node_that_never_started_closes():
    """A stored log that is not what its checkpoint says is refused at the start, and the node still closes."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.until(lambda: operator.answers.status().checkpoint_size > 0)
        await operator.close()
        operator.ledger._leaves.pop()
        with pytest.raises(Conflict, match="ends at"):
            await operator.open()

    simulate(story)


def test_the_tail_of_a_log_is_covered_after_a_restart():
    """Entries that no checkpoint covered when the operator died are covered when it comes back, without new ones."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await operator.answers.create_key("for tests", 1_000)
        await operator.kill()
        await operator.open()
        status = operator.answers.status
        await town.until(lambda: status().checkpoint_size == status().ledger_size, 2_000)

    simulate(story)


def test_an_idle_log_does_not_grow():
    """Without entries and without open awards no mark is made."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider", PLAY)
        await town.listed(1)
        await asyncio.sleep(1)
        size = operator.node.replica.size
        await asyncio.sleep(600)
        assert operator.node.replica.size == size

    simulate(story)
