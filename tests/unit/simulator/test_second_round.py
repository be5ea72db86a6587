"""The auction's second round: asked once, only where the first found nothing good enough, and never for nothing."""

import pytest

from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, sign
from wwwmarket.domain.book import ListedOffer
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import EntryId, NodeId, SealingKey
from wwwmarket.domain.model import Model, ModelRequirement
from wwwmarket.domain.quantity import Prices, Slo
from wwwmarket.domain.records import Ask, Bid, Capacity, NodeAddress, Offer, Promise
from wwwmarket.market.auction import (
    ArmDeadline,
    AskArrived,
    AskMissing,
    Auction,
    Candidate,
    DeadlineReached,
    Decided,
    Opened,
    RequestAsk,
)

PRICES = Prices(input_micro_per_mtok=1, cached_input_micro_per_mtok=1, output_micro_per_mtok=1)
CLIENT = KeyPair(b"\x07" * 32)
BID = Bid(
    client=CLIENT.account,
    model=ModelRequirement(name="m"),
    input_tokens=10,
    max_input_tokens=10,
    expected_output_tokens=10,
    max_output_tokens=10,
    max_price_micro=100,
    time_value_micro_per_s=1,
    slo=Slo(ttft_ms=1_000, tpot_ms=100),
    request_digest="0" * 64,
    auctioneer=NodeId(CLIENT.account),
    issued_ms=0,
    expires_ms=10_000,
)
KEYS = [KeyPair(bytes([i]) * 32) for i in range(1, 5)]


class Rule:
    """Finish within the objective; the earliest wins."""

    def score(self, _bid, ask):
        return ask.predicted_finish_ms

    def cost(self, _prices, _usage):
        return 1

    def check_ask(self, bid, ask, _offer):
        if ask.predicted_finish_ms > bid.slo.ttft_ms + bid.slo.tpot_ms * bid.expected_output_tokens:
            raise Refusal("late")


def candidate(i):
    account = KEYS[i].account
    offer = Offer(
        model=Model(name="m", revision="1", precision="bf16", context_tokens=100),
        prices=PRICES,
        capacity=Capacity(sequences=1, tokens_per_s=1),
        promise=Promise(slo=BID.slo, percentile_ppm=1),
        accept_ppm=1,
        bond_micro=0,
        valid_from_ms=0,
        valid_until_ms=1,
        address=NodeAddress(node=NodeId(account)),
        sealing_key=SealingKey(account),
    )
    return Candidate(offer=EntryId(f"{i:064x}"), listed=ListedOffer(provider=account, offer=offer))


CANDIDATES = [candidate(i) for i in range(4)]


def arrived(i, finish_ms, at_ms=10):
    ask = Ask(
        bid=digest(BID),
        offer=CANDIDATES[i].offer,
        prices=PRICES,
        predicted_ttft_ms=1,
        predicted_finish_ms=finish_ms,
        slo=BID.slo,
        held_until_ms=1_000,
    )
    return AskArrived(at_ms=at_ms, offer=CANDIDATES[i].offer, ask=sign(KEYS[i], ask))


def auction(reserves=CANDIDATES[2:], margin_ppm=100_000):
    machine = Auction(BID, CANDIDATES[:2], Rule(), ask_timeout_ms=100, reserves=reserves, margin_ppm=margin_ppm)
    machine.step(Opened(at_ms=0))
    return machine


def asked(effects):
    return [effect.candidate for effect in effects if isinstance(effect, RequestAsk)]


def test_a_good_ask_ends_the_auction_in_one_round():
    """With an ask that meets the objective with margin, nobody else is asked."""
    machine = auction()
    assert asked(machine.step(arrived(0, 1_700))) == []
    (decided,) = machine.step(arrived(1, 5_000))
    assert isinstance(decided, Decided)


@pytest.mark.parametrize("finish_ms", [1_900, 5_000])
def test_without_a_good_ask_the_reserves_are_asked(finish_ms):
    """An ask that is late, or in time by less than the margin, is not good enough: more are asked, with a new deadline."""
    machine = auction()
    machine.step(arrived(0, finish_ms))
    effects = machine.step(arrived(1, finish_ms, at_ms=20))
    assert asked(effects) == CANDIDATES[2:]
    assert ArmDeadline(at_ms=120) in effects


def test_there_is_no_third_round():
    """After the reserves the best that is eligible wins, or nobody."""
    machine = auction()
    machine.step(arrived(0, 1_900))
    machine.step(arrived(1, 5_000))
    machine.step(arrived(2, 5_000))
    (decided,) = machine.step(arrived(3, 5_000))
    assert [standing.candidate for standing in decided.standings] == [CANDIDATES[0]]


def test_the_first_deadline_does_not_end_the_second_round():
    """A deadline armed for the first round says nothing of the second."""
    machine = auction()
    machine.step(arrived(0, 5_000, at_ms=50))
    machine.step(AskMissing(at_ms=60, offer=CANDIDATES[1].offer, declined=True, reason="busy"))
    assert machine.step(DeadlineReached(at_ms=100)) == []
    (decided,) = machine.step(DeadlineReached(at_ms=160))
    assert {judged.verdict for judged in decided.judged} == {"ineligible", "declined", "silent"}


def test_a_late_ask_of_the_first_round_still_counts():
    """Whoever was silent in the first round can still win in the second, and is not waited for."""
    machine = auction()
    machine.step(arrived(0, 5_000))
    assert asked(machine.step(DeadlineReached(at_ms=100))) == CANDIDATES[2:]
    assert machine.step(arrived(1, 1_000, at_ms=110)) == []
    machine.step(arrived(2, 5_000, at_ms=120))
    (decided,) = machine.step(arrived(3, 5_000, at_ms=130))
    assert decided.standings[0].candidate == CANDIDATES[1]


def test_without_reserves_there_is_one_round():
    """As many rounds as there are people to ask."""
    machine = auction(reserves=())
    machine.step(arrived(0, 5_000))
    (decided,) = machine.step(arrived(1, 5_000))
    assert decided.standings == ()
