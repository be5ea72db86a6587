"""Runs the node's handlers, so that neither a stranger's greed nor a handler's fault reaches the transport."""

import asyncio
from collections import Counter
from collections.abc import Coroutine

from wwwmarket.adapters.transport.limits import TransportLimits
from wwwmarket.adapters.transport.stream import IrohStream
from wwwmarket.domain.identity import NodeId
from wwwmarket.ports.transport import RequestHandler, StreamHandler


class Slots:
    """Counts what runs for each peer and for all. Outlives connections, so that reconnecting frees nothing."""

    def __init__(self, per_peer_max: int, max_: int) -> None:
        self._per_peer_max, self._max = per_peer_max, max_
        self._taken: Counter[NodeId] = Counter()
        self._total = 0

    def take(self, peer: NodeId) -> bool:
        if self._total >= self._max or self._taken[peer] >= self._per_peer_max:
            return False
        self._taken[peer] += 1
        self._total += 1
        return True

    def give_back(self, peer: NodeId) -> None:
        self._total -= 1
        self._taken[peer] -= 1
        if not self._taken[peer]:
            del self._taken[peer]


class Reception:
    """Handlers of one transport, and the tasks in which they run. A lost peer does not stop its handlers: they learn of
    it from their stream, and may have to settle; ``close`` stops them.
    """

    def __init__(self, limits: TransportLimits) -> None:
        self._limits = limits
        self._requests = Slots(limits.requests_per_peer_max, limits.requests_max)
        self._streams = Slots(limits.streams_per_peer_max, limits.streams_max)
        self._on_request: RequestHandler | None = None
        self._on_stream: StreamHandler | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, on_request: RequestHandler, on_stream: StreamHandler) -> None:
        assert self._on_request is None, "who answers is set once"
        self._on_request, self._on_stream = on_request, on_stream

    def admit_request(self, peer: NodeId) -> bool:
        """Take a slot for one request of ``peer``, to be released when its answer is on its way."""
        return self._on_request is not None and self._requests.take(peer)

    def release_request(self, peer: NodeId) -> None:
        self._requests.give_back(peer)

    def admit_stream(self, peer: NodeId) -> bool:
        """Take a slot for one stream of ``peer``; ``attend`` gives it back."""
        return self._on_stream is not None and self._streams.take(peer)

    async def answer(self, peer: NodeId, message: bytes) -> bytes | None:
        """The handler's answer; None when it failed, or answered more than fits."""
        assert self._on_request is not None
        try:
            answer = await self._on_request(peer, message)
        except Exception:  # noqa: BLE001 - contained: the caller is told "failed", and the handler logs its own faults
            return None
        return answer if len(answer) <= self._limits.frame_bytes_max else None

    async def attend(self, stream: IrohStream) -> None:
        """Give ``stream`` to its handler once its opening frame is here; end it as the handler ended."""
        assert self._on_stream is not None
        try:
            async with asyncio.timeout(self._limits.handshake_timeout_ms / 1000):
                opening = await stream.receive()
            if opening is not None:
                await self._on_stream(stream, opening)
        except Exception:  # noqa: BLE001 - contained: the peer sees an aborted stream, the handler logs its own faults
            await stream.abort()
        else:
            await stream.settle()
        finally:
            self._streams.give_back(stream.peer)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel every handler and wait until it has gone."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
