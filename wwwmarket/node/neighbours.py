"""Drives the overlay: ticks it, carries its messages, and knows who is near and alive when an auction asks.

Offers on the ledger say who sells; the overlay says who of them answers now. A node that the overlay does not know is
asked too, but last.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Refusal, Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.records import NodeAddress
from wwwmarket.overlay import events
from wwwmarket.overlay.membership import Membership
from wwwmarket.overlay.neighbours import Neighbourhood, S
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import Message, read_message
from wwwmarket.overlay.register import Profile
from wwwmarket.overlay.trust import Trust
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.ports.transport import Transport

_log = logging.getLogger("wwwmarket.neighbours")

_TIMEOUT_MS: Final = 1_000
_CHANCE_BYTES: Final = 32


class Neighbours:
    def __init__(
        self,
        key: KeyPair,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        contacts: Sequence[NodeAddress],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._params = OverlayParams()
        self._profile = Profile(address=transport.address())
        self._machine = Membership(
            key,
            self._profile,
            contacts,
            at_ms=clock.now_ms(),
            chance=entropy.bytes(_CHANCE_BYTES),
            params=self._params,
        )
        self._known = Neighbourhood(members=(), reserves=())
        self._trust = Trust()
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def known(self) -> Neighbourhood:
        """Who was near and alive at the last tick."""
        return self._known

    async def run(self) -> None:
        """Joins, then ticks until cancelled."""
        self._step(events.Started(at_ms=self._clock.now_ms()))
        while True:
            chance = self._entropy.bytes(_CHANCE_BYTES)
            self._step(events.Ticked(at_ms=self._clock.now_ms(), chance=chance))
            self._known = self._machine.neighbourhood()
            self._measure()
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + self._params.tick_ms)

    def serve(self, models: Sequence[ModelName]) -> None:
        """Say which models this node serves."""
        self._profile = Profile(address=self._transport.address(), serves=tuple(sorted(models)))
        self._step(events.Described(at_ms=self._clock.now_ms(), profile=self._profile))

    def hear(self, peer: NodeId, message: Message, size_bytes: int) -> bytes:
        """A peer's message; its answer, empty where none is due."""
        arrived = events.MessageArrived(at_ms=self._clock.now_ms(), peer=peer, message=message, size_bytes=size_bytes)
        reply = self._step(arrived)
        return b"" if reply is None else canonical.encode(reply)

    async def leave(self) -> None:
        """Say farewell, and wait until it is said."""
        self._step(events.LeaveRequested(at_ms=self._clock.now_ms()))
        if self._sending:
            await asyncio.wait(self._sending, timeout=_TIMEOUT_MS / 1_000)

    async def close(self) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    def order(self, sited: Sequence[S]) -> list[S]:
        """The same, given in random order: one near neighbour first, the living before the rest, and last of all those
        by whom this node was let down.
        """
        return self._trust.order(self._known.order(sited), self._clock.now_ms())

    def let_down_by(self, node: NodeId) -> None:
        """It broke a promise, or did not answer a bid."""
        self._trust.failed(node, self._clock.now_ms())

    def served_by(self, node: NodeId) -> None:
        self._trust.kept(node)

    def _measure(self) -> None:
        for member in self._known.members:
            round_trip_ms = self._transport.round_trip_ms(member.node)
            if round_trip_ms is not None:
                now_ms = self._clock.now_ms()
                measured = events.RoundTripMeasured(
                    at_ms=now_ms, peer=member.node, round_trip_ms=max(0, round(round_trip_ms))
                )
                self._step(measured)

    def _step(self, event: events.Event) -> Message | None:
        reply: Message | None = None
        for effect in self._machine.step(event):
            match effect:
                case events.Send():
                    self._spawn(effect)
                case events.Reply():
                    reply = effect.message
                case events.ViewChanged():
                    added = [one.address.node[:8] for one in effect.added]
                    _log.debug("neighbours: %s joined, %s left", added, [node[:8] for node in effect.removed])
                case events.Left():
                    pass
        return reply

    def _spawn(self, effect: events.Send) -> None:
        task = asyncio.create_task(self._send(effect))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, effect: events.Send) -> None:
        try:
            answer = await self._transport.request(effect.to, canonical.encode(effect.message), timeout_ms=_TIMEOUT_MS)
        except Unavailable:
            self._step(events.PeerUnreachable(at_ms=self._clock.now_ms(), peer=effect.to.node))
            return
        except Refusal as refusal:
            _log.debug("an overlay message was not sent: %s", refusal.message)
            return
        if answer:
            try:
                self.hear(effect.to.node, read_message(answer), len(answer))
            except Refusal as refusal:
                _log.debug("%s answered nonsense: %s", effect.to.node, refusal.message)
