"""A provider of the simulated market takes awards as a live one does."""

import pytest
from msgspec.structs import replace

from wwwmarket.crypto.digest import request_digest
from wwwmarket.crypto.signing import KeyPair, sign
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.model import ModelRequirement
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.records import Bid, Inclusion
from wwwmarket.market import award, execution
from wwwmarket.market.advance import CLIENT_SHARE
from wwwmarket.simulator.books import ORIGIN
from wwwmarket.simulator.marketplace import TERMS, Market
from wwwmarket.simulator.providing import QUEUE_FACTOR, REQUEST, SALT
from wwwmarket.simulator.scenario import build, load_scenario
from wwwmarket.simulator.world import World

TOKENS = 40


class Shop:
    """One client of one provider; awards are handed over, and the ledger's promise follows when it is told to."""

    def __init__(self) -> None:
        built = build(replace(load_scenario("mixed"), nodes=4, requests=1), 1)
        self.world = World(built.setup)
        self.market = Market(self.world)
        self.provider = self.market.providers[0]
        self.chain = self.market.chains[1]
        self.heard: dict[str, list[execution.Effect]] = {}

    def award(self, number: int) -> str:
        """Bid, be asked, award, hand over."""
        now_ms, key = self.world.loop.now_ms, self.chain.key
        bid = Bid(
            client=key.account,
            model=ModelRequirement(name=self.provider.terms.model.name),
            input_tokens=10 + number,
            max_input_tokens=10 + number,
            expected_output_tokens=TOKENS,
            max_output_tokens=TOKENS,
            max_price_micro=10**9,
            time_value_micro_per_s=0,
            slo=Slo(ttft_ms=10_000, tpot_ms=1_000),
            request_digest=request_digest(SALT, REQUEST),
            auctioneer=NodeId(key.account),
            issued_ms=now_ms,
            expires_ms=now_ms + 30_000,
        )
        ask = self.provider.answer(sign(key, bid)).ask
        contender = award.Contender(digest="0" * 64, ask=ask, offer=self.provider.terms)
        buyer = award.Buyer(bid, (contender,), (), self.market.ledger.books.state.rules.award, TERMS)
        (signing,) = buyer.step(award.Begun(at_ms=now_ms))
        entry = self.chain.sign(signing.award)
        said = self.heard.setdefault(entry.id, [])
        self.provider.execute(entry, signing.award, TOKENS, said.append)
        return entry.id

    def promise(self, name: str, operator: KeyPair | None = None) -> None:
        inclusion = Inclusion(entry=name, origin=ORIGIN, index=1, covered_by_ms=self.world.loop.now_ms + 1_000)
        self.provider.promised(name, sign(operator or self.market.ledger.books.key, inclusion))

    def run(self) -> None:
        """Ten seconds: any of these answers takes less."""
        until_us = self.world.loop.now_us + 10_000_000
        while self.world.loop.now_us < until_us:
            self.world.loop.step()

    def attested(self, name: str) -> list[str]:
        return [one.attestation.body.outcome for one in self.heard[name] if isinstance(one, execution.Attest)]


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_work_in_advance_of_the_ledger_is_bounded(shop):
    """One client has advances on a quarter of the sequences on offer; a further award waits, holds no place, and begins
    when its promise has come.
    """
    offered = QUEUE_FACTOR * shop.world.nodes[0].engine.limits.sequences_max
    names = [shop.award(number) for number in range(offered // CLIENT_SHARE + 1)]
    last = names[-1]
    assert shop.provider.seller.in_flight == len(names) - 1
    shop.run()
    assert not any(shop.heard.values())
    for name in names[:-1]:
        shop.promise(name)
        assert shop.attested(name) == ["completed"]
    assert shop.provider.seller.in_flight == 0
    shop.promise(last)
    assert shop.provider.seller.in_flight == 1
    shop.run()
    assert shop.attested(last) == ["completed"]


def test_beyond_the_door_awards_are_turned_away_and_attested(shop):
    """Whoever cannot even wait hears it at once, with an attestation of failure that frees its credits."""
    offered = shop.provider.terms.capacity.sequences
    names = [shop.award(number) for number in range(offered // CLIENT_SHARE + offered + 1)]
    assert [shop.attested(name) for name in names] == [[]] * (len(names) - 1) + [["failed"]]


def test_an_award_that_waits_can_be_taken_back(shop):
    """A client that gives up leaves nothing behind: the promise that comes later begins nothing."""
    offered = shop.provider.terms.capacity.sequences
    *_, last = [shop.award(number) for number in range(offered // CLIENT_SHARE + 1)]
    shop.provider.cancel(last)
    shop.promise(last)
    shop.run()
    assert not shop.heard[last]


def test_a_promise_of_another_is_none(shop):
    """Nothing is let out on a stranger's word: it ends the execution, and is attested as a failure."""
    name = shop.award(0)
    shop.promise(name, KeyPair(b"\x09" * 32))
    shop.run()
    assert shop.attested(name) == ["failed"]
    assert len(shop.heard[name]) == 1


def test_an_award_to_another_is_refused(shop):
    """It is not this provider's to answer."""
    terms = shop.provider.executions[shop.award(0)].terms
    with pytest.raises(Refusal):
        shop.market.providers[1].execute(shop.chain.sign(terms), terms, TOKENS, lambda _: None)
