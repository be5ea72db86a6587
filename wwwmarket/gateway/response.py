"""A purchase as an HTTP answer, whole or streamed, and its cancellation when the client leaves.

The status is decided by the first byte of the answer, not before: until then every refusal has its own HTTP code.
After it, an error is a last event in the stream.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wwwmarket.domain.errors import Refusal, Unavailable
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.problems import body_of, plain_body
from wwwmarket.gateway.splice import StreamSplicer, receipt_path, splice
from wwwmarket.node.service import Awarded, Delivered, DeliveryEvent
from wwwmarket.ports.engine import ResponsePiece


def json_response(value: object, status: int = 200) -> Response:
    """Any value of the domain as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Run the block, and cancel it as soon as the client is gone. Leaving so raises nothing.

    The body must have been read: the next thing to receive is the disconnect.
    """
    scope = asyncio.timeout(None)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.reschedule(asyncio.get_running_loop().time())

    try:
        async with scope:
            watcher = asyncio.create_task(watch())
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError:
        if not scope.expired():
            raise


class Delivery:
    """Collects an answer whole."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Raises Unavailable: the provider sends more than any answer is."""
        self._size += len(piece)
        if self._size > self._bytes_max:
            raise Unavailable(f"the answer is over the limit of {self._bytes_max} bytes", retry_after_ms=1_000)
        self._pieces.append(piece)

    def body(self) -> bytes:
        return b"".join(self._pieces)


def check_outcome(delivered: Delivered) -> Delivered:
    """Raises Unavailable when the provider failed part of the way."""
    if delivered.outcome == "failed":
        raise Unavailable(
            f"the provider failed before its answer was complete; {delivered.cost_micro} micro-credits are charged",
            retry_after_ms=1_000,
            reason="provider_failed",
        )
    return delivered


async def whole(events: AsyncIterator[DeliveryEvent], bytes_max: int) -> tuple[bytes, Delivered]:
    """Drive a purchase to its end. Raises whatever it refuses with, and Unavailable when the provider failed."""
    answer = Delivery(bytes_max)
    async with aclosing(closable(events)) as source:
        async for event in source:
            if isinstance(event, ResponsePiece):
                answer.add(event.data)
            elif isinstance(event, Delivered):
                return answer.body(), check_outcome(event)
    raise AssertionError("a purchase ends with Delivered or a refusal")


def closable(events: AsyncIterator[DeliveryEvent]) -> AsyncGenerator[DeliveryEvent, None]:
    """The service's iterators are generators: closing them is how a request is cancelled."""
    return cast("AsyncGenerator[DeliveryEvent, None]", events)


def sale_headers(event: Awarded | Delivered) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-wwwmarket-award", event.award.encode("ascii")),
        (b"x-wwwmarket-receipt", receipt_path(event.award).encode("ascii")),
        (b"x-wwwmarket-provider", event.provider.encode("ascii")),
    ]


class WholeAnswer(Response):
    """The engine's JSON with the cost spliced in; ``exact``: as it came."""

    def __init__(self, events: AsyncIterator[DeliveryEvent], config: GatewayConfig, *, exact: bool = False) -> None:
        super().__init__()
        self._events = events
        self._config = config
        self._exact = exact

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's form
        async with until_disconnect(receive):
            answer, delivered = await whole(self._events, self._config.response_bytes_max)
            body = answer if self._exact else splice(answer, delivered)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode("ascii")),
                (b"x-content-type-options", b"nosniff"),
                (b"x-wwwmarket-cost-micro", str(delivered.cost_micro).encode("ascii")),
                *sale_headers(delivered),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})


class StreamedAnswer(Response):
    """Server-sent events, each forwarded as it comes; ``exact``: all of them, and nothing is added."""

    def __init__(
        self, events: AsyncIterator[DeliveryEvent], config: GatewayConfig, *, include_usage: bool, exact: bool = False
    ) -> None:
        super().__init__()
        self._events = events
        self._config = config
        self._include_usage = include_usage
        self._exact = exact

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's form
        out = _EventWriter(send, self._config.write_timeout_s)
        try:
            async with until_disconnect(receive), aclosing(closable(self._events)) as events:
                await self._forward(events, out)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            if not out.started:
                raise
            await out.finish(b"data: " + body_of(refusal) + b"\n\n")
        except Exception:
            if out.started:
                await out.finish(b"data: " + plain_body(500, "this node failed; its operator can see why") + b"\n\n")
            raise

    async def _forward(self, events: AsyncIterator[DeliveryEvent], out: "_EventWriter") -> None:
        splicer = StreamSplicer()
        async for event in events:
            if isinstance(event, ResponsePiece):
                await out.write(event.data if self._exact else splicer.passed(event.data))
            elif isinstance(event, Awarded):
                out.sale = event
            elif isinstance(event, Delivered):
                out.sale = event
                check_outcome(event)
                await out.finish(b"" if self._exact else splicer.ending(event, include_usage=self._include_usage))
                return
        raise AssertionError("a purchase ends with Delivered or a refusal")


class _EventWriter:
    """The client's side of a stream. Headers leave with the first bytes, so they name who really answers."""

    __slots__ = ("_send", "_timeout_s", "sale", "started")

    def __init__(self, send: Send, timeout_s: float) -> None:
        self._send = send
        self._timeout_s = timeout_s
        self.started = False
        self.sale: Awarded | Delivered | None = None

    async def write(self, data: bytes) -> None:
        """Raises ClientDisconnect when the client has stopped reading for too long."""
        if data:
            await self._body(data, more=True)

    async def finish(self, data: bytes) -> None:
        await self._body(data, more=False)

    async def _body(self, data: bytes, *, more: bool) -> None:
        if not self.started:
            await self._start()
        await self._within({"type": "http.response.body", "body": data, "more_body": more})

    async def _start(self) -> None:
        assert self.sale is not None, "an answer comes after its award"
        self.started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *sale_headers(self.sale),
        ]
        await self._within({"type": "http.response.start", "status": 200, "headers": headers})

    async def _within(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnect from None


def answer_of(
    events: AsyncIterator[DeliveryEvent],
    config: GatewayConfig,
    *,
    stream: bool,
    include_usage: bool = False,
    exact: bool = False,
) -> Response:
    """The answer in the form that the request asked for. ``exact``: its very bytes, for who signs for their digest."""
    if stream:
        return StreamedAnswer(events, config, include_usage=include_usage, exact=exact)
    return WholeAnswer(events, config, exact=exact)


async def until_answered(
    request: Request, events: AsyncIterator[DeliveryEvent], bytes_max: int
) -> tuple[bytes, Delivered] | None:
    """``whole`` for a door that answers in its own form. None when the client left first."""
    async with until_disconnect(request.receive):
        return await whole(events, bytes_max)
    return None
