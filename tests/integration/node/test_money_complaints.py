"""What users of such markets complain of about money: one test for each complaint, over whole nodes."""

import asyncio

import pytest

from tests.integration.node.doors import Gateway
from tests.integration.node.test_crashes import SHORT
from tests.integration.node.test_disowning import PURSE_MICRO, cut_off
from tests.integration.node.test_purchases import SLOW
from tests.integration.node.town import House, Town, bodies, buy, collect, purchase, settlements, simulate
from tests.unit.rules.world import CLIENT, NOW, PROVIDER, Ledger, make_offer
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import InsufficientCredit, Unavailable
from wwwmarket.domain.quantity import Usage
from wwwmarket.domain.records import Dispute, Settlement, Transfer
from wwwmarket.market.recount import OUTPUT_MARKS
from wwwmarket.node.service import Awarded
from wwwmarket.ports.engine import ResponsePiece
from wwwmarket.simulator.engine import Begin, Break, End, Pause, Say

PIECE = Say(data=b"data: word\n\n")


async def market_of(town: Town, play) -> tuple[House, House]:
    """An operator that buys, and one provider."""
    operator, provider = await town.house("operator", None), await town.house("provider", play)
    await town.listed(1)
    return operator, provider


async def read(house: House, pieces: int, **changes) -> int:
    """Buy, read so many pieces, and close the connection; how many came."""
    answer = house.answers.purchase(purchase(house.key.account, **changes))
    came = 0
    async for event in answer:
        came += isinstance(event, ResponsePiece)
        if came >= pieces:
            break
    await answer.aclose()
    return came


@pytest.mark.parametrize("leaves", [False, True], ids=["the stream ends", "the client disconnects"])
def test_no_balance_stays_reserved_after(leaves):
    """Moments later everything is available again but what was paid."""

    async def story(town: Town) -> None:
        operator, provider = await market_of(town, SLOW)
        before = town.available(operator.key.account)
        if leaves:
            await operator.run(read(operator, 2))
        else:
            assert (await buy(operator)).delivered.outcome == "completed"
        async with asyncio.timeout(10):
            await town.settled()
        balance = town.operator.node.replica.state.account(operator.key.account)
        assert balance.locked_micro == 0
        assert balance.available_micro == before - town.available(provider.key.account) < before

    simulate(story)


@pytest.mark.parametrize(
    "play",
    [(Pause(duration_ms=3_600_000),), (), (Begin(),), (PIECE, Break())],
    ids=["timeout", "nothing", "head", "cut"],
)
def test_a_timeout_or_an_empty_answer_is_not_charged(play):
    """Nor is an answer that its engine broke off: the client hears why, and pays nothing at all."""

    async def story(town: Town) -> None:
        operator, provider = await market_of(town, play)
        before = town.available(operator.key.account)
        assert isinstance((await buy(operator)).refusal, Unavailable)
        await town.settled()
        assert town.available(operator.key.account) == before
        assert town.available(provider.key.account) == 0

    simulate(story)


def test_a_concurrent_top_up_and_refund_lose_no_funds():
    """Forty of them at once, each sent twice under its name: every one is made once."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        _, view = await operator.answers.create_key("ada", 1_000)
        before = town.available(operator.key.account)
        moves = [operator.answers.top_up(view.id, 10 + number, f"up {number}") for number in range(20)]
        moves += [operator.answers.refund(view.id, 5 + number, f"down {number}") for number in range(20)]
        moves += [operator.answers.top_up(view.id, 10 + number, f"up {number}") for number in range(20)]
        moves += [operator.answers.refund(view.id, 5 + number, f"down {number}") for number in range(20)]
        await asyncio.gather(*moves)
        assert town.available(view.account) == 1_000 + 20 * 5
        assert town.available(operator.key.account) == before - 20 * 5

    simulate(story)


@pytest.mark.parametrize(("pieces", "whole"), [(20, True), (200, False)], ids=["long", "longer than its hold"])
def test_a_long_stream_keeps_its_hold_and_is_charged(pieces, whole):
    """One that outlasts the award's time is ended while it can still be settled, and what was delivered is paid."""

    async def story(town: Town) -> None:
        play = (Begin(), *(act for _ in range(pieces) for act in (PIECE, Pause(duration_ms=1_000))))
        operator, provider = await market_of(town, play)
        bought = await buy(operator, max_output_tokens=1_000)
        delivered = bought.delivered
        assert delivered.outcome == ("completed" if whole else "cancelled")
        assert delivered.usage.output_tokens == len(bought.of(ResponsePiece)) > 0
        await town.settled()
        assert town.available(provider.key.account) == delivered.cost_micro > 0

    simulate(story)


def test_streamed_spend_is_recorded_and_trips_the_budget():
    """A key streams until its budget is gone, is then refused with 402's refusal, and never owes."""

    async def story(town: Town) -> None:
        operator, provider = await market_of(town, SLOW)
        _, view = await operator.answers.create_key("ada", 60)
        spent, answers = 0, 0
        while (bought := await buy(operator, operator.node.keyring.pairs(view.id)[0])).refusal is None:
            spent += bought.delivered.cost_micro
            answers += 1
            await town.settled()
            assert town.available(view.account) == 60 - spent >= 0
        assert isinstance(bought.refusal, InsufficientCredit)
        assert 0 < answers < 60
        assert town.available(provider.key.account) == spent

    simulate(story)


def test_the_loser_of_a_hedge_is_not_billed():
    """Two providers were at work on one request, and one answered: the other one is not paid."""

    async def story(town: Town) -> None:
        gateway, winner, other, buying = await cut_off(town)
        bought = await buying
        assert len(bought.of(Awarded)) == 2
        town.network.mend(gateway.id, winner.id)
        await town.settled()
        assert town.available(gateway.key.account) == PURSE_MICRO - bought.delivered.cost_micro
        assert (town.available(winner.key.account), town.available(other.key.account)) == (
            0,
            bought.delivered.cost_micro,
        )

    simulate(story, SHORT)


def test_a_provider_does_not_report_its_own_token_count():
    """Two hundred times what was delivered is attested; what is paid is what came, and a stated tolerance."""

    async def story(town: Town) -> None:
        claimed = Usage(input_tokens=20, cached_input_tokens=0, output_tokens=600)
        operator, _ = await market_of(town, (Begin(), PIECE, PIECE, PIECE, End(usage=claimed)))
        delivered = (await buy(operator, max_output_tokens=1_000)).delivered
        assert delivered.usage.output_tokens <= 3 * len(PIECE.data) + OUTPUT_MARKS < 600
        await town.settled()
        (settlement,) = bodies(operator, Settlement)
        assert settlement.receipt.body.verdict == "disputed"

    simulate(story)


def test_two_sides_agree_on_a_balance_after_a_reconnect():
    """A node that was cut off while its account paid and was paid has the ledger's balance again, by the same root."""

    async def story(town: Town) -> None:
        operator, away = await town.house("operator", None), await town.house("away", None)
        town.network.cut(operator.id, away.id)
        for amount in (500, 70):
            body = Transfer(to=away.key.account, amount_micro=amount)
            await operator.node.author.settle(operator.key.account, body)
        sending = away.spawn(away.node.author.settle(away.key.account, Transfer(to=CLIENT.account, amount_micro=30)))
        await asyncio.sleep(20)
        assert away.node.replica.state.account(away.key.account) == Account()
        town.network.mend(operator.id, away.id)
        await asyncio.wait((sending,))
        await town.until(lambda: away.node.replica.size == operator.node.replica.size)
        assert away.node.replica.state.root() == operator.node.replica.state.root()
        assert town.available(away.key.account) == 540

    simulate(story)


@pytest.mark.parametrize("killed", [False, True], ids=["in order", "at once"])
def test_work_is_paid_after_the_client_s_ctrl_c(killed):
    """The gateway ends in the middle of an answer: what its provider had delivered by then is paid, once."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        gateway, provider = await town.house("gateway", None), await town.house("provider", SLOW)
        await town.listed(1)
        body = Transfer(to=gateway.key.account, amount_micro=PURSE_MICRO)
        await operator.node.author.settle(operator.key.account, body)
        nodes = (gateway.node, provider.node)
        await town.until(lambda: all(n.replica.state.account(gateway.key.account).available_micro for n in nodes))
        gateway.spawn(collect(gateway.answers.purchase(purchase(gateway.key.account))))
        await town.until(lambda: bool(provider.engine.requests))
        await asyncio.sleep(0.5)
        await (gateway.kill() if killed else gateway.close())
        gateway.life.over = True
        await town.settled()
        paid = town.available(provider.key.account)
        assert 0 < paid == PURSE_MICRO - town.available(gateway.key.account)
        assert set(settlements(operator).values()) == {1}

    simulate(story, SHORT)


def test_an_honest_node_is_not_punished_after_an_outage():
    """An award that it never heard of is disputed; back in time it answers with a failure, and no silence is on record."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider = await town.house("provider")
        gateway = await Gateway.made(town, provider)
        bid = gateway.bid()
        now_ms = town.clock.now_ms()
        terms = gateway.award(bid, await gateway.ask(bid), claim_after_ms=now_ms + 5_000, expires_ms=now_ms + 60_000)
        award = gateway.entry(terms)
        await gateway.submit(award)
        await provider.kill()
        await asyncio.sleep(7)
        await gateway.submit(gateway.entry(Dispute(award=award.id)))
        await asyncio.sleep(7)
        assert operator.node.replica.state.awards()[award.id].disputed_ms is not None
        await provider.open()
        await town.until(lambda: not operator.node.replica.state.awards())
        assert town.clock.now_ms() < terms.expires_ms
        (settlement,) = bodies(operator, Settlement)
        assert settlement.attestation.body.outcome == "failed"
        await gateway.close()

    simulate(story)


def test_one_penalty_does_not_eject_all_of_a_provider_s_nodes():
    """It takes a twentieth of the bond of the offer that was silent; its other offers and their bonds stand."""
    ledger = Ledger.begun()
    offers = ledger.list_offers()
    others = [ledger.submit(PROVIDER, make_offer()).checked.id for _ in range(3)]
    award = ledger.award(offers)
    ledger.mark(NOW + 60_000)
    ledger.submit(CLIENT, Dispute(award=award))
    ledger.mark(NOW + 120_000)
    state = ledger.state
    assert state.offer(offers[0]).bonded_micro == 5_000 - 250
    assert [state.offer(offer).bonded_micro for offer in others] == [5_000] * 3
    assert state.account(PROVIDER.account).bonded_micro == 4 * 5_000 - 250
