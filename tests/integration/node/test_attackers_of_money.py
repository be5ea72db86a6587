"""Attacks on money, each by its name, and none of them pays: on the ledger by its contracts, at the doors by the nodes."""

import pytest
from msgspec.structs import replace

from tests.integration.node.doors import Gateway, attestation_in
from tests.integration.node.town import Town, simulate
from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    Ledger,
    consent,
    key,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    make_settlement,
    prices,
    usage,
)
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry, sign_entry
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Conflict, Forbidden, InsufficientCredit, Refusal, Stale, Unauthorised, Unavailable
from wwwmarket.domain.keys import Delegation, Rotation
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE
from wwwmarket.domain.records import Dispute, Parameters, Transfer, Withdrawal
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.rules.check import check

GRANT = 1_000_000


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.begun()


def wealth(ledger: Ledger, *people) -> int:
    """All that some accounts have, in whatever form; and the ledger adds up."""
    state = ledger.state
    assert (conservation_fault(state.accounts(), state.total_micro), expiry_fault(state)) == (None, None)
    accounts = [state.account(person.account) for person in people]
    return sum(account.available_micro + account.locked_micro + account.bonded_micro for account in accounts)


def test_a_replayed_award_locks_and_pays_once(ledger):
    """The same entry again, while it is open or after it was settled, has lost its place."""
    offers = ledger.list_offers()
    award = ledger.entry(CLIENT, ledger.award_body(offers))
    ledger.state.apply(award)
    settlement = ledger.entry(PROVIDER, settled(award.id))
    for replayed in (award, settlement, award, settlement):
        if replayed is settlement and ledger.state.award(award.id):
            ledger.state.apply(settlement)
        with pytest.raises(Conflict):
            ledger.state.apply(replayed)
    with pytest.raises(Conflict):
        ledger.submit(PROVIDER, settled(award.id))
    assert ledger.state.account(CLIENT.account).locked_micro == 0


def settled(award: str, **changes):
    return make_settlement(award, make_attestation(PROVIDER, award, **changes), make_receipt(CLIENT, award))


def test_an_award_signed_twice_for_the_same_funds_at_two_nodes_gets_one_answer():
    """Two awards for one place of a chain, each shown to another provider: one of them lets nothing out."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        first = await town.house("first")
        honest = await Gateway.made(town, first)
        second = await town.house("second")
        await town.listed(2)
        forked = Gateway(town, second, "another door of the same client")
        forked.client = honest.client
        openings = []
        for door, promised in ((forked, False), (honest, True)):
            bid = door.bid()
            openings.append(await door.opening(promised=promised, award=door.award(bid, await door.ask(bid))))
        answered = await honest.hear(await honest.open_stream(openings[1]))
        assert attestation_in(answered).attestation.body.outcome == "completed"
        try:
            frames = await forked.hear(await forked.open_stream(openings[0]))
        except Unavailable:
            frames = []  # its provider had heard of the other one already
        assert not [frame for frame in frames if frame[:1] in {b"t", b"p"}], "tokens without a lock"
        await town.settled()
        assert town.available(second.key.account) == 0 < town.available(first.key.account)
        await honest.close()
        await forked.close()

    simulate(story)


def test_a_provider_that_overcounts_gets_what_its_client_counted(ledger):
    """Whatever it attests: with a receipt the smaller count is paid, and without one never more than was locked."""
    offers = ledger.list_offers()
    seen = usage(1_000, 0, 250)
    for receipt in (True, False):
        award = ledger.award(offers)
        locked = ledger.state.award(award).award.locked_micro
        honest = REGISTRY.current.settlement.cost(ledger.state.award(award).award.prices, seen)
        before = wealth(ledger, PROVIDER)
        attestation = make_attestation(PROVIDER, award, usage=usage(2**32, 0, 2**32))
        body = make_settlement(award, attestation, make_receipt(CLIENT, award, usage=seen) if receipt else None)
        ledger.mark(NOW + (1_000 if receipt else 60_000))
        ledger.submit(PROVIDER, body)
        assert wealth(ledger, PROVIDER) - before == (honest if receipt else locked)


def test_a_client_that_denies_the_receipt_pays_all_the_same(ledger):
    """Its silence costs its provider some time, and nothing else; a dispute does not change that."""
    award = ledger.award(ledger.list_offers())
    before = wealth(ledger, PROVIDER)
    alone = make_settlement(award, make_attestation(PROVIDER, award), None)
    with pytest.raises(Stale):
        ledger.submit(PROVIDER, alone)
    ledger.mark(NOW + 60_000)
    ledger.submit(CLIENT, Dispute(award=award))
    ledger.submit(PROVIDER, alone)
    assert wealth(ledger, PROVIDER) > before
    assert ledger.state.account(PROVIDER.account).bonded_micro == 5_000


def test_a_gateway_cannot_overspend_what_it_was_delegated(ledger):
    """A key's account spends what was moved to it and no more; a machine's key spends nothing of its account's."""
    offers = ledger.list_offers()
    gateway_key, machine = key("sub-account"), key("machine")
    ledger.submit(CLIENT, Transfer(to=gateway_key.account, amount_micro=100))
    bid = make_bid(client=gateway_key.account)
    body = make_award(bid, make_ask(PROVIDER, bid, offers[0]), ledger.state.offer(offers[0]).offer, None)
    with pytest.raises(InsufficientCredit):
        ledger.submit(gateway_key, body)
    ledger.submit(CLIENT, Delegation(consent=consent(machine, CLIENT, "machine")))
    for spending in (Transfer(to=STRANGER.account, amount_micro=1), ledger.award_body(offers)):
        with pytest.raises(Refusal):
            ledger.submit(machine, spending)
    assert wealth(ledger, CLIENT, gateway_key) == GRANT


def test_a_stranger_settles_nothing(ledger):
    """Neither with both parties' true words, nor with its own in their place."""
    award = ledger.award(ledger.list_offers())
    true = settled(award)
    mine = make_settlement(award, make_attestation(STRANGER, award), make_receipt(STRANGER, award))
    for author in (STRANGER, RIVAL, OPERATOR):
        with pytest.raises(Forbidden):
            ledger.submit(author, true)
        with pytest.raises(Forbidden):
            ledger.submit(author, mine)
    forged = replace(true.attestation, body=replace(true.attestation.body, usage=NO_USAGE))
    with pytest.raises(Unauthorised):
        ledger.submit(CLIENT, replace(true, attestation=forged))
    assert ledger.state.award(award) is not None


def test_nobody_outwaits_a_provider_to_the_expiry():
    """An award that leaves no time to claim it alone is not served: its client would owe nothing and have all."""

    async def story(town: Town) -> None:
        await town.house("operator", None)
        provider = await town.house("provider")
        gateway = await Gateway.made(town, provider)
        bid, now_ms = gateway.bid(), town.clock.now_ms()
        ask = await gateway.ask(bid)
        hasty = gateway.award(bid, ask, claim_after_ms=now_ms + 20_000, expires_ms=now_ms + 24_999)
        stream = await gateway.open_stream(await gateway.opening(award=hasty))
        with pytest.raises(Unavailable):
            await stream.receive()
        assert provider.engine.requests == []
        await gateway.close()

    simulate(story)


def test_an_expiry_is_not_run_ahead_of(ledger):
    """Up to the mark that ends it a claim is good, and after it neither claim nor dispute is: nobody gets it twice."""
    award = ledger.award(ledger.list_offers())
    ledger.mark(NOW + 119_999)
    with pytest.raises(Stale):
        ledger.submit(CLIENT, Dispute(award=award))
    late = ledger.entry(PROVIDER, make_settlement(award, make_attestation(PROVIDER, award), None))
    ledger.mark(NOW + 120_000)
    with pytest.raises(Conflict):
        ledger.state.apply(late)
    assert wealth(ledger, CLIENT) == GRANT


@pytest.mark.parametrize("amount", [0, -1, 2**53, 2**63, 2**64])
def test_integer_extremes_are_no_amounts(amount):
    """What is no amount is no entry: it is refused as bytes, before any arithmetic."""
    ledger = Ledger.begun()
    seq, prev = ledger.state.chain_head(CLIENT.account)
    good = sign_entry(CLIENT, seq=seq, prev=prev, body=Transfer(to=RIVAL.account, amount_micro=7_777_777))
    forged = canonical.encode(good).replace(b"7777777", str(amount).encode())
    with pytest.raises(Refusal):
        check(open_entry(forged))


def test_integer_extremes_of_counts_prices_and_times_stay_within_the_lock(ledger):
    """The dearest prices, the largest counts and the latest times: paid is from nothing to the lock."""
    dear = prices(10**12, 10**12, 10**12)
    offer = ledger.submit(PROVIDER, make_offer(prices=dear, bond_micro=0)).checked.id
    bid = make_bid(max_price_micro=INTEGER_MAX, input_tokens=0, max_input_tokens=0, max_output_tokens=1)
    bid = replace(bid, expected_output_tokens=1, time_value_micro_per_s=INTEGER_MAX)
    body = make_award(
        bid, make_ask(PROVIDER, bid, offer, prices=dear, predicted_finish_ms=500), ledger.state.offer(offer).offer, None
    )
    award = ledger.submit(CLIENT, body).checked.id
    assert ledger.state.account(CLIENT.account) == Account(locked_micro=GRANT)
    attestation = make_attestation(PROVIDER, award, usage=usage(2**32, 2**32, 2**32))
    late = make_receipt(CLIENT, award, usage=usage(2**32, 2**32, 2**32), ttft_ms=INTEGER_MAX, latency_ms=INTEGER_MAX)
    ledger.submit(CLIENT, make_settlement(award, attestation, late))
    assert ledger.state.account(CLIENT.account) == Account(available_micro=GRANT // 2)
    assert wealth(ledger, CLIENT, PROVIDER) == 2 * GRANT


def test_dust_is_rounded_against_who_makes_it():
    """A thousand requests of one token cost no less than one of a thousand; and a bond of one is taken whole."""
    cost = REGISTRY.current.settlement.cost
    cheap = prices(1, 1, 1)
    assert 1_000 * cost(cheap, usage(1, 0, 0)) >= cost(cheap, usage(1_000, 0, 0)) == 1
    assert REGISTRY.current.settlement_v2.penalty(1, 1) == 1
    assert REGISTRY.current.settlement_v2.fee(99, 10_000) == 0


def test_a_bond_is_not_withdrawn_before_its_penalty(ledger):
    """Between the award and the silence its offer goes; the bond that is left behind pays as if it had not."""
    offers = ledger.list_offers()
    award = ledger.award(offers)
    ledger.submit(PROVIDER, Withdrawal(offer=offers[0]))
    ledger.mark(NOW + 60_000)
    ledger.submit(CLIENT, Dispute(award=award))
    ledger.mark(NOW + 120_000)
    assert wealth(ledger, CLIENT) == GRANT + 250
    assert wealth(ledger, PROVIDER) == GRANT - 250


def test_a_rotated_key_is_worth_nothing_after_its_rotation(ledger):
    """Neither a new entry by it, nor one that it had signed before and kept."""
    kept = ledger.entry(CLIENT, Transfer(to=STRANGER.account, amount_micro=GRANT))
    fresh = key("fresh")
    ledger.submit(CLIENT, Rotation(account=CLIENT.account, consent=consent(fresh, CLIENT)))
    with pytest.raises(Refusal):
        ledger.state.apply(kept)
    with pytest.raises(Refusal):
        ledger.submit(CLIENT, Transfer(to=STRANGER.account, amount_micro=1))
    assert wealth(ledger, STRANGER) == GRANT
    assert wealth(ledger, CLIENT) == GRANT


def test_trade_with_oneself_costs_the_market_s_fee():
    """A client and a provider in one hand move credits in a circle, and each turn of it costs the fee: no volume is free
    where a market takes one.
    """
    ledger = Ledger.begun(parameters=Parameters(fee_ppm=10_000))
    offers = ledger.list_offers()
    turned = 0
    for _ in range(20):
        award = ledger.award(offers)
        before = ledger.state.account(CLIENT.account)
        ledger.submit(CLIENT, settled(award))
        after = ledger.state.account(CLIENT.account)
        paid = before.available_micro + before.locked_micro - after.available_micro - after.locked_micro
        turned += paid // 100
    assert turned > 0
    assert wealth(ledger, CLIENT, PROVIDER) == 2 * GRANT - turned


def test_collusion_for_reputation_buys_ten_times_the_bond_a_day(ledger):
    """A client and a provider of one owner trade a whole day: what counts as kept is bounded by what they leave bonded
    (``contracts/reputation/v1``), however much they trade.
    """
    offers = ledger.list_offers()
    paid = 0
    for _ in range(300):
        award = ledger.award(offers)
        before = wealth(ledger, PROVIDER)
        ledger.submit(CLIENT, settled(award))
        paid += wealth(ledger, PROVIDER) - before
    bonded = ledger.state.account(PROVIDER.account).bonded_micro
    assert paid > 10 * bonded == ledger.state.standing(PROVIDER.account).kept_micro > 0
