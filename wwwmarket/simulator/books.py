"""The ledger of a simulated market: the product's ``rules.State`` behind one orderer, with the delay of ordering.

Replication is left out: mirrors only confirm what the orderer's fold already is.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry, sign, sign_entry, verified_own
from wwwmarket.domain.book import AwardRow
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import NO_ENTRY, AccountId, EntryId, NodeId
from wwwmarket.domain.quantity import INTEGER_MAX
from wwwmarket.domain.records import Body, Genesis, Grant, Inclusion, Mark, NodeAddress, Settlement, Transfer
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State
from wwwmarket.simulator.events import EPOCH_MS, EventLoop
from wwwmarket.simulator.network import Network

ORIGIN: Final = "simulated.market/ledger"
COMMIT_US: Final = 5_000
"""One group commit."""
MARK_US: Final = 1_000_000
OPENING_MICRO: Final = 10**12
"""What each node begins with."""

Answer: TypeAlias = Callable[[Verified[Inclusion] | Refusal], None]


class Chain:
    """One account's place in its chain, and its key. After a refusal it goes on from where the ledger is."""

    def __init__(self, key: KeyPair, head: Callable[[], tuple[int, EntryId]]) -> None:
        self.key = key
        self.lost = False
        self._head = head
        self._seq, self._prev = head()

    def sign(self, body: Body) -> VerifiedEntry:
        if self.lost:
            self._seq, self._prev = self._head()
            self.lost = False
        entry = verified_own(sign_entry(self.key, seq=self._seq, prev=self._prev, body=body))
        self._seq += 1
        self._prev = entry.id
        return entry


class Books:
    """``on_closed`` is called with each award that closes, and its provider. The orderer sits with node 0."""

    def __init__(self, loop: EventLoop, network: Network, accounts: Sequence[AccountId]) -> None:
        self.registry = Registry.load()
        self.state = State(self.registry)
        self.listed: dict[EntryId, VerifiedEntry] = {}
        self.on_closed: Callable[[EntryId, AccountId], None] = lambda _award, _provider: None
        self._loop = loop
        self._network = network
        self._accounts = accounts
        self.key = KeyPair(b"\x01" * 32)
        self._chain = Chain(self.key, lambda: (0, NO_ENTRY))
        self._chains: dict[AccountId, Chain] = {}
        self._closed: set[EntryId] = set()
        self._twice = False
        self.entries = 0
        self._found()

    def _found(self) -> None:
        granted = OPENING_MICRO * len(self._accounts)
        assert granted <= INTEGER_MAX, "credits are counted exactly"
        genesis = Genesis(
            origin=ORIGIN,
            operator=self.key.account,
            operator_address=NodeAddress(node=NodeId(self.key.account)),
            contracts=dict(self.registry.latest),
            grants=(Grant(account=self.key.account, amount_micro=granted),),
            at_ms=EPOCH_MS,
        )
        self._apply(self._chain.sign(genesis))
        for account in self._accounts:
            self._apply(self._chain.sign(Transfer(to=account, amount_micro=OPENING_MICRO)))

    def chain(self, key: KeyPair) -> Chain:
        chain = Chain(key, lambda: self.state.chain_head(key.account))
        self._chains[key.account] = chain
        return chain

    def list(self, entry: VerifiedEntry) -> None:
        """Apply at once: what stood on the ledger before the run began."""
        self.listed[entry.id] = entry
        self._apply(entry)

    def submit(self, sender: int, entry: VerifiedEntry, answer: Answer) -> None:
        """To the orderer, in order, and its promise or refusal back."""
        one_way_us = self._network.round_trip_us(sender, 0) // 2
        self._loop.after(one_way_us + COMMIT_US, self._order, entry, answer, one_way_us)

    def _order(self, entry: VerifiedEntry, answer: Answer, back_us: int) -> None:
        try:
            index = self._apply(entry)
        except Refusal as refusal:
            self._chains[entry.entry.account].lost = True
            self._loop.after(back_us, answer, refusal)
            return
        covered = self._loop.now_ms + MARK_US // 1_000
        promise = Inclusion(entry=entry.id, origin=ORIGIN, index=index, covered_by_ms=covered)
        self._loop.after(back_us, answer, sign(self.key, promise))

    def mark(self) -> None:
        """Ledger time moves, awards that nobody settled expire."""
        before = dict(self.state.awards()) if self.state.awards() else {}
        at_ms = max(self._loop.now_ms, self.state.now_ms)
        due = [(name, opened) for name, opened in before.items() if opened.award.expires_ms <= at_ms]
        self._apply(self._chain.sign(Mark(at_ms=at_ms, state_root=self.state.root())))
        for name, opened in due:
            if self.state.award(name) is None:
                self.on_closed(name, opened.provider)

    def _apply(self, entry: VerifiedEntry) -> int:
        checked = check(entry)
        body = checked.body
        opened = self.state.award(body.award) if isinstance(body, Settlement) else None
        applied = self.state.apply(checked)
        self.entries += 1
        if isinstance(body, Settlement) and opened is not None:
            self._twice |= body.award in self._closed
            self._closed.add(body.award)
            for row in applied.rows:
                assert not isinstance(row, AwardRow) or row.value is None, "a settlement closes its award"
            self.on_closed(body.award, opened.provider)
        return applied.index

    def earned_micro(self, account: AccountId) -> int:
        """What an account has above (or below, negative) what it began with, bonds counted as its own."""
        holds = self.state.account(account)
        return holds.available_micro + holds.bonded_micro + holds.locked_micro - OPENING_MICRO

    def root(self) -> str:
        return self.state.root()

    def open_awards(self) -> frozenset[EntryId]:
        return frozenset(self.state.awards())

    def broken(self) -> str | None:
        """The name of the checker that finds a breach: credits conserved, one settlement for an award."""
        accounts = self.state.accounts().values()
        held = sum(a.available_micro + a.locked_micro + a.bonded_micro for a in accounts)
        if held != self.state.total_micro:
            return "credits-conserved"
        if self._twice:
            return "one-settlement"
        return None
