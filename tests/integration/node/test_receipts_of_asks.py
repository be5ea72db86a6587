"""Whom an auctioneer tells what, and that nothing hangs on whether it is heard."""

import asyncio

from msgspec.structs import replace

from tests.integration.node.town import LoopClock, Town, simulate
from tests.unit.rules.world import CLIENT, OPERATOR, PROVIDER, RIVAL, make_ask, make_bid, named
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.records import NodeAddress
from wwwmarket.market.auction import JudgedAsk
from wwwmarket.node import messages
from wwwmarket.node.acknowledging import GATHERED_MS, SIGNED_AT_ONCE_MAX, WAITING_MAX, Acknowledging

BID = make_bid()
OFFERS = {named("near"): NodeAddress(node=PROVIDER.account), named("far"): NodeAddress(node=RIVAL.account)}


class Post:
    """Takes what is sent, and is never sure to deliver."""

    def __init__(self):
        self.sent = []

    async def request(self, address, message, *, timeout_ms):
        assert timeout_ms
        self.sent.append((address.node, messages.read_request(message)))
        raise Unavailable("nobody is there", retry_after_ms=1)


def judged(ask, offer, provider=PROVIDER, verdict="lost"):
    return JudgedAsk(
        provider=provider.account,
        offer=offer,
        ask=None if ask is None else ask.signed,
        digest=None if ask is None else digest(ask.body),
        score=None,
        cost_micro=None,
        verdict=verdict,
        reason="",
    )


def told(acknowledge, wait_ms=GATHERED_MS * 3):
    """What is sent, and what stays in the house, after ``acknowledge`` has been called with the machine."""
    post, kept = Post(), []

    async def story(_: Town) -> None:
        machine = Acknowledging(OPERATOR, post, LoopClock(), OFFERS.get, kept.append)
        running = asyncio.create_task(machine.run())
        acknowledge(machine)
        assert not post.sent
        await asyncio.sleep(wait_ms / 1_000)
        assert not running.done()
        running.cancel()

    simulate(story)
    return post.sent, kept


def test_those_who_asked_or_were_late_are_told_once():
    """Declining is an answer: it needs none. Who was silent may have asked too late."""
    ask = make_ask(PROVIDER, BID, named("near"))
    asks = [judged(ask, named("near")), judged(None, named("far"), RIVAL, "silent")]
    sent, kept = told(lambda machine: machine.acknowledge(BID, asks, named("award")))
    assert ({node for node, _ in sent}, kept) == ({PROVIDER.account, RIVAL.account}, [])
    (receipt,) = sent[0][1].receipts
    assert sent[1][1].receipts == (receipt,)
    assert signing.verify(receipt).by == OPERATOR.account
    assert (receipt.body.asks, receipt.body.award, receipt.body.bid) == (
        (digest(ask.body),),
        named("award"),
        digest(BID),
    )
    declined = [judged(ask, named("near")), judged(None, named("far"), RIVAL, "declined")]
    assert [node for node, _ in told(lambda machine: machine.acknowledge(BID, declined, None))[0]] == [PROVIDER.account]


def test_only_what_was_asked_for_is_acknowledged():
    """Another's ask, one about another offer, one for another bid: a receipt for them could be turned against it."""
    foreign = make_ask(RIVAL, BID, named("near"))
    elsewhere = make_ask(PROVIDER, BID, named("far"))
    other = make_ask(PROVIDER, make_bid(input_tokens=3), named("near"))
    asks = [judged(ask, named("near")) for ask in (foreign, elsewhere, other)]
    sent, _ = told(lambda machine: machine.acknowledge(BID, asks, named("award")))
    assert sent[0][1].receipts[0].body.asks == ()


def test_an_auction_of_anothers_bid_is_not_acknowledged():
    """Only the auctioneer that the bid names signs."""
    bid = replace(BID, auctioneer=CLIENT.account)
    asks = [judged(make_ask(PROVIDER, bid, named("near")), named("near"))]
    assert told(lambda machine: machine.acknowledge(bid, asks, None)) == ([], [])


def test_receipts_are_gathered_and_bounded():
    """Many auctions make few messages, each small enough to be read; a backlog drops its oldest."""

    def many(machine):
        for count in range(WAITING_MAX + 10):
            bid = make_bid(input_tokens=count)
            machine.acknowledge(bid, [judged(None, named("near"), verdict="silent")], None)

    sent, _ = told(many)
    receipts = [receipt for _, message in sent for receipt in message.receipts]
    assert len(receipts) == WAITING_MAX
    assert len(sent) == -(-WAITING_MAX // min(messages.RECEIPTS_MAX, SIGNED_AT_ONCE_MAX))
    assert receipts[0].body.bid == digest(make_bid(input_tokens=10))
    largest = replace(receipts[0], body=replace(receipts[0].body, asks=tuple(map(named, map(str, range(64))))))
    whole = canonical.encode(messages.Acknowledge(receipts=(largest,) * messages.RECEIPTS_MAX))
    assert isinstance(messages.read_request(whole), messages.Acknowledge)
