"""Being reached from behind a router: datagrams that a reachable node forwards, and cannot read.

What is forwarded are the transport's own packets, encrypted between their ends, so a relay learns who speaks, when and
how much, and can drop it; it can neither read, change nor forge.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

from msgspec import Meta

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import SocketAddress
from wwwmarket.domain.shape import Value


class Reservation(Value):
    """``sockets``: where callers, and the tunnel, send to. ``token`` (hexadecimal) proves whose tunnel it is."""

    sockets: Annotated[tuple[SocketAddress, ...], Meta(min_length=1, max_length=4)]
    token: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class RelayHost(Protocol):
    """The side of a node that forwards for others. ``totals`` counts ``relayed_bytes_total`` and
    ``relay_dropped_total`` (datagrams).
    """

    @property
    def totals(self) -> Mapping[str, int]: ...

    @property
    def holders(self) -> int:
        """For how many nodes it forwards."""
        ...

    async def reserve(self, holder: NodeId, direct: Sequence[str]) -> Reservation | None:
        """A socket of ``holder``'s own, for as long as its tunnel says that it is alive; the same one if it asks again.

        None: it calls from one of its ``direct`` sockets, so no router stands between, and it needs no relay.

        Raises:
            Exhausted: as many as this node relays for have a socket.
            Unavailable: no socket could be opened.
        """
        ...


class Tunnel(Protocol):
    """What keeps a reservation, and carries its datagrams to this node's own transport."""

    @property
    def alive(self) -> bool:
        """Whether the relay has answered lately."""
        ...

    async def close(self) -> None: ...


class Tunnels(Protocol):
    async def open(self, reservation: Reservation) -> Tunnel:
        """Keep ``reservation``; while the tunnel is open, the transport's own address names its sockets.

        Raises:
            Unavailable: the relay does not answer at any of its sockets.
        """
        ...
