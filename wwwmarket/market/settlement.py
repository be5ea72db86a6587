"""A provider's claims: every award that it executed ends settled, by the client's settlement or by its own.

It promises to settle alone only when the contract lets it, to try again until the ledger has closed the award, and to
forget a claim only then. It knows the ledger's time, not the clock's.
"""

from typing import TypeAlias, assert_never

from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import Attestation, Receipt, Settlement, Signed
from wwwmarket.domain.shape import Value


class Claim(Value):
    """An attested execution whose award may still be open. This is what is kept across restarts."""

    award: EntryId
    claim_after_ms: Millis
    expires_ms: Millis
    attestation: Signed[Attestation]
    receipt: Signed[Receipt] | None


class ClaimMade(Value):
    claim: Claim


class ReceiptArrived(Value):
    """The client's receipt, verified to be the award's client's."""

    award: EntryId
    receipt: Signed[Receipt]


class ReceiptVoid(Value):
    """The ledger does not take this receipt any more: its client has replaced the key that signed it."""

    award: EntryId
    receipt: Signed[Receipt]


class AwardClosed(Value):
    """The ledger has settled or expired the award."""

    award: EntryId


class LedgerTimeMoved(Value):
    """``open_awards``: those of our claims that are open on the ledger now."""

    now_ms: Millis
    open_awards: frozenset[EntryId]


Event: TypeAlias = ClaimMade | ReceiptArrived | ReceiptVoid | AwardClosed | LedgerTimeMoved


class KeepClaim(Value):
    claim: Claim


class ForgetClaim(Value):
    award: EntryId


class SubmitSettlement(Value):
    settlement: Settlement


Effect: TypeAlias = KeepClaim | ForgetClaim | SubmitSettlement


class Claims:
    def __init__(self, *, client_first_ms: int, retry_ms: int) -> None:
        self._client_first_ms = client_first_ms
        self._retry_ms = retry_ms
        self._claims: dict[EntryId, Claim] = {}
        self._due_ms: dict[EntryId, Millis] = {}

    @property
    def open(self) -> tuple[EntryId, ...]:
        return tuple(self._claims)

    def step(self, event: Event) -> list[Effect]:
        match event:
            case ClaimMade():
                self._claims[event.claim.award] = event.claim
                return [KeepClaim(claim=event.claim)]
            case ReceiptArrived():
                return self._receipt(event.award, event.receipt)
            case ReceiptVoid():
                return self._void(event)
            case AwardClosed():
                return self._forget(event.award)
            case LedgerTimeMoved():
                return self._moved(event)
            case _:
                assert_never(event)

    def _void(self, event: ReceiptVoid) -> list[Effect]:
        """Without it the provider claims alone; another one may still come."""
        claim = self._claims.get(event.award)
        return [] if claim is None or claim.receipt != event.receipt else self._receipt(event.award, None)

    def _receipt(self, award: EntryId, receipt: Signed[Receipt] | None) -> list[Effect]:
        claim = self._claims.get(award)
        if claim is None:
            return []
        kept = Claim(
            award=claim.award,
            claim_after_ms=claim.claim_after_ms,
            expires_ms=claim.expires_ms,
            attestation=claim.attestation,
            receipt=receipt,
        )
        self._claims[award] = kept
        self._due_ms.pop(award, None)
        return [KeepClaim(claim=kept)]

    def _forget(self, award: EntryId) -> list[Effect]:
        self._due_ms.pop(award, None)
        return [ForgetClaim(award=award)] if self._claims.pop(award, None) is not None else []

    def _moved(self, event: LedgerTimeMoved) -> list[Effect]:
        effects: list[Effect] = []
        for award, claim in list(self._claims.items()):
            if award in event.open_awards:
                effects += self._settle_when_due(claim, event.now_ms)
            elif event.now_ms > claim.expires_ms:
                effects += self._forget(award)
        return effects

    def _settle_when_due(self, claim: Claim, now_ms: int) -> list[Effect]:
        """The client settles first; with its receipt, or with nothing to pay, a short wait is enough."""
        alone = claim.receipt is None and claim.attestation.body.outcome != "failed"
        due_ms = self._due_ms.setdefault(claim.award, claim.claim_after_ms if alone else now_ms + self._client_first_ms)
        if now_ms < due_ms:
            return []
        self._due_ms[claim.award] = now_ms + self._retry_ms
        settlement = Settlement(award=claim.award, attestation=claim.attestation, receipt=claim.receipt)
        return [SubmitSettlement(settlement=settlement)]
