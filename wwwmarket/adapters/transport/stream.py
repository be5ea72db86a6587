"""One QUIC stream as a stream of whole frames."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, TypeVar

import iroh

from wwwmarket.adapters.transport.framing import FrameReader, frame
from wwwmarket.domain.errors import TooLarge, Unavailable
from wwwmarket.domain.identity import NodeId

T = TypeVar("T")

READ_BYTES: Final = 65_536
"""Asked of QUIC at once: a call into the library costs about 70 µs, whatever it brings."""
RETRY_MS: Final = 1_000
_ABORTED: Final = 1


class IrohStream:
    """Implements ``ports.transport.Stream``.

    A call into QUIC outlives a caller who is cancelled: half a frame written, or bytes read and dropped, would shift
    every frame after it. The next call takes up where the cancelled one was.
    """

    def __init__(self, peer: NodeId, pair: iroh.BiStream, frame_bytes_max: int) -> None:
        self._peer = peer
        self._sending, self._receiving = pair.send(), pair.recv()
        self._frame_bytes_max = frame_bytes_max
        self._frames = FrameReader(frame_bytes_max)
        self._read: asyncio.Task[bytes] | None = None
        self._written: asyncio.Task[None] | None = None
        self._send_turn, self._receive_turn = asyncio.Lock(), asyncio.Lock()
        self._finished = self._ended = self._broken = self._released = False

    @property
    def peer(self) -> NodeId:
        return self._peer

    @property
    def over(self) -> bool:
        """Whether nothing more can travel on it, either way."""
        return self._broken or self._released or (self._finished and self._ended)

    async def send(self, payload: bytes) -> None:
        """Raises TooLarge, besides what the port says, for a frame that the peer would have to refuse."""
        if len(payload) > self._frame_bytes_max:
            raise TooLarge(f"a frame of {len(payload)} bytes; the limit is {self._frame_bytes_max}")
        assert not self._finished, "nothing is sent after finish"
        async with self._send_turn:
            if self._written is not None:
                await self._outcome(self._written)
            self._check()
            self._written = self._start(self._sending.write_all(frame(payload)))
            await self._outcome(self._written)

    async def receive(self) -> bytes | None:
        async with self._receive_turn:
            self._check()
            while (received := await self._next_frame()) is None:
                if self._ended:
                    return None
                if self._read is None:
                    self._read = self._start(self._receiving.read(READ_BYTES))
                chunk = await self._outcome(self._read)
                self._read = None
                self._frames.feed(chunk)
                if not chunk:
                    await self._end()
            return received

    async def _next_frame(self) -> bytes | None:
        try:
            return self._frames.next()
        except TooLarge:
            await self.abort()
            raise

    async def _end(self) -> None:
        if self._frames.torn:
            await self.abort()
            raise Unavailable("the peer ended the stream inside a frame", retry_after_ms=RETRY_MS)
        self._ended = True

    async def finish(self) -> None:
        async with self._send_turn:
            if self._finished or self._released:
                return
            if self._written is not None:
                await self._outcome(self._written)
            self._finished = True
            with suppress(iroh.IrohError):
                await self._sending.finish()

    async def abort(self) -> None:
        if self._released:
            return
        await self.release()
        with suppress(iroh.IrohError):
            if not self._finished:
                await self._sending.reset(_ABORTED)
        with suppress(iroh.IrohError):
            if not self._ended:
                await self._receiving.stop(_ABORTED)

    async def settle(self) -> None:
        """Its handler has returned: finish this side, and ask the peer for no more."""
        with suppress(Unavailable):
            await self.finish()
        await self.abort()

    async def release(self) -> None:
        """Leave no call into QUIC pending. A stream with a call pending can be neither reset nor stopped."""
        self._released = True
        calls = {call for call in (self._read, self._written) if call is not None}
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)

    def _check(self) -> None:
        if self._released:
            raise Unavailable("the stream was aborted", retry_after_ms=RETRY_MS)

    def _start(self, call: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(call)
        task.add_done_callback(_seen)
        return task

    async def _outcome(self, call: asyncio.Task[T]) -> T:
        """Wait without owning: a cancelled caller leaves ``call`` running."""
        await asyncio.wait({call})
        self._check()
        try:
            return call.result()
        except iroh.IrohError as error:
            self._broken = True
            raise Unavailable(f"the stream broke: {error.message()}", retry_after_ms=RETRY_MS) from error


def _seen(call: asyncio.Task[T]) -> None:
    """A call that nobody waits for any longer may fail in peace."""
    if not call.cancelled():
        call.exception()
