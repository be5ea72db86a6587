"""The rows of a state, what is indexed of them, and their root. Whole rows are written; nothing here knows why.

Empty accounts have no row, so that an account of which everything has gone leaves only its place in its chain.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, assert_never

from wwwmarket.crypto.digest import digest
from wwwmarket.domain.book import (
    Account,
    AccountRow,
    AwardRow,
    Governance,
    KeysRow,
    ListedOffer,
    OfferRow,
    OpenAward,
    OpenTab,
    Row,
    StandingRow,
    TabRow,
    Unbonding,
    UnbondingRow,
)
from wwwmarket.domain.committee import Committee
from wwwmarket.domain.identity import NO_ENTRY, AccountId, Digest, EntryId
from wwwmarket.domain.keys import Keys
from wwwmarket.domain.quantity import Count, MicroCredits, Millis
from wwwmarket.domain.records import Genesis, Origin, Parameters
from wwwmarket.domain.standing import Standing
from wwwmarket.rules.commitment import BucketProof, Commitment
from wwwmarket.rules.deadlines import Deadlines
from wwwmarket.rules.history import History

_Table: TypeAlias = Literal["account", "chain", "offer", "award", "unbonding", "keys", "tab", "standing"]

EMPTY: Final = Account()
UNKNOWN: Final = Standing()
UNGOVERNED: Final = Governance(committee=Committee(), contracts={})


class ChainHead(NamedTuple):
    """Where an account's next entry goes: its ``seq``, and the entry before it."""

    next_seq: Count
    prev: EntryId


class Tables:
    """Implements ``domain.book.Book``. Written by ``rules.state`` alone.

    ``proves``: balances can be proven at the latest marks. Who only replays keeps nothing for that.
    """

    def __init__(self, *, proves: bool = False) -> None:
        self._genesis: Genesis | None = None
        self._genesis_digest: Digest | None = None
        self._granted_micro: MicroCredits = 0
        self._governance = UNGOVERNED
        self._anchor: EntryId = NO_ENTRY
        self._now_ms: Millis = 0
        self._size: Count = 0
        self._accounts: dict[AccountId, Account] = {}
        self._chains: dict[AccountId, ChainHead] = {}
        self._offers: dict[EntryId, ListedOffer] = {}
        self._awards: dict[EntryId, OpenAward] = {}
        self._offers_by_model: dict[str, dict[EntryId, ListedOffer]] = {}
        self._offer_counts: dict[AccountId, Count] = {}
        self._unbondings: dict[EntryId, Unbonding] = {}
        self._keys: dict[AccountId, Keys] = {}
        self._acting: dict[AccountId, AccountId] = {}
        self._tabs: dict[EntryId, OpenTab] = {}
        self._standings: dict[AccountId, Standing] = {}
        self._tabs_due = Deadlines()
        self._unbondings_due = Deadlines()
        self._offers_due = Deadlines()
        self._awards_due = Deadlines()
        self._commitment = Commitment(remembers=proves)
        self._history = History(self._commitment) if proves else None
        self._unhashed: set[tuple[_Table, str]] = set()
        self._governance_unhashed = False

    @property
    def genesis(self) -> Genesis | None:
        """Entry 0's body, once it is applied."""
        return self._genesis

    @property
    def total_micro(self) -> MicroCredits:
        """All the credits there are: those that the genesis granted, and those that decrees added."""
        return self._granted_micro + self._governance.minted_micro

    @property
    def governance(self) -> Governance:
        """The committee in office and the contracts in force; nothing before the genesis."""
        return self._governance

    @property
    def parameters(self) -> Parameters:
        """The market's; the defaults before the genesis."""
        return self._genesis.parameters if self._genesis else Parameters()

    @property
    def origin(self) -> Origin:
        """The log's name: the genesis's, or the latest succession's."""
        assert self._genesis is not None, "a genesis comes first"
        successions = self._governance.successions
        return successions[-1].successor if successions else self._genesis.origin

    @property
    def operator(self) -> AccountId:
        """Who orders the log, and gets the market's fees."""
        assert self._genesis is not None, "a genesis comes first"
        successions = self._governance.successions
        return successions[-1].operator if successions else self._genesis.operator

    @property
    def now_ms(self) -> Millis:
        """The ledger's time: that of the latest mark."""
        return self._now_ms

    @property
    def size(self) -> Count:
        """How many entries have been applied: the index of the next."""
        return self._size

    def account(self, account: AccountId) -> Account:
        return self._accounts.get(account, EMPTY)

    def accounts(self) -> Mapping[AccountId, Account]:
        """All accounts that are not empty. A live view, as are the others."""
        return MappingProxyType(self._accounts)

    def chain_head(self, account: AccountId) -> ChainHead:
        """The place of the account's next entry. A first one follows the genesis, so no chain fits another log."""
        return self._chains.get(account) or ChainHead(0, self._anchor)

    def offer(self, offer: EntryId) -> ListedOffer | None:
        return self._offers.get(offer)

    def offers(self) -> Mapping[EntryId, ListedOffer]:
        """All listed offers."""
        return MappingProxyType(self._offers)

    def offers_for(self, model: str) -> Mapping[EntryId, ListedOffer]:
        """The listed offers of a model by its name."""
        return MappingProxyType(self._offers_by_model.get(model, {}))

    def offers_of(self, provider: AccountId) -> Count:
        return self._offer_counts.get(provider, 0)

    def unbonding(self, offer: EntryId) -> Unbonding | None:
        return self._unbondings.get(offer)

    def unbondings(self) -> Mapping[EntryId, Unbonding]:
        """All bonds that outlived their offers, by the offer."""
        return MappingProxyType(self._unbondings)

    def tab(self, tab: EntryId) -> OpenTab | None:
        return self._tabs.get(tab)

    def tabs(self) -> Mapping[EntryId, OpenTab]:
        """All open tabs."""
        return MappingProxyType(self._tabs)

    def standing(self, provider: AccountId) -> Standing:
        """As it was written last; it fades with time (``rules.reputation.faded``)."""
        return self._standings.get(provider, UNKNOWN)

    def keys(self, account: AccountId) -> Keys:
        return self._keys.get(account) or Keys(owner=account)

    def key_rows(self) -> Mapping[AccountId, Keys]:
        """Who acts for each account that has other keys than the one that it is named after."""
        return MappingProxyType(self._keys)

    def account_of(self, key: AccountId) -> AccountId | None:
        account = self._acting.get(key)
        if account is not None:
            return account
        keys = self._keys.get(key)
        return key if keys is None or keys.owner == key else None

    def owned_by(self, key: AccountId) -> AccountId | None:
        account = self.account_of(key)
        return account if account is not None and self.keys(account).owner == key else None

    def is_fresh(self, key: AccountId) -> bool:
        return not (key in self._accounts or key in self._chains or key in self._acting or key in self._keys)

    def award(self, award: EntryId) -> OpenAward | None:
        return self._awards.get(award)

    def awards(self) -> Mapping[EntryId, OpenAward]:
        """All open awards."""
        return MappingProxyType(self._awards)

    def root(self) -> Digest:
        """The Merkle root of everything here, by hashing again what was written since it was last asked for."""
        tables: dict[_Table, Mapping[Any, object]] = {
            "account": self._accounts,
            "chain": self._chains,
            "offer": self._offers,
            "award": self._awards,
            "unbonding": self._unbondings,
            "keys": self._keys,
            "tab": self._tabs,
            "standing": self._standings,
        }
        for table, key in self._unhashed:
            self._commitment.put(table, key, tables[table].get(key))
        self._unhashed.clear()
        self._commitment.put("ledger", "", (self._genesis_digest, self._now_ms, self._size))
        if self._governance_unhashed:
            self._commitment.put("governance", "", self._governance)
            self._governance_unhashed = False
        return self._commitment.root()

    @property
    def history(self) -> History:
        """What this state was at its latest marks."""
        assert self._history is not None, "a state that proves"
        return self._history

    def prove_balance(self, account: AccountId, size: Count) -> tuple[Account | None, BucketProof]:
        """What the account had before the mark that ends a log of ``size`` entries. Raises as ``History.prove``."""
        return self.history.prove(account, self._accounts, size)

    def _write_genesis(self, genesis: Genesis, entry: EntryId) -> None:
        self._genesis = genesis
        self._anchor = entry
        self._genesis_digest = digest(genesis)
        self._granted_micro = sum(grant.amount_micro for grant in genesis.grants)
        self._now_ms = genesis.at_ms
        self._write_governance(Governance(committee=genesis.committee, contracts=genesis.contracts))

    def _write_governance(self, governance: Governance) -> None:
        self._governance = governance
        self._governance_unhashed = True

    def _write(self, rows: Iterable[Row]) -> MicroCredits:
        """Write whole rows. Returns by how much all credits together have changed, which may be negative."""
        delta_micro = 0
        for row in rows:
            match row:
                case AccountRow():
                    delta_micro += self._write_account(row.id, row.value)
                case OfferRow():
                    self._write_offer(row.id, row.value)
                case AwardRow():
                    self._write_award(row.id, row.value)
                case UnbondingRow():
                    self._write_unbonding(row.id, row.value)
                case KeysRow():
                    self._write_keys(row.id, row.value)
                case TabRow():
                    self._write_tab(row.id, row.value)
                case StandingRow():
                    self._write_standing(row.id, row.value)
                case _:
                    assert_never(row)
        return delta_micro

    def _write_account(self, account: AccountId, value: Account) -> int:
        before = self.account(account)
        if self._history is not None:
            self._history.wrote(account, before)
        assert min(value.available_micro, value.locked_micro, value.bonded_micro) >= 0, "no account owes"
        if value == EMPTY:
            self._accounts.pop(account, None)
        else:
            self._accounts[account] = value
        self._unhashed.add(("account", account))
        return _held_micro(value) - _held_micro(before)

    def _write_offer(self, offer: EntryId, value: ListedOffer | None) -> None:
        if value is not None and offer in self._offers:
            self._offers[offer] = self._offers_by_model[value.offer.model.name][offer] = value
        elif value is not None:
            self._offers[offer] = value
            self._offers_by_model.setdefault(value.offer.model.name, {})[offer] = value
            self._offer_counts[value.provider] = self.offers_of(value.provider) + 1
            self._offers_due.add(offer, value.offer.valid_until_ms)
        else:
            self._unlist(offer, self._offers.pop(offer))
        self._unhashed.add(("offer", offer))

    def _unlist(self, offer: EntryId, listed: ListedOffer) -> None:
        same_model = self._offers_by_model[listed.offer.model.name]
        del same_model[offer]
        if not same_model:
            del self._offers_by_model[listed.offer.model.name]
        self._offer_counts[listed.provider] -= 1
        if not self._offer_counts[listed.provider]:
            del self._offer_counts[listed.provider]
        self._offers_due.remove(offer)

    def _write_award(self, award: EntryId, value: OpenAward | None) -> None:
        if value is not None:
            if award not in self._awards:
                self._awards_due.add(award, value.award.expires_ms)
            self._awards[award] = value
        else:
            del self._awards[award]
            self._awards_due.remove(award)
        self._unhashed.add(("award", award))

    def _write_unbonding(self, offer: EntryId, value: Unbonding | None) -> None:
        if value is not None:
            if offer not in self._unbondings:
                self._unbondings_due.add(offer, value.until_ms)
            self._unbondings[offer] = value
        else:
            del self._unbondings[offer]
            self._unbondings_due.remove(offer)
        self._unhashed.add(("unbonding", offer))

    def _write_tab(self, tab: EntryId, value: OpenTab | None) -> None:
        if value is not None:
            self._tabs[tab] = value
            self._tabs_due.add(tab, value.expires_ms)
        else:
            del self._tabs[tab]
            self._tabs_due.remove(tab)
        self._unhashed.add(("tab", tab))

    def _write_standing(self, provider: AccountId, value: Standing) -> None:
        self._standings[provider] = value
        self._unhashed.add(("standing", provider))

    def _write_keys(self, account: AccountId, value: Keys) -> None:
        before = self.keys(account)
        for key in {before.owner, *before.machines} - {value.owner, *value.machines, account}:
            del self._acting[key]
        for key in {value.owner, *value.machines} - {account}:
            self._acting[key] = account
        self._keys[account] = value
        self._unhashed.add(("keys", account))

    def _write_chain(self, account: AccountId, head: ChainHead) -> None:
        self._chains[account] = head
        self._unhashed.add(("chain", account))


def _held_micro(account: Account) -> MicroCredits:
    return account.available_micro + account.locked_micro + account.bonded_micro
