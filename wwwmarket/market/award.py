"""The buyer's side of one request, from a decided auction to a settled award.

It promises: one award at a time; the next-best ask when a winner fails before its first token, and never after it; a
receipt for whatever was delivered; an end for the client in every case. It does not know how bytes are sealed or sent.
"""

from typing import Final, Literal, Protocol, TypeAlias, assert_never

from wwwmarket.crypto.digest import ResponseHasher
from wwwmarket.crypto.signing import Verified
from wwwmarket.domain.book import Clearing
from wwwmarket.domain.errors import Conflict, Refusal, Unavailable
from wwwmarket.domain.identity import Digest, EntryId
from wwwmarket.domain.quantity import NO_USAGE, Count, Millis, Usage
from wwwmarket.domain.records import Ask, Attestation, Award, Bid, Inclusion, Offer, Receipt, Signed
from wwwmarket.domain.shape import Value

_WORTH_A_RETRY: Final = frozenset({"chain", "offer_not_listed"})
PLACES_LOST_MAX: Final = 2
"""Times that an award may lose its place in its client's chain and be signed anew, beside the attempts: that is the
fault of another entry of the client's, and no provider has been tried.
"""


class Contender(Value):
    """An eligible ask of the auction, with the offer it was made from; given best first."""

    digest: Digest
    ask: Verified[Ask]
    offer: Offer


class ClearingRule(Protocol):
    """The award contract's second-score price."""

    def clear(self, bid: Bid, ask: Ask, offer: Offer, runner_up: Ask | None) -> Clearing: ...


class Terms(Value):
    """What the buyer allows an execution; the node's configuration fills it."""

    attempts_max: Count
    bound_base_ms: Millis
    bound_factor: Count
    execution_max_ms: Millis
    claim_after_ms: Millis
    claim_window_ms: Millis
    first_token_slack_ms: Millis
    first_token_slack_percent: Count = 0
    """Of the promised time to first token; the larger slack counts."""


class Begun(Value):
    at_ms: Millis


class Adopted(Value):
    """Instead of Begun: the client has signed the award to the first contender itself; there is no second attempt."""

    at_ms: Millis
    award: EntryId


class AwardSigned(Value):
    at_ms: Millis
    award: EntryId


class AwardRefused(Value):
    """The ledger refused the award (or could not be reached): it binds nobody."""

    at_ms: Millis
    award: EntryId | None
    refusal: Refusal


class Included(Value):
    at_ms: Millis
    award: EntryId
    inclusion: Verified[Inclusion]


class AnswerStarted(Value):
    at_ms: Millis
    award: EntryId
    content_type: str


class PieceArrived(Value):
    at_ms: Millis
    award: EntryId
    data: bytes
    tokens: bool


class Attested(Value):
    """``reason`` says why, where it is not completed; ``engine`` is the engine's own refusal, if it made one.
    ``counted`` is what of the attested usage a recount agrees with, where there was one.
    """

    at_ms: Millis
    award: EntryId
    attestation: Verified[Attestation]
    reason: str
    engine: tuple[int, bytes] | None = None
    counted: Usage | None = None


class ExecutionBroken(Value):
    """The winner is gone, or said what it must not: no attestation will come."""

    at_ms: Millis
    award: EntryId
    reason: str


class FirstTokenOverdue(Value):
    at_ms: Millis
    award: EntryId


class ClientGone(Value):
    at_ms: Millis


Event: TypeAlias = (
    Begun
    | Adopted
    | AwardSigned
    | AwardRefused
    | Included
    | AnswerStarted
    | PieceArrived
    | Attested
    | ExecutionBroken
    | FirstTokenOverdue
    | ClientGone
)


class SignAward(Value):
    """Sign as the client's next entry, persist, submit; ``contender`` is who will be handed it."""

    award: Award
    contender: Contender
    attempt: Count


class HandOver(Value):
    award: EntryId
    contender: Contender


class ForwardPromise(Value):
    award: EntryId
    inclusion: Signed[Inclusion]


class ArmFirstToken(Value):
    award: EntryId
    at_ms: Millis


class Start(Value):
    content_type: str


class Deliver(Value):
    data: bytes
    tokens: bool


class Cancel(Value):
    """Ask the winner to stop and attest; its last pieces and its attestation are still read."""

    award: EntryId


class Abandon(Value):
    """Drop the execution: nothing more of it is read.

    ``disowned`` is the receipt of nothing that its provider is to have, where it might have sent what never came.
    """

    award: EntryId
    disowned: Receipt | None = None


class Settle(Value):
    attestation: Signed[Attestation]
    receipt: Receipt


class Finish(Value):
    """The request is over and answered."""

    award: EntryId
    outcome: Literal["completed", "cancelled", "failed"]
    usage: Usage
    ttft_ms: Millis | None
    latency_ms: Millis


class Fail(Value):
    """The request is over without an answer, or with a broken one."""

    refusal: Refusal
    engine: tuple[int, bytes] | None = None


Effect: TypeAlias = (
    SignAward | HandOver | ForwardPromise | ArmFirstToken | Start | Deliver | Cancel | Abandon | Settle | Finish | Fail
)


class Buyer:
    def __init__(
        self,
        bid: Bid,
        contenders: tuple[Contender, ...],
        asks: tuple[Digest, ...],
        rule: ClearingRule,
        terms: Terms,
    ) -> None:
        assert contenders, "a buyer needs an eligible ask"
        self._bid = bid
        self._left = list(contenders)
        self._asks = asks
        self._rule = rule
        self._terms = terms
        self._attempt = 0
        self._places_lost = 0
        self._award: EntryId | None = None
        self._contender: Contender | None = None
        self._begun_ms = 0
        self._first_token_ms: int | None = None
        self._content_type: str | None = None
        self._arrived = False
        self._adopted = False
        self._hasher = ResponseHasher()
        self._token_bytes = 0
        self._client_gone = False
        self._over = False

    @property
    def over(self) -> bool:
        return self._over

    def step(self, event: Event) -> list[Effect]:  # noqa: C901, PLR0911, PLR0912 - one case an event
        if self._over or self._is_stale(event):
            return []
        match event:
            case Begun():
                self._begun_ms = event.at_ms
                return self._try_next(event.at_ms, "nobody was asked")
            case Adopted():
                return self._adopt(event)
            case AwardSigned():
                return self._hand_over(event.at_ms, event.award)
            case AwardRefused():
                return self._refused(event)
            case Included():
                return [ForwardPromise(award=event.award, inclusion=event.inclusion.signed)]
            case AnswerStarted():
                return self._answer_started(event)
            case PieceArrived():
                return self._piece(event)
            case Attested():
                return self._attested(event)
            case ExecutionBroken():
                return self._broken(event.at_ms, event.reason)
            case FirstTokenOverdue():
                return self._overdue(event)
            case ClientGone():
                return self._gone()
            case _:
                assert_never(event)

    @property
    def _tried(self) -> Count:
        return self._attempt - self._places_lost

    def _is_stale(self, event: Event) -> bool:
        """Whatever comes late of an earlier attempt is not about this one."""
        if isinstance(event, Begun | Adopted | AwardSigned | ClientGone):
            return False
        return event.award is not None and event.award != self._award

    def _try_next(self, at_ms: int, reason: str) -> list[Effect]:
        if not self._left or self._tried >= self._terms.attempts_max:
            tried = f"none of the {self._tried} best providers could start this request, the last because: "
            return self._fail(Unavailable(tried + reason, retry_after_ms=1_000))
        winner, *others = self._left
        self._left = others
        self._attempt += 1
        self._contender = winner
        self._award = None
        self._content_type = None
        self._hasher = ResponseHasher()
        self._token_bytes = 0
        return [SignAward(award=self._propose(at_ms, winner, others), contender=winner, attempt=self._attempt)]

    def _propose(self, at_ms: int, winner: Contender, others: list[Contender]) -> Award:
        rival = next((other for other in others if other.ask.by != winner.ask.by), None)
        clearing = self._rule.clear(self._bid, winner.ask.body, winner.offer, None if rival is None else rival.ask.body)
        return propose(self._bid, winner, rival, self._asks, clearing, at_ms, self._terms)

    def _adopt(self, event: Adopted) -> list[Effect]:
        self._begun_ms = event.at_ms
        self._contender = self._left[0]
        self._left = []
        self._attempt = 1
        self._adopted = True
        return self._hand_over(event.at_ms, event.award)

    def _hand_over(self, at_ms: int, award: EntryId) -> list[Effect]:
        assert self._contender is not None
        self._award = award
        if self._client_gone:
            return self._fail(Conflict("the client closed the request before it was handed over"))
        promised_ms = self._contender.ask.body.predicted_ttft_ms
        grown_ms = promised_ms * self._terms.first_token_slack_percent // 100
        due_ms = at_ms + promised_ms + max(self._terms.first_token_slack_ms, grown_ms)
        return [
            HandOver(award=award, contender=self._contender),
            ArmFirstToken(award=award, at_ms=due_ms),
        ]

    def _refused(self, event: AwardRefused) -> list[Effect]:
        """A refusal is the ledger's last word on this money. Where this node signs, a lost place in the chain is worth
        a retry, and an offer that has left the market since it was asked is no reason to leave the next-best unasked.
        """
        dropped: list[Effect] = [] if self._award is None else [Abandon(award=self._award)]
        final = self._arrived or self._adopted or self._client_gone
        if final or self._contender is None or event.refusal.reason not in _WORTH_A_RETRY:
            return [*dropped, *self._fail(event.refusal)]
        if event.refusal.reason == "chain":
            if self._places_lost == PLACES_LOST_MAX:
                message = f"other entries of this account took its award's place each time: {event.refusal.message}"
                return [*dropped, *self._fail(Unavailable(message, retry_after_ms=1_000))]
            self._left.insert(0, self._contender)
            self._places_lost += 1
        return [*dropped, *self._try_next(event.at_ms, event.refusal.message)]

    def _answer_started(self, event: AnswerStarted) -> list[Effect]:
        """Nothing is begun for the client before there is something to give: until then another can be asked."""
        if self._content_type is not None:
            return self._broken(event.at_ms, "the provider began its answer twice")
        self._content_type = event.content_type
        return []

    def _piece(self, event: PieceArrived) -> list[Effect]:
        if self._content_type is None:
            return self._broken(event.at_ms, "the provider sent an answer that it had not begun")
        opening: list[Effect] = [] if self._arrived else [Start(content_type=self._content_type)]
        self._arrived = True
        self._hasher.update(event.data)
        if event.tokens:
            self._token_bytes += len(event.data)
            if self._first_token_ms is None:
                self._first_token_ms = event.at_ms
        return [] if self._client_gone else [*opening, Deliver(data=event.data, tokens=event.tokens)]

    def _attested(self, event: Attested) -> list[Effect]:
        said = event.attestation.body
        assert self._award is not None
        assert self._contender is not None
        about = (said.award, said.request_digest)
        if event.attestation.by != self._contender.ask.by or about != (self._award, self._bid.request_digest):
            return self._broken(event.at_ms, "the provider attested another execution than its own")
        receipt = self._receipt(event.at_ms, said, event.counted)
        settle = Settle(attestation=event.attestation.signed, receipt=receipt)
        if said.outcome != "failed" and (self._arrived or self._client_gone):
            self._over = True
            return [settle, self._finish(event.at_ms, said.outcome, receipt.usage)]
        if said.outcome != "failed":
            reason = f"the provider attested {said.outcome} without an answer"
            return [settle, *self._broken(event.at_ms, reason, settled=True)]
        if event.engine is not None:
            refusal = Refusal("the engine refused the request", reason="engine_refused")
            return [settle, *self._fail(refusal, event.engine)]
        return [settle, *self._broken(event.at_ms, f"{event.reason}; nothing is charged for it", settled=True)]

    def _receipt(self, at_ms: int, said: Attestation, counted: Usage | None) -> Receipt:
        usage = self._plausible(said.usage, counted or said.usage)
        seen = self._hasher.digest()
        agreed = said.response_digest == seen and usage == said.usage
        return Receipt(
            award=said.award,
            response_digest=seen,
            usage=usage,
            ttft_ms=None if self._first_token_ms is None else max(0, self._first_token_ms - self._begun_ms),
            latency_ms=max(0, at_ms - self._begun_ms),
            verdict="agreed" if agreed else "disputed",
        )

    def _plausible(self, usage: Usage, counted: Usage) -> Usage:
        """What was counted; and nobody can have read more than was bid for, nor written more tokens than bytes."""
        if not self._arrived:
            return NO_USAGE
        input_tokens = min(usage.input_tokens, counted.input_tokens, self._bid.max_input_tokens)
        return Usage(
            input_tokens=input_tokens,
            cached_input_tokens=min(usage.cached_input_tokens, input_tokens),
            output_tokens=min(
                usage.output_tokens, counted.output_tokens, self._bid.max_output_tokens, self._token_bytes
            ),
        )

    def _broken(self, at_ms: int, reason: str, *, settled: bool = False) -> list[Effect]:
        """Before the first token the next-best ask is taken; after it the client hears what happened.

        A provider that might have sent what never came is told so: nobody pays for the answer of another as well.
        """
        assert self._award is not None
        nothing = None if settled or self._client_gone else self._nothing(at_ms, self._award)
        dropped = Abandon(award=self._award, disowned=nothing)
        if self._client_gone or self._arrived:
            message = f"the provider stopped in the middle of its answer: {reason}"
            return [dropped, *self._fail(Unavailable(message, retry_after_ms=1_000))]
        return [dropped, *self._try_next(at_ms, reason)]

    def _nothing(self, at_ms: int, award: EntryId) -> Receipt:
        """Nothing that could be used came of this award."""
        return Receipt(
            award=award,
            response_digest=self._hasher.digest(),
            usage=NO_USAGE,
            ttft_ms=None,
            latency_ms=max(0, at_ms - self._begun_ms),
            verdict="disputed",
        )

    def _overdue(self, event: FirstTokenOverdue) -> list[Effect]:
        """Where nobody else is left to ask, a late answer beats none, for as long as the bid's own objective."""
        if self._arrived or self._client_gone:
            return []
        patience_ms = self._begun_ms + self._bid.slo.ttft_ms + self._terms.first_token_slack_ms
        last = not self._left or self._tried >= self._terms.attempts_max
        if last and event.at_ms < patience_ms:
            return [ArmFirstToken(award=event.award, at_ms=patience_ms)]
        return self._broken(event.at_ms, "no first token in the promised time")

    def _gone(self) -> list[Effect]:
        self._client_gone = True
        return [] if self._award is None else [Cancel(award=self._award)]

    def _finish(self, at_ms: int, outcome: Literal["completed", "cancelled"], usage: Usage) -> Finish:
        assert self._award is not None
        return Finish(
            award=self._award,
            outcome=outcome,
            usage=usage,
            ttft_ms=None if self._first_token_ms is None else max(0, self._first_token_ms - self._begun_ms),
            latency_ms=max(0, at_ms - self._begun_ms),
        )

    def _fail(self, refusal: Refusal, engine: tuple[int, bytes] | None = None) -> list[Effect]:
        self._over = True
        return [Fail(refusal=refusal, engine=engine)]


def propose(  # noqa: PLR0913, PLR0917 - the columns of one record
    bid: Bid,
    winner: Contender,
    rival: Contender | None,
    asks: tuple[Digest, ...],
    clearing: Clearing,
    at_ms: int,
    terms: Terms,
) -> Award:
    """The award of ``bid`` to ``winner`` at the clearing price, with its times: what the client signs."""
    bound_ms = min(terms.execution_max_ms, terms.bound_base_ms + terms.bound_factor * _longest_ms(bid, winner))
    claim_after_ms = at_ms + bound_ms + terms.claim_after_ms
    return Award(
        bid=bid,
        winner=winner.ask.signed,
        runner_up=None if rival is None else rival.ask.signed,
        asks=asks,
        prices=clearing.prices,
        locked_micro=clearing.locked_micro,
        claim_after_ms=claim_after_ms,
        expires_ms=claim_after_ms + terms.claim_window_ms,
    )


def _longest_ms(bid: Bid, winner: Contender) -> Millis:
    """When an answer of the maximum length would end, at the pace that was predicted for the expected length."""
    ask = winner.ask.body
    streaming_ms = max(0, ask.predicted_finish_ms - ask.predicted_ttft_ms)
    return ask.predicted_ttft_ms + streaming_ms * bid.max_output_tokens // max(1, bid.expected_output_tokens)
