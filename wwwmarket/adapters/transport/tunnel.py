"""The inner end of a relay's tunnel: from behind a router out to the relay, and on to this node's own QUIC socket."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Self, cast

from wwwmarket.adapters.transport import sockets
from wwwmarket.adapters.transport.datagrams import (
    ALIVE,
    FLOW_BYTES,
    RelayLimits,
    Socket,
    alive,
    flow_of,
    read_alive,
    with_flow,
)
from wwwmarket.adapters.transport.endpoint import IrohTransport
from wwwmarket.domain.errors import Unavailable
from wwwmarket.ports.relay import Reservation

_Address = tuple[str, int]
_ANSWER_S: Final = 2.0
"""How long a relay may take to answer for the first time."""
_RETRY_MS: Final = 5_000
_EARLY_MAX: Final = 16
"""Datagrams of a flow whose socket is opening: QUIC's first flight has ten (RFC 9002, section 7.2), and what is dropped
it sends again."""
_DEFAULT: Final = RelayLimits()


class _Outer(asyncio.DatagramProtocol):
    """Towards the relay."""

    def __init__(self, token: bytes, heard: Callable[[], None], carried: Callable[[int, bytes], None]) -> None:
        self._token, self._heard, self._carried = token, heard, carried

    def datagram_received(self, data: bytes, addr: _Address) -> None:  # noqa: ARG002 - connected: always the relay's
        flow = flow_of(data)
        if flow == ALIVE:
            if read_alive(self._token, data) is not None:
                self._heard()
        elif flow is not None:
            self._carried(flow, data[FLOW_BYTES:])

    def error_received(self, exc: Exception) -> None:
        """Nobody is there: silence says so soon enough."""


class _Inner(asyncio.DatagramProtocol):
    """Towards the transport, for one flow: to it every caller has an address of its own."""

    def __init__(self, flow: int, said: Callable[[bytes], None]) -> None:
        self._flow, self._said = flow, said
        self._transport: Socket | None = None
        self._early: list[bytes] = []
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._closed:
            transport.close()
            return
        self._transport = cast("Socket", transport)
        for datagram in self._early:
            self._transport.sendto(datagram)
        self._early.clear()

    def send(self, datagram: bytes, backlog_bytes: int) -> None:
        if self._transport is None:
            if len(self._early) < _EARLY_MAX:
                self._early.append(datagram)
        elif self._transport.get_write_buffer_size() <= backlog_bytes:
            self._transport.sendto(datagram)

    def datagram_received(self, data: bytes, addr: _Address) -> None:  # noqa: ARG002 - connected
        self._said(with_flow(self._flow, data))

    def error_received(self, exc: Exception) -> None:
        """The transport is closing."""

    def close(self) -> None:
        """Also where the socket has yet to open."""
        self._closed = True
        self._early.clear()
        if self._transport is not None:
            self._transport.close()


class UdpTunnel:
    """Implements ``ports.relay.Tunnel``."""

    def __init__(self, reservation: Reservation, inward: _Address, limits: RelayLimits) -> None:
        self._token = bytes.fromhex(reservation.token)
        self._inward, self._limits = inward, limits
        self._now_s = asyncio.get_running_loop().time
        self._heard_s = -limits.silent_s
        self._answered = asyncio.Event()
        self._flows: OrderedDict[int, _Inner] = OrderedDict()
        self._opening: set[asyncio.Task[None]] = set()
        self._outer: Socket | None = None
        self._beat: asyncio.Task[None] | None = None
        self._closed: Callable[[], None] = lambda: None

    @classmethod
    async def open(cls, reservation: Reservation, inward: _Address, limits: RelayLimits = _DEFAULT) -> Self:
        """Raises Unavailable: the relay does not answer at any of its sockets."""
        for relay in await sockets.resolve(reservation.sockets):
            tunnel = cls(reservation, inward, limits)
            try:
                await tunnel._start(sockets.split(relay))
            except (OSError, TimeoutError):
                await tunnel.close()
            else:
                return tunnel
        raise Unavailable("the relay does not answer", retry_after_ms=_RETRY_MS)

    @property
    def alive(self) -> bool:
        return self._now_s() - self._heard_s <= self._limits.silent_s

    def when_closed(self, do: Callable[[], None]) -> None:
        self._closed = do

    async def close(self) -> None:
        tasks = [task for task in (self._beat, *self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()
        if self._outer is not None:
            self._outer.close()
        self._closed()

    async def _start(self, relay: _Address) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Outer(self._token, self._hear, self._carry_in), remote_addr=relay
        )
        self._outer = cast("Socket", transport)
        self._beat = asyncio.create_task(self._keep_alive())
        async with asyncio.timeout(_ANSWER_S):
            await self._answered.wait()

    def _hear(self) -> None:
        self._heard_s = self._now_s()
        self._answered.set()

    async def _keep_alive(self) -> None:
        """The first datagrams come close together, since one may be lost; the loop's clock only ever rises."""
        pause_s = _ANSWER_S / 8
        while True:
            self._carry_out(alive(self._token, int(self._now_s() * 1_000_000)))
            await asyncio.sleep(self._limits.alive_every_s if self._answered.is_set() else pause_s)

    def _carry_out(self, datagram: bytes) -> None:
        if self._outer is not None and self._outer.get_write_buffer_size() <= self._limits.backlog_bytes:
            self._outer.sendto(datagram)

    def _carry_in(self, flow: int, datagram: bytes) -> None:
        inner = self._flows.get(flow)
        if inner is None:
            if len(self._opening) >= self._limits.flows_max:
                return
            inner = self._flows[flow] = _Inner(flow, self._carry_out)
            task = asyncio.create_task(self._open_flow(flow, inner))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            while len(self._flows) > self._limits.flows_max:
                _, quietest = self._flows.popitem(last=False)
                quietest.close()
        self._flows.move_to_end(flow)
        inner.send(datagram, self._limits.backlog_bytes)

    async def _open_flow(self, flow: int, inner: _Inner) -> None:
        try:
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: inner, remote_addr=self._inward)
        except OSError:
            if self._flows.get(flow) is inner:
                del self._flows[flow]


class RelayTunnels:
    """Implements ``ports.relay.Tunnels`` for one transport."""

    def __init__(self, transport: IrohTransport, limits: RelayLimits = _DEFAULT) -> None:
        self._transport, self._limits = transport, limits

    async def open(self, reservation: Reservation) -> UdpTunnel:
        tunnel = await UdpTunnel.open(reservation, self._transport.inward(), self._limits)
        self._transport.name_also(reservation.sockets)
        tunnel.when_closed(lambda: self._transport.name_no_more(reservation.sockets))
        return tunnel
