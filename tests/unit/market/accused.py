"""One auction with a provider who should have won, a rival who did, and every piece of the proof."""

from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    RIVAL,
    make_ask,
    make_award,
    make_bid,
    make_offer,
    named,
    prices,
)
from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import entry_id, sign, sign_entry
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import AsksReceived, Evidence

RULE = REGISTRY.current.award
AUCTIONEER = OPERATOR
BID = make_bid()
OFFER_ENTRY = sign_entry(PROVIDER, seq=0, prev=NO_ENTRY, body=make_offer())
OFFER_NAME = entry_id(OFFER_ENTRY)
ASK = make_ask(PROVIDER, BID, OFFER_NAME)
WORSE = make_ask(RIVAL, BID, named("rival's offer"), prices=prices(150_000, 40_000, 500_000))
BOTH = tuple(sorted((digest(ASK.body), digest(WORSE.body))))


def award_to_the_worse(*, listed=True, bid=BID):
    """The award's entry by the client, to the rival; ``listed``: with the better ask's digest."""
    asks = BOTH if listed else (digest(WORSE.body),)
    award = replace(make_award(bid, WORSE, make_offer(), None), asks=asks)
    return sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=award)


def receipt(award, signer=AUCTIONEER, **changes):
    """The auctioneer's receipt for both asks, which stands behind ``award`` (its name, or None)."""
    received = AsksReceived(bid=digest(BID), asks=BOTH, award=award, at_ms=BID.issued_ms + 100)
    return sign(signer, replace(received, **changes))


def text(entry):
    return canonical.encode(entry).decode()


def evidence_of(entry, **changes):
    """Good evidence about an award's entry, changed."""
    whole = Evidence(
        ask=ASK.signed, received=receipt(entry_id(entry)).signed, award=text(entry), offer=text(OFFER_ENTRY)
    )
    return replace(whole, **changes)
