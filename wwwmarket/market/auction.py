"""One sealed reverse auction: ask a few providers, and a few more if none is good enough; rank what came back.

It promises that the ranking depends only on which asks arrived in time, never on their order, and that every asked
provider is accounted for with a reason. It does not know how asks travel, nor what becomes of the winner.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, Literal, Protocol, TypeAlias, assert_never

from msgspec.structs import replace

from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import Verified
from wwwmarket.domain.book import ListedOffer
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import AccountId, Digest, EntryId, NodeId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Prices, Slo, Usage
from wwwmarket.domain.records import Ask, Bid, Offer, Signed
from wwwmarket.domain.shape import Value


class Candidate(Value):
    """An offer on the ledger that may be asked."""

    offer: EntryId
    listed: ListedOffer

    @property
    def node(self) -> NodeId:
        """Where it is asked."""
        return self.listed.offer.address.node


class Opened(Value):
    at_ms: Millis


class AskArrived(Value):
    at_ms: Millis
    offer: EntryId
    ask: Verified[Ask]


class AskMissing(Value):
    """The provider declined, or could not be reached. ``retry_after_ms`` is when it says that it might not decline."""

    at_ms: Millis
    offer: EntryId
    declined: bool
    reason: str
    retry_after_ms: Millis | None = None


class DeadlineReached(Value):
    at_ms: Millis


Event: TypeAlias = Opened | AskArrived | AskMissing | DeadlineReached


class RequestAsk(Value):
    candidate: Candidate


class ArmDeadline(Value):
    at_ms: Millis


class Decided(Value):
    """The auction is over. ``standings`` are the eligible asks, best first; ``digests`` are of all asks received.

    ``soonest_ms`` from now the first of those asked expects to be able to meet the bid; None where nobody said so.
    """

    standings: tuple["Standing", ...]
    digests: tuple[Digest, ...]
    judged: tuple["JudgedAsk", ...]
    soonest_ms: Millis | None = None


Effect: TypeAlias = RequestAsk | ArmDeadline | Decided


class Standing(Value):
    """An eligible ask in its place."""

    score: Count
    digest: Digest
    ask: Verified[Ask]
    candidate: Candidate


Verdict: TypeAlias = Literal["won", "runner_up", "lost", "ineligible", "declined", "silent", "failed"]
_PLACES: dict[int, Verdict] = {0: "won", 1: "runner_up"}


class JudgedAsk(Value):
    """One provider's part in an auction, and why it won or lost.

    ``score`` is None where there is no ask to score. ``reason`` is a sentence for people; ``ask`` carries the
    provider's signature, so that a wrong verdict can be proven.
    """

    provider: AccountId
    offer: EntryId
    ask: Signed[Ask] | None
    digest: Digest | None
    score: Count | None
    cost_micro: MicroCredits | None
    verdict: Verdict
    reason: str


class PricingRule(Protocol):
    """The award contract's arithmetic, as far as an auction needs it."""

    def score(self, bid: Bid, ask: Ask) -> int: ...
    def cost(self, prices: Prices, usage: Usage) -> MicroCredits: ...
    def check_ask(self, bid: Bid, ask: Ask, offer: Offer) -> None:
        """Raises a Refusal that says why this ask cannot win this bid."""
        ...


WHOLE_PPM: Final = 1_000_000
HURRY_MS_MIN: Final = 50
"""On one machine answers come within a millisecond or two; a busy one deserves more than that again."""
AGAIN_MS: Final = 1_000
"""When to come again where nobody could say; what a forecast cannot tell changes in about that time."""
AGAIN_MS_MIN: Final = 1_000
"""No provider's word makes clients come again sooner."""
AGAIN_MS_MAX: Final = 30_000
"""Nor later: forecasts of the next minute are about work that has not come yet."""


def come_again_ms(soonest_ms: Millis | None, chance_ppm: Count) -> Millis:
    """Retry-After of an auction that found nobody: when the soonest of those asked expects to be able to, within
    bounds, and by chance (uniform in [0, 1,000,000)) up to half as long again: who was refused together shall not come
    again together.
    """
    expected_ms = AGAIN_MS if soonest_ms is None else min(max(soonest_ms, AGAIN_MS_MIN), AGAIN_MS_MAX)
    return expected_ms + expected_ms * chance_ppm // (2 * WHOLE_PPM)


def draw(candidates: Sequence[Candidate], chance: bytes, count: int) -> tuple[Candidate, ...]:
    """``count`` candidates, uniformly by ``chance`` (32 unpredictable bytes), whatever order they are given in."""
    shuffled = sorted(candidates, key=lambda candidate: sha256(chance + bytes.fromhex(candidate.offer)).digest())
    return tuple(shuffled[:count])


def seat_newcomer(
    ranked: Sequence[Candidate], seats: int, is_new: Callable[[AccountId], bool]
) -> tuple[Candidate, ...]:
    """The same, with the first newcomer in the last of the first ``seats``, unless one is seated or there is none."""
    place = next((place for place, one in enumerate(ranked) if is_new(one.listed.provider)), None)
    if place is None or place < seats or not seats:
        return tuple(ranked)
    rest = [*ranked[:place], *ranked[place + 1 :]]
    return (*rest[: seats - 1], ranked[place], *rest[seats - 1 :])


class Auction:
    """``reserves`` are asked in a second round, once, when after the first no ask meets the bid's objective with
    ``margin_ppm`` of it to spare. An ask of the first round that comes during the second still counts.
    """

    def __init__(  # noqa: PLR0913 - who is asked, about what, by which rule, for how long
        self,
        bid: Bid,
        candidates: Sequence[Candidate],
        pricing: PricingRule,
        *,
        ask_timeout_ms: int,
        reserves: Sequence[Candidate] = (),
        margin_ppm: int = 0,
    ) -> None:
        assert candidates, "an auction asks somebody"
        self._bid = bid
        self._bid_digest = digest(bid)
        self._expected = Usage(
            input_tokens=bid.input_tokens, cached_input_tokens=0, output_tokens=bid.expected_output_tokens
        )
        self._strict = _with_margin(bid, margin_ppm)
        self._pricing = pricing
        self._ask_timeout_ms = ask_timeout_ms
        self._waiting = {candidate.offer: candidate for candidate in candidates}
        self._late: dict[EntryId, Candidate] = {}
        self._reserves = tuple(candidate for candidate in reserves if candidate.offer not in self._waiting)
        self._asked = len(self._waiting)
        self._opened_ms: Millis = 0
        self._hurried = False
        self._second = False
        self._deadline_ms: Millis = 0
        self._asks: list[tuple[Candidate, Verified[Ask]]] = []
        self._missing: list[tuple[Candidate, AskMissing]] = []
        self._decided = False

    def step(self, event: Event) -> list[Effect]:
        if self._decided:
            return []
        match event:
            case Opened():
                self._opened_ms = event.at_ms
                return self._request(event.at_ms)
            case AskArrived():
                return self._arrived(event)
            case AskMissing():
                return self._absent(event)
            case DeadlineReached():
                return self._due(event)
            case _:
                assert_never(event)

    def _request(self, at_ms: int) -> list[Effect]:
        self._deadline_ms = at_ms + self._ask_timeout_ms
        asked: list[Effect] = [RequestAsk(candidate=candidate) for candidate in self._waiting.values()]
        return [*asked, ArmDeadline(at_ms=self._deadline_ms)]

    def _arrived(self, event: AskArrived) -> list[Effect]:
        candidate = self._answered(event.offer)
        if candidate is None:
            return []
        self._asks.append((candidate, event.ask))
        return self._hurry(event.at_ms) if self._waiting else self._end_round(event.at_ms)

    def _absent(self, event: AskMissing) -> list[Effect]:
        candidate = self._answered(event.offer)
        if candidate is None:
            return []
        self._missing.append((candidate, event))
        return self._hurry(event.at_ms) if self._waiting else self._end_round(event.at_ms)

    def _hurry(self, at_ms: int) -> list[Effect]:
        """Once half have answered, and one well enough, the others have as long again as those took: the silent cost
        little then. In the second round nobody was good enough, and everybody is waited for.
        """
        due_ms = at_ms + max(at_ms - self._opened_ms, HURRY_MS_MIN)
        if self._hurried or self._second or 2 * len(self._waiting) > self._asked or due_ms >= self._deadline_ms:
            return []
        if not self._is_good_enough():
            return []
        self._hurried = True
        return [ArmDeadline(at_ms=due_ms)]

    def _answered(self, offer: EntryId) -> Candidate | None:
        return self._waiting.pop(offer, None) or self._late.pop(offer, None)

    def _due(self, event: DeadlineReached) -> list[Effect]:
        """The first round's deadline means nothing once the second has begun."""
        of_first = self._second and event.at_ms < self._deadline_ms
        return [] if of_first else self._end_round(event.at_ms)

    def _end_round(self, at_ms: int) -> list[Effect]:
        if not self._reserves or self._is_good_enough():
            return self._decide()
        self._late = self._waiting
        self._waiting = {candidate.offer: candidate for candidate in self._reserves}
        self._reserves = ()
        self._second = True
        return self._request(at_ms)

    def _is_good_enough(self) -> bool:
        for candidate, ask in self._asks:
            try:
                self._check(candidate, ask)
                self._pricing.check_ask(self._strict, ask.body, candidate.listed.offer)
            except Refusal:
                continue
            return True
        return False

    def _decide(self) -> list[Effect]:
        self._decided = True
        standings: list[Standing] = []
        silent = [*self._late.values(), *self._waiting.values()]
        judged: list[JudgedAsk] = [self._silent(candidate) for candidate in silent]
        judged += [_absence(candidate, missing) for candidate, missing in self._missing]
        digests: list[Digest] = []
        for candidate, ask in self._asks:
            name = digest(ask.body)
            digests.append(name)
            try:
                self._check(candidate, ask)
            except Refusal as refusal:
                judged.append(self._judge(candidate, ask, name, "ineligible", refusal.message))
            else:
                score = self._pricing.score(self._bid, ask.body)
                standings.append(Standing(score=score, digest=name, ask=ask, candidate=candidate))
        standings.sort(key=lambda standing: (standing.score, standing.digest))
        judged = [*self._verdicts(standings), *sorted(judged, key=lambda ask: (ask.verdict, ask.offer))]
        return [
            Decided(
                standings=tuple(standings),
                digests=tuple(sorted(set(digests))),
                judged=tuple(judged),
                soonest_ms=self._soonest_ms(),
            ),
        ]

    def _soonest_ms(self) -> Millis | None:
        """Of those who declined by their word; of asks that are too late by as much as they are."""
        said = [missing.retry_after_ms for _, missing in self._missing if missing.retry_after_ms is not None]
        late = [_late_ms(self._bid, ask.body) for _, ask in self._asks]
        return min([*said, *(ms for ms in late if ms > 0)], default=None)

    def _check(self, candidate: Candidate, ask: Verified[Ask]) -> None:
        if ask.by != candidate.listed.provider:
            raise Refusal("the ask is not signed by the provider of the offer")
        if ask.body.offer != candidate.offer:
            raise Refusal("the ask is for another offer than the one asked")
        if ask.body.bid != self._bid_digest:
            raise Refusal("the ask answers another bid")
        self._pricing.check_ask(self._bid, ask.body, candidate.listed.offer)

    def _verdicts(self, standings: Sequence[Standing]) -> list[JudgedAsk]:
        verdicts: list[JudgedAsk] = []
        for place, standing in enumerate(standings):
            behind = standing.score - standings[0].score
            if place == 0:
                reason = f"the lowest score of {len(standings)}"
            elif behind == 0:
                reason = "tied with the winner; the lower digest wins a tie"
            else:
                reason = f"its score is {behind} above the winner's"
            verdict = _PLACES.get(place, "lost")
            verdicts.append(
                self._judge(standing.candidate, standing.ask, standing.digest, verdict, reason, score=standing.score)
            )
        return verdicts

    def _judge(  # noqa: PLR0913 - the columns of one row
        self,
        candidate: Candidate,
        ask: Verified[Ask],
        name: Digest,
        verdict: Verdict,
        reason: str,
        *,
        score: int | None = None,
    ) -> JudgedAsk:
        return JudgedAsk(
            provider=candidate.listed.provider,
            offer=candidate.offer,
            ask=ask.signed,
            digest=name,
            score=score,
            cost_micro=self._pricing.cost(ask.body.prices, self._expected),
            verdict=verdict,
            reason=reason,
        )

    def _silent(self, candidate: Candidate) -> JudgedAsk:
        reason = f"no answer within {self._ask_timeout_ms} ms"
        if self._hurried:
            reason = "no answer while the others answered, nor in as long again"
        return _no_ask(candidate, "silent", reason)


def _late_ms(bid: Bid, ask: Ask) -> int:
    """By how much an ask misses the bid's objective: were all that it has in hand so much further, it would not."""
    finish_ms_max = bid.slo.ttft_ms + bid.slo.tpot_ms * bid.expected_output_tokens
    return max(ask.predicted_ttft_ms - bid.slo.ttft_ms, ask.predicted_finish_ms - finish_ms_max)


def _with_margin(bid: Bid, margin_ppm: int) -> Bid:
    """The same bid with an objective so much tighter."""
    slo, kept = bid.slo, WHOLE_PPM - margin_ppm
    tighter = Slo(ttft_ms=slo.ttft_ms * kept // WHOLE_PPM, tpot_ms=slo.tpot_ms * kept // WHOLE_PPM)
    return replace(bid, slo=tighter)


def _absence(candidate: Candidate, missing: AskMissing) -> JudgedAsk:
    return _no_ask(candidate, "declined" if missing.declined else "silent", missing.reason)


def _no_ask(candidate: Candidate, verdict: Verdict, reason: str) -> JudgedAsk:
    return JudgedAsk(
        provider=candidate.listed.provider,
        offer=candidate.offer,
        ask=None,
        digest=None,
        score=None,
        cost_micro=None,
        verdict=verdict,
        reason=reason,
    )
