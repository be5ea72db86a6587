"""The state that entries fold into, and the window through which a contract sees it.

A contract reads a ``Book`` and returns rows: whole new values of what it changes. ``rules`` writes them.
"""

from typing import Protocol, TypeAlias

from wwwmarket.domain.committee import Committee
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Prices
from wwwmarket.domain.records import Award, Offer, RuleId, Upgrade
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


class Governance(Value):
    """Who may decide, and what is in force: ``decrees`` counts those followed, ``minted_micro`` what came by them.

    ``upgrade`` is decided and waits for its index.
    """

    committee: Committee
    contracts: dict[RuleId, Digest]
    decrees: Count = 0
    minted_micro: MicroCredits = 0
    upgrade: Upgrade | None = None


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


class AwardFacts(Value):
    """What ``rules`` has verified of an award, since a contract cannot hash: the digests of its bid and of its asks.

    Handing them over also says that the signatures on the winner's and the runner-up's ask are valid.
    """

    bid_digest: Digest
    winner_ask_digest: Digest
    runner_up_ask_digest: Digest | None


class Clearing(Value):
    """What an auction comes to: the prices that the winner is paid at, and the most that can be owed for it."""

    prices: Prices
    locked_micro: MicroCredits


class Book(Protocol):
    """Read access for contracts. Unknown accounts are empty accounts."""

    @property
    def now_ms(self) -> Millis: ...
    def account(self, account: AccountId) -> Account: ...
    def offer(self, offer: EntryId) -> ListedOffer | None: ...
    def offers_of(self, provider: AccountId) -> Count:
        """How many offers a provider has listed."""
        ...

    def award(self, award: EntryId) -> OpenAward | None: ...
