"""A stream from a node to itself: a node that both buys and sells does not need the network for it."""

import asyncio
from collections import deque

from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.identity import NodeId

_FRAMES_MAX = 256
"""As bounded as a network stream: a slow reader holds the writer back."""


class _Pipe:
    """Frames one way."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._changed = asyncio.Condition()
        self._finished = False
        self._whole = False
        self._broken = False

    async def put(self, frame: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._broken or len(self._frames) < _FRAMES_MAX)
            if self._broken or self._finished:
                raise _gone()
            self._frames.append(frame)
            self._changed.notify_all()

    async def get(self) -> bytes | None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._broken or self._finished or self._frames)
            if self._broken and not self._whole:
                raise _gone()
            frame = self._frames.popleft() if self._frames else None
            self._changed.notify_all()
            return frame

    async def end(self, *, broken: bool) -> None:
        """What was finished before it broke still arrives."""
        async with self._changed:
            self._whole = self._whole or not broken
            self._finished = True
            self._broken = self._broken or broken
            self._changed.notify_all()


class LoopbackStream:
    """One end (``ports.transport.Stream``)."""

    def __init__(self, node: NodeId, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._node = node
        self._outgoing = outgoing
        self._incoming = incoming

    @property
    def peer(self) -> NodeId:
        return self._node

    async def send(self, frame: bytes) -> None:
        await self._outgoing.put(frame)

    async def receive(self) -> bytes | None:
        return await self._incoming.get()

    async def finish(self) -> None:
        await self._outgoing.end(broken=False)

    async def abort(self) -> None:
        await self._outgoing.end(broken=True)
        await self._incoming.end(broken=True)


def pair(node: NodeId) -> tuple[LoopbackStream, LoopbackStream]:
    """Both ends of a stream from ``node`` to itself."""
    there, back = _Pipe(), _Pipe()
    return LoopbackStream(node, there, back), LoopbackStream(node, back, there)


def _gone() -> Unavailable:
    return Unavailable("the other end of this stream is gone", retry_after_ms=0)
