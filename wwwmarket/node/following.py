"""A replica that is not the operator's: follows its stream, checks everything, and hands it this node's own entries."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.signing import Verified, VerifiedEntry
from wwwmarket.domain.errors import Conflict, Exhausted, Malformed, Refusal, Unauthorised, Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Inclusion, NodeAddress
from wwwmarket.ledger.bundles import BUNDLE_ENTRIES_MAX, decode_bundle, encode_bundle
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node import messages
from wwwmarket.node.author import Included
from wwwmarket.node.replica import Replica
from wwwmarket.node.sequencer import Sequencer
from wwwmarket.node.watching import Watching
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.store import LedgerStore
from wwwmarket.ports.transport import Stream, Transport
from wwwmarket.rules.state import Applied

T = TypeVar("T")

_log = logging.getLogger("wwwmarket.following")

LEAVES, NOTE, FINAL = b"l", b"c", b"f"
"""First byte of each frame of a following stream: then 8 bytes of first index and a bundle, or a signed note, or one
with the cosignatures that make it final."""

_FRAME_BYTES_MAX: Final = 512 * 1024
_RETRY_FIRST_MS: Final = 100
_RETRY_MAX_MS: Final = 2_000


async def serve_follower(  # noqa: PLR0913 - one stream
    sequencer: Sequencer, replica: Replica, stream: Stream, start: int, clock: Clock, *, interval_ms: int
) -> None:
    """Send entries from ``start`` on as they become durable, and each checkpoint after its entries.

    News of less than ``interval_ms`` travel together: a frame for each entry would cost more than the entry.

    Raises:
        Conflict: the follower has more entries than this log.
    """
    if start > sequencer.committed:
        raise Conflict(f"this log has {sequencer.committed} entries, not {start}", reason="other_tree")
    noted = finalised = 0
    while True:
        due_ms = clock.monotonic_ms() + interval_ms
        leaves = await sequencer.news(start, noted, finalised)
        if len(leaves) < BUNDLE_ENTRIES_MAX:
            await clock.sleep_until_ms(due_ms)
            leaves = await sequencer.news(start, noted, finalised)
        while leaves:
            count = _fitting(leaves)
            await stream.send(LEAVES + start.to_bytes(8, "big") + encode_bundle(leaves[:count]))
            start, leaves = start + count, leaves[count:]
        with contextlib.suppress(Unavailable):
            covered = replica.checkpoint
            if noted < covered.checkpoint.size <= start:
                await stream.send(NOTE + covered.note)
                noted = covered.checkpoint.size
        for final in (*replica.handovers, *filter(None, [replica.final])):
            if finalised < final.checkpoint.size <= start:
                await stream.send(FINAL + final.note)
                finalised = final.checkpoint.size


def _fitting(leaves: Sequence[bytes]) -> int:
    """How many of the leaves fit into one frame, at least one."""
    total = 0
    for count, leaf in enumerate(leaves[:BUNDLE_ENTRIES_MAX]):
        total += len(leaf) + 2
        if total > _FRAME_BYTES_MAX and count:
            return count
    return min(len(leaves), BUNDLE_ENTRIES_MAX)


async def _nothing() -> None:
    """Where nobody else can be asked."""


class Following:
    """The follower's side. ``log`` is the key that the log has or had; any of ``operators`` will do."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a follower works with
        self,
        operators: Sequence[NodeAddress],
        log: VerifierKey,
        replica: Replica,
        ledger: LedgerStore,
        transport: Transport,
        clock: Clock,
        config: NodeConfig,
        on_applied: Callable[[Sequence[Applied]], None],
        on_final: Callable[[bytes], Awaitable[None]],
        watching: Watching,
        on_lost: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        """``on_lost`` is awaited while none of the operators has been heard for some time; it may raise."""
        self._watching = watching
        self._on_final = on_final
        self._on_lost = on_lost
        self._operators = deque(operators)
        self._log = log
        self._replica = replica
        self._ledger = ledger
        self._transport = transport
        self._clock = clock
        self._config = config
        self._on_applied = on_applied
        self.caught_up: Final = asyncio.Event()
        """Set with the first checkpoint that covers all that is here."""

    async def run(self) -> None:
        """Follows until cancelled, through losses of the operator.

        Raises:
            Refusal: the operator served what does not follow. That is no passing trouble: it is evidence.
        """
        pause_ms = _RETRY_FIRST_MS
        heard_ms = self._clock.monotonic_ms()
        while True:
            before = self._replica.size
            try:
                await self._follow()
            except Unavailable as lost:
                _log.info("lost the ledger's operator: %s", lost.message)
                self._operators.rotate(-1)
            if self._replica.size > before:
                heard_ms = self._clock.monotonic_ms()
            elif self._clock.monotonic_ms() - heard_ms > self._config.operator_lost_ms:
                await self._on_lost()
            pause_ms = _RETRY_FIRST_MS if self._replica.size > before else min(2 * pause_ms, _RETRY_MAX_MS)
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + pause_ms)

    async def _follow(self) -> None:
        opening = canonical.encode(messages.Follow(start=self._replica.size))
        timeout_ms = self._config.submit_timeout_ms
        stream = await self._transport.open_stream(self._operators[0], opening, timeout_ms=timeout_ms)
        try:
            while (frame := await stream.receive()) is not None:
                await self._take(frame[:1], frame[1:])
        finally:
            await stream.abort()
        raise Unavailable("the operator ended the stream", retry_after_ms=_RETRY_FIRST_MS)

    async def _take(self, kind: bytes, data: bytes) -> None:
        if kind == LEAVES:
            await self._take_leaves(int.from_bytes(data[:8], "big"), decode_leaves(data[8:]))
        elif kind == NOTE:
            await self._take_note(data)
        elif kind == FINAL:
            if await self._compared(data, self._replica.finalise):
                await self._on_final(data)
        else:
            raise Malformed("the operator sent a frame of no known kind")

    async def _take_leaves(self, first_index: int, leaves: Sequence[bytes]) -> None:
        if first_index != self._replica.size:
            raise Malformed(f"the operator sent entry {first_index} where {self._replica.size} is due")
        entries = [signing.open_entry(leaf) for leaf in leaves]
        applied = [self._replica.apply(entry) for entry in entries]
        await self._ledger.append(first_index, leaves, [entry.id for entry in entries])
        self._watching.applied(applied)
        self._on_applied(applied)

    async def _take_note(self, note: bytes) -> None:
        opened = self._replica.open(note)
        if not self._replica.has_key(self._log):
            raise Unauthorised(f"the log that was read is not the one of {self._log.text}", reason="other_log")
        covering = await self._compared(note, lambda _: self._replica.cover(opened))
        await self._ledger.put_checkpoint(covering.size, note, covering.full)
        await self._watching.covered(note, covering)
        self.caught_up.set()

    async def _compared(self, note: bytes, take: Callable[[bytes], T]) -> T:
        """Raises as ``take`` does; a note of another tree is not forgotten then."""
        try:
            return take(note)
        except Conflict:
            await self._watching.contradicted(note)
            raise


class RemoteSubmission:
    """Hands entries to the operator, in order for each account, again and again until it answers.

    ``operators`` are the sequencers that are known: when one does not answer, or does not lead, the next is asked.
    """

    durable: Final = False

    def __init__(  # noqa: PLR0913, PLR0917 - how to reach whom, and what to make of the answer
        self,
        operators: Callable[[], Sequence[NodeAddress]],
        transport: Transport,
        clock: Clock,
        config: NodeConfig,
        log: Callable[[], VerifierKey],
        on_promise: Callable[[Verified[Inclusion]], None],
    ) -> None:
        """``log`` is the key by which promises are signed, ``on_promise`` is told of each."""
        self._log = log
        self._on_promise = on_promise
        self._operators = operators
        self._turn = 0
        self._transport = transport
        self._clock = clock
        self._config = config
        self._turns: dict[AccountId, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, entry: VerifiedEntry) -> Included:
        future: Included = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._deliver(entry, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def close(self) -> None:
        """What is not answered stays in the outbox."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _deliver(self, entry: VerifiedEntry, future: Included) -> None:
        turn = self._turns.setdefault(entry.entry.account, asyncio.Lock())
        try:
            async with turn:
                promised = await self._until_answered(entry)
        except Refusal as refusal:
            if not future.done():
                future.set_exception(refusal)
        except asyncio.CancelledError:
            future.cancel()
            raise
        else:
            if not future.done():
                future.set_result(promised)

    async def _until_answered(self, entry: VerifiedEntry) -> Verified[Inclusion]:
        pause_ms = _RETRY_FIRST_MS
        while True:
            try:
                return await self._once(entry)
            except Exhausted:  # and Unavailable: the operator has not answered
                self._turn += 1
                if self._turn % max(1, len(self._operators())):
                    continue
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + pause_ms)
                pause_ms = min(2 * pause_ms, _RETRY_MAX_MS)

    async def _once(self, entry: VerifiedEntry) -> Verified[Inclusion]:
        """Raises Exhausted, or its kind Unavailable, where another try may go otherwise."""
        operators = self._operators()
        if not operators:
            raise Unavailable("nobody is known to order this ledger now", retry_after_ms=_RETRY_FIRST_MS)
        operator, timeout_ms = operators[self._turn % len(operators)], self._config.submit_timeout_ms
        message = canonical.encode(messages.Submit(leaf=entry.leaf.decode("ascii")))
        answer = messages.read_answer(await self._transport.request(operator, message, timeout_ms=timeout_ms))
        match answer:
            case messages.Submitted():
                promise = signing.verify(answer.inclusion)
                self._check(promise, entry)
                self._on_promise(promise)
                return promise
            case messages.Refused():
                raise messages.as_refusal(answer)
            case _:
                raise Malformed("the operator answered an entry with something else")

    def _check(self, promise: Verified[Inclusion], entry: VerifiedEntry) -> None:
        """Raises Malformed: it is no promise of this log's for this entry."""
        log = self._log()
        if (promise.by, promise.body.origin, promise.body.entry) != (log.account, log.name, entry.id):
            raise Malformed("the operator answered an entry with a promise that is not its own, or of another entry")


def decode_leaves(bundle: bytes) -> list[bytes]:
    """The entries of a bundle whose count is not told: read to its end. Raises Malformed."""
    count, place = 0, 0
    while place + 2 <= len(bundle):
        place += 2 + int.from_bytes(bundle[place : place + 2], "big")
        count += 1
    return decode_bundle(bundle, width=count)
