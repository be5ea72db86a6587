"""Reputation, version 1: how a provider kept its promises, from settled awards and from silence, fading with time.

Of a settled award whose client is another account and gave a receipt, the cost counts as work: twice what was refunded
for lateness is missed, the rest kept. Without a receipt nobody but the provider says how it went, and nothing counts.
An award that expires under a dispute counts its lock as silence. A tab counts what its voucher says of all its answers.

What is kept counts in one day of the ledger's time up to ten times what the provider has bonded at that moment; what is
missed always counts. All sums fade by 2.284 % a day, rounded down: by half in 30 days.

Score: (kept + 0.8 credits) / (kept + missed + 10 times silence + 1 credit), in parts per million, rounded down. So a
provider of whom nothing is known has 800,000, and is a newcomer until its work and its silence come to one credit.

Failures and differing counts are counted beside the score and not in it: a client makes them for nothing.

What a lie costs. To fake a standing of V kept, a client and a provider of one owner need bonds of V / 438 that stay
bonded, and pay the market's fee on V / 44 each day, for ever, since V fades. To make M of another's work count as
missed, a client pays for it: at least M / 2, to that provider.
"""

from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.quantity import INTEGER_MAX, Count, MicroCredits, Millis
from wwwmarket.domain.records import Attestation, Receipt
from wwwmarket.domain.standing import Reputation, Standing

DAY_MS: Final = 86_400_000
WHOLE_PPM: Final = 1_000_000
STAYS_PPM: Final = 977_160
"""Of every sum, from one day to the next: 2 to the power of -1/30."""

TURNS_PER_DAY: Final = 10
"""Times its bond that a provider's day can count: a bond of an hour's revenue is enough for honest work."""

SILENCE_WEIGHT: Final = 10
"""Nothing at all came, and the ledger itself saw it."""

PRIOR_MICRO: Final = 1_000_000
PRIOR_PPM: Final = 800_000
"""A newcomer is trusted a little less than a provider that keeps its promises, and more than one that does not."""

AWARD_MILLI: Final = 1_000


def settled(  # noqa: PLR0913, PLR0917 - what is known of one settlement
    standing: Standing,
    now_ms: Millis,
    attestation: Attestation,
    receipt: Receipt | None,
    cost_micro: MicroCredits,
    paid_micro: MicroCredits,
    bonded_micro: MicroCredits,
) -> Standing:
    """The standing of a provider after another account's award is settled: ``paid_micro`` of ``cost_micro``."""
    aged = faded(standing, now_ms)
    failed = attestation.outcome == "failed"
    contested = receipt is not None and receipt.usage != attestation.usage and not failed
    counted = replace(
        aged,
        served_milli=_sum(aged.served_milli, AWARD_MILLI),
        failed_milli=_sum(aged.failed_milli, AWARD_MILLI * failed),
        contested_milli=_sum(aged.contested_milli, AWARD_MILLI * contested),
    )
    return counted if receipt is None or failed else _weigh(counted, cost_micro, paid_micro, bonded_micro)


def together(  # noqa: PLR0913, PLR0917 - what is known of one tab
    standing: Standing,
    now_ms: Millis,
    answers: Count,
    cost_micro: MicroCredits,
    paid_micro: MicroCredits,
    bonded_micro: MicroCredits,
) -> Standing:
    """The standing of a provider after a tab was settled, by what its client's voucher says of ``answers``."""
    aged = faded(standing, now_ms)
    counted = replace(aged, served_milli=_sum(aged.served_milli, AWARD_MILLI * answers))
    return _weigh(counted, cost_micro, paid_micro, bonded_micro)


def silent(standing: Standing, now_ms: Millis, locked_micro: MicroCredits, penalty_micro: MicroCredits) -> Standing:
    """The standing of a provider after an award expired under its client's dispute."""
    aged = faded(standing, now_ms)
    return replace(
        aged,
        silent_micro=_sum(aged.silent_micro, locked_micro),
        penalised_micro=_sum(aged.penalised_micro, penalty_micro),
    )


def faded(standing: Standing, now_ms: Millis) -> Standing:
    """The standing as of now. Day by day, so that it does not matter how often somebody looks."""
    day = now_ms // DAY_MS
    days = day - standing.day
    if days <= 0:
        return standing
    return Standing(
        day=day,
        kept_micro=_fade(standing.kept_micro, days),
        missed_micro=_fade(standing.missed_micro, days),
        silent_micro=_fade(standing.silent_micro, days),
        penalised_micro=_fade(standing.penalised_micro, days),
        served_milli=_fade(standing.served_milli, days),
        failed_milli=_fade(standing.failed_milli, days),
        contested_milli=_fade(standing.contested_milli, days),
    )


def reputation(standing: Standing, now_ms: Millis) -> Reputation:
    """What a standing says now."""
    aged = faded(standing, now_ms)
    known = aged.kept_micro + aged.missed_micro + aged.silent_micro * SILENCE_WEIGHT
    kept = aged.kept_micro * WHOLE_PPM + PRIOR_MICRO * PRIOR_PPM
    return Reputation(score_ppm=kept // (known + PRIOR_MICRO), newcomer=known < PRIOR_MICRO, standing=aged)


def _weigh(
    standing: Standing, cost_micro: MicroCredits, paid_micro: MicroCredits, bonded_micro: MicroCredits
) -> Standing:
    missed = min(2 * (cost_micro - paid_micro), cost_micro)
    room = max(bonded_micro * TURNS_PER_DAY - standing.credited_micro, 0)
    kept = min(cost_micro - missed, room)
    return replace(
        standing,
        kept_micro=_sum(standing.kept_micro, kept),
        missed_micro=_sum(standing.missed_micro, missed),
        credited_micro=_sum(standing.credited_micro, kept),
    )


def _sum(amount: int, more: int) -> int:
    return min(amount + more, INTEGER_MAX)


def _fade(amount: int, days: int) -> int:
    while amount and days:
        amount, days = amount * STAYS_PPM // WHOLE_PPM, days - 1
    return amount
