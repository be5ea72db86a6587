"""Keys, version 1: who acts for an account. Its name, balance and reputation stay, whatever key owns it.

Of every body, consent is a fresh key's own signature: the key has written nothing, has nothing and acts for nobody, and
consents to this account and role. So no key is ever of two accounts, and nobody claims another's.

A rotation is refused unless

1. its author is the account's owner or its recovery key (``not_guardian``),
2. the account is not the market's operator's, whose key signs the log (``operator``),
3. the consent is to own this account (``other_consent``),
4. the key is fresh, or was when it was announced and acts for nobody else (``key_in_use``);

by the recovery key,

5. another key's recovery is not announced already (``recovery_announced``),
6. and, of the key that is announced, the time to object is over (``too_early``);

a delegation, unless

7. the consent is to be a machine of the author's account (``other_consent``),
8. the key is fresh (``key_in_use``),
9. the account has fewer than 64 machines (``too_many_machines``),
10. and is not empty, so that keys that cost nothing do not fill the state (``empty_account``);

a revocation, unless

11. the key is a machine of the author's account (``not_a_machine``);

a guard, unless

12. the recovery key is not the owner's or a machine's (``guards_itself``),
13. and the account is not empty (``empty_account``).

By its owner a rotation holds at once. By the recovery key the first is an announcement; the same again, three days
later, holds. A guard by the owner voids what was announced, so recovery is for a key that was lost: against a thief who
has the owner's key, only rotating first helps. Machines stay across a rotation; a replaced key is of no account ever
after, also in what it had signed and nobody had used.
"""

from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.book import Account, Book, KeysRow, Row
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, NotFound, Stale, TooLarge
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.keys import Consent, Delegation, Guard, Keys, Revocation, Role, Rotation
from wwwmarket.domain.signed import Signed

OBJECTION_MS: Final = 3 * 24 * 3_600_000
"""Three days: a weekend away from a console that shows the announcement."""

MACHINES_MAX: Final = 64


def apply(
    book: Book,
    author: AccountId,
    entry: EntryId,  # noqa: ARG001 - one shape
    body: Rotation | Delegation | Revocation | Guard,
) -> tuple[Row, ...]:
    """The rows that follow from a change of keys. Raises a Refusal as listed above."""
    if isinstance(body, Rotation):
        return _rotate(book, author, body)
    keys = book.keys(author)
    if isinstance(body, Delegation):
        return _delegate(book, author, keys, body)
    if isinstance(body, Revocation):
        return _revoke(author, keys, body)
    if body.recovery is not None and body.recovery in {keys.owner, *keys.machines}:  # 12
        raise Malformed("a key cannot recover itself", param="recovery", reason="guards_itself")
    _check_not_empty(book, author)  # 13
    return (KeysRow(id=author, value=replace(keys, recovery=body.recovery, successor=None, successor_from_ms=0)),)


def _rotate(book: Book, author: AccountId, body: Rotation) -> tuple[Row, ...]:
    keys = book.keys(body.account)
    if author not in {body.account, keys.recovery}:  # 1
        raise Forbidden("only its owner or its recovery key rotates an account's key", reason="not_guardian")
    if body.account == book.operator:  # 2
        raise Forbidden("the operator's key signs the log, and is not rotated in it", reason="operator")
    announced = author != body.account and body.consent.signer == keys.successor
    key = _consenting(book, body.consent, body.account, "owner", announced=announced)  # 3, 4
    owned = replace(keys, owner=key, successor=None, successor_from_ms=0)
    if author == body.account:
        return (KeysRow(id=body.account, value=owned),)
    if keys.successor is None:
        waiting = replace(keys, successor=key, successor_from_ms=book.now_ms + OBJECTION_MS)
        return (KeysRow(id=body.account, value=waiting),)
    if keys.successor != key:  # 5
        raise Conflict("another key is announced to own the account", param="consent", reason="recovery_announced")
    if book.now_ms < keys.successor_from_ms:  # 6
        raise Stale(
            f"the owner can object until {keys.successor_from_ms} in the ledger's time, {book.now_ms} now",
            param="consent",
            reason="too_early",
        )
    return (KeysRow(id=body.account, value=owned),)


def _delegate(book: Book, author: AccountId, keys: Keys, body: Delegation) -> tuple[Row, ...]:
    key = _consenting(book, body.consent, author, "machine")  # 7, 8
    if len(keys.machines) >= MACHINES_MAX:  # 9
        raise TooLarge(f"an account has at most {MACHINES_MAX} machines; revoke one first", reason="too_many_machines")
    _check_not_empty(book, author)  # 10
    return (KeysRow(id=author, value=replace(keys, machines=tuple(sorted((*keys.machines, key))))),)


def _revoke(author: AccountId, keys: Keys, body: Revocation) -> tuple[Row, ...]:
    if body.key not in keys.machines:  # 11
        raise NotFound("that key is no machine of the account", param="key", reason="not_a_machine")
    left = tuple(key for key in keys.machines if key != body.key)
    return (KeysRow(id=author, value=replace(keys, machines=left)),)


def _consenting(
    book: Book, consent: Signed[Consent], account: AccountId, role: Role, *, announced: bool = False
) -> AccountId:
    """Who is ``announced`` is known to everybody, and stays good when somebody pays it to spoil the recovery."""
    if (consent.body.account, consent.body.role) != (account, role):
        raise Malformed(
            f"the key consents to be {consent.body.role} of {consent.body.account}",
            param="consent",
            reason="other_consent",
        )
    key = consent.signer
    if not (book.is_fresh(key) or (announced and book.account_of(key) == key)):
        raise Conflict("that key is in use: make another", param="consent", reason="key_in_use")
    return key


def _check_not_empty(book: Book, account: AccountId) -> None:
    if book.account(account) == Account():
        raise Conflict("an account without credits has one key", reason="empty_account")
