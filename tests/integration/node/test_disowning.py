"""A winner whose answer never came is told so, and does not claim what its client had to buy from another."""

import asyncio

import pytest

from tests.integration.node.doors import Gateway, attestation_in
from tests.integration.node.test_crashes import SHORT
from tests.integration.node.test_purchases import pay
from tests.integration.node.town import House, Town, collect, dearer, purchase, settlements, simulate
from tests.unit.rules.world import STRANGER, consent, key, make_receipt
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.errors import Conflict, Forbidden, NotFound, Unauthorised
from wwwmarket.domain.keys import Rotation
from wwwmarket.domain.quantity import NO_USAGE
from wwwmarket.node.disowning import DISOWNED, DisownedAward
from wwwmarket.node.messages import ReceiptGiven
from wwwmarket.node.service import Awarded
from wwwmarket.simulator.engine import HELLO, Begin, Pause, Say

SLOW_TO_BEGIN = (Begin(), Pause(duration_ms=300), Say(data=b"data: hello\n\n"), Pause(duration_ms=5_000))
PURSE_MICRO = 1_000_000


async def cut_off(town: Town) -> tuple[House, House, House, "asyncio.Task"]:
    """A gateway, its winner and the next-best; the winner sends its first token into a cut, and the other answers."""
    operator, gateway = await town.house("operator", None), await town.house("gateway", None)
    winner, other = await town.house("winner", SLOW_TO_BEGIN), await town.house("other", HELLO, prices=dearer(2))
    await town.listed(2)
    await pay(operator, gateway.key.account, PURSE_MICRO)
    account, houses = gateway.key.account, town.houses.values()
    await town.until(
        lambda: all(house.node.replica.state.account(account).available_micro == PURSE_MICRO for house in houses)
    )
    buying = gateway.spawn(collect(gateway.answers.purchase(purchase(account))))
    await town.until(lambda: bool(winner.engine.requests))
    town.network.cut(gateway.id, winner.id)
    return gateway, winner, other, buying


def test_the_loser_of_a_failover_is_not_paid_for_what_never_came():
    """Cut off with its first tokens under way, the first winner claims nothing; the client pays the other alone."""

    async def story(town: Town) -> None:
        gateway, winner, other, buying = await cut_off(town)
        bought = await buying
        assert [awarded.provider for awarded in bought.of(Awarded)] == [winner.key.account, other.key.account]
        await asyncio.sleep(2)
        town.network.mend(gateway.id, winner.id)
        await town.settled()
        assert town.available(winner.key.account) == 0
        assert town.available(other.key.account) == bought.delivered.cost_micro
        assert town.available(gateway.key.account) == PURSE_MICRO - bought.delivered.cost_micro
        assert await gateway.records.scan(DISOWNED) == []
        assert set(settlements(town.operator).values()) == {1}

    simulate(story, SHORT)


def test_a_gateway_that_dies_tells_the_loser_when_it_is_back():
    """The receipt of nothing is kept before it is sent, and sent until it is taken."""

    async def story(town: Town) -> None:
        gateway, winner, _, buying = await cut_off(town)
        bought = await buying
        assert len(await gateway.records.scan(DISOWNED)) == 1
        await gateway.kill()
        town.network.mend(gateway.id, winner.id)
        await gateway.open()
        await town.settled()
        assert town.available(winner.key.account) == 0
        assert town.available(gateway.key.account) == PURSE_MICRO - bought.delivered.cost_micro

    simulate(story, SHORT)


def test_a_receipt_of_nothing_is_signed_anew_when_its_client_rotated():
    """The ledger takes no word of a replaced key: the winner is told under the one in its place, and claims nothing."""

    async def story(town: Town) -> None:
        gateway, winner, other, buying = await cut_off(town)
        bought = await buying
        (kept,) = await gateway.records.scan(DISOWNED)
        following, account = key("the gateway's next key"), gateway.key.account
        rotation = Rotation(account=account, consent=consent(following, gateway.key))
        await gateway.run(gateway.node.author.settle(account, rotation))
        await town.until(lambda: winner.node.replica.state.owned_by(following.account) == account)
        stale = ReceiptGiven(receipt=canonical.decode(kept[1], DisownedAward).receipt)
        with pytest.raises(Unauthorised):
            await winner.node.selling.disowned(stale)
        gateway.node.author.add_key(following)
        town.network.mend(gateway.id, winner.id)
        await town.settled()
        assert await gateway.records.scan(DISOWNED) == []
        assert town.available(winner.key.account) == 0
        assert town.available(account) == PURSE_MICRO - bought.delivered.cost_micro
        assert town.available(other.key.account) == bought.delivered.cost_micro

    simulate(story, SHORT)


def test_a_client_that_rotates_away_from_its_receipt_pays_all_the_same():
    """The ledger takes the receipt no more; its provider claims alone when the time has come."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        provider = await town.house("provider", (Begin(), Say(data=b"data: hello\n\n")))
        gateway = await Gateway.made(town, provider)
        stream = await gateway.open_stream(await gateway.opening())
        given = attestation_in(await gateway.hear(stream))
        await gateway.send(stream, ReceiptGiven(receipt=gateway.receipt(given, usage=NO_USAGE)))
        claims = provider.node.selling.desk.claims
        await town.until(lambda: bool(claims.open))
        body = Rotation(account=gateway.client.account, consent=consent(key("next"), gateway.client))
        await gateway.submit(gateway.entry(body))
        await town.settled()
        assert town.available(provider.key.account) > 0
        await town.until(lambda: not claims.open)

    simulate(story, SHORT)


def test_a_stranger_disowns_nothing():
    """Who is not the award's client, or says so of another's award, changes no claim; nor does what is not open."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        provider = await town.house("provider", (Begin(), Say(data=b"data: hello\n\n")))
        gateway = await Gateway.made(town, provider)
        stream = await gateway.open_stream(await gateway.opening())
        given = attestation_in(await gateway.hear(stream))
        receipt = gateway.receipt(given)
        await town.until(lambda: bool(provider.node.replica.state.awards()))
        stranger = signing.sign(STRANGER, receipt.body).signed
        with pytest.raises(Forbidden):
            await provider.node.selling.disowned(ReceiptGiven(receipt=stranger))
        with pytest.raises(NotFound):
            await provider.node.selling.disowned(ReceiptGiven(receipt=gateway.receipt(given, award="0" * 64)))
        nothing = gateway.receipt(given, usage=NO_USAGE)
        await provider.node.selling.disowned(ReceiptGiven(receipt=nothing))
        await town.settled()
        assert town.available(provider.key.account) == 0

    simulate(story, SHORT)


def test_what_is_at_work_is_disowned_once_it_has_ended():
    """A receipt that comes before the attestation is asked for again."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        provider = await town.house("provider", SLOW_TO_BEGIN)
        gateway = await Gateway.made(town, provider)
        await gateway.open_stream(await gateway.opening())
        await town.until(lambda: bool(provider.engine.requests))
        await town.until(lambda: bool(provider.node.replica.state.awards()))
        (award,) = provider.node.replica.state.awards()
        nothing = make_receipt(gateway.client, award, usage=NO_USAGE).signed
        with pytest.raises(Conflict):
            await provider.node.selling.disowned(ReceiptGiven(receipt=nothing))

    simulate(story, SHORT)
