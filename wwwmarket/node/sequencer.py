"""The operator of a log: gives entries their order, makes them durable, promises them, covers them by checkpoints.

It admits only what follows from the state, so the log holds nothing that its contracts refuse. Whoever doubts it
replays. If the disk fails it stops: a state that is ahead of its log must not answer.

Where several processes order one log they share an ``Orderer``. One of them leads: it admits, and promises what the
orderer has made durable. The others take what it ordered, and cover it just as it does, by the same key: a checkpoint
is the same bytes whoever signs it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from wwwmarket.config import LedgerConfig
from wwwmarket.crypto import signing
from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry
from wwwmarket.domain.errors import Conflict, Exhausted, NotFound, Refusal, Unavailable
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.records import Inclusion, Mark
from wwwmarket.ledger.bundles import BUNDLE_ENTRIES_MAX
from wwwmarket.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from wwwmarket.ledger.merkle import SIZE_MAX
from wwwmarket.ledger.note import Signer
from wwwmarket.node.author import Included
from wwwmarket.node.replica import Covering, Replica
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.store import ORDER_ENTRIES_MAX, LedgerStore, Orderer, fitting
from wwwmarket.rules.state import Applied

_log = logging.getLogger("wwwmarket.sequencer")

TAIL_ENTRIES: Final = 4_096
"""Recent entries that followers are served from memory."""
SUPERSEDED: Final = "superseded"
"""Reason of the refusal with which a node ends whose state is ahead of what was ordered: started again, it is not."""
_RETRY_MS: Final = 1_000
_ORDER_AGAIN_MS: Final = 100


@dataclass
class _Pending:
    entry: VerifiedEntry
    index: int
    future: Included
    applied: Applied


class Sequencer:
    """Also the log's ``node.author.Submission`` in the operator's own process."""

    durable: Final = True

    def __init__(  # noqa: PLR0913, PLR0917 - what an operator works with
        self,
        key: KeyPair,
        replica: Replica,
        ledger: LedgerStore,
        clock: Clock,
        config: LedgerConfig,
        on_applied: Callable[[Sequence[Applied]], None],
        orderer: Orderer | None = None,
    ) -> None:
        """``orderer`` None: the store's own order is the order, and this process leads alone."""
        self._key = key
        self._replica = replica
        self._ledger = ledger
        self._clock = clock
        self._config = config
        self._on_applied = on_applied
        self._pending: deque[_Pending] = deque()
        self._due = asyncio.Event()
        self._moved = asyncio.Condition()
        self._tail: deque[bytes] = deque(maxlen=TAIL_ENTRIES)
        self._committed = replica.size
        self._marked = self._covered_size()
        self._marked_at_ms = clock.monotonic_ms()
        self._broken: Refusal | None = None
        self._orderer = orderer
        self._away: Refusal | None = None if orderer is None else not_leading()
        self._asking: set[asyncio.Task[None]] = set()
        self.on_forked: Callable[[bytes, bytes], None] | None = None
        """Told of two entries for one place in an account's chain: the one in the log, and the one that came."""

    @property
    def committed(self) -> int:
        """Entries that are durable."""
        return self._committed

    @property
    def leads(self) -> bool:
        return self._away is None and self._broken is None

    @property
    def _may_mark(self) -> bool:
        """Not before the genesis, nor before the succession by which the log came to this operator."""
        state = self._replica.state
        return self.leads and state.size > 0 and state.operator == self._key.account

    def lead(self) -> None:
        """Admit from now on: this copy is at the log's end, and this process was elected to go on there."""
        assert not self._pending, "what was pending under another term is settled first"
        self._away = None
        self._marked_at_ms = self._clock.monotonic_ms()
        if self._replica.size:
            self.mark()

    async def step_down(self, leader: str) -> None:
        """Admit nothing more, and return once nothing is pending. ``leader`` is what to tell who asks."""
        self._away = not_leading(leader)
        async with self._moved:
            await self._moved.wait_for(lambda: not self._pending)

    async def follow(self) -> None:
        """Take what another process ordered beyond this copy, to its end.

        Raises:
            NotFound: the orderer has trimmed it away (``trimmed``).
            Unavailable: the orderer cannot be reached.
            Refusal: what was ordered does not follow from what is here.
        """
        assert self._orderer is not None
        assert not self._pending, "a leader follows nobody"
        while leaves := await self._orderer.read(self._committed, self._committed + ORDER_ENTRIES_MAX):
            entries = [signing.open_entry(leaf) for leaf in leaves]
            applied = [self._replica.apply(entry) for entry in entries]
            await self._store(applied[0].index, entries)
            await self._publish(applied)

    def submit(self, entry: VerifiedEntry) -> Included:
        """Admit an entry now, in the order of calls; the future is the promise once it is durable."""
        future: Included = asyncio.get_running_loop().create_future()
        try:
            self._refresh_time()
            self._admit(entry, future)
        except Conflict as refusal:
            self._ask_whether_known(entry, refusal, future)
        except Refusal as refusal:
            future.set_exception(refusal)
        return future

    def _refresh_time(self) -> None:
        """Contracts measure an entry's times against the ledger's: after an idle spell the ledger's comes first."""
        state = self._replica.state
        if self._may_mark and self._clock.now_ms() - state.now_ms > self._config.stale_time_ms:
            self.mark()

    def _admit(self, entry: VerifiedEntry, future: Included) -> None:
        if (refusal := self._broken or self._away) is not None:
            raise refusal
        if len(self._pending) >= self._config.pending_entries_max:
            raise Exhausted("the ledger is behind with its writing", retry_after_ms=1_000)
        applied = self._replica.apply(entry)
        self._pending.append(_Pending(entry, applied.index, future, applied))
        self._due.set()

    def _ask_whether_known(self, entry: VerifiedEntry, refusal: Conflict, future: Included) -> None:
        """A retry of what stands in the log already is answered as the first time."""
        waiting = next((pending for pending in self._pending if pending.entry.id == entry.id), None)
        if waiting is not None:
            waiting.future.add_done_callback(lambda done: _copy(done, future))
            return
        task = asyncio.ensure_future(self._look_up(entry, refusal, future))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _look_up(self, entry: VerifiedEntry, refusal: Conflict, future: Included) -> None:
        name, index = entry.id, await self._ledger.index_of(entry.id)
        if index is None:
            await self._compare_chain(entry)
        if future.done():
            return
        if index is None:
            future.set_exception(refusal)
        else:
            future.set_result(self._promise(name, index))

    async def _compare_chain(self, entry: VerifiedEntry) -> None:
        """With the latest entry of its account: for one place an author signs one."""
        next_seq, prev = self._replica.state.chain_head(entry.entry.account)
        if self.on_forked is None or entry.entry.seq != next_seq - 1:
            return
        index = await self._ledger.index_of(prev)
        for leaf in [] if index is None else await self._ledger.read(index, index + 1):
            self.on_forked(leaf, entry.leaf)

    def _promise(self, name: EntryId, index: int) -> Verified[Inclusion]:
        # Later than every mark before the entry, whatever the clock did since: a mark past this breaks the promise.
        covered_by_ms = max(self._clock.now_ms(), self._replica.state.now_ms) + self._config.covered_within_ms
        origin = self._replica.state.origin
        return signing.sign(self._key, Inclusion(entry=name, origin=origin, index=index, covered_by_ms=covered_by_ms))

    async def run(self) -> None:
        """Commits and covers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._commit_forever())
            group.create_task(self._mark_forever())

    async def _commit_forever(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            while self._pending:
                await self._commit()

    async def _commit(self) -> None:
        batch = self._next_batch()
        entries = [one.entry for one in batch]
        try:
            if self._orderer is not None:
                await self._order(self._orderer, entries)
                self._resolve(batch)
            await self._store(batch[0].index, entries)
        except Exception as error:
            self._stop(error)
            raise
        for _ in batch:
            self._pending.popleft()
        self._resolve(batch)
        await self._publish([one.applied for one in batch])

    def _next_batch(self) -> list[_Pending]:
        """As much of what is pending as one append takes."""
        first = list(islice(self._pending, min(self._config.batch_entries_max, ORDER_ENTRIES_MAX)))
        return first[: fitting([one.entry.leaf for one in first])]

    async def _order(self, orderer: Orderer, entries: Sequence[VerifiedEntry]) -> None:
        """An append that is not answered may have been made, so it is looked for before it is made again.

        Raises:
            Unavailable: this process leads no more, and they are not in the log as far as it knows.
        """
        first_index, leaves = self._committed, [entry.leaf for entry in entries]
        while True:
            try:
                await orderer.append(first_index, leaves)
            except (Conflict, Unavailable) as refusal:
                _log.warning("the orderer did not take %d entries: %s", len(leaves), refusal.message)
                if await self._is_ordered(orderer, first_index, leaves):
                    return
                if isinstance(refusal, Conflict) or not self.leads:
                    raise Unavailable(
                        "this sequencer lost its lead with entries pending, and begins anew from what was ordered",
                        retry_after_ms=_RETRY_MS,
                        reason=SUPERSEDED,
                    ) from refusal
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + _ORDER_AGAIN_MS)
            else:
                return

    async def _is_ordered(self, orderer: Orderer, first_index: int, leaves: list[bytes]) -> bool:
        try:
            found = await orderer.read(first_index, first_index + len(leaves))
        except (NotFound, Unavailable):
            return False
        return found == leaves

    def _resolve(self, batch: Sequence[_Pending]) -> None:
        """Promise what is durable, once."""
        for one in batch:
            if not one.future.done():
                one.future.set_result(self._promise(one.entry.id, one.index))

    async def _store(self, first_index: int, entries: Sequence[VerifiedEntry]) -> None:
        leaves = [entry.leaf for entry in entries]
        await self._ledger.append(first_index, leaves, [entry.id for entry in entries])
        self._tail.extend(leaves)
        self._committed = first_index + len(leaves)

    async def _publish(self, applied: Sequence[Applied]) -> None:
        """To whoever waits for what is durable, with the checkpoints that are due for it."""
        self._on_applied(applied)
        for one in applied:
            covering = self._replica.covering(one.index + 1)
            if isinstance(one.checked.body, Mark) and covering is not None:
                await self._cover(covering)
        async with self._moved:
            self._moved.notify_all()

    def _stop(self, error: Exception) -> None:
        if isinstance(error, Refusal) and error.reason == SUPERSEDED:
            self._broken = error
        else:
            _log.critical("the ledger cannot be written, this node stops ordering: %s", error)
            self._broken = Unavailable("this ledger's disk failed; it orders nothing more", retry_after_ms=60_000)
        for one in self._pending:
            if not one.future.done():
                one.future.set_exception(self._broken)

    async def _cover(self, covering: Covering) -> None:
        origin = self._replica.state.origin
        signer = Signer(origin, self._key)
        note = sign_checkpoint(signer, Checkpoint(origin=origin, size=covering.size, root=covering.root))
        await self._ledger.put_checkpoint(covering.size, note, covering.full)
        self._replica.cover(open_checkpoint(note, signer.verifier))

    async def _mark_forever(self) -> None:
        while True:
            await self._clock.sleep_until_ms(self._marked_at_ms + self._interval_ms())
            self._marked_at_ms = self._clock.monotonic_ms()
            if self._is_mark_due():
                self.mark()

    def _interval_ms(self) -> int:
        is_cosigned = bool(self._replica.state.governance.committee.members)
        return self._config.cosigned_interval_ms if is_cosigned else self._config.checkpoint_interval_ms

    def _is_mark_due(self) -> bool:
        """With new entries; and while awards are open, so that ledger time reaches their expiry without traffic."""
        state = self._replica.state
        if not self._may_mark or len(self._pending) >= self._config.pending_entries_max:
            return False
        if state.size > self._marked:
            return True
        stale_ms = self._clock.now_ms() - state.now_ms
        return bool(state.awards()) and stale_ms >= self._config.idle_mark_ms

    def mark(self) -> None:
        """Move ledger time to now, and let a checkpoint follow."""
        state = self._replica.state
        next_seq, prev = state.chain_head(self._key.account)
        body = Mark(at_ms=max(self._clock.now_ms(), state.now_ms), state_root=state.root())
        entry = signing.verified_own(signing.sign_entry(self._key, seq=next_seq, prev=prev, body=body))
        future: Included = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._admit(entry, future)
        self._marked = self._replica.size

    async def announce(self) -> None:
        """Tell whoever waits for news that a checkpoint has become final."""
        async with self._moved:
            self._moved.notify_all()

    async def news(self, start: int, noted: int, finalised: int = SIZE_MAX) -> list[bytes]:
        """Wait for durable entries from ``start`` on, or a checkpoint larger than ``noted``, or a final one larger than
        ``finalised``; the entries at hand.
        """
        async with self._moved:
            await self._moved.wait_for(
                lambda: self._committed > start or self._covered_size() > noted or self._replica.final_size > finalised
            )
        held = len(self._tail)
        if start >= self._committed - held:
            return [self._tail[place] for place in range(start - (self._committed - held), held)]
        return await self._ledger.read(start, start + BUNDLE_ENTRIES_MAX)

    def _covered_size(self) -> int:
        try:
            return self._replica.checkpoint.checkpoint.size
        except Unavailable:
            return 0


def not_leading(leader: str = "") -> Unavailable:
    """``leader`` names the process that leads, as far as it is known."""
    who = f"; {leader} does" if leader else ""
    return Unavailable(
        f"this sequencer does not lead{who}: try another of this ledger's sequencers, or this one again",
        retry_after_ms=_RETRY_MS,
        reason="not_leading",
    )


def _copy(done: Included, future: Included) -> None:
    if future.done():
        return
    error = None if done.cancelled() else done.exception()
    if done.cancelled():
        future.cancel()
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
