"""Being called from behind a router: reserves sockets at nodes that relay, and moves on when one of them dies.

Every node keeps as many tunnels as the configuration says, where routers stand before it. Whom to ask, the overlay
knows: the nearest first, since every packet takes the detour until a direct path is found.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from wwwmarket.config import RelayConfig
from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import NodeAddress
from wwwmarket.node import messages
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.relay import Tunnel, Tunnels
from wwwmarket.ports.transport import Transport

_log = logging.getLogger("wwwmarket.relaying")


class Relaying:
    """``known``: whom this node knows, nearest first. ``moved`` is told when the node's own address has changed.

    ``always``: a relay is wanted also by a node that is seen at a socket of its own, as behind a firewall.
    """

    def __init__(  # noqa: PLR0913 - what it stands on
        self,
        transport: Transport,
        tunnels: Tunnels,
        clock: Clock,
        config: RelayConfig,
        *,
        known: Callable[[], Sequence[NodeAddress]],
        moved: Callable[[], None],
        always: bool,
    ) -> None:
        self._transport, self._tunnels, self._clock, self._config = transport, tunnels, clock, config
        self._known, self._moved, self._always = known, moved, always
        self._direct: Final = transport.address().sockets
        self._kept: dict[NodeId, Tunnel] = {}
        self._not_before_ms: dict[NodeId, Millis] = {}

    @property
    def relays(self) -> tuple[NodeId, ...]:
        """Who relays for this node now."""
        return tuple(self._kept)

    async def run(self) -> None:
        """Look after the tunnels until cancelled."""
        try:
            while True:
                lost = await self._drop_dead()
                if await self._fill() or lost:
                    self._moved()
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + self._config.look_ms)
        finally:
            for tunnel in self._kept.values():
                await tunnel.close()

    async def _drop_dead(self) -> bool:
        dead = [node for node, tunnel in self._kept.items() if not tunnel.alive]
        for node in dead:
            _log.warning("the relay at %s is gone", node)
            await self._kept.pop(node).close()
            self._wait(node)
        return bool(dead)

    async def _fill(self) -> bool:
        """Ask whoever was not asked lately, until there are enough. Whether there is one more."""
        before = len(self._kept)
        now_ms = self._clock.now_ms()
        self._not_before_ms = {node: at_ms for node, at_ms in self._not_before_ms.items() if at_ms > now_ms}
        for address in self._known():
            if len(self._kept) >= self._config.tunnels:
                break
            if address.node not in self._kept and address.node not in self._not_before_ms:
                await self._reserve(address)
        return len(self._kept) > before

    async def _reserve(self, address: NodeAddress) -> None:
        self._wait(address.node)
        wanted = messages.ReserveRelay(direct=() if self._always else self._direct)
        try:
            answer = messages.read_answer(
                await self._transport.request(address, canonical.encode(wanted), timeout_ms=self._config.ask_timeout_ms)
            )
            if not isinstance(answer, messages.RelayReserved) or answer.reservation is None:
                return
            self._kept[address.node] = await self._tunnels.open(answer.reservation)
        except Refusal as refusal:
            _log.debug("%s does not relay: %s", address.node, refusal.message)
        else:
            _log.info("reachable through the relay of %s", address.node)

    def _wait(self, node: NodeId) -> None:
        self._not_before_ms[node] = self._clock.now_ms() + self._config.ask_again_ms
