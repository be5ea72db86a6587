"""The outermost door: names every request, and bounds how many there are and how long their heads may be."""

import re
import secrets  # noqa: TID251 - the name of a request is for people; nothing replays it
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wwwmarket.domain.errors import Exhausted
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.problems import plain_response, response_of

_NAMES: Final = frozenset({b"x-request-id", b"x-correlation-id"})
_HARMLESS: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_ALWAYS_ANSWERED: Final = frozenset({"/health", "/metrics"})


class Gate:
    """ASGI middleware. A client's own ``x-request-id`` and ``x-correlation-id`` come back to it; without the former, it
    gets a random one.
    """

    def __init__(self, app: ASGIApp, config: GatewayConfig) -> None:
        self._app = app
        self._config = config
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = _names(scope)

        async def named_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *names]
            await send(message)

        if sum(len(key) + len(value) for key, value in scope["headers"]) > self._config.head_bytes_max:
            response = plain_response(431, f"headers are at most {self._config.head_bytes_max} bytes together")
            await response(scope, receive, named_send)
        elif scope["path"] in _ALWAYS_ANSWERED:
            await self._app(scope, receive, named_send)
        elif self._in_flight >= self._config.in_flight_max:
            full = Exhausted(f"this node is answering {self._in_flight} requests, its limit", retry_after_ms=1_000)
            await response_of(full)(scope, receive, named_send)
        else:
            self._in_flight += 1
            try:
                await self._app(scope, receive, named_send)
            finally:
                self._in_flight -= 1


def _names(scope: Scope) -> list[tuple[bytes, bytes]]:
    told = {key: value for key, value in scope["headers"] if key in _NAMES and _HARMLESS.fullmatch(value)}
    told.setdefault(b"x-request-id", secrets.token_hex(16).encode("ascii"))
    return list(told.items())
