"""The state that entries fold into, and the window through which a contract sees it.

A contract reads a ``Book`` and returns rows: whole new values of what it changes. ``rules`` writes them.
"""

from typing import Protocol, TypeAlias

from wwwmarket.domain.committee import Committee
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.keys import Keys
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Prices
from wwwmarket.domain.records import Award, Offer, Parameters, RuleId, Succession, Upgrade
from wwwmarket.domain.shape import Value
from wwwmarket.domain.standing import Standing


class Account(Value):
    """What an account has: free to spend, locked by awards, bonded by offers."""

    available_micro: MicroCredits = 0
    locked_micro: MicroCredits = 0
    bonded_micro: MicroCredits = 0


class ListedOffer(Value, omit_defaults=True):
    """``penalised_micro`` is what has been taken from its bond."""

    provider: AccountId
    offer: Offer
    penalised_micro: MicroCredits = 0

    @property
    def bonded_micro(self) -> MicroCredits:
        """What is left of its bond."""
        return self.offer.bond_micro - self.penalised_micro


class Unbonding(Value):
    """What is left (``amount_micro``) of the bond of an offer that is listed no more; free again at ``until_ms``."""

    provider: AccountId
    bond_micro: MicroCredits
    amount_micro: MicroCredits
    until_ms: Millis


class OpenAward(Value, omit_defaults=True):
    """An award not yet settled or expired; settled awards leave the state, so nothing can settle twice.

    ``disputed_ms`` is when its client said that nothing came of it.
    """

    client: AccountId
    provider: AccountId
    award: Award
    awarded_ms: Millis
    disputed_ms: Millis | None = None


class OpenTab(Value, omit_defaults=True):
    """A tab not yet settled or expired; as an open award, it leaves the state with its settlement.

    ``key`` signs for the client under it, whoever owns the account later; None: whoever owns the account.
    """

    client: AccountId
    provider: AccountId
    locked_micro: MicroCredits
    expires_ms: Millis
    key: AccountId | None = None


class Governance(Value):
    """Who may decide, and what is in force: ``decrees`` counts those followed, ``minted_micro`` what came by them.

    ``upgrade`` is decided and waits for its index; ``successions`` are those by which the log changed hands, in order.
    """

    committee: Committee
    contracts: dict[RuleId, Digest]
    decrees: Count = 0
    minted_micro: MicroCredits = 0
    upgrade: Upgrade | None = None
    successions: tuple[Succession, ...] = ()


class AccountRow(Value):
    id: AccountId
    value: Account


class OfferRow(Value):
    id: EntryId
    value: ListedOffer | None


class AwardRow(Value):
    id: EntryId
    value: OpenAward | None


class UnbondingRow(Value):
    """Named by the offer."""

    id: EntryId
    value: Unbonding | None


class KeysRow(Value):
    """Named by the account. An account without one is owned by the key that it is named after."""

    id: AccountId
    value: Keys


class TabRow(Value):
    id: EntryId
    value: OpenTab | None


class StandingRow(Value):
    """Named by the provider."""

    id: AccountId
    value: Standing


Row: TypeAlias = AccountRow | OfferRow | AwardRow | UnbondingRow | KeysRow | TabRow | StandingRow


class AwardFacts(Value):
    """What ``rules`` has verified of an award, since a contract cannot hash: the digests of its bid and of its asks.

    Handing them over also says that the signatures on the winner's and the runner-up's ask are valid.
    """

    bid_digest: Digest
    winner_ask_digest: Digest
    runner_up_ask_digest: Digest | None


class UnvouchedFacts(Value):
    """What ``rules`` has verified of an unvouched answer, since a contract can neither hash nor ask another one: the
    award's name, and what the settlement contract makes of it. Its signatures are valid.
    """

    id: EntryId
    cost_micro: MicroCredits


class Clearing(Value):
    """What an auction comes to: the prices that the winner is paid at, and the most that can be owed for it."""

    prices: Prices
    locked_micro: MicroCredits


class Book(Protocol):
    """Read access for contracts. Unknown accounts are empty accounts."""

    @property
    def now_ms(self) -> Millis: ...
    @property
    def parameters(self) -> Parameters: ...
    @property
    def operator(self) -> AccountId: ...
    def account(self, account: AccountId) -> Account: ...
    def offer(self, offer: EntryId) -> ListedOffer | None: ...
    def offers_of(self, provider: AccountId) -> Count:
        """How many offers a provider has listed."""
        ...

    def award(self, award: EntryId) -> OpenAward | None: ...
    def unbonding(self, offer: EntryId) -> Unbonding | None: ...
    def tab(self, tab: EntryId) -> OpenTab | None: ...

    def keys(self, account: AccountId) -> Keys: ...
    def account_of(self, key: AccountId) -> AccountId | None:
        """The account that a key acts for, as its owner or as one of its machines; None: for none any more."""
        ...

    def owned_by(self, key: AccountId) -> AccountId | None:
        """The account that a key owns; None: a machine's, or one that was rotated away."""
        ...

    def is_fresh(self, key: AccountId) -> bool:
        """Whether nothing is known of a key: it wrote nothing, has nothing and acts for nobody else."""
        ...
