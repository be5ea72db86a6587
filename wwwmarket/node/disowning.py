"""Receipts of nothing: to a winner whose answer never came, or broke off, so that it does not claim for what it sent.

A connection that breaks leaves its two ends with two stories: a provider that sent, and a client that got nothing and
has been served, and billed, by another. The provider learns the client's story here, however long it was away, before
the time in which it may settle alone; it then settles with the receipt, which pays what the client got.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair, sign
from wwwmarket.domain.errors import Forbidden, Refusal
from wwwmarket.domain.identity import AccountId, NodeId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import NodeAddress, Receipt, Signed
from wwwmarket.domain.shape import Value
from wwwmarket.node import messages
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.store import Change, RecordStore
from wwwmarket.ports.transport import Transport

_log = logging.getLogger("wwwmarket.disowning")

DISOWNED: Final = "disowned"
WAITING_MAX: Final = 4_096
"""Receipts that nobody has taken yet; what comes beyond them is for the provider's honesty alone."""
_TIMEOUT_MS: Final = 5_000
_RETRY_FIRST_MS: Final = 500
_RETRY_MAX_MS: Final = 4_000


class DisownedAward(Value, omit_defaults=True):
    """What is kept until the provider has it, or the award is over. ``client`` None: of before it was kept."""

    receipt: Signed[Receipt]
    address: NodeAddress
    until_ms: Millis
    client: AccountId | None = None


class Disowning:
    """``to_self`` takes the receipt for an award that this node itself executed; ``key`` is what signs for an account
    now, and raises Forbidden where this node has none.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it asks of its node
        self,
        node: NodeId,
        transport: Transport,
        store: RecordStore,
        clock: Clock,
        to_self: Callable[[messages.ReceiptGiven], Awaitable[object]],
        key: Callable[[AccountId], KeyPair],
    ) -> None:
        self._node = node
        self._transport = transport
        self._store = store
        self._clock = clock
        self._to_self = to_self
        self._key = key
        self._waiting = 0
        self._news: asyncio.Queue[DisownedAward] = asyncio.Queue()

    async def disown(self, client: AccountId, receipt: Signed[Receipt], address: NodeAddress, until_ms: Millis) -> None:
        """Keep it, and tell later."""
        if self._waiting >= WAITING_MAX:
            _log.warning("award %s is not disowned: too many are", receipt.body.award)
            return
        self._waiting += 1
        award = DisownedAward(receipt=receipt, address=address, until_ms=until_ms, client=client)
        await self._store.write([Change(kind=DISOWNED, key=receipt.body.award, body=canonical.encode(award))])
        self._news.put_nowait(award)

    async def run(self) -> None:
        """Each in a task of its own, those kept from an earlier life first."""
        async with asyncio.TaskGroup() as tasks:
            for _, body in await self._store.scan(DISOWNED):
                self._waiting += 1
                tasks.create_task(self._tell(canonical.decode(body, DisownedAward)))
            while True:
                tasks.create_task(self._tell(await self._news.get()))

    async def _tell(self, award: DisownedAward) -> None:
        name, pause_ms = award.receipt.body.award, _RETRY_FIRST_MS
        while self._clock.now_ms() < award.until_ms and not await self._is_told(award):
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + pause_ms)
            pause_ms = min(2 * pause_ms, _RETRY_MAX_MS)
        await self._store.write([Change(kind=DISOWNED, key=name, body=None)])
        self._waiting -= 1

    def _renewed(self, award: DisownedAward) -> Signed[Receipt]:
        """By the key that owns the client's account now: the ledger takes no word of one that was replaced."""
        if award.client is None:
            return award.receipt
        try:
            key = self._key(award.client)
        except Forbidden:
            return award.receipt
        return award.receipt if key.account == award.receipt.signer else sign(key, award.receipt.body).signed

    async def _is_told(self, award: DisownedAward) -> bool:
        given = messages.ReceiptGiven(receipt=self._renewed(award))
        try:
            if award.address.node == self._node:
                await self._to_self(given)
                return True
            reply = await self._transport.request(award.address, canonical.encode(given), timeout_ms=_TIMEOUT_MS)
            answer = messages.read_answer(reply)
        except Refusal as refusal:
            _log.debug("award %s is not disowned yet: %s", award.receipt.body.award, refusal.message)
            return False
        return isinstance(answer, messages.Acknowledged)
