"""What strangers and liars can do at the doors of a node: nothing but be refused, at a bounded cost."""

import asyncio
from dataclasses import replace as configured

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.integration.node.doors import Gateway, attestation_in
from tests.integration.node.town import REQUEST, Town, buy, dearer, settlements, simulate
from tests.unit.rules.world import key
from wwwmarket.config import LOCAL
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.errors import Forbidden, InsufficientCredit, Refusal, TooLarge, Unavailable
from wwwmarket.domain.quantity import Usage
from wwwmarket.domain.records import Inclusion, Transfer
from wwwmarket.market import offer as offers
from wwwmarket.node import messages
from wwwmarket.simulator.engine import Begin, End, Pause, Say

SHORT = configured(
    LOCAL,
    execution=configured(
        LOCAL.execution,
        bound_base_ms=3_000,
        execution_max_ms=4_000,
        claim_after_ms=1_000,
        claim_window_ms=8_000,
        promise_timeout_ms=2_000,
        silence_ms=2_000,
        response_bytes_max=10_000,
    ),
)
ENDLESS = (Begin(), *(act for _ in range(2_000) for act in (Say(data=b"data: word\n\n"), Pause(duration_ms=20))))


async def at_the_door(town: Town, play=None, **offer):
    """An operator, a provider, and a gateway with credits before its door."""
    await town.house("operator", None)
    provider = await town.house("provider", *([] if play is None else [play]), **offer)
    return provider, await Gateway.made(town, provider)


async def refused(gateway: Gateway, opening) -> None:
    """The stream is dropped without a word, and no slot is held."""
    stream = await gateway.open_stream(opening)
    with pytest.raises(Unavailable):  # noqa: PT012 - until it is dropped
        while await stream.receive() is not None:
            pass
    assert gateway.provider.node.selling.in_flight == 0


def test_an_honest_gateway_is_served():
    """What the attacks below are changes of: an order with its promise is answered and attested."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        frames = await gateway.execute(await gateway.opening())
        assert frames[0] == b"stext/event-stream"
        said = attestation_in(frames)
        assert (said.attestation.body.outcome, said.attestation.body.usage.output_tokens) == ("completed", 3)
        assert len(provider.engine.requests) == 1
        await gateway.close()

    simulate(story)


def test_arbitrary_bytes_are_refused_at_every_door():
    """No bytes crash or hang a node: requests get a refusal, streams are dropped, and the node goes on."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        honest = canonical.encode(await gateway.opening(promised=False))
        messages_seen = st.one_of(
            st.binary(max_size=300),
            st.tuples(st.integers(0, len(honest) - 1), st.integers(0, 255)).map(
                lambda change: honest[: change[0]] + bytes([change[1]]) + honest[change[0] + 1 :]
            ),
            st.integers(0, len(honest) - 1).map(lambda length: honest[:length]),
            st.sampled_from([b"", b"{}", b"[]" * 1_000, b"[" * 5_000, b'{"kind":"follow/v1","start":-1}']),
        )

        samples: list[bytes] = []

        @given(messages_seen)
        @settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None)
        def gather(data: bytes) -> None:
            samples.append(data)

        gather()
        for data in samples:
            if data == honest:
                continue
            for house in (provider, town.operator):
                answer = messages.read_answer(await gateway.say(data, house))
                assert isinstance(answer, messages.Refused)
            await refused(gateway, data)
        assert provider.engine.requests == []
        assert (await buy(town.operator)).refusal is None
        await gateway.close()

    simulate(story)


def test_a_replayed_award_is_executed_once():
    """The same award again, while it runs or after it: dropped."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        opening = await gateway.opening()
        first = await gateway.open_stream(opening)
        await refused_while_running(gateway, opening)
        await gateway.hear(first)
        await refused_while_running(gateway, opening)
        assert len(provider.engine.requests) == 1
        await gateway.close()

    simulate(story)


async def refused_while_running(gateway: Gateway, opening) -> None:
    stream = await gateway.open_stream(opening)
    with pytest.raises(Unavailable):
        await stream.receive()


def test_awards_that_are_not_this_providers_are_dropped():
    """A forged ask, another's signature, another provider's ask, another bid's ask, less than was asked, past or
    endless times, another's client: nothing is run or kept for any of them.
    """

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        stranger = key("stranger")
        now_ms = town.clock.now_ms()
        bid = gateway.bid()
        ask = await gateway.ask(bid)
        good = gateway.award(bid, ask)
        cheaper = replace(ask.body, prices=replace(ask.body.prices, output_micro_per_mtok=1))
        changed = (
            replace(good, winner=replace(good.winner, body=cheaper), prices=cheaper.prices),
            replace(good, winner=signing.sign(stranger, ask.body).signed),
            replace(good, bid=gateway.bid(max_output_tokens=17)),
            replace(good, prices=cheaper.prices),
            replace(good, claim_after_ms=now_ms - 1),
            replace(good, expires_ms=now_ms + 10**10),
            replace(good, bid=replace(bid, client=stranger.account)),
        )
        for award in changed:
            await refused(gateway, await gateway.open_with(gateway.entry(award)))
        await refused(gateway, await gateway.open_with(gateway.entry(good, stranger)))
        assert provider.engine.requests == []
        assert await provider.records.scan("execution") == await provider.records.scan("claim") == []
        await gateway.close()

    simulate(story)


def test_an_award_without_funds_is_dropped():
    """Who cannot lock what an award locks gets no work done for it."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        provider = await town.house("provider")
        gateway = await Gateway.made(town, provider, amount_micro=0)
        await refused(gateway, await gateway.opening(promised=False))
        with pytest.raises(InsufficientCredit):
            await gateway.opening()
        assert provider.engine.requests == []
        await gateway.close()

    simulate(story)


@pytest.mark.parametrize("lie", ["opening", "order", "order too large", "small key", "other request"])
def test_a_bad_order_is_not_run(lie):
    """Sealed bytes changed on the way, no order in them, one that is too large, a key of small order: nothing is run."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        opening = await gateway.opening()
        order = messages.Order(path="/v1/completions", salt="0" * 64, request_bytes=10**9)
        again = gateway.sealing.channel(gateway.offer[1].sealing_key, "gateway")
        changed = {
            "opening": lambda: replace(opening, sealed=b"\x00" + opening.sealed[1:]),
            "order": lambda: replace(opening, sealed=again.seal(b"no order\n")),
            "order too large": lambda: replace(opening, sealed=again.seal(canonical.encode(order) + b"\n")),
            "small key": lambda: replace(opening, gateway_key="0" * 64),
        }
        if lie == "other request":
            said = await gateway.said(await gateway.opening(request=b"{}"))
            assert said.attestation.body.outcome == "failed"
        else:
            await refused(gateway, changed[lie]())
        assert provider.engine.requests == []
        await gateway.close()

    simulate(story)


def test_an_order_that_never_ends_holds_no_slot():
    """A gateway that trickles its request is dropped when the promise would have been due."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town, sequences=1)
        entry = gateway.entry(gateway.award(bid := gateway.bid(), await gateway.ask(bid)))
        opening = await gateway.open_with(entry)
        channel = gateway.sealing.channel(gateway.offer[1].sealing_key, "gateway")
        order = messages.Order(path="/v1/completions", salt="0" * 64, request_bytes=1_000)
        stream = await gateway.open_stream(replace(opening, sealed=channel.seal(canonical.encode(order) + b"\n")))
        begun_ms = town.clock.monotonic_ms()
        with pytest.raises(Unavailable):  # noqa: PT012 - until it is dropped
            while True:
                await stream.send(channel.seal(b"x"))
                await asyncio.sleep(0.5)
        assert town.clock.monotonic_ms() - begun_ms < 4_000
        await town.until(lambda: provider.node.selling.in_flight == 0, 1_000)
        await gateway.close()

    simulate(story, SHORT)


def test_without_the_promise_nothing_is_let_out():
    """A gateway that never sends the ledger's promise hears nothing but a failure, and the slot is free again."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town, sequences=1)
        frames = await gateway.execute(await gateway.opening(promised=False))
        assert len(frames) == 1
        assert attestation_in(frames).attestation.body.outcome == "failed"
        await town.until(lambda: provider.node.selling.in_flight == 0, 1_000)
        assert provider.engine.requests == [REQUEST]
        await gateway.close()

    simulate(story, SHORT)


@pytest.mark.parametrize("lie", ["signer", "origin", "entry"])
def test_a_false_promise_lets_nothing_out(lie):
    """A promise by another, of another log or of another entry: the execution fails, and nothing was let out."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        opening = await gateway.opening(promised=False)
        name = signing.open_entry(opening.leaf.encode()).id
        true = Inclusion(entry=name, origin="test.market", index=9, covered_by_ms=1)
        false = {
            "signer": signing.sign(key("stranger"), true),
            "origin": signing.sign(town.log_key, replace(true, origin="other.market")),
            "entry": signing.sign(town.log_key, replace(true, entry="0" * 64)),
        }[lie]
        stream = await gateway.open_stream(opening)
        await gateway.send(stream, messages.Promise(inclusion=false.signed))
        frames = await gateway.hear(stream)
        assert len(frames) == 1
        assert attestation_in(frames).attestation.body.outcome == "failed"
        await town.until(lambda: provider.node.selling.in_flight == 0, 1_000)
        await gateway.close()

    simulate(story)


def test_what_was_let_out_is_not_taken_back_by_a_lie():
    """After the true promise a false one, or garbage: what was let out is charged all the same."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town, ENDLESS)
        for lie in (b"garbage", None):
            stream = await gateway.open_stream(await gateway.opening())
            for _ in range(4):
                gateway.channel.open(await stream.receive())
            if lie is None:
                false = Inclusion(entry="0" * 64, origin="test.market", index=9, covered_by_ms=1)
                await gateway.send(stream, messages.Promise(inclusion=signing.sign(key("x"), false).signed))
                await gateway.send(stream, messages.CancelExecution(award="0" * 64))
            else:
                await stream.send(lie)
            said = attestation_in(await gateway.hear(stream)).attestation.body
            assert said.outcome == "cancelled"
            assert said.usage.output_tokens >= 3
        await town.until(lambda: provider.node.selling.in_flight == 0, 1_000)
        await gateway.close()

    simulate(story)


def test_a_gateway_that_stops_reading_holds_no_slot():
    """Frames that nobody reads stop the answer; the execution is attested and its slot free long before its bound."""

    async def story(town: Town) -> None:
        play = (Begin(), *(act for _ in range(2_000) for act in (Say(data=b"x" * 100), Pause(duration_ms=1))))
        provider, gateway = await at_the_door(town, play, sequences=1)
        bid = gateway.bid(max_output_tokens=10_000, max_price_micro=1_000_000)
        opening = await gateway.opening(award=gateway.award(bid, await gateway.ask(bid)))
        await gateway.open_stream(opening)
        await town.until(lambda: provider.node.selling.in_flight == 1, 1_000)
        await town.until(lambda: provider.node.selling.in_flight == 0, 10_000)
        await town.settled()
        assert town.available(provider.key.account) > 0
        await gateway.close()

    simulate(story, SHORT)


async def unsubmitted(gateway: Gateway, place: int, **changes):
    """An award that nobody will ever submit, at the provider's door."""
    bid = gateway.bid(issued_ms=town_ms(gateway) + place, **changes)
    award = gateway.award(bid, await gateway.ask(bid))
    return await gateway.open_stream(await gateway.open_with(gateway.entry(award)))


def town_ms(gateway: Gateway) -> int:
    return gateway.town.clock.now_ms()


def test_a_stranger_with_funds_cannot_hold_a_providers_slots():
    """Awards that are never submitted hold one of four slots, and none the next time; everybody else is served."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town, ENDLESS, sequences=4)
        selling = provider.node.selling
        for place in range(4):
            await unsubmitted(gateway, place)
        await town.until(lambda: selling.in_flight == 1 and selling.advances.waiting == 3, 1_000)
        honest = await Gateway.made(town, provider, name="honest")
        begun_ms = town.clock.monotonic_ms()
        stream = await honest.open_stream(await honest.opening())
        for _ in range(2):
            honest.channel.open(await stream.receive())
        assert town.clock.monotonic_ms() - begun_ms < 500
        await honest.send(stream, messages.CancelExecution(award="0" * 64))
        await town.until(lambda: selling.in_flight == 0 and selling.advances.waiting == 0, 5_000)
        await unsubmitted(gateway, 9)
        await town.until(lambda: selling.advances.waiting == 1, 1_000)
        await asyncio.sleep(0.5)
        assert selling.in_flight == 0
        stream = await gateway.open_stream(await gateway.opening())
        for _ in range(2):
            gateway.channel.open(await stream.receive())
        assert selling.in_flight == 1
        await gateway.send(stream, messages.CancelExecution(award="0" * 64))
        await town.until(lambda: selling.in_flight == 0, 5_000)
        await gateway.close()
        await honest.close()

    simulate(story, SHORT)


def test_an_award_that_waited_for_its_promise_is_answered_as_any_other():
    """While a first advance is out, a second award begins when its promise comes, and is attested and paid."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town, sequences=2)
        await unsubmitted(gateway, 0)
        await town.until(lambda: provider.node.selling.in_flight == 1, 1_000)
        second = await Gateway.made(town, provider, name="second")
        entry = second.entry(second.award(bid := second.bid(), await second.ask(bid)))
        stream = await second.open_stream(await second.open_with(entry, request=REQUEST))
        await town.until(lambda: provider.node.selling.advances.waiting == 1, 1_000)
        await second.send(stream, messages.Promise(inclusion=await second.submit(entry)))
        given = attestation_in(await second.hear(stream))
        assert given.attestation.body.outcome == "completed"
        await town.settled()
        assert town.available(provider.key.account) > 0
        await gateway.close()
        await second.close()

    simulate(story, SHORT)


def test_a_receipt_for_anothers_award_changes_nothing():
    """A client's receipt on its own stream that names another's award does not touch that award's claim."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        victim = await Gateway.made(town, provider, name="victim")
        given = attestation_in(await victim.execute(await victim.opening()))
        stream = await gateway.open_stream(await gateway.opening())
        own = attestation_in(await gateway.hear(stream))
        stolen = gateway.receipt(own, award=given.attestation.body.award)
        await gateway.send(stream, messages.ReceiptGiven(receipt=stolen))
        await asyncio.sleep(0.1)
        claims = provider.node.selling.desk.claims._claims
        assert claims[given.attestation.body.award].receipt is None
        await town.settled()
        assert town.available(provider.key.account) > 0
        assert settlements(town.operator)[given.attestation.body.award] == 1
        await gateway.close()
        await victim.close()

    simulate(story, SHORT)


def test_a_flood_of_bids_is_forgotten(monkeypatch):
    """More bids than are held at once are declined, and a moment later the provider asks again."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        offer = gateway.offer[0]
        monkeypatch.setattr(offers, "HOLDS_MAX", 16)
        for place in range(20):
            bid = signing.sign(gateway.client, gateway.bid(issued_ms=place))
            provider.node.selling.answer(messages.AskRequest(offer=offer, bid=bid.signed))
        declined = provider.node.selling.answer(
            messages.AskRequest(offer=offer, bid=signing.sign(gateway.client, gateway.bid()).signed)
        )
        assert declined.reason == "too many bids are held"
        await asyncio.sleep(1)
        assert (await gateway.ask(gateway.bid())).by == provider.key.account
        await gateway.close()

    simulate(story)


def test_a_provider_cannot_charge_for_more_than_arrived():
    """Counts beyond the bytes that arrived are disputed, and the lower ones are paid."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        lie = End(usage=Usage(input_tokens=9_000, cached_input_tokens=0, output_tokens=9_000))
        await town.house("greedy", (Begin(), Say(data=b"data: hi\n\n"), lie))
        await town.listed(1)
        bought = await buy(operator)
        assert bought.delivered.usage.output_tokens == 2
        seen = await operator.answers.receipt(bought.delivered.award)
        assert seen.receipt.body.verdict == "disputed"
        assert seen.cost_micro == bought.delivered.cost_micro
        await town.settled()

    simulate(story)


@pytest.mark.parametrize(
    "play",
    [
        (Begin(), *(Say(data=b"x" * 1_000) for _ in range(15))),
        (Begin(), *(act for _ in range(900) for act in (Say(data=b"", tokens=False), Pause(duration_ms=1_500)))),
        (Begin(), Say(data=b"x"), Pause(duration_ms=3_600_000)),
        (Begin(content_type="text/html\r\nset-cookie: a=b"), Say(data=b"x")),
        (Begin(content_type="text/héllo"), Say(data=b"x")),
    ],
    ids=["too large", "a trickle of nothing", "silent", "a header in its head", "a head of other letters"],
)
def test_an_answer_that_is_none_has_an_end(play):
    """Answers that are too large, never end, fall silent or begin with what is no head: the client hears an end."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("bad", play)
        await town.listed(1)
        begun_ms = town.clock.monotonic_ms()
        bought = await buy(operator, max_output_tokens=4_000)
        assert bought.refusal is not None or bought.delivered.outcome == "cancelled"
        assert town.clock.monotonic_ms() - begun_ms < 30_000
        await town.settled()

    simulate(story, SHORT)


def test_the_ledgers_door_takes_only_what_follows():
    """Another's place, an overdraft, another's key, a foreign mark, oversized bytes: refused, and the log is as before."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        size = town.operator.node.replica.size
        pay = Transfer(to=provider.key.account, amount_micro=1)
        cases = (
            (gateway.entry(pay, ahead=1), Refusal, "chain"),
            (gateway.entry(replace(pay, amount_micro=10**9)), InsufficientCredit, "insufficient_credit"),
        )
        for entry, kind, reason in cases:
            with pytest.raises(kind) as caught:
                await gateway.submit(entry)
            assert caught.value.reason == reason
        signed = gateway.entry(pay)
        foreign = canonical.encode(replace(signed.entry, account=key("stranger").account)).decode()
        answer = await gateway.say(canonical.encode(messages.Submit(leaves=(foreign,))), town.operator)
        assert messages.read_answer(answer).answers[0].code == "unauthorised"
        mark = town.operator.node.replica.genesis
        with pytest.raises(Refusal):
            await gateway.submit(gateway.entry(mark))
        assert messages.read_answer(await gateway.say(b" " * 300_000, town.operator)).code == "too_large"
        with pytest.raises(TooLarge):
            await gateway.say(b" " * (2 << 20), town.operator)
        assert town.operator.node.replica.size == size
        await gateway.submit(signed)
        await gateway.close()

    simulate(story)


def test_a_node_answers_only_for_what_it_does():
    """Who sells nothing has no asks, who does not order has no log to follow or to submit to."""

    async def story(town: Town) -> None:
        provider, gateway = await at_the_door(town)
        submit = canonical.encode(
            messages.Submit(leaves=(gateway.entry(Transfer(to=key("x").account, amount_micro=1)).leaf.decode(),))
        )
        assert messages.read_answer(await gateway.say(submit, provider)).code == "not_found"
        ask = messages.AskRequest(offer=gateway.offer[0], bid=signing.sign(gateway.client, gateway.bid()).signed)
        assert messages.read_answer(await gateway.say(canonical.encode(ask), town.operator)).code == "not_found"
        await refused(gateway, canonical.encode(messages.Follow(start=0)))
        with pytest.raises(Forbidden):
            town.operator.node.author.key(key("stranger").account)
        await gateway.close()

    simulate(story)


def test_a_full_queue_does_not_break_the_operator():
    """Entries beyond what may wait to be written are refused with a time to come back, and ordering goes on."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        sequencer = operator.node.sequencer
        sequencer._config = configured(town.config.ledger, pending_entries_max=2)
        held = operator.ledger.append
        gate = asyncio.Event()

        async def slow(*words):
            await gate.wait()
            await held(*words)

        operator.ledger.append = slow
        author = operator.node.author
        writes = [
            operator.spawn(author.settle(operator.key.account, Transfer(to=key("x").account, amount_micro=1)))
            for _ in range(6)
        ]
        await asyncio.sleep(2)
        gate.set()
        done = await asyncio.gather(*writes, return_exceptions=True)
        assert any(getattr(one, "retry_after_ms", 0) for one in done)
        assert not operator.node._failed.done()
        await author.settle(operator.key.account, Transfer(to=key("x").account, amount_micro=1))

    simulate(story)


def test_a_liar_among_the_providers_does_not_keep_a_request_from_its_answer():
    """A provider whose frames are changed on their way is dropped, and the next-best answers."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        liar = await town.house("liar")
        await town.house("good", prices=dearer(2))
        await town.listed(2)

        async def garbage(stream, _opening, _selling=liar.node.selling):
            await stream.send(b"garbage")
            await asyncio.sleep(60)

        liar.node.selling.execute = garbage
        bought = await buy(operator)
        assert bought.delivered.outcome == "completed"
        await town.settled()
        assert town.available(liar.key.account) == 0

    simulate(story)
