"""The client's tabs: opened where its node buys, one for each account and provider, and kept in step with the provider.

Performs what ``market.tab`` decides. An award is durable before it is handed over, a receipt and its voucher before
they are told. Vouchers go one after the other, over and over until the provider holds them. What a tab has no room for
is settled by itself, as if there were none.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from wwwmarket.config import TabConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.book import OpenTab, TabRow
from wwwmarket.domain.errors import Conflict, Exhausted, Forbidden, NotFound, Refusal, Stale, TooLarge, Unavailable
from wwwmarket.domain.identity import AccountId, EntryId, NodeId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis
from wwwmarket.domain.records import Attestation, Award, NodeAddress, Receipt, Signed, TabAward, TabOpening
from wwwmarket.market.tab import Kept, Payer, PaymentRule, Tally, name_of
from wwwmarket.node import messages
from wwwmarket.node.author import Author
from wwwmarket.node.speaking import AccountOf
from wwwmarket.node.tab_records import (
    BOUGHT,
    BOUGHT_AWARD,
    BOUGHT_WORK,
    BoughtAward,
    BoughtTab,
    BoughtWork,
    bought_receipts,
    number_of,
    place_of,
)
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.store import Change, LedgerStore, RecordStore

_log = logging.getLogger("wwwmarket.tabs")

DECLINED_MAX: Final = 1_024
"""Providers that are remembered for working under no tabs."""
_OVER: Final = (NotFound, Forbidden)
"""A provider's answer to a voucher after which none is taken: the tab is closed there, or was never known."""


class _Bought:
    def __init__(self, name: EntryId, terms: BoughtTab, payer: Payer, durable: Count = 0) -> None:
        self.name = name
        self.terms = terms
        self.payer = payer
        self.durable = durable
        """Receipts kept, of which the provider may hear."""
        self.cursor = 0
        """How many the provider holds, by its latest word."""
        self.usable = True
        self.told_end = False
        self.changed = asyncio.Event()


class TabsBought:
    """``ask`` puts a message to a provider's node, be it this one; ``tab`` is the ledger's word on an open tab; what
    ``spawn`` runs ends with the node.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it asks of its node
        self,
        config: TabConfig,
        author: Author,
        store: RecordStore,
        ledger: LedgerStore,
        clock: Clock,
        tab: Callable[[EntryId], OpenTab | None],
        rule: Callable[[], PaymentRule],
        account_of: AccountOf,
        available_micro: Callable[[AccountId], MicroCredits],
        ask: Callable[[NodeAddress, messages.TabCall], Coroutine[None, None, messages.Answer]],
        spawn: Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"],
        *,
        submit_timeout_ms: Millis,
    ) -> None:
        self._config = config
        self._author = author
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._tab = tab
        self._rule = rule
        self._account_of = account_of
        self._available_micro = available_micro
        self._ask = ask
        self._spawn = spawn
        self._submit_timeout_ms = submit_timeout_ms
        self._tabs: dict[EntryId, _Bought] = {}
        self._present: dict[tuple[AccountId, NodeId], _Bought] = {}
        self._opening: dict[tuple[AccountId, NodeId], asyncio.Lock] = {}
        self._declined: dict[NodeId, Millis] = {}
        self._waiting: dict[EntryId, BoughtTab] = {}

    @property
    def at_work(self) -> int:
        """Awards under all tabs that are not vouched for yet."""
        return sum(len(bought.payer.voucher.open) for bought in self._tabs.values())

    async def restore(self) -> None:
        """After a restart: each tab as it was kept, told anew from wherever its provider is."""
        work = [canonical.decode(body, BoughtWork) for _, body in await self._store.scan(BOUGHT_WORK)]
        for key, body in await self._store.scan(BOUGHT):
            name, terms = EntryId(key), canonical.decode(body, BoughtTab)
            mine = [one for one in work if one.award.body.tab == name]
            if self._tab(name) is not None:
                self._take_up(name, terms, mine, await self.receipts(name))
            elif await self._ledger.index_of(name) is not None or self._clock.now_ms() > terms.expires_ms:
                await self._forget(name, [one.award.body.number for one in mine])
            else:
                self._waiting[name] = terms

    async def sign(
        self, client: AccountId, award: Award, provider: AccountId, address: NodeAddress
    ) -> Signed[TabAward] | None:
        """The award under a tab, durable; None: it is to be settled by itself."""
        if not self._config.lock_micro or provider == client:
            return None
        for _ in range(2):
            bought = await self._present_tab(client, award, provider, address)
            if bought is None:
                return None
            try:
                signed = bought.payer.award(award).signed
            except (Exhausted, TooLarge):
                return None
            except (Conflict, Stale):
                self._end(bought)
                continue
            await self._keep_work(signed)
            return signed
        return None

    async def vouch(self, award: Signed[TabAward], attestation: Signed[Attestation], receipt: Signed[Receipt]) -> None:
        """Say what came of an award: durable on return, and told to the provider until it holds it.

        Raises:
            Conflict: that award was vouched for, or the tab is closed.
        """
        name, number = award.body.tab, award.body.number
        bought = self._tabs.get(name)
        if bought is None:
            raise Conflict("the tab of this award is closed", reason="not_open")
        index = bought.payer.voucher.count
        kept = bought.payer.vouch(number, signing.verify(attestation), signing.verify(receipt))
        await self._store.write(
            [
                Change(kind=bought_receipts(name), key=number_of(index), body=canonical.encode(kept)),
                Change(kind=BOUGHT_WORK, key=place_of(name, number), body=None),
            ]
        )
        bought.durable = max(bought.durable, index + 1)
        bought.changed.set()

    async def disown(self, award: Signed[TabAward], nothing: Signed[Receipt]) -> None:
        """Nothing came of this award: once its provider says what it did, it is vouched for with that receipt."""
        await self._keep_work(award, nothing)
        bought = self._tabs.get(award.body.tab)
        if bought is not None:
            self._spawn(self._recall(bought, award, nothing))

    async def tab_of(self, award: EntryId) -> BoughtAward | None:
        """Under which tab an award was made, by its name; None: under none."""
        body = await self._store.read(BOUGHT_AWARD, award)
        return None if body is None else canonical.decode(body, BoughtAward)

    async def receipts(self, tab: EntryId) -> list[Kept]:
        """All receipts of a tab, in their order."""
        return [canonical.decode(body, Kept) for _, body in await self._store.scan(bought_receipts(tab))]

    async def seen(self, rows: Iterable[TabRow]) -> None:
        """The ledger has opened or closed these."""
        for row in rows:
            terms, bought = self._waiting.pop(row.id, None), self._tabs.get(row.id)
            if row.value is not None and terms is not None:
                self._take_up(row.id, terms, [], [])
            elif row.value is None and bought is not None:
                self._drop(bought)
                del self._tabs[row.id]
                bought.changed.set()
                await self._forget(row.id, bought.payer.voucher.open)

    async def leave(self) -> None:
        """Have all of them settled; returns once they are, or after a while: then their providers go on alone."""
        for bought in list(self._tabs.values()):
            self._end(bought)
        until_ms = self._clock.monotonic_ms() + self._submit_timeout_ms
        while self._tabs and self._clock.monotonic_ms() < until_ms:
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + self._config.told_retry_first_ms)

    async def _present_tab(
        self, client: AccountId, award: Award, provider: AccountId, address: NodeAddress
    ) -> _Bought | None:
        place = (client, address.node)
        async with self._opening.setdefault(place, asyncio.Lock()):
            bought = self._present.get(place)
            if bought is not None and bought.usable and self._signs(bought.terms):
                return bought
            return await self._open(client, award, provider, address)

    async def _open(self, client: AccountId, award: Award, provider: AccountId, address: NodeAddress) -> _Bought | None:
        now_ms, config = self._clock.now_ms(), self._config
        lock_micro = min(config.lock_micro, self._available_micro(client) // config.share_max)
        if self._declined.get(address.node, 0) > now_ms or lock_micro < config.awards_min * award.locked_micro:
            return None
        terms = TabOpening(provider=provider, locked_micro=lock_micro, expires_ms=now_ms + config.life_ms)
        try:
            await self._accepted(address, messages.TabOffered(client=client, terms=terms))
        except Refusal as refusal:
            _log.info("no tab with %s: %s", provider, refusal.message)
            self._decline(address.node, now_ms + config.declined_ms)
            return None
        try:
            return await self._write(client, terms, address)
        except Refusal as refusal:
            _log.info("the ledger takes no tab with %s: %s", provider, refusal.message)
            return None

    def _decline(self, node: NodeId, until_ms: Millis) -> None:
        """Open no tab there for a while."""
        if len(self._declined) >= DECLINED_MAX:
            self._declined.clear()
        self._declined[node] = until_ms

    async def _write(self, client: AccountId, terms: TabOpening, address: NodeAddress) -> _Bought:
        """Raises Refusal: the ledger does not take it, or not in time."""
        kept = BoughtTab(
            client=client,
            provider=terms.provider,
            key=self._author.key(client).account,
            locked_micro=terms.locked_micro,
            expires_ms=terms.expires_ms,
            address=address,
        )
        body = canonical.encode(kept)
        written = await self._author.write(client, terms, lambda entry: Change(kind=BOUGHT, key=entry.id, body=body))
        name = written.entry.id
        self._waiting[name] = kept
        try:
            async with asyncio.timeout(self._submit_timeout_ms / 1_000):
                await asyncio.shield(written.inclusion)
        except TimeoutError:
            raise Unavailable("the ledger has not taken the tab in time", retry_after_ms=1_000) from None
        except Refusal:
            self._waiting.pop(name, None)
            await self._forget(name, ())
            raise
        if self._waiting.pop(name, None) is not None:
            self._take_up(name, kept, [], [])
        return self._tabs[name]

    def _take_up(self, name: EntryId, terms: BoughtTab, work: list[BoughtWork], kept: list[Kept]) -> None:
        """A tab that is open on the ledger, over what was kept of it."""
        opened = OpenTab(
            client=terms.client,
            provider=terms.provider,
            locked_micro=terms.locked_micro,
            expires_ms=terms.expires_ms,
            key=terms.key,
        )
        if not self._signs(terms):
            _log.warning("tab %s stays as it is: this node has not the key that opened it", name)
            return
        key, tally = self._author.key(terms.client), Tally(name, opened, self._rule())
        payer = Payer.restore(key, tally, kept, [one.award for one in work])
        bought = self._tabs[name] = _Bought(name, terms, payer, durable=len(kept))
        self._present[terms.client, terms.address.node] = bought
        self._spawn(self._tell(bought))
        for one in work:
            if one.nothing is not None:
                self._spawn(self._recall(bought, one.award, one.nothing))

    def _signs(self, terms: BoughtTab) -> bool:
        return self._author.signs_for(terms.client) and self._author.key(terms.client).account == terms.key

    def _end(self, bought: _Bought) -> None:
        """Nothing more under this tab; its provider is asked to settle it."""
        self._drop(bought)
        bought.changed.set()

    def _drop(self, bought: _Bought) -> None:
        bought.usable = False
        place = (bought.terms.client, bought.terms.address.node)
        if self._present.get(place) is bought:
            del self._present[place]

    async def _keep_work(self, award: Signed[TabAward], nothing: Signed[Receipt] | None = None) -> None:
        tab, number = award.body.tab, award.body.number
        work = BoughtWork(award=award, nothing=nothing)
        named = BoughtAward(tab=tab, number=number)
        await self._store.write(
            [
                Change(kind=BOUGHT_WORK, key=place_of(tab, number), body=canonical.encode(work)),
                Change(kind=BOUGHT_AWARD, key=name_of(award.body), body=canonical.encode(named)),
            ]
        )

    async def _forget(self, name: EntryId, numbers: Iterable[Count]) -> None:
        """All but the receipts."""
        work = [Change(kind=BOUGHT_WORK, key=place_of(name, number), body=None) for number in numbers]
        await self._store.write([Change(kind=BOUGHT, key=name, body=None), *work])

    async def _tell(self, bought: _Bought) -> None:
        """Vouchers, one after the other, and the end, until the tab is closed."""
        pause_ms = self._config.told_retry_first_ms
        while bought.name in self._tabs:
            bought.changed.clear()
            if bought.cursor >= bought.durable and (bought.usable or bought.told_end):
                await bought.changed.wait()
                continue
            try:
                await self._tell_next(bought)
                pause_ms = self._config.told_retry_first_ms
            except Unavailable as refusal:
                _log.debug("tab %s: %s", bought.name, refusal.message)
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + pause_ms)
                pause_ms = min(2 * pause_ms, self._config.told_retry_max_ms)
            except Refusal as refusal:
                level = logging.INFO if isinstance(refusal, _OVER) else logging.WARNING
                _log.log(level, "tab %s is told no further: %s", bought.name, refusal.message)
                self._drop(bought)
                bought.told_end = True
                if self._tab(bought.name) is not None:
                    self._decline(bought.terms.address.node, bought.terms.expires_ms)
                return

    async def _tell_next(self, bought: _Bought) -> None:
        """Raises Refusal."""
        if bought.cursor < bought.durable:
            body = await self._store.read(bought_receipts(bought.name), number_of(bought.cursor))
            assert body is not None, "what is durable can be read"
            answer = await self._ask(bought.terms.address, messages.Vouch(kept=canonical.decode(body, Kept)))
            if not isinstance(answer, messages.Vouched):
                raise _refusal_in(answer)
            before, bought.cursor = bought.cursor, min(answer.count, bought.durable)
            bought.payer.is_heard(bought.cursor)
            if bought.cursor <= before:
                raise Unavailable("the provider lacks what it is to have heard", retry_after_ms=1_000)
            return
        end = signing.sign(self._author.key(bought.terms.client), messages.TabEnd(tab=bought.name)).signed
        await self._accepted(bought.terms.address, messages.EndTab(end=end))
        bought.told_end = True

    async def _recall(self, bought: _Bought, award: Signed[TabAward], nothing: Signed[Receipt]) -> None:
        """Until the provider says what it did: while it is at work, or cannot be reached, it is asked again."""
        pause_ms, until_ms = self._config.told_retry_first_ms, bought.terms.expires_ms
        while bought.name in self._tabs and self._clock.now_ms() < until_ms:
            try:
                answer = await self._ask(bought.terms.address, messages.Recall(award=award))
                if not isinstance(answer, messages.Recalled):
                    raise _refusal_in(answer)
                said = signing.verify(answer.attestation)
                if self._account_of(said.by) != bought.terms.provider:
                    raise Forbidden("the attestation is not by the tab's provider")
                await self.vouch(award, said.signed, nothing)
            except (Unavailable, Conflict) as refusal:
                if isinstance(refusal, Conflict) and refusal.reason != "at_work":
                    _log.info("award %s stays open under its tab: %s", name_of(award.body), refusal.message)
                    return
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + pause_ms)
                pause_ms = min(2 * pause_ms, self._config.told_retry_max_ms)
            except Refusal as refusal:
                _log.info("award %s stays open under its tab: %s", name_of(award.body), refusal.message)
                return
            else:
                return

    async def _accepted(self, address: NodeAddress, message: messages.TabCall) -> None:
        """Raises Refusal: the answer is another than yes."""
        answer = await self._ask(address, message)
        if not isinstance(answer, messages.Acknowledged):
            raise _refusal_in(answer)


def _refusal_in(answer: messages.Answer) -> Refusal:
    if isinstance(answer, messages.Refused):
        return messages.as_refusal(answer)
    return Forbidden("the provider answered with something else")
