"""A replica that is not the operator's: follows its stream and checks everything."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.errors import Conflict, Malformed, Unauthorised, Unavailable
from wwwmarket.domain.records import NodeAddress
from wwwmarket.ledger.bundles import BUNDLE_ENTRIES_MAX, decode_bundle, encode_bundle
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node import messages
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


def decode_leaves(bundle: bytes) -> list[bytes]:
    """The entries of a bundle whose count is not told: read to its end. Raises Malformed."""
    count, place = 0, 0
    while place + 2 <= len(bundle):
        place += 2 + int.from_bytes(bundle[place : place + 2], "big")
        count += 1
    return decode_bundle(bundle, width=count)
