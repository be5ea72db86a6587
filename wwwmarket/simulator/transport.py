"""The network in memory: latency, loss, cuts and crashes by decree, and nothing by chance but what the seed decides.

It keeps the promises of ``ports.transport`` as QUIC does: frames arrive whole and in order, loss shows as delay, and a
dead peer shows as silence. Bounds on how much runs at once are the real adapter's own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from msgspec import Struct

from wwwmarket.domain.errors import TooLarge, Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.transport import RequestHandler, StreamHandler

T = TypeVar("T")

Latency: TypeAlias = Callable[[NodeId, NodeId], float]
"""Milliseconds one way, from one node to another."""

SILENCE_MS: Final = 3_000
"""How long a peer is silent before it counts as dead."""
RETRANSMIT_MS: Final = 25
"""What a lost packet costs, besides a round trip."""
FRAME_BYTES_MAX: Final = 1 << 20
_WINDOW_FRAMES: Final = 64
"""Frames under way on one stream before its sender waits for the reader."""
_RETRY_MS: Final = 1_000


def _no_latency(_from: NodeId, _to: NodeId) -> float:
    return 0.0


class Conditions(Struct, frozen=True, kw_only=True):
    """What the network is like. ``loss`` is the share of messages that have to be sent again, below 1."""

    latency_ms: Latency = _no_latency
    loss: float = 0.0
    silence_ms: float = SILENCE_MS
    frame_bytes_max: int = FRAME_BYTES_MAX


_IDEAL: Final = Conditions()


class Network:
    """Everything between the nodes. ``clock`` may be the machine's own; then latencies are real waits."""

    def __init__(self, clock: Clock, conditions: Conditions = _IDEAL, *, seed: int = 0) -> None:
        assert 0 <= conditions.loss < 1, "with every packet lost there is no network: cut it instead"
        self.clock: Final = clock
        self.conditions: Final = conditions
        self._chance = Random(seed)
        self._members: dict[NodeId, MemoryTransport] = {}
        self._cuts: set[frozenset[NodeId]] = set()

    def join(self, node: NodeId) -> "MemoryTransport":
        """A node comes up, for the first time or again."""
        assert node not in self._members, "a node has one transport at a time"
        transport = self._members[node] = MemoryTransport(self, node)
        return transport

    def leave(self, node: NodeId) -> None:
        self._members.pop(node, None)

    def crash(self, node: NodeId) -> None:
        """As kill -9: handlers stop where they are, and its peers hear nothing more."""
        self._members.pop(node).stop(self.conditions.silence_ms)

    def cut(self, one: NodeId, other: NodeId) -> None:
        """Nothing passes between two nodes. Streams open across the cut are lost, also if it is mended at once."""
        self._cuts.add(frozenset((one, other)))
        if one in self._members:
            self._members[one].lose(other, self.conditions.silence_ms)

    def mend(self, one: NodeId, other: NodeId) -> None:
        self._cuts.discard(frozenset((one, other)))

    def reach(self, one: NodeId, other: NodeId) -> "MemoryTransport | None":
        """The other node's transport, if it is up and no cut lies between."""
        if one == other or frozenset((one, other)) in self._cuts:
            return None
        return self._members.get(other)

    def transit_ms(self, one: NodeId, other: NodeId) -> float:
        """How long the next message takes. Each loss of it costs a round trip and the time to notice."""
        latency = self.conditions.latency_ms(one, other)
        total = latency
        while self.conditions.loss and self._chance.random() < self.conditions.loss:
            total += 2 * latency + RETRANSMIT_MS
        return total


class _Frame(Struct, frozen=True):
    due_ms: float
    payload: bytes | None


class _Pipe:
    """One direction of a stream. Frames carry the moment of their arrival, so nothing runs while they travel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._frames: deque[_Frame] = deque()
        self._changed = asyncio.Event()
        self._arrival_ms = 0.0
        self._broken_ms: float | None = None

    async def put(self, payload: bytes | None, due_ms: float) -> None:
        while len(self._frames) >= _WINDOW_FRAMES and payload is not None:
            await self._wait()
        self._check()
        if self._broken_ms is not None:
            return  # sent into a silence that is not yet noticed
        self._arrival_ms = max(self._arrival_ms, due_ms)
        self._frames.append(_Frame(self._arrival_ms, payload))
        self._changed.set()

    async def get(self) -> bytes | None:
        while not self._frames or self._frames[0].due_ms > self._clock.monotonic_ms():
            await self._wait()
        payload = self._frames[0].payload
        if payload is not None:  # the end stays, to be read again
            self._frames.popleft()
            self._changed.set()
        return payload

    def destroy(self, noticed_ms: float) -> None:
        """Lose what is under way. Both ends learn of it at ``noticed_ms``."""
        if self._broken_ms is None or noticed_ms < self._broken_ms:
            self._broken_ms = noticed_ms
            self._frames.clear()
            self._changed.set()

    async def _wait(self) -> None:
        """Until the next moment at which something may be different."""
        self._check()
        if self._broken_ms is not None:
            await self._clock.sleep_until_ms(self._broken_ms)
            self._check()
        elif self._frames and self._frames[0].due_ms > self._clock.monotonic_ms():
            await self._clock.sleep_until_ms(self._frames[0].due_ms)
        else:
            self._changed.clear()
            await self._changed.wait()

    def _check(self) -> None:
        if self._broken_ms is not None and self._clock.monotonic_ms() >= self._broken_ms:
            raise Unavailable("the stream broke", retry_after_ms=_RETRY_MS)


class MemoryStream:
    """One end of a stream; implements ``ports.transport.Stream``."""

    def __init__(self, network: Network, own: NodeId, peer: NodeId, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._network, self._own, self._peer = network, own, peer
        self._outgoing, self._incoming = outgoing, incoming
        self._finished = self._aborted = False

    @property
    def peer(self) -> NodeId:
        return self._peer

    async def send(self, payload: bytes) -> None:
        _check_size(payload, self._network.conditions.frame_bytes_max)
        assert not self._finished, "nothing is sent after finish"
        self._check()
        await self._outgoing.put(payload, self._arrival_ms())

    async def receive(self) -> bytes | None:
        self._check()
        return await self._incoming.get()

    async def finish(self) -> None:
        if not (self._finished or self._aborted):
            self._finished = True
            await self._outgoing.put(None, self._arrival_ms())

    async def abort(self) -> None:
        if not self._aborted:
            self._aborted = True
            self.lose(self._arrival_ms())

    async def settle(self) -> None:
        """Its handler has returned: finish this side, and ask the peer for no more."""
        try:
            await self.finish()
        except Unavailable:
            return  # it broke before
        self._aborted = True
        self._incoming.destroy(self._arrival_ms())

    def lose(self, noticed_ms: float) -> None:
        self._outgoing.destroy(noticed_ms)
        self._incoming.destroy(noticed_ms)

    def _arrival_ms(self) -> float:
        return self._network.clock.monotonic_ms() + self._network.transit_ms(self._own, self._peer)

    def _check(self) -> None:
        if self._aborted:
            raise Unavailable("the stream was aborted", retry_after_ms=_RETRY_MS)


class MemoryTransport:
    """One node's place in a ``Network``; implements ``ports.transport.Transport``. Made by ``Network.join``."""

    def __init__(self, network: Network, node: NodeId) -> None:
        self._network, self._node = network, node
        self._on_request: RequestHandler | None = None
        self._on_stream: StreamHandler | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: list[MemoryStream] = []
        self._round_trips_ms: dict[NodeId, float] = {}
        self._up = True

    def address(self) -> NodeAddress:
        return NodeAddress(node=self._node)

    def serve(self, on_request: RequestHandler, on_stream: StreamHandler) -> None:
        assert self._on_request is None, "who answers is set once"
        self._on_request, self._on_stream = on_request, on_stream

    async def request(self, peer: NodeAddress, message: bytes, *, timeout_ms: int) -> bytes:
        """Raises TooLarge, besides what the port says, for a message that the peer would have to refuse."""
        _check_size(message, self._network.conditions.frame_bytes_max)
        clock = self._network.clock
        exchange = asyncio.ensure_future(self._exchange(peer.node, message))
        timer = asyncio.ensure_future(clock.sleep_until_ms(clock.monotonic_ms() + timeout_ms))
        try:
            await asyncio.wait({exchange, timer}, return_when=asyncio.FIRST_COMPLETED)
            if exchange.done():
                return exchange.result()
            raise Unavailable(f"no answer within {timeout_ms} ms", retry_after_ms=_RETRY_MS)
        finally:
            exchange.cancel()
            timer.cancel()
            await asyncio.gather(exchange, timer, return_exceptions=True)

    async def _exchange(self, peer: NodeId, message: bytes) -> bytes:
        out_ms = self._network.transit_ms(self._node, peer)
        await self._pass(out_ms)
        other = self._network.reach(self._node, peer)
        if not self._up or other is None:
            return await self._silence()
        answering = other.spawn(other.answer(self._node, message))
        await asyncio.wait({answering})
        if answering.cancelled():
            return await self._silence()
        back_ms = self._network.transit_ms(peer, self._node)
        await self._pass(back_ms)
        if self._network.reach(peer, self._node) is not self:
            return await self._silence()
        self._round_trips_ms[peer] = out_ms + back_ms
        answer = answering.result()
        if answer is None:
            raise Unavailable("the peer could not answer", retry_after_ms=_RETRY_MS)
        return answer

    async def open_stream(self, peer: NodeAddress, opening: bytes, *, timeout_ms: int) -> MemoryStream:
        """Raises TooLarge, besides what the port says, for an opening frame that the peer would have to refuse."""
        network, node = self._network, peer.node
        _check_size(opening, network.conditions.frame_bytes_max)
        other = network.reach(self._node, node)
        if not self._up or other is None:
            await self._pass(min(timeout_ms, network.conditions.silence_ms))
            raise Unavailable(f"node {node} cannot be reached", retry_after_ms=_RETRY_MS)
        there, back = _Pipe(network.clock), _Pipe(network.clock)
        near = MemoryStream(network, self._node, node, there, back)
        far = MemoryStream(network, node, self._node, back, there)
        await near.send(opening)
        self._streams.append(near)
        other.spawn(other.attend(far))
        return near

    def round_trip_ms(self, peer: NodeId) -> float | None:
        return self._round_trips_ms.get(peer)

    async def close(self) -> None:
        if self._up:
            self._network.leave(self._node)
            self.stop(0)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self, noticed_after_ms: float) -> None:
        """Stop answering at once; peers notice ``noticed_after_ms`` later."""
        self._up = False
        for task in self._tasks:
            task.cancel()
        self._lose(self._streams, noticed_after_ms)

    def lose(self, peer: NodeId, noticed_after_ms: float) -> None:
        """Every stream to and from ``peer`` breaks."""
        self._lose([stream for stream in self._streams if stream.peer == peer], noticed_after_ms)

    def _lose(self, streams: list[MemoryStream], noticed_after_ms: float) -> None:
        for stream in streams:
            stream.lose(self._network.clock.monotonic_ms() + noticed_after_ms)

    def spawn(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Run ``work`` as this node's, to end with it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def answer(self, peer: NodeId, message: bytes) -> bytes | None:
        """The handler's answer; None when it failed, or answered more than fits."""
        if self._on_request is None:
            return None
        try:
            answer = await self._on_request(peer, message)
        except Exception:  # noqa: BLE001 - contained, as the real adapter does
            return None
        return answer if len(answer) <= self._network.conditions.frame_bytes_max else None

    async def attend(self, stream: MemoryStream) -> None:
        """Give ``stream`` to its handler; end it as the handler ended."""
        if self._on_stream is None:
            await stream.abort()
            return
        self._streams.append(stream)
        try:
            opening = await stream.receive()
            if opening is not None:
                await self._on_stream(stream, opening)
        except Exception:  # noqa: BLE001 - contained, as the real adapter does
            await stream.abort()
        else:
            await stream.settle()
        finally:
            self._streams.remove(stream)

    async def _pass(self, duration_ms: float) -> None:
        await self._network.clock.sleep_until_ms(self._network.clock.monotonic_ms() + duration_ms)

    async def _silence(self) -> NoReturn:
        await self._pass(self._network.conditions.silence_ms)
        raise Unavailable("the peer is gone", retry_after_ms=_RETRY_MS)


def _check_size(payload: bytes, bytes_max: int) -> None:
    if len(payload) > bytes_max:
        raise TooLarge(f"a frame of {len(payload)} bytes; the limit is {bytes_max}")
