"""Pings on behalf of others, and to whom each answer goes."""

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.records import Nonce


class Relay(Value):
    asker: NodeId
    target: NodeId
    deadline_ms: Millis


class Relays:
    """At most ``limit`` under way at once."""

    def __init__(self, limit: Count) -> None:
        self._limit = limit
        self.pending: dict[Nonce, Relay] = {}

    @property
    def is_full(self) -> bool:
        return len(self.pending) >= self._limit

    def add(self, nonce: Nonce, relay: Relay) -> None:
        assert not self.is_full, "whoever adds has looked"
        self.pending[nonce] = relay

    def take(self, nonce: Nonce, target: NodeId) -> Relay | None:
        """The relay that this answer of ``target`` ends, if there is one."""
        relay = self.pending.get(nonce)
        return self.pending.pop(nonce) if relay is not None and relay.target == target else None

    def forget_old(self, at_ms: Millis) -> None:
        for nonce, relay in list(self.pending.items()):
            if at_ms >= relay.deadline_ms:
                del self.pending[nonce]
