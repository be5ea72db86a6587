"""The provider's answer to a bid: whether to ask at all, at what price, with what promise.

It promises never to ask above its offer, never to ask for what it cannot carry, and never while its engine's state is
unknown. It knows nothing of other providers, and holds nothing for longer than it says.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias, assert_never

from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, Verified, sign
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, PartsPerMillion, Prices
from wwwmarket.domain.records import Ask, Bid, Offer
from wwwmarket.domain.shape import Value


class Forecast(Value):
    """What the engine's model predicts for one request if it started now.

    ``burden_micro`` is what it would take from the work in hand (``dispatch.burden``).
    """

    ttft_ms: Millis
    finish_ms: Millis
    burden_micro: MicroCredits = 0


class Forecaster(Protocol):
    """The provider's own model of its engine (``dispatch``). None while the engine's state is unknown."""

    def forecast(self, *, input_tokens: int, output_tokens: int, held: int) -> Forecast | None: ...
    def next_end_ms(self) -> Millis | None:
        """From now until the first of the work in hand ends; None where nobody can say."""
        ...


class Picture(Value):
    """A provider at the moment when a bid comes, as far as its policy may go by it. Work is counted in sequences."""

    at_ms: Millis
    client: AccountId
    sold: Count
    own_running: Count
    own_waiting: Count
    sequences: Count


class Policy(Protocol):
    """The provider's own rules (``market.policy``)."""

    def decide(self, picture: Picture) -> str | None:
        """None: accept. Otherwise why not."""
        ...

    def price_ppm(self, sold: Count, sequences: Count) -> PartsPerMillion:
        """The share of the list prices to ask for at this load."""
        ...


class Admission(Protocol):
    """Who gets the last places (``market.admission``)."""

    def admits(self, worth_micro_per_s: MicroCredits, *, taken: Count, places: Count) -> bool:
        """Whether a bid may have one of the places that are left."""
        ...


class BidReceived(Value):
    """``chance_ppm`` is uniform in [0, 1,000,000): it decides acceptance where the offer accepts a share only.

    ``own_running`` and ``own_waiting`` are the engine's sequences that are not the market's.
    """

    at_ms: Millis
    bid: Verified[Bid]
    offer: EntryId
    chance_ppm: Count
    own_running: Count = 0
    own_waiting: Count = 0


class OfferListed(Value):
    offer: EntryId
    terms: Offer


class OfferUnlisted(Value):
    offer: EntryId


class ExecutionStarted(Value):
    """The winner's award has arrived: its hold becomes work."""

    bid: Digest


class ExecutionEnded(Value):
    pass


class DrainBegun(Value):
    pass


Event: TypeAlias = BidReceived | OfferListed | OfferUnlisted | ExecutionStarted | ExecutionEnded | DrainBegun


class AskSent(Value):
    ask: Verified[Ask]


class BidDeclined(Value):
    """``retry_after_ms`` is when a place is expected to be free, where that is what was missing."""

    reason: str
    retry_after_ms: Millis


Effect: TypeAlias = AskSent | BidDeclined

WHOLE_PPM: Final = 1_000_000
TOKENS_PER_PRICE_UNIT: Final = 1_000_000
HOLDS_MAX: Final = 4_096
"""Bids that may be held at once; each hold lives for a fraction of a second."""


class Seller:
    """``policy`` decides whether it asks at all, and for which share of its list prices."""

    def __init__(  # noqa: PLR0913 - what a seller decides by
        self,
        key: KeyPair,
        forecaster: Forecaster,
        policy: Policy,
        admission: Admission,
        *,
        hold_ms: int,
        asked_per_bid: int,
    ) -> None:
        self._key = key
        self._forecaster = forecaster
        self._hold_ms = hold_ms
        self._asked_per_bid = asked_per_bid
        self._policy = policy
        self._offers: dict[EntryId, Offer] = {}
        self._holds: dict[Digest, Millis] = {}
        self._in_flight = 0
        self._draining = False
        self._admission = admission

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def offers(self) -> Mapping[EntryId, Offer]:
        """What stands on the ledger in this provider's name."""
        return MappingProxyType(self._offers)

    def offered(self, offer: EntryId) -> Offer | None:
        return self._offers.get(offer)

    def step(self, event: Event) -> list[Effect]:
        match event:
            case BidReceived():
                return [self._answer(event)]
            case OfferListed():
                self._offers[event.offer] = event.terms
            case OfferUnlisted():
                self._offers.pop(event.offer, None)
            case ExecutionStarted():
                self._holds.pop(event.bid, None)
                self._in_flight += 1
            case ExecutionEnded():
                assert self._in_flight > 0, "an execution ends once"
                self._in_flight -= 1
            case DrainBegun():
                self._draining = True
            case _:
                assert_never(event)
        return []

    def has_room(self, offer: Offer) -> bool:
        """Whether one more execution fits into what was offered."""
        return not self._draining and self._in_flight < offer.capacity.sequences

    def _answer(self, event: BidReceived) -> Effect:
        offer = self._offers.get(event.offer)
        bid = event.bid.body
        self._forget_old_holds(event.at_ms)
        reason = self._why_not(offer, event)
        if reason is not None or offer is None:
            return BidDeclined(reason=reason or "this offer is not ours", retry_after_ms=self._hold_ms)
        reason = self._why_no_place(offer, event)
        if reason is not None:
            next_end_ms = self._forecaster.next_end_ms() or 0
            return BidDeclined(reason=reason, retry_after_ms=max(self._hold_ms, next_end_ms))
        forecast = self._forecaster.forecast(
            input_tokens=bid.input_tokens,
            output_tokens=bid.expected_output_tokens,
            held=self._likely_wins(),
        )
        if forecast is None:
            return BidDeclined(reason="the engine's state is unknown", retry_after_ms=self._hold_ms)
        held_until_ms = event.at_ms + self._hold_ms
        ask = Ask(
            bid=digest(bid),
            offer=event.offer,
            prices=self._prices(offer, bid, forecast.burden_micro),
            predicted_ttft_ms=forecast.ttft_ms,
            predicted_finish_ms=forecast.finish_ms,
            slo=offer.promise.slo,
            held_until_ms=held_until_ms,
        )
        self._holds[ask.bid] = held_until_ms
        return AskSent(ask=sign(self._key, ask))

    def _why_not(self, offer: Offer | None, event: BidReceived) -> str | None:
        bid = event.bid.body
        checks = (
            (offer is None, "this offer is not ours, or no longer listed"),
            (event.bid.by != bid.client, "the bid is not signed by its client"),
            (event.at_ms > bid.expires_ms, "the bid has expired"),
            (self._draining, "the provider is leaving"),
            (len(self._holds) >= HOLDS_MAX, "too many bids are held"),
        )
        for failed, reason in checks:
            if failed:
                return reason
        assert offer is not None
        if bid.model.name != offer.model.name:
            return f"this offer is for {offer.model.name}"
        if bid.max_input_tokens + bid.max_output_tokens > offer.model.context_tokens:
            return f"the request may need more than the model's {offer.model.context_tokens} tokens of context"
        return "the provider's policy accepts a share of bids only" if event.chance_ppm >= offer.accept_ppm else None

    def _why_no_place(self, offer: Offer, event: BidReceived) -> str | None:
        """Reasons that pass when some of the work in hand has ended, or may."""
        places, worth = offer.capacity.sequences, event.bid.body.time_value_micro_per_s
        admitted = self._admission.admits(worth, taken=self._in_flight, places=places)
        if not self.has_room(offer):
            return f"all {places} sequences on offer are busy"
        reason = self._policy.decide(self._picture(offer, event))
        return reason or (None if admitted else "the last places are kept for those to whom a second is worth more")

    def _picture(self, offer: Offer, event: BidReceived) -> Picture:
        return Picture(
            at_ms=event.at_ms,
            client=event.bid.body.client,
            sold=self._in_flight,
            own_running=event.own_running,
            own_waiting=event.own_waiting,
            sequences=offer.capacity.sequences,
        )

    def _prices(self, offer: Offer, bid: Bid, burden_micro: MicroCredits) -> Prices:
        """The policy's share of the list prices and the burden on top, rounded up, never above the list.

        What this request takes from those in hand is a cost like any other: settlement takes it from the provider
        again, as refunds for answers that come later than they were promised.
        """
        listed = offer.prices
        tokens_micro = bid.input_tokens * listed.input_micro_per_mtok
        tokens_micro += bid.expected_output_tokens * listed.output_micro_per_mtok
        burden_ppm = burden_micro * WHOLE_PPM * TOKENS_PER_PRICE_UNIT // max(tokens_micro, 1)
        share_ppm = min(self._policy.price_ppm(self._in_flight, offer.capacity.sequences) + burden_ppm, WHOLE_PPM)
        return Prices(
            input_micro_per_mtok=-(-listed.input_micro_per_mtok * share_ppm // WHOLE_PPM),
            cached_input_micro_per_mtok=-(-listed.cached_input_micro_per_mtok * share_ppm // WHOLE_PPM),
            output_micro_per_mtok=-(-listed.output_micro_per_mtok * share_ppm // WHOLE_PPM),
        )

    def _forget_old_holds(self, now_ms: int) -> None:
        for bid in [bid for bid, until_ms in self._holds.items() if until_ms < now_ms]:
            del self._holds[bid]

    def _likely_wins(self) -> int:
        """Each held bid was put to several providers, of whom one wins: expect that share of them, rounded up."""
        return -(-len(self._holds) // self._asked_per_bid)
