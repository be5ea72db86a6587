"""Award, version 2: a sealed reverse auction with a second-score payment, checked and locked.

Cost of some tokens at some prices, in micro-credits, rounded up once:
``ceil(((input - cached) * input price + cached * cached price + output * output price) / 1,000,000)``.

Score of an ask: its cost for the bid's estimated tokens, none cached, plus the client's value of the predicted time,
rounded up. The winner has the smallest (score, digest of the ask).

Prices: the winner is paid the cost at which it would just have tied with the runner-up, at most its offer's and at
least its own ask's; without a runner-up, its offer's. That cost is reached by moving every price the same share of the
way from ask to offer, in whole parts per million, rounded down; the share shrinks until what is locked (the cost of
the bid's maximum tokens, none cached) fits the bid's maximum price.

An award is refused unless

1. its author is the bid's client (``not_client``),
2. the bid has not expired in the ledger's time, which lags the clock on the wall (``bid_expired``),
3. the bid's estimates are within its bounds (``estimate_above_bound``),
4. now <= ``claim_after_ms`` < ``expires_ms`` <= now + 70 minutes (``claim_window``),
5. each ask answers this bid (``other_bid``),
6. the asks' digests ascend strictly (``asks_unsorted``),
7. the winner's and the runner-up's are among them (``ask_missing``);

for the winner, and for the runner-up if there is one,

8. the ask's offer is listed (``offer_not_listed``),
9. by a provider of which the ask's signer is the owner or a machine (``not_provider``),
10. and valid before the bid expires (``offer_not_yet_valid``),
11. and of a model and precision that the bid accepts (``other_model``),
12. with room for the bid's maximum tokens (``context_too_small``),
13. no price of the ask is above the offer's (``price_above_offer``),
14. cached input costs no more than input (``cached_above_input``),
15. the predicted latencies meet the bid's objective (``slo_missed``),
16. what would be locked at the ask's prices is within the bid's maximum (``above_max_price``);

17. winner and runner-up are two providers (``same_provider``),
18. the winner is the better of the two (``not_the_best``),
19. the prices are those of the auction (``wrong_prices``),
20. and so is the lock (``wrong_lock``),
21. the client has the lock available (``insufficient_credit``).

Out of scope here: whether all asks received are listed (their signers can prove an omission), and whether the window
for claiming suits the provider (it reads the award before it serves).

Since version 1: an ask is its provider's where one of the provider's keys signed it (``contracts/keys``).
"""

from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.book import AccountRow, AwardFacts, AwardRow, Book, Clearing, OpenAward, Row
from wwwmarket.domain.errors import Conflict, Forbidden, InsufficientCredit, Malformed, NotFound, Stale
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits, Millis, Prices, Usage
from wwwmarket.domain.records import Ask, Award, Bid, Offer, Signed

TOKENS_PER_PRICE_UNIT: Final = 1_000_000
WHOLE_PPM: Final = 1_000_000
MILLIS_PER_SECOND: Final = 1_000

LIFE_MS_MAX: Final = 60 * 60_000
"""No answer takes an hour; a client's credits are not locked for longer."""

LAG_MS_MAX: Final = 10 * 60_000
"""Ledger time stands still between two marks, and instants in an award are read from the wall."""


def apply(book: Book, author: AccountId, entry: EntryId, body: Award, facts: AwardFacts) -> tuple[Row, ...]:
    """The rows that follow from an award. Raises a Refusal as listed above."""
    _check_bid(book.now_ms, author, body.bid)
    _check_window(book.now_ms, body)
    _check_asks(body, facts)
    provider, offer = _offer_of(book, body.bid, body.winner)
    if body.runner_up is not None:
        rival, _ = _offer_of(book, body.bid, body.runner_up)
        if rival == provider:  # 17
            raise Malformed("the runner-up is another provider", param="runner_up", reason="same_provider")
        _check_order(body, body.runner_up, facts)
    _check_clearing(body, clear(body.bid, body.winner.body, offer, body.runner_up.body if body.runner_up else None))
    client = book.account(author)
    if client.available_micro < body.locked_micro:  # 21
        raise InsufficientCredit(
            f"{client.available_micro} micro-credits are available where the award locks {body.locked_micro}",
            param="locked_micro",
            reason="insufficient_credit",
        )
    locked = replace(
        client,
        available_micro=client.available_micro - body.locked_micro,
        locked_micro=client.locked_micro + body.locked_micro,
    )
    award = OpenAward(client=author, provider=provider, award=body, awarded_ms=book.now_ms)
    return AccountRow(id=author, value=locked), AwardRow(id=entry, value=award)


def cost(prices: Prices, usage: Usage) -> MicroCredits:
    """Micro-credits for ``usage`` at ``prices``, rounded up once. Cached tokens are part of the input tokens."""
    micro_per_million = (
        (usage.input_tokens - usage.cached_input_tokens) * prices.input_micro_per_mtok
        + usage.cached_input_tokens * prices.cached_input_micro_per_mtok
        + usage.output_tokens * prices.output_micro_per_mtok
    )
    return -(-micro_per_million // TOKENS_PER_PRICE_UNIT)


def lock(bid: Bid, prices: Prices) -> MicroCredits:
    """The most that can be owed for ``bid`` at ``prices``: all tokens it allows, none of them cached."""
    return cost(prices, _uncached(bid.max_input_tokens, bid.max_output_tokens))


def score(bid: Bid, ask: Ask) -> int:
    """Micro-credits: expected cost plus the value of the predicted time. The smallest score wins."""
    return _expected_cost(bid, ask.prices) + _time_cost(bid, ask)


def meets_slo(bid: Bid, ask: Ask) -> bool:
    """Whether the predicted first token and the predicted finish are within the bid's objective."""
    finish_ms_max = bid.slo.ttft_ms + bid.slo.tpot_ms * bid.expected_output_tokens
    return ask.predicted_ttft_ms <= bid.slo.ttft_ms and ask.predicted_finish_ms <= finish_ms_max


def check_ask(bid: Bid, ask: Ask, offer: Offer) -> None:
    """Raises the Refusal of checks 10 to 16 that says why ``ask``, made under ``offer``, may not win ``bid``."""
    _check_good(bid, offer)
    if not _at_most(ask.prices, offer.prices):  # 13
        raise Malformed("an ask is never above its offer", param="prices", reason="price_above_offer")
    if ask.prices.cached_input_micro_per_mtok > ask.prices.input_micro_per_mtok:  # 14
        raise Malformed("cached input cannot cost more than input", param="prices", reason="cached_above_input")
    if not meets_slo(bid, ask):  # 15
        raise Conflict("the ask's predicted latencies miss the bid's objective", param="slo", reason="slo_missed")
    locked_micro = lock(bid, ask.prices)
    if locked_micro > bid.max_price_micro:  # 16
        raise Conflict(
            f"the ask needs a lock of {locked_micro} micro-credits where the bid pays at most {bid.max_price_micro}",
            param="max_price_micro",
            reason="above_max_price",
        )


def clear(bid: Bid, ask: Ask, offer: Offer, runner_up: Ask | None) -> Clearing:
    """What the auction comes to for an ``ask`` that passed ``check_ask``: second-score prices, and their lock."""
    asked = _expected_cost(bid, ask.prices)
    listed = _expected_cost(bid, offer.prices)
    due = listed if runner_up is None else min(score(bid, runner_up) - _time_cost(bid, ask), listed)
    share_ppm = WHOLE_PPM * (max(due, asked) - asked) // (listed - asked) if listed > asked else 0
    if lock(bid, _between(ask.prices, offer.prices, share_ppm)) > bid.max_price_micro:
        share_ppm = _largest_share(bid, ask, offer, share_ppm)
    prices = _between(ask.prices, offer.prices, share_ppm)
    return Clearing(prices=prices, locked_micro=lock(bid, prices))


def _largest_share(bid: Bid, ask: Ask, offer: Offer, over_ppm: int) -> int:
    """The largest share below ``over_ppm`` whose lock fits; the lock never falls as the share grows."""
    fits_ppm = 0
    while over_ppm - fits_ppm > 1:
        middle_ppm = (fits_ppm + over_ppm) // 2
        if lock(bid, _between(ask.prices, offer.prices, middle_ppm)) <= bid.max_price_micro:
            fits_ppm = middle_ppm
        else:
            over_ppm = middle_ppm
    return fits_ppm


def _between(low: Prices, high: Prices, share_ppm: int) -> Prices:
    return Prices(
        input_micro_per_mtok=_step(low.input_micro_per_mtok, high.input_micro_per_mtok, share_ppm),
        cached_input_micro_per_mtok=_step(low.cached_input_micro_per_mtok, high.cached_input_micro_per_mtok, share_ppm),
        output_micro_per_mtok=_step(low.output_micro_per_mtok, high.output_micro_per_mtok, share_ppm),
    )


def _step(low: int, high: int, share_ppm: int) -> int:
    return low + (high - low) * share_ppm // WHOLE_PPM


def _expected_cost(bid: Bid, prices: Prices) -> MicroCredits:
    return cost(prices, _uncached(bid.input_tokens, bid.expected_output_tokens))


def _uncached(input_tokens: int, output_tokens: int) -> Usage:
    return Usage(input_tokens=input_tokens, cached_input_tokens=0, output_tokens=output_tokens)


def _time_cost(bid: Bid, ask: Ask) -> int:
    return -(-bid.time_value_micro_per_s * ask.predicted_finish_ms // MILLIS_PER_SECOND)


def _at_most(low: Prices, high: Prices) -> bool:
    return (
        low.input_micro_per_mtok <= high.input_micro_per_mtok
        and low.cached_input_micro_per_mtok <= high.cached_input_micro_per_mtok
        and low.output_micro_per_mtok <= high.output_micro_per_mtok
    )


def _check_bid(now_ms: Millis, author: AccountId, bid: Bid) -> None:
    if bid.client != author:  # 1
        raise Forbidden("only the bid's client awards it", param="bid", reason="not_client")
    if bid.expires_ms < now_ms:  # 2
        raise Stale(f"the bid expired before the ledger's time, {now_ms}", param="bid", reason="bid_expired")
    if bid.input_tokens > bid.max_input_tokens or bid.expected_output_tokens > bid.max_output_tokens:  # 3
        raise Malformed("the bid expects more tokens than it allows", param="bid", reason="estimate_above_bound")


def _check_window(now_ms: Millis, award: Award) -> None:
    if not now_ms <= award.claim_after_ms < award.expires_ms <= now_ms + LIFE_MS_MAX + LAG_MS_MAX:  # 4
        raise Malformed(
            f"an award is claimed and expires, in this order, within {LIFE_MS_MAX + LAG_MS_MAX} ms of the ledger's "
            f"time, {now_ms}",
            param="expires_ms",
            reason="claim_window",
        )


def _check_asks(award: Award, facts: AwardFacts) -> None:
    shown = [(award.winner, facts.winner_ask_digest)]
    if award.runner_up is not None:
        assert facts.runner_up_ask_digest is not None, "the facts are of this award"
        shown.append((award.runner_up, facts.runner_up_ask_digest))
    if any(ask.body.bid != facts.bid_digest for ask, _ in shown):  # 5
        raise Malformed("an ask in the award answers another bid", param="bid", reason="other_bid")
    if any(low >= high for low, high in zip(award.asks, award.asks[1:], strict=False)):  # 6
        raise Malformed("the asks' digests must ascend, each once", param="asks", reason="asks_unsorted")
    if any(digest not in award.asks for _, digest in shown):  # 7
        raise Malformed("the winner's or the runner-up's ask is not listed", param="asks", reason="ask_missing")


def _offer_of(book: Book, bid: Bid, ask: Signed[Ask]) -> tuple[AccountId, Offer]:
    """The provider, and its listed offer under which ``ask`` may win, or a refusal."""
    listed = book.offer(ask.body.offer)
    if listed is None:  # 8
        raise NotFound("the ask's offer is not listed", param="offer", reason="offer_not_listed")
    if listed.provider != book.account_of(ask.signer):  # 9
        raise Forbidden("the ask is not signed by its offer's provider", param="offer", reason="not_provider")
    check_ask(bid, ask.body, listed.offer)
    return listed.provider, listed.offer


def _check_good(bid: Bid, offer: Offer) -> None:
    if offer.valid_from_ms > bid.expires_ms:  # 10
        raise Stale("the offer is not valid before the bid expires", param="offer", reason="offer_not_yet_valid")
    wanted = bid.model
    if offer.model.name != wanted.name or (wanted.precisions and offer.model.precision not in wanted.precisions):  # 11
        raise Conflict("the offer is of a model that the bid does not accept", param="model", reason="other_model")
    if offer.model.context_tokens < bid.max_input_tokens + bid.max_output_tokens:  # 12
        raise Conflict("the bid's tokens do not fit the offer's context", param="model", reason="context_too_small")


def _check_order(award: Award, runner_up: Signed[Ask], facts: AwardFacts) -> None:
    first = (score(award.bid, award.winner.body), facts.winner_ask_digest)
    second = (score(award.bid, runner_up.body), facts.runner_up_ask_digest or "")
    if first >= second:  # 18
        raise Conflict("the runner-up's ask is the better one", param="winner", reason="not_the_best")


def _check_clearing(award: Award, clearing: Clearing) -> None:
    if award.prices != clearing.prices:  # 19
        raise Conflict(f"the auction's prices are {clearing.prices}", param="prices", reason="wrong_prices")
    if award.locked_micro != clearing.locked_micro:  # 20
        raise Conflict(
            f"the award locks {clearing.locked_micro} micro-credits", param="locked_micro", reason="wrong_lock"
        )
