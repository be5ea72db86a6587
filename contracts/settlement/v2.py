"""Settlement, version 2: an award is paid once, for what was counted and came in time; the rest of its lock returns.

Counted tokens: what the provider attested; where there is a receipt, the smaller of the two counts of input and of
output, and the larger of the two counts of cached input. Counts above the bid's bounds count as the bounds, and cached
input above the counted input as that. Cost: that of the counted tokens at the award's prices, rounded up once, at most
the lock; nothing for a failed execution.

Refund, where the client's receipt says that the answer came late: of the cost, the largest share by which the first
token or the end of the answer overran its objective, plus what the client's bid says that the time beyond the
prediction was worth; at most half the cost, rounded down. The objective of the end is the bid's: first token, and time
per token for the counted output. Nothing is refunded for the first 10 % of an objective and one second, which are the
network's. Payment is cost less refund.

Fee: the market's share of the payment (``Parameters``), rounded down, goes to the operator out of what the provider
gets; no fee where client and provider are one account.

A settlement is refused unless

1. the award is open (``not_open``),
2. the author is its client or its provider (``not_party``),
3. the attestation is signed by the provider's owner or by one of its machines (``not_by_provider``),
4. and about this award (``other_award``),
5. and about the request that was bid for (``other_request``),
6. and counts no tokens if the execution failed (``failed_with_usage``);

with a receipt,

7. it is signed by the client's owner (``not_by_client``),
8. and about this award (``other_award``);

without one, unless the execution failed,

9. the author is the provider (``receipt_required``),
10. the award's time for claiming has come (``too_early``).

A dispute is refused unless

11. the award is open (``not_open``),
12. its author is the award's client (``not_client``),
13. it is the first (``disputed_twice``),
14. the award's time for claiming has come (``too_early``),
15. and half a minute is left in which the provider can answer (``too_late``).

An award that expires under a dispute takes 5 % of its offer's whole bond, rounded up, at most what is left of it, from
the provider to the client. A provider that lives answers a dispute by settling, be it as failed, which costs nothing.

Who can cheat by how much. A client that calls an answer late keeps at most half the price of that one answer, which
its signed receipt shows on the ledger for ever; providers choose whom they serve. Its word never touches a bond: only
silence for half a minute does. A provider that promises times it does not keep loses what the promise gained it: the
time beyond its prediction at the client's own value of time, up to half the price.

Who counted right when the counts differ is for appraisal and audit to find: both accounts stand signed on the ledger.

Since version 1: refunds, fees, disputes; an account's keys (``contracts/keys``).
"""

from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.book import AccountRow, AwardRow, Book, OpenAward, Row
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, Stale
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits, Millis, Prices, Usage
from wwwmarket.domain.records import Attestation, Award, Dispute, Receipt, Settlement, Signed

TOKENS_PER_PRICE_UNIT: Final = 1_000_000
WHOLE_PPM: Final = 1_000_000
MILLIS_PER_SECOND: Final = 1_000

REFUND_PPM_MAX: Final = 500_000
"""Of the cost: what a lie of the client's about time can take, and what a late answer costs its provider."""

TOLERANCE_PPM: Final = 100_000
SLACK_MS: Final = 1_000
"""Not the provider's fault: one round trip around the world, and a client that was busy."""

ANSWER_MS: Final = 30_000
"""How long a provider has to answer a dispute: a restart and a slow ledger."""

NO_SHOW_PPM: Final = 50_000
"""Of the bond, for each award that expires under a dispute: twenty of them take all of it, and one outage a part."""


def apply(book: Book, author: AccountId, entry: EntryId, body: Settlement | Dispute) -> tuple[Row, ...]:  # noqa: ARG001
    """The rows that follow from a settlement or a dispute. Raises a Refusal as listed above."""
    opened = book.award(body.award)
    if opened is None:  # 1, 11
        raise Conflict("the award is not open: settled, expired or unknown", param="award", reason="not_open")
    if isinstance(body, Dispute):
        return _dispute(book.now_ms, author, body.award, opened)
    if author not in {opened.client, opened.provider}:  # 2
        raise Forbidden("only the award's client or provider settles it", reason="not_party")
    _check_attestation(book, opened, body.award, body.attestation)
    if body.receipt is not None:
        _check_receipt(book, opened, body.award, body.receipt)
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
    """What the client pays, in micro-credits: at most what the award has locked."""
    if attestation.outcome == "failed":
        return 0
    usage = count(award, attestation, receipt)
    cost_micro = min(cost(award.prices, usage), award.locked_micro)
    return cost_micro - (0 if receipt is None else refund(award, receipt, usage.output_tokens, cost_micro))


def refund(award: Award, receipt: Receipt, output_tokens: int, cost_micro: MicroCredits) -> MicroCredits:
    """What of ``cost_micro`` returns to the client because the answer came late."""
    bid, ask = award.bid, award.winner.body
    end_ms = bid.slo.ttft_ms + bid.slo.tpot_ms * output_tokens
    share_ppm = max(_overrun_ppm(receipt.ttft_ms or 0, bid.slo.ttft_ms), _overrun_ppm(receipt.latency_ms, end_ms))
    decoding_ms = max(ask.predicted_finish_ms - ask.predicted_ttft_ms, 0)
    predicted_ms = ask.predicted_ttft_ms + decoding_ms * output_tokens // max(bid.expected_output_tokens, 1)
    late_ms = _over_ms(receipt.latency_ms, predicted_ms)
    due = cost_micro * min(share_ppm, WHOLE_PPM) // WHOLE_PPM
    due += bid.time_value_micro_per_s * late_ms // MILLIS_PER_SECOND
    return min(due, cost_micro * REFUND_PPM_MAX // WHOLE_PPM)


def fee(paid_micro: MicroCredits, fee_ppm: int) -> MicroCredits:
    """The operator's part of a payment, rounded down."""
    return paid_micro * fee_ppm // WHOLE_PPM


def penalty(bond_micro: MicroCredits, left_micro: MicroCredits) -> MicroCredits:
    """What an award that expires under a dispute takes of its offer's bond, of which ``left_micro`` are left."""
    return min(-(-bond_micro * NO_SHOW_PPM // WHOLE_PPM), left_micro)


def _over_ms(actual_ms: Millis, objective_ms: Millis) -> Millis:
    return max(0, actual_ms - objective_ms - objective_ms * TOLERANCE_PPM // WHOLE_PPM - SLACK_MS)


def _overrun_ppm(actual_ms: Millis, objective_ms: Millis) -> int:
    return _over_ms(actual_ms, objective_ms) * WHOLE_PPM // max(objective_ms, 1)


def _dispute(now_ms: Millis, author: AccountId, award: EntryId, opened: OpenAward) -> tuple[Row, ...]:
    if author != opened.client:  # 12
        raise Forbidden("only the award's client disputes it", param="award", reason="not_client")
    if opened.disputed_ms is not None:  # 13
        raise Conflict("the award is disputed already", param="award", reason="disputed_twice")
    if now_ms < opened.award.claim_after_ms:  # 14
        raise Stale(
            f"an award is disputed from {opened.award.claim_after_ms} in the ledger's time, {now_ms} now",
            param="award",
            reason="too_early",
        )
    if now_ms > opened.award.expires_ms - ANSWER_MS:  # 15
        raise Stale(
            f"less than {ANSWER_MS} ms are left in which the provider could answer", param="award", reason="too_late"
        )
    return (AwardRow(id=award, value=replace(opened, disputed_ms=now_ms)),)


def _check_attestation(book: Book, opened: OpenAward, award: EntryId, attestation: Signed[Attestation]) -> None:
    if book.account_of(attestation.signer) != opened.provider:  # 3
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


def _check_receipt(book: Book, opened: OpenAward, award: EntryId, receipt: Signed[Receipt]) -> None:
    if book.owned_by(receipt.signer) != opened.client:  # 7
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
    """The lock dissolves into payment and rest. Client, provider and operator may be one account, or two."""
    fee_micro = 0 if opened.client == opened.provider else fee(paid_micro, book.parameters.fee_ppm)
    locked_micro = opened.award.locked_micro
    changes = (
        (opened.client, locked_micro - paid_micro),
        (opened.provider, paid_micro - fee_micro),
        (book.operator, fee_micro),
    )
    accounts = {opened.client: book.account(opened.client)}
    accounts[opened.client] = replace(
        accounts[opened.client], locked_micro=accounts[opened.client].locked_micro - locked_micro
    )
    for name, amount_micro in changes:
        account = accounts.get(name) or book.account(name)
        if amount_micro or name in accounts:
            accounts[name] = replace(account, available_micro=account.available_micro + amount_micro)
    return tuple(AccountRow(id=name, value=value) for name, value in accounts.items())
