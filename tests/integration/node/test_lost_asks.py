"""What providers learn of auctions that they lost, and what a lying auctioneer leaves in their hands."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.integration.node.test_own_signature import CLIENT, accept, leaf, proposal
from tests.integration.node.town import REGISTRY, House, Town, bodies, buy, dearer, simulate
from tests.unit.rules.world import key
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest
from wwwmarket.domain.errors import Conflict, NotFound, Refusal
from wwwmarket.domain.records import AsksReceived, Award, Transfer
from wwwmarket.market.evidence import judge
from wwwmarket.node import messages, reviewing
from wwwmarket.node.reviewing import EVIDENCE, OUTCOME
from wwwmarket.simulator.engine import Begin, Break, Pause

RULE = REGISTRY.current.award


async def street(town: Town, **plays) -> tuple[House, House]:
    """An operator that buys, a cheap provider and a dear one."""
    await town.house("operator", None)
    cheap = await town.house("cheap", *([plays["cheap"]] if "cheap" in plays else []))
    dear = await town.house("dear", prices=dearer(3))
    await town.listed(2)
    return cheap, dear


async def concluded(town: Town, house: House, asks: int = 1):
    """What a provider knows once so many asks have a verdict, and all of it is kept."""
    await town.until(lambda: house.answers.asks(10).asks == asks)
    await asyncio.sleep(70)
    return house.answers.asks(10)


def lie(house: House, *, listed: bool) -> None:
    """The best ask never wins; ``listed``: it is in the award's list."""
    honest = house.node.buying.hold_auction

    async def hold_auction(bid, preferences):
        decision = await honest(bid, preferences)
        best, *others = decision.decided.standings
        digests = tuple(name for name in decision.decided.digests if listed or name != best.digest)
        return replace(decision, decided=replace(decision.decided, standings=tuple(others), digests=digests))

    house.node.buying.hold_auction = hold_auction


def name_of_award(house: House):
    """The only award in a node's stored ledger."""
    entries = [signing.open_entry(leaf) for leaf in house.ledger._leaves]
    (name,) = [entry.id for entry in entries if b'"award/v1","locked_micro"' in entry.leaf]
    return name


def test_an_honest_auctioneer_leaves_no_evidence():
    """One has won, the other has lost by the difference of both scores, and that outlives a restart."""

    async def story(town: Town) -> None:
        cheap, dear = await street(town)
        assert (await buy(town.operator)).delivered.provider == cheap.key.account
        won, lost = await concluded(town, cheap), await concluded(town, dear)
        (award,) = bodies(dear, Award)
        (outcome,) = lost.latest
        assert (won.verdicts, lost.verdicts) == ({"won": 1}, {"lost": 1})
        assert outcome.winner_score == RULE.score(award.bid, award.winner.body)
        assert outcome.score == RULE.score(award.bid, award.runner_up.body)
        assert lost.median_gap_micro == outcome.score - outcome.winner_score > 0
        assert won.evidence == lost.evidence == ()
        assert dear.answers.counters().counters["asks_lost_total"] == 1
        await dear.kill()
        await dear.open()
        assert dear.answers.asks(10) == lost

    simulate(story)


@pytest.mark.parametrize(("listed", "fault"), [(False, "omitted"), (True, "outbid")])
def test_a_lying_auctioneer_is_caught(listed, fault):
    """The provider holds evidence that anybody accepts, and it outlives a restart."""

    async def story(town: Town) -> None:
        cheap, dear = await street(town)
        lie(town.operator, listed=listed)
        assert (await buy(town.operator)).delivered.provider == dear.key.account
        known = await concluded(town, cheap)
        assert (known.verdicts, known.evidence) == ({fault: 1}, (known.latest[0].ask,))
        await cheap.kill()
        await cheap.open()
        proven = judge(await cheap.answers.evidence(known.evidence[0]), RULE)
        assert (proven.fault, proven.auctioneer, proven.provider) == (fault, town.operator.id, cheap.key.account)
        assert (await concluded(town, dear)).verdicts == {"won": 1}
        with pytest.raises(NotFound):
            await cheap.answers.evidence("0" * 64)

    simulate(story)


def test_an_auctioneer_that_sends_no_receipt_is_not_accused():
    """The ask is unacknowledged: there is something to wonder about, and nothing to show."""

    async def story(town: Town) -> None:
        cheap, _ = await street(town)
        lie(town.operator, listed=False)
        town.operator.node.buying.purse.acknowledge = lambda *_: None
        await buy(town.operator)
        known = await concluded(town, cheap)
        assert (known.verdicts, known.evidence) == ({"unacknowledged": 1}, ())

    simulate(story)


def test_a_failover_is_no_fault():
    """The first winner breaks, the next-best is awarded: nobody was wronged, and the second has won."""

    async def story(town: Town) -> None:
        broken = (Begin(), Pause(duration_ms=10), Break())
        cheap, dear = await street(town, cheap=broken)
        assert (await buy(town.operator)).delivered.provider == dear.key.account
        first, second = await concluded(town, cheap), await concluded(town, dear)
        assert (first.verdicts, second.verdicts) == ({"won": 1}, {"won": 1})
        assert first.evidence == second.evidence == ()

    simulate(story)


def test_a_node_learns_of_its_own_auctions():
    """Who buys and sells at one node is told without the network."""

    async def story(town: Town) -> None:
        await town.house("operator")
        await town.listed(1)
        await buy(town.operator)
        assert (await concluded(town, town.operator)).verdicts == {"won": 1}

    simulate(story)


async def own_proposal(town: Town):
    """What the auction comes to for a client that signs for itself."""
    operator = town.operator
    await operator.node.author.settle(operator.key.account, Transfer(to=CLIENT.account, amount_micro=1_000_000))
    houses = town.houses.values()
    await town.until(lambda: all(house.node.replica.state.account(CLIENT.account).available_micro for house in houses))
    return await proposal(town, operator)


def test_a_client_cannot_leave_an_ask_out():
    """Its auctioneer would stand behind it: the award is refused, and nothing is spent."""

    async def story(town: Town) -> None:
        _, dear = await street(town)
        award = await own_proposal(town)
        award = replace(award, asks=award.asks[:1], runner_up=None)
        refusal = (await accept(town.operator, leaf(town.operator, award))).refusal
        assert isinstance(refusal, Conflict)
        assert "does not list the asks" in refusal.message
        assert dear.engine.requests == []

    simulate(story)


def test_a_clients_other_choice_is_not_its_auctioneers_fault():
    """The auctioneer signs for the asks, and stands behind no award: the better ask can prove nothing."""

    async def story(town: Town) -> None:
        cheap, dear = await street(town)
        award = await own_proposal(town)
        listed = dear.node.replica.state.offer(award.runner_up.body.offer).offer
        clearing = RULE.clear(award.bid, award.runner_up.body, listed, None)
        chosen = replace(
            award,
            winner=award.runner_up,
            runner_up=None,
            prices=clearing.prices,
            locked_micro=clearing.locked_micro,
        )
        bought = await accept(town.operator, leaf(town.operator, chosen))
        assert bought.delivered.provider == dear.key.account
        known = await concluded(town, cheap)
        assert (known.verdicts, known.evidence) == ({"unproven": 1}, ())

    simulate(story)


def test_receipts_by_others_are_not_taken():
    """Not handed over by the auctioneer, not signed by it, or about bids unknown here: nothing changes."""

    async def story(town: Town) -> None:
        cheap, _ = await street(town)
        lie(town.operator, listed=False)
        town.operator.node.buying.purse.acknowledge = lambda *_: None
        await buy(town.operator)
        (award,) = bodies(town.operator, Award)
        asked = tuple(cheap.node.reviewing._machine._asks)
        received = AsksReceived(bid=digest(award.bid), asks=asked, award=name_of_award(town.operator), at_ms=0)
        stranger, auctioneer = key("stranger"), town.operator.key
        good = signing.sign(auctioneer, received).signed

        async def told(peer, receipt):
            message = canonical.encode(messages.Acknowledge(receipts=(receipt,)))
            return messages.read_answer(await cheap.node._on_request(peer, message))

        forged = replace(good, signature=signing.sign(stranger, received).signed.signature)
        assert (await told(auctioneer.account, forged)).code == "unauthorised"
        await told(auctioneer.account, signing.sign(stranger, received).signed)
        await told(auctioneer.account, signing.sign(auctioneer, replace(received, bid="0" * 64)).signed)
        await told(stranger.account, good)
        assert cheap.answers.asks(10).asks == 0
        await told(auctioneer.account, good)
        assert (await concluded(town, cheap)).verdicts == {"omitted": 1}

    simulate(story)


def test_a_bid_put_by_another_than_its_auctioneer_is_not_remembered():
    """Rivals see bids, and cannot crowd out the asks that count."""

    async def story(town: Town) -> None:
        cheap, dear = await street(town)
        heard = []
        answer = dear.node.selling.answer
        dear.node.selling.answer = lambda request: heard.append(request) or answer(request)
        await buy(town.operator)
        (request,) = heard
        before = list(cheap.node.reviewing._machine._asks)
        (offer,) = cheap.node.selling.desk.seller.offers
        stolen = canonical.encode(replace(request, offer=offer))
        assert isinstance(messages.read_answer(await cheap.node._on_request(dear.id, stolen)), messages.AskAnswer)
        assert list(cheap.node.reviewing._machine._asks) == before

    simulate(story)


def test_who_sells_nothing_has_nothing_to_look_back_on():
    """Receipts are refused, and there are no asks to show."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        message = canonical.encode(messages.Acknowledge(receipts=()))
        assert messages.read_answer(await operator.node._on_request(operator.id, message)).code == "not_found"
        with pytest.raises(Refusal):
            operator.answers.asks(1)

    simulate(story)


def test_what_is_kept_is_bounded(monkeypatch):
    """The oldest outcomes and evidence give way, on disk as well."""
    monkeypatch.setattr(reviewing, "OUTCOMES_KEPT_MAX", 2)
    monkeypatch.setattr(reviewing, "EVIDENCE_KEPT_MAX", 2)

    async def story(town: Town) -> None:
        cheap, _ = await street(town)
        lie(town.operator, listed=False)
        for _ in range(4):
            await buy(town.operator)
        await asyncio.sleep(70)
        known = cheap.answers.asks(10)
        assert (known.asks, len(known.evidence)) == (2, 2)
        assert len(await cheap.records.scan(OUTCOME)) == len(await cheap.records.scan(EVIDENCE)) == 2
        assert [name for name, _ in await cheap.records.scan(EVIDENCE)] == list(reversed(known.evidence))

    simulate(story)
