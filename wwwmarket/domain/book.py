"""The state that entries fold into, and the window through which a contract sees it.

A contract reads a ``Book`` and returns rows: whole new values of what it changes. ``rules`` writes them.
"""

from typing import Protocol, TypeAlias

from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits, Millis
from wwwmarket.domain.records import Award, Offer
from wwwmarket.domain.shape import Value


class Account(Value):
    """What an account has: free to spend, locked by awards, bonded by offers."""

    available_micro: MicroCredits = 0
    locked_micro: MicroCredits = 0
    bonded_micro: MicroCredits = 0


class ListedOffer(Value):
    provider: AccountId
    offer: Offer


class OpenAward(Value):
    """An award not yet settled or expired; settled awards leave the state, so nothing can settle twice."""

    client: AccountId
    provider: AccountId
    award: Award
    awarded_ms: Millis


class AccountRow(Value):
    id: AccountId
    value: Account


class OfferRow(Value):
    id: EntryId
    value: ListedOffer | None


class AwardRow(Value):
    id: EntryId
    value: OpenAward | None


Row: TypeAlias = AccountRow | OfferRow | AwardRow


class Book(Protocol):
    """Read access for contracts. Unknown accounts are empty accounts."""

    @property
    def now_ms(self) -> Millis: ...
    def account(self, account: AccountId) -> Account: ...
    def offer(self, offer: EntryId) -> ListedOffer | None: ...
    def award(self, award: EntryId) -> OpenAward | None: ...
