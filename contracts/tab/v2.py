"""Tab, version 2: one lock and one settlement for many requests between one client and one provider.

The client opens a tab, which locks credits for one provider until it expires. Under it the client signs awards, each
with a number, that never reach the ledger; for each answer both sides add its receipt to one Merkle tree, and the
client signs a voucher: the root, how many receipts, what they cost and pay together, and which numbers are still open.
The provider settles with the latest voucher, and, for answers that no voucher came for, with the awards themselves.
What is paid comes out of the lock, and the rest of it returns. A tab that expires returns its lock whole.

An opening is refused unless

1. its provider is another account than the author, and an account (``no_account``),
2. it expires after now, and at most 25 hours from now (``lifetime``),
3. the author has the lock available (``insufficient_credit``);

a settlement, unless

4. the tab is open (``not_open``),
5. its author is the tab's provider (``not_provider``);

of the voucher,

6. it is signed by the key that owned the client when the tab was opened (``not_by_client``),
7. about this tab (``other_tab``),
8. and pays at most what it says that the answers cost (``paid_above_cost``);

of each award that comes without one,

9. it is signed by that key (``not_by_client``),
10. about this tab (``other_tab``),
11. of a bid of the client's, won by the provider (``other_party``),
12. its number is open by the voucher, or beyond it, and higher than that of the award before (``number_settled``),
13. it has been due for claiming (``too_early``),
14. and the attestation is the provider's, of this award and of the request that was bid for, and no failure
    (``other_execution``);

15. all together is at most the lock (``above_lock``).

The fee is the market's share of what is paid (``Parameters``), rounded down once for the whole tab.

Who can cheat by how much. A client can leave the last answers unvouched: the provider claims them by their awards, as
it would without a tab. A provider can hold back the last vouchers and claim those answers, 8 at most, by their awards:
so it evades their refunds and what their client counted less, once, and the client's own copies show it. Neither can
move more than the client signed, nor any credit outside of the lock. What an auction's losers can prove they prove as
without a tab: they hold the auctioneer's word on the asks it received. The receipts are with both sides; whoever has
them can check each against the root that stands here.

What the client locked stays under the key that opened the tab, for a day at most. A client that rotated away from it
would take back whatever it had vouched for; one whose key was stolen can lose to a thief, who needs the provider's
help, the locks of its open tabs and nothing else. Tabs opened under version 1 are under the client's owner, as they
were.

Since version 1: the key of a tab.
"""

from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.book import AccountRow, Book, OpenTab, Row, TabRow, UnvouchedFacts
from wwwmarket.domain.errors import Conflict, Forbidden, InsufficientCredit, Malformed, Stale
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.domain.records import Signed, TabOpening, TabSettlement, Unvouched, Voucher

LIFE_MS_MAX: Final = 25 * 3_600_000
"""A day, and an hour in which the provider settles it."""

WHOLE_PPM: Final = 1_000_000


def apply(
    book: Book,
    author: AccountId,
    entry: EntryId,
    body: TabOpening | TabSettlement,
    facts: tuple[UnvouchedFacts, ...],
) -> tuple[Row, ...]:
    """The rows that follow from an opening or a settlement. Raises a Refusal as listed above."""
    if isinstance(body, TabSettlement):
        return _settle(book, author, body, facts)
    if body.provider == author or book.account_of(body.provider) not in {body.provider, None}:  # 1
        raise Malformed("a tab is for another account, by its name", param="provider", reason="no_account")
    if not book.now_ms < body.expires_ms <= book.now_ms + LIFE_MS_MAX:  # 2
        raise Malformed(
            f"a tab expires within {LIFE_MS_MAX} ms of the ledger's time, {book.now_ms}",
            param="expires_ms",
            reason="lifetime",
        )
    client = book.account(author)
    if client.available_micro < body.locked_micro:  # 3
        raise InsufficientCredit(
            f"{client.available_micro} micro-credits are available where the tab locks {body.locked_micro}",
            param="locked_micro",
            reason="insufficient_credit",
        )
    locked = replace(
        client,
        available_micro=client.available_micro - body.locked_micro,
        locked_micro=client.locked_micro + body.locked_micro,
    )
    opened = OpenTab(
        client=author,
        provider=body.provider,
        locked_micro=body.locked_micro,
        expires_ms=body.expires_ms,
        key=book.keys(author).owner,
    )
    return AccountRow(id=author, value=locked), TabRow(id=entry, value=opened)


def paid_micro(body: TabSettlement, facts: tuple[UnvouchedFacts, ...]) -> MicroCredits:
    """What the client pays: what it vouched for, and each further answer in full."""
    vouched = 0 if body.voucher is None else body.voucher.body.paid_micro
    return vouched + sum(fact.cost_micro for fact in facts)


def _settle(book: Book, author: AccountId, body: TabSettlement, facts: tuple[UnvouchedFacts, ...]) -> tuple[Row, ...]:
    opened = book.tab(body.tab)
    if opened is None:  # 4
        raise Conflict("the tab is not open: settled, expired or unknown", param="tab", reason="not_open")
    if author != opened.provider:  # 5
        raise Forbidden("only its provider settles a tab", reason="not_provider")
    if body.voucher is not None:
        _check_voucher(book, body.tab, opened, body.voucher)
    _check_numbers(body)
    for one, fact in zip(body.unvouched, facts, strict=True):
        _check_unvouched(book, body.tab, opened, one, fact)
    paid = paid_micro(body, facts)
    if paid > opened.locked_micro:  # 15
        raise Conflict(f"{paid} micro-credits are due where the tab locks {opened.locked_micro}", reason="above_lock")
    return (*_pay(book, opened, paid), TabRow(id=body.tab, value=None))


def fee(paid_micro: MicroCredits, fee_ppm: int) -> MicroCredits:
    """The operator's part of what is paid, rounded down."""
    return paid_micro * fee_ppm // WHOLE_PPM


def _speaks(book: Book, opened: OpenTab, signer: AccountId) -> bool:
    """Whether a key binds the client under this tab."""
    return book.owned_by(signer) == opened.client if opened.key is None else signer == opened.key


def _check_voucher(book: Book, tab: EntryId, opened: OpenTab, voucher: Signed[Voucher]) -> None:
    if not _speaks(book, opened, voucher.signer):  # 6
        raise Forbidden("the voucher is not by the tab's client", param="voucher", reason="not_by_client")
    if voucher.body.tab != tab:  # 7
        raise Malformed("the voucher is about another tab", param="voucher", reason="other_tab")
    if voucher.body.paid_micro > voucher.body.cost_micro:  # 8
        raise Malformed("the voucher pays more than the answers cost", param="voucher", reason="paid_above_cost")


def _check_numbers(body: TabSettlement) -> None:
    voucher = None if body.voucher is None else body.voucher.body
    last = -1
    for one in body.unvouched:
        number = one.award.body.number
        is_open = voucher is None or number >= voucher.next_number or number in voucher.open
        if number <= last or not is_open:  # 12
            raise Conflict(f"award {number} of the tab is settled", param="unvouched", reason="number_settled")
        last = number


def _check_unvouched(book: Book, tab: EntryId, opened: OpenTab, one: Unvouched, fact: UnvouchedFacts) -> None:
    award, attestation = one.award.body.award, one.attestation.body
    if not _speaks(book, opened, one.award.signer):  # 9
        raise Forbidden("the award is not by the tab's client", param="unvouched", reason="not_by_client")
    if one.award.body.tab != tab:  # 10
        raise Malformed("the award is under another tab", param="unvouched", reason="other_tab")
    parties = (award.bid.client, book.account_of(award.winner.signer))
    if parties != (opened.client, opened.provider):  # 11
        raise Malformed("the award is between others", param="unvouched", reason="other_party")
    if book.now_ms < award.claim_after_ms:  # 13
        raise Stale(
            f"without a voucher it settles from {award.claim_after_ms} in the ledger's time, {book.now_ms} now",
            param="unvouched",
            reason="too_early",
        )
    about = (attestation.award, attestation.request_digest)
    by_provider = book.account_of(one.attestation.signer) == opened.provider
    if not by_provider or about != (fact.id, award.bid.request_digest) or attestation.outcome == "failed":  # 14
        raise Malformed("the attestation is not of this award", param="unvouched", reason="other_execution")


def _pay(book: Book, opened: OpenTab, paid_micro: MicroCredits) -> tuple[Row, ...]:
    """The lock dissolves into payment and rest. The operator may be the client or the provider."""
    fee_micro = fee(paid_micro, book.parameters.fee_ppm)
    client = book.account(opened.client)
    accounts = {
        opened.client: replace(
            client,
            available_micro=client.available_micro + opened.locked_micro - paid_micro,
            locked_micro=client.locked_micro - opened.locked_micro,
        )
    }
    for name, amount_micro in ((opened.provider, paid_micro - fee_micro), (book.operator, fee_micro)):
        if amount_micro:
            account = accounts.get(name) or book.account(name)
            accounts[name] = replace(account, available_micro=account.available_micro + amount_micro)
    return tuple(AccountRow(id=name, value=value) for name, value in accounts.items())
