"""Forwards datagrams to nodes that no caller can reach, each at a UDP socket of its own."""

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, cast

from wwwmarket.adapters.transport import sockets
from wwwmarket.adapters.transport.datagrams import (
    ALIVE,
    FLOW_BYTES,
    Meter,
    RelayLimits,
    Socket,
    flow_of,
    read_alive,
    with_flow,
)
from wwwmarket.adapters.transport.endpoint import IrohTransport
from wwwmarket.domain.errors import Exhausted, Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.ports.relay import Reservation

_Address = tuple[str, int]
_TOKEN_BYTES: Final = 32
_RETRY_MS: Final = 10_000
_ADDRESSES_MAX: Final = 4
_DEFAULT: Final = RelayLimits()


class _Socket(asyncio.DatagramProtocol):
    """One holder's socket: what its tunnel sends goes to callers, what anybody else sends goes to the tunnel.

    A flow is a caller's address. The tunnel's end moves where the latest liveness comes from, as routers' mappings do.
    """

    def __init__(self, limits: RelayLimits, totals: Counter[str], now_s: Callable[[], float]) -> None:
        self.token: Final = secrets.token_bytes(_TOKEN_BYTES)
        self.heard_s = now_s()
        self._limits, self._totals, self._now_s = limits, totals, now_s
        self._meter = Meter(limits, now_s())
        self._counter = -1
        self._tunnel: _Address | None = None
        self._flows: OrderedDict[_Address, int] = OrderedDict()
        self._callers: dict[int, _Address] = {}
        self._seen_s: dict[int, float] = {}
        self._last_flow = ALIVE
        self._transport: Socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("Socket", transport)

    def error_received(self, exc: Exception) -> None:
        """A caller that is gone; QUIC's ends find out by themselves."""

    def datagram_received(self, data: bytes, addr: _Address) -> None:
        flow = flow_of(data)
        if flow == ALIVE and self._hear_tunnel(data, addr):
            return
        if self._tunnel is None:
            return
        if addr != self._tunnel:
            number = self._flow_of(addr)
            if number is not None:
                self._send(with_flow(number, data), self._tunnel)
        elif flow in self._callers:
            self._touch(self._callers[flow])
            self._send(data[FLOW_BYTES:], self._callers[flow])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _hear_tunnel(self, data: bytes, addr: _Address) -> bool:
        counter = read_alive(self.token, data)
        if counter is None or counter <= self._counter:
            return False
        self._counter, self._tunnel, self.heard_s = counter, addr, self._now_s()
        self._send(data, addr)
        return True

    def _flow_of(self, caller: _Address) -> int | None:
        """The caller's flow; a new one takes the place of the quietest, if that has been quiet for long."""
        if caller not in self._flows:
            if len(self._flows) >= self._limits.flows_max and not self._forget_quietest():
                return None
            self._last_flow = self._last_flow % 0xFFFF_FFFF + 1
            self._flows[caller] = self._last_flow
            self._callers[self._last_flow] = caller
        self._touch(caller)
        return self._flows[caller]

    def _touch(self, caller: _Address) -> None:
        self._flows.move_to_end(caller)
        self._seen_s[self._flows[caller]] = self._now_s()

    def _forget_quietest(self) -> bool:
        caller, flow = next(iter(self._flows.items()))
        if self._now_s() - self._seen_s[flow] < self._limits.flow_idle_s:
            return False
        del self._flows[caller], self._callers[flow], self._seen_s[flow]
        return True

    def _send(self, data: bytes, addr: _Address) -> None:
        assert self._transport is not None
        full = self._transport.get_write_buffer_size() > self._limits.backlog_bytes
        if full or not self._meter.admits(len(data), self._now_s()):
            self._totals["relay_dropped_total"] += 1
            return
        self._totals["relayed_bytes_total"] += len(data)
        self._transport.sendto(data, addr)


class UdpRelayHost:
    """Implements ``ports.relay.RelayHost`` beside a transport, at sockets of ``ports`` (inclusive; None: any free one).

    A node has one socket, by its key; keys are free, so the number of all is bounded too.
    """

    def __init__(
        self,
        transport: IrohTransport,
        bind_host: str,
        ports: tuple[int, int] | None = None,
        limits: RelayLimits = _DEFAULT,
    ) -> None:
        self._totals: Final = Counter[str]()
        self._transport, self._bind_host, self._ports, self._limits = transport, bind_host, ports, limits
        self._now_s = asyncio.get_running_loop().time
        self._held: dict[NodeId, tuple[_Socket, Reservation]] = {}

    @property
    def totals(self) -> Counter[str]:
        return self._totals

    @property
    def holders(self) -> int:
        return len(self._held)

    async def reserve(self, holder: NodeId, direct: Sequence[str]) -> Reservation | None:
        """See ``ports.relay.RelayHost``."""
        if self._transport.seen_at(holder) in direct:
            return None
        self._forget_silent()
        if holder not in self._held:
            if len(self._held) >= self._limits.holders_max:
                raise Exhausted("this node relays for as many as it can", retry_after_ms=_RETRY_MS)
            await self._open(holder)
        return self._held[holder][1]

    async def close(self) -> None:
        for socket, _ in self._held.values():
            socket.close()
        self._held.clear()

    def _forget_silent(self) -> None:
        for holder, (socket, _) in list(self._held.items()):
            if self._now_s() - socket.heard_s > self._limits.silent_s:
                socket.close()
                del self._held[holder]

    async def _open(self, holder: NodeId) -> None:
        socket = _Socket(self._limits, self._totals, self._now_s)
        loop = asyncio.get_running_loop()
        for port in range(self._ports[0], self._ports[1] + 1) if self._ports else (0,):
            with suppress(OSError):
                transport, _ = await loop.create_datagram_endpoint(lambda: socket, local_addr=(self._bind_host, port))
                break
        else:
            raise Unavailable("no port is free to relay at", retry_after_ms=_RETRY_MS)
        bound: int = transport.get_extra_info("sockname")[1]
        hosts = dict.fromkeys(sockets.split(text)[0] for text in self._transport.address().sockets)
        reachable = tuple(sockets.join(host, bound) for host in hosts if ":" not in host)
        if not reachable:
            socket.close()
            raise Unavailable("this node has no IPv4 address to relay at", retry_after_ms=_RETRY_MS)
        self._held[holder] = (socket, Reservation(sockets=reachable[:_ADDRESSES_MAX], token=socket.token.hex()))
