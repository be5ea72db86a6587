"""The state of a market: the fold of its entries, by the contracts that its genesis puts in force.

It promises: an entry is applied whole or refused with nothing changed; replicas that apply the same entries have the
same root; credits are conserved. It refuses to know who ordered the entries, and what time it is outside the ledger.

An entry is refused unless

1. it is the next of its account's chain (``chain``),
2. it is a genesis if and only if it is entry 0 (``genesis``),
3. the contract of its kind is in force (``not_in_force``), and follows (``contracts/``);

a genesis, unless

4. its operator signed it (``not_operator``),
5. the contracts that it names are those of this program (``contract_missing``, ``contract_differs``),
6. it grants to each account once (``granted_twice``),
7. and at most 2^53 - 1 micro-credits in all (``overflow``);

a mark, unless

8. the operator signed it (``not_operator``),
9. time does not go back (``time_goes_back``),
10. its root is that of the state before it (``other_state``).

How far a mark's time may be from the clock on the wall is for the mirrors to judge before they cosign.
"""

from typing import Final, assert_never

from msgspec.structs import replace

from wwwmarket.crypto import canonical
from wwwmarket.domain.book import Account, AccountRow, AwardRow, OfferRow, Row
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, Stale
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.quantity import INTEGER_MAX, Count, Millis
from wwwmarket.domain.records import Award, Genesis, Mark, Offer, Settlement, Transfer, Withdrawal
from wwwmarket.domain.shape import Record, Value
from wwwmarket.rules.check import Checked
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.tables import ChainHead, Tables

RULES: Final = {
    Transfer: "account/v1",
    Offer: "offer/v1",
    Withdrawal: "offer/v1",
    Award: "award/v1",
    Settlement: "settlement/v1",
}
"""Which contract says what follows from a body; genesis and mark are of the state itself."""


class Applied(Value):
    """An entry in its place: ``rows`` are the new values of all that it changed, None where something has gone."""

    index: Count
    checked: Checked
    rows: tuple[Row, ...]


class ChainRow(Value):
    account: AccountId
    next_seq: Count
    prev: EntryId


class Snapshot(Record, tag="snapshot/v1"):
    """A whole state, every table in ascending order of its keys: where a replica may start instead of at entry 0."""

    genesis: Genesis
    genesis_entry: EntryId
    now_ms: Millis
    size: Count
    accounts: tuple[AccountRow, ...]
    chains: tuple[ChainRow, ...]
    offers: tuple[OfferRow, ...]
    awards: tuple[AwardRow, ...]


class State(Tables):
    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    def apply(self, checked: Checked) -> Applied:
        """Follow the next entry of the log. Raises a Refusal as listed above, and then has changed nothing."""
        self._check_place(checked)
        rows = self._follow(checked)
        created_micro = self._write(rows)
        assert created_micro == (self.total_micro if isinstance(checked.body, Genesis) else 0), "credits are conserved"
        self._write_chain(checked.account, ChainHead(checked.seq + 1, checked.id))
        self._size += 1
        return Applied(index=self._size - 1, checked=checked, rows=rows)

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
        rule = RULES.get(type(checked.body))
        if rule is not None and self._genesis is not None and rule not in self._genesis.contracts:  # 3
            raise Conflict(f"the genesis does not put {rule} in force", param="body", reason="not_in_force")

    def _follow(self, checked: Checked) -> tuple[Row, ...]:
        registry, author, entry = self._registry, checked.account, checked.id
        match checked.body:
            case Transfer():
                return registry.account_v1.apply(self, author, entry, checked.body)
            case Offer() | Withdrawal():
                return registry.offer_v1.apply(self, author, entry, checked.body)
            case Award():
                assert checked.facts is not None, "an award is checked with its facts"
                return registry.award_v1.apply(self, author, entry, checked.body, checked.facts)
            case Settlement():
                return registry.settlement_v1.apply(self, author, entry, checked.body)
            case Mark():
                return self._mark(author, checked.body)
            case Genesis():
                return self._begin(checked, checked.body)
            case _:
                assert_never(checked.body)

    def _begin(self, checked: Checked, genesis: Genesis) -> tuple[Row, ...]:
        if checked.account != genesis.operator:  # 4
            raise Forbidden(
                "a genesis is signed by the operator that it names", param="operator", reason="not_operator"
            )
        self._registry.require(genesis.contracts)  # 5
        if len({grant.account for grant in genesis.grants}) < len(genesis.grants):  # 6
            raise Malformed("a genesis grants to each account once", param="grants", reason="granted_twice")
        if sum(grant.amount_micro for grant in genesis.grants) > INTEGER_MAX:  # 7
            raise Malformed(f"a genesis grants at most {INTEGER_MAX} micro-credits", param="grants", reason="overflow")
        self._write_genesis(genesis, checked.id)
        return tuple(
            AccountRow(id=grant.account, value=Account(available_micro=grant.amount_micro)) for grant in genesis.grants
        )

    def _mark(self, author: AccountId, mark: Mark) -> tuple[Row, ...]:
        assert self._genesis is not None, "a genesis comes first"
        if author != self._genesis.operator:  # 8
            raise Forbidden("only the operator marks", reason="not_operator")
        if mark.at_ms < self._now_ms:  # 9
            raise Stale(f"the ledger's time is {self._now_ms} already", param="at_ms", reason="time_goes_back")
        root = self.root()
        if mark.state_root != root:  # 10
            raise Conflict(f"the state before this mark has root {root}", param="state_root", reason="other_state")
        self._now_ms = mark.at_ms
        return self._expire()

    def _expire(self) -> tuple[Row, ...]:
        """What falls due by now: locks return to clients, then bonds to providers."""
        accounts: dict[AccountId, Account] = {}
        gone: list[Row] = []
        for award in self._awards_due.take_due(self._now_ms):
            opened = self._awards[award]
            client = accounts.get(opened.client) or self.account(opened.client)
            freed_micro = opened.award.locked_micro
            accounts[opened.client] = replace(
                client,
                available_micro=client.available_micro + freed_micro,
                locked_micro=client.locked_micro - freed_micro,
            )
            gone.append(AwardRow(id=award, value=None))
        for offer in self._offers_due.take_due(self._now_ms):
            listed = self._offers[offer]
            provider = accounts.get(listed.provider) or self.account(listed.provider)
            freed_micro = listed.offer.bond_micro
            accounts[listed.provider] = replace(
                provider,
                available_micro=provider.available_micro + freed_micro,
                bonded_micro=provider.bonded_micro - freed_micro,
            )
            gone.append(OfferRow(id=offer, value=None))
        return (*(AccountRow(id=account, value=value) for account, value in accounts.items()), *gone)

    def snapshot(self) -> bytes:
        """Canonical bytes of a ``Snapshot``: the same for every replica that has applied the same entries."""
        assert self._genesis is not None, "a genesis comes first"
        return canonical.encode(
            Snapshot(
                genesis=self._genesis,
                genesis_entry=self._anchor,
                now_ms=self._now_ms,
                size=self._size,
                accounts=tuple(AccountRow(id=name, value=value) for name, value in sorted(self._accounts.items())),
                chains=tuple(
                    ChainRow(account=name, next_seq=head.next_seq, prev=head.prev)
                    for name, head in sorted(self._chains.items())
                ),
                offers=tuple(OfferRow(id=name, value=value) for name, value in sorted(self._offers.items())),
                awards=tuple(AwardRow(id=name, value=value) for name, value in sorted(self._awards.items())),
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
        registry.require(snapshot.genesis.contracts)
        state = cls(registry)
        state._restore(snapshot)
        if state.root() != root:
            raise Malformed(f"the snapshot is not of the state with root {root}", reason="other_state")
        return state

    def _restore(self, snapshot: Snapshot) -> None:
        self._write_genesis(snapshot.genesis, snapshot.genesis_entry)
        self._now_ms = snapshot.now_ms
        self._size = snapshot.size
        for account, value in {row.id: row.value for row in snapshot.accounts}.items():
            self._write_account(account, value)
        for row in snapshot.chains:
            self._write_chain(row.account, ChainHead(row.next_seq, row.prev))
        for offer, listed in {row.id: row.value for row in snapshot.offers}.items():
            if listed is not None:
                self._write_offer(offer, listed)
        for award, opened in {row.id: row.value for row in snapshot.awards}.items():
            if opened is not None:
                self._write_award(award, opened)
