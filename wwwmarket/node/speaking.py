"""For whom somebody speaks: a signature is a key's, and a key acts for the account that the ledger names.

Here, where messages come in, a verified word is put under its account's name; so that no step of a request's path has
to know that accounts rotate their keys and have machines.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from msgspec.structs import replace

from wwwmarket.crypto.signing import Verified, verify
from wwwmarket.domain.errors import Unauthorised
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Signed
from wwwmarket.domain.shape import Record

R = TypeVar("R", bound=Record)

AccountOf: TypeAlias = Callable[[AccountId], AccountId | None]
"""``domain.book.Book.account_of`` or ``owned_by``: the account of a key, or None."""


def heard(signed: Signed[R], account_of: AccountOf) -> Verified[R]:
    """A record by the account for which its signer acts.

    Raises:
        Unauthorised: the signature is not the signer's, or the signer speaks for nobody (any more).
    """
    verified = verify(signed)
    account = account_of(verified.by)
    if account is None:
        raise Unauthorised(f"the key {verified.by} was replaced, or may not say this for its account")
    return replace(verified, by=account)
