"""What a moment ends: locks, offers, bonds. Several ends can touch one account, so their rows are gathered here."""

from msgspec.structs import replace

from wwwmarket.domain.book import (
    Account,
    AccountRow,
    AwardRow,
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
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.domain.standing import Standing
from wwwmarket.rules.registry import Rules
from wwwmarket.rules.tables import Tables


class Expiry:
    """The rows of all that ends at one mark, on top of the tables as they were before it."""

    def __init__(self, tables: Tables, rules: Rules) -> None:
        self._tables = tables
        self._rules = rules
        self._accounts: dict[AccountId, Account] = {}
        self._offers: dict[EntryId, ListedOffer | None] = {}
        self._unbondings: dict[EntryId, UnbondingRow] = {}
        self._awards: list[AwardRow] = []
        self._tabs: list[TabRow] = []
        self._standings: dict[AccountId, Standing] = {}

    def end_award(self, award: EntryId, opened: OpenAward) -> None:
        """The lock returns; under a dispute the provider's bond pays besides."""
        locked_micro = opened.award.locked_micro
        self._move(opened.client, available=locked_micro, locked=-locked_micro)
        if opened.disputed_ms is not None:
            self._remember(opened, self._penalise(opened))
        self._awards.append(AwardRow(id=award, value=None))

    def end_tab(self, tab: EntryId, opened: OpenTab) -> None:
        """Its provider has not settled it: the lock returns."""
        self._move(opened.client, available=opened.locked_micro, locked=-opened.locked_micro)
        self._tabs.append(TabRow(id=tab, value=None))

    def end_offer(self, offer: EntryId) -> None:
        """Unlisted; its bond is free, or from version 2 of its contract on some time later."""
        listed = self._listed(offer)
        assert listed is not None, "an offer that falls due is listed"
        self._offers[offer] = None
        if self._rules.offer_v2 is None or not self._tables.parameters.unbonding_ms:
            self._move(listed.provider, available=listed.bonded_micro, bonded=-listed.bonded_micro)
            return
        for row in self._rules.offer_v2.unbond(self._tables, offer, listed):
            assert isinstance(row, UnbondingRow), "an offer's end leaves nothing but its bond"
            self._unbondings[offer] = row

    def free_bond(self, offer: EntryId) -> None:
        """The unbonding time is over."""
        unbonding = self._unbonding(offer)
        assert unbonding is not None, "a bond that falls due is there"
        self._move(unbonding.provider, available=unbonding.amount_micro, bonded=-unbonding.amount_micro)
        self._unbondings[offer] = UnbondingRow(id=offer, value=None)

    def rows(self) -> tuple[Row, ...]:
        """Accounts first, then what has ended or changed, in the order in which it did."""
        return (
            *(AccountRow(id=name, value=value) for name, value in self._accounts.items()),
            *self._awards,
            *self._tabs,
            *(OfferRow(id=name, value=value) for name, value in self._offers.items()),
            *self._unbondings.values(),
            *(StandingRow(id=name, value=value) for name, value in self._standings.items()),
        )

    def _remember(self, opened: OpenAward, taken: MicroCredits) -> None:
        """A provider is known for its silence; an account knows nothing of itself."""
        rule, provider = self._rules.reputation, opened.provider
        if rule is None or opened.client == provider:
            return
        standing = self._standings.get(provider) or self._tables.standing(provider)
        locked_micro = opened.award.locked_micro
        self._standings[provider] = rule.silent(standing, self._tables.now_ms, locked_micro, taken)

    def _penalise(self, opened: OpenAward) -> MicroCredits:
        """What is taken of the bond of the winner's offer, or of what outlived it; nothing where that is free again."""
        rule, offer = self._rules.settlement_v2, opened.award.winner.body.offer
        listed, unbonding = self._listed(offer), self._unbonding(offer)
        if rule is None:
            return 0
        if listed is not None:
            taken = rule.penalty(listed.offer.bond_micro, listed.bonded_micro)
            self._offers[offer] = replace(listed, penalised_micro=listed.penalised_micro + taken)
        elif unbonding is not None:
            taken = rule.penalty(unbonding.bond_micro, unbonding.amount_micro)
            left = replace(unbonding, amount_micro=unbonding.amount_micro - taken)
            self._unbondings[offer] = UnbondingRow(id=offer, value=left)
        else:
            return 0
        self._move(opened.provider, bonded=-taken)
        self._move(opened.client, available=taken)
        return taken

    def _listed(self, offer: EntryId) -> ListedOffer | None:
        return self._offers[offer] if offer in self._offers else self._tables.offer(offer)

    def _unbonding(self, offer: EntryId) -> Unbonding | None:
        row = self._unbondings.get(offer)
        return self._tables.unbonding(offer) if row is None else row.value

    def _move(
        self, name: AccountId, *, available: MicroCredits = 0, locked: MicroCredits = 0, bonded: MicroCredits = 0
    ) -> None:
        account = self._accounts.get(name) or self._tables.account(name)
        self._accounts[name] = replace(
            account,
            available_micro=account.available_micro + available,
            locked_micro=account.locked_micro + locked,
            bonded_micro=account.bonded_micro + bonded,
        )
