"""A client that signs for itself: auction, award, receipt, settlement, with nothing but its own key."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.integration.node.town import MODEL, REQUEST, Town, collect, settlements, simulate
from tests.unit.rules.world import key
from wwwmarket.crypto import signing
from wwwmarket.crypto.digest import request_digest
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, NotFound
from wwwmarket.domain.model import ModelRequirement
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.records import Bid, Receipt, Settlement, Transfer

CLIENT = key("a client of its own")
SALT = bytes(range(32))
PATH = "/v1/chat/completions"


def make_bid(town: Town, **changes) -> Bid:
    bid = Bid(
        client=CLIENT.account,
        model=ModelRequirement(name=MODEL.name),
        input_tokens=20,
        max_input_tokens=100,
        expected_output_tokens=8,
        max_output_tokens=16,
        max_price_micro=100_000,
        time_value_micro_per_s=0,
        slo=Slo(ttft_ms=10_000, tpot_ms=1_000),
        request_digest=request_digest(SALT, REQUEST),
        auctioneer=town.operator.id,
        issued_ms=town.clock.now_ms(),
        expires_ms=town.clock.now_ms() + 30_000,
    )
    return replace(bid, **changes)


async def market(town: Town):
    """An operator, a provider, and a client with a million micro-credits."""
    operator, provider = await town.house("operator", None), await town.house("provider")
    await town.listed(1)
    await operator.node.author.settle(operator.key.account, Transfer(to=CLIENT.account, amount_micro=1_000_000))
    await town.until(lambda: provider.node.replica.state.account(CLIENT.account).available_micro == 1_000_000)
    return operator, provider


def leaf(operator, body, signer=CLIENT) -> bytes:
    view = operator.answers.account(signer.account)
    entry = signing.sign_entry(signer, seq=view.next_seq, prev=view.prev, body=body)
    return signing.verified_own(entry).leaf


async def proposal(town: Town, operator):
    bid = signing.sign(CLIENT, make_bid(town)).signed
    return (await operator.run(operator.answers.auction(bid))).award


async def accept(operator, signed: bytes, *, path=PATH, request=REQUEST, salt=SALT):
    return await operator.run(collect(operator.answers.accept(signed, path, request, salt)))


def test_a_client_signs_and_settles_for_itself():
    """The client signs the proposed award, reads its answer, finds the attestation, and submits its settlement."""

    async def story(town: Town) -> None:
        operator, provider = await market(town)
        bought = await accept(operator, leaf(operator, await proposal(town, operator)))
        delivered = bought.delivered
        assert delivered.usage.output_tokens == 3
        found = await operator.answers.receipt(delivered.award)
        assert found.receipt is None
        receipt = Receipt(
            award=delivered.award,
            response_digest=found.attestation.body.response_digest,
            usage=delivered.usage,
            ttft_ms=delivered.ttft_ms,
            latency_ms=delivered.latency_ms,
            verdict="agreed",
        )
        settlement = Settlement(
            award=delivered.award, attestation=found.attestation, receipt=signing.sign(CLIENT, receipt).signed
        )
        signed = leaf(operator, settlement)
        promise = await operator.run(operator.answers.submit(signed))
        await town.settled()
        assert town.available(provider.key.account) == delivered.cost_micro
        again = await operator.run(operator.answers.submit(signed))
        assert (again.body.entry, again.body.index) == (promise.body.entry, promise.body.index)
        assert settlements(operator) == {delivered.award: 1}

    simulate(story)


def test_a_client_that_does_not_settle_is_settled_for():
    """Without a word of the client the provider settles alone once it may."""

    async def story(town: Town) -> None:
        operator, provider = await market(town)
        bought = await accept(operator, leaf(operator, await proposal(town, operator)))
        await town.settled()
        assert settlements(operator) == {bought.delivered.award: 1}
        assert town.available(provider.key.account) == bought.delivered.cost_micro

    simulate(story)


def test_an_award_is_accepted_once():
    """The same award handed in twice is executed once, and the first execution's record stands."""

    async def story(town: Town) -> None:
        operator, provider = await market(town)
        signed = leaf(operator, await proposal(town, operator))
        both = await asyncio.gather(accept(operator, signed), accept(operator, signed))
        assert sorted(type(bought.refusal) for bought in both if bought.refusal) == [NotFound]
        assert len(provider.engine.requests) == 1
        (done,) = [bought for bought in both if not bought.refusal]
        assert (await operator.answers.receipt(done.delivered.award)).attestation is not None

    simulate(story)


def test_an_award_in_the_making_can_be_explained():
    """From the moment that an award is handed over its explanation is there."""

    async def story(town: Town) -> None:
        operator, _ = await market(town)
        answer = operator.answers.accept(leaf(operator, await proposal(town, operator)), PATH, REQUEST, SALT)

        async def begin():
            awarded = await anext(answer)
            await asyncio.sleep(0)
            await town.until(lambda: operator.node.recent.get(awarded.award) is not None)
            explained = await operator.answers.explain(awarded.award)
            await answer.aclose()
            return explained

        assert (await operator.run(begin())).asks[0].verdict == "won"

    simulate(story)


def test_what_is_not_as_it_was_bid_for_is_refused():
    """Another request, another salt, an unknown auction, a forged bid, a bid past its time: refused, nothing is spent."""

    async def story(town: Town) -> None:
        operator, provider = await market(town)
        award = await proposal(town, operator)
        signed = leaf(operator, award)
        assert isinstance((await accept(operator, signed, request=b"{}")).refusal, Conflict)
        assert isinstance((await accept(operator, signed, salt=bytes(32))).refusal, Conflict)
        assert isinstance((await accept(operator, signed, salt=b"short")).refusal, Conflict)
        other = replace(award, bid=make_bid(town, max_output_tokens=17))
        assert isinstance((await accept(operator, leaf(operator, other))).refusal, NotFound)
        with pytest.raises(Malformed, match="client"):
            await operator.answers.auction(signing.sign(key("stranger"), make_bid(town)).signed)
        with pytest.raises(Malformed, match="expired"):
            await operator.answers.auction(signing.sign(CLIENT, make_bid(town, expires_ms=1)).signed)
        with pytest.raises(Malformed):
            await operator.run(operator.answers.submit(b"{}"))
        assert provider.engine.requests == []

    simulate(story)


def test_an_award_changed_by_its_client_is_refused():
    """Another price, another lock, another signer, another winner: the ledger or the node refuses, and nothing is run."""

    async def story(town: Town) -> None:
        operator, provider = await market(town)
        for change in ({"locked_micro": 1}, {"expires_ms": town.clock.now_ms() + 10**9}):
            award = await proposal(town, operator)
            bought = await accept(operator, leaf(operator, replace(award, **change)))
            assert isinstance(bought.refusal, Conflict | Malformed), bought.refusal
            assert bought.text == b""
        stolen = await accept(operator, leaf(operator, await proposal(town, operator), signer=key("stranger")))
        assert isinstance(stolen.refusal, Forbidden)
        award = await proposal(town, operator)
        forged = replace(award.winner, body=replace(award.winner.body, predicted_finish_ms=1))
        assert isinstance((await accept(operator, leaf(operator, replace(award, winner=forged)))).refusal, Conflict)
        assert not operator.node.replica.state.awards()
        assert town.available(provider.key.account) == 0

    simulate(story)


def test_an_own_signature_is_not_made_anew():
    """The client's place in the chain was taken meanwhile: it hears of that, since nobody else can sign for it."""

    async def story(town: Town) -> None:
        operator, _ = await market(town)
        signed = leaf(operator, await proposal(town, operator))
        await operator.answers.submit(leaf(operator, Transfer(to=operator.key.account, amount_micro=1)))
        bought = await accept(operator, signed)
        assert isinstance(bought.refusal, Conflict)
        assert bought.refusal.reason == "chain"

    simulate(story)


def test_awards_are_listed_by_who_is_in_them():
    """Open awards, recent awards and receipts are found by their names, and unknown ones are refused."""

    async def story(town: Town) -> None:
        operator, provider = await market(town)
        bought = await accept(operator, leaf(operator, await proposal(town, operator)))
        award = bought.delivered.award
        answers = operator.answers
        assert [name for name, _ in answers.open_awards(CLIENT.account)] == [award]
        assert [name for name, _ in answers.open_awards(provider.key.account)] == [award]
        assert answers.open_awards(operator.key.account) == ()
        assert not await operator.run(answers.wait_settled(award, 10))
        assert (await answers.explain(award)).status == "open"
        assert await operator.run(answers.wait_settled(award, 600_000))
        assert (await answers.explain(award)).status == "settled"
        assert [explained.id for explained in await answers.recent_awards(10)] == [award]
        assert (await answers.receipt(award)).settlement_index is not None
        with pytest.raises(NotFound):
            await answers.explain("0" * 64)

    simulate(story)
