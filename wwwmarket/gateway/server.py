"""uvicorn inside of a running event loop, with bounds where uvicorn has none: sockets, heads, time to stop."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wwwmarket.gateway.config import GatewayConfig


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools in uvicorn, which by itself reads heads of any length for any time."""

    bounds: ClassVar[GatewayConfig]
    by_address: ClassVar[Counter[str]]
    """How many connections each address has: of one server, whose class this is."""
    _address: str | None = None
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self.by_address[self._address] += 1
        too_many = self.by_address[self._address] > self.bounds.connections_per_address_max
        if too_many or len(self.connections) > self.bounds.connections_max:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        if self._address is not None:
            self.by_address[self._address] -= 1
            if not self.by_address[self._address]:
                del self.by_address[self._address]
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what arrives in a head after its first read, so the bound is loose by one read of the transport."""
        was_in_head = self._in_head
        super().data_received(data)
        if not (was_in_head and self._in_head):
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.bounds.head_bytes_max and not self.transport.is_closing():
            self.send_400_response("The request line and headers are too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._deadline is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_here()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.bounds.head_timeout_s, self.transport.abort)

    def _head_is_here(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Embedded(uvicorn.Server):
    """Leaves signals to the program around it, and tells when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class Server:
    """Serves an application on one address. ``http`` chooses uvicorn's parser; only httptools' heads are timed."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        config: GatewayConfig,
        http: Literal["httptools", "h11"] = "httptools",
    ) -> None:
        self._address = (host, port)
        self._stop_within_s = config.shutdown_timeout_s
        self._task: asyncio.Task[None] | None = None
        self._uvicorn = _Embedded(
            uvicorn.Config(
                app,
                http=type("Bounded", (BoundedProtocol,), {"bounds": config, "by_address": Counter()})
                if http == "httptools"
                else "h11",
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=config.shutdown_timeout_s,
                h11_max_incomplete_event_size=config.head_bytes_max,
            )
        )

    async def start(self) -> int:
        """Listen, and return the port (the bound one, where 0 was asked for). Raises OSError."""
        assert self._task is None, "a server starts once"
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # asyncio turns Nagle's algorithm off only for sockets that say they are TCP, as create_server's do not: with it
        # on, the second small write of an answer waits 40 ms for the first one's acknowledgement
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(self._address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
        port = int(listener.getsockname()[1])
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))
        await self._uvicorn.listening.wait()
        return port

    async def stop(self) -> None:
        """Take no more, let answers in flight finish for ``shutdown_timeout_s``, then cancel them. Safe twice."""
        if self._task is None:
            return
        self._uvicorn.should_exit = True
        await self._task
        left = list(self._uvicorn.server_state.tasks)
        if left:
            await asyncio.wait(left, timeout=self._stop_within_s)
        for connection in list(self._uvicorn.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
