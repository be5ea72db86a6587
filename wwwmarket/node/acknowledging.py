"""The auctioneer's receipts: each provider whose ask came, or may have come late, learns what the auction came to.

Nobody waits for them: they are signed, once for a bid, and sent some time after the award, gathered for each provider.
Whom they do not reach learns nothing, and can prove nothing.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import Digest, EntryId, NodeId
from wwwmarket.domain.records import AsksReceived, Bid, NodeAddress, Signed
from wwwmarket.market.auction import JudgedAsk
from wwwmarket.node import messages
from wwwmarket.node.speaking import AccountOf
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.transport import Transport

_log = logging.getLogger("wwwmarket.acknowledging")

GATHERED_MS: Final = 500
"""How long receipts wait for others to the same providers; their auction's answer is on its way by then."""
WAITING_MAX: Final = 4_096
"""Receipts not yet sent; the oldest give way."""
SIGNED_AT_ONCE_MAX: Final = 64
"""About 3 ms of signatures, during which a node does nothing else."""
_TIMEOUT_MS: Final = 5_000
_SENDING_MAX: Final = 16

AddressOf = Callable[[EntryId], NodeAddress | None]
"""Where an offer on the ledger is asked about."""


class Acknowledging:
    """``to_self`` takes the receipts for this node's own asks, and ``address_of`` says where an offer's maker is."""

    def __init__(  # noqa: PLR0913, PLR0917 - a node's own parts
        self,
        key: KeyPair,
        transport: Transport,
        clock: Clock,
        address_of: AddressOf,
        to_self: Callable[[messages.Acknowledge], None],
        account_of: AccountOf = lambda key: key,
    ) -> None:
        self._key = key
        self._to_self = to_self
        self._account_of = account_of
        self._transport = transport
        self._clock = clock
        self._address_of = address_of
        self._waiting: deque[tuple[AsksReceived, frozenset[EntryId]]] = deque(maxlen=WAITING_MAX)
        self._news = asyncio.Event()

    def acknowledge(self, bid: Bid, judged: Sequence[JudgedAsk], award: EntryId | None) -> None:
        """Tell later, what came of an auction of this node's. ``award`` None: this node stands behind none."""
        if bid.auctioneer != NodeId(self._key.account):
            return
        name = digest(bid)
        received = AsksReceived(
            bid=name, asks=_received(name, judged, self._account_of), award=award, at_ms=self._clock.now_ms()
        )
        told = frozenset(ask.offer for ask in judged if ask.verdict != "declined")
        self._waiting.append((received, told))
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + GATHERED_MS)
            while self._waiting:
                await self._send(self._sign())
            self._news.clear()

    def _sign(self) -> dict[NodeAddress, list[Signed[AsksReceived]]]:
        mail: dict[NodeAddress, list[Signed[AsksReceived]]] = defaultdict(list)
        for _ in range(min(len(self._waiting), SIGNED_AT_ONCE_MAX)):
            received, offers = self._waiting.popleft()
            signed = signing.sign(self._key, received).signed
            for address in {self._address_of(offer) for offer in offers} - {None}:
                assert address is not None
                mail[address].append(signed)
        return mail

    async def _send(self, mail: dict[NodeAddress, list[Signed[AsksReceived]]]) -> None:
        sending = asyncio.Semaphore(_SENDING_MAX)

        async def send(address: NodeAddress, receipts: tuple[Signed[AsksReceived], ...]) -> None:
            message = messages.Acknowledge(receipts=receipts)
            if address.node == NodeId(self._key.account):
                self._to_self(message)
                return
            async with sending:
                try:
                    await self._transport.request(address, canonical.encode(message), timeout_ms=_TIMEOUT_MS)
                except Refusal as refusal:
                    _log.debug("receipts did not reach %s: %s", address.node, refusal.message)

        await asyncio.gather(
            *(
                send(address, tuple(receipts[start : start + messages.RECEIPTS_MAX]))
                for address, receipts in mail.items()
                for start in range(0, len(receipts), messages.RECEIPTS_MAX)
            )
        )


def _received(bid: Digest, judged: Sequence[JudgedAsk], account_of: AccountOf) -> tuple[Digest, ...]:
    """The asks that answer what was asked: of whom, about which offer, for this bid. Others are not acknowledged."""
    found = {
        ask.digest
        for ask in judged
        if ask.ask is not None
        and ask.digest is not None
        and (account_of(ask.ask.signer), ask.ask.body.offer, ask.ask.body.bid) == (ask.provider, ask.offer, bid)
    }
    return tuple(sorted(found))
