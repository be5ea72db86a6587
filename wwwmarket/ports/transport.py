"""Node to node: authenticated by key, message by message.

The transport proves who is at the other end; what the message says is checked by who receives it.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress


class Stream(Protocol):
    """Two-way, ordered, framed. Each frame is delivered whole or not at all."""

    @property
    def peer(self) -> NodeId: ...

    async def send(self, frame: bytes) -> None:
        """Raises Unavailable when the peer is gone."""
        ...

    async def receive(self) -> bytes | None:
        """The next frame; None when the peer has finished sending.

        Raises:
            Unavailable: the peer is gone or has aborted.
            TooLarge: the peer announced a frame over the limit (the stream is dead then).
        """
        ...

    async def finish(self) -> None:
        """No more frames from this side."""
        ...

    async def abort(self) -> None:
        """Drop the stream at once; the peer's ``receive`` raises Unavailable. Safe to call twice."""
        ...


RequestHandler: TypeAlias = Callable[[NodeId, bytes], Awaitable[bytes]]
"""Answers one message of an authenticated peer with one message. Must not raise."""

StreamHandler: TypeAlias = Callable[[Stream, bytes], Awaitable[None]]
"""Owns a stream that a peer opened, with its opening frame, until it returns; the stream is aborted if it raises."""


class Transport(Protocol):
    def address(self) -> NodeAddress:
        """This node's own address, as others can use it."""
        ...

    def serve(self, on_request: RequestHandler, on_stream: StreamHandler) -> None:
        """Set who answers. Called once, before peers are let in."""
        ...

    async def request(self, peer: NodeAddress, message: bytes, *, timeout_ms: int) -> bytes:
        """Raises Unavailable: unreachable, gone, or no answer in time."""
        ...

    async def open_stream(self, peer: NodeAddress, opening: bytes, *, timeout_ms: int) -> Stream:
        """Raises Unavailable: unreachable or gone."""
        ...

    def round_trip_ms(self, peer: NodeId) -> float | None:
        """Latest estimate for a connected peer."""
        ...

    async def close(self) -> None: ...
