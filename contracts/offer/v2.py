"""Offer, version 2: a provider lists an offer under a bond, and takes it off again; the bond is free some time later.

An offer is refused unless

1. it is valid for some time, and for at most 30 days (``validity``),
2. it starts at most 30 days from now, so that nothing is listed for ever (``too_far_ahead``),
3. it is not over by now (``expired``),
4. cached input costs no more than input, so that what is locked without counting the cache suffices
   (``cached_above_input``),
5. its provider has fewer than 64 offers listed (``too_many_offers``),
6. its provider has the bond available (``insufficient_credit``).

A withdrawal is refused unless

7. the offer is listed (``not_listed``),
8. its author is the offer's provider (``not_provider``).

A withdrawal unlists at once. What is left of the bond stays bonded for the market's unbonding time (``Parameters``)
after the offer, however that ended, so that nobody withdraws a bond before the penalty for what it stood for. Awards
already made outlive the offer.

Since version 1: the bond no longer returns with the withdrawal itself.
"""

from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.book import AccountRow, Book, ListedOffer, OfferRow, Row, Unbonding, UnbondingRow
from wwwmarket.domain.errors import Forbidden, InsufficientCredit, Malformed, NotFound, Stale, TooLarge
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import Offer, Withdrawal

VALIDITY_MS_MAX: Final = 30 * 24 * 3_600_000
"""A month: prices, addresses and keys older than that deserve to be said again."""

OFFERS_MAX: Final = 64
"""Listed by one provider: more models than a machine serves, and few enough to be drawn from fairly."""


def apply(book: Book, author: AccountId, entry: EntryId, body: Offer | Withdrawal) -> tuple[Row, ...]:
    """The rows that follow from an offer or a withdrawal. Raises a Refusal as listed above."""
    if isinstance(body, Withdrawal):
        return _withdraw(book, author, body)
    _check_terms(book.now_ms, body)
    if book.offers_of(author) >= OFFERS_MAX:  # 5
        raise TooLarge(f"a provider lists at most {OFFERS_MAX} offers; withdraw one first", reason="too_many_offers")
    account = book.account(author)
    if account.available_micro < body.bond_micro:  # 6
        raise InsufficientCredit(
            f"{account.available_micro} micro-credits are available where the bond is {body.bond_micro}",
            param="bond_micro",
            reason="insufficient_credit",
        )
    bonded = replace(
        account,
        available_micro=account.available_micro - body.bond_micro,
        bonded_micro=account.bonded_micro + body.bond_micro,
    )
    return AccountRow(id=author, value=bonded), OfferRow(id=entry, value=ListedOffer(provider=author, offer=body))


def _check_terms(now_ms: Millis, offer: Offer) -> None:
    if not 0 < offer.valid_until_ms - offer.valid_from_ms <= VALIDITY_MS_MAX:  # 1
        raise Malformed(
            f"an offer is valid for 1 to {VALIDITY_MS_MAX} ms, not {offer.valid_until_ms - offer.valid_from_ms}",
            param="valid_until_ms",
            reason="validity",
        )
    if offer.valid_from_ms > now_ms + VALIDITY_MS_MAX:  # 2
        raise Malformed(
            f"an offer starts at most {VALIDITY_MS_MAX} ms from the ledger's time, {now_ms}",
            param="valid_from_ms",
            reason="too_far_ahead",
        )
    if offer.valid_until_ms <= now_ms:  # 3
        raise Stale(f"the offer ended before the ledger's time, {now_ms}", param="valid_until_ms", reason="expired")
    if offer.prices.cached_input_micro_per_mtok > offer.prices.input_micro_per_mtok:  # 4
        raise Malformed("cached input cannot cost more than input", param="prices", reason="cached_above_input")


def _withdraw(book: Book, author: AccountId, body: Withdrawal) -> tuple[Row, ...]:
    listed = book.offer(body.offer)
    if listed is None:  # 7
        raise NotFound("no such offer is listed: withdrawn, expired or unknown", param="offer", reason="not_listed")
    if listed.provider != author:  # 8
        raise Forbidden("only its provider withdraws an offer", param="offer", reason="not_provider")
    return (OfferRow(id=body.offer, value=None), *unbond(book, body.offer, listed))


def unbond(book: Book, offer: EntryId, listed: ListedOffer) -> tuple[Row, ...]:
    """What becomes of the bond of an offer that ends now."""
    if not listed.bonded_micro:
        return ()
    until_ms = book.now_ms + book.parameters.unbonding_ms
    unbonding = Unbonding(
        provider=listed.provider,
        bond_micro=listed.offer.bond_micro,
        amount_micro=listed.bonded_micro,
        until_ms=until_ms,
    )
    return (UnbondingRow(id=offer, value=unbonding),)
