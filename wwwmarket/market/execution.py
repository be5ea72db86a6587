"""The provider's side of one award: check it, run it, let nothing out unpaid for, attest what happened.

It promises that no byte of an answer leaves before the award is durable here and promised by the ledger, and that every
award it takes ends in exactly one attestation. It does not know how engines are spoken to, nor how bytes are sealed.
"""

from typing import Final, TypeAlias, assert_never

from wwwmarket.crypto import digest as digests
from wwwmarket.crypto.digest import ResponseHasher
from wwwmarket.crypto.signing import KeyPair, Verified, sign
from wwwmarket.domain.errors import Conflict, Forbidden, Stale, Unauthorised
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.model import EngineFingerprint
from wwwmarket.domain.quantity import NO_USAGE, Count, Millis, Usage
from wwwmarket.domain.records import Attestation, Award, Inclusion, Origin, Outcome, Signed
from wwwmarket.domain.shape import Value


class Ledger(Value):
    """Whose promise of inclusion counts."""

    origin: Origin
    operator: AccountId

    def promises(self, inclusion: Verified[Inclusion], award: EntryId) -> bool:
        """Whether this is its word on that very award."""
        said = inclusion.body
        return inclusion.by == self.operator and said.origin == self.origin and said.entry == award


class Ordered(Value):
    """The client's order has been unsealed: what to run, as exact bytes."""

    at_ms: Millis
    path: str
    salt: bytes
    request: bytes


class Promised(Value):
    at_ms: Millis
    inclusion: Verified[Inclusion]


class PromiseOverdue(Value):
    at_ms: Millis


class EngineStarted(Value):
    at_ms: Millis
    content_type: str


class EngineSaid(Value):
    at_ms: Millis
    data: bytes
    tokens: bool


class EngineFinished(Value):
    at_ms: Millis
    usage: Usage


class EngineRefusedIt(Value):
    at_ms: Millis
    status: int
    body: bytes


class EngineBroke(Value):
    at_ms: Millis
    reason: str


class CancelAsked(Value):
    """The client wants no more of it, or is gone, or the award's time is over."""

    at_ms: Millis


Event: TypeAlias = (
    Ordered
    | Promised
    | PromiseOverdue
    | EngineStarted
    | EngineSaid
    | EngineFinished
    | EngineRefusedIt
    | EngineBroke
    | CancelAsked
)


class RunEngine(Value):
    path: str
    request: bytes
    output_tokens_max: Count


class KeepAward(Value):
    """Make the award durable: from now on this execution ends in an attestation, whatever crashes."""


class SendStart(Value):
    content_type: str


class SendPiece(Value):
    """``tokens`` counts the engine's pieces in ``data`` that carried generated text."""

    data: bytes
    tokens: Count


class AbortEngine(Value):
    pass


class Attest(Value):
    """Persist, then send. ``reason`` and ``engine`` travel beside it, for the client's ears."""

    attestation: Signed[Attestation]
    reason: str
    engine: tuple[int, bytes] | None = None


AWARD_LIFE_MS_MAX: Final = 2 * 60 * 60_000
"""More than any contract admits: an award is remembered until it ends, and a stranger must not choose for how long."""

CLAIM_WINDOW_MS_MIN: Final = 5_000
"""A client that gives no receipt must not outwait its provider: time on an idle ledger moves each second, and a claim
that was lost is made again within these."""

Effect: TypeAlias = RunEngine | KeepAward | SendStart | SendPiece | AbortEngine | Attest


def check_award(award: Award, by: AccountId, own: AccountId, at_ms: int) -> None:
    """The numbered checks of an award that a client hands over. What the ledger checks as well is left to the ledger.

    1. The award is signed by the client of its bid. (Unauthorised)
    2. Its winning ask is this provider's.           (Forbidden)
    3. The ask answers this very bid.                (Conflict)
    4. The client pays at least what was asked.      (Conflict)
    5. The award can still be executed and settled.  (Stale)
    6. It ends in a time for which a ledger locks.   (Conflict)
    7. It leaves the time to claim it alone.         (Conflict)
    """
    ask = award.winner.body
    if by != award.bid.client:
        raise Unauthorised("the award is not signed by the client of its bid", reason="award_1")
    if award.winner.signer != own:
        raise Forbidden("the award is to another provider", reason="award_2")
    if ask.bid != digests.digest(award.bid):
        raise Conflict("the winning ask answers another bid", reason="award_3")
    if (
        award.prices.input_micro_per_mtok < ask.prices.input_micro_per_mtok
        or award.prices.cached_input_micro_per_mtok < ask.prices.cached_input_micro_per_mtok
        or award.prices.output_micro_per_mtok < ask.prices.output_micro_per_mtok
    ):
        raise Conflict("the award pays less than was asked", reason="award_4")
    if at_ms >= award.claim_after_ms:
        raise Stale("the award is too old to be executed", reason="award_5")
    if award.expires_ms > at_ms + AWARD_LIFE_MS_MAX:
        raise Conflict("the award ends later than any ledger admits", reason="award_6")
    if award.expires_ms < award.claim_after_ms + CLAIM_WINDOW_MS_MIN:
        raise Conflict("the award ends before anybody could claim it alone", reason="award_7")


class Executor:
    def __init__(  # noqa: PLR0913 - what one execution is about
        self,
        key: KeyPair,
        award_id: EntryId,
        award: Award,
        engine: EngineFingerprint,
        ledger: Ledger,
        *,
        started_ms: Millis,
        promised: bool = False,
    ) -> None:
        """``promised``: what the award is paid from is locked already, so that nothing has to be waited for."""
        self._key = key
        self._id = award_id
        self._award = award
        self._engine = engine
        self._ledger = ledger
        self._started_ms = started_ms
        self._hasher = ResponseHasher()
        self._request_digest = award.bid.request_digest
        self._held: list[Effect] = []
        self._promised = promised
        self._running = False
        self._finished: tuple[Outcome, Usage, str] | None = None
        self._first_token_ms: int | None = None
        self._pieces_out = 0
        self._over = False

    @property
    def over(self) -> bool:
        return self._over

    @property
    def promised(self) -> bool:
        return self._promised

    def step(self, event: Event) -> list[Effect]:  # noqa: C901, PLR0911 - one case an event
        if self._over:
            return []
        match event:
            case Ordered():
                return self._ordered(event)
            case Promised():
                return self._release(event)
            case PromiseOverdue():
                return [] if self._promised else self._fail(event.at_ms, "the ledger's promise did not come in time")
            case EngineStarted():
                return self._let_out(SendStart(content_type=event.content_type))
            case EngineSaid():
                return self._said(event)
            case EngineFinished():
                return self._end(event.at_ms, "completed", event.usage, "")
            case EngineRefusedIt():
                reason = f"the engine refused the request with status {event.status}"
                return self._fail(event.at_ms, reason, (event.status, event.body))
            case EngineBroke():
                return self._fail(event.at_ms, event.reason)
            case CancelAsked():
                return self._cancel(event.at_ms)
            case _:
                assert_never(event)

    def _ordered(self, event: Ordered) -> list[Effect]:
        if self._running:
            return self._fail(event.at_ms, "the client ordered twice")
        if digests.request_digest(event.salt, event.request) != self._request_digest:
            return [KeepAward(), *self._fail(event.at_ms, "the request is not the one that was bid for")]
        self._running = True
        bound = self._award.bid.max_output_tokens
        return [RunEngine(path=event.path, request=event.request, output_tokens_max=bound), KeepAward()]

    def _release(self, event: Promised) -> list[Effect]:
        """The first promise counts. Whatever comes after it cannot take back what was let out for it."""
        if self._promised:
            return []
        if not self._ledger.promises(event.inclusion, self._id):
            return self._fail(event.at_ms, "the promise of inclusion is not this ledger's word on this award")
        self._promised = True
        held, self._held = self._held, []
        for effect in held:
            self._count(effect)
        if self._finished is None:
            return held
        outcome, usage, reason = self._finished
        return [*held, *self._attest(event.at_ms, outcome, usage, reason)]

    def _said(self, event: EngineSaid) -> list[Effect]:
        if event.tokens and self._first_token_ms is None:
            self._first_token_ms = event.at_ms
        return self._let_out(SendPiece(data=event.data, tokens=int(event.tokens)))

    def _let_out(self, effect: SendStart | SendPiece) -> list[Effect]:
        if not self._promised:
            self._held.append(effect)
            return []
        self._count(effect)
        return [effect]

    def _count(self, effect: Effect) -> None:
        if isinstance(effect, SendPiece):
            self._hasher.update(effect.data)
            self._pieces_out += effect.tokens

    def _end(self, at_ms: int, outcome: Outcome, usage: Usage, reason: str) -> list[Effect]:
        if not self._promised:
            self._finished = (outcome, usage, reason)
            return []
        return self._attest(at_ms, outcome, usage, reason)

    def _cancel(self, at_ms: int) -> list[Effect]:
        """Only what left is charged: a piece of a stream carries at least one token, so pieces are a lower bound."""
        usage = NO_USAGE
        if self._pieces_out:
            usage = Usage(
                input_tokens=self._award.bid.input_tokens,
                cached_input_tokens=0,
                output_tokens=min(self._pieces_out, self._award.bid.max_output_tokens),
            )
        return [AbortEngine(), *self._attest(at_ms, "cancelled", usage, "the client cancelled")]

    def _fail(self, at_ms: int, reason: str, engine: tuple[int, bytes] | None = None) -> list[Effect]:
        return [AbortEngine(), *self._attest(at_ms, "failed", NO_USAGE, reason, engine)]

    def _attest(
        self, at_ms: int, outcome: Outcome, usage: Usage, reason: str, engine: tuple[int, bytes] | None = None
    ) -> list[Effect]:
        self._over = True
        attestation = Attestation(
            award=self._id,
            outcome=outcome,
            request_digest=self._request_digest,
            response_digest=self._hasher.digest(),
            usage=usage,
            engine=self._engine,
            started_ms=self._started_ms,
            first_token_ms=self._first_token_ms,
            finished_ms=at_ms,
        )
        return [Attest(attestation=sign(self._key, attestation).signed, reason=reason, engine=engine)]


def coalesced(effects: list[Effect]) -> list[Effect]:
    """The same effects with neighbouring pieces joined: what the engine said in one breath travels as one frame."""
    joined: list[Effect] = []
    for effect in effects:
        last = joined[-1] if joined else None
        if isinstance(effect, SendPiece) and isinstance(last, SendPiece):
            joined[-1] = SendPiece(data=last.data + effect.data, tokens=last.tokens + effect.tokens)
        else:
            joined.append(effect)
    return joined


def lost(key: KeyPair, award_id: EntryId, award: Award, engine: EngineFingerprint, at_ms: int) -> Signed[Attestation]:
    """The attestation of an execution that a crash of this provider cut off: failed, so everything unlocks."""
    executor = Executor(key, award_id, award, engine, Ledger(origin="lost", operator=key.account), started_ms=at_ms)
    (effect,) = [
        effect
        for effect in executor.step(EngineBroke(at_ms=at_ms, reason="the provider was restarted"))
        if isinstance(effect, Attest)
    ]
    return effect.attestation
