"""A provider's offer on the ledger: published, renewed before it lapses, withdrawn at the end."""

import asyncio
import logging
from collections.abc import Callable

from msgspec.structs import replace

from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.records import Offer, Withdrawal
from wwwmarket.node.node import Node

_log = logging.getLogger("wwwmarket.offering")

_RETRY_MS = 5_000


class Offering:
    """``terms`` makes the offer anew, for a validity that begins at its argument (milliseconds)."""

    def __init__(self, node: Node, terms: Callable[[int], Offer]) -> None:
        self._node = node
        self._terms = terms
        self.current: EntryId | None = None
        self._publishing = asyncio.Lock()

    async def publish(self) -> EntryId:
        """Put the offer on the ledger; what this provider had there before, and means no longer, is withdrawn.

        Raises:
            Refusal: as the contract refuses it (too little credit for the bond, too many offers).
        """
        async with self._publishing:
            return await self._publish()

    async def _publish(self) -> EntryId:
        node, own = self._node, self._node.account
        before = [name for name, listed in node.replica.state.offers().items() if node.offers(listed)]
        written = await node.author.settle(own, self._terms(node.world.clock.now_ms()))
        self.current = written.body.entry
        for name in before:
            await node.author.settle(own, Withdrawal(offer=name))
        return self.current

    async def renew_forever(self) -> None:
        """Publish again at half of each validity."""
        clock, config = self._node.world.clock, self._node.world.config
        while True:
            await clock.sleep_until_ms(clock.monotonic_ms() + config.offer_validity_ms / 2)
            await self._publish_until_done()

    async def _publish_until_done(self) -> None:
        clock = self._node.world.clock
        while self.current is not None:
            try:
                await self.publish()
            except Refusal as refusal:
                _log.warning("the offer could not be renewed: %s", refusal.message)
                await clock.sleep_until_ms(clock.monotonic_ms() + _RETRY_MS)
            else:
                return

    async def follow_address(self) -> None:
        """Publish again whenever this node has moved."""
        node = self._node
        while True:
            await node.moved.wait()
            node.moved.clear()
            await self._publish_until_done()

    async def withdraw(self) -> None:
        """Take the offer off the market."""
        node = self._node
        if self.current is None or node.replica.state.offer(self.current) is None:
            return
        name, self.current = self.current, None
        await node.author.settle(node.account, Withdrawal(offer=name))


def with_validity(offer: Offer, from_ms: int, validity_ms: int) -> Offer:
    """The same terms for another time."""
    return replace(offer, valid_from_ms=from_ms, valid_until_ms=from_ms + validity_ms)
