"""What passes between a relay and the tunnel of a node that it relays for.

A datagram is a flow number (4 bytes, big-endian), and then the caller's own datagram, whole. Flow 0 is the tunnel's
liveness: a counter (8 bytes, big-endian, only ever rising) and its keyed BLAKE2b (32 bytes, RFC 7693) under the
reservation's token. The relay sends the same bytes back. So only who has the token can say where a tunnel's end is, and
what was said once cannot be said again.
"""

import hmac
from hashlib import blake2b
from typing import Final, Protocol

from msgspec import Struct

FLOW_BYTES: Final = 4
ALIVE: Final = 0
_COUNTER_BYTES: Final = 8
_MAC_BYTES: Final = 32


class Socket(Protocol):
    """A datagram transport of asyncio or uvloop; typeshed has no ``get_write_buffer_size`` for it."""

    def sendto(self, data: bytes, addr: tuple[str, int] | None = None) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def close(self) -> None: ...


def with_flow(flow: int, datagram: bytes) -> bytes:
    return flow.to_bytes(FLOW_BYTES, "big") + datagram


def flow_of(datagram: bytes) -> int | None:
    """None: too short to be of a tunnel."""
    return int.from_bytes(datagram[:FLOW_BYTES], "big") if len(datagram) >= FLOW_BYTES else None


def alive(token: bytes, counter: int) -> bytes:
    """The datagram that says that a tunnel's end is where it comes from."""
    numbered = counter.to_bytes(_COUNTER_BYTES, "big")
    return with_flow(ALIVE, numbered + blake2b(numbered, key=token, digest_size=_MAC_BYTES).digest())


def read_alive(token: bytes, datagram: bytes) -> int | None:
    """The counter; None for what does not have the token."""
    counter = int.from_bytes(datagram[FLOW_BYTES : FLOW_BYTES + _COUNTER_BYTES], "big")
    return counter if hmac.compare_digest(datagram, alive(token, counter)) else None


class RelayLimits(Struct, frozen=True, kw_only=True):
    """What relaying may cost. A relay decides for itself; the defaults carry some hundred answers at once."""

    holders_max: int = 32
    """Nodes that are relayed for at once."""
    flows_max: int = 128
    """Callers of one holder at once; each is a neighbour or a gateway."""
    bytes_per_s: int = 4_000_000
    """Of one holder, both directions together; QUIC slows down when more is dropped."""
    burst_bytes: int = 1_000_000
    backlog_bytes: int = 1_000_000
    """What may wait in a socket that cannot be written; datagrams beyond it are dropped."""
    flow_idle_s: float = 60.0
    """QUIC's ends ping each other every second: a flow as quiet as this is gone."""
    alive_every_s: float = 2.0
    """Keeps a router's mapping, which RFC 4787 lets go after two minutes and many routers after half of one."""
    silent_s: float = 7.0
    """Three liveness datagrams lost in a row, and a tunnel counts as dead, on both sides."""


class Meter:
    """A token bucket: ``bytes_per_s`` on average, ``burst_bytes`` at once."""

    def __init__(self, limits: RelayLimits, now_s: float) -> None:
        self._limits = limits
        self._left: float = limits.burst_bytes
        self._at_s = now_s

    def admits(self, size: int, now_s: float) -> bool:
        earned = (now_s - self._at_s) * self._limits.bytes_per_s
        self._left, self._at_s = min(self._limits.burst_bytes, self._left + earned), now_s
        if self._left < size:
            return False
        self._left -= size
        return True
