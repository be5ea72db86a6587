"""Account, version 2: credits move from one account to another, and never come into being.

A transfer is refused unless

1. it goes to another account (``to_itself``),
2. the author has the amount available; locked and bonded credits do not count (``insufficient_credit``),
3. the receiver's credits stay within 2^53 - 1 micro-credits (``overflow``),
4. the receiver is an account, and no key that acts for another one, from where nobody could spend it (``no_account``).

Since version 1: an account's name is not its key for ever (``contracts/keys``).
"""

from msgspec.structs import replace

from wwwmarket.domain.book import AccountRow, Book, Row
from wwwmarket.domain.errors import Conflict, InsufficientCredit, Malformed
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import INTEGER_MAX
from wwwmarket.domain.records import Transfer


def apply(book: Book, author: AccountId, entry: EntryId, body: Transfer) -> tuple[Row, ...]:  # noqa: ARG001 - one shape
    """The rows that follow from a transfer. Raises a Refusal as listed above."""
    if body.to == author:  # 1
        raise Malformed("a transfer goes to another account", param="to", reason="to_itself")
    if book.account_of(body.to) not in {body.to, None}:  # 4
        raise Conflict("that is a key of another account: pay the account", param="to", reason="no_account")
    source = book.account(author)
    if source.available_micro < body.amount_micro:  # 2
        raise InsufficientCredit(
            f"{source.available_micro} micro-credits are available where {body.amount_micro} are to move",
            param="amount_micro",
            reason="insufficient_credit",
        )
    target = book.account(body.to)
    held = target.available_micro + target.locked_micro + target.bonded_micro
    if held + body.amount_micro > INTEGER_MAX:  # 3
        raise Conflict("the receiver cannot hold so many credits", param="amount_micro", reason="overflow")
    return (
        AccountRow(id=author, value=replace(source, available_micro=source.available_micro - body.amount_micro)),
        AccountRow(id=body.to, value=replace(target, available_micro=target.available_micro + body.amount_micro)),
    )
