"""Purchases over whole nodes: streamed, failed over, refused, cancelled, and each settled once."""

import asyncio

import pytest

from tests.integration.node.town import (
    MODEL,
    Town,
    buy,
    collect,
    dearer,
    purchase,
    settlements,
    simulate,
)
from wwwmarket.domain.errors import Conflict, InsufficientCredit, Malformed, NotFound, Unauthorised, Unavailable
from wwwmarket.node.service import Awarded, Preferences
from wwwmarket.ports.engine import EngineRefused, ResponseStarted
from wwwmarket.simulator.engine import HELLO, Begin, Break, Pause, Refuse, Say

TEXT = b"data: hello\n\ndata: world\n\ndata: !\n\n"
SLOW = (Begin(), *(act for _ in range(10) for act in (Say(data=b"data: word\n\n"), Pause(duration_ms=100))))


def test_a_purchase_streams_and_is_settled():
    """An answer streams from the cheapest provider, which is paid exactly what it counted, in one settlement."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        cheap, dear = await town.house("cheap"), await town.house("dear", prices=dearer(2))
        await town.listed(2)
        bought = await buy(operator)
        assert bought.text == TEXT
        assert bought.of(Awarded)[0].provider == cheap.key.account
        assert bought.of(ResponseStarted) == [ResponseStarted(content_type="text/event-stream")]
        assert (bought.delivered.outcome, bought.delivered.usage.output_tokens) == ("completed", 3)
        await town.settled()
        assert town.available(cheap.key.account) == bought.delivered.cost_micro > 0
        assert town.available(dear.key.account) == 0
        assert settlements(operator) == {bought.delivered.award: 1}

    simulate(story)


def test_a_follower_buys_as_the_operator_does():
    """A node that does not order the ledger buys and is settled in the same way."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        buyer = await town.house("buyer", None)
        await town.listed(1)
        _, view = await operator.answers.create_key("for the buyer", 0)
        await operator.answers.top_up(view.id, 1)
        await pay(operator, buyer.key.account, 1_000_000)
        await town.until(lambda: buyer.node.replica.state.account(buyer.key.account).available_micro == 1_000_000)
        bought = await buy(buyer)
        assert bought.text == TEXT
        await town.settled()
        assert settlements(operator) == {bought.delivered.award: 1}
        assert town.available(buyer.key.account) == 1_000_000 - bought.delivered.cost_micro

    simulate(story)


async def pay(house, account, amount_micro):
    from wwwmarket.domain.records import Transfer

    await house.node.author.settle(house.key.account, Transfer(to=account, amount_micro=amount_micro))


@pytest.mark.parametrize(
    "play",
    [
        (Break(),),
        (Begin(), Break()),
        (),
        (Begin(),),
        (Pause(duration_ms=60_000),),
        (Begin(), Pause(duration_ms=60_000)),
    ],
    ids=["breaks", "breaks after its head", "says nothing", "ends after its head", "is slow", "is slow after its head"],
)
def test_the_next_best_takes_over_before_the_first_token(play):
    """Whatever keeps the winner's engine from its first token, the next-best answers, and it alone is paid."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        broken, good = await town.house("broken", play), await town.house("good", prices=dearer(2))
        await town.listed(2)
        bought = await buy(operator)
        assert bought.text == TEXT
        assert [awarded.provider for awarded in bought.of(Awarded)] == [broken.key.account, good.key.account]
        await town.settled()
        assert town.available(broken.key.account) == 0
        assert town.available(good.key.account) == bought.delivered.cost_micro
        assert set(settlements(operator).values()) <= {1}
        explained = await operator.answers.explain(bought.delivered.award)
        assert explained.attempts == tuple(awarded.award for awarded in bought.of(Awarded))

    simulate(story)


def test_nobody_takes_over_after_the_first_token():
    """An engine that breaks in its answer ends the request with an error, and is paid nothing."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        broken = await town.house("broken", (*HELLO[:2], Break()))
        await town.house("good", prices=dearer(2))
        await town.listed(2)
        bought = await buy(operator)
        assert bought.text == b"data: hello\n\n"
        assert isinstance(bought.refusal, Unavailable)
        assert len(bought.of(Awarded)) == 1
        await town.settled()
        assert town.available(broken.key.account) == 0

    simulate(story)


def test_an_engines_refusal_is_passed_on():
    """The winner's engine refuses the request: its status and body reach the client, nobody else is asked."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("strict", (Refuse(status=422, body=b'{"error":"n"}'),))
        other = await town.house("other", prices=dearer(2))
        await town.listed(2)
        bought = await buy(operator)
        assert isinstance(bought.refusal, EngineRefused)
        assert (bought.refusal.status, bought.refusal.body) == (422, b'{"error":"n"}')
        assert other.engine.requests == []
        await town.settled()

    simulate(story)


def test_a_long_refusal_of_an_engine_is_passed_on():
    """A refusal of control characters, which JSON makes six times as long, still arrives."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("strict", (Refuse(status=400, body=b"\x01" * 100_000),))
        await town.listed(1)
        bought = await buy(operator)
        assert isinstance(bought.refusal, EngineRefused)
        assert set(bought.refusal.body) == {1}

    simulate(story)


@pytest.mark.parametrize("pieces", [0, 1, 4])
def test_a_client_that_leaves_pays_for_what_was_delivered(pieces):
    """However early the client goes, the engine is aborted, at most what was said is paid, and nothing stays locked."""

    async def story(town: Town) -> None:
        operator, provider = await town.house("operator", None), await town.house("provider", SLOW)
        await town.listed(1)
        before = town.available(operator.key.account)

        async def read_and_leave():
            answer = operator.answers.purchase(purchase(operator.key.account))
            read = 0
            async for event in answer:
                read += isinstance(event, Awarded) if pieces == 0 else event.__class__.__name__ == "ResponsePiece"
                if read >= max(pieces, 1):
                    break
            await answer.aclose()

        await operator.run(read_and_leave())
        await town.until(lambda: operator.node.buying.in_flight == 0)
        await town.settled()
        assert provider.engine.aborted <= 1
        assert provider.node.selling.in_flight == 0
        paid = town.available(provider.key.account)
        assert (paid == 0) == (pieces == 0)
        assert before - town.available(operator.key.account) == paid

    simulate(story)


def test_a_client_that_reads_nothing_holds_nobody_up_for_ever():
    """A client that stops reading and then leaves still has its award settled with what had arrived."""

    async def story(town: Town) -> None:
        flood = (Begin(), *(Say(data=b"data: word %d\n\n" % place) for place in range(2_000)))
        operator = await town.house("operator", None)
        await town.house("provider", tuple(act for say in flood for act in (say, Pause(duration_ms=1))))
        await town.listed(1)

        async def stall():
            answer = operator.answers.purchase(purchase(operator.key.account, max_output_tokens=5_000))
            await anext(answer)
            await asyncio.sleep(5)
            await answer.aclose()

        await operator.run(stall())
        await town.until(lambda: operator.node.buying.in_flight == 0, patience_ms=2_000)
        await town.settled()
        (count,) = settlements(operator).values()
        assert count == 1

    simulate(story)


def test_a_full_provider_turns_an_award_away():
    """Asks can be more than there is room for: who is turned away is served by the next-best, at once."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        small = await town.house("small", SLOW, sequences=1)
        await town.house("large", SLOW, prices=dearer(2))
        await town.listed(2)
        both = await asyncio.gather(buy(operator), buy(operator))
        assert [bought.delivered.outcome for bought in both] == ["completed", "completed"]
        assert sorted(len(bought.of(Awarded)) for bought in both) == [1, 2]
        assert len(small.engine.requests) == 1
        await town.settled()

    simulate(story)


def test_a_provider_that_dies_after_the_award_is_replaced():
    """The winner dies with the request in its hands: the next-best answers, and the dead one's award unlocks."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        dying = await town.house("dying", SLOW)
        await town.house("good", prices=dearer(2))
        await town.listed(2)
        dying.life.aim(1, after=True)
        buying = asyncio.ensure_future(buy(operator))
        await dying.died.wait()
        await dying.kill()
        bought = await buying
        assert bought.text == TEXT
        await town.settled()
        assert town.available(dying.key.account) == 0

    simulate(story)


def test_a_node_that_sells_serves_itself():
    """A node with an engine of its own may win its own auction, without the network, and pays itself."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", HELLO)
        await town.listed(1)
        before = town.available(operator.key.account)
        bought = await buy(operator)
        assert bought.text == TEXT
        await town.settled()
        assert town.available(operator.key.account) == before
        assert settlements(operator) == {bought.delivered.award: 1}
        assert not operator.node.selling.desk.claims.open
        left = await buy(operator, model="other/model")
        assert isinstance(left.refusal, NotFound)

    simulate(story)


def test_what_cannot_be_bought_says_why():
    """An unknown model, too long a prompt, no credit, too low a maximum, unwilling preferences: each is its refusal."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider = await town.house("provider")
        await town.listed(1)
        node = operator.node
        _, poor = await operator.answers.create_key("poor", 0)
        own = operator.key.account
        cases = (
            (purchase(own, model="no/model"), NotFound, "not_found"),
            (purchase(own, prompt_bytes=100_000), Malformed, "context_length_exceeded"),
            (purchase(poor.account), InsufficientCredit, "insufficient_credit"),
            (purchase(own, preferences=Preferences(max_price_micro=1)), InsufficientCredit, "insufficient_credit"),
            (purchase(own, preferences=Preferences(ignore=(provider.key.account,))), Unavailable, "unavailable"),
            (purchase(own, preferences=Preferences(precisions=("fp4",))), Unavailable, "unavailable"),
        )
        for wanted, kind, reason in cases:
            bought = await operator.run(collect(operator.answers.purchase(wanted)))
            assert isinstance(bought.refusal, kind), bought.refusal
            assert bought.refusal.reason == reason
        assert not node.replica.state.awards()

    simulate(story)


def test_an_unknown_engine_is_not_offered():
    """While a provider cannot poll its engine it declines, and says so."""

    async def story(town: Town) -> None:
        operator, provider = await town.house("operator", None), await town.house("provider")
        await town.listed(1)
        provider.engine.down = True
        await asyncio.sleep(2)
        bought = await buy(operator)
        assert isinstance(bought.refusal, Unavailable)
        assert "state is unknown" in bought.refusal.message
        provider.engine.down = False
        await asyncio.sleep(1)
        assert (await buy(operator)).text == TEXT

    simulate(story)


def test_a_key_is_made_topped_up_and_revoked():
    """A key spends its budget and no more; revoked, it opens nothing and what is left returns."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        answers, before = operator.answers, town.available(operator.key.account)
        secret, view = await answers.create_key("for tests", 1_000)
        await answers.top_up(view.id, 500)
        assert answers.account(view.account).balance.available_micro == 1_500
        assert answers.authenticate(secret).account == view.account
        bought = await operator.run(collect(answers.purchase(purchase(answers.authenticate(secret).account))))
        cost_micro = bought.delivered.cost_micro
        await town.settled()
        assert answers.account(view.account).balance.available_micro == 1_500 - cost_micro
        await answers.revoke_key(view.id)
        assert town.available(operator.key.account) == before - cost_micro
        with pytest.raises(Unauthorised):
            answers.authenticate(secret)
        with pytest.raises(Conflict):
            await answers.top_up(view.id, 500)
        with pytest.raises(Conflict):
            await answers.create_key("too much", before + 1)

    simulate(story)


def test_a_key_outlives_its_node():
    """After a restart a key opens the same account."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        secret, view = await operator.answers.create_key("for tests", 1_000)
        await operator.close()
        await operator.open()
        assert operator.answers.authenticate(secret) == view
        assert operator.answers.account(view.account).balance.available_micro == 1_000
        await operator.answers.revoke_key(view.id)
        await operator.close()
        await operator.open()
        with pytest.raises(Unauthorised):
            operator.answers.authenticate(secret)

    simulate(story)


def test_many_requests_at_once_are_all_settled():
    """Fifty concurrent purchases end answered, each settled once, with no credit made or lost."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        providers = [await town.house(f"provider {place}", HELLO, sequences=64) for place in range(3)]
        await town.listed(3)
        everybody = await asyncio.gather(*(buy(operator) for _ in range(50)))
        assert {bought.text for bought in everybody} == {TEXT}
        await town.settled()
        counts = settlements(operator)
        assert len(counts) == 50
        assert set(counts.values()) == {1}
        paid = sum(town.available(provider.key.account) for provider in providers)
        assert paid == sum(bought.delivered.cost_micro for bought in everybody)
        assert MODEL.name == operator.answers.offers()[0][1].offer.model.name

    simulate(story)
