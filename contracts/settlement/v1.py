"""Settlement, version 1: an award is paid once, for what was counted, and the rest of its lock returns.

Counted tokens: what the provider attested; where there is a receipt, the smaller of the two counts of input and of
output, and the larger of the two counts of cached input. Counts above the bid's bounds count as the bounds, and cached
input above the counted input as that. Payment: their cost at the award's prices, rounded up once, at most the lock;
nothing for a failed execution.

A settlement is refused unless

1. the award is open (``not_open``),
2. the author is its client or its provider (``not_party``),
3. the attestation is the provider's (``not_by_provider``),
4. and about this award (``other_award``),
5. and about the request that was bid for (``other_request``),
6. and counts no tokens if the execution failed (``failed_with_usage``);

with a receipt,

7. it is the client's (``not_by_client``),
8. and about this award (``other_award``);

without one, unless the execution failed,

9. the author is the provider (``receipt_required``),
10. the award's time for claiming has come (``too_early``).

Who counted right when the counts differ is for appraisal and audit to find: both accounts stand signed on the ledger.
"""

from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.book import AccountRow, AwardRow, Book, OpenAward, Row
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, Stale
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits, Millis, Prices, Usage
from wwwmarket.domain.records import Attestation, Award, Receipt, Settlement, Signed

TOKENS_PER_PRICE_UNIT: Final = 1_000_000


def apply(book: Book, author: AccountId, entry: EntryId, body: Settlement) -> tuple[Row, ...]:  # noqa: ARG001 - one shape
    """The rows that follow from a settlement. Raises a Refusal as listed above."""
    opened = book.award(body.award)
    if opened is None:  # 1
        raise Conflict("the award is not open: settled, expired or unknown", param="award", reason="not_open")
    if author not in {opened.client, opened.provider}:  # 2
        raise Forbidden("only the award's client or provider settles it", reason="not_party")
    _check_attestation(opened, body.award, body.attestation)
    if body.receipt is not None:
        _check_receipt(opened, body.award, body.receipt)
    elif body.attestation.body.outcome != "failed":
        _check_claim(book.now_ms, author, opened)
    paid = payment(opened.award, body.attestation.body, body.receipt.body if body.receipt else None)
    return (*_pay(book, opened, paid), AwardRow(id=body.award, value=None))


def cost(prices: Prices, usage: Usage) -> MicroCredits:
    """Micro-credits for ``usage`` at ``prices``, rounded up once. Cached tokens are part of the input tokens."""
    micro_per_million = (
        (usage.input_tokens - usage.cached_input_tokens) * prices.input_micro_per_mtok
        + usage.cached_input_tokens * prices.cached_input_micro_per_mtok
        + usage.output_tokens * prices.output_micro_per_mtok
    )
    return -(-micro_per_million // TOKENS_PER_PRICE_UNIT)


def count(award: Award, attestation: Attestation, receipt: Receipt | None) -> Usage:
    """The tokens that both sides stand by, within the bid's bounds."""
    attested = attestation.usage
    received = attested if receipt is None else receipt.usage
    input_tokens = min(attested.input_tokens, received.input_tokens, award.bid.max_input_tokens)
    cached_tokens = max(attested.cached_input_tokens, received.cached_input_tokens)
    return Usage(
        input_tokens=input_tokens,
        cached_input_tokens=min(cached_tokens, input_tokens),
        output_tokens=min(attested.output_tokens, received.output_tokens, award.bid.max_output_tokens),
    )


def payment(award: Award, attestation: Attestation, receipt: Receipt | None) -> MicroCredits:
    """What the provider is paid, in micro-credits: at most what the award has locked."""
    if attestation.outcome == "failed":
        return 0
    return min(cost(award.prices, count(award, attestation, receipt)), award.locked_micro)


def _check_attestation(opened: OpenAward, award: EntryId, attestation: Signed[Attestation]) -> None:
    if attestation.signer != opened.provider:  # 3
        raise Forbidden("the attestation is not by the award's provider", param="attestation", reason="not_by_provider")
    if attestation.body.award != award:  # 4
        raise Malformed("the attestation is about another award", param="attestation", reason="other_award")
    if attestation.body.request_digest != opened.award.bid.request_digest:  # 5
        raise Malformed(
            "the attestation is about another request than was bid for", param="attestation", reason="other_request"
        )
    usage = attestation.body.usage
    if attestation.body.outcome == "failed" and (
        usage.input_tokens or usage.cached_input_tokens or usage.output_tokens
    ):
        raise Malformed(  # 6
            "a failed execution counts no tokens", param="attestation", reason="failed_with_usage"
        )


def _check_receipt(opened: OpenAward, award: EntryId, receipt: Signed[Receipt]) -> None:
    if receipt.signer != opened.client:  # 7
        raise Forbidden("the receipt is not by the award's client", param="receipt", reason="not_by_client")
    if receipt.body.award != award:  # 8
        raise Malformed("the receipt is about another award", param="receipt", reason="other_award")


def _check_claim(now_ms: Millis, author: AccountId, opened: OpenAward) -> None:
    if author != opened.provider:  # 9
        raise Forbidden("a client settles with its receipt", param="receipt", reason="receipt_required")
    if now_ms < opened.award.claim_after_ms:  # 10
        raise Stale(
            f"without a receipt it settles from {opened.award.claim_after_ms} in the ledger's time, {now_ms} now",
            param="receipt",
            reason="too_early",
        )


def _pay(book: Book, opened: OpenAward, paid_micro: MicroCredits) -> tuple[Row, ...]:
    """The lock dissolves into payment and rest. A client may be its own provider: then all of it returns."""
    locked_micro = opened.award.locked_micro
    client = book.account(opened.client)
    own = opened.client == opened.provider
    released = replace(
        client,
        available_micro=client.available_micro + locked_micro - (0 if own else paid_micro),
        locked_micro=client.locked_micro - locked_micro,
    )
    if own:
        return (AccountRow(id=opened.client, value=released),)
    provider = book.account(opened.provider)
    credited = replace(provider, available_micro=provider.available_micro + paid_micro)
    return AccountRow(id=opened.client, value=released), AccountRow(id=opened.provider, value=credited)
