"""Writes entries in the names of this node's accounts: a chain each, signed in order, durable before anybody sees them.

It promises never to sign two entries for one place of a chain while the ledger may still accept the first.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from wwwmarket.crypto import signing
from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry
from wwwmarket.domain.errors import Forbidden, Refusal
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.records import Body, Inclusion
from wwwmarket.ports.store import Change, RecordStore

OUTBOX = "outbox"

SIGN_MAX = 16
"""Times that one body is signed, where an earlier entry of its chain was refused in between."""
IN_FLIGHT_MAX = 64
"""Entries of one chain, signed and not answered; further ones wait. Those behind a refused one are signed anew."""

Included: TypeAlias = "asyncio.Future[Verified[Inclusion]]"
Keep: TypeAlias = Callable[[VerifiedEntry], Change]


class Submission(Protocol):
    """Where entries go: the operator, in this process or elsewhere."""

    @property
    def durable(self) -> bool:
        """Whether an entry is durable here by the time its future is done, so that it needs no outbox."""
        ...

    def submit(self, entry: VerifiedEntry) -> Included:
        """In the order of the calls. The future is done when the ledger has answered: its promise, or its refusal."""
        ...


@dataclass(frozen=True)
class Written:
    entry: VerifiedEntry
    inclusion: Included


@dataclass
class _Chain:
    """``branch`` are the entries in flight that still count on each other, in order. Once one of them is refused, all
    that follow it will be: they are no part of the chain any more, and their refusals say nothing of its place.
    """

    next_seq: int
    prev: EntryId
    in_flight: int = 0
    branch: list[EntryId] = field(default_factory=list)
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def room(self) -> None:
        """Wait until one more may be in flight."""
        while self.in_flight >= IN_FLIGHT_MAX:
            self.moved.clear()
            await self.moved.wait()

    def goes_on_with(self, entry: VerifiedEntry) -> bool:
        return (self.next_seq, self.prev) == (entry.entry.seq, entry.entry.prev)

    def extend(self, entry: VerifiedEntry) -> None:
        self.next_seq, self.prev = entry.entry.seq + 1, entry.id
        self.in_flight += 1
        self.branch.append(entry.id)

    def answered(self, entry: VerifiedEntry, *, refused: bool) -> None:
        """Refused: the next entry takes its place."""
        self.in_flight -= 1
        self.moved.set()
        if entry.id not in self.branch:
            return
        place = self.branch.index(entry.id)
        if refused:
            self.next_seq, self.prev = entry.entry.seq, entry.entry.prev
            del self.branch[place:]
        else:
            del self.branch[: place + 1]


class Author:
    def __init__(  # noqa: PLR0913, PLR0917 - what an author asks of its node
        self,
        submission: Submission,
        store: RecordStore,
        chain_head: Callable[[AccountId], tuple[int, EntryId]],
        account_of: Callable[[AccountId], AccountId | None],
        index_of: Callable[[EntryId], Awaitable[int | None]],
        can_be_lost: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """``can_be_lost`` says whether the entry at an index is on the ledger and yet not final: it may have to be
        submitted again, to another operator, so it stays in the outbox.
        """
        self._submission = submission
        self._store = store
        self._chain_head = chain_head
        self._account_of = account_of
        self._held: dict[AccountId, KeyPair] = {}
        self._owned: dict[AccountId, KeyPair] = {}
        self._chains: dict[AccountId, _Chain] = {}
        self._forgetting: set[asyncio.Task[None]] = set()
        self._index_of = index_of
        self._can_be_lost = can_be_lost
        self._included: dict[str, int] = {}

    def add_key(self, key: KeyPair) -> None:
        self._held[key.account] = key

    def key(self, account: AccountId) -> KeyPair:
        """What this node holds of the account's keys, as the ledger names them now.

        Raises Forbidden: this node does not sign for that account.
        """
        key = self._owned.get(account) or self._held.get(account)
        if key is None or self._account_of(key.account) != account:
            key = next((one for one in self._held.values() if self._account_of(one.account) == account), None)
        if key is None:
            raise Forbidden("this node does not sign for that account")
        self._owned[account] = key
        return key

    def signs_for(self, account: AccountId) -> bool:
        try:
            self.key(account)
        except Forbidden:
            return False
        return True

    async def write(self, account: AccountId, body: Body, keep: Keep | None = None) -> Written:
        """Sign, persist, submit; returns when the entry is durable. ``inclusion`` is the ledger's answer.

        What ``keep`` makes of the signed entry is persisted before anything is sent.
        """
        key = self.key(account)
        chain = self._chain(key.account)
        async with chain.gate:
            entry = await self._persisted(key, chain, body, keep)
            while not chain.goes_on_with(entry):  # one before it was refused while this one went to the disk
                await self._forget(entry)
                entry = await self._persisted(key, chain, body, keep)
            inclusion = self._send(chain, entry)
        if self._submission.durable:
            await asyncio.wait((inclusion,))
        return Written(entry=entry, inclusion=inclusion)

    async def _persisted(self, key: KeyPair, chain: _Chain, body: Body, keep: "Keep | None") -> VerifiedEntry:
        """The next entry of the chain, as it is now."""
        await chain.room()
        entry = signing.verified_own(signing.sign_entry(key, seq=chain.next_seq, prev=chain.prev, body=body))
        changes = [] if self._submission.durable else [Change(kind=OUTBOX, key=place_of(entry), body=entry.leaf)]
        if keep is not None:
            changes.append(keep(entry))
        if changes:
            await self._store.write(changes)
        return entry

    async def settle(self, account: AccountId, body: Body, keep: Keep | None = None) -> Verified[Inclusion]:
        """Write and wait for the ledger's word; sign anew where only the place in the chain was lost."""
        for _ in range(SIGN_MAX - 1):
            try:
                return await (await self.write(account, body, keep)).inclusion
            except Refusal as refusal:
                if refusal.reason != "chain":
                    raise
        return await (await self.write(account, body, keep)).inclusion

    async def resubmit(self) -> None:
        """After a restart, once the replica has caught up: send again what was signed and never answered."""
        for place, leaf in sorted(await self._store.scan(OUTBOX)):
            entry = signing.open_entry(leaf)
            chain = self._chain(entry.entry.account)
            index = await self._index_of(entry.id)
            if index is not None and self._can_be_lost(index):
                self._included[place] = index
            elif chain.goes_on_with(entry):
                self._send(chain, entry)
            else:
                await self._store.write([Change(kind=OUTBOX, key=place, body=None)])

    async def became_final(self) -> None:
        """More of the ledger is final: what was kept until then is forgotten."""
        safe = [place for place, index in self._included.items() if not self._can_be_lost(index)]
        for place in safe:
            del self._included[place]
        if safe:
            await self._store.write([Change(kind=OUTBOX, key=place, body=None) for place in safe])

    def _send(self, chain: _Chain, entry: VerifiedEntry) -> Included:
        chain.extend(entry)
        inclusion = self._submission.submit(entry)
        inclusion.add_done_callback(lambda done: self._answered(chain, entry, done))
        return inclusion

    def _chain(self, account: AccountId) -> _Chain:
        """The chain as far as it is signed; the ledger's where it is ahead (the same key at work elsewhere)."""
        next_seq, prev = self._chain_head(account)
        chain = self._chains.setdefault(account, _Chain(next_seq, prev))
        if next_seq > chain.next_seq and not chain.in_flight:
            chain.next_seq, chain.prev = next_seq, prev
        return chain

    def _answered(self, chain: _Chain, entry: VerifiedEntry, done: Included) -> None:
        if done.cancelled():  # this node closes
            return
        refused = done.exception() is not None
        chain.answered(entry, refused=refused)
        if self._submission.durable:
            return
        if not refused and self._can_be_lost(done.result().body.index):
            self._included[place_of(entry)] = done.result().body.index
        else:
            task = asyncio.ensure_future(self._forget(entry))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def _forget(self, entry: VerifiedEntry) -> None:
        await self._store.write([Change(kind=OUTBOX, key=place_of(entry), body=None)])


def place_of(entry: VerifiedEntry) -> str:
    """Sorts by account, then by place in its chain."""
    return f"{entry.entry.account}/{entry.entry.seq:016d}/{entry.id}"
