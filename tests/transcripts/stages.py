"""The machines of a request's path, driven by words and answering in words."""

from collections.abc import Callable
from typing import Any, Protocol

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    key,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    named,
    prices,
    usage,
)
from wwwmarket.crypto.digest import digest, request_digest, response_digest
from wwwmarket.crypto.signing import Verified, sign
from wwwmarket.domain.errors import Conflict, InsufficientCredit, NotFound
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.model import EngineFingerprint
from wwwmarket.domain.quantity import Usage
from wwwmarket.domain.records import Inclusion
from wwwmarket.market import award, execution, settlement

SALT = bytes(32)
REQUEST = b'{"prompt":"hello"}'
ORIGIN = "test.example/log"
ENGINE = EngineFingerprint(
    engine="vllm", engine_version="0.20.0", model_revision="main", precision="bf16", gpu_class="H100"
)
PEOPLE = {person.account: person for person in (CLIENT, OPERATOR, PROVIDER, RIVAL, STRANGER)}
NAMES = {
    PROVIDER.account: "provider",
    RIVAL.account: "rival",
    STRANGER.account: "stranger",
}
TERMS = award.Terms(
    attempts_max=3,
    bound_base_ms=30_000,
    bound_factor=10,
    execution_max_ms=600_000,
    claim_after_ms=5_000,
    claim_window_ms=60_000,
    first_token_slack_ms=2_000,
)


class Stage(Protocol):
    """A machine on a stage: ``do`` takes a line of a transcript and gives the lines that follow from it."""

    def do(self, words: list[str]) -> list[str]: ...


def make_inclusion(entry: EntryId, /, *, signer: str = "operator", origin: str = ORIGIN) -> Verified[Inclusion]:
    return sign(key(signer), Inclusion(entry=entry, origin=origin, index=7, covered_by_ms=NOW + 5_000))


def counted(said: Usage) -> str:
    return f"{said.input_tokens}+{said.output_tokens} tokens"


def read_usage(words: list[str]) -> Usage:
    """``1000+250`` as input and output tokens; nothing where nothing is said."""
    if not words:
        return usage(0, 0, 0)
    input_tokens, output_tokens = words[0].split("+")
    return usage(int(input_tokens), 0, int(output_tokens))


class BuyerStage:
    """Awards are named by their attempt: 1 to the provider, 2 to the rival, 3 to the stranger."""

    def __init__(self) -> None:
        self.bid = make_bid(request_digest=request_digest(SALT, REQUEST))
        self.now_ms = NOW
        self.seen: dict[EntryId, bytes] = {}
        contenders = []
        for place, person in enumerate((PROVIDER, RIVAL, STRANGER)):
            dearer = prices(100_000 + 10_000 * place, 25_000, 300_000)
            ask = make_ask(person, self.bid, named(f"offer {place}"), prices=dearer)
            contenders.append(award.Contender(digest=digest(ask.body), ask=ask, offer=make_offer()))
        asks = tuple(sorted(contender.digest for contender in contenders))
        self.contenders = contenders
        self.machine = award.Buyer(self.bid, tuple(contenders), asks, REGISTRY.current.award, TERMS)

    def do(self, words: list[str]) -> list[str]:
        self.now_ms += 100
        return [self.tell(effect) for effect in self.machine.step(self.read(words))]

    def read(self, words: list[str]) -> award.Event:  # noqa: C901, PLR0911 - one case an event
        now_ms, name = self.now_ms, named(f"award {words[1]}") if len(words) > 1 else named("")
        rest = " ".join(words[2:])
        match words[0]:
            case "begun":
                return award.Begun(at_ms=now_ms)
            case "adopted":
                return award.Adopted(at_ms=now_ms, award=name)
            case "signed":
                return award.AwardSigned(at_ms=now_ms, award=name)
            case "refused":
                refusal = {
                    "chain": Conflict("the place in the chain is taken", reason="chain"),
                    "credit": InsufficientCredit("too little credit"),
                    "unlisted": NotFound("the ask's offer is not listed", reason="offer_not_listed"),
                }[words[2]]
                return award.AwardRefused(at_ms=now_ms, award=None if words[1] == "-" else name, refusal=refusal)
            case "included":
                return award.Included(at_ms=now_ms, award=name, inclusion=make_inclusion(name))
            case "answer":
                return award.AnswerStarted(at_ms=now_ms, award=name, content_type="text/event-stream")
            case "piece" | "role":
                self.seen[name] = self.seen.get(name, b"") + rest.encode()
                return award.PieceArrived(at_ms=now_ms, award=name, data=rest.encode(), tokens=words[0] == "piece")
            case "broken":
                return award.ExecutionBroken(at_ms=now_ms, award=name, reason=rest)
            case "overdue":
                return award.FirstTokenOverdue(at_ms=now_ms, award=name)
            case "gone":
                return award.ClientGone(at_ms=now_ms)
            case "attested":
                return self._attested(name, words)
        raise AssertionError(words)

    def _attested(self, name: EntryId, words: list[str]) -> award.Attested:
        """``attested 1 completed by provider 1000+2``, with ``other-award`` or ``other-request`` where it lies."""
        outcome, signer = words[2], key(words[4])
        lie = {word for word in words if word in {"other-award", "other-request", "other-bytes", "status"}}
        attestation = make_attestation(
            signer,
            named("another") if "other-award" in lie else name,
            outcome=outcome,
            usage=read_usage([word for word in words if "+" in word]),
            request_digest="3" * 64 if "other-request" in lie else self.bid.request_digest,
            response_digest=response_digest(b"" if "other-bytes" in lie else self.seen.get(name, b"")),
        )
        engine = (400, b"no such parameter") if "status" in lie else None
        return award.Attested(
            at_ms=self.now_ms, award=name, attestation=attestation, reason="the engine stopped", engine=engine
        )

    def tell(self, effect: award.Effect) -> str:  # noqa: C901, PLR0911 - one case an effect
        match effect:
            case award.SignAward():
                rival = effect.award.runner_up
                second = "nobody" if rival is None else NAMES[rival.signer]
                return f"sign award to {NAMES[effect.contender.ask.by]} before {second}, attempt {effect.attempt}"
            case award.HandOver():
                return f"hand over {self.place(effect.award)} to {NAMES[effect.contender.ask.by]}"
            case award.ForwardPromise():
                return f"forward promise of {self.place(effect.award)}"
            case award.ArmFirstToken():
                return f"expect first token of {self.place(effect.award)} within {effect.at_ms - self.now_ms} ms"
            case award.Start():
                return f"start {effect.content_type}"
            case award.Deliver():
                return f"deliver {effect.data.decode()}"
            case award.Abandon() if effect.disowned is not None:
                return f"abandon {self.place(effect.award)}, disowned: {counted(effect.disowned.usage)}"
            case award.Cancel() | award.Abandon():
                return f"{type(effect).__name__.lower()} {self.place(effect.award)}"
            case award.Settle():
                receipt = effect.receipt
                return f"settle {self.place(receipt.award)}, {receipt.verdict} {counted(receipt.usage)}"
            case award.Finish():
                times = f"first token after {effect.ttft_ms} ms, end after {effect.latency_ms} ms"
                return f"finish {self.place(effect.award)} {effect.outcome} {counted(effect.usage)}, {times}"
            case award.Fail():
                engine = "" if effect.engine is None else f" ({effect.engine[0]})"
                return f"fail {effect.refusal.code}: {effect.refusal.message}{engine}"

    def place(self, name: EntryId) -> str:
        return next(str(place) for place in range(1, 10) if named(f"award {place}") == name)


class ExecutorStage:
    """One execution at the provider."""

    def __init__(self) -> None:
        bid = make_bid(request_digest=request_digest(SALT, REQUEST), max_output_tokens=4, expected_output_tokens=4)
        ask = make_ask(PROVIDER, bid, named("offer"))
        self.award = make_award(bid, ask, make_offer(), None)
        self.id = named("award")
        self.now_ms = NOW
        ledger = execution.Ledger(origin=ORIGIN, operator=OPERATOR.account)
        self.machine = execution.Executor(PROVIDER, self.id, self.award, ENGINE, ledger, started_ms=NOW)

    def do(self, words: list[str]) -> list[str]:
        self.now_ms += 100
        return [self.tell(effect) for effect in self.machine.step(self.read(words))]

    def read(self, words: list[str]) -> execution.Event:  # noqa: PLR0911 - one case an event
        now_ms, rest = self.now_ms, " ".join(words[1:])
        match words[0]:
            case "ordered":
                request = b"something else" if rest == "other-request" else REQUEST
                return execution.Ordered(at_ms=now_ms, path="/v1/completions", salt=SALT, request=request)
            case "promised":
                lies: dict[str, Callable[[], Verified[Inclusion]]] = {
                    "": lambda: make_inclusion(self.id),
                    "other-operator": lambda: make_inclusion(self.id, signer="stranger"),
                    "other-origin": lambda: make_inclusion(self.id, origin="other.example"),
                    "other-entry": lambda: make_inclusion(named("another award")),
                }
                return execution.Promised(at_ms=now_ms, inclusion=lies[rest]())
            case "promise-overdue":
                return execution.PromiseOverdue(at_ms=now_ms)
            case "engine-started":
                return execution.EngineStarted(at_ms=now_ms, content_type=rest)
            case "engine-said" | "engine-role":
                return execution.EngineSaid(at_ms=now_ms, data=rest.encode(), tokens=words[0] == "engine-said")
            case "engine-finished":
                return execution.EngineFinished(at_ms=now_ms, usage=read_usage(words[1:]))
            case "engine-refused":
                return execution.EngineRefusedIt(at_ms=now_ms, status=int(words[1]), body=b"no such parameter")
            case "engine-broke":
                return execution.EngineBroke(at_ms=now_ms, reason=rest)
            case "cancel":
                return execution.CancelAsked(at_ms=now_ms)
        raise AssertionError(words)

    def tell(self, effect: execution.Effect) -> str:
        match effect:
            case execution.RunEngine():
                return f"run engine on {effect.request.decode()} for at most {effect.output_tokens_max} tokens"
            case execution.KeepAward():
                return "keep award"
            case execution.SendStart():
                return f"send start {effect.content_type}"
            case execution.SendPiece():
                return f"send {effect.data.decode()}"
            case execution.AbortEngine():
                return "abort engine"
            case execution.Attest():
                said = effect.attestation.body
                first = "never" if said.first_token_ms is None else f"after {said.first_token_ms - NOW} ms"
                why = f" ({effect.reason})" if effect.reason else ""
                engine = "" if effect.engine is None else f", passing on status {effect.engine[0]}"
                return f"attest {said.outcome}, {counted(said.usage)}, first token {first}{why}{engine}"


class ClaimsStage:
    """A provider's claims; the client has 2 s to settle first, and a claim is tried every 5 s."""

    def __init__(self) -> None:
        self.machine = settlement.Claims(client_first_ms=2_000, retry_ms=5_000)

    def do(self, words: list[str]) -> list[str]:
        return [self.tell(effect) for effect in self.machine.step(self.read(words))]

    def read(self, words: list[str]) -> settlement.Event:
        name = named(f"award {words[1]}")
        match words[0]:
            case "claim":
                attestation = make_attestation(PROVIDER, name, outcome=words[2], usage=read_usage([]))
                return settlement.ClaimMade(
                    claim=settlement.Claim(
                        award=name,
                        claim_after_ms=NOW + 60_000,
                        expires_ms=NOW + 120_000,
                        attestation=attestation.signed,
                        receipt=None,
                    )
                )
            case "receipt":
                return settlement.ReceiptArrived(award=name, receipt=make_receipt(CLIENT, name).signed)
            case "void":
                return settlement.ReceiptVoid(award=name, receipt=make_receipt(CLIENT, name).signed)
            case "closed":
                return settlement.AwardClosed(award=name)
            case "time":
                still_open = frozenset(named(f"award {place}") for place in words[3:])
                return settlement.LedgerTimeMoved(now_ms=NOW + int(words[1]), open_awards=still_open)
        raise AssertionError(words)

    def tell(self, effect: settlement.Effect) -> str:
        match effect:
            case settlement.KeepClaim():
                return f"keep claim {self.place(effect.claim.award)}{_with(effect.claim.receipt)}"
            case settlement.ForgetClaim():
                return f"forget claim {self.place(effect.award)}"
            case settlement.SubmitSettlement():
                due = effect.settlement
                return f"settle {self.place(due.award)} as {due.attestation.body.outcome}{_with(due.receipt)}"

    def place(self, name: EntryId) -> str:
        return next(str(place) for place in range(1, 10) if named(f"award {place}") == name)


def _with(receipt: Any) -> str:
    return "" if receipt is None else " with receipt"


STAGES: dict[str, Callable[[], Stage]] = {"buyer": BuyerStage, "executor": ExecutorStage, "claims": ClaimsStage}
