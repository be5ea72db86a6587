"""The state of a market: the fold of its entries, by the contracts that its genesis puts in force.

It promises: an entry is applied whole or refused with nothing changed; replicas that apply the same entries have the
same root; credits are conserved. It refuses to know who ordered the entries, and what time it is outside the ledger.

An entry is refused unless

1. it is the next of its account's chain (``chain``),
2. it is a genesis if and only if it is entry 0 (``genesis``),
3. the contract of its kind is in force (``not_in_force``), and follows (``contracts/``),
4. its key acts for an account (``key_replaced``),
5. and as a machine only where a machine may (``machine_key``);

a genesis, unless

6. its operator signed it (``not_operator``),
7. the contracts that it names are those of this program, one version of each (``contract_missing``,
   ``contract_differs``, ``contract_twice``),
8. it grants to each account once (``granted_twice``),
9. and at most 2^53 - 1 micro-credits in all (``overflow``),
10. no two members of its committee share a name, an account or a key (``member_twice``);

a mark, unless

11. the operator signed it (``not_operator``),
12. time does not go back (``time_goes_back``),
13. its root is that of the state before it (``other_state``);

a decree, unless

14. it is of this log (``other_log``),
15. and the next in number (``other_number``),
16. only members of the committee in office signed it (``not_member``),
17. a quorum of them (``no_quorum``);

an election, unless

18. the new committee has members, as in 10 (``no_members``, ``member_twice``);

an upgrade, unless

19. it takes effect after the entry that decrees it (``too_late``),
20. no other is waiting (``upgrade_waiting``),
21. and this program has its contracts, as in 7,
22. each at least as new as the one in force, and none left out (``goes_back``);

new credits, unless

23. an account receives them (``no_account``),
24. and it, and all accounts together, stay within 2^53 - 1 micro-credits (``overflow``);

a succession, unless

25. it is the entry that it names (``other_place``),
26. by the operator that it names (``not_operator``),
27. under a name that this log never had (``origin_used``).

How far a mark's time may be from the clock on the wall is for the mirrors to judge before they cosign; and that the
root in a succession is the tree's, for whoever has the tree.
"""

from collections.abc import Sequence
from typing import Final, assert_never

from msgspec.structs import replace

from wwwmarket.crypto import canonical
from wwwmarket.domain.book import (
    Account,
    AccountRow,
    AwardRow,
    Governance,
    KeysRow,
    OfferRow,
    Row,
    StandingRow,
    TabRow,
    UnbondingRow,
)
from wwwmarket.domain.committee import Committee
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, Stale, Unavailable
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.keys import Delegation, Guard, Revocation, Rotation
from wwwmarket.domain.quantity import INTEGER_MAX, Count, Millis
from wwwmarket.domain.records import (
    Award,
    Decree,
    Dispute,
    Election,
    Genesis,
    Mark,
    Mint,
    Offer,
    Resolution,
    Settlement,
    Succession,
    TabOpening,
    TabSettlement,
    Transfer,
    Upgrade,
    Withdrawal,
)
from wwwmarket.domain.shape import Record, Value
from wwwmarket.rules.check import Checked
from wwwmarket.rules.expiry import Expiry
from wwwmarket.rules.registry import Registry, Rules
from wwwmarket.rules.repute import facts_of_tab, known_by_award, known_by_tab
from wwwmarket.rules.tables import ChainHead, Tables

FAMILIES: Final = {
    Transfer: ("account", 1),
    Offer: ("offer", 1),
    Withdrawal: ("offer", 1),
    Award: ("award", 1),
    Settlement: ("settlement", 1),
    Dispute: ("settlement", 2),
    Rotation: ("keys", 1),
    Delegation: ("keys", 1),
    Revocation: ("keys", 1),
    Guard: ("keys", 1),
    TabOpening: ("tab", 1),
    TabSettlement: ("tab", 1),
}
"""Which contract says what follows from a body, from which version on; genesis, mark and decree are of the state."""


MACHINES_WRITE: Final = (Offer, Withdrawal, Settlement, TabSettlement)
"""What a machine key may write for its account: it sells, and spends nothing."""


class Applied(Value):
    """An entry in its place: ``rows`` are the new values of all that it changed, None where something has gone.

    ``author`` is the account for which its key wrote it.
    """

    index: Count
    checked: Checked
    author: AccountId
    rows: tuple[Row, ...]


class ChainRow(Value):
    account: AccountId
    next_seq: Count
    prev: EntryId


class Snapshot(Record, tag="snapshot/v1"):
    """A whole state, every table in ascending order of its keys: where a replica may start instead of at entry 0."""

    genesis: Genesis
    genesis_entry: EntryId
    governance: Governance
    now_ms: Millis
    size: Count
    accounts: tuple[AccountRow, ...]
    chains: tuple[ChainRow, ...]
    offers: tuple[OfferRow, ...]
    awards: tuple[AwardRow, ...]
    unbondings: tuple[UnbondingRow, ...]
    keys: tuple[KeysRow, ...]
    tabs: tuple[TabRow, ...]
    standings: tuple[StandingRow, ...]


class State(Tables):
    def __init__(self, registry: Registry, *, proves: bool = False) -> None:
        super().__init__(proves=proves)
        self._registry = registry
        self._rules: Rules | None = None

    @property
    def rules(self) -> Rules:
        """The contracts in force for the next entry. Raises Unavailable before the genesis."""
        if self._rules is None:
            raise Unavailable("this ledger has not begun", retry_after_ms=1_000)
        return self._rules

    def apply(self, checked: Checked) -> Applied:
        """Follow the next entry of the log. Raises a Refusal as listed above, and then has changed nothing."""
        self._check_place(checked)
        author = self._author(checked)
        total_micro = self.total_micro
        rows = self._follow(checked, author)
        created_micro = self._write(rows)
        assert created_micro == self.total_micro - total_micro, "credits are conserved"
        self._write_chain(checked.account, ChainHead(checked.seq + 1, checked.id))
        self._size += 1
        self._upgrade_if_due()
        return Applied(index=self._size - 1, checked=checked, author=author, rows=rows)

    def _check_place(self, checked: Checked) -> None:
        head = self.chain_head(checked.account)
        if (checked.seq, checked.prev) != head:  # 1
            raise Conflict(
                f"the account's next entry is number {head.next_seq} after {head.prev}, not {checked.seq} after "
                f"{checked.prev}",
                param="seq",
                reason="chain",
            )
        if isinstance(checked.body, Genesis) != (self._size == 0):  # 2
            raise Conflict("entry 0 is the genesis, and no other is", param="body", reason="genesis")
        family = FAMILIES.get(type(checked.body))
        if family is not None and self._rules is not None and not self._rules.speaks(*family):  # 3
            raise Conflict(
                f"the contract {family[0]}/v{family[1]}, or a later version, is not in force",
                param="body",
                reason="not_in_force",
            )

    def _author(self, checked: Checked) -> AccountId:
        account = self.account_of(checked.account)
        if account is None:  # 4
            raise Forbidden("another key owns this account now", param="account", reason="key_replaced")
        is_machine = self.keys(account).owner != checked.account
        if is_machine and not isinstance(checked.body, MACHINES_WRITE):  # 5
            raise Forbidden("a machine's key offers and settles, and nothing else", reason="machine_key")
        return account

    def _follow(self, checked: Checked, author: AccountId) -> tuple[Row, ...]:  # noqa: C901, PLR0911 - one for each body
        entry = checked.id
        match checked.body:
            case Transfer():
                return self.rules.account.apply(self, author, entry, checked.body)
            case Offer() | Withdrawal():
                return self.rules.offer.apply(self, author, entry, checked.body)
            case Award():
                assert checked.facts is not None, "an award is checked with its facts"
                return self.rules.award.apply(self, author, entry, checked.body, checked.facts)
            case Settlement():
                rows = self.rules.settlement.apply(self, author, entry, checked.body)
                return (*rows, *known_by_award(self, self.rules, checked.body))
            case Dispute():
                return self.rules.settlement.apply(self, author, entry, checked.body)
            case TabOpening():
                return self.rules.tab.apply(self, author, entry, checked.body, ())
            case TabSettlement():
                facts = facts_of_tab(self.rules, checked.body, checked.unvouched)
                rows = self.rules.tab.apply(self, author, entry, checked.body, facts)
                return (*rows, *known_by_tab(self, self.rules, checked.body))
            case Rotation() | Delegation() | Revocation() | Guard():
                return self.rules.keys.apply(self, author, entry, checked.body)
            case Mark():
                return self._mark(checked.account, checked.body)
            case Genesis():
                return self._begin(checked, checked.body)
            case Decree():
                assert checked.certifiers is not None, "a decree is checked with its signers"
                return self._decree(checked.account, checked.body.resolution.body, checked.certifiers)
            case _:
                assert_never(checked.body)

    def _begin(self, checked: Checked, genesis: Genesis) -> tuple[Row, ...]:
        if checked.account != genesis.operator:  # 6
            raise Forbidden(
                "a genesis is signed by the operator that it names", param="operator", reason="not_operator"
            )
        rules = self._registry.rules(genesis.contracts)  # 7
        if len({grant.account for grant in genesis.grants}) < len(genesis.grants):  # 8
            raise Malformed("a genesis grants to each account once", param="grants", reason="granted_twice")
        if sum(grant.amount_micro for grant in genesis.grants) > INTEGER_MAX:  # 9
            raise Malformed(f"a genesis grants at most {INTEGER_MAX} micro-credits", param="grants", reason="overflow")
        _check_members(genesis.committee)  # 10
        self._rules = rules
        self._write_genesis(genesis, checked.id)
        return tuple(
            AccountRow(id=grant.account, value=Account(available_micro=grant.amount_micro)) for grant in genesis.grants
        )

    def _mark(self, author: AccountId, mark: Mark) -> tuple[Row, ...]:
        if author != self.operator:  # 11
            raise Forbidden("only the operator marks", reason="not_operator")
        if mark.at_ms < self._now_ms:  # 12
            raise Stale(f"the ledger's time is {self._now_ms} already", param="at_ms", reason="time_goes_back")
        root = self.root()
        if mark.state_root != root:  # 13
            raise Conflict(f"the state before this mark has root {root}", param="state_root", reason="other_state")
        if self._history is not None:
            self._history.cut(self._size + 1)
        self._now_ms = mark.at_ms
        return self._expire()

    def _decree(self, author: AccountId, resolution: Resolution, certifiers: frozenset[AccountId]) -> tuple[Row, ...]:
        governance = self.governance
        if resolution.origin != self.origin:  # 14
            raise Conflict(f"that decree is of the log {resolution.origin}", param="origin", reason="other_log")
        if resolution.number != governance.decrees:  # 15
            raise Conflict(f"the next decree is number {governance.decrees}", param="number", reason="other_number")
        strangers = certifiers - {member.account for member in governance.committee.members}
        if strangers:  # 16
            raise Forbidden(f"{min(strangers)} is no member of the committee", param="signatures", reason="not_member")
        quorum = governance.committee.quorum
        if not 0 < quorum <= len(certifiers):  # 17
            raise Forbidden(
                f"{len(certifiers)} members have signed, and {quorum or 'no'} of a committee decree",
                param="signatures",
                reason="no_quorum",
            )
        decreed = replace(governance, decrees=governance.decrees + 1)
        match resolution:
            case Election():
                return self._elect(decreed, resolution)
            case Upgrade():
                return self._decide_upgrade(decreed, resolution)
            case Mint():
                return self._mint(decreed, resolution)
            case Succession():
                return self._succeed(author, decreed, resolution)
            case _:
                assert_never(resolution)

    def _elect(self, decreed: Governance, election: Election) -> tuple[Row, ...]:
        if not election.committee.members:  # 18
            raise Malformed("a committee has members", param="committee", reason="no_members")
        _check_members(election.committee)
        self._write_governance(replace(decreed, committee=election.committee))
        return ()

    def _decide_upgrade(self, decreed: Governance, upgrade: Upgrade) -> tuple[Row, ...]:
        if upgrade.from_index <= self._size:  # 19
            raise Stale(f"entry {self._size} decrees it", param="from_index", reason="too_late")
        if decreed.upgrade is not None:  # 20
            raise Conflict("another upgrade is waiting", param="number", reason="upgrade_waiting")
        rules = self._registry.rules(upgrade.contracts)  # 21
        for family, version in self.rules.versions.items():
            if not rules.speaks(family, version):  # 22: what an older version does not know would be lost
                raise Conflict(
                    f"{family}/v{version} is in force, and nothing older takes its place",
                    param="contracts",
                    reason="goes_back",
                )
        self._write_governance(replace(decreed, upgrade=upgrade))
        return ()

    def _mint(self, decreed: Governance, mint: Mint) -> tuple[Row, ...]:
        if self.account_of(mint.to) not in {mint.to, None}:  # 23
            raise Conflict("that is a key of another account: mint for the account", param="to", reason="no_account")
        if self.total_micro + mint.amount_micro > INTEGER_MAX:  # 24: no account can hold more than all together
            raise Conflict("there cannot be so many credits", param="amount_micro", reason="overflow")
        account = self.account(mint.to)
        self._write_governance(replace(decreed, minted_micro=decreed.minted_micro + mint.amount_micro))
        return (
            AccountRow(id=mint.to, value=replace(account, available_micro=account.available_micro + mint.amount_micro)),
        )

    def _succeed(self, author: AccountId, decreed: Governance, succession: Succession) -> tuple[Row, ...]:
        assert self._genesis is not None, "a genesis comes first"
        if succession.size != self._size:  # 25
            raise Conflict(
                f"that succession is entry {succession.size}, and this is {self._size}",
                param="size",
                reason="other_place",
            )
        if author != succession.operator:  # 26
            raise Forbidden("a succession is written by its operator", param="operator", reason="not_operator")
        names = {self._genesis.origin, *(each.successor for each in decreed.successions)}
        if succession.successor in names:  # 27
            raise Conflict("the log had that name before", param="successor", reason="origin_used")
        self._write_governance(replace(decreed, successions=(*decreed.successions, succession)))
        return ()

    def _upgrade_if_due(self) -> None:
        governance = self.governance
        if governance.upgrade is not None and governance.upgrade.from_index == self._size:
            contracts = governance.upgrade.contracts
            self._rules = self._registry.rules(contracts)
            self._write_governance(replace(governance, contracts=contracts, upgrade=None))

    def _expire(self) -> tuple[Row, ...]:
        """What falls due by now: locks return to clients, then offers end, then bonds return to providers."""
        expiry = Expiry(self, self.rules)
        for award in self._awards_due.take_due(self._now_ms):
            expiry.end_award(award, self._awards[award])
        for tab in self._tabs_due.take_due(self._now_ms):
            expiry.end_tab(tab, self._tabs[tab])
        for offer in self._offers_due.take_due(self._now_ms):
            expiry.end_offer(offer)
        for offer in self._unbondings_due.take_due(self._now_ms):
            expiry.free_bond(offer)
        return expiry.rows()

    def snapshot(self) -> bytes:
        """Canonical bytes of a ``Snapshot``: the same for every replica that has applied the same entries."""
        assert self._genesis is not None, "a genesis comes first"
        return canonical.encode(
            Snapshot(
                genesis=self._genesis,
                genesis_entry=self._anchor,
                governance=self.governance,
                now_ms=self._now_ms,
                size=self._size,
                accounts=tuple(AccountRow(id=name, value=value) for name, value in sorted(self._accounts.items())),
                chains=tuple(
                    ChainRow(account=name, next_seq=head.next_seq, prev=head.prev)
                    for name, head in sorted(self._chains.items())
                ),
                offers=tuple(OfferRow(id=name, value=value) for name, value in sorted(self._offers.items())),
                awards=tuple(AwardRow(id=name, value=value) for name, value in sorted(self._awards.items())),
                unbondings=tuple(
                    UnbondingRow(id=name, value=value) for name, value in sorted(self._unbondings.items())
                ),
                keys=tuple(KeysRow(id=name, value=value) for name, value in sorted(self._keys.items())),
                tabs=tuple(TabRow(id=name, value=value) for name, value in sorted(self._tabs.items())),
                standings=tuple(StandingRow(id=name, value=value) for name, value in sorted(self._standings.items())),
            )
        )

    @classmethod
    def restore(cls, registry: Registry, data: bytes, root: Digest) -> "State":
        """The state of which ``data`` is the snapshot; ``root`` is what it must hash to, from a mark that is trusted.

        Raises:
            Malformed: not a snapshot, or not of the state with that root.
            Conflict: the contracts in force are not those of this program.
        """
        snapshot = canonical.decode(data, Snapshot, bytes_max=len(data))
        state = cls(registry)
        state._rules = registry.rules(snapshot.governance.contracts)
        state._restore(snapshot)
        if state.root() != root:
            raise Malformed(f"the snapshot is not of the state with root {root}", reason="other_state")
        return state

    def _restore(self, snapshot: Snapshot) -> None:
        self._write_genesis(snapshot.genesis, snapshot.genesis_entry)
        self._write_governance(snapshot.governance)
        self._now_ms = snapshot.now_ms
        self._size = snapshot.size
        for chain in snapshot.chains:
            self._write_chain(chain.account, ChainHead(chain.next_seq, chain.prev))
        tables: tuple[Sequence[Row], ...] = (
            snapshot.accounts,
            snapshot.offers,
            snapshot.awards,
            snapshot.unbondings,
            snapshot.keys,
            snapshot.tabs,
            snapshot.standings,
        )
        for rows in tables:
            self._write(row for row in {row.id: row for row in rows}.values() if row.value is not None)


def _check_members(committee: Committee) -> None:
    members = committee.members
    for shared in ("name", "account", "cosigner"):
        if len({getattr(member, shared) for member in members}) < len(members):
            raise Malformed(f"two members have one {shared}", param="committee", reason="member_twice")
