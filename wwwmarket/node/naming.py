"""Purchases under a name of their client's (``Idempotency-Key``): bought once, also over a crash of this node.

The name is kept with its award before that award is sent anywhere. So a repeat that comes after a crash finds what
became of the first: it waits while that is open, is refused where that was paid for, and is bought where nothing was.
"""

from typing import Final, TypeVar

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import tagged
from wwwmarket.crypto.signing import VerifiedEntry
from wwwmarket.domain.errors import NotFound, Reused, Stale, Unavailable
from wwwmarket.domain.identity import Digest, EntryId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import Award, Settlement
from wwwmarket.domain.shape import Record, Value
from wwwmarket.node.author import Keep
from wwwmarket.node.replica import Replica
from wwwmarket.node.service import Purchase
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.store import Change, LedgerStore, RecordStore

T = TypeVar("T", bound=Record)

NAMED: Final = "named-purchase"
KEPT_MS: Final = 24 * 3_600_000
"""A name stands for its request for a day at least: nobody repeats for longer without looking."""
_RETRY_MS: Final = 2_000
_PARAM: Final = "idempotency-key"


class NamedPurchase(Value):
    """``request`` is the digest of what was asked for; ``award`` the latest that was made for it."""

    request: Digest
    award: EntryId
    at_ms: Millis


class Names:
    def __init__(self, store: RecordStore, ledger: LedgerStore, replica: Replica, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._replica = replica
        self._clock = clock

    async def forget_old(self) -> None:
        """Names of more than a day ago."""
        before_ms = self._clock.now_ms() - KEPT_MS
        old = [
            Change(kind=NAMED, key=key, body=None)
            for key, body in await self._store.scan(NAMED)
            if canonical.decode(body, NamedPurchase).at_ms < before_ms
        ]
        if old:
            await self._store.write(old)

    async def check(self, purchase: Purchase) -> None:
        """Whether a purchase may be made under its name, if it has one.

        Raises:
            Reused: the name stands for another request.
            Unavailable: the first one's award is still open.
            Stale: the first one was paid for, and its answer is not kept.
        """
        body = None if purchase.name is None else await self._store.read(NAMED, _key(purchase))
        if body is None:
            return
        known = canonical.decode(body, NamedPurchase)
        if known.request != _digest(purchase):
            raise Reused(
                "this Idempotency-Key stands for another request of yours; send a new key, or exactly the same request",
                param=_PARAM,
                reason="idempotency_key_reused",
            )
        if self._replica.state.award(known.award) is not None:
            raise Unavailable(
                f"this request was cut off as award {known.award}, which is not settled yet", retry_after_ms=_RETRY_MS
            )
        if await self._was_paid(known.award):
            raise Stale(
                f"this request was delivered and charged as award {known.award}, and its answer is not kept; to buy "
                "another one, send a new Idempotency-Key",
                param=_PARAM,
                reason="answer_not_kept",
            )

    def keep(self, purchase: Purchase) -> Keep | None:
        """What makes the record that is written before an award of this purchase is sent."""
        if purchase.name is None:
            return None

        def record(entry: VerifiedEntry) -> Change:
            named = NamedPurchase(request=_digest(purchase), award=entry.id, at_ms=self._clock.now_ms())
            return Change(kind=NAMED, key=_key(purchase), body=canonical.encode(named))

        return record

    async def forget(self, purchase: Purchase) -> None:
        """Nothing came of it, and nobody is paid for it: it can be tried again."""
        if purchase.name is not None:
            await self._store.write([Change(kind=NAMED, key=_key(purchase), body=None)])

    async def _was_paid(self, name: EntryId) -> bool:
        try:
            settled_by = self._replica.settlement_of(name)
        except NotFound:
            return False
        index = await self._ledger.index_of(name)
        assert index is not None, "what is settled was awarded"
        award, settlement = await self._read(index, Award), await self._read(settled_by, Settlement)
        receipt = None if settlement.receipt is None else settlement.receipt.body
        return self._replica.state.rules.settlement.payment(award, settlement.attestation.body, receipt) > 0

    async def _read(self, index: int, kind: type[T]) -> T:
        (leaf,) = await self._ledger.read(index, index + 1)
        return canonical.decode(bytes(signing.open_entry(leaf).entry.body), kind, bytes_max=canonical.ENTRY_BYTES_MAX)


def _key(purchase: Purchase) -> str:
    return f"{purchase.account}/{purchase.name}"


def _digest(purchase: Purchase) -> Digest:
    return tagged("named-purchase/v1", purchase.path.encode() + b"\n" + purchase.request)
